"""What a dashboard is: charts, a time frame, a filter and threshold lines, as people define them. Pure.

`main` is every tenant's dashboard from the start: where nobody has stored one, it is `BUILT_IN`, and so is what a socket with
an unknown id shows.
"""

import re
from datetime import datetime
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from judgify_engine.core.counts import METHOD_PREFIX, METHODS, RESULT_PREFIX
from judgify_engine.core.samples import CONFIDENCE, TRACKED_PREFIX
from judgify_engine.core.tracking import MAX_NAME_CHARS, NAME_PATTERN
from judgify_engine.errors import InvalidField

BUCKETS_S = {"1h": 300, "6h": 1800, "24h": 3600, "7d": 21_600}
"""Time frame to the width of its buckets (design.md §3)."""
FRAMES_S = {"1h": 3600, "6h": 21_600, "24h": 86_400, "7d": 604_800}
CHARTS = {
    "execution_count_chart": ("total", "failed"),
    "response_time_chart": ("mean_ms", "p95_ms"),
    "success_rate_chart": ("rate",),
    "results_chart": ("results",),
    "methods_chart": ("rule", "llm", "hybrid"),
    "tracked_inputs_chart": ("count", "mean", "min", "max", "p95"),
    "confidence_chart": ("count",),
    "workflows_chart": ("total", "successful", "mean_ms"),
}
"""Type of a chart to what its points hold after the first: the time, the lower end of a bin, or the workflow's id."""
TRACKED_CHART = "tracked_inputs_chart"
METHOD_METRICS = tuple(METHOD_PREFIX + method for method in METHODS)
MAIN = "main"
MAX_CHARTS, MAX_LINES, MAX_WORKFLOW_IDS, MAX_DASHBOARDS = 24, 8, 20, 200
WORKFLOW_ID = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}(?!\n)$"
_is_field = re.compile(NAME_PATTERN).match


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """A threshold drawn across a chart, in the unit of the chart's axis."""

    value: float
    label: Annotated[str, Meta(max_length=100)] = ""
    severity: Literal["info", "warning", "critical"] = "info"


class ChartDefinition(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One chart."""

    id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}(?!\n)$")]
    """Unique in the dashboard; messages name the chart by it."""
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
    title: Annotated[str, Meta(max_length=200)] | None = None
    width: Literal["half", "full"] = "half"
    field: Annotated[str, Meta(max_length=MAX_NAME_CHARS)] | None = None
    """Of a tracked_inputs_chart: the field of `input_data`, as workflows name it in `track`."""
    lines: Annotated[list[Line], Meta(max_length=MAX_LINES)] = []


class Dashboard(msgspec.Struct, forbid_unknown_fields=True):
    """A dashboard's definition."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    timeframe: Literal["1h", "6h", "24h", "7d"] = "1h"
    """What a viewer begins with."""
    workflow_ids: Annotated[list[Annotated[str, Meta(pattern=WORKFLOW_ID)]], Meta(max_length=MAX_WORKFLOW_IDS)] = []
    """Only these workflows; empty: all."""
    charts: Annotated[list[ChartDefinition], Meta(max_length=MAX_CHARTS)] = []


BUILT_IN = Dashboard(
    name="Main",
    charts=[
        ChartDefinition(id="count", type="execution_count_chart"),
        ChartDefinition(id="time", type="response_time_chart"),
        ChartDefinition(id="success", type="success_rate_chart"),
        ChartDefinition(id="results", type="results_chart"),
        ChartDefinition(id="methods", type="methods_chart"),
        ChartDefinition(id="confidence", type="confidence_chart"),
        ChartDefinition(id="workflows", type="workflows_chart", width="full"),
    ],
)


class Defined(NamedTuple):
    """A version of a dashboard's definition; 0: the one that is built in."""

    version: int
    dashboard: Dashboard


class StoredDashboard(NamedTuple):
    """One version as it is stored; `definition` is JSON."""

    dashboard_id: str
    version: int
    definition: str
    updated_at: datetime


class VersionRow(NamedTuple):
    """What a list says of a dashboard or a version."""

    dashboard_id: str
    version: int
    name: str
    updated_at: datetime


class Needs(NamedTuple):
    """What of the rollups a view shows. Views with the same needs, tenant and time frame have the same snapshot."""

    workflow_ids: tuple[str, ...]
    """Of these workflows; empty: of all."""
    metrics: tuple[str, ...]
    """Stored metrics beside execution times; one that ends in a dot stands for all whose names begin with it."""

    def shows(self, workflow_id: str) -> bool:
        return not self.workflow_ids or workflow_id in self.workflow_ids

    @property
    def fields(self) -> tuple[str, ...]:
        """The metrics of tracked fields."""
        return tuple(metric for metric in self.metrics if metric.startswith(TRACKED_PREFIX))


def metrics_of(chart: str, field: str | None = None) -> tuple[str, ...]:
    """The stored metrics of a type of chart, beside execution times; as in `Needs`."""
    if chart == "results_chart":
        return (RESULT_PREFIX,)
    if chart == "methods_chart":
        return METHOD_METRICS
    if chart == "confidence_chart":
        return (CONFIDENCE,)
    if chart == TRACKED_CHART:
        return (TRACKED_PREFIX + (field or ""),)
    return ()


def needs_of(dashboard: Dashboard, workflow_id: str | None) -> Needs:
    """What a dashboard needs. `workflow_id`: the one that the viewer picked, whatever the definition's filter."""
    metrics = {metric for chart in dashboard.charts for metric in metrics_of(chart.type, chart.field)}
    only = dashboard.workflow_ids if workflow_id is None else [workflow_id]
    return Needs(tuple(sorted(only)), tuple(sorted(metrics)))


def check_dashboard(dashboard: Dashboard) -> None:
    """Refuse what the types allow and nobody can show. Raises InvalidField, which names the member."""
    _check_twice("workflow_ids[{}]", dashboard.workflow_ids)
    _check_twice("charts[{}].id", [chart.id for chart in dashboard.charts])
    for number, chart in enumerate(dashboard.charts):
        place = f"charts[{number}].field"
        if chart.type != TRACKED_CHART and chart.field is not None:
            raise InvalidField(f"{place} belongs to a {TRACKED_CHART}, this is a {chart.type}", field=place)
        if chart.type == TRACKED_CHART and (chart.field is None or not _is_field(chart.field)):
            came = "nothing" if chart.field is None else repr(chart.field[:80])
            raise InvalidField(
                f"{place} must name a field of input_data that a workflow tracks, such as temperature or motor.rpm, got {came}",
                kind="missing_field" if chart.field is None else "invalid_value",
                field=place,
            )


def _check_twice(place: str, names: list[str]) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            where = place.format(number)
            raise InvalidField(f"{where} is {name[:80]!r}, as one before it; each may be there once", field=where)
