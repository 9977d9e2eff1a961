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
from support.waiting import until

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


async def holds(client: Client) -> bool:
    return bool((await client.get("/ready")).json.get("log_reader") == "this process")


async def test_a_slot_lost_while_no_engine_ran(small_server: Server, start_engine: Callable[..., Engine]) -> None:
    database = small_server.cluster.make()
    engine = await asyncio.to_thread(start_engine, database)
    async with Client(engine.url, "test-token") as client:
        await until(lambda: holds(client), "it reads the log")
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
    database = small_server.cluster.make()
    engine = await asyncio.to_thread(start_engine, database)
    async with Client(engine.url, "test-token") as client:
        await until(lambda: holds(client), "it reads the log")
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
    database = server.cluster.make()
    engine = await asyncio.to_thread(start_engine, database)
    async with Client(engine.url, "test-token") as client:
        await until(lambda: holds(client), "it reads the log")
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
