"""Several workers on one machine: started, watched, started again, replaced one by one, and stopped together.

The supervisor serves nobody itself. Each worker has listening sockets of its own (SO_REUSEPORT: the kernel spreads connections
over them), which the supervisor opens and keeps: while a worker is started again or replaced, who connects waits in the
backlog and is not refused. A worker that dies again and again loses its sockets until the next try: the others get its share.
"""

import asyncio
import contextlib
import logging
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from judgify_engine import control
from judgify_engine.config import Config
from judgify_engine.errors import JudgifyError, StartupError
from judgify_engine.ingest.listen import open_sockets, port_of, url_of
from judgify_engine.worker import LINGER_S, Stop

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
STEADY_S = 10.0
"""A worker that died sooner than this after its start will probably do so again: wait before the next one."""
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
PATIENCE_S = 2.0
"""Who connected to a worker that has just died waits so long for the next one; after a longer pause others had better serve."""
GRACE_S = 10.0
"""What a worker may take for its end beyond the time that it grants to its requests."""


class Child:
    """One worker process and the line to it."""

    def __init__(self, process: asyncio.subprocess.Process, line: control.Line) -> None:
        self._process, self._line = process, line
        self._ready_s: float | None = None

    @classmethod
    async def start(cls, orders: control.Orders) -> "Child":
        """Start the process and wait until it serves. Raises StartupError; then nothing of it is left."""
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "judgify_engine", "worker", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *orders.sockets),
                start_new_session=True,  # Ctrl-C in the terminal is ours to hand on
            )
        except OSError as error:
            ours.close()
            raise StartupError(f"worker {orders.number} cannot be started: {error}") from error
        finally:
            theirs.close()
        child = cls(process, await control.Line.open(ours))
        try:
            await child._become_ready(orders)
        except BaseException:
            await child.kill()
            raise
        return child

    async def _become_ready(self, orders: control.Orders) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._line.say(control.encode(orders))
                heard = await self._line.hear()
                if heard != control.READY:
                    raise StartupError(f"worker {orders.number} ended with code {await self.wait()} before it served")
        except TimeoutError:
            raise StartupError(f"worker {orders.number} did not serve within {START_TIMEOUT_S:.0f} s") from None
        self._ready_s = asyncio.get_running_loop().time()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def was_steady(self) -> bool:
        return self._ready_s is not None and asyncio.get_running_loop().time() - self._ready_s >= STEADY_S

    async def wait(self) -> int:
        """Wait for its end; the exit code."""
        return await self._process.wait()

    async def retire(self, within_s: float) -> None:
        """Have it end when its clients have gone elsewhere."""
        await self._line.say(control.RETIRE)
        await self._end(within_s)

    async def stop(self, within_s: float) -> None:
        """Have it answer what it accepted, and end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        await self._end(within_s)

    async def _end(self, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                await self.wait()
        except TimeoutError:
            log.error("a worker did not end in time and is killed", extra={"pid": self.pid})
            await self.kill()
        self._line.close()

    async def kill(self) -> None:
        """Now, and wait for it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self.wait()
        self._line.close()


class Place:
    """One of the workers, whichever process it is just now, and the sockets that outlive it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.child: Child | None = None
        self.sockets: list[socket.socket] = []
        self.changing = asyncio.Lock()
        """Held by whoever starts a process for this place."""
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
        self._folder = Path(tempfile.mkdtemp(prefix="judgify-"))
        self._retiring: set[asyncio.Task[None]] = set()
        self._hangup = asyncio.Event()

    async def run(self, stop: Stop, beside: Callable[[asyncio.TaskGroup, str], Awaitable[None]]) -> None:
        """Until `stop.now`. `beside` is called when all serve, with the address. Raises StartupError when they cannot."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hangup.set)
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

    async def _start_all(self) -> None:
        http = self._config.http
        probe = await asyncio.to_thread(open_sockets, http.host, self._port, http.backlog)
        self._port = port_of(probe)  # and nobody else listens there: a shared socket would not tell
        for one in probe:
            one.close()
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
        log.info("a worker serves", extra={"worker": place.number, "pid": place.child.pid})

    async def _keep(self, place: Place) -> None:
        """Put a new process in this place whenever the one there dies."""
        while True:
            child = place.child
            assert child is not None
            code = await child.wait()
            async with place.changing:
                if place.child is not child:
                    continue  # it was replaced
                place.pause_s = 0.0 if child.was_steady else _longer(place.pause_s)
                log.error(
                    "a worker died and is started again",
                    extra={"worker": place.number, "pid": child.pid, "exit_code": code, "pause_s": place.pause_s},
                )
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
            try:
                self._config = self._renewed(await asyncio.to_thread(self._reload))
            except JudgifyError as error:
                log.error("the settings are not taken over; all stays as it is", extra={"reason": error.detail})
                continue
            log.info("replacing all workers")
            for place in self._places:
                await self._replace(place)
            log.info("all workers are replaced")

    async def _replace(self, place: Place) -> None:
        async with place.changing:
            before = place.child
            assert before is not None
            try:
                await self._start(place)
            except JudgifyError as error:
                log.error("a worker is not replaced", extra={"worker": place.number, "reason": error.detail})
                return
        within_s = self._config.http.drain_timeout_s + LINGER_S + GRACE_S
        leaving = asyncio.create_task(self._leave(before, within_s), name="retire")
        self._retiring.add(leaving)
        leaving.add_done_callback(self._retiring.discard)
        await asyncio.wait((leaving,))

    async def _leave(self, child: Child, within_s: float) -> None:
        try:
            await child.retire(within_s)
        except asyncio.CancelledError:  # all stop
            await child.stop(within_s)

    def _renewed(self, config: Config) -> Config:
        """The settings that may change while we run; where others did, say so."""
        now = self._config
        http = msgspec.structs.replace(config.http, host=now.http.host, port=now.http.port)
        metrics = msgspec.structs.replace(config.metrics, database_url=now.metrics.database_url)
        renewed = msgspec.structs.replace(
            config, http=http, metrics=metrics, database=msgspec.structs.replace(config.database, url=now.database.url),
            workers=now.workers, data_dir=now.data_dir,
        )  # fmt: skip
        if renewed != config:
            log.warning("host, port, data directory, databases and the number of workers need a new start")
        return renewed


def _longer(pause_s: float) -> float:
    return min(max(2 * pause_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
