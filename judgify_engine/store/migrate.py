"""Numbered migrations: `NNNN_name.sql`, each applied once, in order, under a lock, in its own transaction.

`sql/` makes the tables of the judgments, `sql/metrics/` those of the rollups, which may be in another database. A file named
`NNNN_name.plain.sql` or `NNNN_name.timescale.sql` is for one kind of server; which kind a database is was decided by the first
of them that was applied. A file that was applied is never edited: its checksum is kept and compared.
"""

import hashlib
import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from judgify_engine import resources
from judgify_engine.config import MetricsConfig
from judgify_engine.errors import StartupError
from judgify_engine.store import timescale
from judgify_engine.store.pool import AWAY, Database

log = logging.getLogger(__name__)

LOCK_KEY = 0x6A756467_00000001  # "judg", 1
NAME = re.compile(r"^(\d{4})_([a-z0-9_]+)(?:\.(plain|timescale))?\.sql$")
OLDEST_SERVER = 150000
FOLDERS = (("sql", "schema_migrations"), ("sql/metrics", "metrics_migrations"))
"""Of the judgments and of the rollups: where the files are, and the table that says which are applied."""


class _Migration(NamedTuple):
    number: int
    name: str
    kind: str | None
    text: str


async def prepare(judgments: Database, rollups: Database, config: MetricsConfig) -> None:
    """Bring both databases, which may be one, up to date. Raises StartupError."""
    for database, (folder, table) in zip((judgments, rollups), FOLDERS, strict=True):
        which = "database" if database is judgments else "metrics database"
        try:
            connection = await database.connect()
        except ValueError:  # its text may quote a part of the password
            reason = "URL is not valid; special characters in the password are written as %XX"
            raise StartupError(f"the {which} {reason}") from None
        except (*AWAY, asyncpg.PostgresError) as error:
            raise StartupError(f"cannot reach the {which}: {error or type(error).__name__}") from error
        try:
            await migrate(
                connection,
                resources.folder(folder),
                table,
                logical=database is judgments,
                timescale_=config.timescale == "auto",
            )
        except asyncpg.PostgresError as error:
            raise StartupError(f"the {which} cannot be prepared: {error}") from error
        finally:
            connection.terminate()


async def migrate(
    connection: "asyncpg.Connection[Any]",
    folder: Path | None = None,
    table: str = "schema_migrations",
    *,
    logical: bool = True,
    timescale_: bool = False,
) -> list[str]:
    """Apply what has not been applied yet and return the names of what was. Waits for another process that migrates.

    `table`: where it is kept what was applied. `timescale_`: TimescaleDB may be used. Raises StartupError when the server is
    too old, does not log logically where it must, or an applied file was changed.
    """
    await _check_server(connection, logical)
    await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY, timeout=120)
    try:
        return await _apply(connection, _read(folder or resources.folder("sql")), table, timescale_)
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", LOCK_KEY)


async def _check_server(connection: "asyncpg.Connection[Any]", logical: bool) -> None:
    version = int(await connection.fetchval("SHOW server_version_num"))
    if version < OLDEST_SERVER:
        raise StartupError(f"PostgreSQL 15 or newer is needed, this server is {version // 10000}")
    level = await connection.fetchval("SHOW wal_level")
    if logical and level != "logical":
        raise StartupError(f"PostgreSQL must run with wal_level = logical, this server has {level!r}")
    for setting in ("fsync", "full_page_writes"):
        if await connection.fetchval(f"SHOW {setting}") != "on":
            log.warning("a server setting puts committed judgments at risk", extra={"setting": setting})


def _read(folder: Path) -> list[_Migration]:
    """The migrations in order. Small files, read once before anything is served."""
    found = [
        _Migration(int(match[1]), path.name, match[3], path.read_text(encoding="utf-8"))
        for path in folder.iterdir()
        if (match := NAME.match(path.name))
    ]
    if not found:
        raise StartupError(f"no migrations found in {folder}")
    return sorted(found)


async def _apply(
    connection: "asyncpg.Connection[Any]", migrations: list[_Migration], table: str, timescale_: bool
) -> list[str]:
    await connection.execute(
        f"CREATE TABLE IF NOT EXISTS {table} (number integer PRIMARY KEY, name text NOT NULL,"
        " checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    applied = {row["number"]: row for row in await connection.fetch(f"SELECT * FROM {table}")}
    kinds = {kind for row in applied.values() if (match := NAME.match(row["name"])) and (kind := match[3])}
    kind = next(iter(kinds), None)
    done = []
    for number, name, of_kind, text in migrations:
        if of_kind is not None:
            kind = kind or ("timescale" if timescale_ and await timescale.usable(connection) else "plain")
            if of_kind != kind:
                continue
        checksum = hashlib.sha256(text.encode()).hexdigest()
        if number in applied:
            if applied[number]["checksum"] != checksum:
                raise StartupError(f"migration {name} was changed after it had been applied")
            continue
        async with connection.transaction():
            await connection.execute(text, timeout=600)
            await connection.execute(
                f"INSERT INTO {table} (number, name, checksum) VALUES ($1, $2, $3)", number, name, checksum
            )
        log.info("migration applied", extra={"migration": name})
        done.append(name)
    return done
