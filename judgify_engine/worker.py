"""The life of one process: prepares its databases, has its parts built (`parts`), owns the one outer TaskGroup.

Start: embedded PostgreSQL (when there is no other), migrations, parts, socket. Stop, by SIGTERM or Ctrl-C, in the order in
which nothing accepted is lost: close the socket, answer what was admitted, close the queues, let the loops end, close the
pools, stop PostgreSQL.
"""

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import uvloop
from aiohttp import web

from judgify_engine import interrupts
from judgify_engine.config import Config
from judgify_engine.errors import JudgifyError, StartupError
from judgify_engine.ingest.app import build_app
from judgify_engine.ingest.connection import Connection, Shared
from judgify_engine.ingest.direct import Direct
from judgify_engine.ingest.heads import Heads
from judgify_engine.ingest.judgments import EXECUTE_PATH
from judgify_engine.ingest.listen import Listener, Room, listen
from judgify_engine.observe import loop_lag
from judgify_engine.observe.metrics import Metrics
from judgify_engine.parts import Parts
from judgify_engine.seed import seed_workflows
from judgify_engine.store import metrics_upkeep, migrate, upkeep
from judgify_engine.store.embedded import EmbeddedPostgres
from judgify_engine.store.pool import Database
from judgify_engine.store.tokens import TokenStore
from judgify_engine.store.workflows import WorkflowStore

log = logging.getLogger(__name__)

POLL_POSTGRES_S = 0.25
Companion = Callable[[str, asyncio.Event], Coroutine[Any, Any, None]]
"""Runs beside the server, given its URL and the stop event (the simulated plant of `demo`)."""


def run_process(config: Config, companion: Companion | None = None) -> int:
    """Serve until a signal comes; returns the exit code. Raises StartupError when it cannot start."""
    if not config.embedded:
        return _serve(config, config.database.url, None, companion)
    postgres = EmbeddedPostgres(Path(config.data_dir))
    try:
        return _serve(config, postgres.start(), postgres, companion)
    finally:
        postgres.stop()


def _serve(config: Config, dsn: str, postgres: EmbeddedPostgres | None, companion: Companion | None) -> int:
    worker = Worker(config, dsn, postgres)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(worker.run(companion))
    except BaseExceptionGroup as group:
        # A part failed and took the process down, as it should. One clear error is told as such.
        errors = list(_leaves(group))
        for error in errors:
            if not isinstance(error, JudgifyError):
                log.critical("a part of the engine failed", exc_info=error)
        raise next((error for error in errors if isinstance(error, JudgifyError)), JudgifyError("the engine failed")) from None
    return 0


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


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


class Worker:
    """One process's parts and their life."""

    def __init__(self, config: Config, dsn: str, postgres: EmbeddedPostgres | None) -> None:
        self._config, self._dsn, self._postgres = config, dsn, postgres
        self._metrics = Metrics()

    async def run(self, companion: Companion | None) -> None:
        """Start, serve, and stop in order."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(tell_unheard)
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, stop.set)
        if interrupts.requested():
            return
        database = Database(self._dsn, self._config)
        apart = self._config.metrics.database_url
        rollups = Database(apart, self._config) if apart else database
        preparing = loop.create_task(self._prepare(database, rollups), name="prepare")
        stopped = loop.create_task(stop.wait(), name="stop")
        await asyncio.wait((preparing, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        try:
            if not preparing.done():
                preparing.cancel()
                await asyncio.wait((preparing,))
            else:
                code = await preparing
                await self._run_parts(database, rollups, code, stop, companion)
        finally:
            await rollups.close()
            await database.close()

    async def _prepare(self, database: Database, rollups: Database) -> str | None:
        """Tables, partitions, seed. Returns the page's one-time code, if the profile gives one."""
        await migrate.prepare(database, rollups, self._config.metrics)
        for one in {database, rollups}:
            await one.open()
        await upkeep.once(database, self._config.keep)
        await metrics_upkeep.prepare(rollups, self._config)
        seed = self._config.seed
        if seed.workflows:
            await seed_workflows(WorkflowStore(database), seed.tenant, seed.workflows)
        return await TokenStore(database).make_code(seed.tenant) if seed.page_code else None

    async def _run_parts(
        self, database: Database, rollups: Database, code: str | None, stop: asyncio.Event, companion: Companion | None
    ) -> None:
        config, metrics = self._config, self._metrics
        parts = Parts(config, database, rollups, metrics)
        async with asyncio.TaskGroup() as tasks:
            parts.start(tasks, stop)
            tasks.create_task(loop_lag.measure(metrics, stop), name="loop-lag")
            tasks.create_task(self._keep_postgres(stop), name="postgres")
            runner = web.AppRunner(build_app(parts.routes, config.http, metrics), handle_signals=False, shutdown_timeout=1.0)
            listeners: list[Listener] = []
            try:
                await runner.setup()
                # What lives now lives for ever: the collector need not look at it again, nor so often.
                gc.collect()
                gc.freeze()
                gc.set_threshold(20_000, 20, 50)
                listeners, url = await self._listen(runner, parts.direct)
                self._announce(url, code)
                if companion is not None:
                    tasks.create_task(companion(url, stop), name="companion")
                await stop.wait()
                log.info("stopping", extra={"under_way": parts.admission.requests})
            finally:
                stop.set()
                for listener in listeners:
                    listener.close()
                if not await parts.admission.drain(config.http.drain_timeout_s):
                    log.error("requests were cut off by the stop", extra={"requests": parts.admission.requests})
                for queue in parts.queues:
                    queue.close()
                await parts.dashboards.close()
                await runner.cleanup()
        log.info("stopped")

    async def _listen(self, runner: web.AppRunner, direct: Direct) -> tuple[list[Listener], str]:
        """Open the sockets; returns them and the address to print."""
        http, server = self._config.http, runner.server
        assert server is not None
        room = Room(http.max_connections)
        shared = Shared(server, direct, Heads(EXECUTE_PATH), room, self._metrics)
        try:
            listeners = await listen(http.host, http.port, http.backlog, room, lambda: Connection(shared))
        except (OSError, OverflowError) as error:
            raise StartupError(f"cannot listen on {http.host}:{http.port}: {error}") from error
        shown = "127.0.0.1" if http.host in ("", "0.0.0.0", "::") else http.host
        return listeners, f"http://{f'[{shown}]' if ':' in shown else shown}:{listeners[0].port}"

    def _announce(self, url: str, code: str | None) -> None:
        log.info("serving", extra={"url": url, "profile": self._config.profile, "embedded": self._config.embedded})
        if code is not None:
            print(f"\n  Judgify engine is ready. Open  {url}/?code={code}", flush=True)
            print(f"  (the code works once; after that, sign in with the token {self._config.seed.token})\n", flush=True)
        else:
            print(f"Judgify engine is ready: {url}", flush=True)

    async def _keep_postgres(self, stop: asyncio.Event) -> None:
        """Start the embedded server again when it died."""
        while self._postgres is not None and not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), POLL_POSTGRES_S)
            except TimeoutError:
                self._postgres.poll()
