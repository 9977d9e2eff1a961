"""Results and methods over time in a database that an older version has filled: counted as if they always had been."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.cluster import Cluster, Database
from support.engine import Engine
from support.layouts import LAYOUTS, laid_out
from support.rollups import check_rollups
from support.waiting import until

from judgify_engine.store import partitions
from judgify_engine.store.rollup_writer import stored_position

from .test_partitions import connected, rows_of
from .test_retention import HOUR, OLD
from .test_rollup import SPREAD, by_hand

IS_COUNTED = "metric_name ~ '^(result|method)[.]'"
# Back to before the migrations, as an older version left it.
OLDER = f"""
DELETE FROM judgment_metrics_buckets WHERE {IS_COUNTED};
ALTER TABLE cdc_positions DROP COLUMN counted_lsn, DROP COLUMN counted_index;
ALTER TABLE cdc_gaps DROP CONSTRAINT cdc_gaps_reason_check, ADD CONSTRAINT cdc_gaps_reason_check CHECK (reason <> 'upgraded');
DELETE FROM metrics_migrations WHERE number >= 6
"""
# By the hour, from the counts and from what is kept of hours for ever.
BY_HOUR = f"""
SELECT tenant_id, workflow_id, metric_name, bucket, count FROM judgment_metrics_buckets
 WHERE {IS_COUNTED} AND width_s = 3600 AND workflow_id <> '' AND count <> 0
"""
KEPT_BY_HOUR = """
SELECT tenant_id, workflow_id, 'result.' || result, hour, total_executions FROM judgment_results_hourly
 WHERE total_executions <> 0
UNION ALL
SELECT tenant_id, workflow_id, metric, hour, n FROM judgment_metrics_hourly
 CROSS JOIN LATERAL (VALUES ('method.rule', rule_executions), ('method.llm', llm_executions),
                            ('method.hybrid', hybrid_executions)) AS three(metric, n) WHERE n <> 0
"""


@pytest.fixture(params=LAYOUTS)
def database(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Database]:
    with laid_out(request.param, cluster) as made:
        yield made


async def stopped_and_older(engine: Engine, rollups: Database) -> None:
    assert engine.terminate() == 0
    await rollups.do(OLDER)


async def healed(rollups: Database) -> bool:
    return bool(
        await rollups.value("SELECT count(*) FROM cdc_gaps WHERE reason = 'upgraded' AND recompute_finished_at IS NOT NULL")
    )


async def test_the_first_start_after_an_update_counts_what_is_there(
    database: Database, start_engine: Callable[..., Engine]
) -> None:
    rollups = database.rollups or database
    engine = await asyncio.to_thread(start_engine, database)
    await database.do(by_hand(2000, SPREAD))
    assert await check_rollups(database) == 2000
    await stopped_and_older(engine, rollups)
    await database.do(f"{by_hand(300)}; DELETE FROM judgment_executions WHERE workflow_id = 'w1'")
    engine.start()
    await until(lambda: healed(rollups), "all is counted", 40)
    assert await check_rollups(database) == 1840
    await database.do(by_hand(100))
    assert await check_rollups(database) == 1940


async def test_what_an_older_version_moved_is_not_taken_for_whole(
    database: Database, start_engine: Callable[..., Engine]
) -> None:
    rollups = database.rollups or database
    engine = await asyncio.to_thread(start_engine, database)
    await database.do(by_hand(50))
    assert await check_rollups(database) == 50
    assert engine.terminate() == 0
    connection = await rollups.connect()
    try:
        assert await stored_position(connection, database.slot) is not None
        # All that a version which does not count does to it.
        await connection.execute("UPDATE cdc_positions SET commit_lsn = commit_lsn + 1, change_index = 0")
        assert await stored_position(connection, database.slot) is None
    finally:
        await connection.close()
    engine.start()
    await until(lambda: healed(rollups), "all is counted", 40)
    assert await check_rollups(database) == 50


async def test_hours_whose_judgments_were_dropped_are_counted_too(
    database: Database, start_engine: Callable[..., Engine]
) -> None:
    rollups = database.rollups or database
    settings = {"JUDGIFY_KEEP_JUDGMENTS_DAYS": "31"}
    prelude = "import judgify_engine.store.upkeep as upkeep; upkeep.INTERVAL_S = 0.3"
    engine = await asyncio.to_thread(start_engine, database, settings=settings, prelude=prelude)
    async with connected(database) as connection:
        async with partitions.alone(connection):
            await partitions.make_ahead(connection, OLD)
            first = (await partitions.present(connection))[0]
            await connection.execute(rows_of(first.period.start + HOUR, 300))
        await database.do(by_hand(60))

        async def left() -> bool:
            return await connection.fetchval("SELECT count(*) FROM judgment_executions") == 60

        await until(left, "what is old has left", 60)
    await database.settle()
    before = await hours(rollups)
    await stopped_and_older(engine, rollups)
    engine.start()
    await until(lambda: healed(rollups), "all is counted", 40)
    await database.settle()
    assert await hours(rollups) == before
    assert sum(row[4] for row in before if row[2].startswith("method.")) == 360


async def hours(rollups: Database) -> set[Any]:
    counted = {tuple(row) for row in await rollups.rows(BY_HOUR)}
    assert counted == {tuple(row) for row in await rollups.rows(KEPT_BY_HOUR)}
    everyone = await rollups.rows(BY_HOUR.replace("<> ''", "= ''"))
    assert sum(row["count"] for row in everyone) == sum(row[4] for row in counted)
    return counted
