"""From deltas to sockets: views that dashboards share, updated as changes are rolled up, pushed at once but at a bounded pace.

A view follows the deltas, or, in a process that does not read the log, the portions of them that come by the relay (`Feed`).
How it is read, and what becomes of one that missed something, is in `live/reading`.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from judgify_engine.config import LiveConfig
from judgify_engine.core.dashboards import Defined
from judgify_engine.core.model import Change
from judgify_engine.core.portion import Portion
from judgify_engine.core.rollup import Delta
from judgify_engine.core.trail import Resume
from judgify_engine.core.view import ViewKey
from judgify_engine.errors import Overloaded
from judgify_engine.live.feed import Feed
from judgify_engine.live.reading import Readings, SnapshotSource, built_in
from judgify_engine.live.view import Client, View
from judgify_engine.observe.metrics import Metrics

log = logging.getLogger(__name__)

LOOK_S = 0.1
"""How often it is looked for rates that fell, and for views that are to be read."""
SHORTEST_S = 0.005
PUSH_SHARE = 3
"""Pushing takes at most one part in so many of the time: with many sockets the pace falls, and not the rest of the process."""
KEEP_S = 30.0
"""How long a view that nobody watches follows on: a client that lost its connection comes back to it."""
SLICE = 20
"""Views looked at before others get the event loop."""
MAX_VIEWS = 1000
MAX_VIEWS_OF_TENANT = 100


class Hub:
    """All views of this process. `follows`: whether it hears of every change because it reads the log."""

    def __init__(
        self,
        source: SnapshotSource,
        follows: Callable[[], bool],
        config: LiveConfig,
        metrics: Metrics,
        feed: Feed,
        verified_s: Callable[[], int | None] = lambda: None,
        defined: Callable[[str, str], Awaitable[Defined]] = built_in,
    ) -> None:
        """`verified_s`: up to where the rollups are verified (None: nobody says; it is written down now and then).
        `defined`: what a tenant's dashboard is just now."""
        self._config, self._metrics, self._feed, self._verified_s, self._defined = config, metrics, feed, verified_s, defined
        self._views: dict[ViewKey, View] = {}
        self._of_tenant: dict[str, set[View]] = {}
        self._due: set[View] = set()
        """Views with something to push."""
        self._wake = asyncio.Event()
        self._interval_s = config.push_interval_s
        self._readings = Readings(source, follows, config, metrics, feed, defined, self._is_kept, self._has_news)
        self.sockets = 0

    async def join(self, key: ViewKey, resume: Resume | None = None) -> Client:
        """Watch a view; `client.begin()` then sends the first message. Raises Overloaded or DatabaseUnavailable."""
        if self.sockets >= self._config.max_sockets:
            raise Overloaded(f"this server serves {self._config.max_sockets} dashboards at most", retry_after_s=5)
        view = self._views.get(key) or self._new_view(key)
        client = Client(view)
        view.clients.add(client)
        view.idle_s = None
        self.sockets += 1
        self._wake.set()
        try:
            await self._readings.be_current(view, resume)
        except BaseException:
            self.leave(client)
            raise
        return client

    def _new_view(self, key: ViewKey) -> View:
        of_tenant = self._of_tenant.get(key.tenant_id, ())
        if len(self._views) >= MAX_VIEWS or len(of_tenant) >= MAX_VIEWS_OF_TENANT:
            views = of_tenant if len(of_tenant) >= MAX_VIEWS_OF_TENANT else self._views.values()
            idle = [view for view in views if view.idle_s is not None]
            if idle:
                self._forget(min(idle, key=lambda view: view.idle_s or 0.0))
        if len(self._views) >= MAX_VIEWS:
            raise Overloaded(f"this server serves {MAX_VIEWS} different dashboards at most", retry_after_s=5)
        if len(self._of_tenant.get(key.tenant_id, ())) >= MAX_VIEWS_OF_TENANT:
            raise Overloaded(f"a tenant may watch {MAX_VIEWS_OF_TENANT} different dashboards at most", retry_after_s=5)
        view = self._views[key] = View(key)
        self._of_tenant.setdefault(key.tenant_id, set()).add(view)
        return view

    def leave(self, client: Client) -> None:
        """Stop watching. A view without sockets is forgotten after a while."""
        view = client.view
        if client in view.clients:
            view.clients.remove(client)
            self.sockets -= 1
        if not view.clients and self._is_kept(view):
            view.idle_s = asyncio.get_running_loop().time()
            if view.state is None:
                self._forget(view)

    def _forget(self, view: View) -> None:
        tenant_id = view.key.tenant_id
        self._due.discard(view)
        del self._views[view.key]
        self._of_tenant[tenant_id].discard(view)
        if not self._of_tenant[tenant_id]:
            del self._of_tenant[tenant_id]
            self._feed.leave(tenant_id)

    def drained(self, client: Client) -> None:
        """A socket takes messages again."""
        if client.behind:
            client.view.late = True
            self._has_news(client.view)

    def _is_kept(self, view: View) -> bool:
        return self._views.get(view.key) is view

    def _has_news(self, view: View) -> None:
        self._due.add(view)
        self._wake.set()

    def rolled_up(self, delta: Delta, workflows: Sequence[Change]) -> None:
        """Follow the change stream (a `ChangeSink`)."""
        if delta.truncated:
            return self.reload()
        for tenant_id in list(self._of_tenant):  # an idle view that lacks something is forgotten
            self.heard(tenant_id, Portion(0, delta.base, delta.position, *delta.shares.get(tenant_id, ([], []))))

    def heard(self, tenant_id: str, portion: Portion) -> None:
        """Something changed for a tenant, or nothing did."""
        for view in list(self._of_tenant.get(tenant_id, ())):
            view.take(portion)
            if view.idle_s is not None:
                if view.missed or view.void:
                    self._forget(view)
            elif view.missed or (view.state is not None and view.state.changed):
                self._has_news(view)

    def reload(self) -> None:
        """The rollups were changed otherwise than by a delta: read every view anew."""
        for view in list(self._views.values()):
            view.void = True
            if view.idle_s is not None:
                self._forget(view)

    async def definition(self, tenant_id: str, dashboard_id: str) -> Defined:
        """What is shown of a dashboard here, or would be. Raises DatabaseUnavailable."""
        for view in self._of_tenant.get(tenant_id, ()):
            if view.key.dashboard_id == dashboard_id and view.state is not None:
                return view.state.defined
        return await self._defined(tenant_id, dashboard_id)

    def shown(self) -> dict[tuple[str, str], set[int]]:
        """(tenant, dashboard) to the versions of it that are shown."""
        found: dict[tuple[str, str], set[int]] = {}
        for view in self._views.values():
            if view.state is not None:
                found.setdefault(view.key[:2], set()).add(view.state.defined.version)
        return found

    def redefined(self, tenant_id: str, dashboard_id: str) -> None:
        """A dashboard is another one now: whoever watches it gets all of that."""
        for view in list(self._of_tenant.get(tenant_id, ())):
            if view.key.dashboard_id == dashboard_id:
                view.void = True
                if view.idle_s is not None:
                    self._forget(view)
                    continue
                self._has_news(view)

    async def run(self, stop: asyncio.Event) -> None:
        """Push, refresh and reload, until `stop`."""
        loop = asyncio.get_running_loop()
        waking = loop.create_task(self._wake_at(stop), name="hub-stop")
        look_s = 0.0
        try:
            while not stop.is_set():
                self._wake.clear()
                now_s = loop.time()
                views = list(self._due)
                if now_s >= look_s:
                    views, look_s = list(self._views.values()), now_s + LOOK_S
                    recently_s = now_s - max(1.0, 2 * self._interval_s)
                    cost_s = sum(view.cost_s for view in views if view.pushed_s > recently_s)
                    self._interval_s = max(self._config.push_interval_s, PUSH_SHARE * cost_s)
                for number, view in enumerate(views, 1):
                    try:
                        await self._tend(view, loop.time())
                    except Exception:  # judging goes on, whatever happens to dashboards
                        log.exception("a dashboard could not be pushed and is read anew")
                        self._readings.give_up(view)
                    if number % SLICE == 0:
                        await asyncio.sleep(0)
                next_s = min([look_s, *(view.pushed_s + self._interval_s for view in self._due)]) if self._views else None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(None if next_s is None else max(next_s, loop.time() + SHORTEST_S)):
                        await self._wake.wait()
        finally:
            waking.cancel()
            for view in self._views.values():
                if view.loading is not None:
                    view.loading.cancel()

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()

    async def _tend(self, view: View, now_s: float) -> None:
        """Push what is new, unless that was done just now; read anew what must be, or was not for a while."""
        loop = asyncio.get_running_loop()
        if view.idle_s is not None and now_s - view.idle_s > KEEP_S and self._is_kept(view):
            self._forget(view)
        if view.state is None or view.idle_s is not None:
            self._due.discard(view)
            return
        if view.void or view.missed:
            self._due.discard(view)
            self._readings.mend_if_due(view, now_s)
            return
        verified_s = self._verified_s()
        if verified_s is not None:
            view.state.verified_through_s = verified_s
        if now_s - view.pushed_s >= self._interval_s:
            self._due.discard(view)
            if view.has_news(time.time()):
                try:
                    await self._push(view)
                finally:
                    view.pushed_s = loop.time()  # not before: a message that comes late must not be followed by one too soon
        self._readings.refresh_if_due(view, now_s)

    async def _push(self, view: View) -> None:
        took_s, slices = 0.0, view.push()
        while True:
            started_s = time.perf_counter()
            sent, missed = next(slices, (-1, 0))
            took_s += time.perf_counter() - started_s
            if sent < 0:
                break
            self._metrics.push_messages += sent
            self._metrics.push_skipped += missed
            await asyncio.sleep(0)
        view.cost_s = took_s
        self._metrics.push.observe(took_s)
