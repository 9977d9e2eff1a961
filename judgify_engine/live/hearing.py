"""What this process hears of the relay: the portions of the tenants that its own dashboards watch, and the beats.

Whoever reads the log here needs none of it, and asks for none. In any other process a tenant's channel is watched from before
its first dashboard is read until a little after its last one has gone. Beats tell whether all that was told has come
(core/portion), also after an interruption. One of another epoch, as of another holder, means that all must be read anew.

Several engines may share one Redis by mistake: beats say whose they are, others are not heeded, nor portions of their epochs.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from judgify_engine.core.portion import Beat, Portion
from judgify_engine.core.streams import NOTIFICATIONS, dashboard_stream_of, notifications_of
from judgify_engine.errors import Corrupt, Overloaded, Unavailable
from judgify_engine.live.cache import SnapshotCache
from judgify_engine.pipeline.streams import Listener, Streams
from judgify_engine.units import Position
from judgify_engine.wire.portion import decode_beat, decode_portion

log = logging.getLogger(__name__)

SILENCE_S = 1.5
"""Without a beat for so long, nobody can be said to follow."""
LOOK_S = 0.5
LINGER_S = 5.0
"""How long a tenant's channel is watched after its last dashboard has gone: another one may come."""
REST_ENTRIES = 200
"""Deltas that are looked up to close a gap, at most: some ten seconds."""


class Follower(Protocol):
    """Who is told of what is heard."""

    def heard(self, tenant_id: str, portion: Portion) -> None:
        """Something changed for a tenant, or nothing did."""

    def reload(self) -> None:
        """All that is known is void."""


class Hearing:
    """One process's ear. `holding`: whether this process reads the log itself."""

    def __init__(
        self,
        streams: Streams,
        holding: Callable[[], bool],
        origin: Callable[[], Awaitable[str | None]],
        follower: Callable[[], Follower],
        max_age_s: float,
    ) -> None:
        """`origin`: whose rollups this process shows. `max_age_s`: how old a snapshot may be that others read."""
        self._streams, self._holding, self._origin, self._follower = streams, holding, origin, follower
        self.cache = SnapshotCache(streams, lambda: self.epoch, max_age_s)
        self._listener: Listener | None = None
        self._needed_s: dict[str, float] = {}
        """Tenant to until when its channel is needed (loop time)."""
        self._watched: set[str] = set()
        self._changing = asyncio.Lock()
        self._name: str | None = None
        self._strange: str | None = None
        """An origin that is not ours was heard."""
        self._beat: Beat | None = None
        self._beat_s = -math.inf
        self._unsure: set[str] = set()
        """Tenants that were not heard until now; the next beat tells whether something was missed."""
        self._loop = asyncio.get_running_loop()

    @property
    def hears(self) -> bool:
        """Whether all that is told just now is heard."""
        listener = self._listener
        return listener is not None and listener.connected and self._loop.time() - self._beat_s < SILENCE_S

    def follows(self, tenant_id: str) -> bool:
        """Whether all that is told of this tenant just now is heard."""
        return tenant_id in self._watched and self.hears and not self._holding()

    @property
    def epoch(self) -> int | None:
        """The chain that is heard now; None: none."""
        return self._beat.epoch if self._beat is not None and self.hears and not self._holding() else None

    @property
    def verified_through_s(self) -> int | None:
        """As the process that reads the log said last; None while none is heard."""
        return self._beat.verified_through_s if self._beat is not None and self.hears else None

    async def ready(self, tenant_id: str) -> None:
        """From now on this tenant is heard, if anything is. In bounded time; raises nothing."""
        self._needed_s[tenant_id] = math.inf
        listener = self._listener
        if listener is not None and listener.connected and not self._holding() and tenant_id not in self._watched:
            try:
                await self._watch(listener, [tenant_id])
            except Unavailable as error:
                log.debug("a channel cannot be watched yet", extra={"reason": str(error)})

    def leave(self, tenant_id: str) -> None:
        """No dashboard of this tenant is left."""
        if tenant_id in self._needed_s:
            self._needed_s[tenant_id] = self._loop.time() + LINGER_S

    async def missed(self, tenant_id: str, position: Position) -> list[Portion]:
        """What the streams have of a tenant after a position; whether that is all, `complete` and the chain tell."""
        if self._beat is None or not self.follows(tenant_id):
            return []
        if position.index < 0:  # the start of a slot, before the first change there: no entry can have it
            position = Position(max(0, position.lsn - 1), 2**63 - 1)
        epoch = self._beat.epoch
        try:
            entries = await self._streams.after(dashboard_stream_of(tenant_id), position, REST_ENTRIES)
            name = tenant_id.encode()
            found = [decode_portion(entry.fields[name]) for entry in entries if name in entry.fields]
        except (Unavailable, Corrupt) as error:
            log.debug("a gap cannot be closed from the stream", extra={"reason": str(error)})
            return []
        return [portion for portion in found if portion.epoch == epoch]

    def complete(self, tenant_id: str, position: Position) -> bool:
        """Whether a state of this tenant at a position, of after the last interruption, lacks nothing that was told."""
        return self._beat is not None and self.follows(tenant_id) and position >= self._beat.after(tenant_id)

    def through(self, tenant_id: str, position: Position) -> Position:
        """Up to where such a state is known to hold: nothing was told between the two."""
        beat = self._beat
        return beat.position if beat is not None and self.complete(tenant_id, position) else position

    async def run(self, stop: asyncio.Event) -> None:
        """Watch what is needed, until `stop`."""
        self._listener = listener = self._streams.listen(self._hear, self._interrupt)
        base = False
        try:
            while not stop.is_set():
                try:
                    if self._name is None or self._strange is not None:
                        self._name, self._strange = await self._origin(), None
                    if not base:
                        await listener.watch([NOTIFICATIONS])
                        base = True
                    await self._watch_needed(listener)
                except (Unavailable, Overloaded) as error:
                    log.debug("nothing can be heard just now", extra={"reason": str(error)})
                except Exception:  # judging goes on, whatever happens to dashboards
                    log.exception("watching channels failed and is tried again")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), LOOK_S)
        finally:
            self._listener = None
            await listener.close()

    async def _watch_needed(self, listener: Listener) -> None:
        now_s = self._loop.time()
        for tenant_id in [tenant_id for tenant_id, until_s in self._needed_s.items() if until_s < now_s]:
            del self._needed_s[tenant_id]
        needed = set() if self._holding() else set(self._needed_s)
        if more := needed - self._watched:
            await self._watch(listener, more)
        async with self._changing:
            needed = set() if self._holding() else set(self._needed_s)
            if less := self._watched - needed:
                self._watched -= less
                await listener.unwatch([notifications_of(tenant_id) for tenant_id in less])

    async def _watch(self, listener: Listener, tenant_ids: Iterable[str]) -> None:
        async with self._changing:
            more = set(tenant_ids) - self._watched
            if more:
                await listener.watch([notifications_of(tenant_id) for tenant_id in more])
                self._watched |= more
                self._unsure |= more

    def _interrupt(self) -> None:
        self._beat_s = -math.inf

    def _hear(self, channel: str, message: bytes) -> None:
        if self._holding():
            return
        try:
            if channel == NOTIFICATIONS:
                self._take(decode_beat(message))
                return
            portion = decode_portion(message)
        except Corrupt as error:
            log.debug("a message that is none of ours", extra={"channel": channel, "reason": str(error)})
            return
        if self._beat is not None and portion.epoch == self._beat.epoch:
            self._follower().heard(channel.removeprefix(f"{NOTIFICATIONS}:"), portion)

    def _take(self, beat: Beat) -> None:
        if beat.origin != self._name:
            self._strange = beat.origin
            return
        known, now_s = self._beat, self._loop.time()
        unsure = self._watched if now_s - self._beat_s >= SILENCE_S else self._unsure
        self._beat, self._beat_s, self._unsure = beat, now_s, set()
        follower = self._follower()
        if known is None or known.epoch != beat.epoch:
            log.info("hearing live changes", extra={"sender": beat.sender, "position": str(beat.position)})
            follower.reload()
        for tenant_id in self._watched:
            if tenant_id in unsure or beat.tells_of(tenant_id):
                follower.heard(tenant_id, beat.portion(tenant_id))
