"""A server that removed the log that the slot needs, and one that stops while its log is read."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest
from support.client import Client
from support.cluster import Cluster, Database, Server
from support.engine import Engine
from support.rollups import check_rollups
from support.waiting import until, until_now

from judgify_engine.store import embedded

ROWS = """
INSERT INTO judgment_executions (tenant_id, workflow_id, input_data, final_result, confidence_score, method_used,
                                 execution_time_ms)
SELECT 'by-hand', 'w', '{}', '{"verdict": "ok"}', 1, 'rule', 1 FROM generate_series(1, 100)
"""


@pytest.fixture
def small_server(tmp_path: Path) -> Iterator[Server]:
    """A server that keeps next to no log for a slot that falls behind."""
    before = dict(embedded.SETTINGS)
    embedded.SETTINGS.update(max_slot_wal_keep_size="16MB", max_wal_size="32MB", min_wal_size="32MB")
    made = Server(tmp_path / "small")
    try:
        yield made.start()
    finally:
        made.stop()
        embedded.SETTINGS.clear()
        embedded.SETTINGS.update(before)


def lose_slot(database: Database) -> bool:
    """Write log of nobody's and have the server remove what is older; whether the slot is lost."""
    cluster: Cluster = database.cluster
    for _ in range(3):
        cluster.run("SELECT pg_logical_emit_message(false, 'others', repeat('x', 4000000))")
        cluster.run("SELECT pg_switch_wal()")
    cluster.run("CHECKPOINT")
    return bool(cluster.run("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND wal_status = 'lost'", database.slot))


def drop_slot(database: Database) -> None:
    """Take the slot from whoever reads it."""
    take = "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = %s"
    drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s AND NOT active"

    def dropped() -> bool:
        database.cluster.run(take, database.slot)
        return bool(database.cluster.run(drop, database.slot))

    until_now(dropped, "the slot is dropped")


async def holds(client: Client) -> bool:
    return bool((await client.get("/ready")).json.get("log_reader") == "this process")


async def reading(server: Server, start_engine: Callable[..., Engine]) -> tuple[Database, Engine]:
    """A database on the server, and an engine that reads its log."""
    database = server.cluster.make()
    engine = await asyncio.to_thread(start_engine, database)
    async with Client(engine.url, "test-token") as client:
        await until(lambda: holds(client), "it reads the log")
    return database, engine


async def test_a_slot_lost_while_no_engine_ran(small_server: Server, start_engine: Callable[..., Engine]) -> None:
    database, engine = await reading(small_server, start_engine)
    await database.do(ROWS)
    assert await check_rollups(database) == 100
    assert engine.terminate() == 0
    await database.do(ROWS)
    await until(lambda: asyncio.to_thread(lose_slot, database), "the slot is lost", 60)
    engine.start()
    assert await check_rollups(database) == 200
    (gap,) = await database.rows("SELECT * FROM cdc_gaps")
    assert (gap["reason"], gap["judgments_before"], gap["judgments_after"]) == ("lost", 100, 200)
    assert engine.terminate() == 0


async def test_a_slot_lost_under_an_engine_that_hangs(small_server: Server, start_engine: Callable[..., Engine]) -> None:
    """The engine stands still, the server goes on without it; when it moves again, it finds its slot lost."""
    database, engine = await reading(small_server, start_engine)
    async with Client(engine.url, "test-token") as client:
        await database.do(ROWS)
        assert await check_rollups(database) == 100
        os.kill(engine.pid, signal.SIGSTOP)
        try:
            await database.do(ROWS)
            await until(lambda: asyncio.to_thread(lose_slot, database), "the slot is lost", 60)
        finally:
            os.kill(engine.pid, signal.SIGCONT)
        await until(
            lambda: database.value("SELECT count(*) FROM cdc_gaps WHERE recompute_finished_at IS NOT NULL"), "healed", 30
        )
        await database.do(ROWS)
        assert await check_rollups(database) == 300
        assert [row["reason"] for row in await database.rows("SELECT reason FROM cdc_gaps")] == ["lost"]
        assert (await client.get("/ready")).json["log_reader"] == "this process"
    assert engine.terminate() == 0


async def test_a_server_that_stops_does_not_wait_for_us(server: Server, start_engine: Callable[..., Engine]) -> None:
    """It waits until a stream is read to its end, which we never say; so we leave it, and are no gap later."""
    database, engine = await reading(server, start_engine)
    async with Client(engine.url, "test-token") as client:
        await database.do(ROWS)
        assert await check_rollups(database) == 100
        for _ in range(2):
            began_s = time.monotonic()
            server.stop()
            assert time.monotonic() - began_s < 10
            server.start()
            await until(lambda: holds(client), "it reads the log again", 30)
            await database.do(ROWS)
        assert await check_rollups(database) == 300
    assert await database.rows("SELECT * FROM cdc_gaps") == []
    with pytest.raises(psycopg2.errors.ObjectInUse):
        database.cluster.run("SELECT pg_drop_replication_slot(%s)", database.slot)
    assert engine.terminate() == 0


SPREAD = """
INSERT INTO judgment_executions (tenant_id, workflow_id, input_data, final_result, confidence_score, method_used,
                                 execution_time_ms, created_at)
SELECT 'by-hand', 'w-' || n % 7, '{}', '{"verdict": "ok"}', 1, 'rule', 1, now() - n * interval '7 minutes'
  FROM generate_series(1, 60000) AS n
"""
COPIES = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND state = 'active' AND query LIKE "
WRITER = f"{COPIES} 'COPY%%new_samples%%FROM STDIN%%'"
READER_WAITS = f"{COPIES} 'COPY (%%' AND wait_event = 'ClientWrite'"  # the server cuts what it shows of a query


def freeze_the_copy(cluster: Cluster, database: str) -> int:
    """Stop the backend that the recomputed rollups are copied into; its pid, once the other end is full as well."""
    connection = psycopg2.connect(cluster.dsn)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:

            def answer(sql: str) -> tuple[int] | None:
                cursor.execute(sql, (database,))
                return cursor.fetchone()

            (writer,) = until_now(lambda: answer(WRITER), "the rollups are copied", 60)
            os.kill(writer, signal.SIGSTOP)
            until_now(lambda: answer(READER_WAITS), "all buffers between the two are full")
            return int(writer)
    finally:
        connection.close()


async def test_a_server_that_dies_while_the_rollups_are_copied(server: Server, start_engine: Callable[..., Engine]) -> None:
    """Both connections of the copy stand still, one full and one not allowed to write, and then they are gone."""
    database, engine = await reading(server, start_engine)
    async with Client(engine.url, "test-token") as client:
        await database.do(SPREAD)
        await database.settle(90)
        frozen = asyncio.create_task(asyncio.to_thread(freeze_the_copy, server.cluster, database.name))
        drop_slot(database)
        os.kill(await frozen, signal.SIGKILL)  # which makes the server end all other connections and recover
        await until(lambda: holds(client), "it reads the log again", 60)
    assert await check_rollups(database) == 60_000
    (gap,) = await database.rows("SELECT reason, attempts, error FROM cdc_gaps")
    assert (gap["reason"], gap["error"]) == ("missing", None)
    assert gap["attempts"] > 1
    assert "Traceback" not in engine.log, engine.log
    assert engine.terminate() == 0
