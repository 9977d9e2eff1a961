"""For operators: is it alive, can it commit, how is it doing, what can it do."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from judgify_engine import __version__
from judgify_engine.errors import JudgifyError
from judgify_engine.ingest.admission import Admission
from judgify_engine.store.pool import AWAY, CAN_WRITE, Database

JSON = "application/json"
PROBE_TIMEOUT_S = 2.0


class OperateRoutes:
    """The handlers; see `routes`. None needs a token: they tell no tenant's data."""

    def __init__(
        self,
        database: Database,
        admission: Admission,
        figures: Callable[[], Awaitable[bytes]],
        queues_full: Callable[[], bool],
        log_reader: Callable[[], str],
        publisher: Callable[[], str],
        openapi: bytes,
    ) -> None:
        self._database, self._admission = database, admission
        self._queues_full, self._log_reader = queues_full, log_reader
        self._publisher = publisher
        self._openapi = openapi
        self._figures = figures

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/health", self.health),
            web.get("/ready", self.ready),
            web.get("/metrics", self.metrics),
            web.get("/openapi.json", self.openapi),
        ]

    async def health(self, request: web.Request) -> web.Response:
        """The process is alive and its event loop turns."""
        return _json({"status": "ok", "version": __version__})

    async def ready(self, request: web.Request) -> web.Response:
        """Whether a judgment could be committed now, and if not, why not."""
        checks = {
            "accepting": "ok" if not self._admission.draining else "the server is stopping",
            "database": await self._probe(),
            "queues": "ok" if not self._queues_full() else "a queue is full",
        }
        ready = all(state == "ok" for state in checks.values())
        body = {"ready": ready, "checks": checks, "log_reader": self._log_reader(), "publisher": self._publisher()}
        return _json(body, 200 if ready else 503)

    async def _probe(self) -> str:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S), self._database.query() as connection:
                if not await connection.fetchval(f"SELECT {CAN_WRITE}"):
                    return "PostgreSQL is read-only"
        except (JudgifyError, *AWAY) as error:
            return "PostgreSQL is away" if not isinstance(error, TimeoutError) else "PostgreSQL does not answer"
        return "ok"

    async def metrics(self, request: web.Request) -> web.Response:
        """The figures, as Prometheus scrapes them."""
        return web.Response(body=await self._figures(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def openapi(self, request: web.Request) -> web.Response:
        """What this API is, for programs."""
        return web.Response(body=self._openapi, content_type=JSON)


def _json(body: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type=JSON, status=status, headers={"Cache-Control": "no-store"})
