"""One client's connection. Whole execute requests are answered right here, everything else by aiohttp.

POST …/execute comes 10,000 times a second, and aiohttp's way to a handler (a task, a request object, a payload stream, a
router) costs more than judging and committing together. So a request that came whole, on a connection where nothing else is
under way, with a head that aiohttp's own parser has read before (`Heads`), goes to `Direct` as (authorization, body).
HTTP is parsed by aiohttp alone.

Measured with wrk beside the FastAPI peer, 2 noisy cores, 2026-11-22: through aiohttp's handler 4.0 to 4.2 times the peer at
64 connections and 4.8 to 5.5 at 1000; with this 3.8 to 5.5, and 7.1 to 8.1.
"""

import asyncio
import re
from typing import Any, NamedTuple

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from judgify_engine.ingest.app import BadRequest, problem
from judgify_engine.ingest.direct import Direct
from judgify_engine.ingest.heads import LONGEST_BODY, LONGEST_HEAD, Heads
from judgify_engine.ingest.listen import Room
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.partition_queue import Sender

KEEPALIVE_S = 75.0
"""A connection that sends no whole request for so long is closed."""
HOLD_S = 0.05
"""How long the first part of a request may wait for the rest: many clients send head and body apart."""
HALF_CLOSED_LOOK_S = 0.05
"""How often a connection whose client sends no more is looked at: is all answered?"""
_END = b"\r\n\r\n"
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,8})[ \t]*\r\n", re.IGNORECASE)


class Shared(NamedTuple):
    """What all connections of a server share."""

    server: web.Server
    direct: Direct
    heads: Heads
    room: Room
    metrics: Metrics


class Connection(RequestHandler):
    """aiohttp's handler of one connection, with the short way before it.

    It is on the short way only while aiohttp's parser stands between two requests (`_left` is 0) and aiohttp has none to answer
    (`_idle`). Uses `_messages`, `_max_msg_queue_size`, `_waiter`, `_close`, `_force_close`, `_request_count`
    and `_next_keepalive_close_time` of aiohttp 3.14; tests/unit/test_ingest_connection.py holds it to what they mean.
    """

    __slots__ = ("_answering", "_direct", "_heads", "_held", "_left", "_metrics", "_room", "_sender", "_timer")

    def __init__(self, shared: Shared) -> None:
        super().__init__(
            shared.server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # its own way to say: none
            auto_decompress=False,  # a small body must not become a large one before anybody is asked for a token
            keepalive_timeout=KEEPALIVE_S,
            max_line_size=16_384,
        )
        self._direct, self._heads, self._room, self._metrics = shared.direct, shared.heads, shared.room, shared.metrics
        self._max_msg_queue_size -= 1  # after a late body the parser of 3.14 stops one message earlier than its handler expects
        self._answering, self._sender = False, Sender()
        self._left: int | None = 0
        """Bytes of the request that aiohttp's parser is in; 0: it stands between two; None: that is not known any more."""
        self._held = b""
        self._timer: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there (asyncio.Protocol)."""
        super().connection_made(transport)
        self._room.enter()

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
            data, self._held = self._held + data, b""
        if self._left != 0:
            self._ordinary(data)
        elif self._idle():
            self._short_way(data)
        elif self._timer is None:  # aiohttp has answered and comes back in this turn of the loop; or it is busy
            self._held, self._timer = data, self._loop.call_soon(self._look_again)
        else:
            self._held = data

    def _short_way(self, data: bytes) -> None:
        end = data.find(_END)
        known = self._heads.recall(data[:end]) if end >= 0 else None
        missing = end + 4 + known.content_length - len(data) if known is not None else self._missing(data, end)
        if missing > 0:
            self._held = data
            if self._timer is None:
                self._timer = self._loop.call_later(HOLD_S, self._hold_no_longer)
            return
        self._forget_timer()
        if known is None or missing < 0 or not self._take(known.authorization, data[end + 4 :]):
            self._ordinary(data)

    def _idle(self) -> bool:
        """Whether aiohttp waits for a request, and the client takes answers."""
        if self._messages or self._close or self._force_close or self._paused:
            return False
        waiter = self._waiter
        return not waiter.done() if waiter is not None else self._request_count == 0

    def _missing(self, data: bytes, end: int) -> int:
        """How many bytes are still to come (at least) of a short execute request; negative or 0: it need not wait for any."""
        start = self._heads.start
        if end < 0:
            return 1 if len(data) < LONGEST_HEAD and data[: len(start)] == start[: len(data)] else -1
        found = _CONTENT_LENGTH.search(data, 0, end + 2) if data.startswith(start) else None
        length = int(found[1]) if found is not None else LONGEST_BODY + 1
        return end + 4 + length - len(data) if length <= LONGEST_BODY else -1

    def _take(self, authorization: str, body: bytes) -> bool:
        self._next_keepalive_close_time = self._loop.time() + self.keepalive_timeout
        self._answering = True
        if self._direct.take(authorization, body, self._reply, self._sender):
            return True
        self._answering = False
        return False

    def _reply(self, response: bytes, last: bool) -> None:
        """The answer to the request that was taken; the client may have gone meanwhile. `last`: close then."""
        self._answering = False
        if self.transport is None:
            return
        self.transport.write(response)
        if last:
            self.force_close()
        elif self._held:
            self._resume_transport_reading()
            data, self._held = self._held, b""
            self.data_received(data)

    def _ordinary(self, data: bytes) -> None:
        """Let aiohttp have it, and follow where its parser stands."""
        before = len(self._messages)
        super().data_received(data)
        if self._left is not None:
            self._left = self._follow(data, list(self._messages)[before:])

    def _follow(self, data: bytes, messages: list[Any]) -> int | None:
        """How many bytes the parser's last request still lacks after `data`, in which it found the heads of `messages`."""
        assert self._left is not None
        place = self._left
        for message, _payload in messages:
            end = data.find(_END, place)
            headers = getattr(message, "headers", None)  # a request that cannot be parsed has none
            # The parser passes over line ends before a request; then this is not where its head ends.
            if end < 0 or data[place : place + 1] in (b"\r", b"\n") or headers is None or message.chunked or message.upgrade:
                return None
            if self._direct.knows(headers.get("Authorization")):
                self._heads.learn(data[place:end], message)
            place = end + 4 + int(headers.get("Content-Length", "0"))
        return place - len(data) if place >= len(data) else None

    def _look_again(self) -> None:
        self._timer = None
        data, self._held = self._held, b""
        if self._idle():
            self._short_way(data)
        else:
            self._ordinary(data)

    def _hold_no_longer(self) -> None:
        self._timer = None
        data, self._held = self._held, b""
        self._ordinary(data)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's own signature
        """The client sends no more (asyncio.Protocol); it may still wait for the answers to what it sent."""
        if self._is_done() or self._left:
            return False
        self._close_when_done()
        return True

    def _is_done(self) -> bool:
        """Whether everything that came is answered. (Before aiohttp's task has begun, it waits for nothing.)"""
        waiter = self._waiter
        return not (self._answering or self._held or self._messages or waiter is None or waiter.done())

    def _close_when_done(self) -> None:
        if self.transport is None:
            return
        if self._is_done() or self._left:
            self.force_close()
        else:
            self._loop.call_later(HALF_CLOSED_LOOK_S, self._close_when_done)

    def close_if_idle(self) -> None:
        """Nothing has come that is not answered: the client may go elsewhere."""
        if self.transport is not None and self._left == 0 and self._idle() and not (self._answering or self._held):
            self.force_close()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The last answer on this connection: what came is not HTTP, or aiohttp failed (that it logs itself)."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client has gone: no answer, and nothing for the log
        if status >= 500 or request.writer.output_size:
            return super().handle_error(request, status, exc, message)
        response = problem(BadRequest(" ".join((message or "it cannot be read").split())[:300]), self._metrics)
        self._metrics.requests["none", response.status] += 1
        response.force_close()
        return response

    def connection_lost(self, error: BaseException | None) -> None:
        """The connection is closed (asyncio.Protocol). A request under way is still committed."""
        self._room.leave()
        self._forget_timer()
        self._held = b""
        super().connection_lost(error)
