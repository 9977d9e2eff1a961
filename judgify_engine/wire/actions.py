"""Actions as they go in and out: entries of the streams, bodies of webhooks, alerts, and the answers of the API. Pure."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from judgify_engine.wire.answer import JudgmentRecord, format_time, record_of

JUDGMENTS_TABLE = b"judgment_executions"
State = Literal["waiting", "succeeded", "dead"]
STATES: tuple[State, ...] = ("waiting", "succeeded", "dead")


_Text = Annotated[str, Meta(pattern="^[^\0\ud800-\udfff]*$")]
_Number = Annotated[int, Meta(ge=-(2**31), lt=2**31)]


class Judged(msgspec.Struct, frozen=True):
    """Of a judgment's row in an entry, what tells its actions: what a row cannot hold, PostgreSQL is never asked about."""

    id: str
    tenant_id: _Text
    workflow_id: _Text
    workflow_version: _Number
    status: str
    rule_index: int | None = None


_decode_judged = msgspec.json.Decoder(Judged).decode


def judged_of(fields: Mapping[bytes, bytes]) -> Judged | None:
    """The judgment that an entry says was inserted; None: it says something else. Raises ValueError for what is no entry."""
    if fields.get(b"table") != JUDGMENTS_TABLE or fields.get(b"op") != b"insert":
        if b"table" not in fields or b"op" not in fields:
            raise ValueError("the entry has no table or no op")
        return None
    try:
        return _decode_judged(fields.get(b"data", b""))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"its data cannot be read: {error}") from error


def message_id(judgment_id: str, action: str) -> str:
    """What every attempt of an action has in common, whatever process makes it: the receiver's idempotency key.

    Made of what the database holds once, so it is the same also where the job is made a second time. It has no full stop.
    """
    return f"msg_{judgment_id.replace('-', '')}_{action}"


class _EventData(JudgmentRecord, kw_only=True, omit_defaults=True):
    tenant_id: str
    action: str


class _Event(msgspec.Struct):
    type: str
    timestamp: str
    data: _EventData


def webhook_body(row: Any, tenant_id: str, action: str) -> bytes:
    """`{"type": "judgment.completed", "timestamp": …, "data": {the judgment}}`, from the stored row."""
    record = record_of(row)
    members = {name: getattr(record, name) for name in record.__struct_fields__}
    data = _EventData(**members, tenant_id=tenant_id, action=action)
    return msgspec.json.encode(_Event(f"judgment.{record.status}", record.created_at, data))


class AlertEntry(msgspec.Struct):
    """An alert, as the stream and the channels have it."""

    id: str
    """The same for each repeat of the same alert."""
    tenant_id: str
    severity: str
    name: str
    """Of the action."""
    message: str
    judgment_id: str
    workflow_id: str
    at: str
    """When the judgment was made; RFC 3339, UTC."""

    def fields(self) -> dict[bytes, bytes]:
        """For the stream."""
        return {name.encode(): getattr(self, name).encode() for name in self.__struct_fields__}

    def message_bytes(self) -> bytes:
        """For the channels: JSON."""
        return msgspec.json.encode(self)


class ActionFilter(NamedTuple):
    """Which actions of a tenant a list shows; None: all."""

    state: str | None = None
    workflow_id: str | None = None
    judgment_id: Any = None
    """A UUID."""
    action: str | None = None


class ActionRecord(msgspec.Struct, omit_defaults=True):
    """One action of one judgment."""

    action_id: str
    action: str
    """Its name in the workflow."""
    judgment_id: str
    workflow_id: str
    workflow_version: int
    state: State
    """`dead`: given up; a replay tries again."""
    destination: str
    message_id: str
    """The `webhook-id` of all attempts."""
    attempts: int
    max_attempts: int
    created_at: str
    running: bool
    """An attempt is being made just now."""
    due_at: str | None = None
    """When the next attempt is made."""
    finished_at: str | None = None
    error: str | None = None
    """Of the last attempt."""


class ActionPage(msgspec.Struct):
    """Actions, newest first."""

    items: list[ActionRecord]
    next_cursor: str | None
    """Give it as `cursor` to get the next page; null: this is the last."""


class AttemptRecord(msgspec.Struct, omit_defaults=True):
    """One attempt of an action."""

    action: str
    attempt: int
    """Counted from 1, also across replays."""
    status: str
    """`succeeded`, `failed`, `lost` (its process ended before it told), or `repeated` (another one had succeeded)."""
    request: msgspec.Raw
    created_at: str
    """When it was over."""
    response: msgspec.Raw | None = None
    """Its status and the beginning of its body."""
    error: str | None = None
    duration_ms: float | None = None


class AttemptPage(msgspec.Struct):
    """Attempts of all actions of a judgment, newest first."""

    items: list[AttemptRecord]
    next_cursor: str | None


class ReplayedActions(msgspec.Struct):
    """What a replay of many set going."""

    replayed: int
    more: bool
    """There are more: ask again."""


def action_of(row: Any) -> ActionRecord:
    """From the stored row."""
    waiting, finished_at = row["state"] == "waiting", row["finished_at"]
    judgment_id, action = str(row["judgment_id"]), row["action"]
    return ActionRecord(
        action_id=str(row["id"]),
        action=action,
        judgment_id=judgment_id,
        workflow_id=row["workflow_id"],
        workflow_version=row["workflow_version"],
        state=row["state"],
        destination=row["destination"],
        message_id=message_id(judgment_id, action),
        attempts=row["attempts"],
        max_attempts=row["max_attempts"],
        created_at=format_time(row["created_at"]),
        running=waiting and row["owner"] is not None,
        due_at=format_time(row["due_at"]) if waiting and row["owner"] is None else None,
        finished_at=None if finished_at is None else format_time(finished_at),
        error=row["error"],
    )


def attempt_of(row: Any) -> AttemptRecord:
    """From the stored row."""
    return AttemptRecord(
        action=row["action"],
        attempt=row["attempt"],
        status=row["status"],
        request=msgspec.Raw(row["request"].encode()),
        created_at=format_time(row["created_at"]),
        response=None if row["response"] is None else msgspec.Raw(row["response"].encode()),
        error=row["error"],
        duration_ms=row["duration_ms"],
    )
