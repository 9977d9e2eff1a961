"""GET /api/v1/scaling."""

from typing import Protocol

import msgspec
from aiohttp import web

from judgify_engine.ingest.judgments import JSON
from judgify_engine.ingest.query import checked_query, limit_of
from judgify_engine.pipeline.access import Access
from judgify_engine.pipeline.scaling_loop import Executor, View
from judgify_engine.wire.scaling import DecisionRecord, ScalingAnswer


class ScalingSource(Protocol):
    """See pipeline/scaling_loop."""

    executor: Executor

    async def look(self) -> View: ...

    async def recent(self, limit: int) -> list[DecisionRecord]: ...


class ScalingRoutes:
    """The handler; see `routes`."""

    def __init__(self, source: ScalingSource, access: Access) -> None:
        self._source, self._access = source, access

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/v1/scaling", self.get, allow_head=False)]

    async def get(self, request: web.Request) -> web.Response:
        """What is seen and would be decided now, whichever process is asked; and the last decisions."""
        await self._access.check(request.headers.get("Authorization"), "admin")
        limit = limit_of(checked_query(request, {"limit"}))
        view, executor = await self._source.look(), self._source.executor
        answer = ScalingAnswer(
            executor=executor.name,
            scope=executor.scope,
            minimum=executor.minimum,
            maximum=executor.maximum,
            current=view.decision.current,
            desired=view.decision.target,
            next=view.decision,
            figures=view.figures,
            processes=view.shares,
            decisions=await self._source.recent(limit),
        )
        return web.Response(body=msgspec.json.encode(answer), content_type=JSON, headers={"Cache-Control": "no-store"})
