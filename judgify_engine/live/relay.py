"""The relay, in the process that reads the log: tells all processes what each delta changed, tenant by tenant.

After a delta is committed to the rollups, each tenant's portion goes to its channel, for whoever watches it, and into the
stream of its partition, for whoever missed it; beats on the common channel say how far the chain has come. Reading the log
never waits for any of it: portions wait in a bounded buffer, and what finds no room there or cannot be sent is counted and
lost. The chain (core/portion) shows that to those who hear it.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from judgify_engine.core.model import Change
from judgify_engine.core.portion import Chain, Portion
from judgify_engine.core.rollup import Delta
from judgify_engine.core.streams import DASHBOARDS, NOTIFICATIONS, dashboard_stream_of, notifications_of
from judgify_engine.errors import Overloaded, Unavailable
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.streams import HELD, Batch, Entry, Streams
from judgify_engine.units import START, Position
from judgify_engine.wire.portion import encode

log = logging.getLogger(__name__)

BEAT_S = 0.25
PAUSE_S = 0.1
"""When so long nothing was told, a beat says that this was all."""
TRIM_S = 1.0
RETRY_S = 0.25
SHORTEST_S = 0.005
MAX_WAITING = 50_000
"""Rows of sums that may wait to be sent: some 10 MB."""
SLICE = 200
"""Portions encoded before others get the event loop: about 1 ms."""


class Relay:
    """A `ChangeSink`. `follows`: whether this process reads the log and is not behind; where not, there are no beats."""

    def __init__(
        self,
        streams: Streams,
        follows: Callable[[], bool],
        origin: Callable[[], Awaitable[str | None]],
        verified_s: Callable[[], int | None],
        epochs: Callable[[], int],
        keep_entries: int,
        metrics: Metrics,
    ) -> None:
        """`origin`: whose rollups these are. `epochs`: numbers that never come twice, in no process."""
        self._streams, self._follows, self._origin, self._verified_s = streams, follows, origin, verified_s
        self._epochs, self._keep, self._metrics = epochs, keep_entries, metrics
        self._sender = f"{socket.gethostname()}:{os.getpid()}"
        self._chain: Chain | None = None
        self._name: str | None = None
        """The origin, once the streams were made ready for this chain."""
        self._waiting: deque[dict[str, Portion]] = deque()
        self._rows = 0
        self._some = asyncio.Event()
        self._told_s = self._beat_s = self._trimmed_s = 0.0
        self._grown: set[str] = set()
        self._loop = asyncio.get_running_loop()

    def begin(self, position: Position) -> None:
        """Not only deltas made the rollups what they are at `position`: all who follow must read them anew."""
        self._chain, self._name = Chain(self._epochs(), position), None
        self._waiting.clear()  # of the chain before: nobody takes it any more, and it may lie ahead of this one
        self._rows = 0
        self._beat_s = 0.0
        self._some.set()

    def rolled_up(self, delta: Delta, workflows: Sequence[Change]) -> None:
        """Follow the change stream (a `ChangeSink`)."""
        if self._chain is None or delta.truncated:
            return self.begin(delta.position)
        portions = dict(self._chain.link(delta, self._loop.time()))
        rows = sum(1 + len(portion.sums) for portion in portions.values())
        if self._rows and self._rows + rows > MAX_WAITING:
            self._metrics.relay_dropped += len(portions)
        elif portions:
            self._waiting.append(portions)
            self._rows += rows
            self._some.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Tell what waits, and beat, until `stop`."""
        away = ""
        while not stop.is_set():
            pause_s = 0.0
            try:
                await self._tell()
                away = ""
            except (Unavailable, Overloaded) as error:
                if str(error) != away:
                    log.warning("live changes cannot be told to other processes", extra={"reason": str(error)})
                away, pause_s = str(error), RETRY_S
            except Exception:  # judging goes on, whatever happens to dashboards
                log.exception("telling live changes failed and is tried again")
                pause_s = RETRY_S
            await self._rest(stop, pause_s)

    async def _rest(self, stop: asyncio.Event, pause_s: float) -> None:
        """Until there is something to tell, or a beat is due; but for `pause_s` whatever comes."""
        if pause_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause_s)
            return
        due_s = self._beat_s + BEAT_S
        if self._told_s > self._beat_s:
            due_s = min(due_s, self._told_s + PAUSE_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(max(due_s, self._loop.time() + SHORTEST_S)):
                await self._some.wait()

    async def _tell(self) -> None:
        """All that waits, then a beat if one is due."""
        self._some.clear()
        chain = self._chain
        if chain is None:
            self._beat_s = self._loop.time()
            return
        if self._name is None:
            await self._make_ready(chain)
        portions = list(self._waiting)
        self._waiting.clear()
        self._rows = 0
        now_s = self._loop.time()
        beat = None
        if portions:
            self._told_s = now_s
        if now_s - self._beat_s >= BEAT_S or (not portions and self._told_s > self._beat_s):
            self._beat_s = now_s
            if self._follows() and self._chain is chain and self._name is not None:
                beat = encode(chain.beat(self._name, self._sender, now_s, self._verified_s()))
        if portions or beat is not None:
            await self._send(portions, beat)

    async def _send(self, deltas: list[dict[str, Portion]], beat: bytes | None) -> None:
        """The messages first, they are waited for; the beat last: what it speaks of can be looked up by then."""
        messages: list[tuple[str, bytes]] = []
        entries: dict[str, dict[Position, dict[bytes, bytes]]] = {}
        for portions in deltas:
            for tenant_id, portion in portions.items():
                encoded = encode(portion)
                messages.append((notifications_of(tenant_id), encoded))
                fields = entries.setdefault(dashboard_stream_of(tenant_id), {}).setdefault(portion.position, {})
                fields[tenant_id.encode()] = encoded
                if len(messages) % SLICE == 0:
                    await asyncio.sleep(0)
        await self._publish(messages)
        try:
            await self._append(entries)
        finally:  # a Redis that has no room for entries still passes messages on
            await self._publish([] if beat is None else [(NOTIFICATIONS, beat)])

    async def _publish(self, messages: list[tuple[str, bytes]]) -> None:
        if messages:
            try:
                await self._streams.send(messages)
            except BaseException:
                self._metrics.relay_dropped += len(messages)
                raise
            self._metrics.relay_messages += len(messages)

    async def _append(self, entries: dict[str, dict[Position, dict[bytes, bytes]]]) -> None:
        """What the streams lack is a gap to who looks into them, so there is nothing that an entry must follow on."""
        if entries:
            await self._streams.append(
                [Batch(stream, START, [Entry(*entry) for entry in sorted(of.items())]) for stream, of in entries.items()]
            )
            self._grown |= entries.keys()
            await self._trim()

    async def _trim(self) -> None:
        now_s = self._loop.time()
        if now_s - self._trimmed_s >= TRIM_S:
            self._trimmed_s = now_s
            while self._grown:
                await self._streams.trim(self._grown.pop(), self._keep, HELD * self._keep)

    async def _make_ready(self, chain: Chain) -> None:
        """Learn whose rollups these are, and empty streams of a log that went further than ours, as one before a restore."""
        name = await self._origin()
        if name is None:
            raise Unavailable("nobody knows yet which server the rollups belong to")
        ahead = [
            stream
            for stream, last in zip(DASHBOARDS, await self._streams.last(DASHBOARDS), strict=True)
            if last > chain.position
        ]
        if ahead:
            log.warning("streams of dashboards are of another log and are emptied", extra={"streams": len(ahead)})
            await self._streams.empty(ahead)
        if self._chain is chain:
            self._name = name
