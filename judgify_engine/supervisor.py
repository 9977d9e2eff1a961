"""Several workers on one machine: started, watched, started again, replaced one by one, and stopped together.

The supervisor serves nobody itself. Each worker has listening sockets of its own (SO_REUSEPORT: the kernel spreads connections
over them), which the supervisor opens and keeps: while a worker is started again or replaced, who connects waits in the
backlog and is not refused. A worker that dies again and again loses its sockets until the next try: the others get its share.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from judgify_engine import control
from judgify_engine.child import Child
from judgify_engine.config import Config
from judgify_engine.errors import JudgifyError
from judgify_engine.ingest.listen import open_sockets, port_of, url_of
from judgify_engine.worker import LINGER_S, Stop

log = logging.getLogger(__name__)

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
PATIENCE_S = 2.0
"""Who connected to a worker that has just died waits so long for the next one; after a longer pause others had better serve."""
GRACE_S = 4.0
"""What a worker may take for its end beyond the time that it grants to its requests; less than 30 s in all by default."""
FOLDER = "judgify-workers-"
LONGEST_FOLDER = 60
"""A Unix socket's path has 107 bytes at most."""


class Place:
    """One of the workers, whichever process it is just now, and the sockets that outlive it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.child: Child | None = None
        self.sockets: list[socket.socket] = []
        self.changing = asyncio.Lock()
        """Held by whoever starts a process for this place."""
        self.changed = asyncio.Event()
        """Another process is here than before."""
        self.pause_s = 0.0

    def close(self) -> None:
        """Take no more connections."""
        for one in self.sockets:
            one.close()
        self.sockets = []


class Supervisor:
    """Keeps `config.workers` of them. `reload` reads the settings again, for a restart of all by SIGHUP."""

    def __init__(self, config: Config, dsn: str, reload: Callable[[], Config]) -> None:
        self._config, self._dsn, self._reload = config, dsn, reload
        self._places = [Place(number) for number in range(config.workers)]
        self._port = config.http.port
        self._folder = Path()
        """Where the workers meet, see observe/siblings."""
        self._retiring: set[asyncio.Task[None]] = set()
        self._hangup = asyncio.Event()

    async def run(self, stop: Stop, beside: Callable[[asyncio.TaskGroup, str], Awaitable[None]]) -> None:
        """Until `stop.now`. `beside` is called when all serve, with the address. Raises StartupError when they cannot."""
        self._folder, lock = await asyncio.to_thread(_make_folder)
        try:
            if await stop.unless(self._start_all()):
                async with asyncio.TaskGroup() as tasks:
                    keepers = [tasks.create_task(self._keep(place), name=f"worker-{place.number}") for place in self._places]
                    keepers.append(tasks.create_task(self._replace_on_hangup(), name="replace"))
                    await beside(tasks, url_of(self._config.http.host, self._port))
                    await stop.now.wait()
                    for keeper in keepers:
                        keeper.cancel()
        finally:
            stop.now.set()
            await self._stop_all()
            os.close(lock)

    def listen_to_hangups(self) -> None:
        """From now on SIGHUP means: replace all workers, as soon as they are there."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hangup.set)

    async def find_port(self) -> None:
        """See that nobody else listens there, which a shared socket would not tell. Raises StartupError."""
        http = self._config.http
        probe = await asyncio.to_thread(open_sockets, http.host, self._port, http.backlog)
        self._port = port_of(probe)
        for one in probe:
            one.close()

    async def _start_all(self) -> None:
        await asyncio.gather(*[self._start(place) for place in self._places])

    async def _stop_all(self) -> None:
        """Together; then nothing of them is left."""
        log.info("stopping", extra={"workers": len(self._places)})
        within_s = self._config.http.drain_timeout_s + GRACE_S
        for place in self._places:
            place.close()
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await asyncio.gather(*[place.child.stop(within_s) for place in self._places if place.child is not None])
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _start(self, place: Place) -> None:
        """Put a new process in this place. Raises StartupError; then the place is as it was."""
        http = self._config.http
        if not place.sockets:
            place.sockets = open_sockets(http.host, self._port, http.backlog, shared=True)
        descriptors = [one.fileno() for one in place.sockets]
        orders = control.Orders(self._config, self._dsn, place.number, descriptors, str(self._folder))
        place.child = await Child.start(orders)
        place.changed.set()
        log.info("a worker serves", extra={"worker": place.number, "pid": place.child.pid})

    async def _keep(self, place: Place) -> None:
        """Put a new process in this place whenever the one there dies."""
        while True:
            child = place.child
            assert child is not None
            place.changed.clear()
            if not await _ended(child, place.changed):
                continue  # it was replaced, and whoever did that sees to its end
            async with place.changing:
                if place.child is not child:
                    continue
                place.pause_s = 0.0 if child.was_steady else _longer(place.pause_s)
                facts = {"worker": place.number, "pid": child.pid, "exit_code": child.exit.result(), "pause_s": place.pause_s}
                log.error("a worker died and is started again", extra=facts)
                await self._restart(place)

    async def _restart(self, place: Place) -> None:
        while True:
            if place.pause_s > PATIENCE_S:
                place.close()
            await asyncio.sleep(place.pause_s)
            try:
                await self._start(place)
                return
            except JudgifyError as error:
                place.pause_s = _longer(place.pause_s)
                log.error("a worker cannot be started now", extra={"reason": error.detail, "pause_s": place.pause_s})

    async def _replace_on_hangup(self) -> None:
        """One by one, with the settings as they are now; the old one goes when the new one serves."""
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            before = self._config
            try:
                self._config = self._renewed(await asyncio.to_thread(self._reload))
            except JudgifyError as error:
                log.error("the settings are not taken over; all stays as it is", extra={"reason": error.detail})
                continue
            log.info("replacing all workers")
            for place in self._places:
                if not await self._replace(place):
                    self._config = before
                    log.error("not all workers are replaced; those that are not stay", extra={"worker": place.number})
                    break
            else:
                log.info("all workers are replaced")

    async def _replace(self, place: Place) -> bool:
        """Whether there is a new one."""
        async with place.changing:
            before = place.child
            assert before is not None
            try:
                await self._start(place)
            except JudgifyError as error:
                log.error("a worker is not replaced", extra={"worker": place.number, "reason": error.detail})
                return False
        http = self._config.http
        leaving = asyncio.create_task(self._leave(before, LINGER_S + 2 * http.drain_timeout_s + GRACE_S), name="retire")
        self._retiring.add(leaving)
        leaving.add_done_callback(self._retiring.discard)
        await asyncio.wait((leaving,))
        return True

    async def _leave(self, child: Child, within_s: float) -> None:
        try:
            await child.retire(within_s)
        except asyncio.CancelledError:  # all stop
            await child.stop(self._config.http.drain_timeout_s + GRACE_S)

    def _renewed(self, config: Config) -> Config:
        """The settings that may change while we run; where others did, say so."""
        now = self._config
        http = msgspec.structs.replace(config.http, host=now.http.host, port=now.http.port)
        metrics = msgspec.structs.replace(config.metrics, database_url=now.metrics.database_url)
        renewed = msgspec.structs.replace(
            config, http=http, metrics=metrics, database=msgspec.structs.replace(config.database, url=now.database.url),
            redis=msgspec.structs.replace(config.redis, url=now.redis.url), workers=now.workers, data_dir=now.data_dir,
        )  # fmt: skip
        if renewed != config:
            log.warning("host, port, data directory, databases, Redis and the number of workers need a new start")
        return renewed


async def _ended(child: Child, changed: asyncio.Event) -> bool:
    """Wait for the process's end (True), or for another one in its place."""
    watching = asyncio.create_task(child.watch(), name="worker-watch")
    changing = asyncio.create_task(changed.wait(), name="worker-changed")
    try:
        await asyncio.wait((watching, changing), return_when=asyncio.FIRST_COMPLETED)
    finally:
        watching.cancel()
        changing.cancel()
    return child.exit.done()


def _make_folder() -> tuple[Path, int]:
    """A folder of our own and its lock, to be removed when we stop; those of supervisors that were killed are removed now."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > LONGEST_FOLDER:
        base = Path("/tmp")
    for one in base.glob(f"{FOLDER}*"):
        with contextlib.suppress(OSError):  # it is another user's, or its supervisor lives
            os.close(_lock(one, os.O_RDWR))
            shutil.rmtree(one, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=FOLDER, dir=base))
    return made, _lock(made, os.O_RDWR | os.O_CREAT)


def _lock(folder: Path, flags: int) -> int:
    """Hold the folder for as long as the descriptor is open. Raises OSError when somebody else does."""
    descriptor = os.open(folder / "lock", flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _longer(pause_s: float) -> float:
    return min(max(2 * pause_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
