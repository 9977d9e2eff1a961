"""`serve` and `demo`: one process, or a supervisor with several; the embedded servers where no others are named.

That is PostgreSQL, and for several processes, which must share their streams, Redis.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from judgify_engine import interrupts
from judgify_engine.cdc.publisher import slot_of
from judgify_engine.config import Config
from judgify_engine.errors import JudgifyError
from judgify_engine.ingest.listen import open_sockets, port_of, url_of
from judgify_engine.machine.server_process import ServerProcess
from judgify_engine.observe.allowance import machine_cores
from judgify_engine.observe.metrics import Metrics
from judgify_engine.parts import Parts
from judgify_engine.seed import seed_workflows
from judgify_engine.store import metrics_upkeep, migrate, upkeep
from judgify_engine.store.embedded import EmbeddedPostgres
from judgify_engine.store.pool import Database
from judgify_engine.store.streams import StreamStore
from judgify_engine.store.tokens import TokenStore
from judgify_engine.store.workflows import WorkflowStore
from judgify_engine.streams.embedded import EmbeddedRedis
from judgify_engine.supervisor import Supervisor
from judgify_engine.worker import Stop, Worker, databases, streams_of

log = logging.getLogger(__name__)

POLL_SERVERS_S = 0.25
Companion = Callable[[str, asyncio.Event], Coroutine[Any, Any, None]]
"""Runs beside the server, given its URL and the stop event (the simulated plant of `demo`)."""


def run_process(config: Config, reload: Callable[[], Config], companion: Companion | None = None) -> int:
    """Serve until a signal comes; returns the exit code. Raises StartupError when it cannot start.

    `reload` reads the settings again, for workers that are started later.
    """
    processes = config.workers or machine_cores()
    supervised = config.workers != 1 or config.scaling.executor == "local"
    if supervised:
        signal.signal(signal.SIGHUP, lambda *_: None)  # there is nothing to replace yet
    data_dir, most = Path(config.data_dir), _most(config, processes)
    postgres = EmbeddedPostgres(data_dir, most) if config.embedded else None
    redis = EmbeddedRedis(data_dir, config.streams.max_bytes) if most > 1 and not config.redis.url else None
    servers = [server for server in (postgres, redis) if server is not None]
    try:
        dsn = postgres.start() if postgres is not None else config.database.url
        url = redis.start() if redis is not None else ""
        if redis is not None and postgres is None:
            log.warning("streams are shared by the workers of this machine only; name a Redis for all (JUDGIFY_REDIS_URL)")
        serving = Serving(_with_redis(config, url), dsn, servers, companion)
        run_on_loop(lambda: serving.many(processes, lambda: _with_redis(reload(), url)) if supervised else serving.one())
    finally:
        for server in reversed(servers):
            server.stop()
    return 0


def _most(config: Config, processes: int) -> int:
    """How many there may ever be."""
    if config.scaling.executor != "local":
        return processes
    return max(processes, config.scaling.min_workers, config.scaling.max_workers or machine_cores())


def _with_redis(config: Config, url: str) -> Config:
    """The settings with this Redis in them, where they name none."""
    if config.redis.url:
        return config
    return msgspec.structs.replace(config, redis=msgspec.structs.replace(config.redis, url=url))


def run_on_loop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `main`, which begins with `Stop.on_signals`, to the end.

    Raises the one clear error where a part failed, and logs what else did.
    """
    interrupts.hold()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    except BaseExceptionGroup as group:
        # A part failed and took the process down, as it should. One clear error is told as such.
        errors = list(_leaves(group))
        for error in errors:
            if not isinstance(error, JudgifyError):
                log.critical("a part of the engine failed", exc_info=error)
        raise next((error for error in errors if isinstance(error, JudgifyError)), JudgifyError("the engine failed")) from None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


class Serving:
    """What both ways share: the tables, the printed address, the companion, the embedded servers' keeper."""

    def __init__(self, config: Config, dsn: str, servers: Sequence[ServerProcess], companion: Companion | None) -> None:
        self._config, self._dsn, self._servers, self._companion = config, dsn, servers, companion
        self._code: str | None = None
        """Opens the page once, if the profile gives one."""

    async def one(self) -> None:
        """Serve in this process."""
        stop = Stop()
        stop.on_signals()
        async with databases(self._config, self._dsn) as (judgments, rollups), streams_of(self._config) as streams:
            if not await stop.unless(self._prepare(judgments, rollups)):
                return
            http = self._config.http
            found: list[socket.socket] = []

            async def sockets() -> list[socket.socket]:
                found.extend(await asyncio.to_thread(open_sockets, http.host, http.port, http.backlog))
                return found

            async def beside(tasks: asyncio.TaskGroup) -> None:
                self._beside(tasks, url_of(http.host, port_of(found)), stop.now)

            metrics = Metrics()
            parts = Parts(self._config, judgments, rollups, metrics, metrics.figures, streams)
            await Worker(self._config, parts, metrics).run(stop, sockets, beside)

    async def many(self, processes: int, reload: Callable[[], Config]) -> None:
        """Serve in processes of our own, which this one looks after."""
        stop = Stop()
        stop.on_signals()
        config = msgspec.structs.replace(self._config, workers=processes)  # what each of them grants is its share
        supervisor = Supervisor(config, self._dsn, reload)
        supervisor.listen_to_hangups()
        await supervisor.find_port()  # before anything is done to a database
        async with databases(self._config, self._dsn) as (judgments, rollups):
            if not await stop.unless(self._prepare(judgments, rollups)):
                return

        async def beside(tasks: asyncio.TaskGroup, url: str) -> None:
            self._beside(tasks, url, stop.now)

        await supervisor.run(stop, beside)

    async def _prepare(self, judgments: Database, rollups: Database) -> None:
        """What is made once before anybody serves: tables, partitions, policies, and what the profile brings along."""
        config, seed = self._config, self._config.seed
        await migrate.prepare(judgments, rollups, config.metrics)
        await upkeep.once(judgments, config.keep)
        await metrics_upkeep.prepare(rollups, config)
        if config.redis.url:
            await StreamStore(judgments, slot_of(config)).begin()
        if seed.workflows:
            await seed_workflows(WorkflowStore(judgments), seed.tenant, seed.workflows)
        if seed.page_code:
            self._code = await TokenStore(judgments).make_code(seed.tenant)

    def _beside(self, tasks: asyncio.TaskGroup, url: str, stop: asyncio.Event) -> None:
        """It serves: say so, and start what runs beside it."""
        config = self._config
        log.info("serving", extra={"url": url, "profile": config.profile, "embedded": config.embedded})
        if self._code is not None:
            print(f"\n  Judgify engine is ready. Open  {url}/?code={self._code}", flush=True)
            print(f"  (the code works once; after that, sign in with the token {config.seed.token})\n", flush=True)
        else:
            print(f"Judgify engine is ready: {url}", flush=True)
        tasks.create_task(self._keep_servers(stop), name="servers")
        if self._companion is not None:
            tasks.create_task(self._companion(url, stop), name="companion")

    async def _keep_servers(self, stop: asyncio.Event) -> None:
        """Start an embedded server again when it died."""
        while self._servers and not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), POLL_SERVERS_S)
            except TimeoutError:
                for server in self._servers:
                    server.poll()
