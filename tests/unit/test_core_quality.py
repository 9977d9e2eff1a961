"""The kinds of error: every refusal of input has one, a stored row that breaks the rules has one, a good row none."""

import math
import timeit
from typing import Any

import pytest

from judgify_engine import errors
from judgify_engine.core.quality import CHECKED, KINDS, fault_of, kind_of, severity, share
from judgify_engine.errors import JudgifyError
from judgify_engine.wire.request import decode_execute

GOOD: dict[str, Any] = {
    "tenant_id": "demo",
    "workflow_id": "w",
    "input_data": '{"value": 1}',
    "final_result": '{"verdict": "ok"}',
    "confidence_score": 0.5,
    "execution_time_ms": 1.5,
    "method_used": "rule",
}


def refusal(body: bytes) -> JudgifyError:
    with pytest.raises(JudgifyError) as caught:
        decode_execute(body)
    return caught.value


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "bad_json"),
        (b'{"workflow_id": "w", ', "bad_json"),
        (b'{"workflow_id": "w", "input_data": {"x": "\xff"}}', "bad_json"),
        (b'{"input_data": {}}', "missing_field"),
        (b'{"workflow_id": "w"}', "missing_field"),
        (b'{"workflow_id": "w", "input_data": {}, "colour": 1}', "unknown_field"),
        (b"[]", "wrong_type"),
        (b'{"workflow_id": 5, "input_data": {}}', "wrong_type"),
        (b'{"workflow_id": "w", "input_data": null}', "wrong_type"),
        (b'{"workflow_id": "w", "input_data": {}, "context": "x"}', "wrong_type"),
        (b'{"workflow_id": "a/b", "input_data": {}}', "invalid_value"),
        (b'{"workflow_id": "w", "input_data": {}, "occurred_at": "yesterday"}', "invalid_value"),
        (b'{"workflow_id": "w", "input_data": {}, "occurred_at": "2026-01-01T00:00:00"}', "invalid_value"),
        (b'{"workflow_id": "w", "input_data": {}, "occurred_at": "9999-01-01T00:00:00Z"}', "invalid_value"),
        (b'{"workflow_id": "w", "input_data": {"x": 1e400}}', "out_of_range"),
        (b'{"workflow_id": "w", "input_data": {"x": "\\u0000"}}', "unstorable_text"),
        (b'{"workflow_id": "w", "input_data": {"x": ' + b"[" * 80 + b"]" * 80 + b"}}", "nested_too_deep"),
    ],
)
def test_each_bad_body_has_its_kind(body: bytes, kind: str) -> None:
    assert kind_of(refusal(body)) == kind


def test_what_speaks_of_the_input_has_a_kind_of_the_closed_set_and_nothing_else_has() -> None:
    of_input = {
        errors.MalformedJson, errors.InvalidField, errors.UnstorableText, errors.NumberOutOfRange, errors.NestedTooDeep,
        errors.RowRefused, errors.IdempotencyMismatch, errors.WorkflowNotFound, errors.WorkflowBroken,
    }  # fmt: skip
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, JudgifyError):
            assert (kind_of(kind("x")) in KINDS) == (kind in of_input), kind
            assert (kind_of(kind("x")) is None) == (kind not in of_input), kind
    assert len(set(KINDS)) == len(KINDS)


def test_a_good_row_has_no_fault() -> None:
    assert fault_of(GOOD) is None
    for method in ("rule", "llm", "hybrid"):
        assert fault_of(GOOD | {"method_used": method}) is None
    for bound in ({"confidence_score": 0.0}, {"confidence_score": 1.0}, {"execution_time_ms": 0.0}, {"execution_time_ms": 3e4}):
        assert fault_of(GOOD | bound) is None
    assert set(GOOD) == CHECKED, "the columns that it asks for are all that it needs"


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"tenant_id": ""}, "missing_field"),
        ({"workflow_id": ""}, "missing_field"),
        ({"workflow_id": None}, "missing_field"),
        ({"input_data": "null"}, "missing_field"),
        ({"input_data": None}, "missing_field"),
        ({"final_result": "null"}, "missing_field"),
        ({"confidence_score": None}, "missing_field"),
        ({"execution_time_ms": None}, "missing_field"),
        ({"confidence_score": -0.001}, "out_of_range"),
        ({"confidence_score": 1.001}, "out_of_range"),
        ({"confidence_score": math.nan}, "out_of_range"),
        ({"execution_time_ms": -1.0}, "out_of_range"),
        ({"execution_time_ms": 30_000.1}, "out_of_range"),
        ({"method_used": "magic"}, "unknown_method"),
        ({"method_used": None}, "unknown_method"),
    ],
)
def test_a_row_that_breaks_a_rule_has_its_kind(fields: dict[str, Any], kind: str) -> None:
    assert fault_of(GOOD | fields) == kind
    assert kind in KINDS


def test_looking_at_a_good_row_is_cheap() -> None:
    """It is done for every row of the stream. The best of many, so that a busy machine does not matter."""
    row = GOOD | {"input_data": '{"value": "' + "x" * 2000 + '"}'}
    best_s = min(timeit.repeat(lambda: fault_of(row), number=1000, repeat=50)) / 1000
    assert best_s < 1e-6


@pytest.mark.parametrize(
    ("valid", "invalid", "expected"),
    [
        (100, 0, None),
        (95, 5, None),
        (9_499_999, 500_001, "warning"),
        (94, 6, "warning"),
        (90, 10, "warning"),
        (8_999_999, 1_000_001, "critical"),
        (0, 1, "critical"),
        (0, 0, None),
    ],
)
def test_severity_by_the_limits_of_the_design(valid: int, invalid: int, expected: str | None) -> None:
    assert severity(share(valid, invalid)) == expected


def test_the_limits_hold_exactly_at_any_size() -> None:
    for scale in range(1, 3000):
        assert severity(share(19 * scale, scale)) is None
        assert severity(share(9 * scale, scale)) == "warning"


def test_no_records_have_no_share() -> None:
    assert share(0, 0) is None
    assert share(3, 1) == 0.75
