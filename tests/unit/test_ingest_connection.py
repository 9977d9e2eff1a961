"""Which requests take the short way: nearly all. And what a head must be to be remembered."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from judgify_engine.ingest.connection import LONGEST_BODY, REMEMBERED_HEADS, Connection, Heads
from judgify_engine.observe.metrics import Metrics

PATH = "/judge"
SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nshort"


class Direct:
    """Takes all, or nothing."""

    def __init__(self) -> None:
        self.taken: list[tuple[str | None, bytes]] = []
        self.willing = True

    def take(self, authorization: str | None, body: bytes, reply) -> bool:
        if self.willing:
            self.taken.append((authorization, body))
            asyncio.get_running_loop().call_soon(reply, SHORT)
        return self.willing


class Way:
    """A connection to a server of aiohttp with the short way before it."""

    def __init__(self, direct: Direct, heads: Heads, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.direct, self.heads, self._reader, self._writer = direct, heads, reader, writer

    async def ask(self, data: bytes) -> str:
        """Which way a request took."""
        self._writer.write(data)
        async with asyncio.timeout(10):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = next(int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length: "))
            return (await self._reader.readexactly(length)).decode()


@pytest.fixture
async def way() -> AsyncIterator[Way]:
    async def ordinary(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(text="ordinary")

    server, direct, heads = web.Server(ordinary), Direct(), Heads(PATH)
    listening = await asyncio.get_running_loop().create_server(
        lambda: Connection(server, direct, heads, Metrics()), "127.0.0.1", 0  # type: ignore[arg-type]
    )  # fmt: skip
    reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
    yield Way(direct, heads, reader, writer)
    writer.close()
    listening.close()
    await server.shutdown()


def post(body: bytes = b"{}", *lines: str, path: str = PATH) -> bytes:
    return (
        "\r\n".join([f"POST {path} HTTP/1.1", "Host: judgify", *lines, f"Content-Length: {len(body)}", "", ""]).encode() + body
    )


async def test_all_but_the_first_take_the_short_way(way: Way) -> None:
    assert await way.ask(post()) == "ordinary"
    assert [await way.ask(post()) for _ in range(50)] == ["short"] * 50
    assert way.direct.taken == [(None, b"{}")] * 50


async def test_back_on_the_short_way_after_anything_whole(way: Way) -> None:
    await way.ask(post())
    for other in (b"GET /judge HTTP/1.1\r\nHost: judgify\r\n\r\n", post(path="/else"), post(b"{}", "Idempotency-Key: 1")):
        assert await way.ask(other) == "ordinary"
        assert await way.ask(post()) == "short"
    way.direct.willing = False
    assert await way.ask(post()) == "ordinary"
    way.direct.willing = True
    assert await way.ask(post()) == "short"


async def test_a_body_that_comes_after_its_head(way: Way) -> None:
    await way.ask(post(b"first"))
    head, body = post(b"later")[:-5], b"later"
    way._writer.write(head)
    await asyncio.sleep(0)
    assert await way.ask(body) == "short"
    assert way.direct.taken == [(None, b"later")]


@pytest.mark.parametrize(
    "request_",
    [
        post(path="/else"),
        post(path=PATH + "?x=1"),
        post(b"{}", "Idempotency-Key: 1"),
        post(b"{}", "Expect: 100-continue"),
        post(b"{}", "Content-Encoding: gzip"),
        post(b"{}", "X-Long: " + "a" * 5000),
        post(b"{}", "Authorization: Bearer a", "Authorization: Bearer b"),
        post(b"x" * (LONGEST_BODY + 1)),
        b"GET /judge HTTP/1.1\r\nHost: judgify\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /judge HTTP/1.1\r\nHost: judgify\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ],
    ids=lambda request_: request_[:40].decode(),
)
async def test_not_plain(way: Way, request_: bytes) -> None:
    assert [await way.ask(request_) for _ in range(3)] == ["ordinary"] * 3
    assert way.direct.taken == []


async def test_heads_are_bounded(way: Way) -> None:
    for n in range(REMEMBERED_HEADS + 10):
        await way.ask(post(b"{}", f"X-Number: {n}"))
    assert len(way.heads._known) == REMEMBERED_HEADS
    assert await way.ask(post(b"{}", "X-Number: 0")) == "ordinary"  # forgotten
    assert await way.ask(post(b"{}", f"X-Number: {REMEMBERED_HEADS + 9}")) == "short"
