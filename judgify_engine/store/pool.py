"""Connections to PostgreSQL: a pool for commits, one for look-ups, one for lists and dashboards; and a watch
that says whether it is there.

Driver errors are translated here, once: what means "PostgreSQL is away" becomes `DatabaseUnavailable`.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg

from judgify_engine.config import Config
from judgify_engine.errors import DatabaseUnavailable, Overloaded

log = logging.getLogger(__name__)

PROBE_INTERVAL_S = 0.5
# synchronous_commit: a 200 means "on disk", and what is confirmed to the slot is rolled up on disk, whatever the server's
# default says.
SESSION = {"application_name": "judgify-engine", "timezone": "UTC", "synchronous_commit": "on"}
AT_HAND, AT_HAND_S = 2, 30.0
"""Connections that are kept for the next commit, outside their pool, until they were not needed for so long."""
RELEASE_S = 1.0
"""A statement that was given up is cancelled on the server; a connection on which that takes longer is dropped."""
CLOSE_S = 3.0
CAN_WRITE = "NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'"
# Errors that say nothing about the statement, only that the server is away, full, or going away.
AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InternalClientError,
)


async def _keep(connection: Any) -> None:
    """Leave a released connection as it is: our statements change no session state, and a reset is a round trip."""


async def _close(pool: "asyncpg.Pool[Any]") -> None:
    try:
        async with asyncio.timeout(CLOSE_S):
            await pool.close()
    except (TimeoutError, *AWAY):
        pool.terminate()


def _is_open(connection: Any) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:  # it has ended and left the pool
        return False


class Database:
    """The pools of one process. `available` is False from the first sign of trouble until a probe succeeds."""

    def __init__(self, dsn: str, config: Config) -> None:
        self.dsn = dsn
        self.available = False
        self.since_s = time.monotonic()
        self._config = config
        self._commits: asyncpg.Pool[Any] | None = None
        self._at_hand: list[tuple[Any, float]] = []
        """Connections of `_commits` and when each was last used; the last one first."""
        self._wanted = 0
        """Commits that wait for a connection of the pool."""
        self._queries: asyncpg.Pool[Any] | None = None
        self._reads: asyncpg.Pool[Any] | None = None
        self._trouble = asyncio.Event()
        self._giving_back: set[asyncio.Future[None]] = set()

    async def connect(self) -> "asyncpg.Connection[Any]":
        """A connection of its own, outside the pools, for long-lived or administrative work. The caller closes it."""
        return await asyncpg.connect(
            self.dsn,
            timeout=self._config.database.connect_timeout_s,
            command_timeout=self._config.database.command_timeout_s,
            server_settings=SESSION,
        )

    @contextlib.asynccontextmanager
    async def session(self, snapshot: str | None = None) -> AsyncIterator[Any]:
        """A connection of its own, ended with all its temporary tables. `snapshot`: its name; all is read as of it."""
        connection = await self.connect()
        try:
            if snapshot is not None:  # the server's own name
                begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
                await connection.execute(f"{begin}; SET TRANSACTION SNAPSHOT '{snapshot}'")
            yield connection
        finally:  # not a ROLLBACK, which waits where the server hangs
            connection.terminate()

    async def open(self) -> None:
        """Make the pools; connections are made when they are needed. Does not wait for the server."""
        database = self._config.database
        commits = self._config.queue.partitions * self._config.batch.commits_in_flight
        common: dict[str, Any] = {
            "min_size": 0,
            "timeout": database.connect_timeout_s,
            "command_timeout": database.command_timeout_s,
            "server_settings": SESSION,
            "max_inactive_connection_lifetime": 300.0,
            "reset": _keep,
        }
        self._commits = await asyncpg.create_pool(self.dsn, max_size=max(2, min(commits, 8)), **common)
        self._queries = await asyncpg.create_pool(self.dsn, max_size=database.query_connections, **common)
        self._reads = await asyncpg.create_pool(self.dsn, max_size=database.read_connections, **common)
        self._mark(True)

    async def close(self) -> None:
        """Close the pools, all of them within CLOSE_S; connections that hang are dropped then."""
        await self._put_away(0.0)
        pools = (self._commits, self._queries, self._reads)
        await asyncio.gather(*(_close(pool) for pool in pools if pool is not None))

    @contextlib.asynccontextmanager
    async def commit_connection(self) -> AsyncIterator[Any]:
        """A connection for one COPY. Errors of the statement pass through, for the caller to sort.

        After a commit without an error it stays at hand: the pool's way, two tasks, is a quarter of what a small commit costs.
        """
        pool = self._commits
        assert pool is not None
        connection = self._take_at_hand()
        if connection is None:
            self._wanted += 1
            try:
                connection = await self._acquire(pool)
            finally:
                self._wanted -= 1
        kept = False
        try:
            yield connection
            kept = len(self._at_hand) < AT_HAND and not self._wanted and _is_open(connection)
        finally:
            if kept:
                self._at_hand.append((connection, time.monotonic()))
            else:
                await self._release(pool, connection)

    def _take_at_hand(self) -> Any | None:
        while self._at_hand:
            connection, _ = self._at_hand.pop()
            if _is_open(connection):
                return connection
            with contextlib.suppress(asyncpg.InterfaceError):
                connection.terminate()  # which gives its place in the pool free
        return None

    async def _put_away(self, unused_s: float) -> None:
        """Give those that were not needed for so long back to the pool, which closes them in the end."""
        pool, before_s = self._commits, time.monotonic() - unused_s
        unused = [connection for connection, used_s in self._at_hand if used_s <= before_s]
        self._at_hand = [entry for entry in self._at_hand if entry[1] > before_s]
        for connection in unused:
            assert pool is not None
            await self._release(pool, connection)

    @contextlib.asynccontextmanager
    async def query(self, *, may_be_slow: bool = False) -> AsyncIterator[Any]:
        """A connection for a look-up or a change outside the hot path.

        What may be slow, such as lists, has connections of its own, so that it keeps nobody from a token or a key.
        Raises DatabaseUnavailable when PostgreSQL is away, Overloaded when it is slow or no connection comes free in time.
        """
        pool = self._reads if may_be_slow else self._queries
        assert pool is not None
        connection = await self._acquire(pool)
        try:
            yield connection
        except TimeoutError as error:  # slow is not away: another statement may hold a lock
            raise Overloaded("PostgreSQL did not answer this in time") from error
        except AWAY as error:
            self.trouble(error)
            raise DatabaseUnavailable("PostgreSQL is away; this was not done") from error
        finally:
            await self._release(pool, connection)

    async def _acquire(self, pool: "asyncpg.Pool[Any]") -> Any:
        try:
            return await pool.acquire(timeout=self._config.database.connect_timeout_s)
        except AWAY as error:
            if isinstance(error, TimeoutError) and pool.get_size() >= pool.get_max_size() and not pool.get_idle_size():
                raise Overloaded("all connections for this are busy") from error
            self.trouble(error)
            raise DatabaseUnavailable("PostgreSQL is away") from error

    async def _release(self, pool: "asyncpg.Pool[Any]", connection: Any) -> None:
        # A task of ours: asyncpg goes on where who gives it back is cancelled, and nobody would hear how that ends.
        giving_back = asyncio.ensure_future(_give_back(pool, connection))
        self._giving_back.add(giving_back)
        giving_back.add_done_callback(self._giving_back.discard)
        await asyncio.shield(giving_back)

    def trouble(self, error: BaseException) -> None:
        """Note that PostgreSQL seems to be away; `watch` finds out when it is back."""
        if self.available and not isinstance(error, asyncpg.InterfaceError):
            log.error("postgres is away", extra={"reason": str(error) or type(error).__name__})
            self._mark(False)
        self._trouble.set()

    async def watch(self, stop: asyncio.Event) -> None:
        """Keep `available` true to the facts, until `stop`. Probes only while PostgreSQL is away."""
        while not stop.is_set():
            if self.available:
                self._trouble.clear()
                waits = [asyncio.ensure_future(self._trouble.wait()), asyncio.ensure_future(stop.wait())]
                await asyncio.wait(waits, timeout=AT_HAND_S, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
                await self._put_away(AT_HAND_S)
                continue
            if await self._probe():
                log.info("postgres is back", extra={"away_s": round(time.monotonic() - self.since_s, 3)})
                self._mark(True)
                continue
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), PROBE_INTERVAL_S)

    async def _probe(self) -> bool:
        try:
            connection = await self.connect()
        except (*AWAY, asyncpg.PostgresError):
            return False
        try:
            return bool(await connection.fetchval(f"SELECT {CAN_WRITE}", timeout=5))
        except (*AWAY, asyncpg.PostgresError):
            return False
        finally:
            connection.terminate()

    def _mark(self, available: bool) -> None:
        self.available, self.since_s = available, time.monotonic()


async def _give_back(pool: "asyncpg.Pool[Any]", connection: Any) -> None:
    with contextlib.suppress(*AWAY):
        await pool.release(connection, timeout=RELEASE_S)
