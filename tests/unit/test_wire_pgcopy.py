"""The bytes for COPY, read back by a small decoder that knows PostgreSQL's documentation and not our encoder."""

from struct import unpack
from typing import Any

from builders import EPOCH_2000_US, judgment
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core.model import Judgment
from judgify_engine.wire.pgcopy import COLUMNS, encode

TYPES = {
    "id": "uuid", "created_at": "time", "execution_time_ms": "float8", "confidence_score": "float8", "workflow_version": "int4",
    "tenant_id": "text", "workflow_id": "text", "method_used": "text", "status": "text", "input_data": "jsonb",
    "context": "jsonb",
    "final_result": "jsonb", "rule_index": "int4", "error": "text", "occurred_at": "time",
}  # fmt: skip


def read(kind: str, data: bytes) -> Any:
    if kind == "uuid":
        assert len(data) == 16
        return data
    if kind == "text":
        return data.decode()
    if kind == "jsonb":
        assert data[:1] == b"\x01"
        return data[1:]
    number = unpack({"int4": ">i", "float8": ">d", "time": ">q"}[kind], data)[0]
    return number + EPOCH_2000_US if kind == "time" else number


def decode(data: bytes) -> list[dict[str, Any]]:
    """COPY's binary format: signature, flags, header extension, tuples, -1."""
    assert data[:11] == b"PGCOPY\n\xff\r\n\0"
    assert unpack(">II", data[11:19]) == (0, 0)
    rows, at = [], 19
    while True:
        (count,) = unpack(">h", data[at : at + 2])
        at += 2
        if count == -1:
            assert at == len(data)
            return rows
        assert count == len(COLUMNS)
        row = {}
        for name in COLUMNS:
            (length,) = unpack(">i", data[at : at + 4])
            at += 4
            row[name] = None if length == -1 else read(TYPES[name], data[at : at + length])
            at += max(0, length)
        rows.append(row)


def expected(j: Judgment) -> dict[str, Any]:
    named: dict[str, Any] = {name: getattr(j, f"{name}_us" if TYPES[name] == "time" else name) for name in COLUMNS}
    return named


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
TIMES = st.integers(-(2**53), 2**53)
JUDGMENTS = st.builds(
    judgment,
    number=st.integers(0, 2**128 - 1),
    tenant_id=TEXT,
    workflow_id=TEXT,
    workflow_version=st.integers(0, 2**31 - 1),
    input_data=st.binary(max_size=30),
    context=st.binary(max_size=30),
    final_result=st.binary(max_size=30),
    confidence_score=st.floats(0, 1),
    method_used=st.sampled_from(["rule", "llm", "hybrid"]),
    status=st.sampled_from(["completed", "failed"]),
    execution_time_ms=st.floats(0, 30_000),
    rule_index=st.none() | st.integers(0, 499),
    error=st.none() | TEXT,
    occurred_at_us=st.none() | TIMES,
    created_at_us=TIMES,
)


@given(st.lists(JUDGMENTS, max_size=5))
def test_every_column_of_every_judgment_is_read_back_as_it_was(judgments: list[Judgment]) -> None:
    assert decode(encode(judgments)) == [expected(j) for j in judgments]


def test_no_judgments_are_an_empty_copy() -> None:
    assert decode(encode([])) == []


def test_json_is_sent_as_it_came() -> None:
    odd = b'{ "a" :1.50, "a": 2e1 , "\\u00e4":"\xc3\xa4" }'
    (row,) = decode(encode([judgment(input_data=odd)]))
    assert row["input_data"] == odd


def test_the_columns_are_those_of_the_table() -> None:
    assert set(COLUMNS) == set(TYPES)
    assert len(COLUMNS) == len(set(COLUMNS))
