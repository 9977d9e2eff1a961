"""How many of something a tenant may have: one writer at a time counts and adds, so that the limit holds, whoever comes."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

LIMIT_LOCKS = 0x6A756469
"""The first of the lock's two keys, as those of store/lease; the second is a hash of the table and the tenant."""


@contextlib.asynccontextmanager
async def one_writer(connection: Any, table: str, tenant_id: str) -> AsyncIterator[None]:
    """A transaction, in which nobody else adds to the tenant's rows of `table` through the API, in whatever process.

    Its statements see what was committed before them, so a count sees all that others added. Waits for others as long as a
    command may take; raises TimeoutError then.
    """
    async with connection.transaction(isolation="read_committed"):
        await connection.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", LIMIT_LOCKS, f"{table}\n{tenant_id}")
        yield
