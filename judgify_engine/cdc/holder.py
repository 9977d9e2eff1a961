"""Who reads the log: one process at a time, by a lock that PostgreSQL frees when that process dies.

Every process tries to become the holder. The holder makes sure that the slot, the publication and the stored position belong
together (core/healing), streams, looks after the slot meanwhile, and starts over from the stored position after any failure.
Where they do not belong together, a gap is opened and the slot is made anew, with rollups computed from the table as of the
very moment where the new slot starts. That may fail or be cut off at any point: the next try begins it from the start.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import asyncpg

from judgify_engine.cdc.replication import HOLDER_LOCK, Replication
from judgify_engine.cdc.role import Role, is_taken
from judgify_engine.cdc.waiting import first_of, slot_made
from judgify_engine.cdc.watch import watch
from judgify_engine.config import ChangeConfig
from judgify_engine.core.healing import Blocker, Finding, Publication, Server, Slot, Stored, diagnose
from judgify_engine.core.samples import Windows
from judgify_engine.errors import Corrupt, JudgifyError, Unavailable
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.change_loop import ChangeLoop
from judgify_engine.pipeline.ports import ChangeSink
from judgify_engine.store.pool import AWAY, Database
from judgify_engine.store.rollup_writer import RollupStore
from judgify_engine.units import Position

log = logging.getLogger(__name__)

PUBLICATION = "judgify_cdc"
BEHIND_S = 1.5
"""An idle stream is looked at every second."""
STEADY_S = 30.0
"""Reading the log for so long means that healing has helped."""
LONGEST_PAUSE_S = 60.0
WAL_STATUSES = ("reserved", "extended", "unreserved", "lost")


class Slots(Protocol):
    """The slot and the publication as the server has them; see store/slot."""

    gone: asyncio.Event

    async def slot(self) -> Slot | None: ...
    async def publication(self) -> Publication: ...
    async def repair_publication(self) -> Publication: ...
    async def drop(self) -> None: ...
    async def mark(self) -> None: ...
    async def judgments_before(self, moment: datetime) -> bool: ...
    async def unlimited(self) -> bool: ...
    async def blockers(self, pid: int) -> list[Blocker]: ...


class Holder:
    """Tries to hold the slot, for as long as the process lives."""

    def __init__(
        self,
        judgments: Database,
        rollups: Database,
        slots: Callable[[Any, str, str], Slots],
        sinks: Sequence[ChangeSink],
        config: ChangeConfig,
        windows: Windows,
        metrics: Metrics,
        began: Callable[[bool], None],
    ) -> None:
        """`judgments` has the log, `rollups` what is made of it; they may be one. `slots`: over a connection to the former.

        `began` is called when this process starts to hear of changes; it may have missed some before. It is told whether all
        rollups were computed anew.
        """
        self._judgments, self._rollups, self._slots, self._sinks = judgments, rollups, slots, sinks
        self._config, self._metrics, self._windows, self._began = config, metrics, windows, began
        self.holding = False
        """This process reads the log."""
        self._changes: ChangeLoop | None = None
        self._start_over = ""
        self._slot: Slot | None = None
        self._danger: str | None = None
        self._limit_told = False
        self._made_at = datetime.now(UTC)
        self._healings = 0
        """Since the log was last read for a while."""
        self._began_s = 0.0
        self.healing = ""
        """Why this process computes all rollups anew right now; empty: it does not."""
        self._waits_for = ""
        self._role = Role(
            "reading the log", self._turn, self._let_go, self._pause_s, (asyncpg.PostgresError, *AWAY), self._passed
        )

    @property
    def state(self) -> str:
        """In words, for people."""
        if self.holding:
            return "this process"
        if self.healing:
            waits = f", waiting for {self._waits_for} to end" if self._waits_for else ""
            return f"this process, recomputing all rollups ({self.healing}){waits}"
        return f"failing: {self.trouble}" if self.trouble else "standby"

    @property
    def follows(self) -> bool:
        """Whether followers in this process hear of changes at once: it reads the log and is not behind."""
        now_s = asyncio.get_running_loop().time()
        return self.holding and self._changes is not None and now_s - self._changes.caught_up_s < BEHIND_S

    @property
    def changes(self) -> ChangeLoop | None:
        """The loop that reads the log here; None: this process does not."""
        return self._changes if self.holding else None

    def has_passed(self, lsn: int) -> bool:
        """Whether this process has rolled up all that was committed before `lsn`."""
        return self.changes is not None and self.changes.has_passed(lsn)

    def gauges(self) -> Iterator[tuple[str, str, dict[str, str], float]]:
        """For `/metrics`, in the process that reads the log."""
        yield "judgify_recomputing", "1 while this process computes all rollups anew.", {}, float(bool(self.healing))
        slot = self._slot
        if slot is None or not self.holding:
            return
        for status in WAL_STATUSES:
            text = "The slot's wal_status as the server tells it: 1 for the one that holds."
            yield "judgify_slot_wal_status", text, {"status": status}, float(slot.wal_status == status)
        yield "judgify_slot_retained_bytes", "Log that the server keeps for the slot.", {}, slot.retained_bytes
        if slot.safe_bytes is not None:
            text = "Log that may be written before the slot is in danger of being lost."
            yield "judgify_slot_safe_wal_bytes", text, {}, slot.safe_bytes

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[tuple[int, str]]:
        """A snapshot of the database and its exact place in the log, until it is left. Raises DatabaseUnavailable."""
        session = Replication(self._judgments.dsn)
        try:
            await session.connect()
            async with self._judgments.session() as watched:
                slots = self._slots(watched, self._config.slot, PUBLICATION)
                making = session.borrow_snapshot(f"{self._config.slot[:55]}_repair")
                place = await slot_made(making, lambda: slots.blockers(session.pid), self._tell_waiting)
            yield place
        finally:
            session.close()

    async def run(self, stop: asyncio.Event) -> None:
        """Hold, or wait to hold, until `stop`."""
        await self._role.run(stop)

    @property
    def trouble(self) -> str:
        """Why the log cannot be read here; empty: it is read, here or by another process."""
        return self._role.trouble

    def _passed(self) -> None:
        self._healings = 0

    def _let_go(self) -> bool:
        held = self.holding
        if held and asyncio.get_running_loop().time() - self._began_s >= STEADY_S:
            self._healings = 0
        self.holding, self._changes, self._slot, self.healing = False, None, None, ""
        self._metrics.slot_held = 0
        return held

    def _pause_s(self) -> float:
        """Longer from one healing to the next that did not help: each reads the whole table."""
        if self._healings < 2:
            return self._config.takeover_interval_s
        return max(self._config.takeover_interval_s, min(2.0 ** (self._healings - 2), LONGEST_PAUSE_S))

    async def _turn(self) -> None:
        try:
            await self._session()
        except Corrupt as error:
            # Nothing may be counted wrongly, and nothing is gained by reading the same again.
            log.critical("the log could not be understood; the rollups are computed anew", extra={"reason": str(error)})
            self._start_over = str(error)[:300]
            raise Unavailable("the log could not be understood") from error

    async def _session(self) -> None:
        """One try: returns at once when another process holds the slot, raises when the stream ends."""
        if await is_taken(self._judgments, HOLDER_LOCK):
            return
        stream = Replication(self._judgments.dsn)
        try:
            await stream.connect()
            if not await stream.take_lock():
                return
            async with self._judgments.session() as watched, self._rollups.session() as connection:
                slots = self._slots(watched, self._config.slot, PUBLICATION)
                store = RollupStore(self._judgments, connection, self._config.slot, self._windows)
                applied, published, healed = await self._ensure_slot(stream, slots, store)
                tracking = await store.tracking()
                await stream.mark()
                await stream.start(self._config.slot, PUBLICATION)
                log.info("reading the log", extra={"slot": self._config.slot, "position": str(applied)})
                changes = ChangeLoop(stream, store, self._sinks, applied, tracking, self._config, self._metrics, slots.mark)
                self._begin(changes, healed)
                loops = {"change-loop": changes.run(), "slot-watch": self._watch(slots, published)}
                # A rollback on a connection that hangs would wait for it: on the way out nothing of it is needed.
                await first_of(loops, lambda: [one.terminate() for one in (watched, connection)])
        finally:
            stream.close()

    def _begin(self, changes: ChangeLoop, healed: bool) -> None:
        self._changes, self._began_s = changes, asyncio.get_running_loop().time()
        self.holding, self.healing = True, ""
        self._metrics.slot_held = 1
        self._began(healed)

    async def _watch(self, slots: Slots, published: Publication) -> None:
        """Look at slot and publication now and then; raises when the session must start over."""
        if not self._limit_told and await slots.unlimited():
            log.warning("the server keeps log for the slot without a limit; set max_slot_wal_keep_size, see README.md")
        self._limit_told = True
        await watch(slots, published, self._config.watch_interval_s, self._look_at)

    def _look_at(self, slot: Slot) -> None:
        self._slot = slot
        if slot.danger != self._danger and slot.danger is not None:
            log.warning("the slot may be lost soon", extra={"reason": slot.danger, "retained_bytes": slot.retained_bytes})
        self._danger = slot.danger

    async def _ensure_slot(self, stream: Replication, slots: Slots, store: RollupStore) -> tuple[Position, Publication, bool]:
        """The position to go on from, what is published, and whether all was made anew because they did not belong together."""
        name = self._config.slot
        server = await stream.identify()
        slot = await slots.slot()  # before the position: what is confirmed is never past a position read later
        if slot is not None and not slot.ours:
            raise JudgifyError(f"the replication slot {name} belongs to another database of this server; set change.slot")
        published, stored = await slots.publication(), await store.stored()
        together = self._judgments is self._rollups
        finding = diagnose(server, slot, published, stored, together=together, used=await store.used())
        if self._start_over:
            finding = Finding("corrupt", {"message": self._start_over})
        if finding is not None:
            if finding.reason == "first":  # ones that came since we started were not missed
                finding.details["judgments"] = await slots.judgments_before(self._made_at)
            return *await self._heal(stream, slots, store, finding, server, slot), True
        assert stored is not None
        await store.belongs_to(server, published)
        return stored.position, published, False

    async def _heal(
        self, stream: Replication, slots: Slots, store: RollupStore, finding: Finding, server: Server, slot: Slot | None
    ) -> tuple[Position, Publication]:
        """A new slot, and all rollups as of the moment where it starts."""
        self._healings += 1
        gap = await store.open_gap(finding)
        self.healing = gap.reason
        facts = {"slot": self._config.slot, "reason": gap.reason, "gap": gap.number, "details": finding.details}
        log.warning("making a new slot; the rollups are computed from the table", extra=facts)
        try:
            published = await slots.repair_publication()
            if slot is not None:
                await slots.drop()
            making = stream.create_slot(self._config.slot)
            consistent_lsn, snapshot = await slot_made(making, lambda: slots.blockers(stream.pid), self._tell_waiting)
            position = Position(consistent_lsn, -1)
            new = Stored(position, server.system_identifier, server.timeline, published.fingerprint)
            await store.rebuild(snapshot, new, gap)
        except (JudgifyError, asyncpg.PostgresError, *AWAY) as error:
            why = str(error) or type(error).__name__
            with contextlib.suppress(JudgifyError, asyncpg.PostgresError):
                await store.gap_failed(self._rollups, gap, why)
            raise Unavailable(f"the rollups could not be computed anew ({gap.reason}): {why}") from error
        self._start_over = ""
        log.info("the rollups were computed from the table", extra={"gap": gap.number, "position": str(position)})
        return position, published

    def _tell_waiting(self, for_whom: str) -> None:
        self._waits_for = for_whom
