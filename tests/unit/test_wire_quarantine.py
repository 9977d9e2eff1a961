"""Rows of the quarantine as JSON that any client can read, whatever body they hold."""

import base64
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from judgify_engine.wire.quarantine import is_json, is_replay, item_of, record_of, replay_key
from judgify_engine.wire.request import IDEMPOTENCY_KEY


def row(body: bytes | None = b"{}", **fields: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "id": UUID(int=7),
        "workflow_id": "w",
        "kind": "bad_json",
        "source": "http",
        "code": "malformed_json",
        "field": None,
        "reason": "why",
        "body": body,
        "kept": body is not None,
        "body_cut": False,
        "repeated": 1,
        "created_at": datetime(2026, 1, 2, tzinfo=UTC),
        "replayed_at": None,
        "judgment_id": None,
    }
    return values | fields


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a": [1, 2.50, "\\u0000", "\xc3\xa4"]}', True),
        (b'{"x": 1e400}', True),
        (b"null", True),
        (b"", False),
        (b"{", False),
        (b"NaN", False),
        (b'"\xff"', False),
        (b'"\\ud800"', False),
        (b"9" * 5000, False),
        (b"[" * 100_000 + b"]" * 100_000, False),
    ],
)
def test_a_body_is_given_as_json_where_it_is_and_else_in_base64(body: bytes, expected: bool) -> None:
    assert is_json(body) == expected
    encoded = msgspec.json.encode(record_of(row(body)))
    told = json.loads(encoded)
    assert ("body_json" in told, "body_base64" in told) == (expected, not expected)
    if expected:
        assert body in encoded, "byte for byte"
    else:
        assert base64.b64decode(told["body_base64"]) == body


def test_what_is_kept_of_the_body_is_told() -> None:
    assert [item_of(r).body for r in (row(), row(body_cut=True), row(None))] == ["whole", "cut", "none"]
    told = json.loads(msgspec.json.encode(record_of(row(None, repeated=4950))))
    assert not {"body_json", "body_base64"} & told.keys()
    assert told["repeated"] == 4950


def test_a_cut_body_is_never_given_as_json() -> None:
    """What was cut may still be JSON: a number that lost its last digits is another one."""
    assert record_of(row(b"123", body_cut=True)).body_base64 is not None


def test_a_workflow_that_could_not_be_read_is_null() -> None:
    assert json.loads(msgspec.json.encode(item_of(row(workflow_id=""))))["workflow_id"] is None


def test_the_key_of_a_replay_is_none_that_a_sender_can_use() -> None:
    key = replay_key("0")
    assert is_replay(key)
    assert not IDEMPOTENCY_KEY.match(key)
    assert not is_replay("quarantine-1")
