"""Numbered migrations: `sql/NNNN_name.sql`, each applied once, in order, under a lock, in its own transaction.

A file that was applied is never edited: its checksum is kept and compared.
"""

import hashlib
import logging
import re
from pathlib import Path
from typing import Any

import asyncpg

from judgify_engine import resources
from judgify_engine.errors import StartupError

log = logging.getLogger(__name__)

LOCK_KEY = 0x6A756467_00000001  # "judg", 1
NAME = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")
OLDEST_SERVER = 150000


async def migrate(connection: "asyncpg.Connection[Any]", folder: Path | None = None) -> list[str]:
    """Apply what has not been applied yet and return the names of what was. Waits for another process that migrates.

    Raises StartupError when the server is too old, does not log logically, or an applied file was changed.
    """
    await _check_server(connection)
    await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY, timeout=120)
    try:
        return await _apply(connection, _read(folder or resources.folder("sql")))
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", LOCK_KEY)


async def _check_server(connection: "asyncpg.Connection[Any]") -> None:
    version = int(await connection.fetchval("SHOW server_version_num"))
    if version < OLDEST_SERVER:
        raise StartupError(f"PostgreSQL 15 or newer is needed, this server is {version // 10000}")
    level = await connection.fetchval("SHOW wal_level")
    if level != "logical":
        raise StartupError(f"PostgreSQL must run with wal_level = logical, this server has {level!r}")
    for setting in ("fsync", "full_page_writes"):
        if await connection.fetchval(f"SHOW {setting}") != "on":
            log.warning("a server setting puts committed judgments at risk", extra={"setting": setting})


def _read(folder: Path) -> list[tuple[int, str, str]]:
    """(number, name, text) of each migration, in order. Small files, read once before anything is served."""
    found = [
        (int(path.name[:4]), path.name, path.read_text(encoding="utf-8")) for path in folder.iterdir() if NAME.match(path.name)
    ]
    if not found:
        raise StartupError(f"no migrations found in {folder}")
    return sorted(found)


async def _apply(connection: "asyncpg.Connection[Any]", migrations: list[tuple[int, str, str]]) -> list[str]:
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations (number integer PRIMARY KEY, name text NOT NULL,"
        " checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    applied = {row["number"]: row["checksum"] for row in await connection.fetch("SELECT * FROM schema_migrations")}
    done = []
    for number, name, text in migrations:
        checksum = hashlib.sha256(text.encode()).hexdigest()
        if number in applied:
            if applied[number] != checksum:
                raise StartupError(f"migration {name} was changed after it had been applied")
            continue
        async with connection.transaction():
            await connection.execute(text, timeout=600)
            await connection.execute(
                "INSERT INTO schema_migrations (number, name, checksum) VALUES ($1, $2, $3)",
                number,
                name,
                checksum,
            )
        log.info("migration applied", extra={"migration": name})
        done.append(name)
    return done
