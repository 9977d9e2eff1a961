"""Request bodies to trusted values: decode and validate. Pure.

`input_data` and `context` stay the bytes that came, so PostgreSQL gets them unchanged, and are decoded once for the rules.
What PostgreSQL's jsonb cannot hold (NUL, lone surrogates) or would blow up (numbers far outside float64) is refused by name.
The careful checks run only when the bytes hold something suspicious: they cost 10 times the decoding.
"""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from judgify_engine.core.actions import NAME as ACTION_NAME
from judgify_engine.core.actions import URL as ACTION_URL
from judgify_engine.core.depth import MAX_DEPTH
from judgify_engine.core.tracking import NAME_PATTERN
from judgify_engine.errors import InvalidField, MalformedJson, NestedTooDeep, NumberOutOfRange, UnstorableText

WORKFLOW_ID = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}(?!\n)$"
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")
MAX_DIGITS = 400
MAX_EXPONENTS = 1000
MAX_WRITTEN_OUT = 100_000
"""Digits that all exponents of a body may add: PostgreSQL writes 1e300 out in full, 60 times as long."""
INT_MIN, INT_MAX = -(2**63), 2**64 - 1  # what CEL's int and uint hold
EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

WorkflowId = Annotated[str, Meta(pattern=WORKFLOW_ID, description="Letters, digits and . _ : -, at most 128")]


JsonObject = Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]


def _no_context() -> msgspec.Raw:
    return msgspec.Raw(b"{}")


class ExecuteRequest(msgspec.Struct, forbid_unknown_fields=True):
    """One thing to judge."""

    workflow_id: WorkflowId
    input_data: JsonObject
    context: JsonObject = msgspec.field(default_factory=_no_context)
    occurred_at: datetime | None = None


_Place = tuple[()] | tuple["_Place", str | int]
"""Where a value is: the place around it and the step from there."""


class Asked(NamedTuple):
    """A valid request."""

    workflow_id: str
    input_raw: bytes
    input_data: dict[str, Any]
    context_raw: bytes
    context: dict[str, Any]
    occurred_at_us: int | None


_decode_request = msgspec.json.Decoder(ExecuteRequest).decode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
# Every digit to 0, E to e, signs left out: then an exponent of three digits or more reads e000, and a long integer is a run of
# zeros. Only bodies with one of these can hold a number out of range. (A regular expression takes 5 times as long.)
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789E", b"000000000e")
_EXPONENT, _LONG_EXPONENT, _LONG_INTEGER = b"e00", b"e000", b"0" * 19


def decode_execute(body: bytes) -> Asked:
    """Decode and validate the body of POST …/execute.

    Raises MalformedJson (400), InvalidField, NestedTooDeep, NumberOutOfRange or UnstorableText (422).
    """
    if _is_suspicious(body):
        check_carefully(body)
    try:
        request = _decode_request(body)
        input_raw, context_raw = bytes(request.input_data), bytes(request.context)
        input_data = _decode_member("input_data", input_raw)
        context = _decode_member("context", context_raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise explain(error, body) from error
    occurred_at = request.occurred_at
    if occurred_at is None:
        return Asked(request.workflow_id, input_raw, input_data, context_raw, context, None)
    return Asked(request.workflow_id, input_raw, input_data, context_raw, context, _to_us(occurred_at))


class _Named(msgspec.Struct):
    workflow_id: WorkflowId


_decode_named = msgspec.json.Decoder(_Named).decode


def workflow_id_of(body: bytes) -> str:
    """The workflow that a refused body names; empty where that cannot be read or is no workflow's id."""
    try:
        return _decode_named(body).workflow_id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""


def _is_suspicious(body: bytes) -> bool:
    if b"\\u" in body or body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        return True
    numbers = body.translate(_DIGITS_TO_ZERO, b"+-")
    return _LONG_EXPONENT in numbers or _LONG_INTEGER in numbers or numbers.count(_EXPONENT) > MAX_EXPONENTS


def decode_body(body: bytes, kind: type[Any]) -> Any:
    """Decode and validate any other JSON body into `kind`. Raises as `decode_execute` does."""
    check_carefully(body)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise explain(error, body) from error


def _decode_member(name: str, raw: bytes) -> dict[str, Any]:
    try:
        return _decode_object(raw)
    except msgspec.ValidationError as error:
        if raw[:1] != b"{":
            detail = f"{name} must be a JSON object, got {_glimpse(raw)}"
            raise InvalidField(detail, kind="wrong_type", field=name) from error
        raise InvalidField(f"{name}: {error}", field=name) from error


def _to_us(moment: datetime) -> int:
    if moment.tzinfo is None:
        raise InvalidField(
            "occurred_at must be an RFC 3339 time with a zone, such as 2026-01-31T12:00:00Z", field="occurred_at"
        )
    if not EARLIEST <= moment <= LATEST:
        raise InvalidField(
            f"occurred_at must lie between {EARLIEST:%Y} and {LATEST:%Y}, got {moment.isoformat()}", field="occurred_at"
        )
    return (moment - _EPOCH) // timedelta(microseconds=1)


_named_field = re.compile(r"field `([^`]+)`")
_KINDS = (
    (re.compile("Object missing required field"), "missing_field"),
    (re.compile("Object contains unknown field"), "unknown_field"),
    (re.compile("Expected `[^`]+`, got `[^`]+`$"), "wrong_type"),
)
"""How msgspec says it, and the kind (core/quality) that it is; all else is a wrong value."""


_IN_WORDS = {
    f"Expected `str` matching regex {pattern!r}": f"must be {words}"
    for pattern, words in (
        (WORKFLOW_ID, "letters, digits and . _ : -, at most 128, the first one a letter or digit"),
        (ACTION_NAME, "letters, digits, _ and -, at most 64, the first one a letter or digit"),
        (ACTION_URL, "an http or https URL in ASCII, without a user and a fragment"),
        (NAME_PATTERN, "names of letters, digits, _ and -, each beginning with a letter or _, joined by dots"),
    )
}
"""Patterns, as msgspec tells them, for people."""


def explain(error: Exception, body: bytes) -> Exception:
    """Sort a decoder's error: not JSON at all (400), or JSON of the wrong shape (422, naming the field)."""
    if isinstance(error, msgspec.ValidationError):
        text, _, place = str(error).partition(" - at `$")
        text, _, within = text.partition(" - at `key` in `$")  # the key of a map is wrong
        place = place or within
        named = _named_field.search(text)
        field = ".".join(filter(None, (place.rstrip("`").lstrip("."), named[1] if named else "")))
        kind = next((kind for said, kind in _KINDS if said.match(text)), "invalid_value")
        text = _IN_WORDS.get(text, text)
        return InvalidField(f"{field or 'body'}: {text}", kind=kind, field=field or "body")
    if isinstance(error, RecursionError):
        return _too_deep()
    if not body:
        return MalformedJson("the body is empty; a JSON object is expected")
    if isinstance(error, UnicodeDecodeError):
        return MalformedJson(f"the body is not valid UTF-8: byte {error.object[error.start]:#04x} of a string")
    return MalformedJson(str(error))


def check_carefully(body: bytes) -> None:
    """Look at every string and number. Raises as `decode_execute` does."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise MalformedJson(f"the body is not valid UTF-8: byte {body[error.start]:#04x} at {error.start}") from error
    _check_depth(text)
    written_out = 0

    def parse_float(literal: str) -> float:
        nonlocal written_out
        value, exponent = _parse_float(literal)
        written_out += abs(exponent)
        return value

    try:
        tree = json.loads(text, parse_int=_parse_int, parse_float=parse_float, parse_constant=_parse_constant)
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        raise (
            MalformedJson("the body is empty; a JSON object is expected") if not body else MalformedJson(str(error))
        ) from error
    if written_out > MAX_WRITTEN_OUT:
        raise NumberOutOfRange(
            f"the numbers' exponents add {written_out} digits, of at most {MAX_WRITTEN_OUT}; write such numbers as strings",
            limit=MAX_WRITTEN_OUT,
        )
    waiting: list[tuple[_Place, Any]] = [((), tree)]
    while waiting:
        place, node = waiting.pop()
        if isinstance(node, str):
            _check_text(node, place)
        elif isinstance(node, dict):
            for key, value in node.items():
                _check_text(key, place, is_key=True)
                waiting.append(((place, key), value))
        elif isinstance(node, list):
            waiting.extend(((place, index), value) for index, value in enumerate(node))


# The closing quote is optional: a string without one runs to the end once, instead of being tried from each quote in it.
_structure = re.compile(r'"(?:\\.|[^"\\])*"?|([{\[])|([}\]])', re.DOTALL)


def _check_depth(text: str) -> None:
    depth = 0
    for match in _structure.finditer(text):
        if match[1]:
            depth += 1
            if depth > MAX_DEPTH:
                raise _too_deep()
        elif match[2]:
            depth -= 1


def _too_deep() -> NestedTooDeep:
    return NestedTooDeep(f"arrays and objects may be nested {MAX_DEPTH} deep", limit=MAX_DEPTH)


def _check_text(text: str, place: "_Place", *, is_key: bool = False) -> None:
    if "\0" in text:
        path = _path(place, is_key)
        raise UnstorableText(f"{path} holds the character NUL (\\u0000), which PostgreSQL cannot store", field=path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        path, surrogate = _path(place, is_key), ord(text[error.start])
        raise UnstorableText(
            f"{path} holds half of a surrogate pair (\\u{surrogate:04x}), which PostgreSQL cannot store", field=path
        ) from error


def _path(place: "_Place", is_key: bool) -> str:
    """A place as people write it, such as `input_data.parts[3].name`; made only when it is told."""
    parts: list[str] = []
    while place:
        place, step = place
        parts.append(f"[{step}]" if isinstance(step, int) else f".{step}")
    text = "".join(reversed(parts)).removeprefix(".").encode("ascii", "backslashreplace").decode()
    text = text if len(text) <= 200 else f"{text[:200]}…"
    return f"a key of {text or 'the body'}" if is_key else text


def _parse_int(literal: str) -> int:
    if len(literal) > 20 or not INT_MIN <= int(literal) <= INT_MAX:
        raise NumberOutOfRange(f"{_short(literal)} is no 64-bit integer; write it as a string", limit=[INT_MIN, INT_MAX])
    return int(literal)


def _parse_float(literal: str) -> tuple[float, int]:
    """The value and its exponent."""
    value = float(literal)
    mantissa, _, exponent = literal.lower().partition("e")
    if value in (float("inf"), float("-inf")) or (value == 0.0 and any(digit in "123456789" for digit in mantissa)):
        raise NumberOutOfRange(f"{_short(literal)} does not fit a 64-bit float; write it as a string")
    # PostgreSQL writes a number out in full: 0e-16000, which is 0, would become 16 KB of text.
    if len(mantissa) > MAX_DIGITS or len(exponent) > 6 or (exponent and abs(int(exponent)) > MAX_DIGITS):
        raise NumberOutOfRange(f"{_short(literal)} has more than {MAX_DIGITS} digits; write it as a string", limit=MAX_DIGITS)
    return value, int(exponent or 0)


def _parse_constant(literal: str) -> float:
    raise MalformedJson(f"{literal} is not JSON")


def _short(literal: str) -> str:
    return literal if len(literal) <= 40 else f"{literal[:30]}… ({len(literal)} characters)"


def _glimpse(raw: bytes) -> str:
    return raw[:40].decode("utf-8", "replace") + ("…" if len(raw) > 40 else "")
