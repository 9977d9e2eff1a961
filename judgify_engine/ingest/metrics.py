"""GET /api/v1/metrics: figures of metrics over a time frame, or a chart of the dashboard, as JSON or CSV."""

import asyncio
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

import msgspec
from aiohttp import web

from judgify_engine.core.charts import DEFAULT_METRICS, JUDGED, Frame, frame_of, merged, stored_name, stored_names, whole
from judgify_engine.core.counts import COUNTED, EVERY, METHOD_PREFIX, RESULT_PREFIX, is_counted
from judgify_engine.core.dashboards import BUCKETS_S, CHARTS, METHOD_METRICS, TRACKED_CHART, metrics_of
from judgify_engine.core.histogram import ERROR
from judgify_engine.core.rollup import Sums
from judgify_engine.core.samples import CONFIDENCE, EXECUTION_TIME, FINE_S, TRACKED_PREFIX, Sample
from judgify_engine.core.tracking import EARLIEST_US, LATEST_US
from judgify_engine.errors import InvalidField
from judgify_engine.ingest.judgments import JSON
from judgify_engine.ingest.query import checked_query, is_field, one_of, time_us, workflow_ids_of
from judgify_engine.pipeline.access import Access
from judgify_engine.units import Position
from judgify_engine.wire.answer import format_time
from judgify_engine.wire.metrics import (
    Chart,
    MetricsAnswer,
    confidence_chart,
    encode_csv,
    results_chart,
    series_of,
    sums_chart,
    time_text,
    tracked_chart,
    workflows_chart,
)

CSV = "text/csv"
FORMATS = ("json", "csv")
MAX_METRICS = 32
ALL_METRICS = "*"
DAY_S = 86_400


class ReadBuckets(Protocol):
    """What was read; see store/charts."""

    known: list[str]
    workflows: dict[str, Sums]
    position: Position | None
    verified_through: datetime | None

    @property
    def metrics(self) -> list[str]: ...
    def samples(self, metric: str) -> Sequence[tuple[int, Sample]]: ...


class ChartSource(Protocol):
    """Where the stored buckets are; see store/charts."""

    async def read(
        self,
        tenant_id: str,
        workflow_ids: list[str],
        choose: Callable[[list[str]], list[str]],
        frame: Frame,
        *,
        workflows: bool = False,
    ) -> ReadBuckets: ...


class _Asked(NamedTuple):
    timeframe: str
    frame: Frame
    workflow_ids: list[str]
    """Empty: all."""
    metrics: list[str] | None
    """None: all that there are."""
    chart: str | None
    field: str | None
    csv: bool


class MetricsRoutes:
    """The handler; see `routes`. `keep_days`: how long buckets of 5 minutes are kept."""

    def __init__(self, source: ChartSource, access: Access, keep_days: int) -> None:
        self._source, self._access, self._keep_days = source, access, keep_days

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/v1/metrics", self.get, allow_head=False)]

    async def get(self, request: web.Request) -> web.Response:
        """One tenant's figures, in the buckets of the time frame."""
        grant = await self._access.check(request.headers.get("Authorization"), "read")
        now_s = time.time()
        asked = _asked(request, now_s)
        self._check_kept(asked, now_s)

        def choose(known: list[str]) -> list[str]:
            if asked.chart is None:
                return stored_names(_metrics(asked, known))
            more = metrics_of(asked.chart, asked.field)
            return [*more] if asked.chart in _WITHOUT_TIMES else [EXECUTION_TIME, *more]

        workflows = asked.chart == "workflows_chart"
        read = await self._source.read(grant.tenant_id, asked.workflow_ids, choose, asked.frame, workflows=workflows)
        answer = await _answer(grant.tenant_id, asked, read, now_s)
        if not asked.csv:
            return web.Response(body=msgspec.json.encode(answer), content_type=JSON, headers={"Vary": "Accept"})
        return web.Response(
            body=encode_csv(answer, now_s), content_type=CSV, charset="utf-8", headers=_csv_headers(asked, answer)
        )

    def _check_kept(self, asked: _Asked, now_s: float) -> None:
        since_s = now_s - self._keep_days * DAY_S
        if asked.frame.stored_s == FINE_S and asked.frame.start_s < since_s:
            raise InvalidField(
                f"buckets of 5 minutes are kept for {self._keep_days} days (metrics.keep_days), and the frame would begin at"
                f" {time_text(asked.frame.start_s)}; timeframe 24h and 7d are kept for ever",
                field="until",
                limit=time_text(int(since_s)),
            )


def _asked(request: web.Request, now_s: float) -> _Asked:
    known = {"timeframe", "workflow_id", "metric", "chart", "field", "until", "format"}
    query = checked_query(request, known, lists=("metric", "workflow_id"))
    timeframe = one_of(query, "timeframe", BUCKETS_S) or "24h"
    chart = one_of(query, "chart", CHARTS)
    if chart and "metric" in query:
        raise InvalidField("chart and metric exclude each other; ask for one of them", field="chart")
    field = _field(query, chart)
    until_us = time_us(query, "until")
    if until_us is not None and not EARLIEST_US <= until_us <= LATEST_US:
        raise InvalidField(f"until must lie from 2000 to 2200, got {query['until'][:40]!r}", field="until")
    frame = frame_of(timeframe, int(now_s * 1_000_000) if until_us is None else until_us)
    as_csv = (one_of(query, "format", FORMATS) or _preferred(request.headers.get("Accept", ""))) == "csv"
    return _Asked(timeframe, frame, workflow_ids_of(query), _named(query.get("metric")), chart, field, as_csv)


def _field(query: dict[str, str], chart: str | None) -> str | None:
    """The tracked field of a chart that has one. Raises InvalidField."""
    field = query.get("field")
    if chart != TRACKED_CHART:
        if field is not None:
            raise InvalidField(f"field belongs to chart={TRACKED_CHART}", field="field")
        return None
    if field is None or not is_field(field):
        came = "nothing" if field is None else repr(field[:80])
        detail = f"{TRACKED_CHART} needs a field that a workflow tracks, such as temperature, got {came}"
        raise InvalidField(detail, field="field")
    return field


def _named(text: str | None) -> list[str] | None:
    """The metrics of a list, each once. Raises InvalidField."""
    if text is None:
        return list(DEFAULT_METRICS)
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if names == [ALL_METRICS]:
        return None
    for name in names:
        if name not in JUDGED and not name.startswith(COUNTED) and not (name.startswith(TRACKED_PREFIX) and name[6:]):
            raise InvalidField(
                f"metric must be {', '.join(JUDGED)}, {TRACKED_PREFIX}FIELD for a tracked field, result.NAME or method.NAME"
                f" for how often that came ({', '.join(EVERY)} for all of them), several of them with commas between, or"
                f" {ALL_METRICS} alone for all but the counts, got {name[:80]!r}",
                field="metric",
            )
    if len(names) > MAX_METRICS:
        raise InvalidField(
            f"at most {MAX_METRICS} metrics at once, got {len(names)}; ask in several requests",
            field="metric",
            limit=MAX_METRICS,
        )
    return names


def _metrics(asked: _Asked, known: list[str]) -> list[str]:
    """The metrics to tell. Raises InvalidField where all are too many."""
    if asked.metrics is None:
        found = [name for name in _available(known) if not is_counted(name)]
    else:
        found = list(dict.fromkeys(name for one in asked.metrics for name in _meant(one, known)))
    if len(found) > MAX_METRICS:
        raise InvalidField(
            f"these are {len(found)} metrics here and at most {MAX_METRICS} are told at once: name those that you want"
            " (`available` lists them), or a workflow",
            field="metric",
            limit=MAX_METRICS,
        )
    return found


def _meant(name: str, known: list[str]) -> list[str]:
    prefix = EVERY.get(name)
    return [name] if prefix is None else [one for one in known if one.startswith(prefix)]


def _available(known: list[str]) -> list[str]:
    return [*JUDGED, *(name for name in known if name not in JUDGED)]


async def _answer(tenant_id: str, asked: _Asked, read: ReadBuckets, now_s: float) -> MetricsAnswer:
    frame, chart = asked.frame, None
    metrics = []
    if asked.chart:
        chart = _chart(asked.chart, asked.field, read, frame)
    else:
        samples: dict[str, tuple[list[Sample], Sample]] = {}
        for metric in _metrics(asked, read.known):
            stored = stored_name(metric)
            if stored not in samples:
                buckets = merged(read.samples(stored), frame)
                samples[stored] = buckets, whole(buckets)
            metrics.append(series_of(metric, *samples[stored], frame, now_s))
            await asyncio.sleep(0)  # a metric takes a millisecond or two: judgments do not wait for all of them
    return MetricsAnswer(
        tenant_id=tenant_id,
        workflow_id=asked.workflow_ids[0] if len(asked.workflow_ids) == 1 else None,
        workflow_ids=asked.workflow_ids,
        timeframe=asked.timeframe,
        from_=time_text(frame.start_s),
        to=time_text(frame.end_s),
        bucket_s=frame.bucket_s,
        quantile_error=ERROR,
        metrics=metrics,
        chart=chart,
        available=_available(read.known),
        position=None if read.position is None else str(read.position),
        verified_through=None if read.verified_through is None else format_time(read.verified_through),
        recomputing=read.position is None,
    )


_WITHOUT_TIMES = (TRACKED_CHART, "results_chart", "confidence_chart", "workflows_chart")


def _chart(chart: str, field: str | None, read: ReadBuckets, frame: Frame) -> Chart:
    if chart == "workflows_chart":
        return workflows_chart(read.workflows)

    def buckets(metric: str) -> list[Sample]:
        return merged(read.samples(metric), frame)

    if chart == "results_chart":
        names = [metric for metric in read.metrics if metric.startswith(RESULT_PREFIX)]
        return results_chart({metric.removeprefix(RESULT_PREFIX): buckets(metric) for metric in names}, frame)
    if chart == "confidence_chart":
        return confidence_chart(buckets(CONFIDENCE))
    if chart == TRACKED_CHART:
        return tracked_chart(buckets(*metrics_of(chart, field)), frame)
    methods = METHOD_METRICS if chart == "methods_chart" else ()
    counts = {metric.removeprefix(METHOD_PREFIX): buckets(metric) for metric in methods}
    return sums_chart(chart, buckets(EXECUTION_TIME), counts, frame)


def _csv_headers(asked: _Asked, answer: MetricsAnswer) -> dict[str, str]:
    """A file name, and what has no place in the rows."""
    who = re.sub(r"[^A-Za-z0-9._-]", "_", ",".join(asked.workflow_ids) or "all")[:80]
    end = re.sub("[-:]|[.]0+", "", answer.to)
    return {
        "Content-Disposition": f'attachment; filename="judgify-{asked.chart or "metrics"}-{who}-{asked.timeframe}-{end}.csv"',
        "Vary": "Accept",
        "Judgify-Position": answer.position or "",
        "Judgify-Verified-Through": answer.verified_through or "",
        "Judgify-Recomputing": "true" if answer.recomputing else "false",
    }


def _preferred(accept: str) -> str:
    """The better one of the two formats for a header Accept; JSON where it does not matter."""
    weights = {JSON: 0.0, CSV: 0.0}
    for part in accept.lower().split(","):
        kind, *parameters = (piece.strip() for piece in part.split(";"))
        weight = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
        if kind in weights and re.fullmatch(r"[01](\.\d{0,3})?", weight):
            weights[kind] = float(weight)
    return "csv" if weights[CSV] > weights[JSON] else "json"
