"""Dashboards' definitions over HTTP, and what a socket shows of them: the figures of the API and of the table."""

import asyncio
import json
import math
from typing import Any

import pytest
from support.client import CHECK, Client, new_tenant
from support.dashboards import Dashboard, watch
from support.engine import Engine
from support.waiting import until

PATH = "/api/v1/dashboards"
TRACKING = {**CHECK, "track": ["value"]}
PLANT: dict[str, Any] = {
    "name": "Plant",
    "timeframe": "6h",
    "charts": [
        {"id": "count", "type": "execution_count_chart", "lines": [{"value": 100, "label": "usual", "severity": "info"}]},
        {"id": "time", "type": "response_time_chart"},
        {"id": "success", "type": "success_rate_chart"},
        {"id": "results", "type": "results_chart", "title": "What was decided", "width": "full"},
        {"id": "methods", "type": "methods_chart"},
        {"id": "value", "type": "tracked_inputs_chart", "field": "value"},
        {"id": "confidence", "type": "confidence_chart"},
        {"id": "workflows", "type": "workflows_chart"},
    ],
}
# One row of the table for each, in buckets of 30 minutes.
BUCKETED = """
SELECT extract(epoch FROM date_bin('30 minutes', {time}, 'epoch'))::bigint AS bucket, workflow_id, status, method_used,
       CASE WHEN status = 'completed' THEN coalesce(final_result ->> 'verdict', '') ELSE 'failed' END AS result,
       confidence_score AS confidence, execution_time_ms AS ms, (input_data ->> 'value')::float8 AS value
  FROM judgment_executions
 WHERE tenant_id = $1 AND (cardinality($2::text[]) = 0 OR workflow_id = ANY($2::text[]))
"""
BY_HAND = """
INSERT INTO judgment_executions (tenant_id, workflow_id, workflow_version, input_data, final_result, confidence_score,
                                 method_used, status, execution_time_ms, created_at, occurred_at)
SELECT $1, (ARRAY['check', 'other', 'third'])[1 + n % 3], 2, jsonb_build_object('value', n % 83 / 7.0 - 5),
       jsonb_build_object('verdict', (ARRAY['ok', 'inspect', 'scrap'])[1 + n % 5 % 3]), n % 41 / 40.0,
       (ARRAY['rule', 'llm', 'hybrid'])[1 + n % 7 % 3], CASE WHEN n % 9 = 0 THEN 'failed' ELSE 'completed' END,
       n % 97 / 3.0, now() - make_interval(secs => n * 40), CASE WHEN n % 4 = 0 THEN now() - make_interval(secs => n * 11) END
  FROM generate_series($2::int, $3::int) AS n
"""


def put(client: Client, dashboard_id: str, definition: Any, **headers: str) -> Any:
    return client.call("PUT", f"{PATH}/{dashboard_id}", body=definition, headers=headers)


def named(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, **more}


async def test_put_get_list_versions_delete(tenant: Client) -> None:
    first = await put(tenant, "plant", PLANT)
    assert (first.status, first.headers["ETag"]) == (201, '"1"')
    assert (first.json["dashboard_id"], first.json["version"], first.json["default"]) == ("plant", 1, False)
    second = await put(tenant, "plant", named("Two"))
    assert (second.status, second.json["version"]) == (200, 2)
    assert (await tenant.get(f"{PATH}/plant")).json == second.json
    old = (await tenant.get(f"{PATH}/plant?version=1")).json["definition"]
    assert [chart["id"] for chart in old["charts"]] == [chart["id"] for chart in PLANT["charts"]]
    assert old["charts"][0]["lines"] == PLANT["charts"][0]["lines"]
    assert (old["timeframe"], old["charts"][5]["field"]) == ("6h", "value")
    listed = (await tenant.get(PATH)).json["dashboards"]
    assert [(one["dashboard_id"], one["name"], one["version"], one["default"]) for one in listed] == [
        ("main", "Main", 0, True), ("plant", "Two", 2, False),
    ]  # fmt: skip
    versions = (await tenant.get(f"{PATH}/plant/versions")).json["versions"]
    assert [(one["version"], one["name"]) for one in versions] == [(2, "Two"), (1, "Plant")]
    page = (await tenant.get(f"{PATH}/plant/versions?limit=1")).json
    assert (page["versions"][0]["version"], page["next_cursor"]) == (2, "2")
    rest = (await tenant.get(f"{PATH}/plant/versions?limit=1&cursor=2")).json
    assert ([one["version"] for one in rest["versions"]], rest["next_cursor"]) == ([1], None)
    gone = await tenant.call("DELETE", f"{PATH}/plant")
    assert (gone.status, gone.body) == (204, b"")
    (await tenant.get(f"{PATH}/plant")).problem(404, "not_found")
    (await tenant.call("DELETE", f"{PATH}/plant")).problem(404, "not_found")
    assert (await tenant.get(f"{PATH}/plant?version=1")).status == 200, "the versions of a deleted dashboard are kept"
    assert (await put(tenant, "plant", PLANT)).json["version"] == 3
    (await tenant.get(f"{PATH}/nothing/versions")).problem(404, "not_found")


async def test_main_is_there_from_the_start_and_again_after_it_was_deleted(tenant: Client) -> None:
    built_in = await tenant.get(f"{PATH}/main")
    assert (built_in.json["version"], built_in.json["default"], built_in.headers["ETag"]) == (0, True, '"0"')
    assert {chart["type"] for chart in built_in.json["definition"]["charts"]} >= {
        "execution_count_chart", "response_time_chart", "success_rate_chart",
    }  # fmt: skip
    assert (await put(tenant, "main", built_in.json["definition"], **{"If-Match": '"0"'})).status == 201
    assert (await tenant.get(f"{PATH}/main")).json["default"] is False
    assert (await tenant.call("DELETE", f"{PATH}/main")).status == 204
    assert (await tenant.get(f"{PATH}/main")).json == built_in.json
    assert [one["version"] for one in (await tenant.get(PATH)).json["dashboards"]] == [0]


async def test_of_two_who_read_the_same_version_one_learns_of_the_other(tenant: Client) -> None:
    await put(tenant, "d", named("one"), **{"If-Match": '"0"'})
    told = (await put(tenant, "d", named("again"), **{"If-Match": '"0"'})).problem(412, "version_mismatch")
    assert (told["version"], told["field"]) == (1, "If-Match")
    answers = await asyncio.gather(*(put(tenant, "d", named(str(n)), **{"If-Match": '"1"'}) for n in range(8)))
    assert sorted(answer.status for answer in answers) == [200, *[412] * 7]
    winner = next(answer for answer in answers if answer.status == 200)
    assert (await tenant.get(f"{PATH}/d")).json == winner.json
    (await tenant.call("DELETE", f"{PATH}/d", headers={"If-Match": '"1"'})).problem(412, "version_mismatch")
    (await tenant.call("DELETE", f"{PATH}/d", headers={"If-Match": '"0"'})).problem(412, "version_mismatch")
    assert (await tenant.call("DELETE", f"{PATH}/d", headers={"If-Match": '"2"'})).status == 204
    (await tenant.call("DELETE", f"{PATH}/d", headers={"If-Match": '"0"'})).problem(404, "not_found")
    (await put(tenant, "d", named("late"), **{"If-Match": '"2"'})).problem(412, "version_mismatch")
    for wrong in ("2", "*", 'W/"2"', '"x"', ""):
        told = (await put(tenant, "d", named("x"), **{"If-Match": wrong})).problem(422, "invalid_field")
        assert told["field"] == "If-Match"


def chart(**more: Any) -> dict[str, Any]:
    return {"id": "c", "type": "execution_count_chart", **more}


@pytest.mark.parametrize(
    ("definition", "field", "says"),
    [
        ({"charts": []}, "name", "missing"),
        (named(""), "name", "length >= 1"),
        (named("x" * 201), "name", "length <= 200"),
        (named("x", colour="red"), "colour", "unknown"),
        (named("x", timeframe="2h"), "timeframe", "1h, 6h, 24h, 7d"),
        (named("x", workflow_ids=["a"] * 21), "workflow_ids", "length <= 20"),
        (named("x", workflow_ids=["a", "a"]), "workflow_ids[1]", "once"),
        (named("x", workflow_ids=["a b"]), "workflow_ids[0]", "letters"),
        (named("x", charts=[chart(id=str(n)) for n in range(25)]), "charts", "length <= 24"),
        (named("x", charts=[chart(), chart()]), "charts[1].id", "once"),
        (named("x", charts=[chart(id="a b")]), "charts[0].id", "regex"),
        (named("x", charts=[chart(type="pie_chart")]), "charts[0].type", "confidence_chart"),
        (named("x", charts=[chart(width="third")]), "charts[0].width", "half, full"),
        (named("x", charts=[chart(title="x" * 201)]), "charts[0].title", "length <= 200"),
        (named("x", charts=[chart(field="value")]), "charts[0].field", "tracked_inputs_chart"),
        (named("x", charts=[chart(type="tracked_inputs_chart")]), "charts[0].field", "got nothing"),
        (named("x", charts=[chart(type="tracked_inputs_chart", field="a..b")]), "charts[0].field", "a..b"),
        (named("x", charts=[chart(lines=[{"value": 1}] * 9)]), "charts[0].lines", "length <= 8"),
        (named("x", charts=[chart(lines=[{"value": "1"}])]), "charts[0].lines[0].value", "float"),
        (named("x", charts=[chart(lines=[{"value": 1, "severity": "bad"}])]), "charts[0].lines[0].severity", "critical"),
    ],
)
async def test_what_is_wrong_is_named(tenant: Client, definition: Any, field: str, says: str) -> None:
    told = (await put(tenant, "d", definition)).problem(422, "invalid_field")
    assert told["field"] == field
    assert says in told["detail"]
    (await tenant.get(f"{PATH}/d")).problem(404, "not_found")


async def test_bodies_and_ids_that_are_none(tenant: Client) -> None:
    (await tenant.call("PUT", f"{PATH}/d", data=b"{")).problem(400, "malformed_json")
    (await put(tenant, "a%2Fb", named("x"))).problem(422, "invalid_field")
    (await put(tenant, "d", named("\0"))).problem(422, "unstorable_text")
    (await tenant.call("PUT", f"{PATH}/d", data=b'{"name": "x", "charts": [{"id": "c", "type": "results_chart", "lines":'
                       b' [{"value": 1e999}]}]}')).problem(422, "number_out_of_range")  # fmt: skip
    (await tenant.get(f"{PATH}/main?version=x")).problem(422, "invalid_field")
    (await tenant.get(f"{PATH}/main?version=7")).problem(404, "not_found")
    (await tenant.get(f"{PATH}?limit=3")).problem(422, "invalid_field")


async def test_tenants_and_scopes_are_apart(tenant: Client, engine: Engine) -> None:
    assert engine.database is not None
    await put(tenant, "mine", PLANT)
    async with new_tenant(engine.url, engine.database) as other:
        (await other.get(f"{PATH}/mine")).problem(404, "not_found")
        (await other.get(f"{PATH}/mine?version=1")).problem(404, "not_found")
        (await other.get(f"{PATH}/mine/versions")).problem(404, "not_found")
        (await other.call("DELETE", f"{PATH}/mine")).problem(404, "not_found")
        assert [one["dashboard_id"] for one in (await other.get(PATH)).json["dashboards"]] == ["main"]
        assert (await put(other, "mine", named("theirs"))).json["version"] == 1
    assert (await tenant.get(f"{PATH}/mine")).json["definition"]["name"] == "Plant"
    async with new_tenant(engine.url, engine.database, "read", workflow=False) as reader:
        assert (await reader.get(f"{PATH}/main")).status == 200
        (await put(reader, "main", PLANT)).problem(403, "forbidden")
        (await reader.call("DELETE", f"{PATH}/main")).problem(403, "forbidden")
    async with Client(engine.url, None) as nobody:
        (await nobody.get(PATH)).problem(401, "unauthorized")


async def test_a_tenant_has_a_bounded_number(tenant: Client, engine: Engine) -> None:
    assert engine.database is not None
    await engine.database.do(
        "INSERT INTO dashboards (tenant_id, dashboard_id, version, definition)"
        " SELECT $1, 'd' || n, 0, '{\"name\": \"x\"}' FROM generate_series(1, 200) AS n",
        tenant.tenant_id,
    )
    told = (await put(tenant, "one-more", named("x"))).problem(422, "invalid_field")
    assert (told["field"], told["limit"]) == ("dashboard_id", 200)
    assert (await put(tenant, "d7", named("y"))).json["version"] == 2


async def rows_of(engine: Engine, tenant: Client, workflow_ids: list[str], time: str = "created_at") -> list[Any]:
    assert engine.database is not None
    return await engine.database.rows(BUCKETED.format(time=time), tenant.tenant_id, workflow_ids)


def count_by(rows: list[Any], *names: str) -> dict[Any, int]:
    found: dict[Any, int] = {}
    for row in rows:
        key = tuple(row[name] for name in names)
        found[key] = found.get(key, 0) + 1
    return found


async def check(dashboard: Dashboard, engine: Engine, tenant: Client, workflow_ids: list[str]) -> None:
    """Every chart shows what a look at the table finds."""
    rows = await rows_of(engine, tenant, workflow_ids)
    methods, results = count_by(rows, "bucket", "method_used"), count_by(rows, "bucket", "result")
    charts = dashboard.charts
    assert sum(point[1] for point in charts["count"].values()) == len(rows)
    for bucket, total in ((key[0], count) for key, count in count_by(rows, "bucket").items()):
        assert charts["count"][bucket][1] == total
        mean = sum(row["ms"] for row in rows if row["bucket"] == bucket) / total
        assert charts["time"][bucket][1] == pytest.approx(mean, abs=0.001)
        failed = sum(row["status"] == "failed" for row in rows if row["bucket"] == bucket)
        assert charts["success"][bucket][1] == pytest.approx(1 - failed / total, abs=1e-6)
        assert charts["methods"][bucket][1:] == [methods.get((bucket, method), 0) for method in ("rule", "llm", "hybrid")]
        assert charts["results"][bucket][1] == {key[1]: count for key, count in results.items() if key[0] == bucket}
    tracked: dict[int, list[float]] = {}
    for row in await rows_of(engine, tenant, workflow_ids, "coalesce(occurred_at, created_at)"):
        if row["workflow_id"] != "third" and row["value"] is not None:  # it tracks nothing
            tracked.setdefault(row["bucket"], []).append(row["value"])
    assert charts["value"].keys() == tracked.keys()
    for bucket, values in tracked.items():
        count, mean, low, high, p95 = charts["value"][bucket][1:]
        exact = sorted(values)[max(1, math.ceil(0.95 * len(values))) - 1]
        assert (count, low, high) == (len(values), pytest.approx(min(values), abs=1e-6), pytest.approx(max(values), abs=1e-6))
        assert mean == pytest.approx(sum(values) / len(values), abs=2e-6)
        assert p95 == pytest.approx(exact, rel=0.0101, abs=1e-4)
    bins = sorted(charts["confidence"])
    confidences = [row["confidence"] for row in rows]
    assert len(bins) == 20
    for start, end in zip(bins, [*bins[1:], 2.0], strict=True):
        assert charts["confidence"][start][1] == sum(start <= confidence < end for confidence in confidences), start
    assert {name: point[1] for name, point in charts["workflows"].items()} == {
        key[0]: count for key, count in count_by(rows, "workflow_id").items()
    }


@pytest.mark.parametrize("workflow_ids", [[], ["check"], ["check", "third"]])
async def test_every_chart_follows_the_table(tenant: Client, engine: Engine, workflow_ids: list[str]) -> None:
    assert engine.database is not None
    for workflow in ("check", "other", "other"):  # the second version of each tracks its input
        await tenant.put_workflow(workflow, TRACKING)
    await tenant.put_workflow("third")
    await put(tenant, "plant", {**PLANT, "workflow_ids": workflow_ids})
    dashboard = await watch(tenant, "plant")
    assert (await first(dashboard))["timeframe"] == "6h", "as it is defined"
    await engine.database.do(BY_HAND, tenant.tenant_id, 1, 400)
    rows = await rows_of(engine, tenant, workflow_ids)
    await dashboard.shows(len(rows))
    await check(dashboard, engine, tenant, workflow_ids)
    await dashboard.close()


@pytest.mark.parametrize("timeframe", ["1h", "6h", "24h", "7d"])
async def test_updates_a_new_socket_and_the_api_say_the_same(tenant: Client, engine: Engine, timeframe: str) -> None:
    """Of every chart; where rows came one by one, were changed and went, too."""
    assert engine.database is not None
    for workflow in ("check", "other", "other"):
        await tenant.put_workflow(workflow, TRACKING)
    await put(tenant, "plant", {**PLANT, "workflow_ids": ["check", "other"]})
    await engine.database.do(BY_HAND, tenant.tenant_id, 1, 200)
    dashboard = await watch(tenant, "plant", f"?timeframe={timeframe}")
    await dashboard.shows(len(await rows_of(engine, tenant, ["check", "other"])))
    await engine.database.do(BY_HAND, tenant.tenant_id, 201, 700)
    change = "UPDATE judgment_executions SET method_used = 'llm', final_result = '{}', confidence_score = 0.5"
    await engine.database.do(f"{change} WHERE tenant_id = $1 AND execution_time_ms < 3", tenant.tenant_id)
    await engine.database.do(
        "DELETE FROM judgment_executions WHERE tenant_id = $1 AND execution_time_ms > 30", tenant.tenant_id
    )
    await tenant.judge(50)
    total = len(await rows_of(engine, tenant, ["check", "other"]))
    await dashboard.shows(total)
    fresh = await watch(tenant, "plant", f"?timeframe={timeframe}")
    await fresh.shows(total)
    for name, kind in dashboard.types.items():
        told = await by_api(tenant, kind, timeframe, ["check", "other"])
        for shown in (dashboard.charts[name], fresh.charts[name]):
            assert {start: point for start, point in told.items() if start in shown} == {
                start: point for start, point in shown.items() if start in told
            }, name
            assert all(empty(told[start]) for start in told.keys() - shown.keys()), name
            assert told.keys() & shown.keys()
    await fresh.close()
    await dashboard.close()


async def by_api(tenant: Client, kind: str, timeframe: str, workflow_ids: list[str]) -> dict[Any, list[Any]]:
    field = "&field=value" if kind == "tracked_inputs_chart" else ""
    path = f"/api/v1/metrics?chart={kind}&timeframe={timeframe}&workflow_id={','.join(workflow_ids)}{field}"
    return {point[0]: point for point in (await tenant.get(path)).json["chart"]["points"]}


def empty(point: list[Any]) -> bool:
    return not any(point[1:])


async def first(dashboard: Dashboard) -> dict[str, Any]:
    await until(lambda: dashboard.messages, "the first message comes")
    return dashboard.messages[0]


async def test_who_watches_a_dashboard_sees_it_change(tenant: Client) -> None:
    await tenant.judge(70)
    dashboard = await watch(tenant, "d")
    await dashboard.shows(1)
    assert dashboard.version == 0
    assert "confidence" in dashboard.charts
    for version, name in ((1, "one"), (2, "two")):
        await put(tenant, "d", named("x", charts=[chart(id=name)]))
        await until(lambda version=version: dashboard.version == version, "the new definition shows", 5)
        message = dashboard.messages[-1]
        assert message["type"] == "dashboard_update"
        assert [(name, one["type"]) for name, one in message["charts"].items()] == [(name, "execution_count_chart")]
        assert sum(point[1] for point in message["charts"][name]["points"]) == 1
    await put(tenant, "d", named("x", workflow_ids=["other"], charts=[chart()]))
    await dashboard.shows(0, 5)
    await tenant.judge(70)
    await tenant.call("DELETE", f"{PATH}/d")
    await until(lambda: dashboard.version == 0, "it is the built-in one again", 5)
    await dashboard.shows(2, 5)
    await dashboard.close()


async def test_a_definition_written_by_hand_shows_too_and_a_broken_one_hurts_nobody(tenant: Client, engine: Engine) -> None:
    assert engine.database is not None
    await tenant.judge(70)
    dashboard = await watch(tenant, "d")
    await dashboard.shows(1)
    sql = "INSERT INTO dashboards (tenant_id, dashboard_id, version, definition) VALUES ($1, 'd', 0, $2)"
    await engine.database.do(sql, tenant.tenant_id, json.dumps(named("x", charts=[chart(id="mine")])))
    await until(lambda: dashboard.version == 1, "the one by hand shows", 5)
    assert list(dashboard.charts) == ["mine"]
    broken = "UPDATE dashboards SET definition = '{\"charts\": 3}' WHERE tenant_id = $1"
    await engine.database.do(broken, tenant.tenant_id)
    await until(lambda: dashboard.version == 2, "the broken one is passed over", 5)
    assert "success" in dashboard.charts
    await tenant.judge(70)
    await dashboard.shows(2)
    await dashboard.close()
