"""Partitions: a row of any time has a place, rows move into their partition unseen, and nobody waits or fails for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import asyncpg
import pytest
from support.client import Load
from support.cluster import Database
from support.engine import Engine
from support.rollups import check_rollups
from support.waiting import until

from judgify_engine.core.periods import floor
from judgify_engine.store import migrate, partitions, publication
from judgify_engine.store.publication import unpublished

NOW = datetime.now(UTC)
ROWS = """
INSERT INTO judgment_executions (id, tenant_id, workflow_id, input_data, final_result, confidence_score, method_used,
                                 execution_time_ms, created_at)
SELECT {id}, 'late', 'w' || n % 3, '{{}}', '{{"verdict": "ok"}}', 0.5, 'rule', n % 50, {created}
  FROM generate_series(1, {rows}) AS n
"""


def rows_of(moment: datetime, rows: int = 1, created: datetime | None = None) -> str:
    """SQL that inserts rows whose keys are of `moment` and the milliseconds after it."""
    made = f"judgify_uuid7_floor('{moment.isoformat()}'::timestamptz + n * interval '1 millisecond')"
    return ROWS.format(id=made, created=f"'{(created or moment).isoformat()}'", rows=rows)


@contextlib.asynccontextmanager
async def connected(database: Database) -> AsyncIterator["asyncpg.Connection[Any]"]:
    connection = await database.connect()
    try:
        yield connection
    finally:
        await connection.close()


async def leave_alone(connection: "asyncpg.Connection[Any]", name: str) -> None:
    """No autovacuum, whose lock is one more that work on partitions does not wait for."""
    await connection.execute(f"ALTER TABLE {name} SET (autovacuum_enabled = off)")


@pytest.fixture
async def connection(database: Database) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """On a database with our tables and no partition but the default one."""
    async with connected(database) as made:
        await migrate.migrate(made)
        await leave_alone(made, partitions.DEFAULT)
        yield made


@contextlib.asynccontextmanager
async def stream_of(
    connection: "asyncpg.Connection[Any]", slot: str, publication: str = publication.NAME
) -> AsyncIterator[Callable[[], Any]]:
    """Everything that is published from here on: gives the kinds of changes (I, U, D, T) that came since the last look."""
    await connection.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", slot)

    async def look() -> str:
        messages = await connection.fetch(
            "SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, 'proto_version', '1',"
            " 'publication_names', $2)",
            *(slot, publication),
        )
        kinds = (bytes(row["data"][:1]).decode() for row in messages)
        return "".join(kind for kind in kinds if kind in "IUDT")

    try:
        yield look
    finally:
        await connection.execute("SELECT pg_drop_replication_slot($1)", slot)


async def test_they_are_made_ahead_once_and_of_the_width_of_today(connection: "asyncpg.Connection[Any]") -> None:
    december = datetime(2026, 12, 15, tzinfo=UTC)
    months = [f"judgment_executions_{month}" for month in ("2026_12", "2027_01", "2027_02", "2027_03")]
    assert await partitions.make_ahead(connection, december) == months
    assert await partitions.make_ahead(connection, december) == []
    assert await partitions.make_ahead(connection, december, "day") == []
    late_march = datetime(2027, 3, 31, 23, 59, tzinfo=UTC)
    days = await partitions.make_ahead(connection, late_march, "day")
    assert (days[0], days[-1]) == ("judgment_executions_2027_04_01", "judgment_executions_2027_04_14")
    assert await connection.fetchval("SELECT bool_and(relreplident = 'f') FROM pg_class WHERE relname ~ '^judgment_executions'"
                                     " AND relkind IN ('r', 'p')")  # fmt: skip
    present = await partitions.present(connection)
    assert [one.name for one in present] == months + days
    assert all(one.period.end == following.period.start for one, following in pairwise(present))


async def test_a_table_of_that_name_costs_one_partition_not_all(connection: "asyncpg.Connection[Any]") -> None:
    await connection.execute("CREATE TABLE judgment_executions_2027_01 ()")
    made = await partitions.make_ahead(connection, datetime(2026, 12, 15, tzinfo=UTC))
    assert [name[-7:] for name in made] == ["2026_12", "2027_02", "2027_03"]
    await connection.execute(rows_of(datetime(2027, 1, 5, tzinfo=UTC)))


@pytest.mark.parametrize("width", ["month", "week", "day"])
async def test_a_row_of_any_time_has_a_place(connection: "asyncpg.Connection[Any]", width: Any) -> None:
    await partitions.make_ahead(connection, NOW, width)
    moment = "'2000-01-01Z'::timestamptz + n * interval '12 days 4 hours'"  # 6000 of them: up to November 2199
    for made in (f"judgify_uuid7_floor({moment})", "gen_random_uuid()"):
        assert await connection.execute(ROWS.format(id=made, created=moment, rows=6000)) == "INSERT 0 6000"
    for edge in (16 * "00", 16 * "ff"):
        await connection.execute(ROWS.format(id=f"'{edge}'::uuid", created="now()", rows=1))
    assert await connection.fetchval("SELECT count(*) FROM judgment_executions") == 12002


async def test_rows_of_a_missing_month_move_and_the_stream_hears_nothing_of_it(
    database: Database, connection: "asyncpg.Connection[Any]"
) -> None:
    later = floor(NOW, "month") + timedelta(days=200)
    await partitions.make_ahead(connection, NOW)
    async with stream_of(connection, f"{database.name}_look") as look, connected(database) as other:
        await connection.execute(rows_of(later, 500, NOW))
        assert await look() == 500 * "I"
        assert await connection.fetchval("SELECT count(*) FROM judgment_executions_default") == 500
        writing = other.transaction()
        await writing.start()  # one that begins before and ends after it
        await other.execute(rows_of(NOW, 3))
        made = await partitions.make_ahead(connection, later - timedelta(days=40))  # the next month but one, or so
        await other.execute(rows_of(NOW + timedelta(seconds=1), 4))
        await writing.commit()
        assert await look() == 7 * "I"
        name = f"judgment_executions_{later:%Y_%m}"
        assert name in made
        assert await connection.fetchval("SELECT count(*) FROM judgment_executions_default") == 0
        assert await connection.fetchval(f"SELECT count(DISTINCT id) FROM {name}") == 500
        await connection.execute(f"DELETE FROM judgment_executions WHERE tableoid = '{name}'::regclass")
        assert await look() == 500 * "D", "what comes after it is published again"


async def test_who_publishes_the_table_otherwise_sees_the_rows_leave_and_come_back(
    database: Database, connection: "asyncpg.Connection[Any]"
) -> None:
    await connection.execute(
        "CREATE PUBLICATION somebodys FOR TABLE judgment_executions WITH (publish_via_partition_root = true)"
    )
    await connection.execute(rows_of(NOW, 30))
    async with stream_of(connection, f"{database.name}_look", "somebodys") as look:
        await partitions.make_ahead(connection, NOW)
        assert await look() == 30 * "D" + 30 * "I"
    assert await connection.fetchval("SELECT count(*) FROM judgment_executions_default") == 0


async def test_a_changed_publication_leaves_rows_where_they_are(
    connection: "asyncpg.Connection[Any]", caplog: pytest.LogCaptureFixture
) -> None:
    await connection.execute("ALTER PUBLICATION judgify_cdc SET TABLE judgment_executions WHERE (tenant_id <> 'x')")
    await connection.execute(rows_of(NOW))
    assert len(await partitions.make_ahead(connection, NOW)) == 3
    assert "a partition cannot be made" in caplog.text
    await connection.execute(rows_of(NOW + timedelta(seconds=1)))


async def test_too_many_rows_stay_where_they_are(
    connection: "asyncpg.Connection[Any]", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(partitions, "_HELD", partitions._HELD.replace(str(partitions.MOVABLE_ROWS + 1), "11"))
    monkeypatch.setattr(partitions, "MOVABLE_ROWS", 10)
    await connection.execute(rows_of(NOW, 11))
    made = await partitions.make_ahead(connection, NOW)
    assert len(made) == 3
    assert "too many to move" in caplog.text
    await connection.execute(rows_of(NOW + timedelta(seconds=1)))
    assert await connection.fetchval("SELECT count(*) FROM judgment_executions_default") == 12


async def test_who_writes_does_not_wait_for_a_partition(
    database: Database, connection: "asyncpg.Connection[Any]", caplog: pytest.LogCaptureFixture
) -> None:
    """An open transaction with a row of the very month: it is made when that has ended, and others write meanwhile."""
    async with connected(database) as open_one, connected(database) as other:
        writing = open_one.transaction()
        await writing.start()
        await open_one.execute(rows_of(NOW))
        making = asyncio.create_task(partitions.make_ahead(connection, NOW))
        for second in range(1, 6):
            await asyncio.wait_for(other.execute(rows_of(NOW + timedelta(seconds=second))), 2)
        assert f"judgment_executions_{NOW:%Y_%m}" not in await asyncio.wait_for(making, 10)
        await open_one.execute(rows_of(NOW + timedelta(seconds=9)))
        await writing.commit()
    assert f"judgment_executions_{NOW:%Y_%m}" in await partitions.make_ahead(connection, NOW)
    assert await connection.fetchval("SELECT count(*) FROM judgment_executions_default") == 0
    assert await connection.fetchval("SELECT count(*) FROM judgment_executions") == 7


async def test_no_judgment_fails_while_its_partition_is_made(database: Database, start_engine: Callable[..., Engine]) -> None:
    """PostgreSQL refuses a row on its way into the default partition when its own appears: nobody is to meet that."""
    engine = await asyncio.to_thread(start_engine, database)
    present = f"judgment_executions_{datetime.now(UTC):%Y_%m}"
    async with connected(database) as connection, Load(engine.url, "test-token", workers=16) as load:
        for _ in range(5):
            # Out with its rows and all; they come back by moving, which nobody hears of, like the going.
            async with connection.transaction(), unpublished(connection):
                await connection.execute(f"ALTER TABLE judgment_executions DETACH PARTITION {present}")
                await connection.execute(f"INSERT INTO judgment_executions SELECT * FROM {present}; DROP TABLE {present}")
            count = len(load.answered)
            await until(lambda count=count: len(load.answered) > count + 100, "judgments go on without it")
            await until(lambda: partitions.make_ahead(connection, datetime.now(UTC)), "it is made again")
            count = len(load.answered)
            await until(lambda count=count: len(load.answered) > count + 100, "judgments go on with it")
        await load.stop()
        assert not load.refused
        await load.check(database)
        assert await connection.fetchval("SELECT count(*) FROM judgment_quarantine") == 0
        assert await connection.fetchval("SELECT count(*) FROM judgment_executions_default") == 0
    assert await check_rollups(database) == len(load.answered)
    assert engine.log.count("making a new slot") == 1
    assert engine.terminate() == 0
