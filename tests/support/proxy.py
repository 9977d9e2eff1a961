"""A TCP proxy before PostgreSQL that cuts, stalls and refuses, also in the very moment of a commit.

It reads along what the clients send, message by message, so it knows when a COPY ends or a COMMIT is sent, and may cut

- before that message is passed on: the server rolls back, for certain;
- after it was passed on, at once: either may happen;
- after the server's answer came, which is thrown away: the server has committed, for certain, and the client cannot know.
"""

import asyncio
import contextlib
import random
from collections import Counter

MOMENTS = ("before", "race", "after")


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes on to `port`."""

    def __init__(self, port: int, seed: int = 0) -> None:
        self.port = 0
        self.cut_commits = 0.0
        """Share of commits in whose moment the connection is cut."""
        self.moments: tuple[str, ...] = MOMENTS
        """Which of them."""
        self.refusing = False
        """Refuse new connections."""
        self.cuts: Counter[str] = Counter()
        self._target = port
        self._random = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.resume()
        self.cut_all()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        await self._server.wait_closed()

    def dsn(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}?sslmode=disable"

    def stall(self) -> None:
        """Pass nothing on, in either direction, and cut nothing: as a network does that loses all packets."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def cut_all(self) -> None:
        """Reset every connection."""
        for pair in list(self._pairs):
            self.cuts["all"] += 1
            pair.cut()

    def cut_one(self) -> None:
        """Reset one connection, whichever."""
        if self._pairs:
            self.cuts["one"] += 1
            self._random.choice(list(self._pairs)).cut()

    @property
    def connections(self) -> int:
        return len(self._pairs)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.refusing:
            writer.transport.abort()
            return
        try:
            await self._flowing.wait()
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(writer, upstream_writer)
        self._pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._upwards(reader, pair))
                tasks.create_task(self._downwards(upstream_reader, pair))
        finally:
            pair.cut()
            self._pairs.discard(pair)

    async def _upwards(self, reader: asyncio.StreamReader, pair: "_Pair") -> None:
        """From the client: message by message."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            length = await reader.readexactly(4)
            await self._pass(pair.up, length + await reader.readexactly(int.from_bytes(length, "big") - 4))
            while not pair.is_cut:
                head = await reader.readexactly(5)
                message = head + await reader.readexactly(int.from_bytes(head[1:], "big") - 4)
                if _commits(message) and self._random.random() < self.cut_commits:
                    await self._cut_in_commit(message, pair)
                    return
                await self._pass(pair.up, message)
        if not pair.is_cut:
            pair.up.close()
            pair.cut()

    async def _downwards(self, reader: asyncio.StreamReader, pair: "_Pair") -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if pair.swallow is not None:
                    pair.swallow.set()
                    continue
                await self._pass(pair.down, data)
        if pair.swallow is not None:
            pair.swallow.set()
        if not pair.is_cut:
            pair.cut()

    async def _cut_in_commit(self, message: bytes, pair: "_Pair") -> None:
        moment = self._random.choice(self.moments)
        self.cuts[moment] += 1
        if moment == "after":
            pair.swallow = asyncio.Event()
        if moment != "before":
            await self._pass(pair.up, message)
        if pair.swallow is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(pair.swallow.wait(), 5)
        pair.cut()

    async def _pass(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        await self._flowing.wait()
        writer.write(data)
        await writer.drain()


class _Pair:
    """One connection of a client and ours to the server behind it."""

    def __init__(self, down: asyncio.StreamWriter, up: asyncio.StreamWriter) -> None:
        self.down, self.up = down, up
        self.is_cut = False
        self.swallow: asyncio.Event | None = None
        """When set, what the server says is thrown away; the event tells that it said something."""

    def cut(self) -> None:
        self.is_cut = True
        self.down.transport.abort()
        self.up.transport.abort()


def _commits(message: bytes) -> bool:
    """CopyDone (a COPY commits by itself), or the COMMIT of a longer transaction."""
    return message[:1] == b"c" or (message[:1] == b"Q" and message[5:].upper().startswith(b"COMMIT"))
