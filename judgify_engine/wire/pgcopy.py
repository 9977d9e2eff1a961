"""Judgments to PostgreSQL's binary COPY format. Pure.

Source of the format: PostgreSQL documentation, COPY, "Binary Format". Columns of fixed width come first, so that one
`struct` call packs them all. A JSON column is sent as `jsonb`: version 1 and the text, exactly as it came.
"""

from collections.abc import Iterable
from struct import Struct

from judgify_engine.core.model import Judgment

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
COLUMNS = (
    "id",
    "created_at",
    "execution_time_ms",
    "confidence_score",
    "workflow_version",
    "tenant_id",
    "workflow_id",
    "method_used",
    "status",
    "input_data",
    "context",
    "final_result",
    "rule_index",
    "error",
    "occurred_at",
)
POSTGRES_EPOCH_US = 946_684_800_000_000
"""2000-01-01 UTC in µs since 1970: PostgreSQL's times count from there."""

_fixed = Struct(">hi16siqididii").pack
_length = Struct(">i").pack
_int4 = Struct(">ii").pack
_int8 = Struct(">iq").pack
_NULL = b"\xff\xff\xff\xff"


def encode(judgments: Iterable[Judgment]) -> bytes:
    """One COPY's data: header, a row per judgment in the order of COLUMNS, trailer."""
    parts = [HEADER]
    add = parts.append
    for j in judgments:
        add(
            _fixed(
                len(COLUMNS),
                *(16, j.id),
                *(8, j.created_at_us - POSTGRES_EPOCH_US),
                *(8, j.execution_time_ms),
                *(8, j.confidence_score),
                *(4, j.workflow_version),
            )
        )
        for text in (j.tenant_id, j.workflow_id, j.method_used, j.status):
            data = text.encode()
            add(_length(len(data)))
            add(data)
        for json in (j.input_data, j.context, j.final_result):
            add(_length(len(json) + 1))
            add(b"\x01")
            add(json)
        add(_NULL if j.rule_index is None else _int4(4, j.rule_index))
        if j.error is None:
            add(_NULL)
        else:
            data = j.error.encode()
            add(_length(len(data)))
            add(data)
        add(_NULL if j.occurred_at_us is None else _int8(8, j.occurred_at_us - POSTGRES_EPOCH_US))
    add(TRAILER)
    return b"".join(parts)
