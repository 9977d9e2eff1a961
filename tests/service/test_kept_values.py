"""Tracked values of judgments that retention dropped outlive a slot that is made anew, as do late ones of judgments kept."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from support import layouts
from support.client import CHECK, Client, new_tenant
from support.cluster import Cluster, Database
from support.engine import Engine
from support.waiting import until

from judgify_engine.config import Config
from judgify_engine.core.healing import Stored
from judgify_engine.core.periods import after
from judgify_engine.core.samples import Windows
from judgify_engine.errors import Unavailable
from judgify_engine.pipeline.repair_loop import Request
from judgify_engine.store import kept, partitions, recompute, retention
from judgify_engine.store.gaps import OpenGap
from judgify_engine.store.pool import Database as Pools
from judgify_engine.store.repair import RepairStore
from judgify_engine.store.rollup_writer import RollupStore
from judgify_engine.units import Position

from .test_partitions import NOW, connected
from .test_rebuild import command
from .test_retention import HOUR, OLD, drop_old
from .test_rollup import drop_slot, holds

SETTINGS = {"JUDGIFY_KEEP_JUDGMENTS_DAYS": "31"}
OFTEN = "import judgify_engine.store.upkeep as upkeep; upkeep.INTERVAL_S = 0.3"
INSERT = """
INSERT INTO judgment_executions (id, tenant_id, workflow_id, workflow_version, input_data, final_result, confidence_score,
                                 method_used, status, execution_time_ms, created_at, occurred_at)
SELECT CASE WHEN $2 THEN ('ffffffff' || substr(gen_random_uuid()::text, 9))::uuid
            ELSE (substr(judgify_uuid7_floor($3::timestamptz)::text, 1, 13) || substr(gen_random_uuid()::text, 14))::uuid END,
       $1, 'check', 2, jsonb_build_object('heat', v), '{"verdict": "ok"}', 1, 'rule', 'completed', 1, $3, $4
  FROM unnest($5::double precision[]) AS v
"""
# What there is of a series, by time: as often as each value's slot was counted, the sum, and the smallest and largest value.
BUCKETS = """
SELECT width_s, bucket, count, sum::float8 AS sum, minimum, maximum, (SELECT sum(n) FROM unnest(counts) AS n)::bigint AS counted
  FROM judgment_metrics_buckets WHERE metric_name = 'input.heat' AND workflow_id <> '' AND count <> 0
UNION ALL
SELECT 1, date_trunc('hour', time, 'UTC'), sum(count), sum(sum)::float8, min(minimum), max(maximum), sum(count)
  FROM judgment_metrics_timeseries WHERE metric_name = 'input.heat' GROUP BY 2
"""
ANCIENT = OLD - timedelta(days=900)
Values = dict[datetime, list[float]]


def expected(values: Values) -> set[tuple[Any, ...]]:
    """What `BUCKETS` gives for these values, all at full hours."""
    found = set()
    for moment, at in values.items():
        for width_s in (1, 300, 3600) if moment > NOW - timedelta(days=365) else (3600,):
            found.add((width_s, moment, len(at), sum(at), min(at), max(at), len(at)))
    return found


class Series:
    """Judgments of one tenant, and which values each moment holds."""

    def __init__(self, database: Database, tenant_id: str) -> None:
        self.database, self.tenant_id = database, tenant_id
        self.values: Values = {}

    async def add(self, created: datetime, occurred: datetime | None, *values: float, stray: bool = False) -> None:
        await self.database.do(INSERT, self.tenant_id, stray, created, occurred, list(values))
        self.values.setdefault(occurred or created, []).extend(values)

    async def take(self, value: float) -> None:
        await self.database.do("DELETE FROM judgment_executions WHERE (input_data ->> 'heat')::float8 = $1", value)
        for at in self.values.values():
            at[:] = [one for one in at if one != value]

    async def rolled_up(self) -> set[tuple[Any, ...]]:
        await self.database.settle()
        return {tuple(row) for row in await (self.database.rollups or self.database).rows(BUCKETS)}


@pytest.fixture(params=layouts.LAYOUTS)
def laid_out(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Database]:
    with layouts.laid_out(request.param, cluster) as made:
        yield made


async def left(database: Database, rows: int) -> None:
    async def gone() -> bool:
        return await database.value("SELECT count(*) FROM judgment_executions") == rows

    await until(gone, "what is old has left", 60)


async def healed(engine: Engine, database: Database) -> None:
    await until(lambda: drop_slot(database), "the slot is free")
    engine.start()
    async with Client(engine.url, "test-token") as client:
        await until(lambda: holds(client), "it reads the log", 30)


class Setting(NamedTuple):
    """A tenant whose old judgments have left; `first`: when those were created, `today`: when the others were."""

    engine: Engine
    series: Series
    first: datetime
    today: datetime


async def tracking(engine: Engine, database: Database) -> Series:
    """A new tenant whose workflow tracks its values."""
    async with new_tenant(engine.url, database) as tenant:
        await tenant.put_workflow("check", {**CHECK, "track": ["heat"]})
        return Series(database, tenant.tenant_id)


async def fill(connection: Any, series: Series) -> tuple[partitions.Partition, datetime]:
    """Five judgments in a partition that is over; made and filled before it can be dropped. Returns when they were created."""
    today = NOW.replace(minute=0, second=0, microsecond=0) - HOUR
    async with partitions.alone(connection):
        await partitions.make_ahead(connection, OLD)
        partition = (await partitions.present(connection))[0]
        first = partition.period.start + HOUR
        for occurred, values in ((None, [1.0, 2.0, 3.0]), (ANCIENT, [4.0]), (today, [5.0])):  # the last one's clock ran ahead
            await connection.execute(INSERT, series.tenant_id, False, first, occurred, values)
            series.values[occurred or first] = values
    return partition, first


async def after_retention(database: Database, start_engine: Callable[..., Engine]) -> Setting:
    """Some have left with their partition, some from the default one, and not all with values of before the boundary."""
    engine = await asyncio.to_thread(start_engine, database, settings=SETTINGS, prelude=OFTEN)
    series = await tracking(engine, database)
    today = NOW.replace(minute=0, second=0, microsecond=0) - HOUR
    async with connected(database) as connection:
        _, first = await fill(connection, series)
    await series.add(first, None, 6.0, 7.0, stray=True)
    await series.add(today, None, 20.0)
    await series.add(today, first, 21.0, 22.0)  # late ones, in the buckets of what has left
    await left(database, 3)
    assert await series.rolled_up() == expected(series.values)
    return Setting(engine, series, first, today)


async def test_healing_keeps_and_finds_values_of_before_the_boundary(
    laid_out: Database, start_engine: Callable[..., Engine]
) -> None:
    database = laid_out
    engine, series, first, today = await after_retention(database, start_engine)
    assert engine.terminate() == 0
    await series.add(today, first, 0.5, 99.0)  # these the slot will have missed
    await series.add(today, ANCIENT, 98.0)
    await series.take(22.0)
    await healed(engine, database)
    assert await series.rolled_up() == expected(series.values)
    rebuilt = await command(database, "rebuild", metrics_dsn=(database.rollups or database).dsn)
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert await series.rolled_up() == expected(series.values), "also what had left with a value of today"
    assert engine.terminate() == 0


async def test_kept_values_are_merged_when_no_chart_needs_them(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine, series, first, today = await after_retention(database, start_engine)
    assert engine.terminate() == 0
    count = "SELECT count(*) FROM judgment_kept_values WHERE bucket = $1 AND width_s = $2"
    async with connected(database) as connection:
        before = await connection.fetchval(count, first, 300)
        await kept.merge(connection, first + timedelta(minutes=59))
        assert await connection.fetchval(count, first, 300) == before == 2, "the hour is not over"
        await kept.merge(connection, first + HOUR)
        assert (await connection.fetchval(count, first, 300), await connection.fetchval(count, first, 3600)) == (0, 1)
        assert await connection.fetchval(count, today, 300) == 1
    await healed(engine, database)
    assert await series.rolled_up() == expected(series.values)
    assert engine.terminate() == 0


async def test_what_an_older_version_dropped_stays(database: Database, start_engine: Callable[..., Engine]) -> None:
    """It kept no values, so nothing of before its boundary is computed anew; only what had run ahead of it is lost."""
    engine, series, _, today = await after_retention(database, start_engine)
    assert engine.terminate() == 0
    await database.do("DELETE FROM judgment_kept_values; UPDATE judgment_retention SET values_from = retained_from")
    await series.add(today, None, 30.0)
    series.values[today].remove(5.0)
    await healed(engine, database)
    assert await series.rolled_up() == expected(series.values)
    assert engine.terminate() == 0


class Leaving(NamedTuple):
    """A tenant with five old judgments, all rolled up, in slices of two; the engine is down."""

    engine: Engine
    series: Series
    partition: partitions.Partition
    first: datetime


@pytest.fixture
async def leaving(database: Database, start_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> Leaving:
    engine = await asyncio.to_thread(start_engine, database)  # by default it keeps all
    series = await tracking(engine, database)
    async with connected(database) as connection:
        partition, first = await fill(connection, series)
    assert await series.rolled_up() == expected(series.values)
    assert engine.terminate() == 0
    monkeypatch.setattr(kept, "SLICE_ROWS", 2)
    return Leaving(engine, series, partition, first)


async def a_round(database: Database) -> list[str]:
    """With nothing proven after the first partition."""
    async with connected(database) as connection:
        return await drop_old(connection, proven=after(OLD, "month"))


async def until_dropped(database: Database) -> list[str]:
    """What a round drops; one that only waited too long for the table, as behind an autovacuum, is followed by another."""
    found: list[str] = await until(lambda: a_round(database), "a partition is dropped")
    return found


async def progress(database: Database) -> tuple[int, int]:
    """Of how many judgments values are kept, and how many keys are before the mark."""
    return (
        await database.value("SELECT coalesce(sum(count), 0)::int FROM judgment_kept_values"),
        await database.value("SELECT count(*) FROM judgment_leaving, judgment_retention WHERE id < kept_before"),
    )


@contextlib.asynccontextmanager
async def read_while_it_leaves(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Somebody, a dump say, who begins to read the partition between two slices, and has not ended after the round."""

    async with connected(database) as reader:
        await reader.execute("BEGIN")

        async def look_first(connection: Any, table: str, which: str) -> bool:
            await reader.execute(f"LOCK TABLE {table} IN ACCESS SHARE MODE")
            return await kept.keep_slice(connection, table, which)

        with monkeypatch.context() as patch:
            patch.setattr(retention, "keep_slice", look_first)
            assert await a_round(database) == []
        yield


async def test_who_reads_the_table_costs_no_work(database: Database, leaving: Leaving) -> None:
    async with connected(database) as reader, reader.transaction():
        await reader.execute("SELECT FROM judgment_executions LIMIT 1")
        assert await a_round(database) == []
        assert await progress(database) == (0, 0)
        assert await database.value("SELECT retained_from FROM judgment_retention") is None
    assert await until_dropped(database) == [leaving.partition.name]
    assert await progress(database) == (5, 0)


async def test_a_drop_that_has_to_wait_repeats_nothing(
    database: Database, leaving: Leaving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And healing meanwhile counts each value once, whether it is kept by then or not."""
    engine, series, partition, _ = leaving
    async with read_while_it_leaves(database, monkeypatch):
        assert await progress(database) == (4, 4)
        written = "SELECT array_agg(xmin::text ORDER BY ctid) FROM judgment_kept_values"
        before = await database.value(written)
        assert await a_round(database) == []
        assert (await progress(database), await database.value(written)) == ((4, 4), before)
        await healed(engine, database)
        assert await series.rolled_up() == expected(series.values)
        assert engine.terminate() == 0
        assert await progress(database) == (4, 4)
    assert await until_dropped(database) == [partition.name]
    assert await progress(database) == (5, 0)
    await healed(engine, database)
    assert await series.rolled_up() == expected(series.values)
    assert engine.terminate() == 0


async def test_what_is_being_kept_changes_no_more(
    database: Database, leaving: Leaving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes find nothing, as after the drop, so the rollups do not move; a late one of its time is one of its own."""
    engine, series, partition, first = leaving
    async with read_while_it_leaves(database, monkeypatch):
        for change in ("DELETE FROM judgment_executions", "UPDATE judgment_executions SET input_data = '{\"heat\": 77}'"):
            assert (await database.do(change)).endswith(" 0")
        await series.add(first, None, 8.0)
        engine.start()
        assert await series.rolled_up() == expected(series.values)
        assert engine.terminate() == 0
    assert await until_dropped(database) == [partition.name]
    assert await progress(database) == (6, 0)
    await healed(engine, database)
    assert await series.rolled_up() == expected(series.values)
    assert engine.terminate() == 0


async def test_an_older_partition_may_leave_after_a_newer_one(database: Database, leaving: Leaving) -> None:
    """Where the newer one was kept up to says nothing of it."""
    await leaving.series.add(leaving.partition.period.end + HOUR, None, 8.0, 9.0, 10.0)
    created = "UPDATE judgment_executions SET created_at = $1 WHERE (input_data ->> 'heat')::float8 = 3"
    await database.do(created, NOW)
    async with connected(database) as connection:
        dropped = await drop_old(connection)
    assert leaving.partition.name not in dropped
    assert await progress(database) == (3, 0)
    await database.do(created, leaving.first)
    assert await until_dropped(database) == [leaving.partition.name]
    assert await progress(database) == (8, 0)


@contextlib.asynccontextmanager
async def healing(database: Database) -> AsyncIterator[Callable[[], Any]]:
    """Computes all rollups anew, in a snapshot of now."""
    pools = Pools(database.dsn, Config())
    await pools.open()
    async with (
        connected(database) as target,
        connected(database) as source,
        source.transaction(isolation="repeatable_read"),
    ):
        snapshot = await source.fetchval("SELECT pg_export_snapshot()")
        store = RollupStore(pools, target, database.slot, Windows(3600, 86_400))
        yield lambda: store.rebuild(snapshot, Stored(Position(1, 0), "1", 1, ""), OpenGap(1, "lost"))
    await pools.close()


async def test_who_drops_what_was_leaving_has_healing_start_over(
    database: Database, leaving: Leaving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its snapshot knows what was kept by then, and the rest is gone."""
    async with read_while_it_leaves(database, monkeypatch):
        pass
    async with healing(database) as heal:
        assert await until_dropped(database) == [leaving.partition.name]
        with pytest.raises(Unavailable, match="dropped meanwhile"):
            await heal()


async def test_what_is_leaving_stays_until_healing_has_read_it(
    database: Database, leaving: Leaving, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with read_while_it_leaves(database, monkeypatch):
        pass

    async def overtaken(*_: Any) -> None:
        assert await a_round(database) == []
        raise Unavailable("it has tried")

    monkeypatch.setattr(recompute, "prepare", overtaken)
    async with healing(database) as heal:
        with pytest.raises(Unavailable, match="it has tried"):
            await heal()
    assert await until_dropped(database) == [leaving.partition.name]


GATE = 0x6A756467
# Whoever keeps a second slice waits until the gate is open, for ever if need be.
CLOSE = f"""
CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$ BEGIN
  IF EXISTS (SELECT FROM judgment_kept_values) THEN PERFORM pg_advisory_xact_lock({GATE}); END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER gate BEFORE INSERT ON judgment_kept_values EXECUTE FUNCTION gate()
"""
WAITS = f"""
SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database AS d ON d.oid = database
                WHERE datname = current_database() AND locktype = 'advisory' AND objid = {GATE} AND NOT granted)
"""


async def test_a_stop_does_not_wait_for_what_is_being_kept(database: Database, start_engine: Callable[..., Engine]) -> None:
    slices = f"{OFTEN}; import judgify_engine.store.kept as kept; kept.SLICE_ROWS = 2"
    engine = await asyncio.to_thread(start_engine, database, settings=SETTINGS, prelude=slices)
    series = await tracking(engine, database)
    await database.do(CLOSE)
    async with connected(database) as gate:
        await gate.execute("SELECT pg_advisory_lock($1)", GATE)
        async with connected(database) as connection:
            await fill(connection, series)
        await until(lambda: database.value(WAITS), "a slice waits")
        assert await asyncio.to_thread(engine.terminate, 15) == 0
        assert await database.value(WAITS), "it waited to the end"
        assert await progress(database) == (2, 2)
    await until(lambda: nobody_keeps(database), "the server has let go")
    assert await progress(database) == (2, 2)
    engine.start()
    await until(lambda: gone(database), "it has gone on")
    assert await progress(database) == (5, 0)
    assert engine.terminate() == 0
    await healed(engine, database)
    assert await series.rolled_up() == expected(series.values)
    assert engine.terminate() == 0


async def nobody_keeps(database: Database) -> bool:
    return not await database.value(WAITS.replace("AND NOT granted", ""))


async def gone(database: Database) -> bool:
    return await database.value("SELECT count(*) FROM pg_inherits WHERE inhparent = 'judgment_leaving'::regclass") == 0 and (
        await database.value("SELECT retained_from FROM judgment_retention") is not None
    )


@pytest.fixture
async def dropping(database: Database, start_engine: Callable[..., Engine]) -> AsyncIterator[tuple[Pools, str]]:
    """Pools, and a snapshot of before something was dropped: the table is read after it was taken."""
    start_engine(database).terminate()
    pools = Pools(database.dsn, Config())
    await pools.open()
    async with connected(database) as connection, connection.transaction(isolation="repeatable_read"):
        snapshot = await connection.fetchval("SELECT pg_export_snapshot()")
        await database.do("INSERT INTO judgment_retention (retained_from) VALUES ('2020-01-01Z')")
        yield pools, snapshot
    await pools.close()


async def test_who_drops_has_healing_start_over(database: Database, dropping: tuple[Pools, str]) -> None:
    pools, snapshot = dropping
    async with connected(database) as target:
        store = RollupStore(pools, target, database.slot, Windows(3600, 86_400))
        new, gap = Stored(Position(1, 0), "1", 1, ""), OpenGap(1, "lost")
        with pytest.raises(Unavailable, match="dropped meanwhile"):
            await store.rebuild(snapshot, new, gap)


async def test_who_drops_has_a_repair_start_over(database: Database, dropping: tuple[Pools, str]) -> None:
    pools, snapshot = dropping

    @contextlib.asynccontextmanager
    async def borrowed() -> AsyncIterator[tuple[int, str]]:
        yield 1, snapshot

    store = RepairStore(pools, pools, database.slot, Windows(3600, 86_400), borrowed)
    hours = [int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (2021, 2022)]
    with pytest.raises(Unavailable, match="dropped meanwhile"):
        async with store.prepared(Request(1, *hours), lambda _: None):
            pass
