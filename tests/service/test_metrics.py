"""GET /api/v1/metrics: the figures of the table itself, by the right time, for the token's tenant alone, as JSON and CSV."""

import csv
import io
import math
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from support.client import CHECK, Answer, Client, new_tenant
from support.dashboards import position_of, watch
from support.engine import Engine

PATH = "/api/v1/metrics"
TRACKING = {**CHECK, "track": ["temperature", "motor.speed"]}
BUCKETS_S = {"1h": 300, "6h": 1800, "24h": 3600, "7d": 21_600}
FRAMES_S = {"1h": 3600, "6h": 21_600, "24h": 86_400, "7d": 604_800}
STORED = ("execution_time_ms", "confidence", "input.temperature", "input.motor.speed")
# Execution times with a long tail, over nine days.
BY_HAND = """
INSERT INTO judgment_executions (tenant_id, workflow_id, workflow_version, input_data, final_result, confidence_score,
                                 method_used, status, execution_time_ms, created_at, occurred_at)
SELECT $1, (ARRAY['plant', 'check'])[1 + n % 2], 1,
       jsonb_build_object('temperature', 80 + n % 37 / 7.0 - 40 * (n % 5 / 4)), '{}', n % 101 / 100.0, 'rule',
       CASE WHEN n % 9 = 0 THEN 'failed' ELSE 'completed' END,
       least(30000, 0.05 / (1 - n % 997 / 997.0) ^ 1.5), now() - make_interval(secs => n * 259.2),
       CASE WHEN n % 3 = 0 THEN now() - make_interval(secs => n * 28.8) END
  FROM generate_series(1, 3000) AS n
"""
ROWS = """
SELECT workflow_id, status, created_at, occurred_at, execution_time_ms, confidence_score,
       input_data -> 'temperature' AS temperature, input_data -> 'motor' -> 'speed' AS speed
  FROM judgment_executions WHERE tenant_id = $1
"""


def values_of(rows: list[Any], metric: str) -> list[tuple[float, float, bool]]:
    """(Unix time, value, failed) of each value of a metric, from the table's rows."""
    found = []
    for row in rows:
        time_s, value = row["created_at"].timestamp(), None
        if metric == "execution_time_ms":
            value = round(row["execution_time_ms"] * 1000) / 1000
        elif metric == "confidence":
            value = round(row["confidence_score"], 6)
        elif row["workflow_id"] == "plant":  # the other one tracks nothing
            text = row["temperature"] if metric == "input.temperature" else row["speed"]
            value = None if text is None else round(float(text), 6)
            time_s = (row["occurred_at"] or row["created_at"]).timestamp()
        if value is not None:
            found.append((time_s, value, row["status"] != "completed"))
    return found


def check_figures(told: dict[str, Any], values: list[tuple[float, float, bool]]) -> None:
    inside = sorted((value, failed) for at_s, value, failed in values if seconds(told["from"]) <= at_s < seconds(told["to"]))
    assert (told["count"], told["failed"]) == (len(inside), sum(failed for _, failed in inside)), told
    if not inside:
        assert {told[name] for name in ("mean", "min", "max", "p50", "p95", "p99")} == {None}
        return
    assert told["mean"] == pytest.approx(sum(value for value, _ in inside) / len(inside), abs=2e-6)
    assert (told["min"], told["max"]) == (pytest.approx(inside[0][0], abs=2e-6), pytest.approx(inside[-1][0], abs=2e-6))
    for name, fraction in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        exact = inside[max(1, math.ceil(fraction * len(inside))) - 1][0]
        assert abs(told[name] - exact) <= 0.01 * abs(exact) + 2e-6, (name, told, exact)


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


async def metrics(client: Client, **parameters: str) -> dict[str, Any]:
    answer = await ask(client, **parameters)
    assert answer.status == 200, answer.body[:500]
    found: dict[str, Any] = answer.json
    return found


async def ask(client: Client, **parameters: str) -> Answer:
    return await client.get(PATH + "?" + "&".join(f"{name}={quote(value)}" for name, value in parameters.items()))


@pytest.fixture
async def plant(tenant: Client, engine: Engine) -> Client:
    """A tenant with a past, some of it judged over HTTP just now."""
    assert (await tenant.put_workflow("plant", TRACKING)).status == 201
    for n in range(30):
        data = {"value": 40 + n, "temperature": -3 + n / 2} | ({"motor": {"speed": 10**n / 7}} if n < 12 else {})
        await tenant.execute(data if n % 10 else {"temperature": 1}, "plant")
    ago = datetime.now(UTC) - timedelta(hours=3)
    assert (await tenant.execute({"value": 1, "temperature": 500}, "plant", occurred_at=ago.isoformat())).status == 200
    await engine.database.do(BY_HAND, tenant.tenant_id)
    await engine.database.settle()
    return tenant


@pytest.mark.parametrize("workflow_id", [None, "plant", "check"])
@pytest.mark.parametrize("timeframe", BUCKETS_S)
async def test_figures_are_those_of_the_table(plant: Client, engine: Engine, timeframe: str, workflow_id: str | None) -> None:
    one = {} if workflow_id is None else {"workflow_id": workflow_id}
    began_s = time.time()
    told = await metrics(plant, timeframe=timeframe, metric="*", **one)
    ended_s = time.time()
    rows = await engine.database.rows(ROWS, plant.tenant_id)
    mine = [row for row in rows if workflow_id in (None, row["workflow_id"])]
    assert (told["tenant_id"], told["workflow_id"], told["timeframe"]) == (plant.tenant_id, workflow_id, timeframe)
    assert (told["bucket_s"], told["quantile_error"]) == (BUCKETS_S[timeframe], 0.01)
    stored = STORED[:2] if workflow_id == "check" else STORED
    assert {series["metric"] for series in told["metrics"]} == {"execution_count", "success_rate", *stored}
    for series in told["metrics"]:
        buckets = series["buckets"]
        width = BUCKETS_S[timeframe]
        assert len(buckets) == FRAMES_S[timeframe] // width
        assert [seconds(b["from"]) for b in buckets] == [seconds(told["from"]) + n * width for n in range(len(buckets))]
        assert [seconds(b["to"]) - seconds(b["from"]) for b in buckets] == [width] * len(buckets)
        assert seconds(buckets[-1]["from"]) <= ended_s
        assert began_s < seconds(buckets[-1]["to"])
        assert [b["over"] for b in buckets] == [True] * (len(buckets) - 1) + [False]
        assert (series["frame"]["from"], series["frame"]["to"], series["frame"]["over"]) == (told["from"], told["to"], False)
        if series["metric"] in STORED:
            for figures in (series["frame"], *buckets):
                check_figures(figures, values_of(mine, series["metric"]))
    count = {series["metric"]: series for series in told["metrics"]}
    for times, counts, rates in zip(
        *(count[name]["buckets"] for name in ("execution_time_ms", "execution_count", "success_rate")), strict=True
    ):
        assert times["count"] == counts["count"] == rates["count"]
        if times["count"]:
            assert counts["mean"] == counts["p99"] == 1
            assert rates["mean"] == pytest.approx(1 - times["failed"] / times["count"], abs=1e-6)


async def test_inputs_are_charted_by_when_they_occurred_and_all_else_by_when_it_was_judged(
    plant: Client, engine: Engine
) -> None:
    body = {"value": 60, "temperature": 77.5}
    assert (await plant.execute(body, "plant", occurred_at="2013-12-02T21:15:00Z")).status == 200
    before = await metrics(plant, timeframe="1h", workflow_id="plant")
    await engine.database.settle()
    long_ago = await metrics(
        plant, timeframe="24h", workflow_id="plant", metric="input.temperature,confidence", until="2013-12-03T00:00:00Z"
    )
    assert (long_ago["from"], long_ago["to"]) == ("2013-12-02T00:00:00.000000Z", "2013-12-03T00:00:00.000000Z")
    temperature, confidence = long_ago["metrics"]
    assert [bucket["count"] for bucket in temperature["buckets"]] == [0] * 21 + [1] + [0] * 2
    assert temperature["frame"]["p50"] == temperature["frame"]["mean"] == 77.5
    assert {bucket["over"] for bucket in temperature["buckets"]} == {True}
    assert confidence["frame"]["count"] == 0
    now = await metrics(plant, timeframe="1h", workflow_id="plant")
    assert position_of(now["position"]) > position_of(before["position"])
    assert now["metrics"][0]["frame"]["count"] >= 31


@pytest.mark.parametrize("workflow_id", [None, "plant", "check"])
@pytest.mark.parametrize("timeframe", BUCKETS_S)
async def test_results_and_methods_are_counted(plant: Client, engine: Engine, timeframe: str, workflow_id: str | None) -> None:
    await engine.database.do(
        "UPDATE judgment_executions SET method_used = 'hybrid', final_result = jsonb_build_object('verdict', 'a' || id::text)"
        " WHERE id IN (SELECT id FROM judgment_executions WHERE tenant_id = $1 AND status = 'completed' LIMIT 5)",
        plant.tenant_id,
    )
    await engine.database.settle()
    rows = await engine.database.rows(
        "SELECT created_at, workflow_id, method_used, CASE WHEN status = 'failed' THEN 'failed'"
        " ELSE coalesce(final_result ->> 'verdict', '') END AS result FROM judgment_executions WHERE tenant_id = $1",
        plant.tenant_id,
    )
    rows = [row for row in rows if workflow_id in (None, row["workflow_id"])]
    who = {} if workflow_id is None else {"workflow_id": workflow_id}
    told = await metrics(plant, timeframe=timeframe, metric="result.*,method.*", **who)
    names = {f"method.{row['method_used']}" for row in rows} | {f"result.{row['result']}" for row in rows}
    assert {name for name in told["available"] if name.startswith(("method.", "result."))} == names
    assert {one["metric"] for one in told["metrics"]} == names
    for one in told["metrics"]:
        kind, name = one["metric"].split(".", 1)
        at_s = [row["created_at"].timestamp() for row in rows if row["method_used" if kind == "method" else "result"] == name]
        for figures in (one["frame"], *one["buckets"]):
            assert figures["count"] == sum(seconds(figures["from"]) <= moment < seconds(figures["to"]) for moment in at_s)
            assert {figures[other] for other in ("failed", "mean", "min", "max", "p50", "p95", "p99")} == {None}


async def test_the_default_is_a_day_of_three_metrics_of_all_workflows(plant: Client) -> None:
    told = await metrics(plant)
    assert (told["timeframe"], told["workflow_id"], told["chart"]) == ("24h", None, None)
    assert [series["metric"] for series in told["metrics"]] == ["execution_count", "execution_time_ms", "confidence"]
    judged = ["execution_count", "execution_time_ms", "confidence", "success_rate"]
    counted = ["method.rule", "result.", "result.failed", "result.inspect", "result.ok"]
    assert told["available"] == [*judged, "input.motor.speed", "input.temperature", *counted]
    assert (await metrics(plant, workflow_id="check"))["available"] == [*judged, *counted[:3]]
    assert told["recomputing"] is False
    if told["verified_through"] is not None:
        assert seconds(told["verified_through"]) <= time.time()


async def test_metrics_may_be_repeated_or_listed_and_are_told_once_in_the_order_asked(plant: Client) -> None:
    answer = await plant.get(f"{PATH}?metric=confidence,success_rate&metric=input.temperature&metric=confidence")
    assert [series["metric"] for series in answer.json["metrics"]] == ["confidence", "success_rate", "input.temperature"]
    unknown = await metrics(plant, metric="input.nothing")
    assert unknown["metrics"][0]["frame"]["count"] == 0


@pytest.mark.parametrize("timeframe", BUCKETS_S)
async def test_charts_are_those_of_the_dashboard(plant: Client, timeframe: str) -> None:
    for one in ({}, {"workflow_id": "plant"}):
        workflow = "".join(f"&{name}={value}" for name, value in one.items())
        dashboard = await watch(plant, query=f"?timeframe={timeframe}{workflow}")
        await dashboard.shows(3031 if not one else 1531)
        for name in ("count", "time", "success"):
            chart, points = dashboard.types[name], dashboard.charts[name]
            told = (await metrics(plant, timeframe=timeframe, chart=chart, **one))["chart"]
            assert told["chart"] == chart
            assert told["columns"][0] == "time"
            shown = [points[time_s] for time_s, *_ in told["points"] if time_s in points]
            assert [point for point in told["points"] if point[0] in points] == shown
            assert len(shown) > len(told["points"]) // 4
            assert {tuple(point[1:]) for point in told["points"] if point[0] not in points} <= {(0, 0), (None, None), (None,)}
            assert len(told["points"]) == FRAMES_S[timeframe] // BUCKETS_S[timeframe]
        await dashboard.close()


async def test_csv_says_the_same(plant: Client) -> None:
    until = datetime.now(UTC).isoformat()
    parameters = {"timeframe": "7d", "metric": "*", "workflow_id": "plant", "until": until}
    told = await metrics(plant, **parameters)
    answer = await ask(plant, format="csv", **parameters)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
    end = told["to"].replace("-", "").replace(":", "").replace(".000000", "")
    assert answer.headers["Content-Disposition"] == f'attachment; filename="judgify-metrics-plant-7d-{end}.csv"'
    assert position_of(answer.headers["Judgify-Position"]) >= position_of(told["position"])
    assert answer.headers["Judgify-Recomputing"] == "false"
    rows = list(csv.DictReader(io.StringIO(answer.body.decode(), newline=""), strict=True))
    expected = [
        {"workflow_id": "plant", "metric": series["metric"], **{name: cell(value) for name, value in bucket.items()}}
        for series in told["metrics"]
        for bucket in series["buckets"]
    ]
    assert rows == expected
    assert len(rows) == 6 * 28


def cell(value: Any) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/csv", "text/csv"),
        ("text/csv;q=0.5, application/json", "application/json"),
        ("application/json;q=0.1, text/csv;q=0.2", "text/csv"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "application/json"),
        ("text/csv;q=rather", "application/json"),
    ],
)
async def test_the_header_accept_chooses_the_format(tenant: Client, accept: str, kind: str) -> None:
    answer = await tenant.call("GET", f"{PATH}?chart=success_rate_chart", headers={"Accept": accept})
    assert answer.headers["Content-Type"].split(";")[0] == kind
    assert answer.headers["Vary"] == "Accept"
    answer = await tenant.call("GET", f"{PATH}?format=json", headers={"Accept": accept})
    assert answer.headers["Content-Type"].split(";")[0] == "application/json"


@pytest.mark.parametrize(
    ("query", "field", "says"),
    [
        ("timeframe=2h", "timeframe", ("1h, 6h, 24h, 7d", "'2h'")),
        ("metric=mood", "metric", ("execution_count", "success_rate", "input.FIELD", "'mood'")),
        ("metric=", "metric", ("''",)),
        ("metric=input.", "metric", ("'input.'",)),
        ("metric=*,confidence", "metric", ("'*'",)),
        ("metric=" + ",".join(f"input.f{n}" for n in range(33)), "metric", ("32", "33")),
        ("workflow_id=", "workflow_id", ("leave it out",)),
        ("chart=pie", "chart", ("execution_count_chart", "'pie'")),
        ("chart=success_rate_chart&metric=confidence", "chart", ("exclude",)),
        ("format=xml", "format", ("json, csv", "'xml'")),
        ("until=yesterday", "until", ("RFC 3339", "'yesterday'")),
        ("until=2026-01-01T00:00:00", "until", ("zone",)),
        ("until=1999-12-31T00:00:00Z", "until", ("2000 to 2200", "'1999-12-31T00:00:00Z'")),
        ("timeframe=1h&until=2020-01-01T00:00:00Z", "until", ("365 days", "metrics.keep_days", "2019-12-31T23:00:00")),
        ("timeframe=6h&until=2020-01-01T00:00:00Z", "until", ("24h",)),
        ("timeframe=1h&timeframe=1h", "timeframe", ("twice",)),
        ("colour=red", "colour", ("chart, field, format, metric, timeframe, until, workflow_id",)),
        ("workflow_id=a%00", "workflow_id", ("NUL",)),
    ],
)
async def test_what_is_wrong_is_named(tenant: Client, query: str, field: str, says: tuple[str, ...]) -> None:
    problem = (await tenant.get(f"{PATH}?{query}")).problem(422, "invalid_field")
    assert problem["field"] == field
    for text in says:
        assert text in problem["detail"]


async def test_too_many_metrics_for_all_of_them(tenant: Client, engine: Engine) -> None:
    for name in ("a", "b"):
        fields = [f"{name}{n}" for n in range(20)]
        await tenant.put_workflow(name, {**CHECK, "track": fields})
        await tenant.execute(dict.fromkeys(fields, 1) | {"value": 1}, name)
    await engine.database.settle()
    problem = (await ask(tenant, metric="*")).problem(422, "invalid_field")
    assert (problem["field"], problem["limit"]) == ("metric", 32)
    assert len((await metrics(tenant))["available"]) == 46  # and how often it was ok, and by a rule
    assert len((await metrics(tenant, metric="*", workflow_id="a"))["metrics"]) == 24


async def test_tenants_never_see_each_other(plant: Client, engine: Engine) -> None:
    async with new_tenant(engine.url, engine.database) as other:
        for parameters in ({}, {"workflow_id": "plant"}):
            told = await metrics(other, metric="*", timeframe="7d", **parameters)
            assert {series["frame"]["count"] for series in told["metrics"]} == {0}
            assert len(told["available"]) == 4
        chart = (await metrics(other, chart="execution_count_chart"))["chart"]
        assert {tuple(point[1:]) for point in chart["points"]} == {(0, 0)}


async def test_it_needs_a_token_with_read(engine: Engine) -> None:
    async with Client(engine.url, None) as nobody:
        (await nobody.get(PATH)).problem(401, "unauthorized")
    async with new_tenant(engine.url, engine.database, "execute", workflow=False) as writer:
        (await writer.get(PATH)).problem(403, "forbidden")
