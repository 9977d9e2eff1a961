"""Our sink and a real Alertmanager: what it shows, keeps alive, takes for over and tells on, and what it refuses."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.alertmanager import PROGRAM, Alertmanager
from support.client import Client, new_tenant
from support.cluster import Cluster, Database
from support.engine import Engine
from support.own_engine import own_engine
from support.receiver import Receiver, receiver
from support.waiting import until

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="alertmanager is not on PATH (Debian: the program of the package prometheus-alertmanager)"
)
SETTINGS = {
    "JUDGIFY_ALERTS_INTERVAL_S": "0.3",
    "JUDGIFY_ALERTS_SETTLE_S": "0",
    "JUDGIFY_ALERTS_RETRY_FIRST_S": "0.2",
    "JUDGIFY_ALERTS_RETRY_LONGEST_S": "0.5",
    "JUDGIFY_ALERTS_REPEAT_S": "1",
    "JUDGIFY_ALERTS_PAGE_URL": "https://judgify.example/at/",
    "JUDGIFY_ACTIONS_PRIVATE_NETWORKS": "true",
}
BUSY = {"when": "window.count >= 5", "window_s": 300, "clear_for_s": 0, "severity": "warning", "summary": "Busy"}
WITHIN_S = 40.0


@pytest.fixture
async def hearing() -> AsyncIterator[Receiver]:
    async with receiver() as made:
        yield made


@pytest.fixture
def start_alertmanager(tmp_path: Path, hearing: Receiver) -> Iterator[Callable[..., Alertmanager]]:
    """What they tell comes to `hearing`, at /told."""
    made: list[Alertmanager] = []

    def start(**more: Any) -> Alertmanager:
        made.append(Alertmanager(tmp_path / f"alertmanager-{len(made)}", f"{hearing.url}/told", **more))
        return made[-1].start()

    yield start
    for one in made:
        one.kill()


@pytest.fixture(scope="module")
def alerting(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with own_engine(cluster, tmp_path_factory.mktemp("alerting"), SETTINGS) as engine:
        yield engine


@pytest.fixture
async def client(alerting: Engine) -> AsyncIterator[Client]:
    assert alerting.database is not None
    async with new_tenant(alerting.url, alerting.database) as made:
        yield made


async def put(client: Client, path: str, body: Any) -> Any:
    answer = await client.call("PUT", f"/api/v1/{path}", body=body)
    assert answer.status in (200, 201), answer.body[:500]
    return answer.json


async def sink(client: Client, url: str, **more: Any) -> None:
    await put(client, "alert-sinks/prom", {"kind": "alertmanager", "url": url, **more})


async def busy(client: Client, count: int = 6) -> None:
    await asyncio.gather(*(client.judge() for _ in range(count)))


async def alert_with(client: Client, what: str, right: Callable[[Any, list[Any]], bool]) -> Any:
    """Wait for the tenant's only alert to be so: `right(alert, its deliveries to Alertmanager)`."""

    async def look() -> Any | None:
        found = (await client.get("/api/v1/alerts")).json["alerts"]
        assert len(found) <= 1, found
        if found and right(found[0], [each for each in found[0]["deliveries"] if each["sink_id"] == "prom"]):
            return found[0]
        return None

    return await until(look, what, WITHIN_S)


async def is_told(client: Client, event: str) -> Any:
    def right(_: Any, deliveries: list[Any]) -> bool:
        return any(each["event"] == event and each["state"] == "delivered" for each in deliveries)

    return await alert_with(client, f"Alertmanager is told: {event}", right)


async def shown(alertmanager: Alertmanager, count: int, query: str = "") -> list[Any]:
    """Wait until it shows so many alerts."""

    async def look() -> Any:
        found = await asyncio.to_thread(alertmanager.alerts, query)
        return (found,) if len(found) == count else None

    return (await until(look, f"Alertmanager shows {count} alerts", WITHIN_S))[0]


async def repeated(alertmanager: Alertmanager, there: Any) -> Any:
    """Wait until it was told again for longer than what it shows could last (four times a second); it shows nothing else."""

    async def look() -> Any | None:
        (found,) = await asyncio.to_thread(alertmanager.alerts)
        assert (found["labels"], found["startsAt"]) == (there["labels"], there["startsAt"])
        return found if moment(found["endsAt"]) > moment(there["endsAt"]) + timedelta(seconds=5) else None

    return await until(look, "it is told again", WITHIN_S)


def told(hearing: Receiver) -> list[tuple[str, str]]:
    """Each change of an alert that Alertmanager told on: (status, severity)."""
    found: list[tuple[str, str]] = []
    for call in hearing.of("/told"):
        for alert in json.loads(call.body)["alerts"]:
            one = (alert["status"], alert["labels"]["severity"])
            if one not in found:
                found.append(one)
    return found


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


async def test_it_shows_what_fires_tells_it_on_and_takes_it_for_over_when_we_say_so(
    client: Client, hearing: Receiver, start_alertmanager: Callable[..., Alertmanager]
) -> None:
    alertmanager = start_alertmanager()
    await sink(client, alertmanager.url, labels={"site": "north", "severity": "ours"})
    await put(client, "alert-rules/busy", {**BUSY, "each": "workflow"})
    await busy(client)
    alert = await is_told(client, "firing")
    (there,) = await shown(alertmanager, 1)
    assert there["labels"] == {
        "alertname": "busy",
        "severity": "warning",
        "tenant": client.tenant_id,
        "workflow": "check",
        "alert_id": alert["alert_id"],
        "site": "north",
    }
    assert there["annotations"] == {"summary": "Busy", "description": alert["reason"], "since": alert["started_at"]}
    assert there["generatorURL"] == "https://judgify.example/at/#/alerts"
    assert there["status"]["state"] == "active"
    assert abs(moment(there["startsAt"]) - moment(alert["recorded_at"])) < timedelta(milliseconds=1)
    assert moment(there["updatedAt"]) < moment(there["endsAt"]) <= datetime.now(UTC) + timedelta(seconds=4)
    acknowledged = await client.call("POST", f"/api/v1/alerts/{alert['alert_id']}/acknowledge", body={"by": "Kim"})
    assert acknowledged.status == 200
    await repeated(alertmanager, there)
    assert told(hearing) == [("firing", "warning")]
    await put(client, "alert-rules/busy", {**BUSY, "enabled": False})
    await is_told(client, "resolved")
    await shown(alertmanager, 0)
    await until(lambda: ("resolved", "warning") in told(hearing), "it tells that it is over", WITHIN_S)
    assert told(hearing) == [("firing", "warning"), ("resolved", "warning")]


async def test_what_becomes_critical_is_one_alert_there_before_and_after(
    client: Client, hearing: Receiver, start_alertmanager: Callable[..., Alertmanager]
) -> None:
    """Its severity is a label, so for Alertmanager it is another alert: the one that it was is over at once."""
    alertmanager = start_alertmanager()
    await sink(client, alertmanager.url)
    worse = {**BUSY, "critical_when": "window.count >= 12"}
    await put(client, "alert-rules/busy", worse)
    await busy(client)
    await is_told(client, "firing")
    (before,) = await shown(alertmanager, 1)
    await busy(client)
    (after,) = await shown(alertmanager, 1, "?filter=severity%3Dcritical")
    assert await asyncio.to_thread(alertmanager.alerts) == [after]
    assert (before["labels"]["severity"], after["startsAt"]) == ("warning", before["startsAt"])
    await repeated(alertmanager, after)
    await put(client, "alert-rules/busy", {**worse, "enabled": False})
    await is_told(client, "resolved")
    await shown(alertmanager, 0)
    await until(lambda: ("resolved", "critical") in told(hearing), "it tells that it is over", WITHIN_S)
    assert sorted(told(hearing)) == [(state, how) for state in ("firing", "resolved") for how in ("critical", "warning")]


async def test_what_becomes_critical_in_a_silence_stays_as_it_was_there_until_the_silence_ends(
    client: Client, start_alertmanager: Callable[..., Alertmanager]
) -> None:
    alertmanager = start_alertmanager()
    await sink(client, alertmanager.url)
    await put(client, "alert-rules/busy", {**BUSY, "critical_when": "window.count >= 12"})
    await busy(client)
    await is_told(client, "firing")
    await put(client, "silences/night", {"rule_id": "busy", "ends_at": "2100-01-01T00:00:00Z"})
    await busy(client)
    await alert_with(client, "it is worse", lambda alert, to: "silenced" in [each["state"] for each in to])
    (there,) = await shown(alertmanager, 1)
    assert there["labels"]["severity"] == "warning"
    await repeated(alertmanager, there)
    assert (await client.call("DELETE", "/api/v1/silences/night")).status == 204
    await shown(alertmanager, 1, "?filter=severity%3Dcritical")
    await shown(alertmanager, 1)


async def test_without_repeats_it_is_over_there(
    database: Database,
    hearing: Receiver,
    start_engine: Callable[..., Engine],
    start_alertmanager: Callable[..., Alertmanager],
) -> None:
    alertmanager = start_alertmanager(resolve_timeout="1h")
    engine = start_engine(database, settings=SETTINGS)
    async with new_tenant(engine.url, database) as client:
        await sink(client, alertmanager.url)
        await put(client, "alert-rules/busy", BUSY)
        await busy(client)
        await is_told(client, "firing")
        await shown(alertmanager, 1)
        engine.kill()
        await shown(alertmanager, 0)
        await until(lambda: ("resolved", "warning") in told(hearing), "it tells that it is over", WITHIN_S)
        engine.start()
        client.url = engine.url
        await shown(alertmanager, 1)


async def test_a_silence_of_ours_keeps_it_away_and_one_that_begins_later_does_not_end_it_there(
    client: Client, hearing: Receiver, start_alertmanager: Callable[..., Alertmanager]
) -> None:
    alertmanager = start_alertmanager()
    await sink(client, alertmanager.url)
    await put(client, "silences/night", {"rule_id": "busy", "ends_at": "2100-01-01T00:00:00Z"})
    await put(client, "alert-rules/busy", BUSY)
    await busy(client)
    await alert_with(client, "it is silenced", lambda alert, to: [each["state"] for each in to] == ["silenced"])
    assert await asyncio.to_thread(alertmanager.alerts) == []
    assert (await client.call("DELETE", "/api/v1/silences/night")).status == 204
    (there,) = await shown(alertmanager, 1)
    await put(client, "silences/later", {"rule_id": "busy", "ends_at": "2100-01-01T00:00:00Z"})
    await alert_with(client, "it is silenced again", lambda alert, to: bool(alert["silenced_by"] == "later"))

    await repeated(alertmanager, there)
    await put(client, "alert-rules/busy", {**BUSY, "enabled": False})
    await shown(alertmanager, 0)
    await until(lambda: ("resolved", "warning") in told(hearing), "it tells that it is over", WITHIN_S)


async def test_one_that_is_away_is_told_when_it_is_back_and_again_when_it_has_forgotten_all(
    client: Client, hearing: Receiver, start_alertmanager: Callable[..., Alertmanager]
) -> None:
    alertmanager = start_alertmanager()
    alertmanager.kill()
    await sink(client, alertmanager.url)
    await put(client, "alert-rules/busy", BUSY)
    await busy(client)
    alert = await alert_with(client, "it shows why not", lambda alert, to: any(each["last_error"] for each in to))
    (delivery,) = [each for each in alert["deliveries"] if each["sink_id"] == "prom"]
    assert delivery["state"] == "waiting"
    assert f"'127.0.0.1', {alertmanager.port}" in delivery["last_error"]
    alertmanager.start()
    await is_told(client, "firing")
    (there,) = await shown(alertmanager, 1)
    alertmanager.kill()
    alertmanager.start()
    (again,) = await shown(alertmanager, 1)
    assert (again["labels"], again["startsAt"]) == (there["labels"], there["startsAt"])
    alertmanager.kill()
    await put(client, "alert-rules/busy", {**BUSY, "enabled": False})
    await alert_with(client, "it is over", lambda alert, to: any(each["event"] == "resolved" for each in to))
    alertmanager.start()
    await is_told(client, "resolved")
    assert await asyncio.to_thread(alertmanager.alerts) == []


@pytest.mark.parametrize(("password", "path", "status"), [(True, "", 401), (False, "/elsewhere", 404)])
async def test_what_it_refuses_is_said(
    client: Client, start_alertmanager: Callable[..., Alertmanager], password: bool, path: str, status: int
) -> None:
    alertmanager = start_alertmanager(password=password)
    await sink(client, alertmanager.url + path)
    await put(client, "alert-rules/busy", BUSY)
    await busy(client)
    alert = await alert_with(client, "it has failed", lambda alert, to: [each["state"] for each in to] == ["failed"])
    (error,) = [each["last_error"] for each in alert["deliveries"] if each["sink_id"] == "prom"]
    assert error.startswith(f"the receiver answered {status}")
    assert "elsewhere" not in error
