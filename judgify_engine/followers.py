"""Those of one process's parts that follow the log, built and joined: who reads it here, and what is made of it.

That is the rollups and their proof, the streams, the dashboards of this process and what those of others are told, and the
workflows as they are now. `parts` joins the rest.
"""

import asyncio
import secrets
import time

import asyncpg

from judgify_engine.cdc.holder import Holder
from judgify_engine.cdc.publisher import Publisher, slot_of
from judgify_engine.config import Config
from judgify_engine.core.samples import Windows
from judgify_engine.live.definitions import Definitions
from judgify_engine.live.feed import NoFeed
from judgify_engine.live.hearing import Hearing
from judgify_engine.live.hub import Hub
from judgify_engine.live.relay import Relay
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.reconcile_loop import ReconcileLoop
from judgify_engine.pipeline.registry import WorkflowRegistry
from judgify_engine.pipeline.repair_loop import RepairLoop
from judgify_engine.pipeline.streams import Streams
from judgify_engine.pipeline.variety_watch import VarietyWatch
from judgify_engine.store.dashboards import DashboardStore
from judgify_engine.store.pool import AWAY, Database
from judgify_engine.store.reconcile import Books
from judgify_engine.store.repair import RepairStore
from judgify_engine.store.slot import SlotStore
from judgify_engine.store.snapshots import SnapshotReader
from judgify_engine.store.streams import StreamStore
from judgify_engine.store.workflows import WorkflowStore

Gauge = tuple[str, str, dict[str, str], float]


def windows_of(config: Config) -> Windows:
    """How long the narrow buckets are kept."""
    return Windows(config.keep.live_hours * 3600, config.metrics.keep_days * 86_400)


class Followers:
    """See the module. `judgments` and `rollups` may be one database."""

    def __init__(self, config: Config, judgments: Database, rollups: Database, streams: Streams, metrics: Metrics) -> None:
        slot, windows = config.change.slot, windows_of(config)
        self.registry = registry = WorkflowRegistry(WorkflowStore(judgments), lambda: self.holder.follows)
        reader = SnapshotReader(rollups, slot)
        dashboards = DashboardStore(judgments)
        self.hub = hub = self._build_hub(reader, dashboards, config, streams, metrics)
        self._definitions = Definitions(dashboards, hub)
        relay = self._relay
        books = Books(judgments, rollups, slot, windows, lambda lsn: self.holder.has_passed(lsn))
        self._reconcile = reconcile = ReconcileLoop(books, lambda: self.holder.holding, config.reconcile, metrics)

        def began(healed: bool) -> None:
            registry.forget()
            renewed()
            if healed:  # nothing of it is proven yet
                reconcile.touch(0, int(time.time()))

        def repaired(start_s: int, end_s: int) -> None:
            renewed()
            reconcile.touch(start_s, end_s)

        def renewed() -> None:
            hub.reload()
            changes = self.holder.changes
            if relay is not None and changes is not None:
                relay.begin(changes.applied)

        sinks = (registry, hub, reconcile, VarietyWatch(metrics), *(() if relay is None else (relay,)))
        self.holder = Holder(judgments, rollups, SlotStore, sinks, config.change, windows, metrics, began)
        store = StreamStore(judgments, slot_of(config))
        away = (asyncpg.PostgresError, *AWAY)
        self.publisher = Publisher(judgments, SlotStore, streams, store, config, metrics, lambda: self.holder.holding, away)
        repairs = RepairStore(judgments, rollups, slot, windows, self.holder.snapshot)
        self._repair = RepairLoop(repairs, lambda: self.holder.changes, repaired)
        self.gauges = [self._verified, self.holder.gauges, self.publisher.gauges]

    def _build_hub(
        self, reader: SnapshotReader, dashboards: DashboardStore, config: Config, streams: Streams, metrics: Metrics
    ) -> Hub:
        """The dashboards of this process; with shared streams, also what they are told by others, and what others are told."""
        self._relay: Relay | None = None
        self._hearing: Hearing | None = None
        if not streams.shared:
            return Hub(reader, lambda: self.holder.follows, config.live, metrics, NoFeed(), self.verified_s, dashboards.current)
        refresh_s = config.live.refresh_interval_s
        self._hearing = hearing = Hearing(streams, lambda: self.holder.holding, reader.origin, lambda: self.hub, refresh_s)
        self._relay = Relay(
            streams,
            lambda: self.holder.follows,
            reader.origin,
            self.verified_s,
            lambda: secrets.randbits(63),
            config.streams.keep_dashboard_entries,
            metrics,
        )

        def verified_s() -> int | None:
            return self.verified_s() if self.holder.holding else hearing.verified_through_s

        return Hub(reader, lambda: self.holder.follows, config.live, metrics, hearing, verified_s, dashboards.current)

    def start(self, tasks: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        """Start all loops; they end at `stop`."""
        tasks.create_task(self.holder.run(stop), name="holder")
        tasks.create_task(self.publisher.run(stop), name="publisher")
        tasks.create_task(self.hub.run(stop), name="hub")
        tasks.create_task(self._definitions.run(stop), name="definitions")
        if self._relay is not None and self._hearing is not None:
            tasks.create_task(self._relay.run(stop), name="relay")
            tasks.create_task(self._hearing.run(stop), name="hearing")
        tasks.create_task(self._reconcile.run(stop), name="reconcile")
        tasks.create_task(self._repair.run(stop), name="repair")

    def verified_s(self) -> int | None:
        """Up to when the rollups are verified; None: this process does not read the log, so it does not know."""
        return self._reconcile.verified_through_s if self.holder.holding else None

    def _verified(self) -> list[Gauge]:
        text = "Judgments created before this (Unix seconds) were found equal in the table and the rollups."
        through_s = self.verified_s()
        return [] if through_s is None else [("judgify_verified_through_seconds", text, {}, through_s)]
