"""What becomes of an alert: one firing and one resolved for each time that something is amiss, whatever the figures do. Pure.

    inactive --bad--> pending --bad for `for_s`--> firing --clear--> clearing --clear for `clear_for_s`--> inactive
                pending --not bad--> inactive         clearing --not clear--> firing

- Times are those of the figures (event time), never of a clock, so whoever evaluates later, or again, decides alike.
- What is neither bad nor clear (hysteresis) changes nothing but ends a clearing.
- A state is written in one transaction with what followed from it, so a crash between two evaluations repeats nothing; and an
  observation that is not later than the last one changes nothing.
- An alert may become critical once while it fires. It never becomes less.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import msgspec

from judgify_engine.core.alert_rules import Severity

Phase = Literal["inactive", "pending", "firing", "clearing"]
NEVER = -1e12
"""Before all times; JSON has no infinity."""


class Observation(NamedTuple):
    """What a rule says of one moment."""

    at_s: float
    """Unix seconds, in event time: what the figures end with."""
    bad: bool
    clear: bool
    """It is over. At most one of the two is true."""
    reason: str
    """In words, with the numbers."""
    numbers: Mapping[str, Any] = MappingProxyType({})
    """Those, as JSON values."""
    severe: bool = False
    """It is critical, whatever the rule's severity."""


class Timing(NamedTuple):
    """Of a rule."""

    for_s: float
    clear_for_s: float
    severity: Severity


class CauseState(msgspec.Struct, frozen=True):
    """How it stands with one cause: a rule, for a tenant or one of its workflows."""

    phase: Phase = "inactive"
    through_s: float = NEVER
    """The time of the last observation."""
    bad_since_s: float = NEVER
    """Of what is pending or fires: since when it is so."""
    clear_since_s: float = NEVER
    """Of what is clearing."""
    severity: Severity = "info"
    """Of what fires."""

    @property
    def open(self) -> bool:
        """Whether an alert fires."""
        return self.phase in ("firing", "clearing")


START = CauseState()


class Event(NamedTuple):
    """Something that people are told."""

    kind: Literal["fired", "worsened", "resolved"]
    since_s: float
    """Since when it is, or was, so."""
    severity: Severity
    observation: Observation


def advance(state: CauseState, observations: Iterable[Observation], timing: Timing) -> tuple[CauseState, list[Event]]:
    """The state after these observations, in the order of their times, and what happened on the way."""
    events: list[Event] = []
    for seen in observations:
        if seen.at_s > state.through_s:
            state, event = _step(state, seen, timing)
            if event is not None:
                events.append(event)
    return state, events


def end(state: CauseState, at_s: float, reason: str) -> tuple[CauseState, list[Event]]:
    """The cause is no longer looked at: its rule is gone, or does not concern it any more."""
    seen = Observation(max(at_s, state.through_s), bad=False, clear=True, reason=reason)
    return START, [Event("resolved", state.bad_since_s, state.severity, seen)] if state.open else []


def _step(state: CauseState, seen: Observation, timing: Timing) -> tuple[CauseState, Event | None]:
    if state.open:
        return _while_open(state, seen, timing)
    if not seen.bad:
        return CauseState("inactive", seen.at_s), None
    since_s = state.bad_since_s if state.phase == "pending" else seen.at_s
    if seen.at_s - since_s < timing.for_s:
        return CauseState("pending", seen.at_s, since_s), None
    severity: Severity = "critical" if seen.severe else timing.severity
    return CauseState("firing", seen.at_s, since_s, severity=severity), Event("fired", since_s, severity, seen)


def _while_open(state: CauseState, seen: Observation, timing: Timing) -> tuple[CauseState, Event | None]:
    since_s, severity = state.bad_since_s, state.severity
    if not seen.clear:
        worse = seen.bad and seen.severe and severity != "critical"
        if worse:
            severity = "critical"
        after = CauseState("firing", seen.at_s, since_s, severity=severity)
        return after, Event("worsened", since_s, severity, seen) if worse else None
    clear_since_s = state.clear_since_s if state.phase == "clearing" else seen.at_s
    if seen.at_s - clear_since_s < timing.clear_for_s:
        return CauseState("clearing", seen.at_s, since_s, clear_since_s, severity), None
    return CauseState("inactive", seen.at_s), Event("resolved", since_s, severity, seen)
