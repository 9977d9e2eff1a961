"""Answers and problems: the bytes that programs rely on."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from builders import judgment
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.errors import (
    CommitUnknown,
    Forbidden,
    InvalidField,
    JudgifyError,
    QueueFull,
    RetryLater,
    Unauthorized,
    WorkflowNotFound,
)
from judgify_engine.wire.answer import encode_answer, format_id, format_time, format_us, record_of
from judgify_engine.wire.problem import encode_problem


@given(st.binary(min_size=16, max_size=16))
def test_an_id_is_written_as_a_uuid(value: bytes) -> None:
    assert format_id(value) == str(UUID(bytes=value))


@given(st.lists(st.integers(-2_208_988_800_000_000, 7_258_118_400_000_000), min_size=1, max_size=5))
def test_times_are_written_as_rfc_3339_in_utc(times_us: list[int]) -> None:
    for time_us in times_us:
        text = format_us(time_us)
        assert text.endswith("Z")
        assert datetime.fromisoformat(text) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
        assert text == format_time(datetime.fromisoformat(text))


def test_times_of_one_second_differ_in_their_fraction() -> None:
    assert [format_us(1_000_000 + us) for us in (0, 1, 999_999)] == [
        "1970-01-01T00:00:01.000000Z",
        "1970-01-01T00:00:01.000001Z",
        "1970-01-01T00:00:01.999999Z",
    ]


def test_an_answer_has_the_members_of_the_design() -> None:
    odd = b'{ "verdict" : "ok", "n": 1.50 }'
    body = encode_answer(judgment(7, final_result=odd))
    assert odd in body
    assert list(msgspec.json.decode(body)) == [
        "judgment_id", "workflow_id", "workflow_version", "final_result", "confidence_score", "method_used", "status",
        "execution_time_ms", "created_at",
    ]  # fmt: skip


def test_a_failed_answer_says_why() -> None:
    told = msgspec.json.decode(
        encode_answer(judgment(status="failed", error="rules[0]: no such field: v", confidence_score=0.0))
    )
    assert (told["status"], told["error"], told["confidence_score"]) == ("failed", "rules[0]: no such field: v", 0.0)


def stored(**fields: Any) -> dict[str, Any]:
    """A judgment as the driver gives its row."""
    j = judgment(7, **fields)
    names = (
        "tenant_id",
        "workflow_id",
        "workflow_version",
        "confidence_score",
        "method_used",
        "status",
        "execution_time_ms",
        "rule_index",
        "error",
    )
    return {name: getattr(j, name) for name in names} | {
        "id": UUID(bytes=j.id),
        "input_data": j.input_data.decode(),
        "context": j.context.decode(),
        "final_result": j.final_result.decode(),
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "occurred_at": None,
    }


def test_the_stored_row_gives_what_was_answered() -> None:
    answered = msgspec.json.decode(encode_answer(judgment(7, status="failed", error="x")))
    told = msgspec.json.decode(msgspec.json.encode(record_of(stored(status="failed", error="x"))))
    assert {name: told[name] for name in answered} == answered


def test_a_record_has_all_of_the_judgment() -> None:
    told = msgspec.json.decode(msgspec.json.encode(record_of(stored(rule_index=0, input_data=b'{"v": 1}'))))
    assert told["input_data"] == {"v": 1}
    assert told["rule_index"] == 0
    assert "occurred_at" not in told


def problem(error: JudgifyError) -> tuple[int, dict[str, Any], dict[str, str]]:
    status, body, headers = encode_problem(error)
    return status, msgspec.json.decode(body), headers


def test_a_problem_has_the_members_of_rfc_9457() -> None:
    status, told, headers = problem(InvalidField("input_data must be a JSON object", field="input_data"))
    assert status == told["status"] == 422
    assert headers["Content-Type"] == "application/problem+json"
    assert told == {
        "type": "urn:judgify:problem:invalid_field",
        "title": "A field is wrong",
        "status": 422,
        "code": "invalid_field",
        "detail": "input_data must be a JSON object",
        "field": "input_data",
    }


@pytest.mark.parametrize(("after_s", "header"), [(1.0, "1"), (0.0, "1"), (0.2, "1"), (1.2, "2"), (5.0, "5")])
def test_what_a_repeat_can_cure_says_when_in_whole_seconds(after_s: float, header: str) -> None:
    for kind in (QueueFull, CommitUnknown, RetryLater):
        status, _, headers = problem(kind("later", retry_after_s=after_s))
        assert status == 503
        assert headers["Retry-After"] == header


def test_what_a_repeat_cannot_cure_says_no_time() -> None:
    for error in (InvalidField("x"), WorkflowNotFound("x"), Forbidden("x"), JudgifyError("x")):
        assert "Retry-After" not in problem(error)[2]


def test_a_missing_token_is_asked_for() -> None:
    assert problem(Unauthorized("x"))[2]["WWW-Authenticate"].startswith("Bearer")
    assert "WWW-Authenticate" not in problem(Forbidden("x"))[2]


def test_errors_are_not_cached() -> None:
    assert problem(WorkflowNotFound("x"))[2]["Cache-Control"] == "no-store"
