"""Who reads the log: one process at a time, by a lock that PostgreSQL frees when that process dies.

Every process tries to become the holder. The holder makes sure that the slot and the stored position belong together, streams,
and starts over from the stored position after any failure. A slot that is missing, or lost, or has no position is made anew
together with rollups computed from the table as of the very moment where the new slot starts.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence

import asyncpg

from judgify_engine.cdc.replication import Replication
from judgify_engine.config import ChangeConfig
from judgify_engine.core.samples import Windows
from judgify_engine.errors import Corrupt, JudgifyError
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


class Holder:
    """Tries to hold the slot, for as long as the process lives."""

    def __init__(
        self,
        judgments: Database,
        rollups: Database,
        sinks: Sequence[ChangeSink],
        config: ChangeConfig,
        windows: Windows,
        metrics: Metrics,
        began: Callable[[], None],
    ) -> None:
        """`judgments` has the log, `rollups` what is made of it; they may be one.

        `began` is called when this process starts to hear of changes; it may have missed some before.
        """
        self._judgments, self._rollups, self._sinks = judgments, rollups, sinks
        self._config, self._metrics, self._windows, self._began = config, metrics, windows, began
        self.holding = False
        """This process reads the log."""
        self._changes: ChangeLoop | None = None
        self._start_over = False
        self.trouble = ""
        """Why the log cannot be read here; empty: it is read, here or by another process."""

    @property
    def follows(self) -> bool:
        """Whether followers in this process hear of changes at once: it reads the log and is not behind."""
        now_s = asyncio.get_running_loop().time()
        return self.holding and self._changes is not None and now_s - self._changes.caught_up_s < BEHIND_S

    @property
    def changes(self) -> ChangeLoop | None:
        """The loop that reads the log here; None: this process does not."""
        return self._changes if self.holding else None

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[tuple[int, str]]:
        """A snapshot of the database and its exact place in the log, until it is left. Raises DatabaseUnavailable."""
        session = Replication(self._judgments.dsn)
        try:
            await session.connect()
            yield await session.borrow_snapshot(f"{self._config.slot[:55]}_repair")
        finally:
            session.close()

    async def run(self, stop: asyncio.Event) -> None:
        """Hold, or wait to hold, until `stop`."""
        stopped = asyncio.create_task(stop.wait(), name="holder-stop")
        told = ""
        try:
            while not stop.is_set():
                session = asyncio.create_task(self._session(), name="holder-session")
                await asyncio.wait((session, stopped), return_when=asyncio.FIRST_COMPLETED)
                session.cancel()  # does nothing to one that is done
                held = self.holding
                self._let_go()
                try:
                    await session
                    told = ""  # another process holds it
                except asyncio.CancelledError:
                    if not stop.is_set():
                        raise
                except Corrupt as error:
                    # Nothing may be counted wrongly, and nothing is gained by reading the same again.
                    log.critical("the log could not be understood; the rollups are computed anew", extra={"reason": str(error)})
                    self._start_over = True
                except (JudgifyError, asyncpg.PostgresError, *AWAY) as error:
                    reason = str(error)[:300] or type(error).__name__
                    if held or reason != told:  # the same again and again is told once
                        log.warning("the log cannot be read and is tried again", extra={"reason": reason})
                    told = reason
                except Exception as error:  # judging goes on, whatever happens to its rollups
                    reason = f"{type(error).__name__}: {error}"[:300]
                    if reason != told:
                        log.exception("reading the log failed and is tried again")
                    told = reason
                self.trouble = told
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), self._config.takeover_interval_s)
        finally:
            stopped.cancel()

    def _let_go(self) -> None:
        self.holding, self._changes = False, None
        self._metrics.slot_held = 0

    async def _session(self) -> None:
        """One try: returns at once when another process holds the slot, raises when the stream ends."""
        stream = Replication(self._judgments.dsn)
        try:
            await stream.connect()
            if not await stream.take_lock():
                return
            async with self._rollups.session() as connection:
                store = RollupStore(self._judgments, connection, self._config.slot, self._windows)
                applied = await self._ensure_slot(stream, store)
                tracking = await store.tracking()
                await stream.start(self._config.slot, PUBLICATION)
                log.info("reading the log", extra={"slot": self._config.slot, "position": str(applied)})
                self.holding, self.trouble = True, ""
                self._began()
                self._metrics.slot_held = 1
                self._changes = ChangeLoop(stream, store, self._sinks, applied, tracking, self._config, self._metrics)
                await self._changes.run()
        finally:
            stream.close()

    async def _ensure_slot(self, stream: Replication, store: RollupStore) -> Position:
        """The position to go on from; makes slot and rollups anew where they do not belong together."""
        slot = self._config.slot
        async with self._judgments.query() as connection:
            row = await connection.fetchrow(
                "SELECT plugin, wal_status, active_pid, database = current_database() AS ours FROM pg_replication_slots"
                " WHERE slot_name = $1",
                slot,
            )
        position = None if self._start_over else await store.position()
        if row is not None and row["ours"] and row["plugin"] == "pgoutput" and row["wal_status"] != "lost" and position:
            return position
        if row is not None and not row["ours"]:
            raise JudgifyError(f"the replication slot {slot} belongs to another database of this server; set change.slot")
        log.warning(
            "making a new slot; the rollups are computed from the table",
            extra={"slot": slot, "found": dict(row) if row else None, "position": str(position)},
        )
        await store.forget_position()
        if row is not None:
            async with self._judgments.query() as connection:
                await connection.execute("SELECT pg_drop_replication_slot($1)", slot)
        consistent_lsn, snapshot = await stream.create_slot(slot)
        position = Position(consistent_lsn, -1)
        await store.rebuild(snapshot, position)
        self._start_over = False
        return position
