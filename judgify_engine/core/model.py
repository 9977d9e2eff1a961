"""What flows through the engine: a judgment on its way to PostgreSQL, and a change on its way from it. Pure."""

from typing import Any, Literal, NamedTuple

import msgspec

from judgify_engine.units import Position

Method = Literal["rule", "llm", "hybrid"]
METHODS: tuple[Method, ...] = ("rule", "llm", "hybrid")
Status = Literal["completed", "failed"]


class Judgment(msgspec.Struct, gc=False):
    """One decided judgment, not yet committed. JSON fields are bytes, exactly as they came."""

    id: bytes
    """16 bytes, a UUIDv7."""
    tenant_id: str
    workflow_id: str
    workflow_version: int
    input_data: bytes
    context: bytes
    final_result: bytes
    confidence_score: float
    method_used: Method
    status: Status
    execution_time_ms: float
    rule_index: int | None
    error: str | None
    occurred_at_us: int | None
    """Microseconds since 1970-01-01 UTC, as all times here."""
    created_at_us: int
    idempotency_key: str | None = None
    fingerprint: bytes = b""
    answer: bytes = b""
    """With a key: the answer, kept to be given again."""

    @property
    def size_bytes(self) -> int:
        """Roughly what this holds in memory and on the wire."""
        return 400 + len(self.input_data) + len(self.context) + len(self.final_result) + len(self.answer)


class Verdict(NamedTuple):
    """What the rules said about one input."""

    result: bytes
    """JSON."""
    confidence: float
    rule_index: int | None
    """The rule that matched, from 0; None: the default."""
    error: str | None
    """Why judging failed; then `result` says so too."""


class Change(NamedTuple):
    """One change of a row, read from the write-ahead log, at its place in it.

    `old` and `new` map column names to values: text for text and json, int for integers, µs since 1970 for times, bytes
    for uuid. `old` is None for an insert, `new` for a delete; both are None for a truncate.
    """

    position: Position
    commit_time_us: int
    table: str
    old: dict[str, Any] | None
    new: dict[str, Any] | None
