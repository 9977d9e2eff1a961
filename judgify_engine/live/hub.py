"""From deltas to sockets: views that dashboards share, updated as changes are rolled up, pushed at a bounded pace.

A view is loaded from the rollups at one position and then follows the deltas from there; a delta that does not follow on it
leads to a new load. Each message is encoded once for all sockets of a view. A socket that is still busy with the message
before misses updates and gets the whole latest state when it is free: nothing piles up for it, and it is not cut off.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from judgify_engine.config import LiveConfig
from judgify_engine.core.model import Change
from judgify_engine.core.rollup import Delta
from judgify_engine.core.view import Snapshot, ViewKey, ViewState
from judgify_engine.errors import Overloaded, RetryLater
from judgify_engine.observe.metrics import Metrics

log = logging.getLogger(__name__)

STANDBY_REFRESH_S = 1.0
MAX_BACKLOG = 10_000
MAX_VIEWS = 1000
MAX_VIEWS_OF_TENANT = 100


class SnapshotSource(Protocol):
    """Where the rollups are."""

    async def snapshot(self, key: ViewKey) -> Snapshot: ...


class Client:
    """One socket's side of a view: at most one message waits for it."""

    def __init__(self, view: "View") -> None:
        self.view = view
        self._next: bytes | None = None
        self._behind = False
        self._wake = asyncio.Event()

    def first(self) -> bytes:
        """The message that a socket begins with; what was offered before is in it."""
        self._next, self._behind = None, False
        return self.view.full("initial_data")

    def offer(self, message: bytes, *, full: bool) -> bool:
        """Hand over the next message. False: the one before is still waiting, so this one is missed."""
        if self._next is not None and not full:
            self._behind = True
            return False
        self._next = message
        if full:
            self._behind = False
        self._wake.set()
        return True

    async def next(self) -> bytes:
        """The next message for this socket: the one that waits, or the latest state when some were missed."""
        while self._next is None and not self._behind:
            self._wake.clear()
            await self._wake.wait()
        if self._behind:
            self._next, self._behind = None, False
            return self.view.full("dashboard_update")
        message, self._next = self._next, None
        assert message is not None
        return message


class View:
    """A state and the sockets that watch it."""

    def __init__(self, key: ViewKey) -> None:
        self.key = key
        self.state: ViewState | None = None
        self.clients: set[Client] = set()
        self.loaded_s = 0.0
        self.stale = False
        self.backlog: list[Delta] | None = None
        self.loading: asyncio.Task[None] | None = None
        self._full: tuple[object, str, bytes] | None = None

    def full(self, kind: str) -> bytes:
        """The whole state as a message, encoded once per position and second (the rate falls with time alone)."""
        assert self.state is not None
        now_s = time.time()
        mark = (self.state, self.state.position, int(now_s))
        if self._full is None or self._full[0] != mark or self._full[1] != kind:
            self._full = (mark, kind, self.state.full(kind, now_s))
        return self._full[2]

    def push(self, message: bytes, *, full: bool) -> int:
        """Offer a message to all sockets; returns how many missed it."""
        return sum(not client.offer(message, full=full) for client in self.clients)


class Hub:
    """All views of this process. `follows`: whether this process hears of every change."""

    def __init__(
        self,
        source: SnapshotSource,
        follows: Callable[[], bool],
        config: LiveConfig,
        metrics: Metrics,
        verified_s: Callable[[], int | None] = lambda: None,
    ) -> None:
        """`verified_s`: up to where the rollups are verified (None: another process knows, and writes it down now and then)."""
        self._source, self._follows, self._config, self._metrics = source, follows, config, metrics
        self._verified_s = verified_s
        self._views: dict[ViewKey, View] = {}
        self.sockets = 0

    async def join(self, key: ViewKey) -> Client:
        """Watch a view; send `client.first()` first. Raises Overloaded or DatabaseUnavailable."""
        if self.sockets >= self._config.max_sockets:
            raise Overloaded(f"this server serves {self._config.max_sockets} dashboards at most", retry_after_s=5)
        view = self._views.get(key)
        if view is None:
            if len(self._views) >= MAX_VIEWS:
                raise Overloaded(f"this server serves {MAX_VIEWS} different dashboards at most", retry_after_s=5)
            if sum(known.tenant_id == key.tenant_id for known in self._views) >= MAX_VIEWS_OF_TENANT:
                raise Overloaded(f"a tenant may watch {MAX_VIEWS_OF_TENANT} different dashboards at most", retry_after_s=5)
            view = self._views[key] = View(key)
        client = Client(view)
        view.clients.add(client)
        self.sockets += 1
        try:
            if view.state is None:
                await asyncio.shield(self._load(view))
        except BaseException:
            self.leave(client)
            raise
        return client

    def leave(self, client: Client) -> None:
        """Stop watching. A view without sockets is forgotten."""
        view = client.view
        if client in view.clients:
            view.clients.remove(client)
            self.sockets -= 1
        if not view.clients and self._views.get(view.key) is view:
            del self._views[view.key]

    def rolled_up(self, delta: Delta, workflows: Sequence[Change]) -> None:
        """Follow the change stream (a `ChangeSink`)."""
        for view in self._views.values():
            if view.backlog is not None:
                view.backlog.append(delta)
                if len(view.backlog) > MAX_BACKLOG:
                    view.backlog.clear()
                    view.stale = True
            if view.state is not None and not view.state.add(delta):
                view.stale = True

    def reload(self) -> None:
        """The rollups were changed otherwise than by a delta: read every view anew."""
        for view in self._views.values():
            view.stale = True

    async def run(self, stop: asyncio.Event) -> None:
        """Push, refresh and reload, until `stop`."""
        loop = asyncio.get_running_loop()
        try:
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), self._config.push_interval_s)
                started_s = time.perf_counter()
                for view in list(self._views.values()):
                    self._tend(view, loop.time())
                self._metrics.push.observe(time.perf_counter() - started_s)
        finally:
            for view in self._views.values():
                if view.loading is not None:
                    view.loading.cancel()

    def _tend(self, view: View, now_s: float) -> None:
        if view.state is None:
            return
        verified_s = self._verified_s()
        if verified_s is not None:
            view.state.verified_through_s = verified_s
        if not view.stale and view.state.has_news(time.time()):
            missed = view.push(view.state.update(time.time()), full=False)
            self._metrics.push_skipped += missed
        every_s = self._config.refresh_interval_s if self._follows() else STANDBY_REFRESH_S
        if (view.stale or now_s - view.loaded_s >= every_s) and view.loading is None:
            self._load(view).add_done_callback(_heard)

    def _load(self, view: View) -> "asyncio.Task[None]":
        """Read a view anew; one load at a time for each."""
        if view.loading is None:
            view.loading = asyncio.get_running_loop().create_task(self._read(view), name="view-load")
        return view.loading

    async def _read(self, view: View) -> None:
        try:
            view.backlog = []
            view.stale = False
            snapshot = await self._source.snapshot(view.key)
            state = ViewState(view.key, snapshot)
            for delta in view.backlog:
                if not state.add(delta):
                    view.stale = True
            before, view.state = view.state, state
            if before is not None:
                state.keep_rate_of(before, asyncio.get_running_loop().time() - view.loaded_s, self._follows())
                if self._follows() or before.position != state.position:
                    view.push(view.full("dashboard_update"), full=True)
            state.settle()
        except RetryLater as error:
            if view.state is None:
                raise
            log.warning("a dashboard could not be refreshed", extra={"reason": str(error)})
        finally:
            view.loaded_s = asyncio.get_running_loop().time()
            view.backlog = None
            view.loading = None


def _heard(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("a dashboard could not be loaded", exc_info=task.exception())
