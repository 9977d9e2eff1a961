"""The right to do what only one process may do at a time, with the session in which it is done.

It is an advisory lock in that session, so a process that lost it, with its connection, cannot write any more, and PostgreSQL
frees it when the process dies.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg

from judgify_engine.errors import DatabaseUnavailable, Overloaded
from judgify_engine.store.pool import AWAY, Database

SCALING_LOCKS, ALERT_LOCKS = 0x6A756467, 0x6A756468
"""The first of a lock's two keys, the second is a hash of what it is about. (Locks with one key are apart from these: see
cdc/replication.HOLDER_LOCK.)"""
_TAKEN = """
SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = $1
                  AND objid = (hashtext($2)::bigint & 4294967295)::oid
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
"""
_FAILS = (asyncpg.PostgresError, *AWAY)
"""Whatever it is, the next turn begins anew."""


async def _nothing(connection: Any) -> None:
    pass


class Lease:
    """`locks`, `about`: which lock; `name`: for people; `taken`: what is done first with it. All raise DatabaseUnavailable."""

    def __init__(
        self, database: Database, locks: int, about: str, name: str, taken: Callable[[Any], Awaitable[None]] = _nothing
    ) -> None:
        self._database, self._locks, self._about, self._name, self._taken = database, locks, about, name, taken
        self._connection: asyncpg.Connection[Any] | None = None

    async def take(self) -> bool:
        """Whether it is ours; it is taken where nobody has it."""
        if self._connection is not None:
            try:
                await self._connection.execute("SELECT")
            except _FAILS:
                self.let_go()
            else:
                return True
        if await self._is_taken():
            return False
        try:
            connection = await self._database.connect()
        except _FAILS as error:
            self._database.trouble(error)
            raise DatabaseUnavailable(f"no connection for {self._name}") from error
        try:
            if await connection.fetchval("SELECT pg_try_advisory_lock($1, hashtext($2))", self._locks, self._about):
                await self._taken(connection)
                self._connection, connection = connection, None
        except _FAILS as error:
            raise DatabaseUnavailable(f"the connection for {self._name} broke: {error}") from error
        finally:
            if connection is not None:
                connection.terminate()
        return self._connection is not None

    async def _is_taken(self) -> bool:
        """Asked on a connection that is there, so that standing by costs no session each time."""
        try:
            async with self._database.query() as connection:
                return bool(await connection.fetchval(_TAKEN, self._locks, self._about))
        except (Overloaded, *_FAILS) as error:
            raise DatabaseUnavailable(f"{self._name} cannot be asked for: {error}") from error

    def let_go(self) -> None:
        """Give it up; PostgreSQL gives it to the next who asks."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    @contextlib.asynccontextmanager
    async def held(self) -> AsyncIterator[Any]:
        """Its session, for what only its holder may do; an error there ends it."""
        if self._connection is None:
            raise DatabaseUnavailable(f"{self._name} is not held")
        try:
            yield self._connection
        except _FAILS as error:
            self.let_go()
            raise DatabaseUnavailable(f"{self._name} was lost: {error}") from error
