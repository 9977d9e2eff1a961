"""Several workers on one machine: started, watched, started again, replaced one by one, more or fewer, and stopped together.

The supervisor serves nobody itself. Each worker has listening sockets of its own (SO_REUSEPORT: the kernel spreads connections
over them), which the supervisor opens and keeps: while a worker is started again or replaced, who connects waits in the
backlog and is not refused. A worker that dies again and again loses its sockets until the next try: the others get its share.
One that is not needed any more gets no new connections first, and then retires.
"""

import asyncio
import logging
import os
import shutil
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from judgify_engine import control
from judgify_engine.child import Child, Hooks
from judgify_engine.config import Config
from judgify_engine.departures import Departures
from judgify_engine.errors import JudgifyError
from judgify_engine.ingest.listen import open_sockets, port_of, url_of
from judgify_engine.ingest.steering import Group
from judgify_engine.observe.siblings import make_folder
from judgify_engine.place import Place
from judgify_engine.worker import LINGER_S, Stop

log = logging.getLogger(__name__)

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
PATIENCE_S = 2.0
"""Who connected to a worker that has just died waits so long for the next one; after a longer pause others had better serve."""
GRACE_S = 4.0
"""What a worker may take for its end beyond the time that it grants to its requests; less than 30 s in all by default."""
MOST_WORKERS = 256


class Supervisor:
    """Keeps `config.workers` of them, until a worker asks for another number (`[scaling] executor = "local"`).

    `reload` reads the settings again, for a restart of all by SIGHUP.
    """

    def __init__(self, config: Config, dsn: str, reload: Callable[[], Config]) -> None:
        self._config, self._dsn, self._reload = config, dsn, reload
        self._places = [Place(number) for number in range(config.workers)]
        self._port = config.http.port
        self._folder = Path()
        """Where the workers meet, see observe/siblings."""
        self._size = config.workers
        """How many there are to be."""
        self._listening: Group[Place] = Group()
        self._departures = Departures(self._listening, self._tell_size)
        self._hooks = Hooks(self._asked_for)
        self._hung_up = False
        self._wanted = asyncio.Event()
        """Something is to be changed: see `_change`."""

    async def run(self, stop: Stop, beside: Callable[[asyncio.TaskGroup, str], Awaitable[None]]) -> None:
        """Until `stop.now`. `beside` is called when all serve, with the address. Raises StartupError when they cannot."""
        self._folder, lock = await asyncio.to_thread(make_folder)
        try:
            if await stop.unless(self._start_all()):
                async with asyncio.TaskGroup() as tasks:
                    for place in self._places:
                        place.keeper = tasks.create_task(self._keep(place), name=f"worker-{place.number}")
                    changing = tasks.create_task(self._change(tasks), name="change")
                    await beside(tasks, url_of(self._config.http.host, self._port))
                    await stop.now.wait()
                    changing.cancel()
                    for place in self._places:
                        if place.keeper is not None:
                            place.keeper.cancel()
        finally:
            stop.now.set()
            await self._stop_all()
            os.close(lock)

    def listen_to_hangups(self) -> None:
        """From now on SIGHUP means: replace all workers, as soon as they are there."""

        def hang_up() -> None:
            self._hung_up = True
            self._wanted.set()

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)

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
        await self._departures.break_off()
        await asyncio.gather(*[child.stop(within_s) for child in self._children])
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _start(self, place: Place) -> None:
        """Put a new process in this place. Raises StartupError; then the place is as it was."""
        http = self._config.http
        if not place.sockets:
            place.sockets = open_sockets(http.host, self._port, http.backlog, shared=True)
        descriptors = [one.fileno() for one in place.sockets]
        config = msgspec.structs.replace(self._config, workers=self._sharing)
        team = f"{socket.gethostname()}:{self._port}"
        orders = control.Orders(config, self._dsn, place.number, descriptors, str(self._folder), team, self._size)

        def listens() -> None:
            if place.listens:
                self._listening.listens(place)

        place.child = await Child.start(orders, self._hooks, listens)
        place.child.tell_size(self._size, self._sharing)
        place.changed.set()
        log.info("a worker serves", extra={"worker": place.number, "pid": place.child.pid})

    async def _keep(self, place: Place) -> None:
        """Have a process in this place: a new one whenever the one there dies."""
        if place.child is None:
            async with place.changing:
                await self._restart(place)
        while True:
            child = place.child
            assert child is not None
            place.changed.clear()
            if not await place.ended(child):
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
                self._listening.closed(place)
            await self._rest(place)
            try:
                await self._start(place)
                return
            except JudgifyError as error:
                place.pause_s = _longer(place.pause_s)
                log.error("a worker cannot be started now", extra={"reason": error.detail, "pause_s": place.pause_s})

    async def _rest(self, place: Place) -> None:
        """Before the next try; only for a moment where, or as soon as, nobody else serves."""
        rested_s = 0.0
        while rested_s < place.pause_s and (rested_s == 0.0 or self._others_serve(place)):
            await asyncio.sleep(SHORTEST_PAUSE_S)
            rested_s += SHORTEST_PAUSE_S

    def _others_serve(self, place: Place) -> bool:
        return any(other is not place and other.child is not None and not other.child.exit.done() for other in self._places)

    async def _change(self, tasks: asyncio.TaskGroup) -> None:
        """Replace all, or have as many as are asked for: one after the other, so that neither meets the other half done."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if self._hung_up:
                self._hung_up = False
                await self._replace_all()
            while len(self._places) < self._size:
                self._grow(tasks)
            while len(self._places) > self._size:
                await self._shrink()

    def _asked_for(self, size: int) -> None:
        """A worker asks for so many: say at once that it is seen to."""
        if self._config.scaling.executor != "local" or not 1 <= size <= MOST_WORKERS:
            log.error("another number of workers is asked for, which cannot be", extra={"workers": size})
            return
        self._size = size
        self._tell_size()
        self._wanted.set()

    @property
    def _sharing(self) -> int:
        """How many grant what tenants may use: also those that come or go just now, so that it is never too much."""
        return max(len(self._places), self._size) + len(self._departures.going)

    @property
    def _children(self) -> set[Child]:
        """All processes that there are."""
        return {place.child for place in self._places if place.child is not None} | self._departures.going

    def _tell_size(self) -> None:
        for child in self._children:
            child.tell_size(self._size, self._sharing)

    def _grow(self, tasks: asyncio.TaskGroup) -> None:
        """One more; when it cannot be started it is tried again, like one that died."""
        place = Place(len(self._places))
        self._places.append(place)
        place.keeper = tasks.create_task(self._keep(place), name=f"worker-{place.number}")
        log.info("a worker is added", extra={"worker": place.number, "workers": self._size})

    async def _shrink(self) -> None:
        """One fewer: it gets no new connections, answers those that it has, and goes."""
        place = self._places[-1]
        log.info("a worker retires", extra={"worker": place.number, "workers": self._size})
        if place.keeper is not None:
            place.keeper.cancel()
            await asyncio.wait((place.keeper,))
        self._places.remove(place)
        if place.child is None:  # it never came to be
            place.close()
            self._tell_size()
            return
        self._departures.dismiss(place.child, place, self._any_place, self._patience_s, GRACE_S)

    def _any_place(self) -> Place | None:
        return next((place for place in self._places if place.sockets), None)

    @property
    def _patience_s(self) -> float:
        """How long a worker may take to retire."""
        return LINGER_S + 2 * self._config.http.drain_timeout_s + GRACE_S

    async def _replace_all(self) -> None:
        """One by one, with the settings as they are now; the old one goes when the new one serves."""
        before = self._config
        try:
            self._config = self._renewed(await asyncio.to_thread(self._reload))
        except JudgifyError as error:
            log.error("the settings are not taken over; all stays as it is", extra={"reason": error.detail})
            return
        log.info("replacing all workers")
        for place in self._places:
            if not await self._replace(place):
                self._config = before
                log.error("not all workers are replaced; those that are not stay", extra={"worker": place.number})
                return
        log.info("all workers are replaced")

    async def _replace(self, place: Place) -> bool:
        """Whether there is a new one."""
        async with place.changing:
            before = place.child
            assert before is not None
            self._departures.announce(before)  # from now on there is one more who grants
            try:
                await self._start(place)
            except JudgifyError as error:
                self._departures.over(before)
                log.error("a worker is not replaced", extra={"worker": place.number, "reason": error.detail})
                return False
        await asyncio.wait((self._departures.see_off(before, self._patience_s),))
        return True

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


def _longer(pause_s: float) -> float:
    return min(max(2 * pause_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S)
