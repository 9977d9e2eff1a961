"""Accepting connections: many at a time.

uvloop's own server accepts about one connection per turn of the loop; under load, 1000 clients that connect at once then wait
for seconds (measured with uvloop 0.23: 118 to 266 wrk timeouts in 5 s at 1000 connections; with this listener, none).
"""

import asyncio
import logging
import resource
import socket
from collections.abc import Callable, Sequence

from judgify_engine.errors import StartupError

log = logging.getLogger(__name__)

ACCEPTS_AT_ONCE = 64
MANY_FILES = 1_000_000
PAUSE_S = 0.2
TELL_EVERY_S = 10.0
RESERVED_FILES = 200
"""For PostgreSQL, the log, the stream, and what is opened for a moment."""


class Room:
    """How many connections may be open at once, and are."""

    def __init__(self, limit: int) -> None:
        """`limit` 0: all open files that the system grants, but for some that the engine itself needs."""
        granted = allow_many_files() - RESERVED_FILES
        self.limit = max(1, min(limit or granted, granted))
        self.taken = 0
        self._empty = asyncio.Event()
        self._empty.set()

    def enter(self) -> None:
        """A connection was opened."""
        self.taken += 1
        self._empty.clear()

    def leave(self) -> None:
        """One was closed."""
        self.taken -= 1
        if not self.taken:
            self._empty.set()

    async def emptied(self) -> None:
        """Wait until none is open."""
        await self._empty.wait()


class Listener:
    """A listening socket whose connections are handed to `make_protocol`."""

    def __init__(self, listening: socket.socket, room: Room, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._socket, self._room, self._make_protocol = listening, room, make_protocol
        self._loop = asyncio.get_running_loop()
        self._handing_over: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._told_s = -TELL_EVERY_S
        self._loop.add_reader(listening, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            if self._room.taken >= self._room.limit:
                self._rest("as many are open as may be")
                return
            try:
                connection, _address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no file descriptors left: let the others finish first
                self._rest(str(error))
                return
            connection.setblocking(False)
            self._room.enter()  # for the hand-over; then the connection counts itself
            task = self._loop.create_task(self._hand_over(connection), name="accept")
            self._handing_over.add(task)
            task.add_done_callback(self._handed_over)

    def _rest(self, reason: str) -> None:
        """Accept nothing for a moment; who connects meanwhile waits in the backlog."""
        now_s = self._loop.time()
        if now_s - self._told_s > TELL_EVERY_S:
            self._told_s = now_s
            log.error("connections cannot be accepted now", extra={"reason": reason, "open": self._room.taken})
        self._loop.remove_reader(self._socket)
        self._pause = self._loop.call_later(PAUSE_S, self._loop.add_reader, self._socket, self._accept)

    def _handed_over(self, task: "asyncio.Task[object]") -> None:
        self._handing_over.discard(task)
        self._room.leave()

    async def _hand_over(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError:
            connection.close()  # the client left at once
        except Exception:
            connection.close()
            log.exception("a connection could not be served")

    def close(self) -> None:
        """Accept nothing more. Connections that are open stay so. May be called twice."""
        if self._socket.fileno() < 0:
            return
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._socket)
        self._accept_waiting()
        self._socket.close()

    def _accept_waiting(self) -> None:
        """Take over those who have connected and wait: the close would refuse them."""
        before = -1
        while self._room.taken != before:
            before = self._room.taken
            self._accept()
        self._loop.remove_reader(self._socket)  # where there was no room for more
        if self._pause is not None:
            self._pause.cancel()


def allow_many_files() -> int:
    """Use all the open files that the system grants this process (the usual first limit is 1024); returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:  # macOS says "unlimited" and means less
            log.warning("the limit on open files could not be raised", extra={"limit": soft, "reason": str(error)})
    return MANY_FILES if soft == resource.RLIM_INFINITY else soft


def _bind(host: str, port: int, backlog: int, shared: bool) -> list[socket.socket]:
    infos = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    found: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(infos):
            listening = socket.socket(family, kind, protocol)
            found.append(listening)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Port 0: the same free port on every address.
            listening.bind((address[0], port_of(found) if port == 0 and len(found) > 1 else port, *address[2:]))
            if not shared:
                listening.listen(backlog)
            listening.setblocking(False)
    except BaseException:
        for listening in found:
            listening.close()
        raise
    return found


def open_sockets(host: str, port: int, backlog: int, *, shared: bool = False) -> list[socket.socket]:
    """Sockets that listen on every address of `host` (all of them for an empty one). Raises StartupError.

    `shared`: others of ours may listen there too, and the kernel spreads connections over them (SO_REUSEPORT). These are only
    bound: who serves on them says `listen`, and gets no connection before.
    """
    try:
        return _bind(host, port, backlog, shared)
    except (OSError, OverflowError) as error:
        raise StartupError(f"cannot listen on {host}:{port}: {error}") from error


def port_of(sockets: Sequence[socket.socket]) -> int:
    """The port that they listen on."""
    return int(sockets[0].getsockname()[1])


def url_of(host: str, port: int) -> str:
    """The address to print."""
    shown = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
