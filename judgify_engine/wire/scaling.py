"""Reports of processes as entries of `metrics-stream`, decisions as messages on `scaling_events`, and the answer of
GET /api/v1/scaling. Pure."""

from collections.abc import Mapping
from math import isfinite

import msgspec

from judgify_engine.core.figures import Figures, Report, Share
from judgify_engine.core.scaling import Decision
from judgify_engine.errors import Corrupt

_KINDS: dict[str, type] = {name: kind for name, kind in Report.__annotations__.items() if name != "at_s"}


def encode_report(report: Report) -> dict[bytes, bytes]:
    """As fields of text, so that any program can read them. The time is the entry's."""
    return {name.encode(): str(getattr(report, name)).encode() for name in _KINDS}


def decode_report(fields: Mapping[bytes, bytes], at_s: float) -> Report:
    """Raises Corrupt where it is none, as somebody else may write to the stream too."""
    try:
        values = {name: kind(fields[name.encode()].decode()) for name, kind in _KINDS.items()}
    except (KeyError, ValueError) as error:
        raise Corrupt(f"not a report of a process: {error!r}") from error
    report = Report(at_s=at_s, **values)
    if not 0 < report.cores <= 1 or not isfinite(report.cpu_s + report.memory + report.answers_s + report.oldest_s):
        raise Corrupt("not a report of a process: figures that cannot be")
    return report


class DecisionRecord(msgspec.Struct, frozen=True):
    """A decision, and what became of it; also what is published on `scaling_events`."""

    id: int
    scope: str
    """What is scaled: `workers of HOST:PORT`, `deployment NAMESPACE/NAME`, or `processes`."""
    at: str
    action: str
    """`out`, `in`; `stay` where it only notes that something stands in the way, or no longer does (see `state`)."""
    state: str
    rule: str
    reason: str
    from_count: int = msgspec.field(name="from")
    to_count: int = msgspec.field(name="to")
    executor: str
    outcome: str
    """`done`; `failed`: see `error`, it is tried again after the cool-down; `told`: nobody here acts on it; `pending`;
    `unknown`: who decided died before it knew."""
    error: str | None
    figures: msgspec.Raw | None = None


class ScalingAnswer(msgspec.Struct, frozen=True):
    """How the processes are doing now, and what is done about it."""

    executor: str
    scope: str
    minimum: int
    maximum: int
    current: int
    """How many there should be now."""
    desired: int
    """How many it would be after the next decision; the same where nothing is to be done."""
    next: Decision
    """What would be decided now, and why."""
    figures: Figures
    processes: list[Share]
    decisions: list[DecisionRecord]
    """The last ones, the newest first."""


def encode_event(record: DecisionRecord) -> bytes:
    """As it is published."""
    return msgspec.json.encode(record)
