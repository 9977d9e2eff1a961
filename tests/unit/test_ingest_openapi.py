"""The OpenAPI document tells what the routes do, with the types that really decode and encode."""

import re
from typing import Any

import msgspec
import pytest
from aiohttp import web

from judgify_engine.core.rule_charges import BUDGET
from judgify_engine.core.rule_costs import MAX_TOKENS
from judgify_engine.core.rules import WorkflowDefinition
from judgify_engine.errors import JudgifyError
from judgify_engine.ingest.actions import ActionRoutes
from judgify_engine.ingest.alerts import AlertRoutes
from judgify_engine.ingest.dashboards import DefinitionRoutes
from judgify_engine.ingest.gaps import GapRoutes
from judgify_engine.ingest.judgments import JudgmentRoutes
from judgify_engine.ingest.metrics import MetricsRoutes
from judgify_engine.ingest.openapi import build_openapi
from judgify_engine.ingest.operate import OperateRoutes
from judgify_engine.ingest.quality import QualityRoutes
from judgify_engine.ingest.quarantine import QuarantineRoutes
from judgify_engine.ingest.scaling import ScalingRoutes
from judgify_engine.ingest.summary import SummaryRoutes
from judgify_engine.ingest.workflows import WorkflowRoutes
from judgify_engine.live.session import DashboardRoutes
from judgify_engine.live.tail import TailRoutes
from judgify_engine.observe.metrics import Metrics
from judgify_engine.wire.request import decode_body, decode_execute

DOCUMENT: dict[str, Any] = msgspec.json.decode(build_openapi())
OPERATIONS = [(method, path, op) for path, ops in DOCUMENT["paths"].items() for method, op in ops.items()]
OWN = {"/openapi.json", "/docs", "/api/v1/asyncapi.json"}  # the documents are not in it, nor what shows them


def routes() -> list[web.RouteDef]:
    anything: Any = None
    groups: list[Any] = [
        JudgmentRoutes(anything, anything, anything, anything, anything, Metrics(), *[anything] * 4),
        QuarantineRoutes(anything, anything, anything, anything, anything),
        WorkflowRoutes(anything, anything, anything, anything, anything),
        SummaryRoutes(anything, anything),
        MetricsRoutes(anything, anything, 365),
        QualityRoutes(anything, anything),
        OperateRoutes(anything, anything, Metrics(), anything, anything, anything, b""),
        DashboardRoutes(anything, anything, Metrics(), anything),
        TailRoutes(anything, anything, Metrics(), anything),
        DefinitionRoutes(anything, anything, anything, anything),
        GapRoutes(anything, anything),
        ActionRoutes(anything, anything, anything, anything),
        ScalingRoutes(anything, anything),
        AlertRoutes(anything, anything, anything, anything, ""),
    ]
    return [route for group in groups for route in group.routes()]


def test_every_route_is_described_and_nothing_else() -> None:
    described = {(method, path) for method, path, _ in OPERATIONS}
    assert described == {
        (route.method.lower(), re.sub(r"{(\w+):.*}", r"{\1}", route.path)) for route in routes() if route.path not in OWN
    }


def test_it_is_openapi_3_1_with_a_title_and_a_version() -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    assert DOCUMENT["info"]["title"]
    assert DOCUMENT["info"]["version"]


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        return ([node["$ref"]] if "$ref" in node else []) + [ref for value in node.values() for ref in references(value)]
    return [ref for value in node for ref in references(value)] if isinstance(node, list) else []


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert found
    for ref in found:
        assert ref.removeprefix("#/components/schemas/") in DOCUMENT["components"]["schemas"], ref


def test_every_parameter_of_a_path_is_declared_and_required() -> None:
    for _, path, op in OPERATIONS:
        declared = {p["name"] for p in op.get("parameters", []) if p["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", path))
        assert all(p["required"] for p in op.get("parameters", []) if p["in"] == "path")


def test_operation_ids_are_unique() -> None:
    ids = [op["operationId"] for _, _, op in OPERATIONS]
    assert len(ids) == len(set(ids))


def test_every_operation_of_the_api_needs_a_token_and_says_its_errors() -> None:
    for method, path, op in OPERATIONS:
        if path.startswith(("/api/", "/ws/")):
            assert op["security"] == [{"token": []}], (method, path)
            assert {"401", "403", "503"} <= op["responses"].keys(), (method, path)
            for status, response in op["responses"].items():
                if int(status) >= 400:
                    assert list(response["content"]) == ["application/problem+json"]
        else:
            assert "security" not in op


def test_503_tells_of_retry_after() -> None:
    for _, path, op in OPERATIONS:
        if "503" in op["responses"] and path.startswith("/api/"):
            assert "Retry-After" in op["responses"]["503"]["headers"]


def test_every_status_told_is_one_that_an_error_has() -> None:
    known = {error.status for error in every(JudgifyError)}
    for _, path, op in OPERATIONS:
        assert {int(status) for status in op["responses"] if int(status) >= 400} <= known, path


def every(kind: type[JudgifyError]) -> set[type[JudgifyError]]:
    return {kind}.union(*(every(sub) for sub in kind.__subclasses__()))


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["components"]["schemas"][name]
    return found


def test_the_request_is_described_as_it_is_decoded() -> None:
    request = schema("ExecuteRequest")
    assert set(request["properties"]) == {"workflow_id", "input_data", "context", "occurred_at"}
    assert set(request["required"]) == {"workflow_id", "input_data"}
    assert request["additionalProperties"] is False
    assert request["properties"]["input_data"]["type"] == request["properties"]["context"]["type"] == "object"
    assert request["properties"]["workflow_id"]["pattern"]


def test_the_example_is_a_valid_request() -> None:
    content = DOCUMENT["paths"]["/api/v1/judgments/execute"]["post"]["requestBody"]["content"]["application/json"]
    assert decode_execute(msgspec.json.encode(content["example"])).workflow_id == "test-workflow-3"


def test_the_answer_has_the_members_of_the_design() -> None:
    assert {
        "judgment_id", "workflow_id", "workflow_version", "final_result", "confidence_score", "method_used", "status",
        "execution_time_ms", "created_at",
    } <= schema("JudgmentAnswer")["properties"].keys()  # fmt: skip


def test_a_problem_has_the_members_of_rfc_9457() -> None:
    assert {"type", "title", "status", "code", "detail"} <= schema("Problem")["properties"].keys()


@pytest.mark.parametrize("text", [b'{"default": {"result": {}}}', b'{"default": {"result": {}}, "rules": []}'])
def test_what_the_schema_requires_of_a_workflow_is_what_the_decoder_requires(text: bytes) -> None:
    assert schema("WorkflowDefinition")["required"] == ["default"]
    assert decode_body(text, WorkflowDefinition).rules == []


def test_the_limits_of_what_rules_cost_are_told() -> None:
    told = DOCUMENT["components"]["schemas"]["Rule"]["properties"]["when"]["description"]
    assert "matches" in told
    assert str(BUDGET) in told
    assert str(MAX_TOKENS) in told
