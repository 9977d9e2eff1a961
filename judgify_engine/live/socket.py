"""A dashboard's connection after the upgrade: frames out, control frames in, nothing else kept.

aiohttp answers the request, then the connection is taken over by this protocol: without its parser, its request and its tasks
an idle socket costs a few KB. Nothing is written while the kernel takes no more: at most one message lies here.
"""

import asyncio
import contextlib
import socket
from typing import Protocol

from aiohttp import WSCloseCode, web

from judgify_engine.errors import Corrupt
from judgify_engine.wire import websocket
from judgify_engine.wire.websocket import Incoming, Message

SEND_BUFFER_BYTES = 64 * 1024
"""Of the kernel (it doubles that): enough for some messages a second over any distance; what one that reads nothing costs."""


ANSWER_S = 5.0
"""How long a client that says goodbye may take what was sent."""


class Owner(Protocol):
    """Who is told of what becomes of a socket."""

    def drained(self) -> None:
        """It takes messages again."""

    def lost(self) -> None:
        """It is closed."""


class Socket(asyncio.Protocol):
    """One WebSocket. `compressed`: the client takes compressed messages."""

    __slots__ = ("_incoming", "_loop", "_owner", "_ping", "_timer", "_transport", "compressed", "ending", "paused")

    def __init__(self, *, compressed: bool) -> None:
        self.compressed, self.paused, self.ending = compressed, False, False
        self._incoming = Incoming()
        self._loop = asyncio.get_running_loop()
        self._owner: Owner | None = None
        self._transport: asyncio.Transport | None = None
        self._ping: bytes | None = None
        """One that waits for its answer; of several only the last is answered."""
        self._timer: asyncio.TimerHandle | None = None

    def take_over(self, request: web.Request, head: bytes, owner: Owner) -> None:
        """Go on with the connection of a request, of which aiohttp is told that it is gone. Raises ConnectionResetError."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        self._owner, self._transport = owner, transport
        handler = request.protocol
        transport.set_protocol(self)
        handler.transport = None  # or it would close it
        handler.connection_lost(None)
        transport.set_write_buffer_limits(high=0)
        _prepare(transport.get_extra_info("socket"))
        transport.write(head)

    def send(self, message: Message) -> None:
        """Write a message; not while it is `paused`."""
        if self._transport is not None and not self.ending:
            self._transport.write(message.frame(compressed=self.compressed))

    def end(self, code: WSCloseCode, reason: bytes, within_s: float) -> None:
        """Say goodbye; who has not taken it by then is cut off, it would hold us up for ever."""
        if self._transport is not None and not self.ending:
            self.ending = True
            self._transport.write(websocket.close_frame(code, reason))
            self._timer = self._loop.call_later(within_s, self.abort)

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes from the client (asyncio.Protocol)."""
        try:
            for opcode, payload in self._incoming.feed(data):
                if opcode == websocket.CLOSE:
                    return self._answer_close(websocket.code_of(payload), b"")
                if opcode == websocket.PING:
                    self._ping = payload
        except Corrupt as error:
            return self._answer_close(WSCloseCode.PROTOCOL_ERROR, error.detail.encode())
        if not self.paused:
            self._answer_ping()

    def _answer_ping(self) -> None:
        if self._ping is not None and self._transport is not None and not self.ending:
            self._transport.write(websocket.frame(websocket.PONG, self._ping))
        self._ping = None

    def _answer_close(self, code: int, reason: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if not self.ending:
            self.ending = True
            transport.write(websocket.close_frame(code, reason))
        self.eof_received()

    def eof_received(self) -> None:
        """The client has ended its side (asyncio.Protocol): so does this one, once that has taken what was written."""
        self.ending = True
        if self._transport is not None:
            self._transport.close()
        if self._timer is None:  # one that reads nothing never would
            self._timer = self._loop.call_later(ANSWER_S, self.abort)

    def pause_writing(self) -> None:
        """The kernel takes no more (asyncio.Protocol)."""
        self.paused = True

    def resume_writing(self) -> None:
        """All that was written is with the kernel (asyncio.Protocol)."""
        self.paused = False
        self._answer_ping()
        if self._owner is not None and not self.ending:
            self._owner.drained()

    def connection_lost(self, error: BaseException | None) -> None:
        """The connection is closed (asyncio.Protocol)."""
        owner, self._owner, self._transport = self._owner, None, None
        if self._timer is not None:
            self._timer.cancel()
        if owner is not None:
            owner.lost()


def _prepare(connection: socket.socket | None) -> None:
    """Let the kernel keep little, and find out within minutes that a client vanished; pings would cut off the merely slow."""
    if connection is None:
        return
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if hasattr(socket, "TCP_KEEPIDLE"):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 20)
