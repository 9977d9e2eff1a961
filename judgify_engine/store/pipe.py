"""Rows from one database to another: COPY out in one session, COPY in in another, in bounded memory."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from judgify_engine.errors import DatabaseUnavailable

TIMEOUT_S = 6 * 3600.0
PIPE_CHUNKS = 16
"""Chunks of a COPY on their way from one database to the other."""
LOST = "a connection was lost while rows were copied"


async def pipe(source: Any, sql: str, target: Any, table: str, *values: Any) -> None:
    """Stream the rows of a query in one session into a table of another one, in bounded memory."""
    chunks: asyncio.Queue[bytes | None] = asyncio.Queue(PIPE_CHUNKS)
    lost = asyncio.Event()

    async def arriving() -> AsyncIterator[bytes]:
        while (chunk := await chunks.get()) is not None:
            yield chunk

    async def send() -> None:
        await source.copy_from_query(sql, *values, output=chunks.put, format="binary", timeout=TIMEOUT_S)
        await chunks.put(None)

    async def watch() -> None:
        # asyncpg's COPY does not notice it while it waits for us, nor while it waits to be allowed to write.
        await lost.wait()
        raise DatabaseUnavailable(LOST)

    def on_lost(_: Any) -> None:
        lost.set()

    for connection in (source, target):
        connection.add_termination_listener(on_lost)
    try:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch(), name="recompute-watch")
            sending = tasks.create_task(send(), name="recompute-read")
            await target.copy_to_table(table, source=arriving(), format="binary", timeout=TIMEOUT_S)
            await sending
            watching.cancel()
    except ExceptionGroup as group:  # the reason that PostgreSQL gave, as callers sort it
        error = group.exceptions[0]
        if isinstance(error, RuntimeError) and (
            source.is_closed() or target.is_closed()
        ):  # asyncpg wrote, uvloop had closed it
            error = DatabaseUnavailable(LOST)
        raise error from group
    finally:
        for connection in (source, target):
            connection.remove_termination_listener(on_lost)
