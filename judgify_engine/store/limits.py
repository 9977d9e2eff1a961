"""How many of something a tenant may have: one writer at a time counts and adds, so that the limit holds, whoever comes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakValueDictionary

from judgify_engine.errors import Overloaded
from judgify_engine.store.pool import Database

LIMIT_LOCKS = 0x6A756469
"""The first of the lock's two keys, as those of store/lease; the second is a hash of the table and the tenant."""
TURN_S = 10.0
"""How long it is waited for others of this process, at most."""
_turns: WeakValueDictionary[tuple[int, str, str], asyncio.Lock] = WeakValueDictionary()
"""Who waits for its turn has no connection, so a tenant whose lock is held for long keeps one of them from others, not all."""


@contextlib.asynccontextmanager
async def one_writer(database: Database, table: str, tenant_id: str) -> AsyncIterator[Any]:
    """A connection in a transaction, in which nobody else adds to the tenant's rows of `table` through the API, in whatever
    process.

    Its statements see what was committed before them, so a count sees all that others added. Waits for others of this process
    for `TURN_S`, for another process as long as a command may take; raises Overloaded then, and DatabaseUnavailable.
    """
    turn = _turns.setdefault((id(database), table, tenant_id), asyncio.Lock())
    try:
        async with asyncio.timeout(TURN_S):
            await turn.acquire()
    except TimeoutError as error:
        raise Overloaded(f"others are changing {table} of this tenant") from error
    try:
        async with database.query() as connection, connection.transaction(isolation="read_committed"):
            await connection.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", LIMIT_LOCKS, f"{table}\n{tenant_id}")
            yield connection
    finally:
        turn.release()
