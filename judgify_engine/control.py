"""What the supervisor and a worker of it say to each other, over a socket pair that both inherit.

The supervisor sends one line of JSON (`Orders`); the worker says `READY` when it serves, and `PONG` to each `PING`, which shows
that its event loop turns; the supervisor may say `RETIRE`. Each of them takes the end of the other, whatever its cause, by the
socket's end. Settings go this way and not as arguments: they hold passwords.
"""

import asyncio
import contextlib
import socket
from typing import Any

import msgspec

from judgify_engine.config import Config
from judgify_engine.errors import JudgifyError

READY, RETIRE = b"ready\n", b"retire\n"
PING, PONG = b"ping\n", b"pong\n"
LONGEST_LINE = 1024 * 1024


class Orders(msgspec.Struct, frozen=True):
    """What a worker needs to know."""

    config: Config
    dsn: str
    number: int
    """Its place among the workers, from 0."""
    sockets: list[int]
    """File descriptors of the sockets to listen on."""
    folder: str
    """Where all workers have a socket each, to be asked for their figures."""


class Line:
    """One end of the socket pair, on the event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, end: socket.socket) -> "Line":
        """Take the socket over."""
        end.setblocking(False)
        return cls(*await asyncio.open_connection(sock=end, limit=LONGEST_LINE))

    async def say(self, line: bytes) -> None:
        """Tell the other side; nothing where it has gone."""
        with contextlib.suppress(ConnectionError, RuntimeError):  # uvloop's for a transport that is closed
            self._writer.write(line)
            await self._writer.drain()

    async def hear(self) -> bytes:
        """The next line; empty when the other side has gone."""
        try:
            return await self._reader.readline()
        except ConnectionError:
            return b""

    def close(self) -> None:
        self._writer.close()


def encode(orders: Orders) -> bytes:
    """As one line."""
    return msgspec.json.encode(orders) + b"\n"


def decode(line: bytes) -> Orders:
    """Raises JudgifyError when it is no order of a supervisor of this version."""
    try:
        return msgspec.json.decode(line, type=Orders)
    except msgspec.MsgspecError as error:
        raise JudgifyError(f"not the orders of a supervisor: {error}") from error


def take(descriptor: Any) -> socket.socket:
    """The inherited end with this number. Raises JudgifyError when it is none."""
    try:
        return socket.socket(fileno=int(descriptor))
    except (OSError, ValueError) as error:
        raise JudgifyError(f"a worker is started by its supervisor only: {error}") from error
