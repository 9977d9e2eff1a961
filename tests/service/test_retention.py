"""Retention: whole partitions leave, nothing that is not old and proven does, and the rollups keep their history."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest
from support.cluster import Database
from support.engine import Engine
from support.rollups import check_rollups
from support.waiting import until

from judgify_engine.config import KeepConfig
from judgify_engine.core.periods import floor
from judgify_engine.store import partitions, retention

from .test_partitions import NOW, ROWS, connected, connection, leave_alone, rows_of, stream_of
from .test_rebuild import command

__all__ = ["connection"]  # the fixture
KEEP = KeepConfig(judgments_days=31)
OLD = floor(NOW - timedelta(days=100), "month")
HOUR = timedelta(hours=1)
STRAY = "('ffffffff' || substr(gen_random_uuid()::text, 9))::uuid"
"""A random key that is surely of no partition's range."""


async def months_of(connection: "asyncpg.Connection[Any]") -> list[datetime]:
    """The first days of the partitions that are there."""
    return [one.period.start for one in await partitions.present(connection)]


async def drop_old(connection: "asyncpg.Connection[Any]", keep: KeepConfig = KEEP, proven: datetime = NOW) -> list[str]:
    return await retention.drop_old(connection, NOW, keep, proven)


@pytest.fixture
async def filled(connection: "asyncpg.Connection[Any]") -> "asyncpg.Connection[Any]":
    """With partitions from `OLD` on, and ten rows in each that has begun."""
    await partitions.make_ahead(connection, OLD)
    await partitions.make_ahead(connection, NOW)
    for name, period in await partitions.present(connection):
        await leave_alone(connection, name)
        if period.start < NOW:
            await connection.execute(rows_of(period.start, 10))
    return connection


async def test_whole_partitions_leave_when_they_are_over_for_that_long(filled: "asyncpg.Connection[Any]") -> None:
    before = await partitions.present(filled)
    old = [one for one in before if one.period.end <= NOW - timedelta(days=31)]
    assert await drop_old(filled) == [one.name for one in old]
    assert await partitions.present(filled) == [one for one in before if one not in old]
    boundary = old[-1].period.end
    assert await retention.retained_from(filled) == boundary
    assert await filled.fetchval("SELECT min(created_at) FROM judgment_executions") >= boundary
    assert await drop_old(filled) == []
    await filled.execute(rows_of(OLD, 5))  # late ones find the default partition
    assert await filled.fetchval("SELECT count(*) FROM judgment_executions_default") == 5


async def test_what_is_not_proven_stays(filled: "asyncpg.Connection[Any]", caplog: pytest.LogCaptureFixture) -> None:
    there = await partitions.present(filled)
    assert await drop_old(filled, proven=there[0].period.end - timedelta(seconds=1)) == []
    assert await retention.retained_from(filled) is None
    assert "stays until its rollups are proven" in caplog.text
    assert await drop_old(filled, proven=there[0].period.end) == [there[0].name]


async def test_a_clock_that_runs_ahead_drops_nothing(filled: "asyncpg.Connection[Any]") -> None:
    """The server's clock has to agree."""
    ahead = NOW + timedelta(days=5000)
    old = [one.name for one in await partitions.present(filled) if one.period.end <= NOW - timedelta(days=31)]
    assert await retention.drop_old(filled, ahead, KEEP, ahead) == old


async def test_a_partition_leaves_with_the_boundary_or_not_at_all(filled: "asyncpg.Connection[Any]") -> None:
    there = await partitions.present(filled)
    await filled.execute("ALTER TABLE judgment_retention ADD CONSTRAINT somebodys CHECK (retained_from < '2001-01-01')")
    with pytest.raises(asyncpg.CheckViolationError):
        await drop_old(filled)
    assert await partitions.present(filled) == there
    await filled.execute("ALTER TABLE judgment_retention DROP CONSTRAINT somebodys")
    assert (await drop_old(filled))[0] == there[0].name


async def test_what_cannot_be_dropped_has_left_and_goes_first_later(filled: "asyncpg.Connection[Any]") -> None:
    first, second = (await partitions.present(filled))[:2]
    await filled.execute(f"CREATE VIEW somebodys AS SELECT * FROM {first.name}")
    for _ in range(2):
        with pytest.raises(asyncpg.DependentObjectsStillExistError):
            await drop_old(filled)
        assert (await partitions.present(filled))[0] == second
        assert await retention.retained_from(filled) == first.period.end
    await filled.execute("DROP VIEW somebodys")
    assert await drop_old(filled, KeepConfig()) == [first.name], "also when by now all is to be kept for ever"
    assert (await drop_old(filled))[0] == second.name


async def test_the_boundary_is_after_all_that_was_dropped(filled: "asyncpg.Connection[Any]") -> None:
    """A row may be created a moment after its key, in the next month; and by hand, whenever one likes."""
    last = [one for one in await partitions.present(filled) if one.period.end <= NOW - timedelta(days=31)][-1]
    end = last.period.end
    await filled.execute(rows_of(end - timedelta(seconds=1), 1, end + timedelta(microseconds=3)))
    assert (await drop_old(filled))[-1] == last.name
    assert await retention.retained_from(filled) == end + HOUR


async def test_a_judgment_that_is_not_old_keeps_its_partition(
    filled: "asyncpg.Connection[Any]", caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (await partitions.present(filled))[:2]
    await filled.execute(rows_of(first.period.start, 1, NOW).replace("* interval '1 millisecond'", "* interval '1 second'"))
    dropped = await drop_old(filled)
    assert first.name not in dropped
    assert second.name in dropped
    assert "holds a judgment that was created later" in caplog.text


async def test_who_uses_the_table_is_not_disturbed(database: Database, filled: "asyncpg.Connection[Any]") -> None:
    """A COPY under way: nothing is dropped, others write and read meanwhile; afterwards it is."""
    old = (await partitions.present(filled))[0].name
    async with connected(database) as copying, connected(database) as other:
        transaction = copying.transaction()
        await transaction.start()
        await copying.execute(rows_of(NOW, 3))
        dropping = asyncio.create_task(drop_old(filled))
        for second in range(1, 6):
            await asyncio.wait_for(other.execute(rows_of(NOW + timedelta(seconds=second))), 2)
            await asyncio.wait_for(other.fetch("SELECT count(*) FROM judgment_executions"), 2)
        assert await asyncio.wait_for(dropping, 10) == []
        assert await retention.retained_from(filled) is None
        await copying.execute(rows_of(OLD + timedelta(seconds=1), 3))  # into the very partition
        await transaction.commit()
    assert (await drop_old(filled))[0] == old


async def test_strays_of_the_default_partition_leave_unseen_too(
    database: Database, filled: "asyncpg.Connection[Any]", monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled.execute("DELETE FROM judgment_executions")
    boundary = floor(NOW - timedelta(days=31), "month")
    for created, rows in ((boundary - timedelta(microseconds=1), 5001), (boundary, 7), (NOW, 5)):
        await filled.execute(ROWS.format(id=STRAY, created=f"'{created.isoformat()}'", rows=rows))
    async with stream_of(filled, f"{database.name}_look") as look:
        await drop_old(filled)
        assert await look() == ""
    assert await filled.fetchval("SELECT count(*) FROM judgment_executions") == 12
    assert await retention.retained_from(filled) == boundary


async def test_rollups_keep_history(database: Database, start_engine: Callable[..., Engine]) -> None:
    """The engine itself drops what it has proven; what it dropped stays in the figures, and `verify` says where it begins."""
    settings = {"JUDGIFY_KEEP_JUDGMENTS_DAYS": "31"}
    prelude = "import judgify_engine.store.upkeep as upkeep; upkeep.INTERVAL_S = 0.3"
    engine = await asyncio.to_thread(start_engine, database, settings=settings, prelude=prelude)
    async with connected(database) as connection:
        async with partitions.alone(connection):  # made and filled at once, before it can be dropped
            await partitions.make_ahead(connection, OLD)
            first = (await partitions.present(connection))[0]
            await connection.execute(rows_of(first.period.start + HOUR, 300))
        await connection.execute(ROWS.format(id=STRAY, created=f"'{OLD.isoformat()}'", rows=40))
        await connection.execute(rows_of(NOW, 20))

        async def left() -> bool:
            return await connection.fetchval("SELECT count(*) FROM judgment_executions") == 20

        await until(left, "what is old has left", 60)
        assert first.name not in [one.name for one in await partitions.present(connection)]
        await database.settle()
        assert await connection.fetchval("SELECT sum(total_executions) FROM judgment_metrics_hourly") == 360
        boundary = await retention.retained_from(connection)
    assert boundary is not None
    good = await command(database, "verify")
    assert (good.returncode, good.stdout.startswith("20 judgments")) == (0, True), good.stdout + good.stderr
    for name in ("verify", "rebuild"):
        for bounds in (("--from", f"{OLD:%Y-%m-%d}"), ("--to", f"{boundary - HOUR:%Y-%m-%dT%H:%M}")):
            refused = await command(database, name, *bounds)
            assert refused.returncode == 2
            assert f"created before {boundary:%Y-%m-%dT%H:%M:%SZ} were dropped" in refused.stderr
            assert bounds[0] in refused.stderr
    assert engine.terminate() == 0


async def test_for_ever_is_the_default(database: Database, start_engine: Callable[..., Engine]) -> None:
    prelude = "import judgify_engine.store.upkeep as upkeep; upkeep.INTERVAL_S = 0.1"
    engine = await asyncio.to_thread(start_engine, database, prelude=prelude)
    async with connected(database) as connection:
        await partitions.make_ahead(connection, OLD - timedelta(days=2000))
        there = await months_of(connection)
        await connection.execute(rows_of(OLD - timedelta(days=2000), 5))
        assert await check_rollups(database) == 5
        # Upkeep has come round when it has forgotten what is too old for it.
        await connection.execute("INSERT INTO idempotency_keys VALUES ('t', 'k', '', gen_random_uuid(), '', '2001-01-01')")

        async def forgotten() -> bool:
            return await connection.fetchval("SELECT count(*) FROM idempotency_keys") == 0

        await until(forgotten, "upkeep has come round")
        assert await months_of(connection) == there
        assert await connection.fetchval("SELECT count(*) FROM judgment_executions") == 5
    assert engine.terminate() == 0
