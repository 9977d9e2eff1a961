"""Entries of streams: what users' own services read is the row, as JSON, whatever is in it."""

import json
from datetime import UTC, datetime, timedelta
from struct import pack
from typing import Any

import builders as b
import pytest

from judgify_engine.core.model import Change
from judgify_engine.errors import Corrupt
from judgify_engine.wire.entry import JSON_READERS, KEYS, MAX_DATA_BYTES, entry_of, rfc3339
from judgify_engine.wire.pgoutput import Decoder

ID = bytes.fromhex("0198b2c3d4e57f60890a1b2c3d4e5f60")
ID_TEXT = "0198b2c3-d4e5-7f60-890a-1b2c3d4e5f60"


def decoded(*messages: bytes) -> list[Change]:
    """The changes in one transaction at LSN 100."""
    decoder = Decoder(dict.fromkeys(KEYS), JSON_READERS)
    found: list[Change] = []
    for message in (b.judgments_relation(), b.begin(100), *messages):
        event = decoder.decode(message)
        found += event if isinstance(event, list) else [event] if isinstance(event, Change) else []
    return found


def wire_row(**fields: Any) -> tuple[b.Value, ...]:
    return (ID, *b.wire_row(b.row(**fields))[1:])


def only(*messages: bytes) -> dict[str, Any]:
    """The fields of the one entry, `data` parsed."""
    (change,) = decoded(*messages)
    _, fields = entry_of(change)
    texts: dict[str, Any] = {name.decode(): value.decode() for name, value in fields.items()}
    return texts | {"data": json.loads(texts["data"])} if "data" in texts else texts


def test_an_insert_is_the_row() -> None:
    entry = only(b.insert(b.JUDGMENTS_OID, *wire_row(input_data='{"n": 1e400, "ü": "\\u0041"}', execution_time_ms=0.1)))
    assert {name: entry[name] for name in ("op", "table", "tenant_id", "key")} == {
        "op": "insert",
        "table": "judgment_executions",
        "tenant_id": "demo",
        "key": ID_TEXT,
    }
    assert entry["committed_at"] == "2026-01-01T00:00:00.000000Z"
    assert entry["data"]["id"] == ID_TEXT
    assert entry["data"]["execution_time_ms"] == 0.1
    assert entry["data"]["created_at"] == "2026-01-01T00:00:00.000000Z"
    assert entry["data"]["occurred_at"] is None
    assert entry["data"]["workflow_version"] == 1
    assert entry["data"]["final_result"] == {"verdict": "ok"}


def test_json_columns_come_as_they_are_stored() -> None:
    stored = '{"n": 12345678901234567890.10, "s": "a\\"b"}'
    (change,) = decoded(b.insert(b.JUDGMENTS_OID, *wire_row(input_data=stored)))
    assert f'"input_data":{stored}'.encode() in entry_of(change)[1][b"data"]


def test_text_with_quotes_and_control_characters_stays_text() -> None:
    odd = 'a"\\\n\x01 ü 😀'
    entry = only(b.insert(b.JUDGMENTS_OID, *wire_row(tenant_id=odd, workflow_id=odd)))
    assert (entry["tenant_id"], entry["data"]["workflow_id"]) == (odd, odd)


def test_an_update_has_the_row_after_and_a_delete_the_row_before() -> None:
    old, new = wire_row(status="completed"), wire_row(status="failed")
    entry = only(b.update(b.JUDGMENTS_OID, old, new))
    assert (entry["op"], entry["data"]["status"]) == ("update", "failed")
    entry = only(b.delete(b.JUDGMENTS_OID, *old))
    assert (entry["op"], entry["key"], entry["data"]["status"]) == ("delete", ID_TEXT, "completed")


def test_a_truncate_belongs_to_everybody() -> None:
    (change,) = decoded(b.truncate(b.JUDGMENTS_OID))
    tenant, fields = entry_of(change)
    assert tenant is None
    assert fields[b"op"] == b"truncate"


def test_a_delete_without_its_old_row_is_corrupt() -> None:
    (change,) = decoded(b.delete(b.JUDGMENTS_OID, *wire_row(), marker=b"K"))
    with pytest.raises(Corrupt):
        entry_of(change)


def test_a_column_of_a_type_that_nobody_knows_is_left_out() -> None:
    relation = b.relation(77, "workflows", [("tenant_id", 25), ("workflow_id", 25), ("extra", 1700), ('odd"name', 23)])
    row = b.insert(77, b"t", b"w", b"\x00\x01", pack(">i", 5))
    (change,) = decoded(relation, row)
    assert json.loads(entry_of(change)[1][b"data"]) == {"tenant_id": "t", "workflow_id": "w", 'odd"name': 5}


@pytest.mark.parametrize("time_us", [0, 1, -1, 999_999, 1_767_225_600_123_456])
def test_times_are_told_to_the_microsecond(time_us: int) -> None:
    moment = datetime.fromisoformat(rfc3339(time_us))
    assert moment - datetime(1970, 1, 1, tzinfo=UTC) == timedelta(microseconds=time_us)


@pytest.mark.parametrize(
    ("type_oid", "value", "expected"),
    [
        (1184, pack(">q", 2**63 - 1), "infinity"),
        (1184, pack(">q", -(2**63)), "-infinity"),
        (1184, pack(">q", 9_223_371_331_199_999_999), "294276-12-31T23:59:59.999999Z"),  # the last that PostgreSQL has
        (1184, pack(">q", -62_798_371_200_000_000), "0009-12-31T00:00:00.000000Z"),
        (701, pack(">d", float("nan")), "NaN"),
        (701, pack(">d", float("-inf")), "-Infinity"),
        (700, pack(">f", float("inf")), "Infinity"),
    ],
)
def test_values_that_json_or_python_lack_are_told_as_text(type_oid: int, value: bytes, expected: str) -> None:
    relation = b.relation(77, "workflows", [("tenant_id", 25), ("workflow_id", 25), ("odd", type_oid)])
    (change,) = decoded(relation, b.insert(77, b"t", b"w", value))

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    assert json.loads(entry_of(change)[1][b"data"], parse_constant=refuse)["odd"] == expected


def test_of_a_row_that_is_too_large_the_size_is_told() -> None:
    text = "x" * MAX_DATA_BYTES
    (change,) = decoded(b.insert(b.JUDGMENTS_OID, *wire_row(input_data=f'"{text}"')))
    fields = entry_of(change)[1]
    assert fields[b"key"] == ID_TEXT.encode()
    assert b"data" not in fields
    assert int(fields[b"data_bytes"]) > MAX_DATA_BYTES
