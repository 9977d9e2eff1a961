"""From the write-ahead log to the rollups, exactly: whoever writes, however much, whatever happened to the slot."""

import asyncio
from collections.abc import Callable, Iterator

import psycopg2
import pytest
from support.client import CHECK, Client, new_tenant
from support.cluster import Database
from support.engine import Engine, run
from support.rollups import check_rollups
from support.waiting import until

from judgify_engine.pipeline.change_loop import MARK_BYTES

BY_HAND = """
INSERT INTO judgment_executions (tenant_id, workflow_id, input_data, final_result, confidence_score, method_used, status,
                                 execution_time_ms, created_at)
SELECT 'by-hand-' || n % 3, 'w' || n % 5, jsonb_build_object('n', n), {result}, (n % 101) / 100.0,
       (ARRAY['rule', 'llm', 'hybrid'])[1 + n % 3], CASE WHEN n % 7 = 0 THEN 'failed' ELSE 'completed' END,
       (n % 30000) + (n % 1000) / 1000.0, {created}
  FROM generate_series(1, {rows}) AS n
"""
RESULT = """CASE n % 6 WHEN 0 THEN '{"verdict": "ok"}' WHEN 1 THEN '{"verdict": 5}' WHEN 2 THEN '[]' WHEN 3 THEN 'null'
            WHEN 4 THEN jsonb_build_object('verdict', repeat('ä', 70)) ELSE '{"verdict": "no"}' END::jsonb"""
SPREAD = "date_trunc('hour', now()) - make_interval(hours => n % 4) - interval '1 microsecond' * (n % 2)"


def by_hand(rows: int, created: str = "now()") -> str:
    return BY_HAND.format(rows=rows, result=RESULT, created=created)


@pytest.fixture
def running(database: Database, start_engine: Callable[..., Engine]) -> Iterator[Engine]:
    """An engine on a database of its own; must end well, and without having computed the rollups anew as a way out."""
    engine = start_engine(database)
    yield engine
    assert "could not be understood" not in engine.log
    if engine.running:
        assert engine.terminate() == 0


async def test_judgments_over_http(running: Engine) -> None:
    async with new_tenant(running.url, running.database) as tenant:
        for value in range(40, 110):
            await tenant.judge(value)
        await tenant.execute({})
        assert await check_rollups(running.database) == 71
        rows = await running.database.rows(
            "SELECT result, sum(total_executions)::int AS total FROM judgment_results_hourly WHERE tenant_id = $1 GROUP BY 1",
            tenant.tenant_id,
        )
        assert {row["result"]: row["total"] for row in rows} == {"inspect": 24, "ok": 46, "failed": 1}


async def test_rows_changed_by_plain_sql(running: Engine) -> None:
    database = running.database
    await database.do(by_hand(5000, SPREAD))
    assert await check_rollups(database) == 5000
    await database.do(
        "UPDATE judgment_executions SET status = 'completed', execution_time_ms = 1.5, confidence_score = 0.123456,"
        " method_used = 'hybrid', final_result = '{\"verdict\": \"mended\"}' WHERE status = 'failed'"
    )
    assert await check_rollups(database) == 5000
    await database.do("UPDATE judgment_executions SET workflow_id = 'moved', tenant_id = 'moved' WHERE workflow_id = 'w1'")
    assert await check_rollups(database) == 5000
    await database.do("DELETE FROM judgment_executions WHERE workflow_id = 'w2'")
    assert await check_rollups(database) == 4000
    await database.do("UPDATE judgment_executions SET created_at = created_at - interval '2 hours' WHERE workflow_id = 'w3'")
    assert await check_rollups(database) == 4000
    assert running.log.count("making a new slot") == 1, "changes are taken back from the stream, not by computing all anew"


async def test_random_key_lands_in_the_default_partition_and_counts(running: Engine) -> None:
    await running.database.do(
        by_hand(100).replace("INSERT INTO judgment_executions (", "INSERT INTO judgment_executions (id, ")
        .replace("SELECT 'by-hand-'", "SELECT gen_random_uuid(), 'by-hand-'")
    )  # fmt: skip
    assert await running.database.value("SELECT count(*) > 0 FROM judgment_executions_default")
    assert await check_rollups(running.database) == 100
    await running.database.do("DELETE FROM judgment_executions")
    assert await check_rollups(running.database) == 0


async def test_truncate_alone_and_among_other_changes(running: Engine) -> None:
    database = running.database
    await database.do(by_hand(1000))
    assert await check_rollups(database) == 1000
    await database.do("TRUNCATE judgment_executions")
    assert await check_rollups(database) == 0
    await database.do(f"BEGIN; {by_hand(300)}; TRUNCATE judgment_executions; {by_hand(200)}; COMMIT")
    assert await check_rollups(database) == 200
    for _ in range(3):  # in transactions so close to each other that they are rolled up together
        await database.do(f"{by_hand(10)}; TRUNCATE judgment_executions; {by_hand(7)}")
    assert await check_rollups(database) == 7


async def test_rolled_back_rows_do_not_count(running: Engine) -> None:
    await running.database.do(f"BEGIN; {by_hand(500)}; ROLLBACK")
    await running.database.do(f"BEGIN; {by_hand(5)}; SAVEPOINT s; {by_hand(500)}; ROLLBACK TO s; COMMIT")
    assert await check_rollups(running.database) == 5


async def test_large_transaction_flows_through(running: Engine) -> None:
    """200,000 rows in one transaction, while others commit theirs."""
    async with Client(running.url, "test-token") as client:
        await client.judge(70, "test-workflow-0")
        await running.database.do(by_hand(200_000, SPREAD))
        for _ in range(20):
            await client.judge(70, "test-workflow-0")
    assert await check_rollups(running.database, 60) == 200_021


async def test_interleaved_transactions(running: Engine) -> None:
    database = running.database
    one, two = await database.connect(), await database.connect()
    try:
        first, second = one.transaction(), two.transaction()
        await first.start()
        await second.start()
        for _ in range(5):
            await one.execute(by_hand(50))
            await two.execute(by_hand(30))
        await second.commit()
        await database.do(by_hand(1))
        await one.execute(by_hand(50))
        await first.commit()
    finally:
        await one.close()
        await two.close()
    assert await check_rollups(database) == 451


async def test_changes_made_while_no_engine_ran(running: Engine) -> None:
    database = running.database
    await database.do(by_hand(100))
    await check_rollups(database)
    assert running.terminate() == 0
    await database.do(f"{by_hand(1000)}; DELETE FROM judgment_executions WHERE workflow_id = 'w0'")
    running.start()
    assert await check_rollups(database) == 880
    assert "making a new slot" not in running.log, "it goes on where it was"


async def test_slot_dropped_while_stopped_is_made_anew_exactly(running: Engine) -> None:
    database = running.database
    await database.do(by_hand(1000, SPREAD))
    await check_rollups(database)
    assert running.terminate() == 0
    await until(lambda: drop_slot(database), "the slot is free")
    await database.do(f"{by_hand(500)}; DELETE FROM judgment_executions WHERE workflow_id = 'w1'")
    running.start()
    assert await check_rollups(database) == 1200
    assert "making a new slot" in running.log
    await database.do(by_hand(10))
    assert await check_rollups(database) == 1210


async def test_slot_lost_under_a_running_engine(running: Engine) -> None:
    """The server ends the stream and the slot is gone, while rows come in: rebuilt, none counted twice."""
    database = running.database
    await database.do(by_hand(1000, SPREAD))
    await check_rollups(database)
    connection = await database.connect()
    try:
        await until(
            lambda: connection.fetchval(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1", database.slot
            ),
            "the stream was ended",
        )

        def dropped() -> bool:
            return drop_slot(database)

        await until(dropped, "the slot was dropped before it was taken again", 10)
    finally:
        await connection.close()
    await database.do(by_hand(500))
    assert await check_rollups(database) == 1500


def drop_slot(database: Database) -> bool:
    try:
        database.cluster.run("SELECT pg_drop_replication_slot(%s)", database.slot)
    except psycopg2.errors.UndefinedObject:
        return True
    except psycopg2.errors.ObjectInUse:
        holder = database.cluster.run("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", database.slot)
        if holder and holder[0][0]:
            database.cluster.run("SELECT pg_terminate_backend(%s)", holder[0][0])
        return False
    return True


async def test_position_deleted_by_hand_means_a_rebuild(running: Engine) -> None:
    database = running.database
    await database.do(by_hand(300))
    await check_rollups(database)
    assert running.terminate() == 0
    await database.do("DELETE FROM cdc_positions; UPDATE judgment_metrics_hourly SET total_executions = total_executions + 7")
    running.start()
    assert await check_rollups(database) == 300


async def test_another_process_takes_over(database: Database, start_engine: Callable[..., Engine]) -> None:
    holder, standby = start_engine(database), start_engine(database, start=False)
    async with Client(holder.url, "test-token") as client:
        await until(lambda: holds(client), "the first one reads the log")
        standby.start()
        async with Client(standby.url, "test-token") as other:
            assert (await other.get("/ready")).json["log_reader"] == "standby"
            for number in range(20):
                await (client if number % 2 else other).judge(70, "test-workflow-0")
            assert await check_rollups(database) == 20
            await database.do(by_hand(3000))
            holder.kill()
            await database.do(by_hand(1000))
            await until(lambda: holds(other), "the other one takes over", 15)
            await other.judge(70, "test-workflow-0")
            assert await check_rollups(database) == 4021
    assert standby.terminate() == 0


async def test_hand_over_when_the_holder_stops(database: Database, start_engine: Callable[..., Engine]) -> None:
    holder, standby = start_engine(database), start_engine(database, start=False)
    async with Client(holder.url, "test-token") as client:
        await until(lambda: holds(client), "the first one reads the log")
    standby.start()
    async with Client(standby.url, "test-token") as other:
        assert holder.terminate() == 0
        await until(lambda: holds(other), "the other one takes over", 5)
        await database.do(by_hand(100))
        assert await check_rollups(database) == 100
    assert standby.terminate() == 0


async def holds(client: Client) -> bool:
    return bool((await client.get("/ready")).json.get("log_reader") == "this process")


async def test_idle_database_does_not_pin_the_log(running: Engine) -> None:
    """Others write, we have nothing to read: what we have confirmed must follow all the same."""
    database = running.database
    await check_rollups(database)
    await database.do("CREATE TABLE unrelated AS SELECT n, repeat('x', 500) AS text FROM generate_series(1, 20000) AS n")
    await until(
        lambda: database.value(
            "SELECT pg_current_wal_lsn() - confirmed_flush_lsn < $2 FROM pg_replication_slots WHERE slot_name = $1",
            database.slot,
            MARK_BYTES,
        ),
        "what is confirmed has come near the end of the log",
        30,
    )


async def test_status_command_agrees(running: Engine) -> None:
    await running.database.do(by_hand(50))
    await check_rollups(running.database)
    done = run("status", "--url", running.url, settings={
        "JUDGIFY_DATABASE_URL": running.database.dsn, "JUDGIFY_CHANGE_SLOT": running.database.slot,
    })  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "50 stored, 50 rolled up" in done.stdout


DEEP = """
INSERT INTO judgment_executions (tenant_id, workflow_id, workflow_version, input_data, final_result, confidence_score,
                                 method_used, execution_time_ms)
VALUES ($1, 'check', 2, $2::jsonb, $3::jsonb, 1, 'rule', 1)
"""


async def test_json_nested_too_deep_says_the_same_in_the_stream_and_in_sql(running: Engine) -> None:
    """Only others can have written it: what our decoder would give up on counts no values, nor does its result have a name."""
    database = running.database
    async with new_tenant(running.url, database) as tenant:
        await tenant.put_workflow("check", {**CHECK, "track": ["heat"]})
        for levels in (1, 62, 63, 64, 65, 900, 1100, 5000):
            for opening, closing in (("[", "]"), ('{"a": ', "}")):
                inner = "[]" if opening == "[" else "{}"
                deep = opening * (levels - 1) + inner + closing * (levels - 1)
                await database.do(
                    DEEP,
                    tenant.tenant_id,
                    f'{{"deep": {deep}, "heat": {levels}}}',
                    f'{{"deep": {deep}, "verdict": "v{levels}"}}',
                )
        await database.settle()
        counted = await read_deep(database)
        assert counted == {("heat", 6), ("v1", 2), ("v62", 2), ("v63", 2), ("", 10)}
        settings = {"JUDGIFY_DATABASE_URL": database.dsn, "JUDGIFY_CHANGE_SLOT": database.slot}
        await database.do("DELETE FROM judgment_results_hourly; DELETE FROM judgment_metrics_buckets")
        done = await asyncio.to_thread(run, "rebuild", "--from", "2020-01-01", settings=settings)
        assert done.returncode == 0, done.stderr
        assert await read_deep(database) == counted


async def read_deep(database: Database) -> set[tuple[str, int]]:
    """How many values were tracked and how many results have which name."""
    rows = await database.rows(
        "SELECT result, total_executions FROM judgment_results_hourly WHERE total_executions <> 0 UNION ALL"
        " SELECT 'heat', sum(count) FROM judgment_metrics_buckets"
        "  WHERE metric_name = 'input.heat' AND width_s = 3600 AND workflow_id <> ''"
    )
    return {(name, int(count)) for name, count in rows}
