"""Whatever is sent: the right 4xx as problem+json, never a 500, and nothing stored."""

import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.client import EXECUTE, Client
from support.engine import Engine

GOOD = {"workflow_id": "check", "input_data": {"value": 70}}
MIB = 1024 * 1024


@pytest.fixture
async def sender(tenant: Client, engine: Engine) -> AsyncIterator[Client]:
    """A tenant for whom nothing may be stored; checked at the end."""
    yield tenant
    stored = await engine.database.value("SELECT count(*) FROM judgment_executions WHERE tenant_id = $1", tenant.tenant_id)
    keys = await engine.database.value("SELECT count(*) FROM idempotency_keys WHERE tenant_id = $1", tenant.tenant_id)
    assert (stored, keys) == (0, 0)
    assert "a request failed" not in engine.log


def nested(depth: int) -> bytes:
    return b'{"workflow_id":"check","input_data":{"value":1,"x":' + b"[" * depth + b"]" * depth + b"}}"


def with_input(text: str) -> bytes:
    return f'{{"workflow_id": "check", "input_data": {text}}}'.encode()


BAD: list[tuple[str, bytes, int, str]] = [
    ("no body", b"", 400, "malformed_json"),
    ("white space", b"   ", 400, "malformed_json"),
    ("not JSON", b"temperature=3", 400, "malformed_json"),
    ("cut off", b'{"workflow_id": "check", "input_data": {"value": 7', 400, "malformed_json"),
    ("something after it", json.dumps(GOOD).encode() + b"x", 400, "malformed_json"),
    ("broken UTF-8", with_input('{"value": 1, "x": "~"}').replace(b"~", b"\xff\xfe"), 400, "malformed_json"),
    ("overlong UTF-8", with_input('{"value": 1, "x": "~"}').replace(b"~", b"\xc0\x80"), 400, "malformed_json"),
    ("UTF-8 cut off", with_input('{"value": 1, "x": "~"}').replace(b"~", b"\xe2\x82"), 400, "malformed_json"),
    ("UTF-16", json.dumps(GOOD).encode("utf-16"), 400, "malformed_json"),
    ("NaN", with_input('{"value": NaN}'), 400, "malformed_json"),
    ("infinity", with_input('{"value": -Infinity}'), 400, "malformed_json"),
    ("raw control character", with_input('{"value": 1, "x": "\x01"}'), 400, "malformed_json"),
    ("null", b"null", 422, "invalid_field"),
    ("a list", b"[]", 422, "invalid_field"),
    ("a string", b'"check"', 422, "invalid_field"),
    ("no workflow", b'{"input_data": {}}', 422, "invalid_field"),
    ("no input", b'{"workflow_id": "check"}', 422, "invalid_field"),
    ("input is a list", with_input("[1]"), 422, "invalid_field"),
    ("input is null", with_input("null"), 422, "invalid_field"),
    ("context is a string", b'{"workflow_id": "check", "input_data": {}, "context": "x"}', 422, "invalid_field"),
    ("unknown field", b'{"workflow_id": "check", "input_data": {}, "colour": 1}', 422, "invalid_field"),
    ("workflow id a number", b'{"workflow_id": 5, "input_data": {}}', 422, "invalid_field"),
    ("workflow id empty", b'{"workflow_id": "", "input_data": {}}', 422, "invalid_field"),
    ("workflow id with a slash", b'{"workflow_id": "a/b", "input_data": {}}', 422, "invalid_field"),
    ("workflow id with a newline", b'{"workflow_id": "check\\n", "input_data": {}}', 422, "invalid_field"),
    ("workflow id too long", b'{"workflow_id": "' + b"a" * 129 + b'", "input_data": {}}', 422, "invalid_field"),
    ("time without zone", b'{"workflow_id":"check","input_data":{},"occurred_at":"2026-01-01T00:00:00"}', 422, "invalid_field"),
    ("time that is none", b'{"workflow_id": "check", "input_data": {}, "occurred_at": "yesterday"}', 422, "invalid_field"),
    ("time far off", b'{"workflow_id":"check","input_data":{},"occurred_at":"9999-12-31T23:59:59Z"}', 422, "invalid_field"),
    ("NUL", with_input('{"value": 1, "x": "a\\u0000b"}'), 422, "unstorable_text"),
    ("NUL in a key", with_input('{"value": 1, "a\\u0000b": 1}'), 422, "unstorable_text"),
    ("NUL in the context", b'{"workflow_id":"check","input_data":{},"context":{"x":"\\u0000"}}', 422, "unstorable_text"),
    ("half a surrogate pair", with_input('{"value": 1, "x": "\\ud800"}'), 422, "unstorable_text"),
    ("the other half", with_input('{"value": 1, "x": ["\\udc00"]}'), 422, "unstorable_text"),
    ("nested 65 deep", nested(63), 422, "nested_too_deep"),
    ("nested 100000 deep", nested(100_000), 422, "nested_too_deep"),
    ("objects nested deep", with_input('{"a":' * 5000 + "1" + "}" * 5000), 422, "nested_too_deep"),
    ("1e400", with_input('{"value": 1e400}'), 422, "number_out_of_range"),
    ("-1e999", with_input('{"value": -1e999}'), 422, "number_out_of_range"),
    ("1e-400", with_input('{"value": 1e-400}'), 422, "number_out_of_range"),
    ("integer of 65 bits", with_input('{"value": 36893488147419103232}'), 422, "number_out_of_range"),
    ("integer below 64 bits", with_input('{"value": -9223372036854775809}'), 422, "number_out_of_range"),
    ("integer of 5000 digits", with_input('{"value": ' + "9" * 5000 + "}"), 422, "number_out_of_range"),
    ("fraction of 50000 digits", with_input('{"value": 0.' + "1" * 50_000 + "}"), 422, "number_out_of_range"),
    ("exponent of 20 digits", with_input('{"value": 1e99999999999999999999}'), 422, "number_out_of_range"),
]  # fmt: skip


async def test_each_bad_body_has_its_own_answer(sender: Client) -> None:
    wrong = []
    for name, body, status, code in BAD:
        answer = await sender.call("POST", EXECUTE, data=body)
        try:
            answer.problem(status, code)
        except (AssertionError, ValueError) as error:
            wrong.append(f"{name}: expected {status} {code}, got {answer.status} {answer.body[:200]!r} ({error!r:.80})")
    assert not wrong, "\n".join(wrong)


async def test_unknown_workflow(sender: Client) -> None:
    problem = (await sender.execute({"value": 1}, "no-such-workflow")).problem(404, "workflow_not_found")
    assert problem["workflow_id"] == "no-such-workflow"


async def test_field_is_named(sender: Client) -> None:
    answer = await sender.call("POST", EXECUTE, data=b'{"workflow_id": "check", "input_data": {}, "colour": 1}')
    assert "colour" in answer.json["field"]
    answer = await sender.call("POST", EXECUTE, data=with_input('{"value": 1, "deep": [{"x": "\\u0000"}]}'))
    assert answer.json["field"].endswith("deep[0].x")


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_of_10_mb(sender: Client, chunked: bool) -> None:
    body = with_input('{"value": 1, "x": "' + "a" * (10 * MIB) + '"}')

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    # The server may answer and close before all is sent; a client that insists on sending may see only the close.
    answer = _raw_post(sender, body, chunked)
    assert answer.startswith(b"HTTP/1.1 413 "), answer[:300]
    assert b"application/problem+json" in answer
    assert b'"code":"body_too_large"' in answer


def _raw_post(client: Client, body: bytes, chunked: bool) -> bytes:
    """Send until the server stops reading, then read what it said."""
    host, port = client.url.removeprefix("http://").split(":")
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    head = (
        f"POST {EXECUTE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {client.token}\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\n{length}\r\n\r\n"
    )
    answer = b""
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode())
        try:
            for start in range(0, len(body), 65536):
                piece = body[start : start + 65536]
                connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            if chunked:
                connection.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
    return answer


@pytest.mark.parametrize(
    "key", ["", " ", "a b", "ä", "x" * 256, "tab\there"], ids=["empty", "blank", "space", "not ASCII", "long", "tab"]
)
async def test_bad_idempotency_key(sender: Client, key: str) -> None:
    problem = (await sender.execute({"value": 1}, key=key)).problem(422, "invalid_field")
    assert problem["field"] == "Idempotency-Key"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/v1/nothing", 404, "not_found"),
        ("GET", "/api/v2/judgments", 404, "not_found"),
        ("GET", "/%00", 404, "not_found"),
        ("GET", "/assets/../pyproject.toml", 404, "not_found"),
        ("GET", "/assets/..%2f..%2fpage.py", 404, "not_found"),
        ("GET", EXECUTE, 405, "method_not_allowed"),
        ("PUT", EXECUTE, 405, "method_not_allowed"),
        ("DELETE", "/api/v1/judgments", 405, "method_not_allowed"),
        ("POST", "/api/v1/workflows/check", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("GET", "/api/v1/judgments/not-a-uuid", 404, "not_found"),
        ("GET", "/api/v1/judgments/00000000-0000-0000-0000-000000000000", 404, "not_found"),
        ("GET", "/api/v1/judgments?limit=0", 422, "invalid_field"),
        ("GET", "/api/v1/judgments?limit=501", 422, "invalid_field"),
        ("GET", "/api/v1/judgments?limit=ten", 422, "invalid_field"),
        ("GET", "/api/v1/judgments?limit=" + "9" * 5000, 422, "invalid_field"),
        ("GET", "/api/v1/judgments?limit=5&limit=6", 422, "invalid_field"),
        ("GET", "/api/v1/judgments?colour=red", 422, "invalid_field"),
        ("GET", "/api/v1/judgments?status=maybe", 422, "invalid_field"),
        ("GET", "/api/v1/judgments?method_used=magic", 422, "invalid_field"),
        ("GET", "/api/v1/judgments?created_from=2026-01-01", 422, "invalid_field"),
        ("GET", "/api/v1/judgments?created_to=soon", 422, "invalid_field"),
        ("GET", "/api/v1/judgments?cursor=%21%21%21", 422, "invalid_field"),
        ("GET", "/api/v1/judgments?cursor=abc", 422, "invalid_field"),
        ("GET", "/api/v1/judgments?cursor=%C3%A4%C3%A4", 422, "invalid_field"),
        ("GET", "/api/v1/judgments?workflow_id=a%00b", 422, "invalid_field"),
        ("GET", "/api/v1/workflows?limit=-1", 422, "invalid_field"),
        ("GET", "/api/v1/workflows?cursor=a%00b", 422, "invalid_field"),
        ("GET", "/api/v1/workflows/check?version=one", 422, "invalid_field"),
        ("GET", "/api/v1/workflows/check?version=9999999999", 422, "invalid_field"),
        ("GET", "/api/v1/workflows/check?version=999999999", 404, "workflow_not_found"),
        ("GET", "/api/v1/workflows/-check", 422, "invalid_field"),
        ("GET", "/api/v1/workflows/a%00b", 422, "invalid_field"),
        ("DELETE", "/api/v1/workflows/nothing", 404, "workflow_not_found"),
        ("GET", "/ws/dashboards/main", 422, "invalid_field"),
    ],
)
async def test_bad_path_method_or_query(sender: Client, method: str, path: str, status: int, code: str) -> None:
    from yarl import URL

    async with sender.session.request(
        method, URL(sender.url + path, encoded=True), headers={"Authorization": f"Bearer {sender.token}"}
    ) as response:
        body: dict[str, Any] = json.loads(await response.read())
        assert (response.status, body["code"]) == (status, code)
        assert response.headers["Content-Type"] == "application/problem+json"
        if status == 405:
            assert response.headers["Allow"]


@pytest.mark.parametrize(
    "raw",
    [
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /api/v1/judgments/execute HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["nonsense", "negative length", "two lengths", "long header", "long path", "bad chunk", "TLS"],
)
def test_broken_http_is_400_and_no_traceback(engine: Engine, raw: bytes) -> None:
    """Anyone can send this: it must not fill the log with tracebacks."""
    logged = len(engine.log)
    host, port = engine.url.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 401", b"HTTP/1.0 400")), answer[:200]
    assert "Traceback" not in engine.log[logged:]


async def test_body_over_the_limit_of_a_workflow(sender: Client) -> None:
    answer = await sender.call("PUT", "/api/v1/workflows/large", data=b'{"description": "' + b"a" * 300_000 + b'"}')
    answer.problem(413, "body_too_large")
