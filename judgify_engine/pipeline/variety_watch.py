"""Tells whose verdicts are so many that the figures by result grow with every judgment. It changes nothing."""

import logging
from collections.abc import Sequence

from judgify_engine.core.model import Change
from judgify_engine.core.rollup import Delta
from judgify_engine.core.variety import MANY_RESULTS, Variety
from judgify_engine.observe.metrics import Metrics

log = logging.getLogger(__name__)


class VarietyWatch:
    """A `ChangeSink`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self._variety = metrics, Variety()

    def rolled_up(self, delta: Delta, workflows: Sequence[Change]) -> None:
        """Look at the results that came."""
        for tenant_id, hour_s in self._variety.add(delta.results):
            self._metrics.many_results += 1
            facts = {"tenant": tenant_id, "hour": hour_s, "results": MANY_RESULTS}
            log.warning("a tenant has more different results in an hour than figures by result are for", extra=facts)
