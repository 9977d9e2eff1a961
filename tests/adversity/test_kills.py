"""kill -9 under load: no answered judgment is missing, and the rollups equal the table."""

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

from support.client import Client, Load
from support.cluster import Cluster, Database
from support.engine import Engine
from support.rollups import check_rollups
from support.waiting import until

from judgify_engine.store.embedded import dsn_of

TIMES = 3


def database_of(engine: Engine) -> Database:
    """The embedded server's database."""
    database = Database(Cluster(dsn_of(engine.data_dir)), "postgres", "judgify_cdc")
    database.dsn = dsn_of(engine.data_dir)
    return database


async def more_answers(load: Load, count: int, within_s: float = 40) -> None:
    target = len(load.answered) + count
    await until(lambda: len(load.answered) >= target, f"{count} more answers", within_s)


async def test_kill_9_of_the_engine_on_its_embedded_server(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine()
    engine.port = engine.listening_port  # the same after each restart, so that the load finds it again
    database = database_of(engine)
    chance = random.Random(1)
    async with Load(engine.url, "test-token", workers=32, keyed=0.2) as load:
        for _ in range(TIMES):
            await more_answers(load, chance.randrange(200, 800))
            engine.kill()
            await asyncio.to_thread(engine.launch)
            await until(lambda: "ready" in engine.output or not engine.running, "it is back", 60)
            assert engine.running, engine.log
        await more_answers(load, 200)
        await load.stop()
    await load.check(database)
    assert await check_rollups(database) >= len(load.answered)
    assert "making a new slot" not in engine.log
    assert engine.terminate() == 0


async def test_kill_9_of_the_engine_on_a_server_that_stays(database: Database, start_engine: Callable[..., Engine]) -> None:
    """Here the transactions of the killed process are still under way when the next one starts."""
    engine = start_engine(database)
    engine.port = engine.listening_port
    chance = random.Random(2)
    async with Load(engine.url, "test-token", workers=32, keyed=0.2) as load:
        for _ in range(TIMES):
            await more_answers(load, chance.randrange(200, 800))
            engine.kill()
            await asyncio.to_thread(engine.start)
        await more_answers(load, 200)
        await load.stop()
    await load.check(database)
    await check_rollups(database)
    assert engine.terminate() == 0


async def test_kill_9_of_postgres(start_engine: Callable[..., Engine]) -> None:
    """The postmaster dies; the engine lives on, starts it again, and goes on by itself."""
    engine = start_engine()
    database = database_of(engine)
    async with Load(engine.url, "test-token", workers=32, keyed=0.2) as load, Client(engine.url, "test-token") as client:
        for _ in range(TIMES):
            await more_answers(load, 400)
            before = engine.log.count("postgres died")
            os.kill(engine.postgres_pid, signal.SIGKILL)
            await until(lambda before=before: engine.log.count("postgres died") > before, "its death was noticed", 20)
        await more_answers(load, 400)
        await load.stop()
        assert load.longest_s < 35
        assert (await client.get("/ready")).status == 200
    await load.check(database)
    await check_rollups(database)
    assert engine.terminate() == 0


async def test_kill_9_of_a_backend(start_engine: Callable[..., Engine]) -> None:
    """One session's process dies, so PostgreSQL restarts all of them, with the postmaster alive."""
    engine = start_engine()
    database = database_of(engine)
    async with Load(engine.url, "test-token", workers=32, keyed=0.2) as load:
        for _ in range(TIMES):
            await more_answers(load, 300)
            pids = await database.rows("SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'judgify-engine%'")
            os.kill(random.Random(3).choice(pids)["pid"], signal.SIGKILL)
        await more_answers(load, 300)
        await load.stop()
    await load.check(database)
    await check_rollups(database)
    assert "postgres died" not in engine.log
    assert engine.terminate() == 0


async def test_kill_9_of_both(start_engine: Callable[..., Engine], tmp_path: Path) -> None:
    engine = start_engine()
    engine.port = engine.listening_port
    database = database_of(engine)
    async with Load(engine.url, "test-token", workers=32) as load:
        await more_answers(load, 300)
        os.kill(engine.postgres_pid, signal.SIGKILL)
        engine.kill()
        await asyncio.to_thread(engine.start)
        await more_answers(load, 300)
        await load.stop()
    await load.check(database)
    await check_rollups(database)
    assert engine.terminate() == 0
