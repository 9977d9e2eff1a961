"""Rules of kind `condition`: figures are read together, of as many tenants as may be, then each rule is asked.

What one tenant may cost is bounded (core/alert_bounds). Of what is not looked at nothing changes: an alert that fires goes on
firing; and the rule's state says so.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, Protocol

from judgify_engine.core.alert_bounds import (
    LOOK_COST,
    MOST_COST_OF_ALL,
    MOST_WORKFLOWS,
    Group,
    fewer,
    grouped,
    looks_of,
    reading_of,
)
from judgify_engine.core.alert_changes import ActiveRule, Cause, Known, Seen
from judgify_engine.core.alert_figures import Need, Read, figures, need_of
from judgify_engine.core.alert_rules import BUILT_IN, CompiledCondition, Condition
from judgify_engine.core.alert_state import CauseState, Observation
from judgify_engine.errors import InvalidAlertRule, Overloaded
from judgify_engine.pipeline.alert_kinds import Span
from judgify_engine.wire.answer import format_us

log = logging.getLogger(__name__)

REMEMBERED = 10_000
TURN_S = 0.005
"""How long causes are looked at before others get the event loop: one may take 20 µs or, with macros, 3 ms."""
READ_S, APART_S = 20.0, 5.0
"""How long figures may take to be read, and those of all tenants together that are read apart because they ask for much."""
REST_TIMES, TOLD_REST_S = 4.0, 3.0
"""Who is read apart rests so many times what it took, so that others are not late each time; a long rest is told."""
CUT = "not all of it is looked at: together, a tenant's rules ask for more than one may have looked at (see ALERTS.md)"
LATE = "it is looked at seldom: the figures that this tenant's rules ask for take long to be read (see ALERTS.md)"


class FigureSource(Protocol):
    """Where the rollups are; see store/alert_figures."""

    async def read(self, need: Need, timeout_s: float) -> Read: ...


class _Asked(NamedTuple):
    """A rule that can be asked."""

    one: ActiveRule
    compiled: CompiledCondition


class Conditions:
    """An `Evaluator`. `bounded`: the tenants of whose rules not all was looked at in the last evaluation."""

    def __init__(self, source: FigureSource) -> None:
        self._source = source
        self._compiled: OrderedDict[tuple[str, str, int], CompiledCondition | str] = OrderedDict()
        self._built_in = {name: CompiledCondition(rule) for name, rule in BUILT_IN.items() if isinstance(rule, Condition)}
        self.bounded: frozenset[str] = frozenset()
        self._due_s: dict[str, float] = {}
        """When those that are read apart have their next turn."""

    async def observe(self, rules: Sequence[ActiveRule], known: Mapping[Cause, Known], span: Span) -> Sequence[Seen]:
        """See `Evaluator`. A rule that was written by hand and is wrong sees nothing."""
        asked: dict[str, list[_Asked]] = {}
        for one in sorted(rules, key=lambda one: (one.tenant_id, one.rule_id)):
            if isinstance(found := self._compile(one), CompiledCondition):
                asked.setdefault(one.tenant_id, []).append(_Asked(one, found))
        readings = {
            tenant_id: reading_of([each.compiled for each in of_tenant], span.workflows.get(tenant_id, 0))
            for tenant_id, of_tenant in asked.items()
        }
        looking = _Looking(asked, known)
        groups = grouped(readings, span.instants)
        apart = [group for group in groups if len(group.tenants) == 1 and len(groups) > 1]
        for group in groups:
            if group not in apart:
                await looking.at(group, await self._read(asked, group, READ_S))
        await self._look_apart(looking, apart)
        self._note(looking.bounded)
        return looking.seen

    async def _look_apart(self, looking: "_Looking", groups: Sequence[Group]) -> None:
        """Those who ask for much: what they take is bounded together, and each rests after its turn."""
        self._due_s = {group.tenants[0]: self._due_s.get(group.tenants[0], 0.0) for group in groups}
        until_s = time.monotonic() + APART_S
        for group in sorted(groups, key=lambda group: self._due_s[group.tenants[0]]):
            tenant_id, read, now_s = group.tenants[0], None, time.monotonic()
            if self._due_s[tenant_id] <= now_s < until_s:
                try:
                    read = await self._read(looking.asked, group, until_s - now_s)
                except Overloaded:  # it took too long
                    read = None
                took_s = time.monotonic() - now_s
                self._due_s[tenant_id] = now_s + took_s + took_s * REST_TIMES
            await looking.at(group, read)
        told_s = time.monotonic() + TOLD_REST_S
        looking.bounded |= {tenant_id for tenant_id, due_s in self._due_s.items() if due_s > told_s}

    async def _read(self, asked: Mapping[str, Sequence[_Asked]], group: Group, timeout_s: float) -> Read:
        rules = [(tenant_id, each.compiled) for tenant_id in group.tenants for each in asked[tenant_id]]
        return await self._source.read(need_of(rules, group.moments), timeout_s)

    def _note(self, bounded: set[str]) -> None:
        if fresh := sorted(bounded - self.bounded):
            facts = {"tenants": len(fresh), "first": fresh[:20]}
            log.warning("alert rules of tenants ask for more than is looked at", extra=facts)
        self.bounded = frozenset(bounded)

    def _compile(self, one: ActiveRule) -> CompiledCondition | str:
        """Once for each version; as text: why it cannot be used."""
        if one.version == 0:
            return self._built_in[one.rule_id]
        key = one.tenant_id, one.rule_id, one.version
        found = self._compiled.get(key)
        if found is None:
            try:
                found = CompiledCondition(one.rule) if isinstance(one.rule, Condition) else "it is no condition"
            except InvalidAlertRule as error:
                found = error.detail
            self._compiled[key] = found
        self._compiled.move_to_end(key)
        if len(self._compiled) > REMEMBERED:
            self._compiled.popitem(last=False)
        return found


class _Looking:
    """One evaluation, as far as it came."""

    def __init__(self, asked: Mapping[str, Sequence[_Asked]], known: Mapping[Cause, Known]) -> None:
        self.asked = asked
        self.seen: list[Seen] = []
        self.bounded: set[str] = set()
        self._known = known
        self._stored: dict[tuple[str, str], set[str]] = {}
        for cause in known:
            self._stored.setdefault((cause.tenant_id, cause.rule_id), set()).add(cause.workflow_id)
        self._until_s = time.perf_counter() + TURN_S

    async def at(self, group: Group, read: Read | None) -> None:
        """The rules of these tenants. None: their figures could not be read."""
        workflows: dict[str, set[str]] = {}
        # Also those of which nothing comes any more, where it is asked what is usual: just they may be amiss.
        for tenant_id, workflow_id in (*((key[1], key[2]) for key in read.sums), *read.past) if read is not None else ():
            if workflow_id:
                workflows.setdefault(tenant_id, set()).add(workflow_id)
        for tenant_id in group.tenants:
            await self._at_tenant(self.asked[tenant_id], sorted(workflows.get(tenant_id, ())), group.moments, read)

    async def _at_tenant(
        self, rules: Sequence[_Asked], active: Sequence[str], moments: Sequence[int], read: Read | None
    ) -> None:
        asked_of, costs = [], []
        for one, compiled in rules:
            asked_of.append(self._workflows(one, compiled.rule, active))
            costs.append(LOOK_COST + compiled.cost)
            await self._pause()
        shares = looks_of([(len(names), cost) for names, cost in zip(asked_of, costs, strict=True)])
        cost_of_all = sum(share * cost for share, cost in zip(shares, costs, strict=True))
        chosen = fewer(moments, MOST_COST_OF_ALL // max(1, cost_of_all))
        for (one, compiled), names, share in zip(rules, asked_of, shares, strict=True):
            looked_at = 0
            if read is not None:
                looked_at = share
                for name in names[:share]:
                    cause = Cause(one.tenant_id, one.rule_id, name)
                    self.seen.append(Seen(cause, await self._looks(compiled, read, cause, chosen), anew=self._is_other(cause)))
            if read is None or share < len(names):
                self._pass_over(one, names[looked_at:], moments[-1], LATE if read is None else CUT)

    def _workflows(self, one: ActiveRule, rule: Condition, active: Sequence[str]) -> list[str]:
        """What a rule is asked of: workflows, or "", all together. One more than are looked at says that there are more."""
        if rule.each == "tenant":
            return [""]
        if rule.workflow_ids:
            return rule.workflow_ids
        # Those of which something is known first: an alert does not end because there are more than are looked at.
        known = self._stored.get((one.tenant_id, one.rule_id), set()) - {""}
        others = (name for name in active if name not in known)
        return [*sorted(known), *islice(others, max(0, MOST_WORKFLOWS + 1 - len(known)))]

    def _is_other(self, cause: Cause) -> bool:
        """Whether what is known is of another kind of rule."""
        return cause in self._known and self._known[cause].memory is not None

    async def _looks(self, compiled: CompiledCondition, read: Read, cause: Cause, moments: Sequence[int]) -> list[Observation]:
        looks: list[Observation] = []
        matters = cause in self._known  # there is something that may be over now
        for end_s in moments:
            looks.append(_look(compiled, read, cause, end_s, matters))
            matters |= looks[-1].bad
            await self._pause()
        return looks

    async def _pause(self) -> None:
        if time.perf_counter() > self._until_s:
            await asyncio.sleep(0)  # judgments do not wait for all of them
            self._until_s = time.perf_counter() + TURN_S

    def _pass_over(self, one: ActiveRule, names: Sequence[str], end_s: int, reason: str) -> None:
        """What is known of these stays as it is, and the rule's state says why."""
        self.bounded.add(one.tenant_id)
        for name in names:
            cause = Cause(one.tenant_id, one.rule_id, name)
            if name and cause in self._known:
                self.seen.append(Seen(cause, [], anew=self._is_other(cause)))
        whole = Cause(one.tenant_id, one.rule_id, "")
        there = self._known[whole].state if whole in self._known else CauseState()
        looks = [Observation(float(end_s), bad=False, clear=False, reason=reason)]
        if "" in names:
            self.seen.append(Seen(whole, looks if there.phase == "inactive" else [], anew=self._is_other(whole)))
        else:  # it only tells; what was open was so by a version of the rule that looked at all together
            self.seen.append(Seen(whole, looks, anew=there.open))


def _look(compiled: CompiledCondition, read: Read, cause: Cause, end_s: int, matters: bool) -> Observation:
    found = figures(compiled, read, cause.tenant_id, cause.workflow_id, end_s)
    answer = compiled.ask(found)
    if answer.clear and not matters:  # nearly always; words cost more than all else
        return Observation(float(end_s), bad=False, clear=True, reason="")
    if not (answer.bad or answer.clear):  # it is told only where something is amiss, or changes
        reason = f"it cannot be told: {answer.problem}" if answer.problem else ""
        return Observation(float(end_s), bad=False, clear=False, reason=reason)
    numbers = _numbers(compiled, found, end_s)
    return Observation(float(end_s), answer.bad, answer.clear, _reason(compiled, numbers, answer), numbers, answer.severe)


def _numbers(compiled: CompiledCondition, found: Mapping[str, Any], end_s: int) -> dict[str, Any]:
    """What the conditions name, as they name it, and of when it is."""
    numbers: dict[str, Any] = {}
    for name in sorted(compiled.names):
        group, _, member = name.partition(".")
        numbers[name] = found[group].get(member) if member else found[group]
    for field in sorted(compiled.tracked):
        numbers[f"tracked.{field}"] = found["tracked"][field]
    start_s = end_s - compiled.rule.window_s
    return numbers | {"from": format_us(start_s * 1_000_000), "to": format_us(end_s * 1_000_000)}


def _reason(compiled: CompiledCondition, numbers: Mapping[str, Any], answer: Any) -> str:
    told = ", ".join(f"{name} = {_text(value)}" for name, value in numbers.items() if name not in ("from", "to"))
    rule = compiled.rule
    which = rule.when if answer.bad or rule.clear_when is None else rule.clear_when
    holds = "holds" if answer.bad or rule.clear_when is not None else "does not hold"
    if answer.absent:
        holds = "cannot hold: there is nothing to tell it from"
    return f"{told}; {which} {holds} over the {rule.window_s} s up to {numbers['to']}"[:2000]


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_text(one)}" for name, one in list(value.items())[:20]) + "}"
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)
