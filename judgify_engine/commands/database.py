"""A database for commands that need it for a moment: the one named, or the embedded one, running or not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import asyncpg

from judgify_engine.config import Config
from judgify_engine.errors import StartupError
from judgify_engine.store import migrate
from judgify_engine.store.embedded import EmbeddedPostgres, dsn_of
from judgify_engine.store.pool import AWAY, Database

T = TypeVar("T")


def with_database(config: Config, work: Callable[[Database], Awaitable[T]]) -> T:
    """Run `work` with a migrated database. An embedded server that does not run is started for the time being.

    Raises StartupError when the database cannot be reached.
    """
    if not config.embedded:
        return asyncio.run(_run(config.database.url, config, work))
    data_dir = Path(config.data_dir)
    if asyncio.run(_answers(dsn_of(data_dir))):
        return asyncio.run(_run(dsn_of(data_dir), config, work))
    server = EmbeddedPostgres(data_dir)
    try:
        return asyncio.run(_run(server.start(), config, work))
    finally:
        server.stop()


async def _answers(dsn: str) -> bool:
    try:
        connection = await asyncpg.connect(dsn, timeout=3)
    except (*AWAY, asyncpg.PostgresError):
        return False
    await connection.close()
    return True


async def _run(dsn: str, config: Config, work: Callable[[Database], Awaitable[T]]) -> T:
    async with opened(dsn, config) as database:
        connection = await database.connect()
        try:
            await migrate.migrate(connection)
        finally:
            await connection.close()
        return await work(database)


@contextlib.asynccontextmanager
async def opened(dsn: str, config: Config) -> AsyncIterator[Database]:
    """The pools, closed at the end. Raises StartupError when PostgreSQL cannot be reached."""
    database = Database(dsn, config)
    try:
        (await database.connect()).terminate()
    except ValueError:  # its text may quote a part of the password
        raise StartupError("the database URL is not valid; special characters in the password are written as %XX") from None
    except (*AWAY, asyncpg.PostgresError) as error:
        raise StartupError(f"cannot reach the database: {error or type(error).__name__}") from error
    await database.open()
    try:
        yield database
    finally:
        await database.close()
