"""A slot that heals: whatever happened to it, the rollups end up equal to the table, a record says why, and meanwhile nobody is
shown a figure as whole that is not."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import psycopg2
import pytest
from support.client import Client, new_tenant
from support.cluster import Database
from support.dashboards import watch
from support.engine import Engine, run
from support.rollups import check_rollups
from support.waiting import until

from judgify_engine.units import MIB

from .test_rollup import SPREAD, by_hand, drop_slot, holds

PUBLICATION = "FOR TABLE judgment_executions, action_executions, workflows WITH (publish_via_partition_root = true)"
ONE = by_hand(1)


def advance(database: Database) -> None:
    on(database, "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", database.slot)


def consume(database: Database) -> None:
    options = "'proto_version', '1', 'publication_names', 'judgify_cdc'"
    on(database, f"SELECT count(*) FROM pg_logical_slot_get_binary_changes(%s, NULL, NULL, {options})", database.slot)


def make_by_hand(database: Database) -> None:
    drop_slot(database)
    on(database, "SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", database.slot)


def make_physical(database: Database) -> None:
    drop_slot(database)
    on(database, "SELECT pg_create_physical_replication_slot(%s)", database.slot)


def make_publication_anew(database: Database) -> None:
    on(database, "DROP PUBLICATION judgify_cdc")
    on(database, f"CREATE PUBLICATION judgify_cdc {PUBLICATION}")


def take_a_table_out_and_in(database: Database) -> None:
    on(database, "ALTER PUBLICATION judgify_cdc DROP TABLE judgment_executions")
    on(database, ONE)
    on(database, "ALTER PUBLICATION judgify_cdc ADD TABLE judgment_executions")


def on(database: Database, sql: str, *values: Any) -> None:
    """Run SQL in the database, outside any transaction."""
    connection = psycopg2.connect(database.dsn)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(sql, values or None)
    finally:
        connection.close()


HARM: dict[str, tuple[str, Callable[[Database], object]]] = {
    "dropped": ("missing", drop_slot),
    "advanced": ("foreign", advance),
    "consumed": ("foreign", consume),
    "made by hand": ("foreign", make_by_hand),
    "made physical": ("foreign", make_physical),
    "position gone": ("missing", lambda database: on(database, "DELETE FROM cdc_positions")),
    "another server": ("restored", lambda database: on(database, "UPDATE cdc_positions SET system_identifier = '1'")),
    "back in time": ("restored", lambda database: on(database, "UPDATE cdc_positions SET commit_lsn = 'F0000000/0'")),
    "moved by an older version": ("upgraded", lambda database: on(database, "UPDATE cdc_positions SET counted_lsn = '0/1'")),
    "publication dropped": ("publication", lambda database: on(database, "DROP PUBLICATION judgify_cdc")),
    "publication made anew": ("publication", make_publication_anew),
    "publication altered": ("publication", take_a_table_out_and_in),
    "publication by partition": (
        "publication", lambda database: on(database, "ALTER PUBLICATION judgify_cdc SET (publish_via_partition_root = false)"),
    ),
}  # fmt: skip


async def reading(start_engine: Callable[..., Engine], database: Database, **more: Any) -> Engine:
    """An engine that has come so far as to read the log."""
    engine = await asyncio.to_thread(start_engine, database, **more)
    async with Client(engine.url, "test-token") as client:
        await until(lambda: holds(client), "it reads the log")
    return engine


async def gaps_of(database: Database) -> list[Any]:
    return await database.rows("SELECT * FROM cdc_gaps ORDER BY id")


async def healed(database: Database) -> bool:
    return bool(await database.value("SELECT count(*) FROM cdc_gaps WHERE recompute_finished_at IS NOT NULL"))


@pytest.mark.parametrize("harm", list(HARM))
async def test_whatever_was_done_while_no_engine_ran_is_noticed(
    harm: str, database: Database, start_engine: Callable[..., Engine]
) -> None:
    reason, do = HARM[harm]
    engine = await reading(start_engine, database)
    async with new_tenant(engine.url, database) as tenant:
        for _ in range(3):
            await tenant.judge()
        await database.do(by_hand(500, SPREAD))
        assert await check_rollups(database) == 503
        assert (await tenant.get("/api/v1/gaps")).json == {"gaps": []}, "the first slot of an empty database is no gap"
        assert engine.terminate() == 0
        # The last statement changes what the rollups would have to know of, and is all that a slot may have missed.
        await database.do("DELETE FROM judgment_executions WHERE workflow_id = 'w1'")
        await database.do(
            "INSERT INTO judgment_executions (tenant_id, workflow_id, input_data, final_result, confidence_score, method_used,"
            " execution_time_ms) VALUES ($1, 'check', '{}', '{}', 1, 'rule', 1)",
            tenant.tenant_id,
        )
        in_use = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND active"
        await until(lambda: not database.cluster.run(in_use, database.slot), "the slot is free")
        await asyncio.to_thread(do, database)
        engine.start()
        await until(lambda: healed(database), "it healed", 30)
        assert await check_rollups(database) == 404 + (harm == "publication altered")
        (gap,) = await gaps_of(database)
        assert (gap["reason"], gap["attempts"], gap["error"]) == (reason, 1, None)
        assert gap["judgments_before"] == 503
        assert gap["recompute_finished_at"] >= gap["recompute_started_at"] >= gap["detected_at"]
        async with Client(engine.url, tenant.token) as client:
            (told,) = (await client.get("/api/v1/gaps")).json["gaps"]
            assert (told["reason"], told["recomputing"], told["failing"]) == (reason, False, False)
            assert (told["judgments_before"], told["judgments_after"]) == (3, 4), "of the asking tenant"
            summary = (await client.get("/api/v1/summary")).json
            assert (summary["recomputing"], summary["alerts"]) == (False, [])
        await database.do(by_hand(10))
        await check_rollups(database)
    assert len(await gaps_of(database)) == 1
    assert engine.terminate() == 0
    engine.start()
    await check_rollups(database)
    assert len(await gaps_of(database)) == 1, "what was healed is well"
    assert engine.terminate() == 0


@pytest.mark.parametrize("harm", ["publication made anew", "publication altered", "publication dropped"])
async def test_a_publication_altered_under_a_running_engine(
    harm: str, database: Database, start_engine: Callable[..., Engine]
) -> None:
    reason, do = HARM[harm]
    engine = await reading(start_engine, database, settings={"JUDGIFY_CHANGE_WATCH_INTERVAL_S": "0.1"})
    await database.do(by_hand(300))
    await check_rollups(database)
    await asyncio.to_thread(do, database)
    await database.do(by_hand(20))
    await until(lambda: healed(database), "it healed", 30)
    assert await check_rollups(database) == 320 + (harm == "publication altered")
    assert [gap["reason"] for gap in await gaps_of(database)] == [reason]
    assert engine.terminate() == 0


async def test_kill_9_and_clean_stops_are_no_gap(database: Database, start_engine: Callable[..., Engine]) -> None:
    """What we confirmed never runs ahead of what is stored, however the process ends."""
    engine = await reading(start_engine, database)
    for ending in (engine.kill, engine.terminate, engine.kill, engine.kill, engine.terminate):
        await database.do(by_hand(50))
        await check_rollups(database)
        on(database, "CREATE TABLE others AS SELECT repeat('x', 500) FROM generate_series(1, 2000); DROP TABLE others")
        await until(lambda: near(database), "the slot follows what others write", 10)
        await database.do(by_hand(50))
        await asyncio.to_thread(ending)
        await asyncio.to_thread(engine.start)
    assert await check_rollups(database) == 500
    assert await gaps_of(database) == []
    assert engine.terminate() == 0


async def near(database: Database) -> bool:
    return bool(await database.value(
        "SELECT pg_current_wal_lsn() - confirmed_flush_lsn < 65536 FROM pg_replication_slots WHERE slot_name = $1",
        database.slot,
    ))  # fmt: skip


async def test_kill_9_in_the_middle_of_healing(database: Database, start_engine: Callable[..., Engine]) -> None:
    """Twice: while the slot is being made (a transaction is open), and while the rollups are replaced (a lock is held)."""
    engine = await reading(start_engine, database)
    async with new_tenant(engine.url, database) as tenant:
        await tenant.judge()
    await database.do(by_hand(2000, SPREAD))
    await check_rollups(database)
    await until(lambda: database.value("SELECT verified_through > now() - interval '1 hour' FROM reconciliation"), "proven", 30)
    assert engine.terminate() == 0
    await until(lambda: drop_slot(database), "the slot is free")
    await database.do(by_hand(100))
    blocker = await database.connect()
    for attempt, block in enumerate(("SELECT pg_current_xact_id()", "LOCK TABLE judgment_metrics_total IN SHARE MODE"), 1):
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute(block)
        engine.start()
        async with Client(engine.url, tenant.token) as client:
            await until(lambda: recomputing(client), "it recomputes")
            summary = (await client.get("/api/v1/summary")).json
            assert (summary["recomputing"], summary["verified_through"]) == (True, None)
            assert [(alert["type"], alert["severity"]) for alert in summary["alerts"]] == [("recomputing", "critical")]
            (told,) = (await client.get("/api/v1/gaps")).json["gaps"]
            assert (told["reason"], told["recomputing"], told["attempts"]) == ("missing", True, attempt)
            dashboard = await watch(client)
            await dashboard.shows(1)  # what it was before, and said to be so
            assert dashboard.messages[0]["recomputing"]
            if attempt == 2:
                await until(lambda: blocked(database), "it has come to the lock")
            with contextlib.suppress(OSError):
                engine.kill()
            await dashboard.close()
        assert await database.value("SELECT count(*) FROM cdc_positions") == 0
        assert await database.value("SELECT sum(total_executions) FROM judgment_metrics_total") == 2001
        await transaction.rollback()
    await blocker.close()
    engine.start()
    assert await check_rollups(database) == 2101
    (gap,) = await gaps_of(database)
    assert (gap["reason"], gap["attempts"]) == ("missing", 3)
    assert (gap["judgments_before"], gap["judgments_after"]) == (2001, 2101)
    slots = database.cluster.run("SELECT slot_name FROM pg_replication_slots WHERE database = %s", database.name)
    assert slots == [(database.slot,)], "no other slot is left"
    await until(
        lambda: database.value("SELECT verified_through > now() - interval '1 hour' FROM reconciliation"), "proven again"
    )
    assert engine.terminate() == 0


LOOK_SOON = "import judgify_engine.cdc.waiting as waiting; waiting.LOOK_S = 0.2"
CONNECTED = "SELECT pid FROM pg_stat_activity WHERE datname = %s"


@contextlib.asynccontextmanager
async def open_transaction(database: Database) -> AsyncIterator[int]:
    """One that has written and stays open, its statement a secret; its server process."""
    connection = await database.connect()
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.fetchval("SELECT pg_current_xact_id() AS hunter2")
        yield connection.get_server_pid()
        await transaction.rollback()
    finally:
        await connection.close()


async def test_whom_a_new_slot_waits_for_is_said(database: Database, start_engine: Callable[..., Engine]) -> None:
    """An open transaction, even in another database; a stop does not wait for it, nor does who takes over."""
    engine = await reading(start_engine, database, prelude=LOOK_SOON)
    await database.do(by_hand(10))
    assert engine.terminate() == 0
    await until(lambda: drop_slot(database), "the slot is free")
    other = database.cluster.make()
    async with open_transaction(other) as pid:
        for _ in range(2):  # the second one is no standby of what the first one left behind
            engine.start()
            async with Client(engine.url, "test-token") as client:

                async def state(client: Client = client) -> Any:
                    return (await client.get("/ready")).json["log_reader"]

                async def waits(state: Callable[[], Any] = state) -> bool:
                    return f"waiting for the transaction of pid {pid}, open since 20" in await state()

                await until(waits, "it says whom it waits for")
                told = [line for line in engine.log.splitlines() if "only when transactions of others have ended" in line]
                assert [(json.loads(line)["level"], json.loads(line)["pids"]) for line in told] == [("warning", [pid])]
                assert json.loads(told[0])["since"][0].startswith("20")
                assert "hunter2" not in engine.log + await state()
            began_s = time.monotonic()
            assert engine.terminate(15) == 0
            assert time.monotonic() - began_s < 5
            await until(lambda: not database.cluster.run(CONNECTED, database.name), "the server has noticed", 10)
        engine.start()
        async with Client(engine.url, "test-token") as client:
            await until(lambda: "only when transactions" in engine.log, "it waits")
    async with Client(engine.url, "test-token") as client:
        await until(lambda: holds(client), "it reads the log")
    assert await check_rollups(database) == 10
    assert engine.terminate() == 0
    other.drop()


async def test_whom_a_rebuild_waits_for_is_said(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = await reading(start_engine, database, prelude=LOOK_SOON)
    async with open_transaction(database) as pid:
        ask = "INSERT INTO rollup_repairs (slot_name, range_from, range_to) VALUES ($1, '2026-01-01Z', '2026-01-02Z')"
        await database.do(ask, database.slot)
        await until(lambda: f'"pids": [{pid}]' in engine.log, "it is said")
    await until(lambda: database.value("SELECT finished_at FROM rollup_repairs"), "it is done")
    assert engine.terminate() == 0


async def recomputing(client: Client) -> bool:
    return "recomputing" in (await client.get("/ready")).json["log_reader"]


async def blocked(database: Database) -> bool:
    return bool(await database.value("SELECT EXISTS (SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database"
                                     " WHERE NOT granted AND datname = current_database())"))  # fmt: skip


async def test_dashboards_are_told_that_it_recomputes_and_that_it_is_done(
    database: Database, start_engine: Callable[..., Engine]
) -> None:
    engine = await reading(start_engine, database, settings={"JUDGIFY_CHANGE_WATCH_INTERVAL_S": "0.1"})
    async with new_tenant(engine.url, database) as tenant:
        await tenant.judge()
        await check_rollups(database)
        dashboard = await watch(tenant)
        await dashboard.shows(1)
        blocker = await database.connect()
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("SELECT pg_current_xact_id()")
        await asyncio.to_thread(make_publication_anew, database)
        await until(lambda: dashboard.messages[-1]["recomputing"], "it says so")
        await tenant.judge()
        await transaction.rollback()
        await blocker.close()
        await until(lambda: not dashboard.messages[-1]["recomputing"], "it is done", 20)
        await dashboard.shows(2)
        await dashboard.close()
    assert engine.terminate() == 0


async def test_a_rebuild_that_fails_is_tried_again_and_said(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = await reading(start_engine, database)
    await database.do(by_hand(200))
    await check_rollups(database)
    assert engine.terminate() == 0
    await until(lambda: drop_slot(database), "the slot is free")
    await database.do("ALTER TABLE judgment_results_hourly ADD CONSTRAINT full_disk CHECK (total_executions < 0) NOT VALID")
    engine.start()
    async with Client(engine.url, "test-token") as client:
        await until(lambda: database.value("SELECT attempts > 2 AND error IS NOT NULL FROM cdc_gaps"), "it tries again", 20)
        await until(lambda: failing(client), "it is said")
        (told,) = (await client.get("/api/v1/gaps")).json["gaps"]
        assert (told["recomputing"], told["failing"]) == (True, True)
        await database.do("ALTER TABLE judgment_results_hourly DROP CONSTRAINT full_disk")
        await until(lambda: holds(client), "it reads the log again", 30)
    assert await check_rollups(database) == 200
    assert [(gap["reason"], gap["error"]) for gap in await gaps_of(database)] == [("missing", None)]
    assert engine.terminate() == 0


async def test_a_log_without_old_rows_is_mended_too(database: Database, start_engine: Callable[..., Engine]) -> None:
    """What an update took back cannot be known then: all is computed anew, and the next update comes whole."""
    engine = await reading(start_engine, database)
    await database.do(by_hand(100))
    await check_rollups(database)
    for row in await database.rows("SELECT relid::regclass::text AS name FROM pg_partition_tree('judgment_executions')"):
        await database.do(f"ALTER TABLE {row['name']} REPLICA IDENTITY DEFAULT")
    await database.do("UPDATE judgment_executions SET status = 'failed' WHERE workflow_id = 'w1'")
    await until(lambda: healed(database), "it healed", 30)
    await check_rollups(database)
    await database.do("UPDATE judgment_executions SET status = 'completed', workflow_id = 'w7' WHERE workflow_id = 'w2'")
    assert await check_rollups(database) == 100
    assert [gap["reason"] for gap in await gaps_of(database)] == ["corrupt"]
    assert engine.terminate() == 0


async def failing(client: Client) -> bool:
    return "could not be computed anew (missing)" in (await client.get("/ready")).json["log_reader"]


async def test_judgments_before_the_first_slot_are_a_gap(database: Database, start_engine: Callable[..., Engine]) -> None:
    assert run("migrate", settings={"JUDGIFY_DATABASE_URL": database.dsn}).returncode == 0
    await database.do(by_hand(40))
    engine = await asyncio.to_thread(start_engine, database)
    assert await check_rollups(database) == 40
    (gap,) = await gaps_of(database)
    assert (gap["reason"], gap["judgments_before"], gap["judgments_after"]) == ("first", 0, 40)
    assert engine.terminate() == 0


async def test_an_idle_database_stays_idle(database: Database, start_engine: Callable[..., Engine]) -> None:
    """The position moves only when others write much, and then at most once a second."""
    engine = await reading(start_engine, database)
    await check_rollups(database)
    connection = await database.connect()
    other = database.cluster.make()
    try:
        await other.do("CREATE TABLE others (text text)")
        for writes, least, most in ((True, 2, 7), (False, 0, 2)):
            positions = set()
            end_s = time.monotonic() + 5
            while time.monotonic() < end_s:
                if writes:
                    await other.do("INSERT INTO others SELECT repeat('x', 500) FROM generate_series(1, 1000)")
                positions.add(await connection.fetchval("SELECT commit_lsn FROM cdc_positions"))
                await asyncio.sleep(0.05)
            assert least <= len(positions) - 1 <= most, (writes, len(positions))
            await until(lambda: near(database), "the slot has followed", 10)
    finally:
        await connection.close()
        await asyncio.to_thread(other.drop)
    metrics = await metrics_of(engine)
    assert 'judgify_slot_wal_status{status="reserved"} 1.0' in metrics
    assert "judgify_slot_retained_bytes" in metrics
    assert "judgify_recomputing 0.0" in metrics
    assert engine.terminate() == 0


async def metrics_of(engine: Engine) -> str:
    async with Client(engine.url, None) as client:
        return (await client.get("/metrics")).body.decode()


async def test_a_large_transaction_flows_through_in_bounded_memory(
    database: Database, start_engine: Callable[..., Engine]
) -> None:
    engine = await reading(start_engine, database)
    await database.do(by_hand(20_000, SPREAD))  # what grows once: caches, plans, buffers
    await check_rollups(database)
    process = psutil.Process(engine.pid)
    before, highest = process.memory_info().rss, 0
    importing = asyncio.create_task(database.do(by_hand(300_000, SPREAD)))
    settling = asyncio.create_task(settled(database, importing))
    while not settling.done():
        highest = max(highest, process.memory_info().rss)
        await asyncio.wait((settling,), timeout=0.05)
    await settling
    assert highest - before < 48 * MIB, f"{(highest - before) / MIB:.0f} MiB more"
    assert await check_rollups(database, 60) == 320_000
    assert engine.terminate() == 0


async def settled(database: Database, importing: "asyncio.Task[str]") -> None:
    await importing
    await database.settle(90)
