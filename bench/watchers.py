"""Thousands of dashboards held open by one process, as cheaply as Python can: what it takes is missing to the engine.

Only some of them (`every`) look into their messages; the others count bytes. Stalled ones read nothing after the upgrade. Each
process is told what to do over a pipe, and tells what its sampled sockets saw in the end. Times are `time.perf_counter`, which
on Linux is one clock for all processes.
"""

import asyncio
import multiprocessing
import resource
import socket
import time
from array import array
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import NamedTuple, cast

import msgspec
import uvloop

from .client import Target

CONNECTING = 50
"""Sockets opened at the same time, by each process."""
OPEN_TIMEOUT_S = 120.0
STALLED_BUFFER_BYTES = 4096
TIMEFRAMES = ("1h", "6h", "24h", "7d")


class Order(NamedTuple):
    """Open so many sockets more."""

    sockets: int
    every: int
    """One in so many is sampled; 0: they are stalled."""


class Seen(NamedTuple):
    """What sampled sockets saw: when each message came and its total, one entry a socket; and bytes that all received."""

    sockets: list[tuple["array[float]", "array[int]"]]
    received_bytes: int
    lost: int


class _Summary(msgspec.Struct):
    total_executions: int


class _Message(msgspec.Struct):
    summary: _Summary | None = None  # messages about alerts have none


_decode = msgspec.json.Decoder(_Message).decode


class _Watcher(asyncio.Protocol):
    """One socket."""

    __slots__ = ("arrived_s", "bytes", "is_lost", "opened", "rest", "sampled", "stalled", "totals", "transport")

    def __init__(self, opened: "asyncio.Future[None]", head: bytes, sampled: bool, stalled: bool) -> None:
        self.opened, self.sampled, self.stalled = opened, sampled, stalled
        self.rest, self.bytes, self.is_lost = head, 0, False
        self.arrived_s, self.totals = array("d"), array("q")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self.transport.write(self.rest)
        self.rest = b""

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        if self.opened.done():
            if self.sampled:
                self.rest = self._take(self.rest + data)
            return
        self.rest += data
        head, end, rest = self.rest.partition(b"\r\n\r\n")
        if end:
            self.rest = rest
            if head.startswith(b"HTTP/1.1 101"):
                self.opened.set_result(None)
            else:
                self.opened.set_exception(ConnectionError(head[:200].decode(errors="replace")))
            if self.stalled:
                self.transport.pause_reading()

    def _take(self, data: bytes) -> bytes:
        """Remember the messages that are whole; gives the rest."""
        while len(data) >= 2:
            size, head = data[1], 2
            if size == 126:
                size, head = int.from_bytes(data[2:4], "big"), 4
            elif size == 127:
                size, head = int.from_bytes(data[2:10], "big"), 10
            if len(data) < head + size:
                break
            if data[0] & 0x0F == 1 and (summary := _decode(data[head : head + size]).summary) is not None:
                self.arrived_s.append(time.perf_counter())
                self.totals.append(summary.total_executions)
            data = data[head + size :]
        return data

    def connection_lost(self, error: BaseException | None) -> None:
        self.is_lost = True
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("the server closed the connection"))


class Watchers:
    """One process of them, seen from the bench. A context manager: the process ends with it."""

    def __init__(self, target: Target) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(target, theirs), daemon=True)

    def __enter__(self) -> "Watchers":
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._pipe.send(None)
        self._process.join(10.0)
        if self._process.is_alive():
            self._process.kill()

    async def open(self, order: Order) -> None:
        """Open sockets. Raises ConnectionError with the server's answer."""
        self._pipe.send(order)
        if (failure := await asyncio.to_thread(self._pipe.recv)) is not None:
            raise ConnectionError(failure)

    async def seen(self) -> Seen:
        """What was seen until now."""
        self._pipe.send("seen")
        found: Seen = await asyncio.to_thread(self._pipe.recv)
        return found


def _run(target: Target, pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    with suppress(KeyboardInterrupt, EOFError):
        uvloop.run(_serve(target, pipe))


async def _serve(target: Target, pipe: Connection) -> None:
    watchers: list[_Watcher] = []
    while (order := await asyncio.to_thread(pipe.recv)) is not None:
        if isinstance(order, Order):
            try:
                async with asyncio.timeout(OPEN_TIMEOUT_S):
                    watchers += await _open(target, order, len(watchers))
                pipe.send(None)
            except (OSError, TimeoutError) as error:
                pipe.send(str(error) or type(error).__name__)
        else:
            sampled = [(watcher.arrived_s, watcher.totals) for watcher in watchers if watcher.sampled]
            pipe.send(Seen(sampled, sum(one.bytes for one in watchers), sum(one.is_lost for one in watchers)))


async def _open(target: Target, order: Order, first: int) -> list[_Watcher]:
    loop, gate = asyncio.get_running_loop(), asyncio.Semaphore(CONNECTING)

    async def one(number: int) -> _Watcher:
        sampled = bool(order.every) and number % order.every == 0
        head = target.encode(
            "GET",
            f"/ws/dashboards/main?timeframe={TIMEFRAMES[number % len(TIMEFRAMES)]}",
            b"",
            {
                "Upgrade": "websocket",
                "Connection": "Upgrade",
                "Sec-WebSocket-Version": "13",
                "Sec-WebSocket-Key": "A" * 22 + "==",
            },
        )
        async with gate:
            watcher = _Watcher(loop.create_future(), head, sampled, not order.every)
            connection = socket.socket()
            if not order.every:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STALLED_BUFFER_BYTES)
            connection.setblocking(False)
            await loop.sock_connect(connection, (target.host, target.port))
            await loop.create_connection(lambda: watcher, sock=connection)
            await watcher.opened
        return watcher

    return list(await asyncio.gather(*(one(first + number) for number in range(order.sockets))))


def shares(whole: int, parts: int) -> Iterator[int]:
    """`whole` in `parts` that differ by 1 at most."""
    yield from (whole // parts + (number < whole % parts) for number in range(parts))
