"""The way back from the log: receive, decode, roll up, confirm.

Order of promises: a delta and its position commit together (`RollupWriter.apply`); only then followers hear of it; only then
its transactions are confirmed to the server, and never anything past the position: so a slot that is confirmed further was
moved by somebody else (core/healing). After any crash the server sends again what was not confirmed, and what was already
applied is known by its position and skipped. Reading stops while a delta is being applied: nothing piles up here.

Where nothing is to be rolled up, but others write, the position must move all the same, or the server would keep their log for
us. So a mark is written into the log, which comes by like a change: seldom enough that an idle database stays idle.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import NamedTuple

from judgify_engine.config import ChangeConfig
from judgify_engine.core.model import Change
from judgify_engine.core.rollup import Delta
from judgify_engine.core.tracking import Tracking, tracked_names
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.ports import ChangeSink, ChangeSource, RollupWriter
from judgify_engine.units import KIB, Position
from judgify_engine.wire.pgoutput import Commit, Decoder

log = logging.getLogger(__name__)

JUDGMENTS = "judgment_executions"
WORKFLOWS = "workflows"
QUARANTINE = "judgment_quarantine"
WANTED: dict[str, frozenset[str] | None] = {
    JUDGMENTS: frozenset(
        [
            "tenant_id",
            "workflow_id",
            "status",
            "method_used",
            "execution_time_ms",
            "confidence_score",
            "final_result",
            "created_at",
            "workflow_version",
            "input_data",
            "occurred_at",
        ]
    ),
    WORKFLOWS: None,
    QUARANTINE: frozenset(["tenant_id", "workflow_id", "kind", "repeated", "created_at"]),
}
SLICE_MESSAGES = 200
"""Messages decoded before others get the event loop: about 2 ms."""
GATHER_S = 0.01
"""While a delta gathers anyway, the next messages are looked for so seldom: to be woken for each costs as much as its rows."""
LOOK_S = 1.0
"""Longest wait for a message while there is nothing to roll up."""
MARK_BYTES, MARK_S = 64 * KIB, 1.0
"""Log of others after which a mark is due, and the least time between two. What a mark itself writes is far less."""
MARK_SELDOM_BYTES, MARK_SELDOM_S = 4 * KIB, 60.0
"""The same for a trickle."""
MARK_TIMEOUT_S = 5.0


class _Errand(NamedTuple):
    """Something to do between two deltas."""

    lsn: int
    work: Callable[[Position], Awaitable[None]]
    done: "asyncio.Future[None]"


class ChangeLoop:
    """Follows one stream from `applied` on."""

    def __init__(
        self,
        source: ChangeSource,
        writer: RollupWriter,
        sinks: Sequence[ChangeSink],
        applied: Position,
        tracking: Tracking,
        config: ChangeConfig,
        metrics: Metrics,
        mark: Callable[[], Awaitable[None]],
    ) -> None:
        """`mark` writes a message into the log that comes by as a change which counts nowhere."""
        self._source, self._writer, self._sinks = source, writer, sinks
        self._config, self._metrics = config, metrics
        self._decoder = Decoder(WANTED)
        self.tracking = tracking
        self._delta = Delta(applied, tracking)
        self._workflows: list[Change] = []
        self._gathering_since_s = 0.0
        self._flushing = False
        self._mark = mark
        self._marked_at_s = 0.0
        self._errand: _Errand | None = None
        self.recorder: Callable[[Change], None] | None = None
        """Is shown every change of a judgment before it is rolled up."""
        self.applied = applied
        self.caught_up_s = 0.0
        """When there was last nothing more to read (loop time)."""
        metrics.oldest_waiting_commit_us = 0

    async def run(self) -> None:
        """Until cancelled, or until the stream or the writer fails; then start anew from the stored position."""
        loop = asyncio.get_running_loop()
        since_wait = 0
        self._marked_at_s = loop.time() - MARK_S
        while True:
            taken, dry = self._drain(loop.time())
            since_wait += taken
            now_s = loop.time()
            if self._must_flush(now_s):
                await self._flush()
                await self._run_errand(self.applied.lsn)
            elif dry:
                self.caught_up_s = now_s
                await self._run_errand(self._source.wal_end)
                await self._mark_idle(now_s)
                await self._wait(now_s, since_wait < SLICE_MESSAGES)
                since_wait = 0
            else:
                await asyncio.sleep(0)

    def _drain(self, now_s: float) -> tuple[int, bool]:
        """Take a slice of what is there: how many messages, and whether there are no more right now."""
        for taken in range(SLICE_MESSAGES):
            if self._delta.changes >= self._config.max_rows:
                return taken, False
            message = self._source.read()
            if message is None:
                return taken, True
            self._take(message, now_s)
        return SLICE_MESSAGES, False

    def _take(self, message: bytes, now_s: float) -> None:
        event = self._decoder.decode(message)
        if type(event) is Change:
            self._change(event, now_s)
        elif type(event) is Commit:
            self._delta.finish_at(event.end_lsn)
        elif type(event) is list:
            for change in event:
                self._change(change, now_s)

    def _change(self, change: Change, now_s: float) -> None:
        if change.position <= self.applied:
            self._metrics.changes_skipped += 1
            return
        if not self._delta.changes:
            self._gathering_since_s = now_s
            self._metrics.oldest_waiting_commit_us = change.commit_time_us
        if change.table == JUDGMENTS:
            if self.recorder is not None:
                self.recorder(change)
            self._delta.add(change)
        elif change.table == QUARANTINE:
            self._delta.refused(change)
        else:
            self._delta.note(change)
            if change.table == WORKFLOWS:
                self._workflows.append(change)
                self._learn(change)
        self._metrics.changes_decoded += 1

    def _learn(self, change: Change) -> None:
        """A new version of a workflow: what it tracks holds for the judgments after it."""
        row = change.new
        if row is not None:
            fields = tracked_names(row["definition"])
            self.tracking.learn(row["tenant_id"], row["workflow_id"], row["version"], row["updated_at"], fields)

    async def between(self, lsn: int, work: Callable[[Position], Awaitable[None]]) -> None:
        """Run `work` between two deltas, when all before `lsn` is rolled up; it gets the position that the rollups are at.

        Raises what it raises. One at a time.
        """
        assert self._errand is None
        self._errand = _Errand(lsn, work, asyncio.get_running_loop().create_future())
        try:
            await self._errand.done
        finally:
            self._errand = None

    async def _run_errand(self, reached_lsn: int) -> None:
        errand = self._errand
        if errand is None or self._delta.changes or reached_lsn < errand.lsn or errand.done.done():
            return
        try:
            await errand.work(self.applied)
        except Exception as error:
            if not errand.done.done():
                errand.done.set_exception(error)
            return
        if not errand.done.done():
            errand.done.set_result(None)

    def _must_flush(self, now_s: float) -> bool:
        delta = self._delta
        if not delta.changes:
            return False
        return delta.changes >= self._config.max_rows or now_s - self._gathering_since_s >= self._config.flush_interval_s

    async def _wait(self, now_s: float, few: bool) -> None:
        """For messages, at most until the delta is due. `few` came since the last time: the stream does not wait for us."""
        if not self._delta.changes:
            return await self._source.readable(LOOK_S)
        due_s = max(0.0, self._gathering_since_s + self._config.flush_interval_s - now_s)
        await self._source.readable(due_s, min(due_s, GATHER_S) if few else 0.0)

    async def _flush(self) -> None:
        delta, workflows = self._delta, self._workflows
        self._delta, self._workflows = Delta(delta.position, self.tracking), []
        started_s = perf_counter()
        self._flushing = True  # stays so when it fails: nobody knows what is committed then
        await self._writer.apply(delta)
        self._flushing = False
        self._metrics.rollup.observe(perf_counter() - started_s)
        self._metrics.changes_applied += delta.changes
        self._metrics.oldest_waiting_commit_us = 0
        self._metrics.wal_end_lsn = self._source.wal_end
        self.applied = delta.position
        for sink in self._sinks:
            sink.rolled_up(delta, workflows)
        self._source.confirm(self.applied.lsn)
        self._metrics.confirmed_lsn = self.applied.lsn

    def has_passed(self, lsn: int) -> bool:
        """Whether all that was committed before `lsn` is rolled up."""
        if self.applied.lsn >= lsn:
            return True
        unsaved = self._flushing or self._delta.changes or self._decoder.in_transaction
        return not unsaved and self._source.wal_end >= lsn

    async def _mark_idle(self, now_s: float) -> None:
        """Everything received is applied: have the position moved past what others wrote, when that is worth it."""
        self._metrics.wal_end_lsn = self._source.wal_end
        if self._delta.changes or self._decoder.in_transaction:
            return
        behind_bytes, since_s = self._source.wal_end - self.applied.lsn, now_s - self._marked_at_s
        if (behind_bytes >= MARK_BYTES and since_s >= MARK_S) or (
            behind_bytes >= MARK_SELDOM_BYTES and since_s >= MARK_SELDOM_S
        ):
            self._marked_at_s = now_s
            async with asyncio.timeout(MARK_TIMEOUT_S):
                await self._mark()
