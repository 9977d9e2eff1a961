"""For operators: health, readiness, metrics and the description of the API, each checked against the running server."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.client import Client
from support.cluster import Database
from support.dashboards import watch
from support.engine import Engine
from support.rollups import check_rollups
from support.waiting import until

STAGES = {"admit", "decode", "judge", "queue", "commit", "answer", "rollup", "push"}


async def figures(client: Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All samples of /metrics."""
    answer = await client.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


async def test_health_needs_no_token(engine: Engine) -> None:
    async with Client(engine.url, None) as nobody:
        answer = await nobody.get("/health")
        assert answer.status == 200
        assert answer.json["status"] == "ok"
        assert (await nobody.call("HEAD", "/health")).status == 200
        ready = await nobody.get("/ready")
        assert ready.status == 200
        assert ready.json["ready"] is True
        assert set(ready.json["checks"].values()) == {"ok"}


async def test_metrics_count_what_happened(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(database)
    async with Client(engine.url, "test-token") as client:
        await until(lambda: "reading the log" in engine.log, "the log is being read")
        for _ in range(10):
            await client.judge(70, "test-workflow-0")
        await client.execute({}, "nothing")
        await client.execute({"temperature": "hot"}, "test-workflow-0")
        await client.execute({"temperature": 1}, "test-workflow-0", key="k")
        await client.execute({"temperature": 1}, "test-workflow-0", key="k")
        await check_rollups(database)
        dashboard = await watch(client)
        await client.judge(70, "test-workflow-0")
        await dashboard.shows(13)
        await dashboard.close()
        found = await figures(client)

    def value(name: str, **labels: str) -> float:
        return found[name, tuple(sorted(labels.items()))]

    stages = {dict(labels)["stage"] for name, labels in found if name == "judgify_stage_duration_seconds_count"}
    assert stages >= STAGES
    for stage in ("admit", "decode", "judge", "queue", "commit", "answer", "rollup", "push"):
        assert value("judgify_stage_duration_seconds_count", stage=stage) > 0, stage
        assert value("judgify_stage_duration_seconds_sum", stage=stage) > 0, stage
    assert value("judgify_stage_duration_seconds_count", stage="judge") == 13
    assert value("judgify_judgments_total", outcome="completed") == 12
    assert value("judgify_judgments_total", outcome="failed") == 1
    assert value("judgify_judgments_total", outcome="replayed") == 1
    assert value("judgify_errors_total", code="workflow_not_found") == 1
    assert value("judgify_http_requests_total", route="/api/v1/judgments/execute", status="200") == 14
    assert value("judgify_http_requests_total", route="/api/v1/judgments/execute", status="404") == 1
    assert value("judgify_changes_total", stage="applied") >= 12
    assert value("judgify_slot_held") == 1
    assert value("judgify_database_available") == 1
    assert value("judgify_wal_lag_bytes") >= 0
    assert value("judgify_wal_lag_seconds") >= 0
    assert value("judgify_event_loop_lag_seconds_count") >= 0
    assert value("process_resident_memory_bytes") > 1e6
    assert value("process_cpu_seconds_total") > 0
    for partition in range(8):
        for name in ("judgify_queue_rows", "judgify_queue_bytes", "judgify_queue_oldest_seconds"):
            assert value(name, partition=str(partition)) == 0
    for name, labels in found:
        assert name.startswith(("judgify_", "process_")), name
        assert not {"tenant", "tenant_id", "workflow_id", "token", "path"} & {label for label, _ in labels}
    for histogram in {name.removesuffix("_bucket") for name, _ in found if name.endswith("_bucket")}:
        assert any(name == f"{histogram}_count" for name, _ in found)
    assert engine.terminate() == 0


async def test_paths_do_not_become_labels(engine: Engine) -> None:
    async with Client(engine.url, None) as nobody:
        for number in range(5):
            await nobody.get(f"/no/such/path/{number}")
        routes = {dict(labels).get("route") for name, labels in await figures(nobody) if name == "judgify_http_requests_total"}
    assert not any("such" in str(route) for route in routes)


async def test_openapi_describes_every_route_and_only_those(engine: Engine) -> None:
    """The routes are taken from the application that the worker builds."""
    from judgify_engine.ingest.openapi import build_openapi

    async with Client(engine.url, None) as nobody:
        answer = await nobody.get("/openapi.json")
        assert answer.status == 200
        document = answer.json
        assert document == json.loads(build_openapi())
        assert document["openapi"].startswith("3.1")
        described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
        # Each described route is there: nothing answers "there is nothing at" or 405.
        for method, path in described:
            real = re.sub(r"\{(judgment|quarantine|action|alert)_id\}", "00000000-0000-0000-0000-000000000000", path)
            real = re.sub(r"\{\w+\}", "x", real)
            found = await nobody.call(method, real)
            assert found.status in (200, 401, 503), (method, path, found.status)
    assert described == routes_of_the_application() - PAGE


PAGE = {
    ("GET", "/"), ("GET", "/login"), ("GET", "/docs"), ("GET", "/assets/{name}"), ("GET", "/session"), ("POST", "/session"),
    ("DELETE", "/session"), ("GET", "/openapi.json"), ("GET", "/api/v1/asyncapi.json"),
}  # fmt: skip
"""For people with a browser; not part of the API."""


def routes_of_the_application() -> set[tuple[str, str]]:
    """What the parts register, without starting any of them."""
    from judgify_engine.ingest.actions import ActionRoutes
    from judgify_engine.ingest.alerts import AlertRoutes
    from judgify_engine.ingest.dashboards import DefinitionRoutes
    from judgify_engine.ingest.gaps import GapRoutes
    from judgify_engine.ingest.judgments import JudgmentRoutes
    from judgify_engine.ingest.metrics import MetricsRoutes
    from judgify_engine.ingest.operate import OperateRoutes
    from judgify_engine.ingest.quality import QualityRoutes
    from judgify_engine.ingest.quarantine import QuarantineRoutes
    from judgify_engine.ingest.scaling import ScalingRoutes
    from judgify_engine.ingest.summary import SummaryRoutes
    from judgify_engine.ingest.workflows import WorkflowRoutes
    from judgify_engine.live.page import PageRoutes
    from judgify_engine.live.session import DashboardRoutes
    from judgify_engine.live.tail import TailRoutes

    found = set()
    groups = (
        JudgmentRoutes,
        ActionRoutes,
        AlertRoutes,
        GapRoutes,
        MetricsRoutes,
        QualityRoutes,
        QuarantineRoutes,
        ScalingRoutes,
        SummaryRoutes,
        OperateRoutes,
        WorkflowRoutes,
        PageRoutes,
        DashboardRoutes,
        DefinitionRoutes,
        TailRoutes,
    )
    for group in groups:
        for route in group.routes(group.__new__(group)):
            found.add((route.method, re.sub(r"\{(\w+):[^/]*\}(?=/|$)", r"{\1}", route.path)))
    return found


async def test_openapi_schemas_hold_for_real_answers(tenant: Client) -> None:
    """No schema library is needed for this much: required fields are there, unknown ones are not."""
    document = (await tenant.get("/openapi.json")).json
    schemas = document["components"]["schemas"]
    answer = await tenant.judge(70)
    record = (await tenant.get(f"/api/v1/judgments/{answer['judgment_id']}")).json
    workflow = (await tenant.get("/api/v1/workflows/check")).json
    problem = (await tenant.execute({}, "nothing")).json
    examples: list[tuple[str, dict[str, Any]]] = [
        ("JudgmentAnswer", answer), ("JudgmentRecord", record), ("WorkflowAnswer", workflow),
        ("WorkflowDefinition", workflow["definition"]),
    ]  # fmt: skip
    for name, value in examples:
        schema = schemas[name]
        assert set(schema["required"]) <= set(value), name
        assert set(value) <= set(schema["properties"]), name
    assert set(schemas["Problem"]["required"]) <= set(problem)

    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*(references(value) for value in node.values()))
        return set().union(*(references(value) for value in node)) if isinstance(node, list) else set()

    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas
    operations = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(operations) == len(set(operations))


@pytest.mark.parametrize("form", ["json", "console"])
async def test_logs_have_one_event_for_each_line(database: Database, start_engine: Callable[..., Engine], form: str) -> None:
    engine = start_engine(database, settings={"JUDGIFY_LOG_FORMAT": form})
    async with Client(engine.url, "test-token") as client:
        await client.judge(70, "test-workflow-0")
    await until(lambda: "reading the log" in engine.log, "the log is being read")
    assert engine.terminate() == 0
    lines = engine.log.splitlines()
    assert len(lines) >= 5
    if form == "json":
        events = [json.loads(line) for line in lines]
        assert all({"time", "level", "event", "logger"} <= set(event) for event in events)
        assert [event["event"] for event in events if event["event"] in ("serving", "stopping", "stopped")] == [
            "serving", "stopping", "stopped",
        ]  # fmt: skip
    assert "test-token" not in engine.log
