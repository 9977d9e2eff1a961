"""The anomaly rule on real readings, all the way: fed over HTTP, rolled up, evaluated, asked for over HTTP."""

import asyncio
import csv
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.client import Client, new_tenant
from support.cluster import Database
from support.engine import ROOT, Engine, run
from support.rollups import check_rollups
from support.waiting import until

from bench.anomaly import FAILURES, MOST_OUTSIDE, OUTSIDE, buckets_of, firings, window_of
from judgify_engine.core.alert_rules import Anomaly

MACHINE = ROOT.parent / "shared" / "data" / "machine_temperature.csv"
TRACKING = {"rules": [], "default": {"result": {"verdict": "ok"}, "confidence": 0.9}, "track": ["value"]}
SETTINGS = {
    "JUDGIFY_ALERTS_INTERVAL_S": "0.3",
    "JUDGIFY_ALERTS_SETTLE_S": "0",
    "JUDGIFY_METRICS_KEEP_DAYS": "36500",  # buckets of 5 minutes of 2013
}
RULE = {"kind": "anomaly", "metric": "input.value", "workflow_id": "machine"}
BEGIN = datetime(2024, 3, 1, tzinfo=UTC)
STEP = timedelta(minutes=5)
FEW_DAYS = 8


def readings(path: Path, numbers: range, value: Callable[[int], float]) -> Path:
    """A file of one reading in each bucket; `numbers`: which buckets from `BEGIN` on."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["timestamp", "value"])
        writer.writerows([f"{BEGIN + number * STEP:%Y-%m-%d %H:%M:%S}", value(number)] for number in numbers)
    return path


def quiet(number: int) -> float:
    return 70 + number % 7


async def put(client: Client, path: str, body: Any) -> None:
    answer = await client.call("PUT", f"/api/v1/{path}", body=body)
    assert answer.status in (200, 201), answer.body[:500]


async def prepare(client: Client, engine: Engine) -> None:
    """The workflow and the rule, which was looked at before anything came."""
    await put(client, "workflows/machine", TRACKING)
    await put(client, "alert-rules/heat", RULE)
    await looked(client, engine, -1)


async def looked(client: Client, engine: Engine, second: int) -> None:
    """Wait until the rule has come as far as a bucket."""

    async def far_enough() -> bool:
        rows = await engine.database.rows(
            "SELECT memory::text FROM alert_states WHERE tenant_id = $1 AND rule_id = 'heat'"
            " AND (memory::jsonb ->> 'through_s')::bigint > $2", client.tenant_id, second,
        )  # fmt: skip
        return bool(rows)

    await until(far_enough, f"the rule has come to {second}", 90)


async def feed(client: Client, path: Path) -> None:
    whither = "--url", client.url, "--token", client.token, "--workflow", "machine"
    done = await asyncio.to_thread(run, "feed", path, *whither, within_s=240)
    assert done.returncode == 0, done.stdout + done.stderr


async def alerts(client: Client) -> list[Any]:
    """The oldest first."""
    answer = await client.get("/api/v1/alerts?rule_id=heat&limit=100")
    assert answer.status == 200, answer.body[:500]
    return sorted(answer.json["alerts"], key=lambda alert: alert["fired_at"])


def second_of(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp())


def at(number: int) -> datetime:
    return BEGIN + number * STEP


@pytest.mark.timeout(400)  # all of a file's 22,695 readings
@pytest.mark.skipif(not MACHINE.exists(), reason="the machine's readings are not here")
async def test_the_failures_of_the_machine_fire(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(database, settings=SETTINGS)
    async with new_tenant(engine.url, database, workflow=False) as client:
        await prepare(client, engine)
        await feed(client, MACHINE)
        buckets = buckets_of(MACHINE)
        await looked(client, engine, buckets[-1].start_s)
        found = await alerts(client)
        windows = [window_of(second_of(alert["fired_at"])) for alert in found]
        assert set(FAILURES) <= set(windows), windows
        assert windows.count(OUTSIDE) <= MOST_OUTSIDE, windows
        replayed = firings(buckets, Anomaly(metric="input.value"))
        assert [second_of(alert["fired_at"]) for alert in found] == [one.fired_s for one in replayed]
        assert [second_of(alert["resolved_at"]) for alert in found] == [one.resolved_s for one in replayed]
        assert all(alert["workflow_id"] == "machine" for alert in found)
        for alert in found:
            numbers = alert["numbers"]
            assert numbers["usual_low"] < numbers["median"] < numbers["usual_high"]
            assert "spreads of" in alert["reason"]
    assert engine.terminate() == 0


async def test_killed_while_it_fires_and_late_data(
    database: Database, start_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    """One firing, resolved by what comes after the restart; what comes late is not judged, and ends nothing."""
    engine = start_engine(database, settings=SETTINGS)
    start = FEW_DAYS * 288
    async with new_tenant(engine.url, database, workflow=False) as client:
        await prepare(client, engine)
        await feed(client, readings(tmp_path / "a.csv", range(start), quiet))
        await feed(client, readings(tmp_path / "b.csv", range(start, start + 12), lambda _: 20.0))
        await looked(client, engine, int(at(start + 11).timestamp()))
        engine.kill()
        engine.start()
        client.url = engine.url
        [fires] = await alerts(client)
        assert fires["state"] == "firing"
        assert second_of(fires["fired_at"]) == int(at(start + 7).timestamp()), "half an hour after the first one"
        await feed(client, readings(tmp_path / "late.csv", range(start - 400, start - 300), lambda _: -500.0))
        await feed(client, readings(tmp_path / "c.csv", range(start + 12, start + 40), quiet))
        await looked(client, engine, int(at(start + 39).timestamp()))
        [resolved] = await alerts(client)
        assert resolved["alert_id"] == fires["alert_id"]
        assert second_of(resolved["resolved_at"]) == int(at(start + 25).timestamp())
    assert engine.terminate() == 0


async def test_what_was_before_the_rule_is_history(
    database: Database, start_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    engine = start_engine(database, settings=SETTINGS)
    start = FEW_DAYS * 288
    async with new_tenant(engine.url, database, workflow=False) as client:
        await put(client, "workflows/machine", TRACKING)
        old = readings(tmp_path / "old.csv", range(start), lambda number: 20.0 if 2000 <= number < 2100 else quiet(number))
        await feed(client, old)
        assert await check_rollups(database) == start
        await put(client, "alert-rules/heat", RULE)
        await looked(client, engine, 0)
        assert await alerts(client) == []
        await feed(client, readings(tmp_path / "new.csv", range(start, start + 12), lambda _: 20.0))
        await looked(client, engine, int(at(start + 11).timestamp()))
        [fires] = await alerts(client)
        assert fires["state"] == "firing"
    assert engine.terminate() == 0


@pytest.mark.parametrize(
    ("wrong", "field"),
    [({"metric": "confidence"}, "metric"), ({"sensitivity": 0}, "sensitivity"), ({"season": "week"}, "season"),
     ({"history_days": 1}, "history_days"), ({"when": "true"}, "when")],
)  # fmt: skip
async def test_a_wrong_rule_is_refused(tenant: Client, wrong: dict[str, Any], field: str) -> None:
    answer = await tenant.call("PUT", "/api/v1/alert-rules/heat", body={**RULE, **wrong})
    assert answer.status == 422
    assert field in answer.json["detail"]
