"""Hearing messages from Redis: connections that subscribe, watched by pings, made again when they break.

In a cluster whose servers can (7.0), channels are sharded: each is heard from the server that has its slot, so a message goes
to one server and not to all. When one connection breaks, or a slot moves, all are made again, where the channels are by then,
and the listener is told that it may have missed something. That is rare, and one way for all causes.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable
from itertools import count
from typing import Any

from redis.asyncio.connection import AbstractConnection

from judgify_engine.errors import StreamsUnavailable
from judgify_engine.streams.server import ERRORS, Server

log = logging.getLogger(__name__)

CANCEL_AGAIN_S = 0.5
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
BROKEN = (StreamsUnavailable, *ERRORS, TimeoutError)


class RedisListener:
    """See the module and pipeline/streams."""

    def __init__(
        self, server: Server, timeout_s: float, heard: Callable[[str, bytes], None], interrupted: Callable[[], None]
    ) -> None:
        self.connected = False
        self._server, self._timeout_s, self._heard, self._interrupted = server, timeout_s, heard, interrupted
        self._wanted: set[str] = set()
        self._session: _Session | None = None
        self._tried = asyncio.Event()
        """Set when it is known whether the server can be reached."""
        self._missed = False
        """Somebody was told that nothing is heard just now."""
        self._task = asyncio.create_task(self._run(), name="listen")

    async def watch(self, channels: Collection[str]) -> None:
        self._wanted.update(channels)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * self._timeout_s):
                await self._tried.wait()
        session = self._session
        if session is not None:
            await session.watch(set(channels) - session.channels)
        if not self.connected:
            self._missed = True

    async def unwatch(self, channels: Collection[str]) -> None:
        self._wanted.difference_update(channels)
        if self._session is not None:
            await self._session.unwatch(set(channels) & self._session.channels)

    async def close(self) -> None:
        self.connected = False
        await _ended(self._task)

    async def _run(self) -> None:
        """One session after the other."""
        pause_s = SHORTEST_PAUSE_S
        while True:
            session = _Session(self._server, self._timeout_s, self._heard)
            try:
                await session.open()
                while missing := self._wanted - session.channels:
                    await session.watch(missing)
                    session.check()
                self._session, self.connected, pause_s = session, True, SHORTEST_PAUSE_S
                if self._tried.is_set():
                    log.info("messages of others are heard again")
                if self._missed:
                    self._interrupted()
                self._missed = False
                self._tried.set()
                await session.broken
            except BROKEN as error:
                facts = {"reason": str(error), "pause_s": pause_s}
                if self.connected or not self._tried.is_set():
                    log.warning("messages of others are not heard just now", extra=facts)
                else:
                    log.debug("messages of others are still not heard", extra=facts)
            except Exception:
                log.exception("listening failed and begins anew")
            finally:
                self._session, self.connected, self._missed = None, False, True
                await session.close()
            self._tried.set()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


class _Session:
    """The connections, while all of them live."""

    def __init__(self, server: Server, timeout_s: float, heard: Callable[[str, bytes], None]) -> None:
        self.channels: set[str] = set()
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Ends with the first error of any of them."""
        self._server, self._timeout_s, self._heard = server, timeout_s, heard
        self._lines: dict[str, _Line] = {}
        self._sharded = False

    async def open(self) -> None:
        """Find out where channels are. Raises an error of BROKEN."""
        self._sharded = await self._server.sharded()
        await self._server.look_again()
        if not self._sharded:
            await self._line_of("")

    def check(self) -> None:
        """Raises what broke it."""
        if self.broken.done():
            self.broken.result()

    async def watch(self, channels: Collection[str]) -> None:
        """When it returns, these are heard, or it is broken."""
        await self._say("SSUBSCRIBE" if self._sharded else "SUBSCRIBE", channels, self.channels.update)

    async def unwatch(self, channels: Collection[str]) -> None:
        await self._say("SUNSUBSCRIBE" if self._sharded else "UNSUBSCRIBE", channels, self.channels.difference_update)

    async def _say(self, command: str, channels: Collection[str], note: Callable[[Iterable[str]], None]) -> None:
        note(channels)
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                lines: dict[_Line, list[str]] = {}
                for channel in channels:
                    lines.setdefault(await self._line_of(channel), []).append(channel)
                for answer in [await line.say([(command, channel) for channel in some]) for line, some in lines.items()]:
                    await answer
        except BROKEN as error:
            self._break(error)

    async def _line_of(self, channel: str) -> "_Line":
        name, make = await self._server.place_of(channel if self._sharded else None)
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line(make(), self._timeout_s, self._heard, self.channels, self._break)
        return line

    def _break(self, error: BaseException) -> None:
        if not self.broken.done():
            self.broken.set_exception(error)
            for line in self._lines.values():
                line.release()

    async def close(self) -> None:
        if not self.broken.cancel() and not self.broken.cancelled():
            self.broken.exception()  # whoever waited for it has it, or left before
        for line in self._lines.values():
            await line.close()


class _Line:
    """One connection to one server."""

    def __init__(
        self,
        connection: AbstractConnection,
        timeout_s: float,
        heard: Callable[[str, bytes], None],
        watched: Collection[str],
        broke: Callable[[BaseException], None],
    ) -> None:
        self._connection, self._timeout_s, self._heard, self._watched = connection, timeout_s, heard, watched
        self._broke = broke
        self._asked: dict[bytes, asyncio.Future[None]] = {}
        """Pings under way; what was said before one of them is done when it comes back."""
        self._numbers = count()
        self._opening = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def say(self, commands: list[tuple[str, str]]) -> asyncio.Future[None]:
        """Send these. The result is done when the server has done them."""
        async with self._opening:
            if self._task is None:
                await self._connection.connect()  # type: ignore[no-untyped-call]
                self._task = asyncio.create_task(self._read(), name="listen-line")
        number = b"%d" % next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        packed = self._connection.pack_commands([*commands, ("PING", number)])
        await self._connection.send_packed_command(packed, check_health=False)
        return answer

    async def _read(self) -> None:
        try:
            while True:
                reply = await self._connection.read_response(timeout=self._timeout_s)
                if reply is not None:
                    self._take(reply)
                elif self._asked:
                    raise TimeoutError("the server fell silent")
                else:
                    _ = await self.say([])
        except Exception as error:
            self._broke(error)

    def _take(self, reply: Any) -> None:
        # Without a subscription, a ping is answered with the number alone.
        kind, subject, *rest = reply if isinstance(reply, list) else (b"pong", reply)
        if kind in (b"message", b"smessage"):
            self._heard(subject.decode(), rest[0])
        elif kind == b"pong":
            answer = self._asked.pop(subject, None)
            if answer is not None and not answer.done():  # who asked may have given up
                answer.set_result(None)
        elif kind == b"sunsubscribe" and subject.decode() in self._watched:
            raise TimeoutError("a channel moved to another server")

    def release(self) -> None:
        """No answer comes any more."""
        while self._asked:
            _, answer = self._asked.popitem()
            if not answer.done():
                answer.set_result(None)

    async def close(self) -> None:
        if self._task is not None:
            await _ended(self._task)
        self.release()
        with contextlib.suppress(*BROKEN):
            await self._connection.disconnect(nowait=True)


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel it until it has ended: `wait_for` of Python 3.11, by which redis-py sends, loses some cancellations."""
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=CANCEL_AGAIN_S)
