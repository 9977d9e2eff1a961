"""The life of one process: opens its databases, gives its parts (`parts`) life, owns the one outer TaskGroup.

Stop, by SIGTERM or Ctrl-C, in the order in which nothing accepted is lost: close the socket, answer what was admitted, close
the queues, let the loops end, close the pools. Retiring, because another process took its place, comes before that: accept
nothing more, but answer whoever has a connection, and end it with the answer.
"""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import asyncpg
from aiohttp import web

from judgify_engine import interrupts
from judgify_engine.cdc.waiting import ended
from judgify_engine.config import Config
from judgify_engine.ingest.app import build_app
from judgify_engine.ingest.connection import Connection, Shared
from judgify_engine.ingest.heads import Heads
from judgify_engine.ingest.judgments import EXECUTE_PATH
from judgify_engine.ingest.listen import Listener, Room
from judgify_engine.observe import loop_lag
from judgify_engine.observe.metrics import Metrics
from judgify_engine.parts import Parts
from judgify_engine.pipeline.streams import Streams
from judgify_engine.store.pool import Database
from judgify_engine.streams.opening import open_streams

log = logging.getLogger(__name__)

LINGER_S = 10.0
"""How long a process that retires waits for the next request on connections that are open; then it closes idle ones."""


class Stop:
    """Why a process ends: at once (`now`), or when nobody needs it any more (`retire`)."""

    def __init__(self) -> None:
        self.now, self.retire = asyncio.Event(), asyncio.Event()
        self.deaf = asyncio.Event()
        """No connections are accepted any more."""

    def on_signals(self) -> None:
        """SIGINT, SIGTERM and the end of the terminal mean now."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(signum, self.now.set)
        if interrupts.requested():
            self.now.set()

    async def asked(self) -> None:
        """Wait for either."""
        waiting = [asyncio.create_task(event.wait(), name="stop") for event in (self.now, self.retire)]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    async def unless(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Do the work, or cancel it when the end is asked for; whether it was done. Raises what it raises."""
        working, stopped = asyncio.create_task(work, name="start"), asyncio.create_task(self.now.wait(), name="stop")
        try:
            await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            if not working.done():
                await ended((working,))
        if working.cancelled():
            return False
        working.result()
        return True


def tell_unheard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What failed without anybody hearing of it, for `set_exception_handler`.

    asyncpg leaves a future of its own behind when a connection breaks in a COPY; the COPY itself fails too, and is told by who
    made it. A traceback of it would say nothing, and look like a fault of ours. All else is told in full.
    """
    error, future = context.get("exception"), context.get("future")
    if isinstance(error, asyncpg.PostgresConnectionError) and not isinstance(future, asyncio.Task):
        log.info("a connection to postgres broke", extra={"reason": str(error)})
    else:
        loop.default_exception_handler(context)


@contextlib.asynccontextmanager
async def databases(config: Config, dsn: str) -> AsyncIterator[tuple[Database, Database]]:
    """Where the judgments are and where the rollups are; they may be one. Open, whether or not PostgreSQL is there."""
    judgments = Database(dsn, config)
    rollups = Database(config.metrics.database_url, config) if config.metrics.database_url else judgments
    try:
        for one in {judgments, rollups}:
            await one.open()
        yield judgments, rollups
    finally:
        await rollups.close()
        await judgments.close()


@contextlib.asynccontextmanager
async def streams_of(config: Config) -> AsyncIterator[Streams]:
    """The streams of a process, whether or not Redis is there."""
    streams = open_streams(config)
    try:
        yield streams
    finally:
        await streams.close()


class Worker:
    """The life of one process's parts."""

    def __init__(self, config: Config, parts: Parts, metrics: Metrics) -> None:
        self._config, self._parts, self._metrics = config, parts, metrics
        self._room = Room(config.http.max_connections)

    async def run(
        self,
        stop: Stop,
        sockets: Callable[[], Awaitable[list[socket.socket]]],
        beside: Callable[[asyncio.TaskGroup], Awaitable[None]],
    ) -> None:
        """Serve until `stop`. `sockets` are asked for when all else is ready; `beside` is called when it serves."""
        config, parts = self._config, self._parts
        asyncio.get_running_loop().set_exception_handler(tell_unheard)
        async with asyncio.TaskGroup() as tasks:
            parts.start(tasks, stop.now)
            tasks.create_task(loop_lag.measure(self._metrics, stop.now), name="loop-lag")
            app = build_app(parts.routes, config.http, self._metrics)
            app.on_response_prepare.append(self._end_connection)
            runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=1.0)
            listeners: list[Listener] = []
            try:
                await runner.setup()
                # What lives now lives for ever: the collector need not look at it again, nor so often.
                gc.collect()
                gc.freeze()
                gc.set_threshold(20_000, 20, 50)
                listeners += self._listen(runner, await sockets())
                await beside(tasks)
                await stop.asked()
                for listener in listeners:
                    listener.close()
                stop.deaf.set()
                if not stop.now.is_set():
                    await self._retire(stop, runner)
                log.info("stopping", extra={"under_way": parts.admission.requests})
            finally:
                stop.now.set()
                for listener in listeners:
                    listener.close()
                stop.deaf.set()
                if not await parts.admission.drain(config.http.drain_timeout_s):
                    log.error("requests were cut off by the stop", extra={"requests": parts.admission.requests})
                for queue in parts.queues:
                    queue.close()
                await parts.dashboards.close()
                await runner.cleanup()
        log.info("stopped")

    def _listen(self, runner: web.AppRunner, sockets: list[socket.socket]) -> list[Listener]:
        server = runner.server
        assert server is not None
        self._parts.dashboards.places = self._room
        shared = Shared(server, self._parts.direct, Heads(EXECUTE_PATH), self._room, self._metrics)
        return [Listener(one, self._room, lambda: Connection(shared)) for one in sockets]

    async def _retire(self, stop: Stop, runner: web.AppRunner) -> None:
        """Another process accepts in our place: let our clients go over to it, each between two requests."""
        log.info("retiring", extra={"connections": self._room.taken})
        self._parts.admission.retire()
        await self._parts.dashboards.close()
        await self._emptied(stop, LINGER_S)
        assert runner.server is not None
        for connection in runner.server.connections:
            assert isinstance(connection, Connection)
            connection.close_if_idle()
        await self._emptied(stop, self._config.http.drain_timeout_s)

    async def _emptied(self, stop: Stop, within_s: float) -> None:
        waiting = [asyncio.create_task(one, name="linger") for one in (self._room.emptied(), stop.now.wait())]
        await asyncio.wait(waiting, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()

    async def _end_connection(self, request: web.Request, response: web.StreamResponse) -> None:
        if self._parts.admission.retiring:
            response.force_close()
            response.headers["Connection"] = "close"  # aiohttp has written its own headers before it asks us
