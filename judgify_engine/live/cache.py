"""Snapshots of views that processes share, so that a dashboard opened in many of them is read from PostgreSQL once.

A cached snapshot is as good as a new one if it is of the chain that is heard now (core/portion: whatever changes the rollups
otherwise than by a delta begins another one), and if all that followed on it is known: whoever takes it must see to that, by
the stream and the last beat. Nothing needs to be removed, then: what is of no use any more is passed over, and expires.
"""

import logging
import time
from collections.abc import Callable

from judgify_engine.core.dashboards import Needs
from judgify_engine.core.streams import CACHED_S, dashboard_key
from judgify_engine.core.view import Snapshot, ViewKey
from judgify_engine.errors import Corrupt, Unavailable
from judgify_engine.pipeline.streams import Streams
from judgify_engine.wire.snapshot import Kept, decode, encode

log = logging.getLogger(__name__)


class SnapshotCache:
    """`epoch`: of the chain that is heard now; None: none, and nothing is cached. `max_age_s`: older ones are passed over."""

    def __init__(
        self, streams: Streams, epoch: Callable[[], int | None], max_age_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._streams, self._epoch, self._max_age_s, self._clock = streams, epoch, max_age_s, clock

    async def get(self, key: ViewKey, needs: Needs) -> Snapshot | None:
        """One that the portions of this chain follow on. In bounded time."""
        epoch = self._epoch()
        if epoch is None:
            return None
        try:
            value = await self._streams.get(_name(key))
            kept = None if value is None else decode(value)
        except (Unavailable, Corrupt) as error:
            log.debug("no cached snapshot can be read", extra={"reason": str(error)})
            return None
        if kept is None or (kept.key, kept.needs, kept.epoch) != (key, needs, epoch):
            return None
        if not 0 <= self._clock() - kept.read_at_s <= self._max_age_s:
            return None
        return kept.snapshot

    async def put(self, key: ViewKey, needs: Needs, epoch: int | None, snapshot: Snapshot) -> None:
        """Keep one for others. `epoch`: the chain that was heard before it was read."""
        if epoch is None or epoch != self._epoch() or snapshot.recomputing:
            return
        try:
            await self._streams.put(_name(key), encode(Kept(epoch, self._clock(), snapshot, key, needs)), CACHED_S)
        except Unavailable as error:
            log.debug("a snapshot cannot be cached", extra={"reason": str(error)})


def _name(key: ViewKey) -> str:
    """Views of a dashboard differ in the workflow and the time frame. What it is made of may hold colons, so another view,
    even another tenant's, may have the same name: what is found there says whose it is."""
    return dashboard_key(key.tenant_id, ":".join((key.dashboard_id, key.timeframe, key.workflow_id or "")))
