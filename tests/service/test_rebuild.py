"""`verify` and `rebuild`: what is wrong is named and mended while judgments, late rows, updates and deletes go on."""

import asyncio
import contextlib
from collections.abc import Callable

import asyncpg
import pytest
from support.client import Client, Load
from support.cluster import Cluster, Database
from support.engine import Engine, run
from support.rollups import check_rollups
from support.waiting import until

from .test_rollup import SPREAD, by_hand


def command(database: Database, *arguments: str, metrics_dsn: str = "") -> "asyncio.Future[object]":
    settings = {"JUDGIFY_DATABASE_URL": database.dsn, "JUDGIFY_CHANGE_SLOT": database.slot}
    if metrics_dsn:
        settings["JUDGIFY_METRICS_DATABASE_URL"] = metrics_dsn
    return asyncio.ensure_future(asyncio.to_thread(run, *arguments, settings=settings))


WRONG = (
    "UPDATE judgment_metrics_hourly SET total_executions = total_executions + 3, rule_executions = rule_executions + 3;"
    "DELETE FROM judgment_metrics_timeseries WHERE extract(second FROM time) < 30;"
    "DELETE FROM judgment_metrics_buckets WHERE extract(minute FROM bucket) < 30;"
    "UPDATE judgment_metrics_total SET total_executions = total_executions + 1;"
    "DELETE FROM judgment_results_hourly WHERE result = 'ok'"
)

CHANGES = (
    by_hand(300, SPREAD),
    "UPDATE judgment_executions SET execution_time_ms = 7 WHERE workflow_id = 'w3' AND execution_time_ms <> 7",
    "DELETE FROM judgment_executions WHERE workflow_id = 'w4'",
    "UPDATE judgment_executions SET created_at = created_at - interval '1 hour', workflow_id = 'm' WHERE workflow_id = 'w1'",
)


async def spoil(database: Database) -> None:
    """Make the rollups wrong; the engine's own writes go on beside it, so a deadlock may need another try."""
    for statement in WRONG.split(";"):

        async def done(statement: str = statement) -> bool:
            with contextlib.suppress(asyncpg.DeadlockDetectedError):
                await database.do(statement)
                return True
            return False

        await until(done, "it is spoilt")


async def test_verify_names_it_and_rebuild_mends_it_under_load(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = await asyncio.to_thread(start_engine, database)
    await database.do(by_hand(5000, SPREAD))
    await check_rollups(database)
    good = await command(database, "verify")
    assert good.returncode == 0, good.stdout + good.stderr
    assert "5000 judgments" in good.stdout
    assert "equal" in good.stdout
    await spoil(database)
    bad = await command(database, "verify")
    assert bad.returncode == 1
    assert "DIFFERENT  tenant by-hand-1" in bad.stdout
    assert "judgify-engine rebuild --from" in bad.stdout
    async with Load(engine.url, "test-token", workers=8) as load:
        for _ in range(3):
            await spoil(database)
            rebuilding = command(database, "rebuild", "--from", "2026-01-01")
            while not rebuilding.done():
                for change in CHANGES:
                    await database.do(change)
                await asyncio.wait((rebuilding,), timeout=0.3)  # so that the log can be followed at all
            done = await rebuilding
            assert done.returncode == 0, done.stdout + done.stderr
        await until(lambda: len(load.answered) > 100, "judgments go on")
        await load.stop()
    await check_rollups(database, 60)
    good = await command(database, "verify")
    assert good.returncode == 0, good.stdout
    assert engine.terminate() == 0


async def test_a_rebuild_cut_off_by_kill_9_is_done_by_the_next_process(
    database: Database, start_engine: Callable[..., Engine]
) -> None:
    engine = await asyncio.to_thread(start_engine, database)
    await database.do(by_hand(3000, SPREAD))
    await check_rollups(database)
    await spoil(database)
    blocker = await database.connect()  # a transaction that writes: a snapshot with a known place waits for its end
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.fetchval("SELECT pg_current_xact_id()")
    rebuilding = command(database, "rebuild")
    await until(lambda: "hours are computed anew" in engine.log, "it has begun", 30)
    engine.kill()
    await transaction.rollback()
    await blocker.close()
    engine.start()
    done = await rebuilding
    assert done.returncode == 0, done.stdout + done.stderr
    assert await check_rollups(database) == 3000
    assert engine.terminate() == 0


async def test_without_an_engine_it_says_so(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = await asyncio.to_thread(start_engine, database)
    async with Client(engine.url, "test-token") as client:
        await client.judge(70, "test-workflow-0")
    assert engine.terminate() == 0
    done = await command(database, "rebuild")
    assert done.returncode == 1
    assert "no engine reads the log" in done.stderr


async def test_rollups_that_are_elsewhere_are_a_hint(
    cluster: Cluster, database: Database, start_engine: Callable[..., Engine]
) -> None:
    database.rollups = cluster.make()
    engine = await asyncio.to_thread(start_engine, database)
    async with Client(engine.url, "test-token") as client:
        await client.judge(70, "test-workflow-0")
    assert await check_rollups(database) == 1
    for name in ("verify", "rebuild"):
        lost = await command(database, name)
        assert (lost.returncode, lost.stdout) == (1, ""), "it does not wait"
        assert "JUDGIFY_METRICS_DATABASE_URL is not set" in lost.stderr
        elsewhere = await command(database, name, metrics_dsn=database.dsn)
        assert "JUDGIFY_METRICS_DATABASE_URL names another database" in elsewhere.stderr
        found = await command(database, name, metrics_dsn=database.rollups.dsn)
        assert found.returncode == 0, found.stderr
    assert engine.terminate() == 0
    database.rollups.drop()


@pytest.mark.parametrize("arguments", [("--from", "yesterday"), ("--from", "2026-02-01", "--to", "2026-01-01")])
async def test_a_wrong_range_is_exit_code_2(database: Database, arguments: tuple[str, ...]) -> None:
    for name in ("verify", "rebuild"):
        done = await command(database, name, *arguments)
        assert done.returncode == 2, done.stderr
        assert "--from" in done.stderr
