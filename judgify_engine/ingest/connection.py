"""One client's connection. Whole execute requests are answered right here, everything else by aiohttp.

POST …/execute comes 10,000 times a second, and aiohttp's way to a handler (a task, a request object, a payload stream, a
router) costs more than judging and committing together. So a request that came whole, on a connection where nothing else is
under way, with a head that aiohttp's own parser has read before, goes to `Direct` as (authorization, body). A client says
the same head again and again: here it is found by a look into a dictionary. HTTP is parsed by aiohttp alone.

Measured with wrk beside the FastAPI peer, 2 noisy cores, 2026-11-22: through aiohttp's handler 4.0 to 4.2 times the peer at
64 connections and 4.8 to 5.5 at 1000; with this 4.2 to 5.5, and 7.1 to 7.3.
"""

import asyncio
import re
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.http import HttpVersion11
from aiohttp.web_protocol import RequestHandler

from judgify_engine.ingest.app import BadRequest, problem
from judgify_engine.ingest.direct import Direct
from judgify_engine.observe.metrics import Metrics

LONGEST_HEAD = 4096
LONGEST_BODY = 65_536
REMEMBERED_HEADS = 1000
KEEPALIVE_S = 75.0
"""A connection that sends no whole request for so long is closed."""
HOLD_S = 0.05
"""How long the first half of a request may wait for the second one: many clients send head and body apart."""
_END = b"\r\n\r\n"
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,8})[ \t]*\r\n", re.IGNORECASE)
_NOT_PLAIN = ("Transfer-Encoding", "Content-Encoding", "Expect", "Idempotency-Key", "Upgrade")


class Head(NamedTuple):
    """What a head says that matters for a plain execute request."""

    authorization: str | None
    content_length: int


class Heads:
    """The heads of plain requests for one path, as aiohttp's parser read them. Shared by all connections; bounded."""

    def __init__(self, path: str) -> None:
        self.start = f"POST {path} HTTP/1.1\r\n".encode()
        self._path = path
        self._known: dict[bytes, Head] = {}
        self.recall = self._known.get

    def learn(self, head: bytes, message: Any) -> None:
        """Remember a head, if it is plain: nothing in it asks for more than a body to be read."""
        headers = message.headers
        if (
            len(head) > LONGEST_HEAD
            or message.method != "POST"
            or message.path != self._path
            or message.version != HttpVersion11
            or message.should_close
            or message.compression
            or message.chunked
            or message.upgrade
            or any(name in headers for name in _NOT_PLAIN)
            or len(headers.getall("Content-Length", ())) != 1
            or len(headers.getall("Authorization", ())) > 1
        ):
            return
        while len(self._known) >= REMEMBERED_HEADS:
            del self._known[next(iter(self._known))]
        self._known[head] = Head(headers.get("Authorization"), int(headers["Content-Length"]))


class Connection(RequestHandler):
    """aiohttp's handler of one connection, with the short way before it.

    It is on the short way only while aiohttp's parser stands between two requests (`_whole`) and aiohttp has none to answer
    (`_idle`). Uses `_messages`, `_waiter`, `_request_count`, `_close`, `_force_close` and `_next_keepalive_close_time` of
    aiohttp 3.14; tests/service/test_connection.py holds it to what they mean.
    """

    __slots__ = ("_answering", "_direct", "_heads", "_held", "_metrics", "_timer", "_whole")

    def __init__(self, server: web.Server, direct: Direct, heads: Heads, metrics: Metrics) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # its own way to say: none
            auto_decompress=False,  # a small body must not become a large one before anybody is asked for a token
            keepalive_timeout=KEEPALIVE_S,
            max_line_size=16_384,
        )
        self._direct, self._heads, self._metrics = direct, heads, metrics
        self._answering = False
        self._whole = True
        self._held = b""
        self._timer: asyncio.Handle | None = None

    def data_received(self, data: bytes) -> None:
        """Bytes from the client (asyncio.Protocol); none: aiohttp reads on in what it has."""
        if not data:
            super().data_received(data)
            return
        if self._answering:  # answers go out in the order of their requests
            self._held += data
            self._pause_transport_reading()
            return
        if self._held:
            data = self._release() + data
        if not self._whole:
            self._ordinary(data)
        elif self._idle():
            self._short_way(data)
        else:  # aiohttp has answered and comes back in this turn of the loop; or it is busy, then this is pipelined
            self._held, self._timer = data, self._loop.call_soon(self._look_again)

    def _short_way(self, data: bytes) -> None:
        end = data.find(_END)
        known = self._heads.recall(data[:end])
        missing = self._missing(data, end, known)
        if missing > 0:
            self._held, self._timer = data, self._loop.call_later(HOLD_S, self._hold_no_longer)
        elif missing < 0 or known is None or not self._take(known, data[end + 4 :]):
            self._ordinary(data)

    def _idle(self) -> bool:
        """Whether aiohttp waits for a request, and the client takes answers."""
        if self._messages or self._close or self._force_close or self._paused:
            return False
        waiter = self._waiter
        return not waiter.done() if waiter is not None else self._request_count == 0

    def _missing(self, data: bytes, end: int, known: Head | None) -> int:
        """How many bytes of the body are still to come; negative: this is not the start of one short execute request."""
        if end < 0:
            return -1
        if known is not None:
            length = known.content_length
        else:
            found = _CONTENT_LENGTH.search(data, 0, end + 2) if data.startswith(self._heads.start) else None
            if found is None:
                return -1
            length = int(found[1])
        return end + 4 + length - len(data) if length <= LONGEST_BODY else -1

    def _take(self, head: Head, body: bytes) -> bool:
        self._next_keepalive_close_time = self._loop.time() + self.keepalive_timeout
        self._answering = True
        if self._direct.take(head.authorization, body, self._reply):
            return True
        self._answering = False
        return False

    def _reply(self, response: bytes) -> None:
        """The answer to the request that was taken; the client may have gone meanwhile."""
        self._answering = False
        if self.transport is None:
            return
        self.transport.write(response)
        if self._held:
            self._resume_transport_reading()
            self.data_received(self._release())

    def _ordinary(self, data: bytes) -> None:
        """Let aiohttp have it, and remember how it read the head of a request that came alone and whole."""
        before = self._request_count
        super().data_received(data)
        if not self._whole:
            return
        self._whole = False
        end = data.find(_END)
        if end < 0 or self._request_count != before + 1 or not self._messages:
            return
        message: Any = self._messages[-1][0]
        headers = getattr(message, "headers", None)  # a request that cannot be parsed has none
        if headers is None or message.chunked or message.upgrade:
            return
        if end + 4 + int(headers.get("Content-Length", "0")) == len(data):
            self._whole = True
            self._heads.learn(data[:end], message)

    def _release(self) -> bytes:
        data, self._held = self._held, b""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return data

    def _look_again(self) -> None:
        data = self._release()
        if self._idle():
            self._short_way(data)
        else:
            self._ordinary(data)

    def _hold_no_longer(self) -> None:
        self._ordinary(self._release())

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The last answer on this connection: what came is not HTTP, or aiohttp failed (that it logs itself)."""
        if status >= 500 or request.writer.output_size:
            return super().handle_error(request, status, exc, message)
        response = problem(BadRequest(" ".join((message or "it cannot be read").split())[:300]), self._metrics)
        self._metrics.requests["none", response.status] += 1
        response.force_close()
        return response

    def connection_lost(self, error: BaseException | None) -> None:
        """The connection is closed (asyncio.Protocol). A request under way is still committed."""
        self._release()
        super().connection_lost(error)
