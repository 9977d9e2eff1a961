"""How views are read: from the rollups at one position, from what another process read, or mended by what the streams have.

A view that is read follows the deltas from there. Where one does not follow on it, what was missed is looked up, or the view is
read anew; so it is now and then in any case, and every second where neither deltas nor portions come.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from judgify_engine.config import LiveConfig
from judgify_engine.core.dashboards import BUILT_IN, Defined, Needs, needs_of
from judgify_engine.core.trail import Resume
from judgify_engine.core.view import Snapshot, ViewKey, ViewState
from judgify_engine.errors import RetryLater
from judgify_engine.live.feed import Feed
from judgify_engine.live.view import View
from judgify_engine.observe.metrics import Metrics
from judgify_engine.units import Position

log = logging.getLogger(__name__)

STANDBY_REFRESH_S = 1.0
PAUSE_S = 0.25
"""From one reading of a view to the next because it missed something: what it misses may come all the time."""
READS = 3
"""Of a view, for one socket that begins."""
MENDING = 4
"""Views that look up at once what they missed."""


class SnapshotSource(Protocol):
    """Where the rollups are."""

    async def snapshot(self, key: ViewKey, needs: Needs) -> Snapshot: ...
    async def position(self) -> Position: ...


async def built_in(tenant_id: str, dashboard_id: str) -> Defined:
    """Where nobody defines dashboards."""
    return Defined(0, BUILT_IN)


class Readings:
    """Reads views; one task at a time for each."""

    def __init__(
        self,
        source: SnapshotSource,
        follows: Callable[[], bool],
        config: LiveConfig,
        metrics: Metrics,
        feed: Feed,
        defined: Callable[[str, str], Awaitable[Defined]],
        is_kept: Callable[[View], bool],
        has_news: Callable[[View], None],
    ) -> None:
        """`is_kept`: whether a view is still followed. `has_news`: told of one that has something to push."""
        self._source, self._follows, self._config, self._metrics, self._feed = source, follows, config, metrics, feed
        self._defined, self._is_kept, self._has_news = defined, is_kept, has_news
        self._mending = asyncio.Semaphore(MENDING)

    async def be_current(self, view: View, resume: Resume | None) -> None:
        """A socket may come from another process, one that read the log and is gone: it must not be shown less than there."""
        ahead = resume is not None and view.state is not None and resume.position > view.state.position
        if ahead or not self._follows():
            try:
                view.at_least = max(view.at_least, await self._source.position())
            except RetryLater:
                if view.state is None:
                    raise
        for _ in range(READS):  # one may have begun before
            state = view.state
            if state is not None and (
                state.recomputing or self._feed.through(view.key.tenant_id, state.position) >= view.at_least
            ):
                return
            await asyncio.shield(self.load(view))

    def mend_if_due(self, view: View, now_s: float) -> None:
        """Begin with a view that is void or missed something, unless that was tried just now."""
        if view.loading is None and now_s >= max(view.not_before_s, view.missed * (view.loaded_s + PAUSE_S)):
            self.load(view).add_done_callback(_heard)

    def give_up(self, view: View) -> None:
        """Its state cannot be used: have it read anew, after a while."""
        view.void, view.not_before_s = True, asyncio.get_running_loop().time() + STANDBY_REFRESH_S

    def refresh_if_due(self, view: View, now_s: float) -> None:
        """Begin to read a view anew that was not for a while."""
        every_s = self._config.refresh_interval_s if self.is_live(view) else STANDBY_REFRESH_S
        if now_s - view.loaded_s >= every_s and view.loading is None:
            self.load(view).add_done_callback(_heard)

    def is_live(self, view: View) -> bool:
        return self._follows() or self._feed.follows(view.key.tenant_id)

    def load(self, view: View) -> "asyncio.Task[None]":
        """Mend a view or read it anew; one task at a time for each."""
        if view.loading is None:
            view.loading = asyncio.get_running_loop().create_task(self._read(view), name="view-load")
        return view.loading

    async def _read(self, view: View) -> None:
        loop = asyncio.get_running_loop()
        void = missed = False
        try:
            if self._is_kept(view):  # before it is read, so that nothing comes unheard in between
                await self._feed.ready(view.key.tenant_id)
            void, missed = view.void, view.missed
            view.backlog, view.void, view.missed = [], False, False
            if view.state is None or void or not missed or not await self._mend(view, view.state):
                await self._read_anew(view)
        except Exception as error:
            view.void = view.void or void or missed
            if view.state is None or not isinstance(error, RetryLater):
                raise
            log.warning("a dashboard could not be refreshed", extra={"reason": str(error)})
        finally:
            view.not_before_s = loop.time() + STANDBY_REFRESH_S if view.void else 0.0
            view.backlog = None
            view.loading = None

    async def _read_anew(self, view: View) -> None:
        loop = asyncio.get_running_loop()
        live, epoch = self.is_live(view), self._feed.epoch
        try:
            defined = await self._defined(*view.key[:2])
            state = await self._cached(view, defined)
            if state is None:
                needs = needs_of(defined.dashboard, view.key.workflow_id)
                snapshot = await self._source.snapshot(view.key, needs)
                await self._feed.cache.put(view.key, needs, epoch, snapshot)
                state = ViewState(view.key, defined, snapshot)  # from here on the snapshot is a part of it, and changes with it
                view.missed |= not view.add_backlog(state)
            before, view.state, view.backlog = view.state, state, None
            if before is not None:
                state.keep_rate_of(before, loop.time() - view.loaded_s, live)
                if not view.void and (live or not state.says_the_same_as(before)):
                    view.renew()
                    self._has_news(view)
            if not view.late:
                state.settle()
        finally:
            view.loaded_s = loop.time()

    async def _cached(self, view: View, defined: Defined) -> ViewState | None:
        """The state that another process has read, and all that followed on it."""
        snapshot = await self._feed.cache.get(view.key, needs_of(defined.dashboard, view.key.workflow_id))
        if snapshot is None:
            return None
        state = ViewState(view.key, defined, snapshot)
        complete = await self._catch_up(view, state)
        return state if complete and self._feed.through(view.key.tenant_id, state.position) >= view.at_least else None

    async def _mend(self, view: View, state: ViewState) -> bool:
        """Add what was missed, if the streams have it; else the state stays true for its position."""
        mended = await self._catch_up(view, state)
        self._metrics.relay_gaps["stream" if mended else "tables"] += 1
        if mended:
            self._has_news(view)
        return mended

    async def _catch_up(self, view: View, state: ViewState) -> bool:
        """Add what the stream has and what came meanwhile. False: that is not all, but the state is true for its position."""
        tenant_id = view.key.tenant_id
        async with self._mending:
            portions = await self._feed.missed(tenant_id, state.position)
        return all(map(state.add, portions)) and view.add_backlog(state) and self._feed.complete(tenant_id, state.position)


def _heard(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("a dashboard could not be loaded", exc_info=task.exception())
