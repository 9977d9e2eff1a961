"""However the bytes of requests are cut and joined: each has its own answer, in order, the same on both ways."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from support.client import EXECUTE, Client
from support.cluster import Database
from support.engine import Engine
from support.waiting import until

from service.test_bad_input import BAD

WITHIN_S = 30


class Wire:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        self._reader, self._writer, self.token = reader, writer, token

    def send(self, *parts: bytes) -> None:
        self._writer.write(b"".join(parts))

    async def send_apart(self, *parts: bytes) -> None:
        """Each part in a segment of its own, so the server reads them apart."""
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()
            await self._turns()

    async def _turns(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def answer(self) -> tuple[int, Any]:
        async with asyncio.timeout(WITHIN_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = next(int(line[16:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length: "))
            body = await self._reader.readexactly(length)
        return int(head[9:12]), json.loads(body) if body[:1] in b"{[" else body

    async def closed(self) -> bool:
        async with asyncio.timeout(WITHIN_S):
            return not await self._reader.read(1)

    def request(self, value: float, *more: str, token: str | None = None) -> bytes:
        return self.raw(json.dumps({"workflow_id": "check", "input_data": {"value": value}}).encode(), *more, token=token)

    def raw(self, body: bytes, *more: str, token: str | None = None) -> bytes:
        lines = [f"POST {EXECUTE} HTTP/1.1", "Host: judgify", f"Authorization: Bearer {token or self.token}", *more]
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


@pytest.fixture
async def wire(tenant: Client, engine: Engine) -> AsyncIterator[Wire]:
    assert tenant.token
    reader, writer = await asyncio.open_connection("127.0.0.1", engine.listening_port)
    yield Wire(reader, writer, tenant.token)
    writer.close()
    assert "a request failed" not in engine.log
    assert "Unhandled" not in engine.log


def verdict(answer: tuple[int, Any]) -> str:
    status, body = answer
    assert status == 200, body
    return str(body["final_result"]["verdict"])


async def test_the_same_head_again_and_again(wire: Wire) -> None:
    for value, expected in ((70, "ok"), (10, "inspect"), (96, "inspect"), (71, "ok")):
        wire.send(wire.request(value))
        assert verdict(await wire.answer()) == expected


async def test_requests_sent_together_are_answered_in_order(wire: Wire) -> None:
    wire.send(wire.request(70))
    await wire.answer()
    values = [10 if n % 3 else 70 for n in range(300)]
    wire.send(*(wire.request(value) for value in values))
    assert [verdict(await wire.answer()) for _ in values] == ["inspect" if n % 3 else "ok" for n in range(300)]


async def test_a_request_sent_while_another_is_committed_is_answered_after_it(wire: Wire) -> None:
    bad = wire.raw(b'{"workflow_id": "check", "input_data": [1]}')  # answered at once, when alone
    wire.send(wire.request(70))
    await wire.answer()
    for _ in range(20):
        await wire.send_apart(wire.request(70), bad, wire.request(10), bad + wire.request(10))
        answers = [await wire.answer() for _ in range(5)]
        assert [status for status, _ in answers] == [200, 422, 200, 422, 200]
        assert [verdict(answers[n]) for n in (0, 2, 4)] == ["ok", "inspect", "inspect"]


async def test_a_plain_request_sent_while_aiohttp_answers_another_comes_after_it(wire: Wire) -> None:
    bad = wire.raw(b'{"workflow_id": "check", "input_data": [1]}')
    for _ in range(2):
        wire.send(bad)
        assert (await wire.answer())[0] == 422
    for n in range(20):
        await wire.send_apart(wire.request(10, f"Idempotency-Key: {n}"), bad)
        assert [(await wire.answer())[0] for _ in range(2)] == [200, 422]


@pytest.mark.parametrize("known", [False, True], ids=["new head", "known head"])
async def test_a_request_cut_at_any_byte(wire: Wire, known: bool) -> None:
    whole = wire.request(70, f"X-Known: {known}")
    if known:
        wire.send(whole)
        await wire.answer()
    for cut in range(1, len(whole)):
        await wire.send_apart(whole[:cut], whole[cut:])
        assert verdict(await wire.answer()) == "ok", cut


async def test_a_request_byte_by_byte_and_one_whose_body_comes_late(wire: Wire) -> None:
    whole = wire.request(10)
    await wire.send_apart(*(whole[n : n + 1] for n in range(len(whole))))
    assert verdict(await wire.answer()) == "inspect"
    wire.send(whole[:-20])
    await asyncio.sleep(0.2)  # longer than the first half is held: the server must go on with it the ordinary way
    wire.send(whole[-20:])
    assert verdict(await wire.answer()) == "inspect"


async def test_other_requests_on_the_same_connection(wire: Wire) -> None:
    health = b"GET /health HTTP/1.1\r\nHost: judgify\r\n\r\n"
    for together in (False, True):
        for _ in range(5):
            parts = [wire.request(70), health, wire.request(10), health, health, wire.request(10)]
            if together:
                wire.send(*parts)
            for part in parts:
                if not together:
                    wire.send(part)
                status, body = await wire.answer()
                assert status == 200
                if part is not health:
                    assert body["final_result"]["verdict"] == ("ok" if b"70" in part[-5:] else "inspect")


async def test_what_is_not_plain_is_not_taken_for_it(wire: Wire) -> None:
    """Heads that differ in what matters, right after plain ones on the same connection."""
    for _ in range(3):
        wire.send(wire.request(70))
        assert verdict(await wire.answer()) == "ok"
        wire.send(wire.request(70, "Content-Encoding: gzip"))
        assert (await wire.answer())[0] == 415
        wire.send(wire.request(70, "Idempotency-Key: once"))
        first = await wire.answer()
        wire.send(wire.request(70, "Idempotency-Key: once"))
        assert await wire.answer() == first
        wire.send(wire.request(70, token="jdg_wrong"))
        assert (await wire.answer())[0] == 401
        wire.send(wire.request(70, "Authorization: Bearer another"))
        assert (await wire.answer())[0] in (200, 401)
    body = json.dumps({"workflow_id": "check", "input_data": {"value": 10}}).encode()
    head = wire.request(1).split(b"Content-Length")[0]
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    wire.send(chunked, wire.request(70))
    assert [verdict(await wire.answer()), verdict(await wire.answer())] == ["inspect", "ok"]


@pytest.mark.parametrize("line", ["Content-Length: 5", "Transfer-Encoding: chunked", "Content-Length: +7", "Bad Header: 1"])
async def test_a_head_that_could_be_read_in_two_ways_ends_the_connection(wire: Wire, line: str) -> None:
    wire.send(wire.request(70))
    await wire.answer()
    wire.send(wire.request(70, line), wire.request(70))
    status, body = await wire.answer()
    assert (status, body["code"]) == (400, "bad_request")
    assert await wire.closed()


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x02\x00\x01\x00", b"hello\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /" + b"a" * 20_000]
)
async def test_what_is_not_http_is_told_so_and_leaves_no_traceback(wire: Wire, engine: Engine, sent: bytes) -> None:
    before = engine.log.count("Traceback")
    wire.send(sent)
    status, body = await wire.answer()
    assert (status, body["code"]) == (400, "bad_request")
    assert await wire.closed()
    assert engine.log.count("Traceback") == before


async def test_a_head_cannot_be_taught_wrongly(wire: Wire, tenant: Client, engine: Engine) -> None:
    """Line ends before a request hide where its head ends; what follows must not be taken for a request later."""
    body = json.dumps({"workflow_id": "check", "input_data": {"value": 10}}).encode()
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", engine.listening_port)
        poisoner = Wire(reader, writer, wire.token)
        head = poisoner.raw(b"").replace(b"Content-Length: 0", b"Content-Length: %d")
        length = len(b"\r\n\r\n" + head % 100) - 4
        smuggled = b"POST / HTTP/1.1\r\nX: " + poisoner.raw(body)
        await poisoner.send_apart(b"\r\n\r\n" + head % length, b"x" * length + poisoner.raw(body), smuggled)
        writer.close()
    stored = await engine.database.value("SELECT count(*) FROM judgment_executions WHERE tenant_id = $1", tenant.tenant_id)
    for _ in range(2):
        reader, writer = await asyncio.open_connection("127.0.0.1", engine.listening_port)
        other = Wire(reader, writer, wire.token)
        other.send(b"\r\n\r\n" + body)
        status, answer = await other.answer()
        assert (status, answer["code"]) == (400, "bad_request")
        writer.close()
    assert stored <= 3


async def test_a_half_closed_connection_is_answered(wire: Wire) -> None:
    for _ in range(2):
        wire.send(wire.request(70))
        await wire.answer()
    wire.send(wire.request(10), wire.request(70))
    wire._writer.write_eof()
    assert verdict(await wire.answer()) == "inspect"


async def test_expect(wire: Wire) -> None:
    wire.send(wire.request(70, "Expect: nonsense"))
    status, body = await wire.answer()
    assert (status, body["code"]) == (417, "expectation_failed")


async def test_connection_close_is_heard(wire: Wire) -> None:
    wire.send(wire.request(70))
    await wire.answer()
    wire.send(wire.request(70, "Connection: close"))
    assert verdict(await wire.answer()) == "ok"
    assert await wire.closed()


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad[0].replace(" ", "-"))
async def test_bad_bodies_are_refused_alike_on_both_ways(wire: Wire, bad: tuple[str, bytes, int, str]) -> None:
    _, body, status, code = bad
    for _ in range(3):  # the first time its head is new
        wire.send(wire.raw(body, f"X-Case: {code}"))
        answer = await wire.answer()
        assert (answer[0], answer[1]["code"]) == (status, code)


async def test_a_client_that_leaves_early_is_no_trouble(wire: Wire, engine: Engine) -> None:
    wire.send(wire.request(70))
    await wire.answer()
    for _ in range(20):
        _, writer = await asyncio.open_connection("127.0.0.1", engine.listening_port)
        writer.write(wire.request(10))
        writer.close()
    for cut in (30, 200):
        _, writer = await asyncio.open_connection("127.0.0.1", engine.listening_port)
        writer.write(wire.request(10)[:cut])
        writer.close()
    wire.send(wire.request(70))
    assert verdict(await wire.answer()) == "ok"


async def test_the_time_of_the_upload_is_not_the_time_of_the_judging(wire: Wire) -> None:
    whole = wire.request(70, "Upgrade: h2c")  # so that it goes the ordinary way
    wire.send(whole[:-5])
    await asyncio.sleep(0.5)
    wire.send(whole[-5:])
    status, body = await wire.answer()
    assert status == 200
    assert body["execution_time_ms"] < 400


async def test_no_more_connections_than_allowed(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(database, settings={"JUDGIFY_HTTP_MAX_CONNECTIONS": "20"})
    idle = [await asyncio.open_connection("127.0.0.1", engine.listening_port) for _ in range(40)]
    reader, writer = await asyncio.open_connection("127.0.0.1", engine.listening_port)
    late = Wire(reader, writer, "test-token")
    late.send(b"GET /health HTTP/1.1\r\nHost: judgify\r\n\r\n")
    await until(lambda: "connections cannot be accepted now" in engine.log, "it says that it is full")
    answer = asyncio.create_task(late.answer())
    for _, other in idle:
        other.close()
    assert (await answer)[0] == 200, "who waited is served when there is room"
    writer.close()
    assert engine.terminate() == 0
