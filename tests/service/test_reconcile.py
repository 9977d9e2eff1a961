"""Reconciliation: it keeps up, raises no false alarm whatever goes on, and finds what is really wrong."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from support.client import Client, Load
from support.cluster import Database
from support.engine import Engine
from support.waiting import until

from .test_rollup import SPREAD, by_hand

QUICK = {"JUDGIFY_RECONCILE_INTERVAL_S": "0.3", "JUDGIFY_RECONCILE_SETTLE_S": "1"}
SOON = "from judgify_engine.pipeline import reconcile_loop; reconcile_loop.RECHECK_S = 0.5"


async def figure(client: Client, name: str) -> float | None:
    for line in (await client.get("/metrics")).body.decode().splitlines():
        if line.startswith(name + " "):
            return float(line.split()[-1])
    return None


async def verified(client: Client, since_s: float) -> bool:
    """Whether all that was created before `since_s` is verified."""
    through_s = await figure(client, "judgify_verified_through_seconds")
    return through_s is not None and through_s > since_s


async def differences(database: Database) -> list[Any]:
    return await database.rows("SELECT * FROM reconciliation_differences ORDER BY id")


@pytest.fixture
def quick(database: Database, start_engine: Callable[..., Engine]) -> Engine:
    return start_engine(database, settings=QUICK, prelude=SOON)


async def test_it_keeps_up_with_a_load_and_late_rows_without_a_false_alarm(quick: Engine, database: Database) -> None:
    async with Load(quick.url, "test-token", workers=16, keyed=0.2) as load, Client(quick.url, "test-token") as client:
        for _ in range(3):
            await until(lambda: len(load.answered) > 300, "some are answered", 30)
            await database.do(by_hand(3000, SPREAD))
            await database.do("UPDATE judgment_executions SET execution_time_ms = 2 WHERE workflow_id = 'w3'")
            await database.do("DELETE FROM judgment_executions WHERE workflow_id = 'w4'")
            now_s = time.time()
            await until(lambda now_s=now_s: verified(client, now_s - 1), "all of it is verified", 40)
        await load.stop()
        now_s = time.time()
        await until(lambda: verified(client, now_s), "the rest is verified", 40)
        assert await figure(client, "judgify_reconciliation_differences") == 0
    assert await differences(database) == []
    rows = await database.value("SELECT rows_compared FROM reconciliation")
    assert rows >= await database.value("SELECT count(*) FROM judgment_executions")
    assert quick.terminate() == 0


HOURLY = "judgment_metrics_hourly SET total_executions = total_executions"
COUNTS = "judgment_metrics_buckets SET count = count"


@pytest.mark.parametrize(
    ("hours_ago", "figure_of", "where"),
    [
        (0, HOURLY, "true"),
        (2, HOURLY, "true"),
        (24 * 40, HOURLY, "true"),
        (2, COUNTS, "metric_name = 'method.llm' AND width_s = 3600 AND workflow_id = ''"),
        (24 * 40, COUNTS, "metric_name = 'result.failed' AND width_s = 300 AND workflow_id <> ''"),
    ],
    ids=["this hour", "today", "long ago", "a method today", "a result long ago"],
)
async def test_a_wrong_rollup_is_found_told_and_ended_when_mended(
    quick: Engine, database: Database, hours_ago: int, figure_of: str, where: str
) -> None:
    await database.do(by_hand(500, f"now() - make_interval(hours => {hours_ago})"))
    async with Client(quick.url, "test-token") as client:
        now_s = time.time()
        await until(lambda: verified(client, now_s), "all is verified", 40)
        change = f"UPDATE {figure_of} + {{}} WHERE tenant_id = 'by-hand-1' AND {where}"
        await database.do(change.format(7))
        found = await until(lambda: differences(database), "the difference is found", 40)
        assert {row["tenant_id"] for row in found} == {"by-hand-1"}
        assert sum(row["rolled_up"] - row["stored"] for row in found) % 7 == 0
        await until(lambda: "the rollups differ from the table" in quick.log, "it is told")
        oldest_s = min(row["range_from"].timestamp() for row in found)
        through_s = await until(lambda: figure(client, "judgify_verified_through_seconds"), "there is a figure")
        assert through_s <= oldest_s, "nothing behind a difference counts as verified"
        await until(lambda: figure(client, "judgify_reconciliation_differences"), "it is counted")
        await database.do(change.format(-7))
        now_s = time.time()
        await until(lambda: verified(client, now_s), "all is verified again", 40)
        assert all(row["resolved_at"] is not None for row in await differences(database))
    assert quick.terminate() == 0


async def test_it_goes_on_where_it_was(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(database, settings=QUICK)
    await database.do(by_hand(2000, "now() - make_interval(hours => n % 300)"))
    async with Client(engine.url, "test-token") as client:
        now_s = time.time()
        await until(lambda: verified(client, now_s), "all is verified", 60)
    engine.kill()
    await database.do(by_hand(100, "now() - interval '200 hours'"))  # while nobody looks
    engine.start()
    async with Client(engine.url, "test-token") as client:
        now_s = time.time()
        await until(lambda: verified(client, now_s), "all is verified", 60)
    assert await differences(database) == []
    assert engine.terminate() == 0


async def test_another_process_takes_the_comparison_over(database: Database, start_engine: Callable[..., Engine]) -> None:
    first = start_engine(database, settings=QUICK)
    async with Client(first.url, "test-token") as client:
        await client.judge(70, "test-workflow-0")
        now_s = time.time()
        await until(lambda: verified(client, now_s), "the first one verifies", 40)
    second = start_engine(database, settings=QUICK)
    async with Client(second.url, "test-token") as client:
        assert await figure(client, "judgify_verified_through_seconds") is None
        first.kill()
        await client.judge(70, "test-workflow-0")
        now_s = time.time()
        await until(lambda: verified(client, now_s), "the second one goes on", 40)
    assert second.terminate() == 0
