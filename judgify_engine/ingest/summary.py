"""GET /api/v1/summary."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

import msgspec
from aiohttp import web

from judgify_engine.core.quality import severity
from judgify_engine.errors import InvalidField
from judgify_engine.ingest.judgments import JSON
from judgify_engine.ingest.query import checked_query
from judgify_engine.pipeline.access import Access
from judgify_engine.wire.answer import format_time
from judgify_engine.wire.quality import quality_of
from judgify_engine.wire.summary import Alert, Figures, Period, QualityPeriod, Summary, Trends

TIMEFRAMES = ("1h", "6h", "24h", "7d")


class SummarySource(Protocol):
    """Where the sums are; see store/summary."""

    async def read(self, tenant_id: str, workflow_id: str | None, timeframe: str) -> Any: ...


class SummaryRoutes:
    """The handler; see `routes`."""

    def __init__(self, source: SummarySource, access: Access) -> None:
        self._source, self._access = source, access

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/v1/summary", self.get, allow_head=False)]

    async def get(self, request: web.Request) -> web.Response:
        """One tenant's figures, trends and alerts, and up to when they are verified."""
        grant = await self._access.check(request.headers.get("Authorization"), "read")
        query = checked_query(request, {"timeframe", "workflow_id"})
        timeframe = timeframe_of(query)
        workflow_id = query.get("workflow_id")
        read = await self._source.read(grant.tenant_id, workflow_id, timeframe)
        start, end = map(format_time, read.hours)
        quality = QualityPeriod(**msgspec.structs.asdict(quality_of(read.stored, read.wrong)), from_=start, to=end)
        summary = Summary(
            tenant_id=grant.tenant_id,
            workflow_id=workflow_id,
            timeframe=timeframe,
            summary=_period(read.now),
            trends=_trends(read.current, read.previous),
            quality=quality,
            alerts=[*_gap(read.gap), *_quality_alerts(quality), *(_difference(row) for row in read.differences)],
            verified_through=_text(read.verified_through),
            recomputing=read.recomputing,
        )
        return web.Response(body=msgspec.json.encode(summary), content_type=JSON)


def timeframe_of(query: Mapping[str, str]) -> str:
    """The time frame asked for. Raises InvalidField."""
    timeframe = query.get("timeframe", "24h")
    if timeframe not in TIMEFRAMES:
        raise InvalidField(f"timeframe must be one of {', '.join(TIMEFRAMES)}, got {timeframe[:40]!r}", field="timeframe")
    return timeframe


def _quality_alerts(quality: QualityPeriod) -> list[Alert]:
    how_bad = severity(quality.valid_share)
    if how_bad is None or quality.valid_share is None:
        return []
    kinds = sorted({*quality.refused, *quality.stored})
    detail = (
        f"{quality.invalid} of {quality.records} records were invalid ({quality.valid_share:.1%} valid): {', '.join(kinds)};"
        " see GET /api/v1/quality and GET /api/v1/quarantine"
    )
    return [Alert(type="data_quality_alert", severity=how_bad, detail=detail, from_=quality.from_, to=quality.to)]


def _period(span: Any) -> Period:
    total = span.total
    figures = Figures(
        total_executions=total,
        successful_executions=span.successful,
        success_rate=round(span.successful / total, 6) if total else None,
        mean_response_time_ms=round(span.execution_time_us / 1000 / total, 4) if total else None,
        mean_confidence=round(span.confidence_ppm / 1e6 / total, 6) if total else None,
    )
    return Period(format_time(span.start), format_time(span.end), figures)


def _trends(current: Any, previous: Any) -> Trends:
    now, before = _period(current), _period(previous)
    rates = now.figures.success_rate, before.figures.success_rate
    return Trends(
        current=now,
        previous=before,
        total_executions_change=_relative(now.figures.total_executions, before.figures.total_executions),
        success_rate_change=None if rates[0] is None or rates[1] is None else round(rates[0] - rates[1], 6),
        mean_response_time_change=_relative(now.figures.mean_response_time_ms, before.figures.mean_response_time_ms),
    )


def _relative(now: float | None, before: float | None) -> float | None:
    return None if now is None or not before else round(now / before - 1, 6)


def _gap(gap: tuple[str, datetime] | None) -> list[Alert]:
    if gap is None or gap[0] == "first":
        return []
    reason, since = gap
    detail = f"changes may have been missed ({reason}); all rollups are being computed anew, see GET /api/v1/gaps"
    return [Alert(type="recomputing", severity="critical", detail=detail, from_=format_time(since))]


def _difference(row: Any) -> Alert:
    start, end = format_time(row["range_from"]), format_time(row["range_to"])
    return Alert(
        type="rollup_difference",
        severity="critical",
        detail=f"{row['stored']} judgments are stored in this range and {row['rolled_up']} are {row['arm'].replace('_', ' ')},"
        " or their sums differ",
        from_=start,
        to=end,
        stored=row["stored"],
        rolled_up=row["rolled_up"],
        repair=f"judgify-engine rebuild --from {start} --to {end}",
    )


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)
