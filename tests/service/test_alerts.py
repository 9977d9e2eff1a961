"""Alerts: one firing and one resolved for each cause, with the reason; told to all who are to know, or seen not to be."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from support.client import Client, new_tenant
from support.cluster import Cluster, Database
from support.dashboards import Dashboard, watch
from support.engine import Engine
from support.own_engine import own_engine
from support.receiver import Receiver, receiver
from support.waiting import until

from judgify_engine.config import Config
from judgify_engine.core.alert_figures import MOST_RESULTS, figures, need_of
from judgify_engine.core.alert_rules import CompiledCondition, Condition
from judgify_engine.core.samples import FINE_S
from judgify_engine.pipeline.alert_deliveries import PER_TENANT
from judgify_engine.store.alert_figures import AlertFigures
from judgify_engine.store.pool import Database as Pools
from judgify_engine.store.webhook_secrets import WebhookSecrets

QUICK = {
    "JUDGIFY_ALERTS_INTERVAL_S": "0.3",
    "JUDGIFY_ALERTS_SETTLE_S": "0",
    "JUDGIFY_ALERTS_RETRY_FIRST_S": "0.2",
    "JUDGIFY_ALERTS_RETRY_LONGEST_S": "0.5",
    "JUDGIFY_ALERTS_REPEAT_S": "1",
    "JUDGIFY_ACTIONS_PRIVATE_NETWORKS": "true",
}
BUSY = {
    "kind": "condition",
    "when": "window.count >= 5",
    "window_s": 10,
    "clear_for_s": 0,
    "severity": "info",
    "summary": "Busy",
}
WITHIN_S = 40.0
INSERT = (
    "INSERT INTO judgment_executions (tenant_id, workflow_id, input_data, final_result, confidence_score, method_used,"
    " execution_time_ms, created_at) SELECT $1, $2, '{}', '{\"verdict\": \"ok\"}', 0.5, 'rule', $3,"
    " now() - make_interval(secs => $4) FROM generate_series(1, $5)"
)


@pytest.fixture(scope="module")
def alerting(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine that evaluates often."""
    with own_engine(cluster, tmp_path_factory.mktemp("alerting"), QUICK) as engine:
        yield engine


@pytest.fixture
async def client(alerting: Engine) -> AsyncIterator[Client]:
    assert alerting.database is not None
    async with new_tenant(alerting.url, alerting.database) as made:
        yield made


@pytest.fixture
async def hearing() -> AsyncIterator[Receiver]:
    async with receiver() as made:
        yield made


async def put(client: Client, path: str, body: Any) -> Any:
    answer = await client.call("PUT", f"/api/v1/{path}", body=body)
    assert answer.status in (200, 201), answer.body[:500]
    return answer.json


async def alerts(client: Client, query: str = "") -> list[Any]:
    answer = await client.get(f"/api/v1/alerts{query}")
    assert answer.status == 200, answer.body[:500]
    found: list[Any] = answer.json["alerts"]
    return found


async def one_alert(client: Client, state: str, right: Callable[[Any], bool] = lambda alert: True) -> Any:
    """Wait until the tenant's only alert is so."""

    async def look() -> Any | None:
        found = await alerts(client)
        assert len(found) <= 1, found
        return found[0] if found and found[0]["state"] == state and right(found[0]) else None

    return await until(look, f"one alert is {state}", WITHIN_S)


def delivered(event: str, *sinks: str, state: str = "delivered") -> Callable[[Any], bool]:
    def right(alert: Any) -> bool:
        found = {each["sink_id"]: each["state"] for each in alert["deliveries"] if each["event"] == event}
        return all(found.get(sink) == state for sink in sinks)

    return right


async def busy(client: Client, count: int = 6) -> None:
    await asyncio.gather(*(client.judge() for _ in range(count)))


async def test_it_fires_once_and_is_resolved_once_and_every_sink_is_told(
    client: Client, hearing: Receiver, alerting: Engine
) -> None:
    await put(client, "alert-sinks/hook", {"kind": "webhook", "url": f"{hearing.url}/hook"})
    await put(client, "alert-sinks/chat", {"kind": "slack", "url": f"{hearing.url}/services/T0/SECRET"})
    await put(client, "alert-sinks/prom", {"kind": "alertmanager", "url": hearing.url, "labels": {"site": "north"}})
    await put(client, "alert-rules/busy", BUSY)
    await busy(client)
    sinks = ("hook", "chat", "prom", "stream")
    firing = await one_alert(client, "firing", delivered("firing", *sinks))
    assert (firing["rule_id"], firing["severity"], firing["summary"], firing["cause"]) == ("busy", "info", "Busy", "busy")
    assert firing["numbers"]["window.count"] == 6
    assert "window.count = 6" in firing["reason"]
    over = await one_alert(client, "resolved", delivered("resolved", *sinks))
    assert over["alert_id"] == firing["alert_id"]
    assert over["started_at"] <= over["fired_at"] < over["resolved_at"]
    assert "window.count" in over["reason"].split("over:")[1]

    assert alerting.database is not None
    pools = Pools(alerting.database.dsn, _config())
    await pools.open()
    try:
        secret = (await WebhookSecrets(pools).show(client.tenant_id)).secret
    finally:
        await pools.close()
    assert secret is not None
    events = [call.check(secret) for call in hearing.of("/hook")]
    assert [event["type"] for event in events] == ["alert.firing", "alert.resolved"]
    assert events[0]["data"]["numbers"]["window.count"] == 6
    assert events[0]["data"]["alert_id"] == firing["alert_id"]
    texts = [json.loads(call.body)["text"] for call in hearing.of("/services/T0/SECRET")]
    assert len(texts) == 2
    assert "Busy" in texts[0]
    assert "RESOLVED" in texts[1]
    told = [json.loads(call.body) for call in hearing.of("/api/v2/alerts")]
    assert len(told) > 2, "Alertmanager forgets what it is not told again"
    assert {batch[0]["labels"]["alertname"] for batch in told} == {"busy"}
    assert {batch[0]["labels"]["site"] for batch in told} == {"north"}
    assert all(batch[0]["startsAt"] == told[0][0]["startsAt"] for batch in told)
    assert all(batch[0]["endsAt"] > firing["recorded_at"] for batch in told)


def _config() -> Any:
    from judgify_engine.config import Config

    return Config()


async def test_a_rule_for_each_workflow_has_a_cause_for_each(client: Client) -> None:
    await client.put_workflow("other")
    await put(client, "alert-rules/each", {**BUSY, "each": "workflow", "window_s": 30})
    await asyncio.gather(*(client.judge(workflow_id=name) for name in ("check", "other") for _ in range(6)))

    async def both() -> Any:
        found = await alerts(client, "?state=firing")
        return sorted(alert["workflow_id"] for alert in found) == ["check", "other"] and found

    found = await until(both, "both fire", WITHIN_S)
    assert sorted(alert["cause"] for alert in found) == ["each/check", "each/other"]
    assert (await client.call("DELETE", "/api/v1/alert-rules/each")).status == 204

    async def over() -> Any:
        found = await alerts(client, "?state=resolved")
        return len(found) == 2 and found

    for alert in await until(over, "both are resolved", WITHIN_S):
        assert "deleted" in alert["reason"]


async def test_tenants_do_not_see_each_other(client: Client, alerting: Engine, hearing: Receiver) -> None:
    await put(client, "alert-rules/busy", {**BUSY, "window_s": 60})
    await put(client, "alert-sinks/hook", {"kind": "webhook", "url": f"{hearing.url}/mine"})
    assert alerting.database is not None
    async with new_tenant(alerting.url, alerting.database) as other:
        await busy(other)
        await busy(client)
        mine = await one_alert(client, "firing", delivered("firing", "hook"))
        assert await alerts(other) == []
        for method, path in (("GET", ""), ("POST", "/acknowledge")):
            (await other.call(method, f"/api/v1/alerts/{mine['alert_id']}{path}")).problem(404, "not_found")
        for path in ("alert-rules/busy", "alert-sinks/hook"):
            (await other.get(f"/api/v1/{path}")).problem(404, "not_found")
        assert (await other.get("/api/v1/alerts")).json["firing"] == 0
    assert len(hearing.of("/mine")) == 1


async def test_a_silence_keeps_it_from_sinks_and_what_still_fires_at_its_end_is_told(client: Client, hearing: Receiver) -> None:
    await put(client, "alert-sinks/hook", {"kind": "webhook", "url": f"{hearing.url}/quiet"})
    await put(client, "alert-rules/busy", {**BUSY, "window_s": 300})
    made = await put(
        client, "silences/night", {"rule_id": "busy", "ends_at": "2100-01-01T00:00:00Z", "comment": "no", "by": "me"}
    )
    assert made["active"] is True
    await busy(client)
    alert = await one_alert(client, "firing", delivered("firing", "hook", state="silenced"))
    assert alert["silenced_by"] == "night"
    await one_alert(client, "firing", delivered("firing", "stream"))
    assert hearing.of("/quiet") == []
    assert (await client.call("DELETE", "/api/v1/silences/night")).status == 204
    alert = await one_alert(client, "firing", delivered("firing", "hook"))
    assert alert["silenced_by"] is None
    assert len(hearing.of("/quiet")) == 1


WORSE = {**BUSY, "window_s": 300, "critical_when": "window.count >= 12"}


async def test_what_became_worse_while_it_was_silent_is_told_once_when_the_silence_ends(
    client: Client, hearing: Receiver
) -> None:
    await put(client, "alert-sinks/chat", {"kind": "slack", "url": f"{hearing.url}/calm"})
    await put(client, "alert-rules/busy", WORSE)
    await put(client, "silences/night", {"rule_id": "busy", "ends_at": "2100-01-01T00:00:00Z"})
    await busy(client)
    await one_alert(client, "firing", delivered("firing", "chat", state="silenced"))
    await busy(client)
    await one_alert(client, "firing", lambda alert: alert["severity"] == "critical" and alert["silenced_by"] == "night")
    assert (await client.call("DELETE", "/api/v1/silences/night")).status == 204
    alert = await one_alert(client, "firing", delivered("firing", "chat"))
    await put(client, "alert-rules/busy", {**WORSE, "enabled": False})
    alert = await one_alert(client, "resolved", delivered("resolved", "chat"))
    assert [json.loads(call.body)["text"].split("*")[1] for call in hearing.of("/calm")] == ["CRITICAL", "RESOLVED"]
    assert [each["state"] for each in alert["deliveries"] if each["sink_id"] == "chat"] == ["delivered", "delivered"]


async def test_what_became_worse_while_a_sink_was_down_is_told_once_when_it_is_back(client: Client, hearing: Receiver) -> None:
    hearing.answers["/away"] = [503]
    await put(client, "alert-sinks/chat", {"kind": "slack", "url": f"{hearing.url}/away"})
    await put(client, "alert-rules/busy", WORSE)
    await busy(client)
    await one_alert(client, "firing", lambda alert: any(each["last_error"] for each in alert["deliveries"]))
    await busy(client)
    await one_alert(client, "firing", lambda alert: bool(alert["severity"] == "critical"))
    refused = len(hearing.of("/away"))
    hearing.answers["/away"] = [200]
    await put(client, "alert-rules/busy", {**WORSE, "enabled": False})
    await one_alert(client, "resolved", delivered("resolved", "chat"))
    told = [json.loads(call.body)["text"].split("*")[1] for call in hearing.of("/away")[refused:]]
    assert told == ["CRITICAL", "RESOLVED"]


@pytest.mark.parametrize("away", ["silenced", "failed"])
async def test_what_alertmanager_was_told_of_is_over_there_also_when_it_did_not_hear_that_it_became_critical(
    client: Client, hearing: Receiver, away: str
) -> None:
    path = f"/{away}/api/v2/alerts"

    def lasting() -> set[str]:
        """The severities of what it would show: each body says of each of its alerts until when."""
        ends: dict[str, str] = {}
        for call in hearing.of(path):
            ends |= {each["labels"]["severity"]: each["endsAt"] for each in json.loads(call.body)}
        return {severity for severity, end in ends.items() if datetime.fromisoformat(end) > datetime.now(UTC)}

    await put(client, "alert-sinks/prom", {"kind": "alertmanager", "url": f"{hearing.url}/{away}"})
    await put(client, "alert-rules/busy", {**WORSE, "severity": "warning"})
    await busy(client)
    await one_alert(client, "firing", delivered("firing", "prom"))
    assert lasting() == {"warning"}
    if away == "silenced":
        await put(client, "silences/night", {"rule_id": "busy", "ends_at": "2100-01-01T00:00:00Z"})
    else:
        hearing.answers[path] = [401]
    await busy(client)
    await one_alert(client, "firing", lambda alert: away in [each["state"] for each in alert["deliveries"]])
    hearing.answers[path] = [200]
    await put(client, "alert-rules/busy", {**WORSE, "enabled": False})
    await one_alert(client, "resolved", delivered("resolved", "prom"))
    assert lasting() == set()


async def test_sinks_that_hang_take_no_more_than_a_share_and_others_are_told(
    client: Client, hearing: Receiver, alerting: Engine
) -> None:
    for number in range(12):
        hearing.answers[f"/hang/{number}"] = ["hang"]
        await put(client, f"alert-sinks/s{number}", {"kind": "slack", "url": f"{hearing.url}/hang/{number}"})
    await put(client, "alert-rules/busy", {**BUSY, "window_s": 300})
    await busy(client)

    def hanging() -> int:
        return sum(call.path.startswith("/hang") for call in hearing.calls)

    await until(lambda: hanging() >= PER_TENANT - 1, "they hang", WITHIN_S)
    assert alerting.database is not None
    async with new_tenant(alerting.url, alerting.database) as other:
        await put(other, "alert-sinks/hook", {"kind": "slack", "url": f"{hearing.url}/well"})
        await put(other, "alert-rules/busy", {**BUSY, "window_s": 300})
        await busy(other)
        await until(lambda: len(hearing.of("/well")) == 1, "the other tenant is told", WITHIN_S)
    waiting = {each["sink_id"]: each for alert in await alerts(client) for each in alert["deliveries"]}
    attempts = [each["attempts"] for name, each in waiting.items() if name != "stream" and each["attempts"]]
    assert hanging() <= PER_TENANT or max(attempts) > 1, "so many at once"


async def test_a_sink_that_is_of_another_kind_now_is_not_told_again_and_again(client: Client, hearing: Receiver) -> None:
    await put(client, "alert-sinks/one", {"kind": "alertmanager", "url": hearing.url})
    await put(client, "alert-sinks/two", {"kind": "alertmanager", "url": f"{hearing.url}/two"})
    await put(client, "alert-rules/busy", {**BUSY, "window_s": 300})
    await busy(client)
    await one_alert(client, "firing", delivered("firing", "one", "two"))
    await put(client, "alert-sinks/one", {"kind": "slack", "url": f"{hearing.url}/one"})
    before = len(hearing.of("/two/api/v2/alerts"))
    await until(lambda: len(hearing.of("/two/api/v2/alerts")) >= before + 4, "the other one is told again", WITHIN_S)
    assert hearing.of("/one") == []


async def test_acknowledging_says_who_and_when_and_changes_nothing_else(client: Client) -> None:
    await put(client, "alert-rules/busy", {**BUSY, "window_s": 300})
    await busy(client)
    alert = await one_alert(client, "firing")
    path = f"/api/v1/alerts/{alert['alert_id']}/acknowledge"
    answer = await client.call("POST", path, body={"by": "Kim", "comment": "on it"})
    assert (answer.json["acknowledged_by"], answer.json["comment"], answer.json["state"]) == ("Kim", "on it", "firing")
    again = await client.call("POST", path)
    assert (again.json["acknowledged_by"], again.json["acknowledged_at"]) == ("Kim", answer.json["acknowledged_at"])
    (await client.call("POST", path, body={"who": "Kim"})).problem(422, "invalid_field")


async def test_a_sink_that_is_down_is_told_when_it_is_back_and_meanwhile_it_shows(client: Client, hearing: Receiver) -> None:
    hearing.answers["/down"] = [503, 503, 200]
    hearing.answers["/gone"] = [410]
    await put(client, "alert-sinks/down", {"kind": "slack", "url": f"{hearing.url}/down"})
    await put(client, "alert-sinks/gone", {"kind": "webhook", "url": f"{hearing.url}/gone"})
    await put(client, "alert-rules/busy", {**BUSY, "window_s": 300, "sinks": ["down", "gone"]})
    await busy(client)
    alert = await one_alert(client, "firing", delivered("firing", "down"))
    told = {each["sink_id"]: each for each in alert["deliveries"]}
    assert told["down"]["attempts"] == 3
    alert = await one_alert(client, "firing", delivered("firing", "gone", state="failed"))
    told = {each["sink_id"]: each for each in alert["deliveries"]}
    assert "410" in told["gone"]["last_error"]


async def test_a_rule_is_versioned_and_a_built_in_one_can_be_changed_in_part(client: Client) -> None:
    listed = {rule["rule_id"]: rule for rule in (await client.get("/api/v1/alert-rules")).json["rules"]}
    assert {"high_response_time", "low_throughput", "data_quality_alert"} == listed.keys()
    assert all(rule["version"] == 0 and rule["built_in"] for rule in listed.values())
    off = await put(client, "alert-rules/low_throughput", {"enabled": False})
    assert (off["version"], off["definition"]["enabled"], off["definition"]["window_s"]) == (1, False, 60)
    assert (await put(client, "alert-rules/low_throughput", {"window_s": 120}))["version"] == 2
    old = (await client.get("/api/v1/alert-rules/low_throughput?version=1")).json
    assert old["definition"]["enabled"] is False
    assert (await client.call("DELETE", "/api/v1/alert-rules/low_throughput")).status == 204
    assert (await client.get("/api/v1/alert-rules/low_throughput")).json["version"] == 0


@pytest.mark.parametrize(
    ("path", "body", "code", "field"),
    [
        ("alert-rules/r", {"when": "window.cound > 1"}, "invalid_alert_rule", "when"),
        ("alert-rules/r", {"when": "window.count > 1", "window_s": 7}, "invalid_field", "window_s"),
        ("alert-rules/r", {"when": "window.count > 1", "sinks": ["nobody"]}, "invalid_field", "sinks[0]"),
        ("alert-rules/r", {"when": "window.count > 1", "whenn": 1}, "invalid_field", "whenn"),
        ("alert-rules/r!", {"when": "window.count > 1"}, "invalid_field", "rule_id"),
        ("alert-sinks/s", {"kind": "slack", "url": "ftp://x"}, "invalid_field", "url"),
        ("alert-sinks/s", {"kind": "pager", "url": "http://x"}, "invalid_field", "kind"),
        ("silences/s", {"ends_at": "2001-01-01T00:00:00Z"}, "invalid_field", "ends_at"),
        ("silences/s", {"ends_at": "2101-01-01T00:00:00"}, "invalid_field", "ends_at"),
        ("silences/s", {"ends_at": "9999-12-31T23:59:59-14:00"}, "invalid_field", "ends_at"),
        ("silences/s", {"ends_at": "2101-01-01T00:00:00Z", "starts_at": "0001-01-01T00:00:00Z"}, "invalid_field", "starts_at"),
    ],
)
async def test_what_is_wrong_is_named(client: Client, path: str, body: Any, code: str, field: str) -> None:
    problem = (await client.call("PUT", f"/api/v1/{path}", body=body)).problem(422, code)
    assert problem["field"] == field


async def test_the_url_of_a_sink_is_shown_in_part_and_never_logged(client: Client, alerting: Engine, hearing: Receiver) -> None:
    hearing.answers["/services/T1/HUSH"] = [302]
    shown = await put(client, "alert-sinks/chat", {"kind": "slack", "url": f"{hearing.url}/services/T1/HUSH"})
    assert shown["url"] == f"{hearing.url}/…"
    assert "HUSH" not in (await client.get("/api/v1/alert-sinks")).body.decode()
    await put(client, "alert-rules/busy", {**BUSY, "window_s": 300})
    await busy(client)
    alert = await one_alert(client, "firing", lambda alert: any(each["last_error"] for each in alert["deliveries"]))
    assert "HUSH" not in json.dumps(alert)
    assert "HUSH" not in alerting.log


async def test_reading_and_writing_need_their_scopes(alerting: Engine) -> None:
    assert alerting.database is not None
    async with new_tenant(alerting.url, alerting.database, "read", workflow=False) as reader:
        for path in ("alerts", "alert-rules", "alert-sinks", "silences"):
            assert (await reader.get(f"/api/v1/{path}")).status == 200
        for path in ("alert-rules/r", "alert-sinks/s", "silences/s"):
            (await reader.call("PUT", f"/api/v1/{path}", body={})).problem(403, "forbidden")
            (await reader.call("DELETE", f"/api/v1/{path}")).problem(403, "forbidden")


async def count(database: Database) -> list[tuple[str, int]]:
    rows = await database.rows(
        "SELECT rule_id || ' ' || event, count(*) FROM alert_deliveries JOIN alerts AS a ON a.id = alert_id"
        " WHERE sink_id = 'stream' GROUP BY 1 ORDER BY 1"
    )
    return [(row[0], row[1]) for row in rows]


async def through(database: Database) -> float:
    return float(await database.value("SELECT extract(epoch FROM coalesce(max(through), 'epoch')) FROM alert_evaluations"))


async def test_what_holds_while_the_engine_is_down_fires_after_its_start_once(
    database: Database, start_engine: Callable[..., Engine]
) -> None:
    engine = start_engine(database, settings=QUICK)
    async with new_tenant(engine.url, database) as client:
        await put(client, "alert-rules/high_response_time", {"enabled": False})
        await put(client, "alert-rules/slow", {"when": "window.mean_execution_time_ms > 5000.0", "window_s": 300})
        await client.judge()
        await until(lambda: through(database), "it was evaluated", WITHIN_S)
        engine.kill()
        await database.do(INSERT, client.tenant_id, "check", 9000.0, 1.0, 50)
        for _ in range(2):
            engine.start()
            client.url = engine.url
            await one_alert(client, "firing", delivered("firing", "stream"))
            await evaluated_again(database)
            engine.kill()
    assert await count(database) == [("slow firing", 1)]


async def evaluated_again(database: Database, after_s: float = 0.0) -> None:
    """Wait until the rules were evaluated for a moment that lies behind the last one."""
    than = await through(database) + after_s

    async def later() -> bool:
        return await through(database) > than

    await until(later, "the rules were evaluated again", WITHIN_S)


async def test_a_metric_that_flaps_gives_one_firing_and_one_resolved_also_where_nobody_looked(
    database: Database, start_engine: Callable[..., Engine]
) -> None:
    """All of it happens while the engine is down: it looks at the moments that it missed, in the order of their times."""
    engine = start_engine(database, settings=QUICK)
    async with new_tenant(engine.url, database) as client:
        await put(client, "alert-rules/flap", {**BUSY, "when": "window.count >= 5", "window_s": 10, "clear_for_s": 60})
        await client.judge()
        await until(lambda: through(database), "it was evaluated", WITHIN_S)
        engine.kill()
        await database.do("UPDATE alert_evaluations SET through = now() - interval '200 s'")
        for back in range(180, 100, -20):  # ten seconds with, ten seconds without
            await database.do(INSERT, client.tenant_id, "check", 1.0, float(back), 10)
        engine.start()
        client.url = engine.url
        alert = await one_alert(client, "resolved", delivered("resolved", "stream"))
        assert alert["rule_id"] == "flap"
    assert await count(database) == [("flap firing", 1), ("flap resolved", 1)]


async def test_when_the_holder_of_the_lease_is_killed_another_goes_on_and_nothing_is_told_twice(
    database: Database, start_engine: Callable[..., Engine], hearing: Receiver
) -> None:
    first = start_engine(database, settings=QUICK)
    second = start_engine(database, settings=QUICK)
    async with new_tenant(second.url, database) as client:
        await put(client, "alert-sinks/hook", {"kind": "webhook", "url": f"{hearing.url}/hook"})
        await put(client, "alert-rules/busy", {**BUSY, "window_s": 300})
        await put(client, "alert-rules/more", {**BUSY, "when": "window.count >= 20", "window_s": 300})
        await busy(client)
        await one_alert(client, "firing", delivered("firing", "hook"))
        first.kill()
        await busy(client, 20)

        async def both() -> Any:
            found = await alerts(client, "?state=firing")
            return len(found) == 2 and all(delivered("firing", "hook")(alert) for alert in found)

        await until(both, "the other rule fires, too", WITHIN_S)
    assert [json.loads(call.body)["data"]["rule_id"] for call in hearing.of("/hook")] == ["busy", "more"]
    assert await count(database) == [("busy firing", 1), ("more firing", 1)]


async def test_data_quality_is_a_warning_then_critical_in_one_alert(client: Client, alerting: Engine) -> None:
    database = alerting.database
    assert database is not None
    await database.do(INSERT, client.tenant_id, "check", 1.0, 0.0, 92)
    await asyncio.gather(*(client.call("POST", "/api/v1/judgments/execute", body={"workflow_id": 1}) for _ in range(7)))
    alert = await one_alert(client, "firing")
    assert (alert["rule_id"], alert["severity"]) == ("data_quality_alert", "warning")
    await asyncio.gather(*(client.call("POST", "/api/v1/judgments/execute", body={"workflow_id": 1}) for _ in range(20)))
    worse = await one_alert(client, "firing", lambda alert: bool(alert["severity"] == "critical"))
    assert worse["alert_id"] == alert["alert_id"]


async def test_few_judgments_are_amiss_only_where_there_are_usually_more(client: Client, alerting: Engine) -> None:
    database = alerting.database
    assert database is not None
    await put(client, "alert-rules/low_throughput", {"for_s": 5})
    for back in range(120, 3600, 60):
        await database.do(INSERT, client.tenant_id, "check", 1.0, float(back), 20)
    alert = await one_alert(client, "firing")
    assert (alert["rule_id"], alert["numbers"]["usual.count"]) == ("low_throughput", 20.0)
    async with new_tenant(alerting.url, database) as new:
        await new.judge()
        await evaluated_again(database, 5)
        assert await alerts(new) == []


def tells(board: Dashboard, right: Callable[[Any], bool]) -> Callable[[], bool]:
    """Whether the last message of alerts is so."""
    return lambda: bool(board.alerts) and right(board.alerts[-1])


async def test_every_dashboard_of_the_tenant_hears_of_it_in_every_process(
    database: Database, start_engine: Callable[..., Engine]
) -> None:
    first, second = (start_engine(database, settings=QUICK) for _ in range(2))
    async with (
        new_tenant(first.url, database) as client,
        Client(second.url, client.token, client.tenant_id) as elsewhere,
        new_tenant(second.url, database) as stranger,
    ):
        boards, other = [await watch(client), await watch(elsewhere)], await watch(stranger)
        for board in (*boards, other):
            await until(tells(board, lambda told: told["firing"] == 0 and told["alerts"] == []), "nothing fires")
        await put(client, "alert-rules/busy", {**BUSY, "window_s": 300})
        await busy(client)
        alert = await one_alert(client, "firing")
        for board in boards:
            await until(tells(board, lambda told: bool(told["firing"] == 1)), "it is told", WITHIN_S)
            assert board.alerts[-1]["alerts"][0]["alert_id"] == alert["alert_id"]
        await client.call("POST", f"/api/v1/alerts/{alert['alert_id']}/acknowledge", body={"by": "Kim"})
        for board in boards:
            acknowledged = tells(board, lambda told: any(each["acknowledged_by"] == "Kim" for each in told["alerts"]))
            await until(acknowledged, "it is told who looks after it")
        assert len(other.alerts) == 1
        for board in (*boards, other):
            await board.close()


async def test_of_very_many_results_the_most_frequent_are_read(client: Client, alerting: Engine) -> None:
    database = alerting.database
    assert database is not None
    await database.do(
        "INSERT INTO judgment_executions (tenant_id, workflow_id, input_data, final_result, confidence_score, method_used,"
        " execution_time_ms) SELECT $1, 'check', '{}', jsonb_build_object('verdict', CASE WHEN n > 200 THEN 'often' ELSE"
        " 'v' || n END), 1, 'llm', 1 FROM generate_series(1, 203) AS n",
        client.tenant_id,
    )
    pools = Pools(database.dsn, Config())
    await pools.open()
    try:
        figures_of = AlertFigures(pools, "judgify_cdc")
        rule = CompiledCondition(Condition(when='window.results["often"] > 1 && window.methods["llm"] > 1', window_s=600))

        async def whole() -> dict[str, Any] | None:
            end_s = int(time.time()) // FINE_S * FINE_S + FINE_S
            read = await figures_of.read(need_of([(client.tenant_id, rule)], [end_s]))
            for metrics in read.fine.values():
                assert sum(name.startswith("result.") for name in metrics) <= MOST_RESULTS
            window: dict[str, Any] = figures(rule, read, client.tenant_id, "", end_s)["window"]
            return window if window["methods"].get("llm") == 203 else None

        window = await until(whole, "all are rolled up")
    finally:
        await pools.close()
    assert window["results"]["often"] == 3
    assert len(window["results"]) == MOST_RESULTS
