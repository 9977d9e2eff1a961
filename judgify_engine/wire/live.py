"""The messages of the live protocol as types: the AsyncAPI document is made of them, real messages are checked against them.

Figures are absolute. `[...]` in a description: what stands at which place of a point, which is an array.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Point = list[Any]
"""A point of a chart: mostly its time (Unix seconds, the start of its bucket), then figures; PROTOCOL.md tells which."""


class Methods(msgspec.Struct, forbid_unknown_fields=True):
    """How many were judged by which method."""

    rule: int
    llm: int
    hybrid: int


class LiveSummary(msgspec.Struct, forbid_unknown_fields=True):
    """Of the whole history, but for `p95_execution_time_ms`, which is of the time frame."""

    total_executions: int
    successful_executions: int
    failed_executions: int
    success_rate: float | None
    mean_execution_time_ms: float | None
    p95_execution_time_ms: float | None
    mean_confidence: float | None
    methods: Methods
    results: dict[str, int]
    """Count by `final_result.verdict`; empty: results without one; `failed`: failed judgments."""


class LiveWorkflow(msgspec.Struct, forbid_unknown_fields=True):
    """One workflow, over the whole history."""

    workflow_id: str
    total_executions: int
    successful_executions: int
    mean_execution_time_ms: float | None


class LiveChart(msgspec.Struct, forbid_unknown_fields=True):
    """A chart of the definition: in a `real_time_update` only the points that changed."""

    type: Literal[
        "execution_count_chart",
        "response_time_chart",
        "success_rate_chart",
        "results_chart",
        "methods_chart",
        "tracked_inputs_chart",
        "confidence_chart",
        "workflows_chart",
    ]
    points: list[Point]


class _Figures(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What all messages of a dashboard have."""

    dashboard_id: str
    definition_version: int
    """Of the dashboard's definition that this follows; 0: the built-in one."""
    tenant_id: str
    workflow_id: str | None
    position: Annotated[str, Meta(pattern=r"^[0-9A-F]+/[0-9A-F]+--?[0-9]+$")]
    """Every change up to here is in the figures, none after."""
    resume: str | None
    """What a client that comes back names as `position`; null while the rollups are computed anew."""
    recomputing: bool
    verified_through: int | None
    server_time: float
    rate_per_s: float
    summary: LiveSummary
    timeframe: Literal["1h", "6h", "24h", "7d"]
    bucket_s: int
    charts: dict[str, LiveChart]
    """By the chart's id in the definition."""
    live_bucket_s: int
    live_window_s: int
    live: list[Point]
    """[time, total, failed, mean_ms, p95_ms]"""
    workflows: list[LiveWorkflow]


class InitialData(_Figures, tag="initial_data", tag_field="type", kw_only=True):
    """The first message: everything, or, where the client named a position that is known, what changed after it."""

    recovered: bool | msgspec.UnsetType = msgspec.UNSET
    """Absent: no position was named. true: only what changed after it. false: that is not known, this is everything."""


class RealTimeUpdate(_Figures, tag="real_time_update", tag_field="type", kw_only=True):
    """What changed since the last message; the summary is whole."""


class DashboardUpdate(_Figures, tag="dashboard_update", tag_field="type", kw_only=True):
    """Everything again: every 30 s, and for a client that missed messages because it read slowly."""


DASHBOARD_MESSAGES = (InitialData, RealTimeUpdate, DashboardUpdate)
