"""GET /api/v1/gaps."""

from typing import Any, Protocol

import msgspec
from aiohttp import web

from judgify_engine.ingest.judgments import JSON
from judgify_engine.ingest.query import checked_query, limit_of
from judgify_engine.pipeline.access import Access
from judgify_engine.wire.answer import format_time
from judgify_engine.wire.gaps import Gap, GapPage


class GapSource(Protocol):
    """Where gaps are recorded; see store/gaps."""

    async def list(self, tenant_id: str, limit: int) -> list[Any]: ...


class GapRoutes:
    """The handler; see `routes`."""

    def __init__(self, source: GapSource, access: Access) -> None:
        self._source, self._access = source, access

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/v1/gaps", self.get, allow_head=False)]

    async def get(self, request: web.Request) -> web.Response:
        """Gaps of the whole engine, with the counts of the asking tenant."""
        grant = await self._access.check(request.headers.get("Authorization"), "read")
        limit = limit_of(checked_query(request, {"limit"}))
        page = GapPage([_gap(row) for row in await self._source.list(grant.tenant_id, limit)])
        return web.Response(body=msgspec.json.encode(page), content_type=JSON)


def _gap(row: Any) -> Gap:
    finished = row["recompute_finished_at"]
    return Gap(
        id=row["id"],
        reason=row["reason"],
        recomputing=finished is None,
        failing=row["failing"],
        attempts=row["attempts"],
        detected_at=format_time(row["detected_at"]),
        from_position=None if row["from_lsn"] is None else f"{row['from_lsn']}-{row['from_index']}",
        last_applied_at=None if row["last_applied_at"] is None else format_time(row["last_applied_at"]),
        to_lsn=row["to_lsn"],
        recompute_started_at=format_time(row["recompute_started_at"]),
        recompute_finished_at=None if finished is None else format_time(finished),
        judgments_before=row["judgments_before"],
        judgments_after=row["judgments_after"],
    )
