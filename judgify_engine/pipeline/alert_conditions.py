"""Rules of kind `condition`: the figures of all tenants are read together, then each rule is asked."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from judgify_engine.core.alert_changes import ActiveRule, Cause, Known, Seen
from judgify_engine.core.alert_figures import Need, Read, figures, need_of
from judgify_engine.core.alert_rules import BUILT_IN, CompiledCondition, Condition
from judgify_engine.core.alert_state import Observation
from judgify_engine.errors import InvalidAlertRule
from judgify_engine.pipeline.alert_kinds import Span
from judgify_engine.wire.answer import format_us

REMEMBERED = 10_000
TURN_S = 0.005
"""How long causes are looked at before others get the event loop: one may take 20 µs or, with macros, 3 ms."""
MOST_WORKFLOWS = 500
"""Of one rule; more only where there is something to know of more."""


class FigureSource(Protocol):
    """Where the rollups are; see store/alert_figures."""

    async def read(self, need: Need) -> Read: ...


class Conditions:
    """An `Evaluator`."""

    def __init__(self, source: FigureSource) -> None:
        self._source = source
        self._compiled: OrderedDict[tuple[str, str, int], CompiledCondition | str] = OrderedDict()
        self._built_in = {name: CompiledCondition(rule) for name, rule in BUILT_IN.items() if isinstance(rule, Condition)}

    async def observe(self, rules: Sequence[ActiveRule], known: Mapping[Cause, Known], span: Span) -> Sequence[Seen]:
        """See `Evaluator`. A rule that was written by hand and is wrong sees nothing."""
        compiled = [(one, found) for one in rules if isinstance(found := self._compile(one), CompiledCondition)]
        read = await self._source.read(need_of([(one.tenant_id, found) for one, found in compiled], span.instants))
        workflows: dict[str, set[str]] = {}
        # Also those of which nothing comes any more, where it is asked what is usual: just they may be amiss.
        for tenant_id, workflow_id in (*((key[1], key[2]) for key in read.sums), *read.past):
            if workflow_id:
                workflows.setdefault(tenant_id, set()).add(workflow_id)
        of_rule: dict[tuple[str, str], set[str]] = {}
        for cause in known:
            of_rule.setdefault((cause.tenant_id, cause.rule_id), set()).add(cause.workflow_id)
        seen: list[Seen] = []
        until_s = time.perf_counter() + TURN_S
        for one, found in compiled:
            stored = of_rule.get((one.tenant_id, one.rule_id), set())
            for workflow_id in _workflows(found.rule, workflows.get(one.tenant_id, set()), stored):
                cause = Cause(one.tenant_id, one.rule_id, workflow_id)
                anew = cause in known and known[cause].memory is not None  # of another kind
                seen.append(Seen(cause, _looks(found, read, cause, span.instants, cause in known), anew=anew))
                if time.perf_counter() > until_s:
                    await asyncio.sleep(0)  # judgments do not wait for all of them
                    until_s = time.perf_counter() + TURN_S
        return seen

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


def _workflows(rule: Condition, active: set[str], stored: set[str]) -> Iterator[str]:
    """Of which workflows a rule is asked; empty: of all together."""
    if rule.each == "tenant":
        yield ""
    elif rule.workflow_ids:
        yield from rule.workflow_ids
    else:
        # Those of which something is known first: an alert does not end because there are more workflows than are looked at.
        known = stored - {""}
        yield from (*sorted(known), *sorted(active - known)[: max(0, MOST_WORKFLOWS - len(known))])


def _looks(compiled: CompiledCondition, read: Read, cause: Cause, moments: Sequence[int], matters: bool) -> list[Observation]:
    """`matters`: there is something that may be over now."""
    looks: list[Observation] = []
    for end_s in moments:
        looks.append(_look(compiled, read, cause, end_s, matters))
        matters |= looks[-1].bad
    return looks


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
