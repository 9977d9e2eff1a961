"""The readings of a machine are fed while the server is killed and restarted: page, API and table agree to the last row."""

import csv
import math
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.client import CHECK, Client
from support.cluster import Database
from support.engine import ROOT, Engine, command, environment
from support.waiting import until
from support.webdriver import UNREACHED, Browser, missing

pytestmark = [
    pytest.mark.skipif(missing() is not None, reason=f"no browser: {missing()}"),
    pytest.mark.timeout(420),
]
MACHINE = ROOT.parent / "shared" / "data" / "machine_temperature.csv"
STORED = "SELECT count(*) FROM judgment_executions WHERE workflow_id = 'machine'"


@pytest.fixture
def readings(tmp_path: Path) -> Path:
    """The labelled readings of the machine; where they are not beside the repository, as many that look like them."""
    if MACHINE.exists():
        return MACHINE
    path = tmp_path / "readings.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["timestamp", "value"])
        for n in range(22_695):
            minute = n * 5
            moment = f"2013-12-{2 + minute // 1440 % 28:02}T{minute // 60 % 24:02}:{minute % 60:02}:00"
            writer.writerow([moment, round(82 + 20 * math.sin(n / 144), 6)])
    return path


@pytest.fixture
def feed(readings: Path, tmp_path: Path) -> Iterator[Callable[[Engine], "subprocess.Popen[bytes]"]]:
    """Start `judgify-engine feed` of the readings; it does not outlive the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(engine: Engine) -> "subprocess.Popen[bytes]":
        line = command("feed", readings, "--url", engine.url, "--token", "test-token", "--workflow", "machine")
        with (tmp_path / "feed.txt").open("wb") as out:
            started.append(subprocess.Popen(line, env=environment(), stdout=out, stderr=out, cwd=tmp_path))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait(20)


def expected_of(readings: Path) -> dict[str, int]:
    """The verdicts that the rules of `check` give, told from the file alone."""
    with readings.open(newline="") as file:
        values = [float(row["value"]) for row in csv.DictReader(file)]
    inspect = sum(value < 50.0 or value > 95.0 for value in values)
    return {"inspect": inspect, "ok": len(values) - inspect}


async def test_counts_agree_after_kill_9_in_the_middle_of_a_feed(
    database: Database,
    start_engine: Callable[..., Engine],
    browser: Browser,
    readings: Path,
    feed: Callable[[Engine], "subprocess.Popen[bytes]"],
    tmp_path: Path,
) -> None:
    expected = expected_of(readings)
    total = sum(expected.values())
    engine = start_engine(database)
    browser.open(f"{engine.url}/?code={engine.code}")
    await until(lambda: browser.value("connection", "data-state") == "live", "the page is live", 20)
    browser.run("window.sameDocument = true")
    async with Client(engine.url, "test-token", "demo") as client:
        assert (await client.put_workflow("machine", CHECK)).status == 201
    feeding = feed(engine)

    async def enough() -> bool:
        assert feeding.poll() is None, (tmp_path / "feed.txt").read_text()
        return bool(await database.value(STORED) > total // 4)

    await until(enough, "a part is stored", 60)
    engine.port = engine.listening_port
    engine.kill()
    left = await database.value(STORED)
    assert total // 4 < left < total, "it was killed in the middle"
    await until(lambda: browser.value("connection", "data-state") == "reconnecting", "the page says that it is gone", 20)
    assert int(browser.value("total-executions") or 0) <= left, "nothing is shown that is not stored"
    engine.start()
    await until(lambda: feeding.poll() is not None, "the feed ends", 240)
    assert feeding.returncode == 0, (tmp_path / "feed.txt").read_text()

    stored = {row["verdict"]: row["n"] for row in await database.rows(
        "SELECT final_result ->> 'verdict' AS verdict, count(*) AS n FROM judgment_executions GROUP BY 1")}  # fmt: skip
    assert stored == expected, "each reading once, whatever was cut"
    await until(lambda: browser.value("connection", "data-state") == "live", "the page came back", 30)
    await until(lambda: browser.value("total-executions") == str(total), f"the page shows {total}", 30)
    assert {verdict: int(browser.value(f"result-{verdict}") or 0) for verdict in expected} == expected
    assert browser.value("method-rule") == str(total)
    assert browser.value("failed-executions") == "0"
    async with Client(engine.url, "test-token", "demo") as client:
        summary = (await client.get("/api/v1/summary?timeframe=24h")).json
        chart = (await client.get("/api/v1/metrics?chart=execution_count_chart&timeframe=24h")).json
    assert summary["summary"]["figures"]["total_executions"] == total
    assert sum(point[1] for point in chart["chart"]["points"]) == total
    assert browser.run("return window.sameDocument") is True, "without loading the page again"
    # The browser itself reports each attempt that found no server.
    assert [one for one in browser.complaints() if not UNREACHED.search(one)] == []
    assert engine.terminate() == 0
