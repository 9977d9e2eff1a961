"""GET /api/v1/summary: the table's own figures, trends over equal spans, alerts of the tenant alone, and what is verified."""

import time
from collections.abc import Callable
from datetime import datetime

import pytest
from support.client import Client, new_tenant
from support.cluster import Database
from support.engine import Engine
from support.waiting import until

from .test_reconcile import QUICK, SOON, verified

INSERT = """
INSERT INTO judgment_executions (tenant_id, workflow_id, input_data, final_result, confidence_score, method_used, status,
                                 execution_time_ms, created_at)
SELECT $1, 'w' || n % 2, '{}', '{}', 0.5, 'rule', CASE WHEN n % 4 = 0 THEN 'failed' ELSE 'completed' END, 2.0,
       now() - $2::text::interval
  FROM generate_series(1, $3::int) AS n
"""


@pytest.fixture
def engine_with_books(database: Database, start_engine: Callable[..., Engine]) -> Engine:
    return start_engine(database, settings=QUICK, prelude=SOON)


async def fill(database: Database, tenant_id: str, ago: str, rows: int) -> None:
    await database.do(INSERT, tenant_id, ago, rows)


async def told(client: Client, since_s: float) -> bool:
    """Whether a summary tells that all before that is verified."""
    through = (await client.get("/api/v1/summary")).json["verified_through"]
    return through is not None and datetime.fromisoformat(through).timestamp() > since_s


async def test_figures_trends_and_what_is_verified(engine_with_books: Engine, database: Database) -> None:
    async with new_tenant(engine_with_books.url, database) as tenant:
        for ago, rows in (("2 hours", 40), ("26 hours", 20), ("3 days", 100), ("8 days", 50), ("10 seconds", 8)):
            await fill(database, tenant.tenant_id, ago, rows)
        now_s = time.time()
        await until(lambda: verified(tenant, now_s), "all is verified", 40)
        await until(lambda: told(tenant, now_s - 15), "that is stored, which comes after the metric", 40)
        day = (await tenant.get("/api/v1/summary?timeframe=24h")).json
        assert day["summary"]["figures"] == {
            "total_executions": 48, "successful_executions": 36, "success_rate": 0.75,
            "mean_response_time_ms": 2.0, "mean_confidence": 0.5,
        }  # fmt: skip
        assert day["trends"]["previous"]["figures"]["total_executions"] == 20
        current = day["trends"]["current"]["figures"]["total_executions"]
        assert current in (40, 48)  # the hour that is not over is not in it
        assert day["trends"]["total_executions_change"] == current / 20 - 1
        assert day["trends"]["success_rate_change"] == 0
        assert day["alerts"] == []
        assert day["recomputing"] is False
        assert datetime.fromisoformat(day["verified_through"]).timestamp() > now_s - 15
        week = (await tenant.get("/api/v1/summary?timeframe=7d&workflow_id=w1")).json
        assert week["summary"]["figures"]["total_executions"] == (40 + 20 + 100 + 8) / 2
        assert week["trends"]["previous"]["figures"]["total_executions"] == 25
        hour = (await tenant.get("/api/v1/summary?timeframe=1h")).json
        assert hour["summary"]["figures"]["total_executions"] == 8
        assert (await tenant.get("/api/v1/summary")).json["timeframe"] == "24h"
        (await tenant.get("/api/v1/summary?timeframe=2h")).problem(422, "invalid_field")
        (await tenant.get("/api/v1/summary?colour=red")).problem(422, "invalid_field")


async def test_a_difference_is_its_own_tenants_alert(engine_with_books: Engine, database: Database) -> None:
    async with (
        new_tenant(engine_with_books.url, database) as tenant,
        new_tenant(engine_with_books.url, database) as other,
    ):
        for one in (tenant, other):
            await fill(database, one.tenant_id, "3 hours", 10)
        now_s = time.time()
        await until(lambda: verified(tenant, now_s), "all is verified", 40)
        await database.do(
            f"UPDATE judgment_metrics_hourly SET total_executions = 99 WHERE tenant_id = '{tenant.tenant_id}'"
            " AND workflow_id = 'w1'"
        )

        async def alerts(client: Client) -> list[dict[str, str]]:
            found: list[dict[str, str]] = (await client.get("/api/v1/summary")).json["alerts"]
            return found

        found = await until(lambda: alerts(tenant), "there is an alert", 40)
        assert found[0]["type"] == "rollup_difference"
        assert found[0]["severity"] == "critical"
        assert (found[0]["stored"], found[0]["rolled_up"]) == (10, 104)
        assert found[0]["repair"] == f"judgify-engine rebuild --from {found[0]['from']} --to {found[0]['to']}"
        assert await alerts(other) == []
        through = (await other.get("/api/v1/summary")).json["verified_through"]
        assert datetime.fromisoformat(through) <= datetime.fromisoformat(found[0]["from"])


async def test_it_needs_a_token_with_read(engine: Engine) -> None:
    assert engine.database is not None
    async with Client(engine.url, None) as nobody:
        (await nobody.get("/api/v1/summary")).problem(401, "unauthorized")
    async with new_tenant(engine.url, engine.database, "execute", workflow=False) as writer:
        (await writer.get("/api/v1/summary")).problem(403, "forbidden")
