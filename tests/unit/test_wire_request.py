"""Bodies: what is wrong is refused with the right code and the field named; what is right is kept byte for byte."""

import gc
import json
import time
import tracemalloc
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judgify_engine.core.rules import WorkflowDefinition
from judgify_engine.errors import InvalidField, MalformedJson, NestedTooDeep, NumberOutOfRange, Rejected, UnstorableText
from judgify_engine.wire.request import IDEMPOTENCY_KEY, MAX_DEPTH, Asked, decode_body, decode_execute

SEED = (
    b'{"workflow_id": "test-workflow-3", "input_data": {"temperature": 92.3, "pressure": 101.2, "vibration": 44.1,'
    b' "machine_id": "MACHINE_3", "user_id": 13}, "context": {"shift": "day", "operator": "operator_3"}}'
)


def body(input_data: bytes = b"{}", rest: bytes = b"", workflow_id: bytes = b'"w"') -> bytes:
    return b'{"workflow_id":' + workflow_id + b',"input_data":' + input_data + rest + b"}"


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    """A body of this depth, itself and input_data included."""
    return body(b'{"a":' + opening * (depth - 2) + b"1" + closing * (depth - 2) + b"}")


def test_the_seed_request_is_read() -> None:
    asked = decode_execute(SEED)
    assert asked.workflow_id == "test-workflow-3"
    assert asked.input_data["temperature"] == 92.3
    assert asked.context == {"shift": "day", "operator": "operator_3"}
    assert asked.context_raw == b'{"shift": "day", "operator": "operator_3"}'
    assert asked.occurred_at_us is None


def test_without_context_it_is_empty() -> None:
    assert decode_execute(body()) == Asked("w", b"{}", {}, b"{}", {}, None)


MALFORMED, FIELD, TEXT, NUMBER, DEEP = MalformedJson, InvalidField, UnstorableText, NumberOutOfRange, NestedTooDeep


@pytest.mark.parametrize(
    ("bad", "error", "field"),
    [
        (b"", MALFORMED, None),
        (b" ", MALFORMED, None),
        (b"hello", MALFORMED, None),
        (b"\xef\xbb\xbf" + body(), MALFORMED, None),
        (body() + b"x", MALFORMED, None),
        (body() + body(), MALFORMED, None),
        (body()[:-1], MALFORMED, None),
        (b"\x1f\x8b\x08\x00", MALFORMED, None),
        (body().decode().encode("utf-16"), MALFORMED, None),
        (body(b'{"a":"\xff"}'), MALFORMED, None),
        (body(b'{"\xff":1}'), MALFORMED, None),
        (body(b'{"a":"\xc3"}'), MALFORMED, None),
        (body(b'{"a":"\xc0\x80"}'), MALFORMED, None),
        (body(b'{"a":"\xed\xa0\x80"}'), MALFORMED, None),
        (body(b'{"a":"\xf4\x90\x80\x80"}'), MALFORMED, None),
        (body(rest=b',"\xff":1'), MALFORMED, None),
        (body(b'{"a":"\x00"}'), MALFORMED, None),
        (body(b'{"a\x00":1}'), MALFORMED, None),
        (body(b'{"a":"\n"}'), MALFORMED, None),
        (body(b'{"a":"\x1f"}'), MALFORMED, None),
        (body(b'{"a":"\\x"}'), MALFORMED, None),
        (body(b'{"a":"\\u12"}'), MALFORMED, None),
        (body(b'{"a":"\\ud83d\\u"}'), MALFORMED, None),
        (body(b'{"a":01}'), MALFORMED, None),
        (body(b'{"a":1.}'), MALFORMED, None),
        (body(b'{"a":.5}'), MALFORMED, None),
        (body(b'{"a":+1}'), MALFORMED, None),
        (body(b'{"a":-}'), MALFORMED, None),
        (body(b'{"a":1e}'), MALFORMED, None),
        (body(b'{"a":0x10}'), MALFORMED, None),
        (body(b'{"a":NaN}'), MALFORMED, None),
        (body(b'{"a":Infinity}'), MALFORMED, None),
        (body(b'{"a":NaN,"b":"\\u0041"}'), MALFORMED, None),
        (body(b'{"a":-Infinity,"b":"\\u0041"}'), MALFORMED, None),
        (body(b'{"a":True}'), MALFORMED, None),
        (body(b"{'a':1}"), MALFORMED, None),
        (body(b'{"a":1,}'), MALFORMED, None),
        (body(b'{"a":[1,]}'), MALFORMED, None),
        (body(b'{"a":1 /* why */}'), MALFORMED, None),
        (body(b"{a:1}"), MALFORMED, None),
        (b"{" * 100, NestedTooDeep, None),
        (b"[" * 100_000, NestedTooDeep, None),
        (b"{}", FIELD, "workflow_id"),
        (b"[]", FIELD, "body"),
        (b"null", FIELD, "body"),
        (b"5", FIELD, "body"),
        (b'"x"', FIELD, "body"),
        (b'{"workflow_id":"w"}', FIELD, "input_data"),
        (b'{"input_data":{}}', FIELD, "workflow_id"),
        (body(workflow_id=b"5"), FIELD, "workflow_id"),
        (body(workflow_id=b"null"), FIELD, "workflow_id"),
        (body(workflow_id=b'""'), FIELD, "workflow_id"),
        (body(workflow_id=b'"a b"'), FIELD, "workflow_id"),
        (body(workflow_id=b'"-a"'), FIELD, "workflow_id"),
        (body(workflow_id=b'"a\\n"'), FIELD, "workflow_id"),
        (body(workflow_id=b'"a/b"'), FIELD, "workflow_id"),
        (body(workflow_id='"ä"'.encode()), FIELD, "workflow_id"),
        (body(workflow_id=b'"' + b"a" * 129 + b'"'), FIELD, "workflow_id"),
        (body(b"null"), FIELD, "input_data"),
        (body(b"[]"), FIELD, "input_data"),
        (body(b'"{}"'), FIELD, "input_data"),
        (body(b"5"), FIELD, "input_data"),
        (body(rest=b',"context":null'), FIELD, "context"),
        (body(rest=b',"context":[1]'), FIELD, "context"),
        (body(rest=b',"contxt":{}'), FIELD, "contxt"),
        (body(rest=b',"tenant_id":"x"'), FIELD, "tenant_id"),
        (body(rest=b',"occurred_at":5'), FIELD, "occurred_at"),
        (body(rest=b',"occurred_at":""'), FIELD, "occurred_at"),
        (body(rest=b',"occurred_at":"yesterday"'), FIELD, "occurred_at"),
        (body(rest=b',"occurred_at":"2026-01-01"'), FIELD, "occurred_at"),
        (body(rest=b',"occurred_at":"2026-01-01T00:00:00"'), FIELD, "occurred_at"),
        (body(rest=b',"occurred_at":"2026-02-30T00:00:00Z"'), FIELD, "occurred_at"),
        (body(rest=b',"occurred_at":"1899-12-31T23:59:59Z"'), FIELD, "occurred_at"),
        (body(rest=b',"occurred_at":"2200-01-01T00:00:01Z"'), FIELD, "occurred_at"),
        (body(rest=b',"occurred_at":"0001-01-01T00:00:00+23:59"'), FIELD, "occurred_at"),
        (body(rest=b',"occurred_at":"9999-12-31T23:59:59-23:59"'), FIELD, "occurred_at"),
        (body(b'{"a":"\\u0000"}'), TEXT, "input_data.a"),
        (body(b'{"a":{"b":[1,"x\\u0000y"]}}'), TEXT, "input_data.a.b[1]"),
        (body(b'{"a\\u0000":1}'), TEXT, None),
        (body(rest=b',"context":{"c":"\\u0000"}'), TEXT, "context.c"),
        (body(b'{"a":"\\ud800"}'), TEXT, "input_data.a"),
        (body(b'{"a":"\\udc00"}'), TEXT, "input_data.a"),
        (body(b'{"a":"\\ude00\\ud83d"}'), TEXT, "input_data.a"),
        (body(b'{"a":"\\ud83dx"}'), TEXT, "input_data.a"),
        (body(b'{"a":["\\uD83D"]}'), TEXT, "input_data.a[0]"),
        (body(b'{"\\ud800":1}'), TEXT, None),
        (body(b'{"x":{"\\ud800":"\\u0000"}}'), TEXT, None),
        (body(rest=b',"\\ud800":1'), TEXT, None),
        (body(b'{"a":1e400}'), NUMBER, None),
        (body(b'{"a":-1E+400}'), NUMBER, None),
        (body(b'{"a":1e-400}'), NUMBER, None),
        (body(b'{"a":1e99999999999999999999}'), NUMBER, None),
        (body(b'{"a":10000000000000000e299}'), NUMBER, None),
        (body(b'{"a":1.8e308}'), NUMBER, None),
        # jsonb keeps a zero's exponent and writes it out: 9 bytes become 16 KB, a body of 256 KB nearly 500 MB.
        (body(b'{"a":0e-16000}'), NUMBER, None),
        (body(b'{"a":0.0E-16000}'), NUMBER, None),
        (body(b'{"a":0e-20000}'), NUMBER, None),
        (body(b'{"a":0e9999999999}'), NUMBER, None),
        (body(b'{"a":18446744073709551616}'), NUMBER, None),
        (body(b'{"a":-9223372036854775809}'), NUMBER, None),
        (body(b'{"a":' + b"9" * 5000 + b"}"), NUMBER, None),
        (body(b'{"a":-' + b"9" * 5000 + b"}"), NUMBER, None),
        (body(b'{"a":[{"b":' + b"9" * 100_000 + b"}]}"), NUMBER, None),
        (body(b'{"a":0.' + b"0" * 400 + b"1}"), NUMBER, None),
        (body(b'{"a":1.' + b"3" * 500 + b"}"), NUMBER, None),
        (nested(MAX_DEPTH + 1), DEEP, None),
        (nested(MAX_DEPTH + 1, b'{"a":', b"}"), DEEP, None),
        (body(rest=b',"context":{"a":' + b"[" * 63 + b"]" * 63 + b"}"), DEEP, None),
        (nested(10_000), DEEP, None),
    ],
    ids=lambda value: repr(value[:60]) if isinstance(value, bytes) else None,
)
def test_a_bad_body_is_refused_with_its_code_and_field(bad: bytes, error: type[Rejected], field: str | None) -> None:
    with pytest.raises(Rejected) as caught:
        decode_execute(bad)
    assert type(caught.value) is error
    assert caught.value.status == (400 if error is MALFORMED else 422)
    if field is not None:
        assert caught.value.extra["field"] == field
        assert field.removeprefix("input_data.") in caught.value.detail
    caught.value.detail.encode()  # an answer can be made of it
    msgspec.json.encode(caught.value.extra)


@pytest.mark.parametrize(
    "good",
    [
        b'{"a":18446744073709551615}',
        b'{"a":-9223372036854775808}',
        b'{"a":9223372036854775807, "b":9223372036854775808}',
        b'{"a":0e400}',
        b'{"a":0.0e-400}',
        b'{"a":-0}',
        b'{"a":-0.0}',
        b'{"a":1E5,"b":1e+05,"c":1.50,"d":100e-2}',
        b'{"a":1.7976931348623157e308,"b":5e-324,"c":2.2250738585072014e-308}',
        b'{"a":0.' + b"0" * 300 + b"1}",
        b'{"a":1234567890123456789.123456789}',
        b'{"a":"\\u0001\\u001f\\u007f"}',
        b'{"a":"\\ud83d\\ude00","\\ud83d\\ude00":1}',
        '{"ä":"ö😀","":"","\u2028":"\ufeff"}'.encode(),
        b'{"a":"\x7f"}',
        b'{"a":"\\/\\b\\f\\n\\r\\t\\"\\\\"}',
        b'{"a":"\\\\u0000"}',
        b'{"a":"\\\\\\\\ud800 [[[[[ {{{{{"}',
        b'{ "a" : [ 1 , 2 ] ,\n\t"a" : null }',
        b'{"a":"' + b"[" * 200 + b'"}',
        b'{"a":[' + b",".join([b"[]"] * 500) + b"]}",
        b'{"a":"1e400","b":"99999999999999999999"}',
    ],
)
def test_what_is_right_is_kept_byte_for_byte(good: bytes) -> None:
    asked = decode_execute(body(good, b' , "context": ' + good + b" "))
    assert asked.input_raw == asked.context_raw == good
    assert asked.input_data == asked.context == json.loads(good)


def test_a_depth_of_64_is_the_deepest() -> None:
    assert decode_execute(nested(MAX_DEPTH)).input_data
    assert decode_execute(nested(MAX_DEPTH, b'{"a":', b"}")).input_data
    with pytest.raises(NestedTooDeep) as caught:
        decode_execute(nested(MAX_DEPTH + 1))
    assert caught.value.extra["limit"] == MAX_DEPTH == 64


@pytest.mark.parametrize(
    ("text", "time_us"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-01-31T12:00:00+02:00", 1_769_853_600_000_000),
        ("2026-01-31T12:00:00.5-05:30", 1_769_880_600_500_000),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("1900-01-01T00:00:00Z", -2_208_988_800_000_000),
    ],
)
def test_occurred_at_is_a_moment_whatever_its_zone(text: str, time_us: int) -> None:
    assert decode_execute(body(rest=b',"occurred_at":"%s"' % text.encode())).occurred_at_us == time_us


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5), JSON_VALUES, max_size=4)


@given(OBJECTS, st.booleans(), st.sampled_from([None, 1]))
def test_any_json_object_is_accepted_and_kept_byte_for_byte(value: dict[str, Any], escaped: bool, indent: int | None) -> None:
    raw = json.dumps(value, ensure_ascii=escaped, indent=indent).encode()
    asked = decode_execute(body(raw))
    assert asked.input_raw == raw
    assert asked.input_data == json.loads(raw)


VALID = (
    b'{"workflow_id":"w.1","input_data":{"a":[1,-2.5e3,true,null,{"b":"\\u00e4\\ud83d\\ude00\xc3\xa4\\n"}],"n":18446744073709551615},'
    b'"context":{"k":"v"},"occurred_at":"2026-01-31T12:00:00Z"}'
)


def test_a_body_cut_at_any_byte_is_refused_and_nothing_else() -> None:
    decode_execute(VALID)
    for end in range(len(VALID)):
        with pytest.raises(MalformedJson):
            decode_execute(VALID[:end])


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_random_bytes_are_refused_and_nothing_else(data: bytes) -> None:
    with pytest.raises(Rejected):
        decode_execute(data)


@settings(max_examples=400)
@given(st.integers(0, len(VALID) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_a_damaged_body_is_accepted_whole_or_refused(place: int, put: bytes, gone: int) -> None:
    damaged = VALID[:place] + put + VALID[place + gone :]
    with suppress(Rejected):
        asked = decode_execute(damaged)
        assert asked.input_raw in damaged
        assert json.loads(asked.input_raw) == asked.input_data


@pytest.mark.parametrize("kind", [WorkflowDefinition, dict, int])
@given(data=st.binary(max_size=40))
def test_other_bodies_are_decoded_or_refused(kind: type[Any], data: bytes) -> None:
    with suppress(Rejected):
        decode_body(data, kind)


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (b'{"default":{"result":{}},"rules":[{"when":"true","result":5}]}', "rules[0].result"),
        (b'{"default":{"result":{},"confidence":2}}', "default.confidence"),
        (b'{"default":{"result":{}},"rules":[{"when":"true","result":{},"wen":1}]}', "rules[0].wen"),
        (b'{"rules":[]}', "default"),
    ],
)
def test_a_wrong_workflow_names_the_field(bad: bytes, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        decode_body(bad, WorkflowDefinition)
    assert caught.value.extra["field"].replace("[...]", "[0]") == field


def test_what_a_name_may_look_like_is_said_in_words() -> None:
    with pytest.raises(InvalidField) as track:
        decode_body(b'{"track": ["a b"], "default": {"result": {}}}', WorkflowDefinition)
    assert str(track.value) == (
        "track[0]: must be names of letters, digits, _ and -, each beginning with a letter or _, joined by dots"
    )
    with pytest.raises(InvalidField) as workflow:
        decode_execute(body(workflow_id=b'"a b"'))
    assert str(workflow.value).startswith("workflow_id: must be letters, digits and . _ : -")


@pytest.mark.parametrize("key", ["a", "~!", "x" * 255, '"', "0b4f-1"])
def test_visible_ascii_is_an_idempotency_key(key: str) -> None:
    assert IDEMPOTENCY_KEY.match(key)


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "ä", "\x7f", "a\0"])
def test_anything_else_is_none(key: str) -> None:
    assert not IDEMPOTENCY_KEY.match(key)


# What one body may cost: it is decoded on the event loop, so nothing may grow faster than its length. -------------------


def seconds(data: bytes) -> float:
    started_s = time.perf_counter()
    with suppress(Rejected):
        decode_execute(data)
    return time.perf_counter() - started_s


@pytest.mark.parametrize(
    "unit", [b'\\"', b'"', b'{"', b"[[]", b'"\\', b"\\u0041", b"9", b'{"a":', b'"a\\', b"1e999,"], ids=lambda unit: repr(unit)
)
@pytest.mark.parametrize("start", [b'"\\u', b'{"\\u0041":"', b"["])
def test_the_time_a_body_takes_grows_with_its_length_only(start: bytes, unit: bytes) -> None:
    data = start + unit * (8_000 // len(unit))
    assert min(seconds(data), seconds(data)) < 0.1  # 8 KB; 256 KB may come


@pytest.mark.parametrize(
    "data",
    [
        body(b'{"' + b"k" * 16_000 + b'":[' + b",".join([b"1"] * 8000) + b'],"z":"\\u0041"}'),
        body(b'{"' + b"k" * 16_000 + b'":{' + b",".join(b'"%d":1' % i for i in range(2000)) + b'},"z":"\\u0041"}'),
        body(b'{"z":"\\u0041","a":' + b'{"%s":' % (b"k" * 500) * 50 + b"1" + b"}" * 51),
    ],
)
def test_the_memory_a_body_takes_grows_with_its_length_only(data: bytes) -> None:
    gc.collect()
    tracemalloc.start()
    try:
        decode_execute(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 * len(data)
