"""The composition root of one process: builds the parts, joins the edges, owns the one outer TaskGroup.

Start: embedded PostgreSQL (when there is no other), migrations, parts, socket. Stop, by SIGTERM or Ctrl-C, in the order in
which nothing accepted is lost: close the socket, answer what was admitted, close the queues, let the loops end, close the
pools, stop PostgreSQL.
"""

import asyncio
import gc
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import uvloop
from aiohttp import web

from judgify_engine import interrupts
from judgify_engine.cdc.holder import Holder
from judgify_engine.config import Config
from judgify_engine.core.samples import Windows
from judgify_engine.errors import JudgifyError, StartupError
from judgify_engine.ingest.admission import Admission
from judgify_engine.ingest.app import build_app
from judgify_engine.ingest.connection import Connection, Shared
from judgify_engine.ingest.direct import Direct
from judgify_engine.ingest.gaps import GapRoutes
from judgify_engine.ingest.heads import Heads
from judgify_engine.ingest.judgments import EXECUTE_PATH, JudgmentRoutes
from judgify_engine.ingest.listen import Listener, Room, listen
from judgify_engine.ingest.metrics import MetricsRoutes
from judgify_engine.ingest.openapi import build_openapi
from judgify_engine.ingest.operate import OperateRoutes
from judgify_engine.ingest.quality import QualityRoutes
from judgify_engine.ingest.quarantine import QuarantineRoutes
from judgify_engine.ingest.summary import SummaryRoutes
from judgify_engine.ingest.workflows import WorkflowRoutes
from judgify_engine.live.hub import Hub
from judgify_engine.live.page import PageRoutes
from judgify_engine.live.session import DashboardRoutes
from judgify_engine.observe import loop_lag
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.accepted import Accepted
from judgify_engine.pipeline.access import SCOPES, Access, Grant
from judgify_engine.pipeline.batch_loop import BatchLoop
from judgify_engine.pipeline.judging import Judging
from judgify_engine.pipeline.partition_queue import PartitionQueue
from judgify_engine.pipeline.quarantine_loop import Quarantine
from judgify_engine.pipeline.reconcile_loop import ReconcileLoop
from judgify_engine.pipeline.registry import WorkflowRegistry
from judgify_engine.pipeline.repair_loop import RepairLoop
from judgify_engine.seed import seed_workflows
from judgify_engine.store import metrics_upkeep, migrate, upkeep
from judgify_engine.store.accepted import AcceptedStore
from judgify_engine.store.charts import ChartReader
from judgify_engine.store.copy_writer import CopyWriter
from judgify_engine.store.embedded import EmbeddedPostgres
from judgify_engine.store.gaps import GapReader
from judgify_engine.store.judgments import JudgmentReader
from judgify_engine.store.pool import Database
from judgify_engine.store.quality import QualityReader
from judgify_engine.store.quarantine import QuarantineStore
from judgify_engine.store.reconcile import Books
from judgify_engine.store.repair import RepairStore
from judgify_engine.store.slot import SlotStore
from judgify_engine.store.snapshots import SnapshotReader
from judgify_engine.store.summary import SummaryReader
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


class Worker:
    """One process's parts and their life."""

    def __init__(self, config: Config, dsn: str, postgres: EmbeddedPostgres | None) -> None:
        self._config, self._dsn, self._postgres = config, dsn, postgres
        self._metrics = Metrics()

    async def run(self, companion: Companion | None) -> None:
        """Start, serve, and stop in order."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
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
        windows = windows_of(config)
        holder: Holder

        def follows() -> bool:
            return holder.follows

        registry = WorkflowRegistry(WorkflowStore(database), follows)
        reconcile: ReconcileLoop

        def verified_s() -> int | None:
            return reconcile.verified_through_s if holder.holding else None

        hub = Hub(SnapshotReader(rollups, config.change.slot), follows, config.live, metrics, verified_s)
        books = Books(database, rollups, config.change.slot, windows, lambda lsn: holder.has_passed(lsn))
        reconcile = ReconcileLoop(books, lambda: holder.holding, config.reconcile, metrics)

        def began(healed: bool) -> None:
            registry.forget()
            hub.reload()
            if healed:  # nothing of it is proven yet
                reconcile.touch(0, int(time.time()))

        sinks = (registry, hub, reconcile)
        holder = Holder(database, rollups, SlotStore, sinks, config.change, windows, metrics, began)
        repairs = RepairStore(database, rollups, config.change.slot, windows, holder.snapshot)

        def repaired(start_s: int, end_s: int) -> None:
            hub.reload()
            reconcile.touch(start_s, end_s)

        repair = RepairLoop(repairs, lambda: holder.changes, repaired)
        queues = [PartitionQueue(i, config.queue.max_rows, config.queue.max_bytes) for i in range(config.queue.partitions)]
        accepted = Accepted(AcceptedStore(rollups))
        quarantine = Quarantine(QuarantineStore(database), metrics)
        writer = CopyWriter(database, metrics, config.http.request_timeout_s, quarantine)
        batches = [BatchLoop(queue, writer, config.batch, metrics, config.http.request_timeout_s) for queue in queues]
        admission = Admission(config.http)
        dashboards, direct, routes = self._routes(
            database, rollups, registry, hub, holder, queues, admission, quarantine, accepted
        )
        metrics.gauges.append(lambda: _gauges(queues, batches, admission, hub, database))
        metrics.gauges.append(lambda: _verified(holder, reconcile))
        metrics.gauges.append(holder.gauges)
        metrics.gauges.append(quarantine.gauges)
        async with asyncio.TaskGroup() as tasks:
            committing = [
                tasks.create_task(batch.run(), name=f"batch-{queue.partition}")
                for queue, batch in zip(queues, batches, strict=True)
            ]
            tasks.create_task(quarantine.run(stop, committing), name="quarantine")
            tasks.create_task(accepted.run(stop, committing), name="accepted")
            for one in {database, rollups}:
                tasks.create_task(one.watch(stop), name="database-watch")
            tasks.create_task(holder.run(stop), name="holder")
            tasks.create_task(hub.run(stop), name="hub")
            tasks.create_task(reconcile.run(stop), name="reconcile")
            tasks.create_task(repair.run(stop), name="repair")
            tasks.create_task(upkeep.run(database, config.keep, stop, lambda: reconcile.verified_through_s), name="upkeep")
            tasks.create_task(metrics_upkeep.run(rollups, config, stop), name="metrics-upkeep")
            tasks.create_task(loop_lag.measure(metrics, stop), name="loop-lag")
            tasks.create_task(self._keep_postgres(stop), name="postgres")
            runner = web.AppRunner(build_app(routes, config.http, metrics), handle_signals=False, shutdown_timeout=1.0)
            listeners: list[Listener] = []
            try:
                await runner.setup()
                # What lives now lives for ever: the collector need not look at it again, nor so often.
                gc.collect()
                gc.freeze()
                gc.set_threshold(20_000, 20, 50)
                listeners, url = await self._listen(runner, direct)
                self._announce(url, code)
                if companion is not None:
                    tasks.create_task(companion(url, stop), name="companion")
                await stop.wait()
                log.info("stopping", extra={"under_way": admission.requests})
            finally:
                stop.set()
                for listener in listeners:
                    listener.close()
                if not await admission.drain(config.http.drain_timeout_s):
                    log.error("requests were cut off by the stop", extra={"requests": admission.requests})
                for queue in queues:
                    queue.close()
                await dashboards.close()
                await runner.cleanup()
        log.info("stopped")

    def _routes(
        self,
        database: Database,
        rollups: Database,
        registry: WorkflowRegistry,
        hub: Hub,
        holder: Holder,
        queues: list[PartitionQueue],
        admission: Admission,
        quarantine: Quarantine,
        accepted: Accepted,
    ) -> tuple[DashboardRoutes, Direct, list[web.RouteDef]]:
        config, metrics, seed = self._config, self._metrics, self._config.seed
        tokens, reader = TokenStore(database), JudgmentReader(database)
        known = {seed.token: Grant(seed.tenant, frozenset(SCOPES), None)} if seed.token else {}
        access = Access(tokens, known)
        judging = Judging(registry, queues, reader, metrics, accepted)
        dashboards = DashboardRoutes(hub, access, metrics)
        operate = OperateRoutes(
            database,
            admission,
            metrics,
            lambda: any(queue.rows >= config.queue.max_rows for queue in queues),
            lambda: holder.state,
            build_openapi(),
        )

        def available() -> bool:
            return database.available

        direct = Direct(judging, access, admission, available, EXECUTE_PATH, metrics, quarantine)
        groups = (
            JudgmentRoutes(judging, reader, access, admission, available, metrics, quarantine),
            QuarantineRoutes(QuarantineStore(database), judging, reader, access, admission),
            QualityRoutes(QualityReader(rollups), access),
            SummaryRoutes(SummaryReader(rollups, config.change.slot), access),
            GapRoutes(GapReader(rollups, config.change.slot), access),
            MetricsRoutes(ChartReader(rollups, config.change.slot), access, config.metrics.keep_days),
            WorkflowRoutes(WorkflowStore(database), registry, access, admission),
            operate,
            dashboards,
            PageRoutes(tokens, access, config.live.session_ttl_s),
        )
        return dashboards, direct, [route for group in groups for route in group.routes()]

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


def windows_of(config: Config) -> Windows:
    """How long the narrow buckets are kept."""
    return Windows(config.keep.live_hours * 3600, config.metrics.keep_days * 86_400)


def _verified(holder: Holder, reconcile: ReconcileLoop) -> list[tuple[str, str, dict[str, str], float]]:
    """Only who reads the log knows."""
    text = "Judgments created before this (Unix seconds) were found equal in the table and the rollups."
    through_s = reconcile.verified_through_s
    return [("judgify_verified_through_seconds", text, {}, through_s)] if holder.holding and through_s is not None else []


def _gauges(
    queues: list[PartitionQueue], batches: list[BatchLoop], admission: Admission, hub: Hub, database: Database
) -> list[tuple[str, str, dict[str, str], float]]:
    rows: list[tuple[str, str, dict[str, str], float]] = []
    for queue, batch in zip(queues, batches, strict=True):
        labels = {"partition": str(queue.partition)}
        rows += [
            ("judgify_queue_rows", "Judgments queued or being committed.", labels, queue.rows),
            ("judgify_queue_bytes", "Bytes of the judgments queued or being committed.", labels, queue.bytes),
            (
                "judgify_queue_oldest_seconds",
                "Age of the oldest judgment not being committed yet.",
                labels,
                queue.oldest_age_s,
            ),
            ("judgify_batch_size_rows", "Rows that the next commit may take.", labels, batch.size.rows),
        ]
    rows += [
        ("judgify_requests_under_way", "Requests admitted and not answered.", {}, admission.requests),
        ("judgify_request_bytes_under_way", "Bytes of their bodies.", {}, admission.bytes),
        ("judgify_dashboards", "Open dashboards.", {}, hub.sockets),
        ("judgify_database_available", "1 while PostgreSQL answers.", {}, float(database.available)),
    ]
    return rows
