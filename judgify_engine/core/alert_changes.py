"""One evaluation: what the rules saw, and so what changes. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from judgify_engine.core.alert_rules import AlertRule
from judgify_engine.core.alert_state import NEVER, CauseState, Event, Observation, Timing, advance, end


class Cause(NamedTuple):
    """What there is at most one firing alert of. `workflow_id`: empty for all workflows together."""

    tenant_id: str
    rule_id: str
    workflow_id: str


class ActiveRule(NamedTuple):
    """An enabled rule of a tenant."""

    tenant_id: str
    rule_id: str
    version: int
    """0: built in."""
    rule: AlertRule


class Known(NamedTuple):
    """What is stored of a cause."""

    state: CauseState
    memory: bytes | None
    """JSON, of who evaluates; None: nothing."""
    version: int
    """Of the rule that it was evaluated by."""


class Seen(NamedTuple):
    """What was observed of a cause."""

    cause: Cause
    observations: Iterable[Observation]
    """In the order of their times; what is not later than `Known.state.through_s` is passed over."""
    memory: bytes | None = None
    anew: bool = False
    """What is known of the cause is of something else, perhaps in other times: it ends, and this begins."""


class Told(NamedTuple):
    """An event of a cause, by a rule; None: the rule is gone."""

    cause: Cause
    event: Event
    rule: ActiveRule | None


class Changes(NamedTuple):
    """What an evaluation changes, all of it or nothing."""

    events: list[list[Told]]
    """The first of each cause, then the second, and so on."""
    states: list[tuple[Cause, Known, str]]
    """To be kept, with the reason last observed."""
    forgotten: list[Cause]
    """There is nothing more to know."""
    through_s: float

    def add(self, other: "Changes") -> None:
        """What else changes, of other causes."""
        for place, row in enumerate(other.events):
            if len(self.events) <= place:
                self.events.append([])
            self.events[place].extend(row)
        self.states.extend(other.states)
        self.forgotten.extend(other.forgotten)


def changes(
    rules: Iterable[ActiveRule], seen: Iterable[Seen], known: Mapping[Cause, Known], through_s: float, gone: Mapping[str, str]
) -> Changes:
    """What follows from what was seen. `gone`: why a cause that nobody saw is not looked at, by what is said of its rule."""
    by_id = {(one.tenant_id, one.rule_id): one for one in rules}
    found = Changes([], [], [], through_s)
    looked_at: set[Cause] = set()
    for cause, observations, memory, anew in seen:
        looked_at.add(cause)
        rule = by_id[cause.tenant_id, cause.rule_id]
        before = known.get(cause)
        state, ended = (before.state if before is not None else CauseState()), list[Event]()
        if anew:
            state, ended = end(state, through_s, gone["other"])
        looks = list(observations)
        timing = Timing(rule.rule.for_s, rule.rule.clear_for_s, rule.rule.severity)
        after, events = advance(state, looks, timing)
        _note(found, cause, ended + events, rule)
        worth = after.phase != "inactive" or memory is not None or _failed(looks)
        if worth:
            now = Known(after, memory, rule.version)
            if before is None or _differs(before, now):
                found.states.append((cause, now, looks[-1].reason if looks else ""))
        elif before is not None:
            found.forgotten.append(cause)
    for cause, before in known.items():
        if cause not in looked_at:
            there = (cause.tenant_id, cause.rule_id) in by_id
            _, events = end(before.state, through_s, gone["unseen" if there else "rule"])
            _note(found, cause, events, by_id.get((cause.tenant_id, cause.rule_id)))
            found.forgotten.append(cause)
    return found


def _note(found: Changes, cause: Cause, events: list[Event], rule: ActiveRule | None) -> None:
    for place, event in enumerate(events):
        while len(found.events) <= place:
            found.events.append([])
        found.events[place].append(Told(cause, event, rule))


def _differs(before: Known, now: Known) -> bool:
    """Whether more than the time of the last look has changed. That of what waits is not needed: it is in event time."""
    return _without_time(before) != _without_time(now)


def _without_time(known: Known) -> tuple[Any, ...]:
    state = known.state
    # With a memory the evaluator walks by itself, and the time says how far it came.
    through_s = state.through_s if known.memory is not None else NEVER
    return (state.phase, state.bad_since_s, state.clear_since_s, state.severity, through_s, known.memory, known.version)


def _failed(looks: list[Observation]) -> bool:
    """Whether the last look told nothing, with a reason: that is to be seen."""
    return bool(looks) and not looks[-1].bad and not looks[-1].clear and bool(looks[-1].reason)
