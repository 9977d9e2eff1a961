"""The live tail on the wire: from an entry of the streams to a row, and from rows to a message. Pure."""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta

from judgify_engine.core.results import result_of
from judgify_engine.core.tail import TailRow, Waiting
from judgify_engine.units import Position

_TABLE, _INSERT = b"judgment_executions", b"insert"


class _Stored(msgspec.Struct):
    """Of the row in an entry, what a tail shows."""

    id: str
    workflow_id: str
    workflow_version: int
    status: str
    method_used: str
    final_result: msgspec.Raw
    confidence_score: float
    execution_time_ms: float
    created_at: str
    occurred_at: str | None = None


class TailJudgment(msgspec.Struct, forbid_unknown_fields=True):
    """A judgment in short; `GET /api/v1/judgments/{judgment_id}` has all of it."""

    judgment_id: str
    workflow_id: str
    workflow_version: int
    status: str
    method_used: str
    result: str
    """As the figures of results have it: `final_result.verdict`; empty: without one; `failed`: a failed judgment."""
    confidence_score: float
    execution_time_ms: float
    created_at: str
    occurred_at: str | None


class TailMessage(msgspec.Struct, tag="tail", tag_field="type", kw_only=True, forbid_unknown_fields=True):
    """Judgments that were committed since the last message, the newest last, 50 at most. The first one has none."""

    position: Annotated[str, Meta(pattern=r"^[0-9A-F]+/[0-9A-F]+-[0-9]+$")]
    """Up to here the log was looked through."""
    skipped: int
    """So many that fit came before these and are not shown: more came than there is room for, or you read slowly."""
    gap: bool
    """Others may be missing before these, and nobody knows how many: the streams were emptied, or ran ahead."""
    judgments: list[TailJudgment]


class _Encoded(msgspec.Struct, tag="tail", tag_field="type"):
    position: str
    skipped: int
    gap: bool
    judgments: list[msgspec.Raw]


_decode = msgspec.json.Decoder(_Stored).decode
_encode = msgspec.json.Encoder().encode
TAIL_MESSAGES: tuple[type[msgspec.Struct], ...] = (TailMessage,)


def is_judgment(fields: Mapping[bytes, bytes]) -> bool:
    """Whether an entry says that a judgment was inserted."""
    return fields.get(b"table") == _TABLE and fields.get(b"op") == _INSERT


def row_of(fields: Mapping[bytes, bytes]) -> TailRow | None:
    """The judgment of such an entry; None: it is too large for the streams, or nothing that can be read."""
    try:
        stored = _decode(fields.get(b"data", b""))
    except (msgspec.MsgspecError, RecursionError):
        return None
    result = result_of(stored.status, bytes(stored.final_result).decode())
    judgment = TailJudgment(
        stored.id,
        stored.workflow_id,
        stored.workflow_version,
        stored.status,
        stored.method_used,
        result,
        stored.confidence_score,
        stored.execution_time_ms,
        stored.created_at,
        stored.occurred_at,
    )
    return TailRow(stored.workflow_id, stored.status, stored.method_used, result, _encode(judgment))


def message_of(position: Position, waiting: Waiting) -> bytes:
    """A message as JSON."""
    rows = [msgspec.Raw(row.encoded) for row in waiting.rows]
    return _encode(_Encoded(str(position), waiting.skipped, waiting.gap, rows))
