"""GET /api/v1/quality."""

from datetime import datetime
from typing import Any, Protocol

import msgspec
from aiohttp import web

from judgify_engine.ingest.judgments import JSON
from judgify_engine.ingest.query import checked_query
from judgify_engine.ingest.summary import timeframe_of
from judgify_engine.pipeline.access import Access
from judgify_engine.wire.answer import format_time
from judgify_engine.wire.quality import QualityReport, by_workflow, quality_of


class QualitySource(Protocol):
    """Where the counts are; see store/quality."""

    async def read(self, tenant_id: str, workflow_id: str | None, timeframe: str) -> tuple[datetime, datetime, Any]: ...


class QualityRoutes:
    """The handler; see `routes`."""

    def __init__(self, source: QualitySource, access: Access) -> None:
        self._source, self._access = source, access

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/v1/quality", self.get, allow_head=False)]

    async def get(self, request: web.Request) -> web.Response:
        """The valid share of what came in, and what was wrong with the rest, by workflow."""
        grant = await self._access.check(request.headers.get("Authorization"), "read")
        query = checked_query(request, {"timeframe", "workflow_id"})
        timeframe = timeframe_of(query)
        start, end, (stored, wrong) = await self._source.read(grant.tenant_id, query.get("workflow_id"), timeframe)
        report = QualityReport(
            tenant_id=grant.tenant_id,
            timeframe=timeframe,
            from_=format_time(start),
            to=format_time(end),
            quality=quality_of(stored, wrong),
            workflows=by_workflow(stored, wrong),
        )
        return web.Response(body=msgspec.json.encode(report), content_type=JSON)
