"""What the supervisor and a worker of it say to each other, over a socket pair that both inherit.

The supervisor sends one line of JSON (`Orders`); the worker says `BOUND` when all is ready but that it listens, is told
`LISTEN` (one after the other: ingest/steering needs to know the order), says `READY` when it serves, and `PONG` to each `PING`,
which shows that its event loop turns; the supervisor may say `RETIRE`, and hears `DEAF` when nothing is accepted any more. A
worker may ask for another number of workers (`ask_for`); the supervisor tells all of them how many there are (`tell_size`).
Each takes the end of the other, whatever its cause, by the socket's end. Settings go this way and not as arguments: they hold
passwords.
"""

import asyncio
import contextlib
import socket
from typing import Any

import msgspec

from judgify_engine.config import Config
from judgify_engine.errors import JudgifyError

BOUND, LISTEN = b"bound\n", b"listen\n"
READY, RETIRE, DEAF = b"ready\n", b"retire\n", b"deaf\n"
PING, PONG = b"ping\n", b"pong\n"
_SCALE, _WORKERS = b"scale", b"workers"
LONGEST_LINE = 1024 * 1024


class Orders(msgspec.Struct, frozen=True):
    """What a worker needs to know."""

    config: Config
    """Its `workers` are those who share what tenants may use, also who comes or goes just now."""
    dsn: str
    number: int
    """Its place among the workers, from 0."""
    sockets: list[int]
    """File descriptors of the sockets to listen on."""
    folder: str
    """Where all workers have a socket each, to be asked for their figures."""
    team: str
    """What the supervisor is called, now and after another start."""
    size: int
    """How many workers there are to be."""


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

    def tell(self, line: bytes) -> None:
        """The same without waiting; for lines that are short and rare."""
        with contextlib.suppress(ConnectionError, RuntimeError):
            self._writer.write(line)

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


def ask_for(size: int) -> bytes:
    """A worker's request for so many."""
    return b"%b %d\n" % (_SCALE, size)


def asked_for(line: bytes) -> int | None:
    """The number, if this is such a request."""
    numbers = _numbers(line, _SCALE, 1)
    return numbers[0] if numbers else None


def tell_size(size: int, sharing: int) -> bytes:
    """The supervisor's word: so many are to be, and so many are there (some may be coming or going)."""
    return b"%b %d %d\n" % (_WORKERS, size, sharing)


def told_size(line: bytes) -> tuple[int, int] | None:
    """The numbers, if this is such a word."""
    numbers = _numbers(line, _WORKERS, 2)
    return (numbers[0], numbers[1]) if numbers else None


def _numbers(line: bytes, word: bytes, count: int) -> list[int] | None:
    first, *rest = line.split()
    if first != word or len(rest) != count or not all(one.isdigit() for one in rest):
        return None
    return [int(one) for one in rest]


def take(descriptor: Any) -> socket.socket:
    """The inherited end with this number. Raises JudgifyError when it is none."""
    try:
        return socket.socket(fileno=int(descriptor))
    except (OSError, ValueError) as error:
        raise JudgifyError(f"a worker is started by its supervisor only: {error}") from error
