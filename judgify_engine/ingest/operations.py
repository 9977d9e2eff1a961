"""Every operation of the HTTP API, for the document that describes it (ingest/openapi)."""

from typing import Any, NamedTuple

from judgify_engine.core.actions import NAME
from judgify_engine.core.alert_rules import SEVERITIES, AlertRule
from judgify_engine.core.alert_sinks import AlertSink
from judgify_engine.core.charts import DEFAULT_METRICS, JUDGED
from judgify_engine.core.dashboards import BUCKETS_S, CHARTS, MAX_WORKFLOW_IDS, Dashboard
from judgify_engine.core.quality import KINDS
from judgify_engine.core.results import RESULT_CHARS
from judgify_engine.core.rules import WorkflowDefinition
from judgify_engine.core.tracking import MAX_NAME_CHARS
from judgify_engine.ingest.metrics import FORMATS, MAX_METRICS
from judgify_engine.ingest.workflows import MAX_ID_CHARS, WorkflowAnswer, WorkflowPage
from judgify_engine.wire.actions import STATES, ActionPage, ActionRecord, AttemptPage, ReplayedActions
from judgify_engine.wire.alerts import (
    STATES as ALERT_STATES,
)
from judgify_engine.wire.alerts import (
    Acknowledgement,
    AlertPage,
    AlertRecord,
    RulePage,
    RuleRecord,
    Silence,
    SilencePage,
    SilenceRecord,
    SinkPage,
    SinkRecord,
)
from judgify_engine.wire.answer import JudgmentAnswer, JudgmentPage
from judgify_engine.wire.dashboards import DashboardAnswer, DashboardList, DashboardVersions
from judgify_engine.wire.explained import ExplainedRecord
from judgify_engine.wire.gaps import GapPage
from judgify_engine.wire.metrics import MetricsAnswer
from judgify_engine.wire.quality import QualityReport
from judgify_engine.wire.quarantine import QuarantinePage, QuarantineRecord
from judgify_engine.wire.request import WORKFLOW_ID, ExecuteRequest
from judgify_engine.wire.scaling import ScalingAnswer
from judgify_engine.wire.summary import Summary


class Operation(NamedTuple):
    """One method of one path. `answers`: status to type (None: no body) and description."""

    method: str
    path: str
    tag: str
    summary: str
    scope: str | None
    answers: dict[int, tuple[type[Any] | None, str]]
    errors: tuple[int, ...] = ()
    body: Any = None
    parameters: tuple[dict[str, Any], ...] = ()
    body_required: bool = True
    csv: bool = False
    """Whether the answer can be had as CSV too."""
    id: str | None = None
    """Where the one made of method and path is another's."""


def _parameter(name: str, where: str, schema: dict[str, Any], text: str) -> dict[str, Any]:
    return {"name": name, "in": where, "required": where == "path", "description": text, "schema": schema}


_WORKFLOW_ID = _parameter("workflow_id", "path", {"type": "string", "pattern": WORKFLOW_ID}, "The workflow's id.")
_CONTAINS = _parameter("contains", "query", {"type": "string", "maxLength": MAX_ID_CHARS}, "With this in the id, in any case.")
_LIMIT = _parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": 500, "default": 50}, "Items in one page.")
_CURSOR = _parameter("cursor", "query", {"type": "string"}, "`next_cursor` of the page before.")
_UUID = {"type": "string", "format": "uuid"}
_TIME = {"type": "string", "format": "date-time"}
_KEY = _parameter(
    "Idempotency-Key",
    "header",
    {"type": "string", "minLength": 1, "maxLength": 255},
    "Visible ASCII. A repeat with the same key gets the first answer, also after a crash.",
)
_WORKFLOW_IDS = {
    **_parameter(
        "workflow_id",
        "query",
        {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": MAX_WORKFLOW_IDS},
        "Of these workflows only; absent: of all.",
    ),
    "style": "form",
    "explode": False,
}
_FILTERS = (
    _parameter("workflow_id", "query", {"type": "string"}, "Of this workflow only."),
    _parameter("status", "query", {"enum": ["completed", "failed"]}, "With this status only."),
    _parameter("method_used", "query", {"enum": ["rule", "llm", "hybrid"]}, "Judged by this method only."),
    _parameter("created_from", "query", _TIME, "Not before."),
    _parameter("created_to", "query", _TIME, "Before."),
)
_RESULT = _parameter(
    "result",
    "query",
    {"type": "string", "maxLength": RESULT_CHARS},
    "With this result only, as the figures have it: `final_result.verdict`; empty: without one; `failed`: of failed judgments.",
)
_CONFIDENCE = {"type": "number", "minimum": 0, "maximum": 1}
_BEHIND = (
    _parameter("confidence_min", "query", _CONFIDENCE, "With at least this confidence (in millionths), as a bin begins."),
    _parameter("confidence_max", "query", _CONFIDENCE, "With less, as the next bin begins; `1` holds 1, as the last bin does."),
    _parameter(
        "tracked", "query", {"type": "string", "maxLength": MAX_NAME_CHARS},
        "With a value of this field that is charted: a number, where the workflow's version tracks the field.",
    ),
    _parameter(
        "occurred_from", "query", _TIME,
        "Occurred not before, as tracked fields are charted: by `occurred_at` from 2000 to 2200, else by `created_at`. The list"
        " is then in the order of that time.",
    ),
    _parameter("occurred_to", "query", _TIME, "Occurred before."),
)  # fmt: skip
"""What it takes to list the judgments behind a point of any chart."""
_EXPLAIN = _parameter(
    "explain", "query", {"enum": ["true", "false"], "default": "false"}, "Also the rules, asked again, and the actions."
)

_DASHBOARD_ID = _parameter("dashboard_id", "path", {"type": "string", "pattern": WORKFLOW_ID}, "The dashboard's id.")
_TAG = {"type": "string", "pattern": '^"[0-9]+"$'}
_IF_MATCH = _parameter("If-Match", "header", _TAG, 'Only over this version; `"0"`: only where none is stored.')
_ACTION_ID = _parameter("action_id", "path", _UUID, "As the list gives it.")
_ACTION_NAME = _parameter("action", "query", {"type": "string"}, "With this name only.")
_QUARANTINE_ID = _parameter("quarantine_id", "path", _UUID, "As the list gives it.")
_METRICS = (
    _parameter("timeframe", "query", {"enum": list(BUCKETS_S), "default": "24h"}, "How far back from `until`."),
    _WORKFLOW_IDS,
    {
        **_parameter(
            "metric",
            "query",
            {"type": "array", "items": {"type": "string"}, "maxItems": MAX_METRICS, "default": list(DEFAULT_METRICS)},
            f"{', '.join(JUDGED)}, `input.FIELD` for a field that a workflow tracks, or `*` for all of these;"
            " `result.NAME` and `method.NAME` for how often that came, `result.*` and `method.*` for all of them.",
        ),
        "style": "form",
        "explode": False,
    },
    _parameter("chart", "query", {"enum": list(CHARTS)}, "A chart of the dashboard, instead of metrics."),
    _parameter("field", "query", {"type": "string"}, "The field of a `tracked_inputs_chart`."),
    _parameter("until", "query", _TIME, "The frame ends with the bucket that this is in or ends; absent: now."),
    _parameter("format", "query", {"enum": list(FORMATS)}, "Absent: as the header `Accept` says, JSON without one."),
)

_ALERT_ID = _parameter("alert_id", "path", _UUID, "As the list gives it.")


def _kept_by_name(path: str, name: str, what: str, record: Any, page: Any, body: Any, more: str) -> tuple[Operation, ...]:
    """The four of what is kept by a name: rules, sinks, silences."""
    one, by_id = f"{path}/{{{name}}}", (_parameter(name, "path", {"type": "string", "pattern": NAME}, f"The {what}'s name."),)
    versions = (_parameter("version", "query", {"type": "integer", "minimum": 0}, "Absent: the current one; 0: as built in."),)
    return (
        Operation("get", path, "Alerts", f"All {what}s", "read", {200: (page, "All.")}, (401, 403, 422, 429, 503)),
        Operation(
            "get", one, "Alerts", f"One {what}", "read", {200: (record, f"The {what}.")}, (401, 403, 404, 422, 429, 503), None,
            by_id + (versions if record is RuleRecord else ()),
        ),
        Operation(
            "put", one, "Alerts", f"Store a {what}{more}", "admin",
            {200: (record, "Stored anew."), 201: (record, "Stored for the first time.")},
            (400, 401, 403, 413, 422, 429, 503), body, by_id,
        ),
        Operation(
            "delete", one, "Alerts", f"Delete a {what}", "admin", {204: (None, "Deleted.")}, (401, 403, 404, 422, 429, 503),
            None, by_id,
        ),
    )  # fmt: skip


_ALERT_OPERATIONS = (
    Operation(
        "get", "/api/v1/alerts", "Alerts", "What fires and what fired, newest first", "read", {200: (AlertPage, "A page.")},
        (401, 403, 422, 429, 503), None,
        (
            _parameter("state", "query", {"enum": list(ALERT_STATES)}, "In this state only."),
            _parameter("rule_id", "query", {"type": "string"}, "Of this rule only."),
            _parameter("severity", "query", {"enum": list(SEVERITIES)}, "With this severity only."),
            _FILTERS[0], _LIMIT, _CURSOR,
        ),
    ),
    Operation(
        "get", "/api/v1/alerts/{alert_id}", "Alerts", "One alert, and who was told of it", "read",
        {200: (AlertRecord, "The alert.")}, (401, 403, 404, 429, 503), None, (_ALERT_ID,),
    ),
    Operation(
        "post", "/api/v1/alerts/{alert_id}/acknowledge", "Alerts", "Say that somebody looks after it", "admin",
        {200: (AlertRecord, "The alert.")}, (400, 401, 403, 404, 413, 422, 429, 503), Acknowledgement, (_ALERT_ID,), False,
    ),
    *_kept_by_name(
        "/api/v1/alert-rules", "rule_id", "alert rule", RuleRecord, RulePage, AlertRule,
        "; of a built-in one what is left out stays as it is",
    ),
    *_kept_by_name("/api/v1/alert-sinks", "sink_id", "alert sink", SinkRecord, SinkPage, AlertSink, ""),
    *_kept_by_name("/api/v1/silences", "silence_id", "silence", SilenceRecord, SilencePage, Silence, ""),
)  # fmt: skip

OPERATIONS = (
    Operation(
        "post", "/api/v1/judgments/execute", "Judgments", "Judge, commit, then answer", "execute",
        {200: (JudgmentAnswer, "Decided, and on disk.")}, (400, 401, 403, 404, 409, 413, 422, 429, 503),
        ExecuteRequest, (_KEY,),
    ),
    Operation(
        "get", "/api/v1/judgments", "Judgments", "List, newest first", "read", {200: (JudgmentPage, "A page.")},
        (401, 403, 422, 429, 503), None,
        (_WORKFLOW_IDS, *_FILTERS[1:], _RESULT, *_BEHIND, _LIMIT, _CURSOR),
    ),
    Operation(
        "get", "/api/v1/judgments/{judgment_id}", "Judgments", "One whole record", "read",
        {200: (ExplainedRecord, "The record.")}, (401, 403, 404, 422, 429, 503), None,
        (_parameter("judgment_id", "path", _UUID, "As the answer gave it."), _EXPLAIN),
    ),
    Operation(
        "get", "/api/v1/judgments/{judgment_id}/actions", "Actions", "What was tried for a judgment, newest first", "read",
        {200: (AttemptPage, "A page.")}, (401, 403, 404, 422, 429, 503), None,
        (_parameter("judgment_id", "path", _UUID, "As the answer gave it."), _LIMIT, _CURSOR),
    ),
    Operation(
        "get", "/api/v1/actions", "Actions", "What was, or will be, done for judgments, newest first", "read",
        {200: (ActionPage, "A page.")}, (401, 403, 422, 429, 503), None,
        (
            _parameter("state", "query", {"enum": list(STATES)}, "In this state only."),
            _FILTERS[0], _parameter("judgment_id", "query", _UUID, "Of this judgment only."), _ACTION_NAME, _LIMIT, _CURSOR,
        ),
    ),
    Operation(
        "get", "/api/v1/actions/{action_id}", "Actions", "One action of a judgment", "read",
        {200: (ActionRecord, "The action.")}, (401, 403, 404, 429, 503), None, (_ACTION_ID,),
    ),
    Operation(
        "post", "/api/v1/actions/{action_id}/replay", "Actions", "Have one that was given up tried again", "admin",
        {200: (ActionRecord, "It waits for its attempt.")}, (401, 403, 404, 409, 429, 503), None, (_ACTION_ID,),
    ),
    Operation(
        "post", "/api/v1/actions/replay", "Actions", "Have all that were given up tried again, up to 10,000", "admin",
        {200: (ReplayedActions, "How many.")}, (401, 403, 422, 429, 503), None, (_FILTERS[0], _ACTION_NAME),
    ),
    Operation(
        "get", "/api/v1/summary", "Metrics", "Figures, trends, alerts, and up to when they are verified", "read",
        {200: (Summary, "The summary.")}, (401, 403, 422, 429, 503), None,
        (_parameter("timeframe", "query", {"enum": ["1h", "6h", "24h", "7d"], "default": "24h"}, "How far back."), _FILTERS[0]),
    ),
    Operation(
        "get", "/api/v1/gaps", "Metrics", "When changes may have been missed, and the rollups were computed anew", "read",
        {200: (GapPage, "The newest first.")}, (401, 403, 422, 429, 503), None, (_LIMIT,),
    ),
    Operation(
        "get", "/api/v1/metrics", "Metrics", "Figures of metrics in buckets of time, or a chart; as JSON or CSV", "read",
        {200: (MetricsAnswer, "The figures.")}, (401, 403, 422, 429, 503), None, _METRICS, csv=True,
    ),
    Operation(
        "get", "/api/v1/quality", "Metrics", "How much of the input was valid, and what was wrong with the rest", "read",
        {200: (QualityReport, "The report.")}, (401, 403, 422, 429, 503), None,
        (_parameter("timeframe", "query", {"enum": ["1h", "6h", "24h", "7d"], "default": "24h"}, "How far back."), _FILTERS[0]),
    ),
    Operation(
        "get", "/api/v1/quarantine", "Quarantine", "Refused requests, newest first", "read", {200: (QuarantinePage, "A page.")},
        (401, 403, 422, 429, 503), None,
        (
            _FILTERS[0],
            _parameter("kind", "query", {"enum": list(KINDS)}, "With this kind of error only."),
            _parameter("replayed", "query", {"type": "boolean"}, "Replayed ones only, or others only."),
            *_FILTERS[3:], _LIMIT, _CURSOR,
        ),
    ),
    Operation(
        "get", "/api/v1/quarantine/{quarantine_id}", "Quarantine", "One refused request with its body", "read",
        {200: (QuarantineRecord, "The request.")}, (401, 403, 404, 429, 503), None, (_QUARANTINE_ID,),
    ),
    Operation(
        "post", "/api/v1/quarantine/{quarantine_id}/replay", "Quarantine", "Judge it now, as it is or corrected", "admin",
        {200: (JudgmentAnswer, "Decided, and on disk.")}, (400, 401, 403, 404, 409, 413, 422, 429, 503),
        ExecuteRequest, (_QUARANTINE_ID,), False,
    ),
    Operation(
        "delete", "/api/v1/quarantine/{quarantine_id}", "Quarantine", "Delete; a judgment that a replay made stays", "admin",
        {204: (None, "Deleted.")}, (401, 403, 404, 429, 503), None, (_QUARANTINE_ID,),
    ),
    Operation(
        "get", "/api/v1/workflows", "Workflows", "List", "read", {200: (WorkflowPage, "A page.")},
        (401, 403, 422, 429, 503), None,
        (_CONTAINS, _LIMIT, _CURSOR),
    ),
    Operation(
        "get", "/api/v1/workflows/{workflow_id}", "Workflows", "One version", "read", {200: (WorkflowAnswer, "The version.")},
        (401, 403, 404, 422, 429, 503), None,
        (_WORKFLOW_ID, _parameter("version", "query", {"type": "integer", "minimum": 1}, "Absent: the current one.")),
    ),
    Operation(
        "put", "/api/v1/workflows/{workflow_id}", "Workflows", "Store a new version", "admin",
        {200: (WorkflowAnswer, "A new version."), 201: (WorkflowAnswer, "The first version.")},
        (400, 401, 403, 413, 422, 429, 503), WorkflowDefinition, (_WORKFLOW_ID,),
    ),
    Operation(
        "delete", "/api/v1/workflows/{workflow_id}", "Workflows", "Delete; its versions are kept for the records", "admin",
        {204: (None, "Deleted.")}, (401, 403, 404, 422, 429, 503), None, (_WORKFLOW_ID,),
    ),
    *_ALERT_OPERATIONS,
    Operation(
        "get", "/api/v1/dashboards", "Dashboards", "List", "read", {200: (DashboardList, "All of them.")},
        (401, 403, 422, 429, 503),
    ),
    Operation(
        "get", "/api/v1/dashboards/{dashboard_id}", "Dashboards", "One version", "read",
        {200: (DashboardAnswer, "The version; it is the `ETag`, too.")}, (401, 403, 404, 422, 429, 503), None,
        (_DASHBOARD_ID, _parameter("version", "query", {"type": "integer", "minimum": 0}, "Absent: the current one.")),
    ),
    Operation(
        "get", "/api/v1/dashboards/{dashboard_id}/versions", "Dashboards", "Its versions, the newest first", "read",
        {200: (DashboardVersions, "A page.")}, (401, 403, 404, 422, 429, 503), None, (_DASHBOARD_ID, _LIMIT, _CURSOR),
    ),
    Operation(
        "put", "/api/v1/dashboards/{dashboard_id}", "Dashboards", "Store a new version; who watches it sees it", "admin",
        {200: (DashboardAnswer, "A new version."), 201: (DashboardAnswer, "The first version.")},
        (400, 401, 403, 412, 413, 422, 429, 503), Dashboard, (_DASHBOARD_ID, _IF_MATCH),
    ),
    Operation(
        "delete", "/api/v1/dashboards/{dashboard_id}", "Dashboards", "Delete; `main` is the built-in one again", "admin",
        {204: (None, "Deleted.")}, (401, 403, 404, 412, 422, 429, 503), None, (_DASHBOARD_ID, _IF_MATCH),
    ),
    Operation(
        "get", "/api/v1/scaling", "Operate", "How all processes are doing, and whether there should be more or fewer", "admin",
        {200: (ScalingAnswer, "The figures, what would be decided now, and the last decisions.")}, (401, 403, 422, 429, 503),
        None, (_LIMIT,),
    ),
    Operation("get", "/health", "Operate", "Is the process alive", None, {200: (None, "It is.")}),
    Operation(
        "get", "/ready", "Operate", "Can a judgment be committed now", None, {200: (None, "Yes."), 503: (None, "No; says why.")}
    ),
    Operation(
        "get", "/metrics", "Operate", "Figures for Prometheus", None, {200: (None, "Text exposition format.")},
        id="getPrometheusMetrics",
    ),
    Operation(
        "get", "/ws/dashboards/{dashboard_id}", "Live", "A dashboard over WebSocket (see PROTOCOL.md)", "read",
        {101: (None, "Switching to WebSocket.")}, (401, 403, 422, 429, 503), None,
        (
            _parameter("dashboard_id", "path", {"type": "string"}, "Any id; an undefined one shows the default charts."),
            _parameter("timeframe", "query", {"enum": list(BUCKETS_S)}, "Of the charts; absent: as defined."),
            _parameter("workflow_id", "query", {"type": "string"}, "Of this workflow only."),
            _parameter("position", "query", {"type": "string"}, "`resume` of the last message seen: go on from there."),
            _parameter("definition_version", "query", {"type": "integer", "minimum": 0}, "Of the last message seen."),
        ),
    ),
    Operation(
        "get", "/ws/tail", "Live", "Judgments as they come, over WebSocket (see PROTOCOL.md)", "read",
        {101: (None, "Switching to WebSocket.")}, (401, 403, 422, 429, 503), None, (*_FILTERS[:3], _RESULT),
    ),
)  # fmt: skip
