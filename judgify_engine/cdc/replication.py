"""Streaming replication on the event loop: libpq speaks the protocol, the loop watches its socket.

Connecting and commands block for a moment and run in a thread; reading never blocks. The advisory lock that makes this
process the only holder lives in the same session as the stream, so PostgreSQL frees both together when we die.
"""

import asyncio
import contextlib
import logging
import os
import socket
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.extras

from judgify_engine.core.healing import Server
from judgify_engine.core.stream_state import left_at
from judgify_engine.errors import DatabaseUnavailable
from judgify_engine.units import format_lsn, parse_lsn
from judgify_engine.wire.pgoutput import MARK

log = logging.getLogger(__name__)

HOLDER_LOCK = 0x6A756467_00000003
PUBLISHER_LOCK = 0x6A756467_00000005
CONNECT_TIMEOUT_S = 5
STATUS_INTERVAL_S = 10
NOTICE_END_MS = 1000


class Replication:
    """One replication session: first it may take the holder's lock and make the slot, then it streams."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: Any = None
        self._cursor: Any = None
        self._waiter: asyncio.Future[None] | None = None
        self._in_thread = False
        self.wal_end = 0

    async def connect(self) -> None:
        """Open the session. Raises DatabaseUnavailable."""

        def connect() -> Any:
            return psycopg2.connect(
                self._dsn,
                connection_factory=psycopg2.extras.LogicalReplicationConnection,
                connect_timeout=CONNECT_TIMEOUT_S,
                application_name="judgify-engine-cdc",
                keepalives_idle=30,
            )

        try:
            self._connection = await asyncio.to_thread(connect)
        except psycopg2.Error as error:
            raise DatabaseUnavailable(f"no replication connection: {str(error).strip()}") from error
        self._cursor = self._connection.cursor()

    async def take_lock(self, lock: int = HOLDER_LOCK) -> bool:
        """Become the one who may, if nobody else is."""
        return bool((await self.command(f"SELECT pg_try_advisory_lock({lock})"))[0])

    async def command(self, sql: str) -> Any:
        """Run one command of the replication protocol, or SQL; return its first row. Raises DatabaseUnavailable."""

        def run() -> Any:
            self._cursor.execute(sql)
            return self._cursor.fetchone() if self._cursor.description else None

        self._in_thread = True
        try:
            row = await asyncio.to_thread(run)
        except psycopg2.Error as error:
            self._in_thread = False
            raise DatabaseUnavailable(f"replication command failed: {str(error).strip()}") from error
        self._in_thread = False
        return row

    @property
    def pid(self) -> int:
        """The server process of this session."""
        return int(self._connection.get_backend_pid())

    async def _leave_with_us(self) -> None:
        """Have the server notice our end also while it makes a slot: else it would wait on, and keep the holder's lock.

        In a statement before one that makes a slot, because statements alone start the timer. Not all platforms have it.
        """
        with contextlib.suppress(DatabaseUnavailable):
            await self.command(f"SET client_connection_check_interval = {NOTICE_END_MS}; SELECT")

    async def create_slot(self, slot: str) -> tuple[int, str]:
        """Make the slot; return the LSN where it starts and a snapshot of exactly that moment.

        The snapshot lasts until the next command of this session.
        """
        await self._leave_with_us()
        row = await self.command(f"CREATE_REPLICATION_SLOT {slot} LOGICAL pgoutput (SNAPSHOT 'export')")
        return parse_lsn(row[1]), str(row[2])

    async def identify(self) -> Server:
        """Which server this is, and how far its log goes."""
        row = await self.command("IDENTIFY_SYSTEM")
        return Server(str(row[0]), int(row[1]), parse_lsn(row[2]))

    async def left_at(self, timeline: int, now: int) -> int | None:
        """Where the log left `timeline`, if that is not its timeline `now`; None: it did not, or the server forgot."""
        if not 0 < timeline < now:
            return None
        try:
            _, history = await self.command(f"TIMELINE_HISTORY {now}")
        except DatabaseUnavailable:
            return None
        return left_at(history if isinstance(history, str) else bytes(history).decode(errors="replace"), timeline)

    async def mark(self) -> None:
        """Write a mark into the log (see `SlotStore.mark`), before `start`.

        As long as no message has come, libpq's wrapper answers the server's keepalives with their own LSN, which may be past
        the position. With a mark ahead there is a message before the server has reason to ask.
        """
        await self.command(f"SELECT pg_logical_emit_message(true, '{MARK}', '')")

    async def borrow_snapshot(self, slot: str) -> tuple[int, str]:
        """A snapshot whose LSN is known, by a slot that ends with this session; it lasts until the session's next command."""
        await self._leave_with_us()
        row = await self.command(f"CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')")
        return parse_lsn(row[1]), str(row[2])

    async def start(self, slot: str, publication: str, lsn: int = 0) -> None:
        """Begin to stream from what was last confirmed, or from `lsn` if that is later. Raises DatabaseUnavailable."""
        options = f"proto_version '1', publication_names '{publication}', binary 'true', messages 'true'"

        def start() -> None:
            self._cursor.start_replication_expert(
                f"START_REPLICATION SLOT {slot} LOGICAL {format_lsn(lsn)} ({options})".encode(),
                decode=False,
                status_interval=STATUS_INTERVAL_S,
            )

        self._in_thread = True
        try:
            await asyncio.to_thread(start)
        except psycopg2.Error as error:
            self._in_thread = False
            raise DatabaseUnavailable(f"cannot stream: {str(error).strip()}") from error
        self._in_thread = False

    def read(self) -> bytes | None:
        """The next message, or None when there is none right now. Raises DatabaseUnavailable when the stream ended."""
        try:
            message = self._cursor.read_message()
        except psycopg2.Error as error:
            raise DatabaseUnavailable(f"the stream ended: {str(error).strip()}") from error
        if message is None:
            self.wal_end = max(self.wal_end, self._cursor.wal_end or 0)
            return None
        self.wal_end = max(self.wal_end, message.wal_end)
        return message.payload  # type: ignore[no-any-return]

    async def readable(self, timeout_s: float, after_s: float = 0.0) -> None:
        """Wait until there may be a message, at most `timeout_s` seconds, and `after_s` even if there is one."""
        if after_s:
            await asyncio.sleep(after_s)
            timeout_s -= after_s
        loop = asyncio.get_running_loop()
        if self._connection is None:
            raise DatabaseUnavailable("the stream was closed")
        try:
            socket_fd = self._connection.fileno()
        except psycopg2.Error as error:
            raise DatabaseUnavailable(f"the stream ended: {str(error).strip()}") from error
        self._waiter = loop.create_future()
        timer = loop.call_later(timeout_s, self._wake)
        # Watched only while somebody waits: data that nobody reads yet would wake the loop all the time.
        loop.add_reader(socket_fd, self._wake)
        try:
            await self._waiter
        finally:
            loop.remove_reader(socket_fd)
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def confirm(self, lsn: int) -> None:
        """Tell the server that all before `lsn` is safe. Raises DatabaseUnavailable when the stream ended.

        `lsn` must be before the end of the last transaction that was read: else psycopg2 takes it that all that came is
        safe, and from then on confirms by itself whatever LSN a keepalive names.
        """
        try:
            self._cursor.send_feedback(write_lsn=lsn, flush_lsn=lsn, apply_lsn=lsn, force=True)
        except psycopg2.Error as error:
            raise DatabaseUnavailable(f"the stream ended at {format_lsn(lsn)}: {str(error).strip()}") from error

    def close(self) -> None:
        """End the session, also one that a thread still waits for; PostgreSQL frees the lock and the slot. Never waits."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        with contextlib.suppress(psycopg2.Error, OSError):
            # psycopg2's own close would wait for a command under way (making a slot waits for open transactions).
            with socket.socket(fileno=os.dup(connection.fileno())) as shared:
                shared.shutdown(socket.SHUT_RDWR)
            if not self._in_thread:
                connection.close()
