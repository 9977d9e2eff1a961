"""Which requests take the short way: nearly all. And what a head must be to be remembered."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from judgify_engine.ingest.connection import HOLD_S, Connection, Shared
from judgify_engine.ingest.heads import LONGEST_BODY, Heads
from judgify_engine.ingest.listen import Room
from judgify_engine.observe.metrics import Metrics

PATH = "/judge"
SHORT = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nshort"


class Direct:
    """Takes all, or nothing. Knows every token but "wrong"."""

    def __init__(self) -> None:
        self.taken: list[tuple[str | None, bytes]] = []
        self.willing = True

    def knows(self, authorization: str | None) -> bool:
        return authorization is not None and "wrong" not in authorization

    def take(self, authorization: str | None, body: bytes, reply, sender) -> bool:
        if self.willing:
            self.taken.append((authorization, body))
            asyncio.get_running_loop().call_soon(reply, SHORT, False)
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

    direct, heads = Direct(), Heads(PATH, max_bytes=10_000)
    shared = Shared(web.Server(ordinary), direct, heads, Room(100), Metrics())  # type: ignore[arg-type]
    listening = await asyncio.get_running_loop().create_server(lambda: Connection(shared), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
    yield Way(direct, heads, reader, writer)
    writer.close()
    listening.close()
    await shared.server.shutdown()


def post(body: bytes = b"{}", *lines: str, path: str = PATH, token: str = "t") -> bytes:
    start = [f"POST {path} HTTP/1.1", "Host: judgify", f"Authorization: Bearer {token}"]
    return "\r\n".join([*start, *lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


async def warm(way: Way, *lines: str) -> None:
    """A head is remembered when it comes the second time."""
    assert [await way.ask(post(b"{}", *lines)) for _ in range(2)] == ["ordinary"] * 2


async def test_all_but_the_first_two_take_the_short_way(way: Way) -> None:
    await warm(way)
    assert [await way.ask(post()) for _ in range(50)] == ["short"] * 50
    assert way.direct.taken == [("Bearer t", b"{}")] * 50


GET = b"GET /judge HTTP/1.1\r\nHost: judgify\r\n\r\n"


async def test_back_on_the_short_way_after_anything_whole(way: Way) -> None:
    await warm(way)
    for other in (GET, post(path="/else"), post(b"{}", "Idempotency-Key: 1"), post(b"x" * 100_000)):
        assert await way.ask(other) == "ordinary"
        assert await way.ask(post()) == "short"
    way.direct.willing = False
    assert await way.ask(post()) == "ordinary"
    way.direct.willing = True
    assert await way.ask(post()) == "short"


async def test_back_on_the_short_way_after_pipelined_requests_and_late_bodies(way: Way) -> None:
    await warm(way)
    assert await way.ask(GET + post() + post(path="/else")) == "ordinary"
    assert [await way.ask(b"") for _ in range(2)] == ["ordinary"] * 2
    assert await way.ask(post()) == "short"
    late = post(b"late")
    way._writer.write(late[:-3])
    await asyncio.sleep(HOLD_S * 2)  # then aiohttp has the first part
    assert await way.ask(late[-3:]) == "ordinary"
    assert await way.ask(post()) == "short"


async def test_a_request_in_two_parts(way: Way) -> None:
    await warm(way)
    whole = post()
    for cut in (1, 5, 30, len(whole) - 2):
        way._writer.write(whole[:cut])
        await asyncio.sleep(0)
        assert await way.ask(whole[cut:]) == "short"


@pytest.mark.parametrize(
    "request_",
    [
        post(path="/else"),
        post(path=PATH + "?x=1"),
        post(token="wrong"),
        post(b"{}", "Idempotency-Key: 1"),
        post(b"{}", "Expect: 100-continue"),
        post(b"{}", "Content-Encoding: gzip"),
        post(b"{}", "X-Long: " + "a" * 5000),
        post(b"{}", "Authorization: Bearer b"),
        post(b"x" * (LONGEST_BODY + 1)),
        b"GET /judge HTTP/1.1\r\nHost: judgify\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /judge HTTP/1.1\r\nHost: judgify\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ],
    ids=lambda request_: request_[-60:].decode(),
)
async def test_not_plain(way: Way, request_: bytes) -> None:
    assert [await way.ask(request_) for _ in range(4)] == ["ordinary"] * 4
    assert way.direct.taken == []


async def test_line_ends_before_a_request_teach_nothing(way: Way) -> None:
    """aiohttp's parser passes over them, so the first empty line is not the end of the head."""
    length = len(post()) - 4
    poison = b"\r\n\r\n" + post(b"x" * length).split(b"x" * 10)[0]
    way._writer.write(poison)
    await asyncio.sleep(HOLD_S)
    assert await way.ask(b"x" * length) == "ordinary"
    assert await way.ask(post()) == "ordinary"
    assert all(head.startswith(b"POST /judge HTTP/1.1\r\n") for head in (*way.heads._known, *way.heads._seen))


async def test_heads_are_bounded_and_the_used_ones_stay(way: Way) -> None:
    await warm(way)
    for n in range(100):  # each once: they leave no mark
        await way.ask(post(b"{}", f"X-Number: {n}"))
    assert len(way.heads._known) == 1
    for n in range(200):
        await warm(way, f"X-Number: {n}x")
        if n % 10 == 0:
            assert await way.ask(post()) == "short"
    assert sum(map(len, way.heads._known)) == way.heads._bytes <= 10_000
    assert await way.ask(post(b"{}", "X-Number: 0x")) == "ordinary"  # forgotten
    assert await way.ask(post(b"{}", "X-Number: 199x")) == "short"


@pytest.mark.parametrize(
    "sent", [[post()], [GET], [GET, GET, GET], [post(), post()], [GET, post()], [post(), GET], [post(b"new")]]
)
async def test_all_answers_reach_a_client_that_sends_no_more(way: Way, sent: list[bytes]) -> None:
    await warm(way)
    way._writer.write(b"".join(sent))
    way._writer.write_eof()
    async with asyncio.timeout(10):
        assert (await way._reader.read()).count(b"HTTP/1.1 200 OK") == len(sent)


async def test_half_a_request_from_a_client_that_sends_no_more_ends_at_once(way: Way) -> None:
    await warm(way)
    for part in (post()[:30], post()[:-1], GET[:-1]):
        reader, writer = await asyncio.open_connection(*way._writer.get_extra_info("peername"))
        writer.write(part)
        writer.write_eof()
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("extra", range(-3, 4))
async def test_a_known_head_cut_at_any_byte_is_not_taken_for_its_own_body(way: Way, extra: int) -> None:
    """The body is about as long as the head: what is missing and what is there must not be mixed up."""
    length = len(post(b"")) + 2 - 4 + extra
    whole = post(b"x" * length)
    assert [await way.ask(whole) for _ in range(3)] == ["ordinary", "ordinary", "short"]
    for cut in range(len(whole) - length - 6, len(whole) - length + 3):
        way._writer.write(whole[:cut])
        for _ in range(10):
            await asyncio.sleep(0)
        assert await way.ask(whole[cut:]) == "short"
        assert way.direct.taken[-1][1] == b"x" * length


@pytest.mark.parametrize("count", [31, 32, 33, 200])
async def test_many_pipelined_after_a_late_body_are_all_answered(way: Way, count: int) -> None:
    late = post(b"late")
    way._writer.write(late[:-3])
    await asyncio.sleep(HOLD_S * 2)
    assert await way.ask(late[-3:] + GET * count) == "ordinary"
    assert [await way.ask(b"") for _ in range(count)] == ["ordinary"] * count
