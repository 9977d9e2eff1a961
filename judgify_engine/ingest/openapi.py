"""The OpenAPI 3.1 document, generated from the very types that decode requests and encode answers."""

from collections.abc import Mapping
from typing import Any

import msgspec

from judgify_engine import __version__
from judgify_engine.ingest.operations import OPERATIONS, Operation
from judgify_engine.wire.problem import CONTENT_TYPE, Problem
from judgify_engine.wire.request import ExecuteRequest

SCHEMA = "#/components/schemas/{name}"
_ERRORS = {
    400: "Not valid JSON.",
    401: "The token is missing, unknown, expired or revoked.",
    403: "The token lacks the scope.",
    404: "Not found, or another tenant's.",
    409: "The stored workflow cannot be used, or there is nothing (more) to replay.",
    412: "Another version is current; `version` is its number.",
    413: "The body is too large.",
    422: "A field is wrong; the detail names it.",
    429: "The tenant's quota is used up; come back after `Retry-After` seconds.",
    503: "Overloaded, stopping, or PostgreSQL is away; come back after `Retry-After` seconds.",
}


def build_openapi() -> bytes:
    """The document as JSON."""
    types = _types()
    refs, components = msgspec.json.schema_components(types, ref_template=SCHEMA)
    schema_of = dict(zip(types, refs, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _describe(operation, schema_of)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Judgify engine",
            "version": __version__,
            "description": "Automated judgments: decided, committed, then answered. A 200 means: PostgreSQL has it on disk.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "Names the tenant."}},
        },
    }
    return msgspec.json.encode(document)


def _types() -> list[Any]:
    """All that is sent or answered, each once."""
    bodies = [operation.body for operation in OPERATIONS if operation.body is not None]
    answers = [kind for operation in OPERATIONS for kind, _text in operation.answers.values() if kind is not None]
    return list(dict.fromkeys([*bodies, *answers, Problem]))


def _describe(operation: Operation, schema_of: Mapping[Any, dict[str, Any]]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, (kind, text) in operation.answers.items():
        responses[str(status)] = {"description": text}
        if kind is not None:
            responses[str(status)]["content"] = {"application/json": {"schema": schema_of[kind]}}
            if operation.csv:
                responses[str(status)]["content"]["text/csv"] = {"schema": {"type": "string"}}
    for status in operation.errors:
        responses[str(status)] = {
            "description": _ERRORS[status],
            "content": {CONTENT_TYPE: {"schema": schema_of[Problem]}},
        }
        if status == 503:
            responses["503"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    described: dict[str, Any] = {"tags": [operation.tag], "summary": operation.summary, "responses": responses}
    described["operationId"] = operation.id or operation.method + "".join(
        part.strip("{}").title().replace("_", "") for part in operation.path.split("/") if part not in ("api", "v1")
    )
    if operation.scope:
        described["security"] = [{"token": []}]
        described["description"] = f"Needs the scope `{operation.scope}`."
    if operation.body is not None:
        content = {"schema": schema_of[operation.body]}
        if operation.body is ExecuteRequest:
            content["example"] = _EXAMPLE
        described["requestBody"] = {"required": operation.body_required, "content": {"application/json": content}}
    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    return described


_EXAMPLE = {
    "workflow_id": "test-workflow-3",
    "input_data": {"temperature": 92.3, "pressure": 101.2, "vibration": 44.1, "machine_id": "MACHINE_3", "user_id": 13},
    "context": {"shift": "day", "operator": "operator_3"},
}
