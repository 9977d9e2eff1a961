"""Data quality: everything that comes in is counted, refused or stored, by whoever it was written; the share is told."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.client import EXECUTE, Client, new_tenant
from support.engine import Engine
from support.rollups import check_rollups
from support.waiting import until

BY_HAND = """
INSERT INTO judgment_executions (tenant_id, workflow_id, input_data, final_result, confidence_score, method_used,
                                 execution_time_ms)
VALUES ($1, 'check', $2::jsonb, '{"verdict": "ok"}', 1, 'rule', 1)
"""


async def quality(tenant: Client, path: str = "/api/v1/quality") -> Any:
    answer = await tenant.get(path)
    assert answer.status == 200, answer.body
    return answer.json


async def test_good_input_alone_is_all_valid(engine: Engine, tenant: Client) -> None:
    for _ in range(3):
        await tenant.judge()

    async def counted() -> bool:
        return bool((await quality(tenant))["quality"]["records"] == 3)

    await until(counted, "all are counted")
    found = (await quality(tenant))["quality"]
    assert found == {"records": 3, "invalid": 0, "valid_share": 1.0, "refused": {}, "stored": {}}
    assert (await quality(tenant, "/api/v1/summary"))["alerts"] == []


@pytest.mark.parametrize(("timeframe", "hours"), [("1h", 2), ("24h", 25)])
async def test_the_whole_hours_that_are_counted_are_said(tenant: Client, timeframe: str, hours: int) -> None:
    """More than the time frame, so nobody shall take them for it: the same span in both answers, and in the alert."""
    (await tenant.call("POST", EXECUTE, body={"input_data": {}})).problem(422, "invalid_field")

    async def told() -> Any:
        return (await quality(tenant, f"/api/v1/summary?timeframe={timeframe}"))["alerts"]

    (alert,) = await until(told, "it is counted")
    now = datetime.now(UTC)
    report = await quality(tenant, f"/api/v1/quality?timeframe={timeframe}")
    summary = (await quality(tenant, f"/api/v1/summary?timeframe={timeframe}"))["quality"]
    for one in (alert, report, summary):
        start, end = datetime.fromisoformat(one["from"]), datetime.fromisoformat(one["to"])
        assert start.minute == start.second == end.minute == end.second == 0
        assert (end - start, start <= now - timedelta(hours=hours - 1), now < end) == (timedelta(hours=hours), True, True)
    assert summary.items() >= report["quality"].items()


@pytest.mark.parametrize(("good", "severity"), [(97, None), (95, None), (94, "warning"), (90, "warning"), (89, "critical")])
async def test_the_share_decides_the_alert(engine: Engine, tenant: Client, good: int, severity: str | None) -> None:
    database = engine.database
    assert database is not None
    for _ in range(good):
        await tenant.judge()
    for n in range(100 - good):
        body = [{"input_data": {}}, {"workflow_id": "nobody", "input_data": {"value": 1}}][n % 2]
        assert (await tenant.call("POST", EXECUTE, body=body)).status in (404, 422)

    async def counted() -> bool:
        return bool((await quality(tenant))["quality"]["records"] == 100)

    await until(counted, "all are counted")
    found = (await quality(tenant))["quality"]
    assert (found["invalid"], found["valid_share"]) == (100 - good, good / 100)
    assert sum(found["refused"].values()) == 100 - good
    alerts = (await quality(tenant, "/api/v1/summary"))["alerts"]
    assert [(alert["type"], alert["severity"]) for alert in alerts] == ([("data_quality_alert", severity)] if severity else [])
    if severity:
        assert f"{100 - good} of 100 records" in alerts[0]["detail"]


async def test_rows_of_others_are_looked_at_too(engine: Engine, tenant: Client) -> None:
    database = engine.database
    assert database is not None
    for text in ("null", "{}", "null", '{"value": 1}'):
        await database.do(BY_HAND, tenant.tenant_id, text)
    await check_rollups(database)
    found = await quality(tenant)
    assert found["quality"] == {"records": 4, "invalid": 2, "valid_share": 0.5, "refused": {}, "stored": {"missing_field": 2}}
    assert [one["workflow_id"] for one in found["workflows"]] == ["check"]
    await database.do("DELETE FROM judgment_executions WHERE tenant_id = $1 AND input_data = 'null'", tenant.tenant_id)
    await check_rollups(database)
    assert (await quality(tenant))["quality"]["valid_share"] == 1.0


async def test_each_workflow_has_its_own_and_tenants_see_their_own(engine: Engine, tenant: Client) -> None:
    database = engine.database
    assert database is not None
    await tenant.put_workflow("other")
    await tenant.judge()
    await tenant.judge(workflow_id="other")
    assert (await tenant.execute({"value": b"\\x00".decode("unicode_escape")}, "other")).status == 422

    async def counted() -> bool:
        return bool((await quality(tenant))["quality"]["records"] == 3)

    await until(counted, "all are counted")
    shares = {one["workflow_id"]: one["quality"]["valid_share"] for one in (await quality(tenant))["workflows"]}
    assert shares == {"check": 1.0, "other": 0.5}
    assert (await quality(tenant, "/api/v1/quality?workflow_id=check"))["quality"]["records"] == 1
    async with new_tenant(engine.url, database) as stranger:
        assert (await quality(stranger))["quality"]["records"] == 0
    (await tenant.get("/api/v1/quality?timeframe=2d")).problem(422, "invalid_field")
