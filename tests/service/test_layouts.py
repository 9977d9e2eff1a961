"""The same rollups wherever they live: beside the judgments or apart, on plain PostgreSQL or on TimescaleDB."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from support.client import CHECK, Client, new_tenant
from support.cluster import Cluster, Database
from support.engine import Engine, run
from support.layouts import LAYOUTS, laid_out
from support.rollups import check_rollups
from support.waiting import until

from judgify_engine.config import Config
from judgify_engine.store import metrics_upkeep
from judgify_engine.store.pool import Database as Pools

from .test_rollup import SPREAD, by_hand

TRACKING = {**CHECK, "track": ["value", "machine.heat"]}


@pytest.fixture(params=LAYOUTS)
def database(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Database]:
    with laid_out(request.param, cluster) as made:
        yield made


@pytest.fixture
def running(database: Database, start_engine: Callable[..., Engine]) -> Engine:
    return start_engine(database)


async def judge_some(tenant: Client, chance: random.Random, count: int = 60) -> None:
    """Judgments of now, some of which happened before, with and without what is tracked."""
    for n in range(count):
        more: dict[str, Any] = {}
        if n % 3 == 0:
            hours = chance.choice([0.1, 1, 5, 30, 24 * 20, 24 * 360, 24 * 900])
            more["occurred_at"] = (datetime.now(UTC) - timedelta(hours=hours)).isoformat()
        value: Any = chance.choice([chance.uniform(-50, 150), chance.randrange(40, 110), "warm", None, 9.1e12, 0])
        answer = await tenant.execute({"value": value, "machine": {"heat": chance.expovariate(0.01)}, "n": n}, **more)
        assert answer.status == 200, answer.body


async def test_judgments_and_what_they_track(running: Engine) -> None:
    database = running.database
    assert database is not None
    chance = random.Random(11)
    async with new_tenant(running.url, database) as tenant:
        await tenant.put_workflow("check", TRACKING)
        await judge_some(tenant, chance)
        assert await check_rollups(database, extremes=True) == 60
        # Another version tracks less: what was judged by the first one stays as it was.
        await tenant.put_workflow("check", {**CHECK, "track": ["value"]})
        await judge_some(tenant, chance)
        assert await check_rollups(database, extremes=True) == 120


async def test_rows_changed_by_others_and_a_rebuild(running: Engine) -> None:
    database = running.database
    assert database is not None
    await database.do(by_hand(3000, SPREAD))
    assert await check_rollups(database, extremes=True) == 3000
    await database.do("UPDATE judgment_executions SET execution_time_ms = 3, status = 'completed' WHERE workflow_id = 'w1'")
    await database.do("DELETE FROM judgment_executions WHERE workflow_id = 'w2'")
    await database.do("UPDATE judgment_executions SET created_at = created_at - interval '20 days' WHERE workflow_id = 'w3'")
    assert await check_rollups(database) == 2400
    settings = {"JUDGIFY_DATABASE_URL": database.dsn, "JUDGIFY_CHANGE_SLOT": database.slot}
    if database.rollups is not None:
        settings["JUDGIFY_METRICS_DATABASE_URL"] = database.rollups.dsn
        await database.rollups.do("DELETE FROM judgment_metrics_buckets WHERE width_s = 300")
    done = await asyncio.to_thread(run, "rebuild", "--from", "2020-01-01", settings=settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert await check_rollups(database, extremes=True) == 2400
    verified = await asyncio.to_thread(run, "verify", settings=settings)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    await database.do("TRUNCATE judgment_executions")
    assert await check_rollups(database) == 0


async def test_smallest_and_largest_values_are_right_again_after_a_delete(running: Engine) -> None:
    database = running.database
    assert database is not None
    rollups = database.rollups or database
    async with new_tenant(running.url, database) as tenant:
        await tenant.put_workflow("check", TRACKING)
        for value in (10, 70, 4000):
            await tenant.judge(value)
        assert await check_rollups(database, extremes=True) == 3
        await database.do("DELETE FROM judgment_executions WHERE (input_data ->> 'value')::int = 4000")
        assert await check_rollups(database) == 2
        pending = "SELECT count(*) FROM rollup_repairs WHERE reason = 'taken_back' AND finished_at IS NULL"
        assert await rollups.value(pending) == 1
        await rollups.do("UPDATE rollup_repairs SET not_before = now()")

        async def repaired() -> bool:
            return not await rollups.value(pending)

        await until(repaired, "the hour is computed anew")
        assert await check_rollups(database, extremes=True) == 2


async def test_a_kill_and_a_lost_slot_change_nothing(running: Engine) -> None:
    database = running.database
    assert database is not None
    async with new_tenant(running.url, database) as tenant:
        await tenant.put_workflow("check", TRACKING)
        await judge_some(tenant, random.Random(5), 40)
    running.kill()
    await database.do(by_hand(500, SPREAD))
    running.start()
    assert await check_rollups(database, extremes=True) == 540
    running.kill()
    await database.do(by_hand(500, SPREAD))
    await database.do(f"SELECT pg_drop_replication_slot('{database.slot}')")
    running.start()

    async def read() -> bool:
        return "reading the log" in running.log

    await until(read, "the log is read", 60)
    assert await check_rollups(database, 60, extremes=True) == 1040


async def test_merged_samples_say_the_same(running: Engine) -> None:
    database = running.database
    assert database is not None
    rollups = database.rollups or database
    await until(lambda: "reading the log" in running.log, "it reads the log")  # computed from the table, all would be merged
    await database.do(by_hand(2000, "now() - make_interval(hours => 3 + n % 4, secs => n % 50)"))
    for _ in range(3):  # in several transactions, so that there is something to merge
        await database.do(by_hand(300, "now() - make_interval(hours => 3)"))
    assert await check_rollups(database, extremes=True) == 2900
    count = "SELECT count(*) FROM judgment_metrics_timeseries"
    before = await rollups.value(count)
    pools = Pools(rollups.dsn, Config())
    await pools.open()
    try:
        assert await metrics_upkeep.merge(pools, datetime.now(UTC)) > 0
        merged = await rollups.value(count)
        assert merged < before
        assert await metrics_upkeep.merge(pools, datetime.now(UTC)) == 0
    finally:
        await pools.close()
    assert await check_rollups(database, extremes=True) == 2900


async def test_the_hourly_aggregate_answers_the_same(running: Engine) -> None:
    """`judgment_metrics_hourly_cagg`: fresh rows at once, late ones after a refresh, as the policy does every five minutes."""
    database = running.database
    assert database is not None
    rollups = database.rollups or database
    async with new_tenant(running.url, database) as tenant:
        await tenant.put_workflow("check", TRACKING)
        for value in range(40, 80):
            await tenant.judge(value)
    await database.do(by_hand(500, SPREAD))
    await check_rollups(database)
    is_aggregate = await rollups.value("SELECT to_regclass('timescaledb_information.continuous_aggregates') IS NOT NULL")
    if is_aggregate:
        hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        await rollups.do(
            "CALL refresh_continuous_aggregate('judgment_metrics_hourly_cagg', $1::timestamptz, $2::timestamptz)",
            hour - timedelta(hours=6), hour,
        )  # fmt: skip
        await database.do(by_hand(50, "now()"))
        await check_rollups(database)
    expected = await rollups.rows(
        "SELECT bucket, tenant_id, workflow_id, metric_name, (sum / count)::float8, maximum, minimum, count"
        " FROM judgment_metrics_buckets WHERE width_s = 3600 AND workflow_id <> '' AND count <> 0"
        " AND metric_name !~ '^(result|method)[.]'"
    )
    told = await rollups.rows(
        "SELECT bucket, tenant_id, workflow_id, metric_name, average, maximum, minimum, count FROM judgment_metrics_hourly_cagg"
    )
    assert len(expected) > 10
    assert {tuple(row) for row in told if row["metric_name"] != "execution_count"} == {tuple(row) for row in expected}
    counted = {tuple(row)[:3]: row["count"] for row in told if row["metric_name"] == "execution_count"}
    assert counted == {tuple(row)[:3]: row["count"] for row in expected if row["metric_name"] == "execution_time_ms"}


async def test_timescale_is_used_where_it_is_there(database: Database, running: Engine, request: pytest.FixtureRequest) -> None:
    rollups = database.rollups or database
    kind = await rollups.value("SELECT relkind FROM pg_class WHERE oid = 'judgment_metrics_timeseries'::regclass")
    assert kind == (b"r" if "[timescale" in request.node.name else b"p")
    if kind == b"p":
        return

    async def policies() -> dict[str, tuple[int, str]]:
        rows = await rollups.rows(
            "SELECT proc_name, job_id, config FROM timescaledb_information.jobs"
            " WHERE proc_name LIKE 'policy_%' AND hypertable_name IS NOT NULL"
        )
        return {row["proc_name"]: (row["job_id"], row["config"]) for row in rows}

    told = await policies()
    assert '"compress_after": "7 days"' in told["policy_compression"][1]
    assert '"drop_after": "365 days"' in told["policy_retention"][1]
    assert '"start_offset": "364 days"' in told["policy_refresh_continuous_aggregate"][1]
    assert running.terminate() == 0
    running.settings["JUDGIFY_METRICS_COMPRESS_AFTER_DAYS"] = "9"
    running.start()
    later = await policies()
    assert '"compress_after": "9 days"' in later.pop("policy_compression")[1]
    del told["policy_compression"]
    assert later == told, "what did not change is the job that it was: a new one runs at once"


async def test_what_is_compressed_takes_late_rows_and_repairs(
    database: Database, running: Engine, request: pytest.FixtureRequest
) -> None:
    if "[timescale" not in request.node.name:
        pytest.skip("only TimescaleDB compresses")
    rollups = database.rollups or database
    old = "date_trunc('hour', now()) - make_interval(days => 20, mins => n % 100)"
    await database.do(by_hand(2000, old))
    await check_rollups(database, extremes=True)
    chunks = "SELECT count(*) FROM show_chunks('judgment_metrics_timeseries', older_than => INTERVAL '7 days') AS c"
    assert await rollups.value(chunks) > 0

    async def compressed() -> bool:
        with contextlib.suppress(asyncpg.DuplicateObjectError):  # just now by the policy, which runs as soon as it is made
            await rollups.rows("SELECT compress_chunk(c, true) FROM show_chunks('judgment_metrics_timeseries') AS c")
            return True
        return False

    await until(compressed, "all is compressed")
    await database.do(by_hand(300, old))
    assert await check_rollups(database, extremes=True) == 2300
    settings = {"JUDGIFY_DATABASE_URL": database.dsn, "JUDGIFY_CHANGE_SLOT": database.slot}
    if database.rollups is not None:
        settings["JUDGIFY_METRICS_DATABASE_URL"] = database.rollups.dsn
    done = await asyncio.to_thread(run, "rebuild", settings=settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert await check_rollups(database, extremes=True) == 2300


async def test_what_others_write_oddly_stops_nothing_and_counts_the_same(running: Engine) -> None:
    """Rows, workflows and refusals by hand that the API would not take: the stream and the computation from the table agree."""
    database = running.database
    assert database is not None
    odd_tracks = ('["heat", "a.b", "9x", "new\\nline", "quo\\"te", 5]', '"heat"', "null", '{"a": 1}', "[]")
    for number, track in enumerate(odd_tracks):
        await database.do(
            "INSERT INTO workflows (tenant_id, workflow_id, version, definition)"
            " VALUES ('odd', $1, 1, jsonb_build_object('track', $2::jsonb, 'default', '{}'::jsonb))",
            f"w{number}", track,
        )  # fmt: skip
    inputs = ('{"heat": 1e-400}', '{"heat": 6, "a": {"b": 1e5000}}', '{"heat": 9000000000000.0001}', '{"heat": -0.0}', "null",
              '{"heat": 1e400}', '{"a": [7], "heat": true}', '"text"', '{"heat": 70.1234567}')  # fmt: skip
    for text in inputs:
        for workflow in ("w0", "w1", "", "tab\tbed", "back\\slash"):
            await database.do(
                "INSERT INTO judgment_executions (tenant_id, workflow_id, workflow_version, input_data, final_result,"
                " confidence_score, method_used, execution_time_ms, occurred_at)"
                " VALUES ('odd', $1, 1, $2::text::jsonb, '{}', 1, 'rule', 1,"
                " CASE WHEN $2 = 'null' THEN 'infinity'::timestamptz END)",
                workflow, text,
            )  # fmt: skip
    await database.do(
        "INSERT INTO judgment_quarantine (tenant_id, kind, source, code, reason, created_at)"
        " VALUES ('odd', 'bad_json', 'http', 'x', 'x', 'infinity')"
    )

    async def told() -> list[Any]:
        await database.settle(30)
        return await (database.rollups or database).rows(
            "SELECT workflow_id, metric_name, width_s, bucket, count, sum, minimum, maximum, slots, counts"
            " FROM judgment_metrics_buckets WHERE tenant_id = 'odd' AND width_s >= 300"
        )

    def tuple_of(row: Any) -> tuple[Any, ...]:
        return tuple(tuple(value) if isinstance(value, list) else value for value in row)

    streamed = await told()
    assert len(streamed) > 10
    settings = {"JUDGIFY_DATABASE_URL": database.dsn, "JUDGIFY_CHANGE_SLOT": database.slot}
    if database.rollups is not None:
        settings["JUDGIFY_METRICS_DATABASE_URL"] = database.rollups.dsn
    done = await asyncio.to_thread(run, "rebuild", settings=settings)
    assert done.returncode == 0, done.stdout + done.stderr
    computed = await told()
    assert set(map(tuple_of, computed)) == set(map(tuple_of, streamed))
    verified = await asyncio.to_thread(run, "verify", settings=settings)
    assert verified.returncode == 0, verified.stdout + verified.stderr
