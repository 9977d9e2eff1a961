"""What evaluates rules of a kind: the seam between kinds of rules, and what becomes of what they see.

An evaluator is given all rules of its kind at once, so that it reads the figures of all tenants together, and gives
observations in event time. It decides nothing: whether something fires follows from them (core/alert_state), and it keeps
nothing but `memory`, which is stored with the state in the same transaction.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol

from judgify_engine.core.alert_changes import ActiveRule, Cause, Known, Seen


class Span(NamedTuple):
    """What is to be evaluated: all after the last evaluation, up to where the rollups are known to be whole."""

    through_s: float
    """Unix seconds of the last evaluation; `NEVER`: there was none."""
    covered_s: float
    """All that was committed before this is in the rollups."""
    instants: Sequence[int]
    """Moments between the two at which to look at windows, ascending, the last one as near to `covered_s` as may be."""
    workflows: Mapping[str, int] = MappingProxyType({})
    """How many each tenant has."""


class Evaluator(Protocol):
    """Evaluates all rules of one kind."""

    async def observe(self, rules: Sequence[ActiveRule], known: Mapping[Cause, Known], span: Span) -> Sequence[Seen]:
        """What these rules see, up to `span.covered_s`. Causes with a state that are not among them are ended.

        Raises DatabaseUnavailable or Overloaded: then nothing is evaluated, and all of it is tried again.
        """
