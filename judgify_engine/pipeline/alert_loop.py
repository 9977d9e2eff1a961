"""Evaluates the rules of all tenants while it holds the lease, up to where the rollups are known to be whole.

What the rollups cover is told by the log: a probe notes where it is at a moment, and once the rollups have passed that place,
all that was committed before that moment is in them. So rollups that lag, or are made anew, delay an alert, and never make one.
All times are those of the figures; moments that were missed meanwhile are looked at, too. One evaluation is one transaction.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from judgify_engine.config import AlertsConfig
from judgify_engine.core.alert_changes import ActiveRule, Cause, Changes, Known, Seen, changes
from judgify_engine.core.alert_figures import instants
from judgify_engine.core.alert_rules import BUILT_IN, SEVERITIES, AlertRule
from judgify_engine.errors import JudgifyError
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.alert_kinds import Evaluator, Span
from judgify_engine.pipeline.turns import take_turns
from judgify_engine.units import Position

log = logging.getLogger(__name__)

PROBES = 64
COVER_S, POLL_S = 1.0, 0.05
"""How long, and how often, it is asked whether the rollups have come as far as the log was."""
TURN_S = 0.005
"""How long it is thought about what follows before others get the event loop; one tenant at least."""
GONE = {
    "rule": "its rule was deleted or disabled",
    "unseen": "its rule does not look at it any more",
    "other": "its rule looks at something else now",
}


class Probe(Protocol):
    """See store/alert_states."""

    @property
    def lsn(self) -> int: ...
    @property
    def at_s(self) -> float: ...


class States(Protocol):
    """Where states and alerts are, and the right to write them; see store/alert_states. All raise DatabaseUnavailable."""

    async def lease(self) -> bool: ...
    def let_go(self) -> None: ...
    async def probe(self) -> Probe: ...
    async def mark(self) -> None: ...
    async def known(self) -> tuple[float, dict[Cause, Known]]: ...
    async def commit(self, changes: Changes) -> None: ...
    async def silence(self) -> bool: ...
    async def figures(self) -> tuple[Mapping[str, int], Mapping[str, int]]: ...


class Rollups(Protocol):
    """See store/alert_figures."""

    async def position(self) -> Position | None: ...
    async def tenants(self) -> Mapping[str, int]: ...


class StoredRule(NamedTuple):
    """A tenant's own rule, or what it has in the place of a built-in one."""

    tenant_id: str
    rule_id: str
    version: int
    rule: AlertRule


class Rules(Protocol):
    """See store/alert_rules."""

    async def all_rules(self) -> Sequence[StoredRule]: ...


class AlertLoop:
    """`leading`: set while this process evaluates, and so delivers."""

    def __init__(
        self,
        states: States,
        rules: Rules,
        rollups: Rollups,
        evaluators: Mapping[str, Evaluator],
        has_passed: Callable[[int], bool],
        config: AlertsConfig,
        metrics: Metrics,
        fired: Callable[[], None],
    ) -> None:
        """`evaluators`: by the kind of rules; `has_passed`: whether this process knows that the rollups have passed a place of
        the log; `fired`: there may be something to deliver."""
        self._states, self._rules, self._rollups, self._evaluators = states, rules, rollups, evaluators
        self._has_passed, self._config, self._metrics, self._fired = has_passed, config, metrics, fired
        self.leading = asyncio.Event()
        self._probes: deque[Probe] = deque(maxlen=PROBES)
        self._covered_s: float | None = None
        self._through_s: float | None = None
        self._counts: tuple[Mapping[str, int], Mapping[str, int]] = ({}, {})
        self._told = ""

    async def run(self, stop: asyncio.Event, leaving: Callable[[], bool]) -> None:
        """Until `stop`. Whoever is `leaving` hands the lease to another one."""
        try:
            await take_turns(lambda: self._turn(leaving()), self._config.interval_s, stop, "alerts")
        finally:
            self._let_go()

    async def _turn(self, leaving: bool) -> None:
        try:
            await self._lead(leaving)
            self._told = ""
        except JudgifyError as error:
            self._metrics.alert_evaluations["failed"] += 1
            if error.detail != self._told:
                log.warning("alerts cannot be evaluated now", extra={"reason": error.detail})
            self._told = error.detail
        except Exception:  # judging goes on, whatever happens to alerts
            self._metrics.alert_evaluations["failed"] += 1
            self._let_go()  # what was begun is nobody's now
            log.exception("evaluating alerts failed and is tried again")

    def _let_go(self) -> None:
        self._states.let_go()
        self.leading.clear()
        self._probes.clear()
        self._covered_s = self._through_s = None

    async def _lead(self, leaving: bool) -> None:
        if leaving or not await self._states.lease():
            self._let_go()
            return
        self.leading.set()
        covered_s = await self._cover()
        if covered_s is not None:
            await self.evaluate(covered_s)
        else:
            self._metrics.alert_evaluations["behind"] += 1
        if await self._states.silence():
            self._fired()
        self._counts = await self._states.figures()

    async def evaluate(self, covered_s: float) -> Changes | None:
        """Look at all moments since the last evaluation up to what is covered; what changed is committed.

        None: there was none to look at. Raises DatabaseUnavailable or Overloaded, and is to be tried again then.
        """
        through_s, known = await self._states.known()
        self._covered_s, self._through_s = covered_s, through_s
        moments = instants(through_s, covered_s - self._config.settle_s, self._config.interval_s)
        if not moments:
            return None
        tenants = await self._rollups.tenants()
        span = Span(through_s, covered_s, moments, tenants)
        active = self._active(await self._rules.all_rules(), tenants)
        seen: list[Seen] = []
        for kind, evaluator in self._evaluators.items():
            of_kind = [one for one in active if kind_of(one.rule) == kind]
            names = {(one.tenant_id, one.rule_id) for one in of_kind}
            concerned = {cause: each for cause, each in known.items() if (cause.tenant_id, cause.rule_id) in names}
            if of_kind:
                seen += await evaluator.observe(of_kind, concerned, span)
        found = await changes_in_turns(active, seen, known, float(moments[-1]))
        await self._states.commit(found)
        self._through_s = float(moments[-1])
        self._metrics.alert_evaluations["done"] += 1
        self._say(found)
        return found

    def _say(self, found: Changes) -> None:
        events = [told for row in found.events for told in row]
        for told in events[:100]:
            facts = {"event": told.event.kind, "tenant": told.cause.tenant_id, "rule": told.cause.rule_id}
            facts |= {"workflow": told.cause.workflow_id, "reason": told.event.observation.reason}
            log.info("an alert has changed", extra=facts)
        if events:
            self._fired()

    def _active(self, stored: Sequence[StoredRule], tenants: Iterable[str]) -> list[ActiveRule]:
        """All rules that hold: those of tenants, and the built-in ones that they did not replace."""
        replaced = {(one.tenant_id, one.rule_id) for one in stored}
        found = [ActiveRule(*one) for one in stored if one.rule.enabled]
        everybody = {*tenants, *(one.tenant_id for one in stored)}
        for tenant_id in sorted(everybody):
            for rule_id, rule in BUILT_IN.items():
                if (tenant_id, rule_id) not in replaced:
                    found.append(ActiveRule(tenant_id, rule_id, 0, rule))
        return found

    async def _cover(self) -> float | None:
        """Up to when all that was committed is in the rollups; None: not known, or they are being made anew."""
        now = await self._states.probe()
        self._probes.append(now)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + min(COVER_S, self._config.interval_s)
        marked = False
        while True:
            position = await self._rollups.position()
            if position is None:
                self._probes.clear()
                return None
            if position.lsn + 1 >= now.lsn or self._has_passed(now.lsn):
                return now.at_s
            if loop.time() >= deadline_s:
                break
            if not marked:  # else the position of an idle database would not get there
                await self._states.mark()
                marked = True
            await asyncio.sleep(POLL_S)
        passed = [probe.at_s for probe in self._probes if position.lsn + 1 >= probe.lsn]
        return max(passed) if passed else None

    def gauges(self) -> Iterator[tuple[str, str, dict[str, str], float]]:
        """For `/metrics`, in the process that evaluates."""
        leading = self.leading.is_set()
        yield "judgify_alerts_leader", "1 in the process that evaluates alert rules.", {}, float(leading)
        if not leading:
            return
        firing, deliveries = self._counts
        for severity in SEVERITIES:
            yield "judgify_alerts_firing", "Alerts that fire.", {"severity": severity}, firing.get(severity, 0)
        for state in ("waiting", "delivered", "failed", "silenced"):
            text = "Deliveries of alerts that are kept, by state."
            yield "judgify_alert_deliveries_kept", text, {"state": state}, deliveries.get(state, 0)
        if self._through_s is not None and self._through_s > 0:
            lag_s = max(0.0, time.time() - self._through_s)
            yield "judgify_alert_evaluation_lag_seconds", "How far back the last moment lies that was looked at.", {}, lag_s


async def changes_in_turns(
    active: Sequence[ActiveRule], seen: Sequence[Seen], known: Mapping[Cause, Known], through_s: float
) -> Changes:
    """What follows from what was seen: of one tenant after the other, so that others have the event loop in between."""
    rules_of: dict[str, list[ActiveRule]] = {}
    seen_of: dict[str, list[Seen]] = {}
    known_of: dict[str, dict[Cause, Known]] = {}
    for one in active:
        rules_of.setdefault(one.tenant_id, []).append(one)
    for each in seen:
        seen_of.setdefault(each.cause.tenant_id, []).append(each)
    for cause, what in known.items():
        known_of.setdefault(cause.tenant_id, {})[cause] = what
    whole = Changes([], [], [], through_s)
    until_s = time.perf_counter() + TURN_S
    for tenant_id in seen_of.keys() | known_of.keys():
        rules, its = rules_of.get(tenant_id, []), known_of.get(tenant_id, {})
        whole.add(changes(rules, seen_of.get(tenant_id, []), its, through_s, GONE))
        if time.perf_counter() > until_s:
            await asyncio.sleep(0)
            until_s = time.perf_counter() + TURN_S
    return whole


def kind_of(rule: AlertRule) -> str:
    """Of a rule."""
    return str(rule.__struct_config__.tag)
