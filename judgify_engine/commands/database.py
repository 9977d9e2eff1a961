"""A database for commands that need it for a moment: the one named, or the embedded one, running or not."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import asyncpg

from judgify_engine.config import Config
from judgify_engine.errors import JudgifyError
from judgify_engine.store import migrate
from judgify_engine.store.embedded import EmbeddedPostgres, dsn_of
from judgify_engine.store.pool import AWAY, Database

T = TypeVar("T")
# There is a position or an open gap wherever an engine has ever kept rollups.
_KNOWN = """
SELECT EXISTS (SELECT FROM cdc_positions WHERE slot_name = $1)
    OR EXISTS (SELECT FROM cdc_gaps WHERE slot_name = $1 AND recompute_finished_at IS NULL)
"""
_SLOT = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1 AND database = current_database())"


class Databases(NamedTuple):
    """The judgments and the rollups; they may be one."""

    judgments: Database
    rollups: Database


def with_databases(config: Config, work: Callable[[Databases], Awaitable[T]]) -> T:
    """Run `work` with migrated databases. An embedded server that does not run is started for the time being.

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


async def _run(dsn: str, config: Config, work: Callable[[Databases], Awaitable[T]]) -> T:
    judgments = Database(dsn, config)
    rollups = Database(config.metrics.database_url, config) if config.metrics.database_url else judgments
    await migrate.prepare(judgments, rollups, config.metrics)
    try:
        for database in {judgments, rollups}:
            await database.open()
        return await work(Databases(judgments, rollups))
    finally:
        for database in {judgments, rollups}:
            await database.close()


def with_database(config: Config, work: Callable[[Database], Awaitable[T]]) -> T:
    """As `with_databases`, for work on the judgments alone."""
    return with_databases(config, lambda both: work(both.judgments))


async def check_rollups_are_here(databases: Databases, config: Config) -> None:
    """Raises JudgifyError where an engine reads the log of the judgments but keeps its rollups in another database."""
    slot = config.change.slot
    async with databases.judgments.query() as connection:
        read = await connection.fetchval(_SLOT, slot)
    async with databases.rollups.query() as connection:
        known = await connection.fetchval(_KNOWN, slot)
    if read and not known:
        where = "names another database" if config.metrics.database_url else "is not set"
        reason = f"the rollups of slot {slot} are not kept here: JUDGIFY_METRICS_DATABASE_URL {where}"
        raise JudgifyError(f"{reason}; give it the value that the engine has")
