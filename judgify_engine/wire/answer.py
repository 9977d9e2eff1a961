"""Answers as JSON. Pure. A judgment's own JSON fields go out as the bytes that they are."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from judgify_engine.core.model import Judgment, Method, Status


class JudgmentAnswer(msgspec.Struct, omit_defaults=True):
    """What was decided."""

    judgment_id: str
    workflow_id: str
    workflow_version: int
    final_result: msgspec.Raw
    """The result of the rule that matched, or of the default; `{"error": …}` when judging failed."""
    confidence_score: float
    """0 to 1."""
    method_used: Method
    status: Status
    execution_time_ms: float
    """From the arrival of the request to the decision, 0 to 30000; the commit comes after it."""
    created_at: str
    """RFC 3339, UTC."""
    error: str | None = None
    """Why judging failed."""


class JudgmentRecord(JudgmentAnswer, kw_only=True, omit_defaults=True):
    """The whole record of a judgment."""

    input_data: msgspec.Raw
    context: msgspec.Raw
    rule_index: int | None = None
    """The rule that matched, from 0; absent: the default."""
    occurred_at: str | None = None


class JudgmentPage(msgspec.Struct):
    """Judgments, newest first."""

    items: list[JudgmentRecord]
    next_cursor: str | None
    """Give it as `cursor` to get the next page; null: this is the last."""


_encode = msgspec.json.Encoder().encode


def encode_answer(judgment: Judgment) -> bytes:
    """The body that answers a judgment which has just been committed."""
    return _encode(
        JudgmentAnswer(
            format_id(judgment.id),
            judgment.workflow_id,
            judgment.workflow_version,
            msgspec.Raw(judgment.final_result),
            judgment.confidence_score,
            judgment.method_used,
            judgment.status,
            judgment.execution_time_ms,
            format_us(judgment.created_at_us),
            judgment.error,
        )
    )


def record_of(row: Any) -> JudgmentRecord:
    """The whole record from the stored row."""
    return JudgmentRecord(
        judgment_id=str(row["id"]),
        workflow_id=row["workflow_id"],
        workflow_version=row["workflow_version"],
        final_result=_raw(row["final_result"]),
        confidence_score=row["confidence_score"],
        method_used=row["method_used"],
        status=row["status"],
        execution_time_ms=row["execution_time_ms"],
        created_at=format_time(row["created_at"]),
        error=row["error"],
        input_data=_raw(row["input_data"]),
        context=_raw(row["context"]),
        rule_index=row["rule_index"],
        occurred_at=None if row["occurred_at"] is None else format_time(row["occurred_at"]),
    )


def format_id(value: bytes) -> str:
    """16 bytes as a UUID; three times as fast as `uuid.UUID`."""
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


_second = -1
_second_text = ""


def format_us(time_us: int) -> str:
    """µs since 1970 as RFC 3339 in UTC. The text of the last second is kept: most calls are of the same one."""
    global _second, _second_text
    second, fraction = divmod(time_us, 1_000_000)
    if second != _second:
        _second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        _second = second
    return f"{_second_text}.{fraction:06d}Z"


def format_time(moment: datetime) -> str:
    """A stored time (UTC) in the same form as `format_us`."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())
