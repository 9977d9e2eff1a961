"""The quarantine as JSON: rows as answers, bodies as what they are, and a refused judgment as a request again. Pure."""

import base64
import json
from typing import Any, Literal, NamedTuple

import msgspec

from judgify_engine.core.model import Judgment
from judgify_engine.wire.answer import format_time, format_us

_REPLAY = "quarantine "


def replay_key(quarantine_id: str) -> str:
    """The idempotency key of a row's replay. It holds a space, so it is no key that a sender can use."""
    return _REPLAY + quarantine_id


def is_replay(key: str) -> bool:
    return key.startswith(_REPLAY)


class QuarantineFilter(NamedTuple):
    """Which rows of a tenant a list shows; None: all."""

    workflow_id: str | None = None
    kind: str | None = None
    replayed: bool | None = None
    created_from_us: int | None = None
    """µs since 1970, inclusive."""
    created_to_us: int | None = None
    """Exclusive."""


class QuarantineItem(msgspec.Struct, omit_defaults=True):
    """A refused request, or a count of them."""

    quarantine_id: str
    workflow_id: str | None
    """null: it could not be read."""
    kind: str
    """What is wrong: a name that does not change."""
    source: Literal["http", "postgres"]
    """Who refused it: the engine, or PostgreSQL."""
    code: str
    """Of the problem that the sender was told."""
    reason: str
    repeated: int
    """How many requests this stands for. Of many at once only some are kept with their bodies, the rest is counted."""
    body: Literal["whole", "cut", "none"]
    """What is kept of the body."""
    created_at: str
    """RFC 3339, UTC."""
    field: str | None = None
    """The member that is wrong."""
    replayed_at: str | None = None
    judgment_id: str | None = None
    """What the replay made."""


class QuarantineRecord(QuarantineItem, kw_only=True, omit_defaults=True):
    """A row of the quarantine with the body as it came: as JSON where it is JSON, else in Base64."""

    body_json: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    body_base64: str | None = None


class QuarantinePage(msgspec.Struct):
    """Rows, newest first."""

    items: list[QuarantineItem]
    next_cursor: str | None
    """Give it as `cursor` to get the next page; null: this is the last."""


def item_of(row: Any) -> QuarantineItem:
    """A row of the list; `kept` says whether it has a body."""
    return QuarantineItem(**_members(row))


def record_of(row: Any) -> QuarantineRecord:
    """A row with its body."""
    body = row["body"]
    if body is None:
        return QuarantineRecord(**_members(row))
    if not row["body_cut"] and is_json(body):
        return QuarantineRecord(**_members(row), body_json=msgspec.Raw(body))
    return QuarantineRecord(**_members(row), body_base64=base64.b64encode(body).decode())


def _members(row: Any) -> dict[str, Any]:
    replayed_at, judgment_id = row["replayed_at"], row["judgment_id"]
    return {
        "quarantine_id": str(row["id"]),
        "workflow_id": row["workflow_id"] or None,
        "kind": row["kind"],
        "source": row["source"],
        "code": row["code"],
        "reason": row["reason"],
        "repeated": row["repeated"],
        "body": "none" if not row["kept"] else "cut" if row["body_cut"] else "whole",
        "created_at": format_time(row["created_at"]),
        "field": row["field"],
        "replayed_at": None if replayed_at is None else format_time(replayed_at),
        "judgment_id": None if judgment_id is None else str(judgment_id),
    }


def is_json(body: bytes) -> bool:
    """Whether any client can read it inside another document: RFC 8259, UTF-8, no half surrogate pair, not endlessly deep."""
    try:
        json.dumps(json.loads(body.decode(), parse_constant=_refuse), ensure_ascii=False).encode()
    except (ValueError, RecursionError):  # UnicodeError is a ValueError
        return False
    return True


def _refuse(literal: str) -> None:
    raise ValueError(literal)


def encode_request(judgment: Judgment) -> bytes:
    """The request that this judgment came from, in the engine's own words; its JSON members byte for byte."""
    request: dict[str, Any] = {
        "workflow_id": judgment.workflow_id,
        "input_data": msgspec.Raw(judgment.input_data),
        "context": msgspec.Raw(judgment.context),
    }
    if judgment.occurred_at_us is not None:
        request["occurred_at"] = format_us(judgment.occurred_at_us)
    return msgspec.json.encode(request)


class _Answered(msgspec.Struct):
    judgment_id: str


def judgment_id_of(answer: bytes) -> str:
    """The id in the answer to an execute request."""
    return msgspec.json.decode(answer, type=_Answered).judgment_id
