"""Migrations: once each, under a lock, and never edited after they were applied."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest
from support.cluster import Cluster, Database
from support.engine import run

from judgify_engine import resources
from judgify_engine.errors import StartupError
from judgify_engine.store.migrate import migrate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the real migrations."""
    return Path(shutil.copytree(resources.folder("sql"), tmp_path / "sql"))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.sql"))


async def test_second_run_applies_nothing(database: Database, folder: Path) -> None:
    connection = await database.connect()
    try:
        applied = await migrate(connection, folder)
        assert applied == names_in(folder)
        assert await migrate(connection, folder) == []
    finally:
        await connection.close()


async def test_two_at_once_apply_each_once(database: Database, folder: Path) -> None:
    connections = await asyncio.gather(*(database.connect() for _ in range(4)))
    try:
        applied = await asyncio.gather(*(migrate(connection, folder) for connection in connections))
        assert sorted(name for names in applied for name in names) == names_in(folder)
    finally:
        await asyncio.gather(*(connection.close() for connection in connections))


async def test_changed_file_is_refused(database: Database, folder: Path) -> None:
    connection = await database.connect()
    try:
        await migrate(connection, folder)
        first = folder / names_in(folder)[0]
        first.write_text(first.read_text() + "\n-- edited\n")
        with pytest.raises(StartupError, match=first.name):
            await migrate(connection, folder)
    finally:
        await connection.close()


async def test_failed_migration_leaves_nothing_and_the_lock_free(database: Database, folder: Path) -> None:
    (folder / "9999_broken.sql").write_text("CREATE TABLE half_made (x integer); SELECT 1 / 0;")
    connection = await database.connect()
    try:
        with pytest.raises(Exception, match="division by zero"):
            await migrate(connection, folder)
        (folder / "9999_broken.sql").unlink()
        assert await migrate(connection, folder) == []
    finally:
        await connection.close()
    assert await database.value("SELECT to_regclass('half_made')") is None
    locks = "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database WHERE locktype = 'advisory' AND datname = $1"
    assert await database.value(locks, database.name) == 0


def test_command_migrates_and_says_what_is_applied(database: Database) -> None:
    for _ in range(2):
        done = run("migrate", settings={"JUDGIFY_DATABASE_URL": database.dsn})
        assert done.returncode == 0, done.stderr
        assert listed(done.stdout) == EVERY


def test_command_looks_where_the_rollups_are(database: Database, cluster: Cluster) -> None:
    apart = cluster.make()
    try:
        done = run("migrate", settings={"JUDGIFY_DATABASE_URL": database.dsn, "JUDGIFY_METRICS_DATABASE_URL": apart.dsn})
        assert done.returncode == 0, done.stderr
        assert listed(done.stdout) == EVERY
    finally:
        apart.drop()


def listed(told: str) -> list[str]:
    """What `migrate` prints, without the times and the kind of server."""
    lines = [re.fullmatch(r"(\S+)  applied \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", line) for line in told.splitlines()]
    return [KIND.sub(".sql", line[1]) if line else "" for line in lines]


KIND = re.compile(r"\.(plain|timescale)\.sql$")
EVERY = [
    name
    for folder in ("sql", "sql/metrics")
    for name in sorted({f"{folder}/{KIND.sub('.sql', name)}" for name in names_in(resources.folder(folder))})
]
