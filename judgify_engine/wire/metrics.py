"""The answer of GET /api/v1/metrics, as JSON and as CSV. Pure.

CSV is RFC 4180: a row for each metric and bucket, times in RFC 3339, nothing where there is no figure. A name that begins with
one of `FORMULA` gets an apostrophe before it, because spreadsheets take such a cell for a formula. Numbers are left alone.
"""

import csv
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from judgify_engine.core.bins import binned
from judgify_engine.core.chart_points import (
    busiest,
    confidence_points,
    points_of,
    result_points,
    tracked_points,
    workflow_points,
)
from judgify_engine.core.charts import Figures, Frame, figures_of, sums_of
from judgify_engine.core.dashboards import CHARTS
from judgify_engine.core.rollup import Sums
from judgify_engine.core.samples import Sample
from judgify_engine.wire.answer import format_time

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


class MetricFigures(msgspec.Struct):
    """The values of a metric in [from, to), in the metric's unit; null: there are none."""

    from_: str = msgspec.field(name="from")
    to: str
    over: bool
    """Whether `to` is past. If not, more is to come."""
    count: int
    failed: int | None
    """How many of them are of failed judgments; null, as all that follows, for results and methods, which are only counted."""
    mean: float | None
    min: float | None
    max: float | None
    p50: float | None
    """As all percentiles: nearest rank, within `quantile_error` of the exact one."""
    p95: float | None
    p99: float | None


class MetricSeries(msgspec.Struct):
    """One metric: over the whole frame, and in each bucket, also in empty ones."""

    metric: str
    frame: MetricFigures
    buckets: list[MetricFigures]


class Chart(msgspec.Struct):
    """A chart of the dashboard: the points of the live protocol, also of empty buckets."""

    chart: str
    columns: list[str]
    """What a point holds: first `time`, the start of its bucket in Unix seconds; of a confidence_chart `from`, where a bin
    begins; of a workflows_chart `workflow_id`."""
    points: list[list[int | float | str | dict[str, int] | None]]
    """Results are an object: verdict to count."""


class MetricsAnswer(msgspec.Struct):
    """Figures of a tenant, or of one of its workflows, over a frame of whole buckets, [from, to)."""

    tenant_id: str
    workflow_id: str | None
    """null: all workflows, or several."""
    workflow_ids: list[str]
    """Those that were asked for; empty: all workflows."""
    timeframe: str
    from_: str = msgspec.field(name="from")
    to: str
    bucket_s: int
    quantile_error: float
    metrics: list[MetricSeries]
    chart: Chart | None
    """Where a chart was asked for instead of metrics."""
    available: list[str]
    """The metrics that there are."""
    position: str | None
    """Every change up to here is in the figures, none after; as in the live protocol."""
    verified_through: str | None
    """All judgments created before this were compared with the rollups since they last changed, and equal; null: not yet."""
    recomputing: bool
    """The rollups are being computed anew: the figures are not complete yet."""


def series_of(metric: str, buckets: Sequence[Sample], whole: Sample, frame: Frame, now_s: float) -> MetricSeries:
    """One metric's figures. `buckets`: one for each of the frame; `whole`: all of them as one."""
    spans = [(start_s, start_s + frame.bucket_s) for start_s in frame.starts_s]
    told = [_told(figures_of(metric, one), *span, now_s) for span, one in zip(spans, buckets, strict=True)]
    return MetricSeries(metric, _told(figures_of(metric, whole), frame.start_s, frame.end_s, now_s), told)


def _told(figures: Figures, start_s: int, end_s: int, now_s: float) -> MetricFigures:
    return MetricFigures(time_text(start_s), time_text(end_s), end_s <= now_s, *figures)


def sums_chart(chart: str, buckets: Sequence[Sample], methods: dict[str, list[Sample]], frame: Frame) -> Chart:
    """A chart that is made of sums. `buckets`: of execution times; `methods`: of the metric of each method."""
    sums = [sums_of(sample) for sample in buckets]
    for method, samples in methods.items():
        for one, sample in zip(sums, samples, strict=True):
            setattr(one, method, sample.count)
    return _chart(chart, points_of(chart, zip(frame.starts_s, sums, strict=True)))


def results_chart(results: dict[str, list[Sample]], frame: Frame) -> Chart:
    """`results`: result to the samples of its metric."""
    found = [{name: samples[number].count for name, samples in results.items()} for number in range(len(frame.starts_s))]
    return _chart("results_chart", result_points(zip(frame.starts_s, found, strict=True)))


def tracked_chart(buckets: Sequence[Sample], frame: Frame) -> Chart:
    """`buckets`: of the metric of the field."""
    return _chart("tracked_inputs_chart", tracked_points(zip(frame.starts_s, buckets, strict=True)))


def confidence_chart(buckets: Iterable[Sample]) -> Chart:
    """`buckets`: of confidences."""
    return _chart("confidence_chart", confidence_points(binned(one.histogram) for one in buckets), "from")


def workflows_chart(workflows: dict[str, Sums]) -> Chart:
    """`workflows`: sums of all times."""
    rows = [(name, workflows[name]) for name in busiest(workflows)]
    return _chart("workflows_chart", workflow_points(rows), "workflow_id")


def _chart(chart: str, points: list[list[Any]], first: str = "time") -> Chart:
    return Chart(chart, [first, *CHARTS[chart]], points)


def time_text(second: int) -> str:
    """A Unix second in RFC 3339."""
    return format_time(datetime.fromtimestamp(second, UTC))


def encode_csv(answer: MetricsAnswer, now_s: float) -> bytes:
    """The buckets of an answer; figures of the whole frame are not in it."""
    who = _safe(",".join(answer.workflow_ids))
    chart = answer.chart
    if chart is None:
        return _csv(["workflow_id", "metric", *_FIGURES], _metric_rows(who, answer.metrics))
    if chart.columns[0] == "workflow_id":
        rows = ([_safe(str(name)), chart.chart, *values] for name, *values in chart.points)
        return _csv(["workflow_id", "chart", *chart.columns[1:]], rows)
    if chart.columns[0] != "time":
        return _csv(["workflow_id", "chart", *chart.columns], ([who, chart.chart, *point] for point in chart.points))
    columns, points = chart.columns[1:], chart.points
    if chart.chart == "results_chart":
        columns = sorted({name for _, results in points if isinstance(results, dict) for name in results})
        points = [[time, *map((results if isinstance(results, dict) else {}).get, columns)] for time, results in points]
    head = ["workflow_id", "chart", "from", "to", "over", *map(_safe, columns)]
    return _csv(head, _chart_rows(who, chart.chart, points, answer.bucket_s, now_s))


_FIGURES = [field.encode_name for field in msgspec.structs.fields(MetricFigures)]


def _metric_rows(who: str, metrics: list[MetricSeries]) -> Iterable[list[Any]]:
    for series in metrics:
        name = _safe(series.metric)
        for bucket in series.buckets:
            yield [who, name, *map(_cell, msgspec.structs.astuple(bucket))]


def _chart_rows(who: str, chart: str, points: list[list[Any]], bucket_s: int, now_s: float) -> Iterable[list[Any]]:
    for time, *values in points:
        start_s = int(time or 0)
        end_s = start_s + bucket_s
        yield [who, chart, time_text(start_s), time_text(end_s), _cell(end_s <= now_s), *map(_cell, values)]


def _safe(name: str) -> str:
    return f"'{name}" if name.startswith(FORMULA) else name


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value


class _Lines(list[str]):
    """What a csv.writer writes to."""

    write = list.append


def _csv(head: list[str], rows: Iterable[list[Any]]) -> bytes:
    lines = _Lines()
    writer = csv.writer(lines, lineterminator="\r\n")
    writer.writerow(head)
    writer.writerows(rows)
    return "".join(lines).encode()
