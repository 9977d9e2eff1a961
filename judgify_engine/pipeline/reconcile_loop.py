"""Reconciliation, all the time: slice by slice, the table against the rollups, in the process that reads the log.

A frontier moves from the oldest judgment to a few seconds ago and then keeps up. A change to what lies before it (a late row,
an update, a delete) is compared again, hour by hour; and when there is nothing else to do, old hours are, one after the other.
What differs three times in a row with nothing changing meanwhile is a difference: recorded, told, looked at until it is gone.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from judgify_engine.config import ReconcileConfig
from judgify_engine.core.model import Change
from judgify_engine.core.reconcile import EARLIEST_S, Difference, hours_of, next_width_s, slice_end, whole_hours
from judgify_engine.core.rollup import Delta
from judgify_engine.core.samples import HOUR_S, LIVE_S
from judgify_engine.errors import Overloaded, Unavailable
from judgify_engine.observe.metrics import Metrics

log = logging.getLogger(__name__)

TRIES = 3
PAUSE_S = 0.5
RECHECK_S = 10.0
SAVE_IDLE_S = 10.0
MAX_TOUCHED = 5000
"""Hours that wait to be compared again; with more, the frontier goes back to the oldest of them."""
_UNKNOWN_S = 2**40


class Compared(Protocol):
    """What a slice showed."""

    @property
    def rows(self) -> int: ...
    @property
    def differences(self) -> list[Difference]: ...


class Books(Protocol):
    """The table, the rollups, and what is known of their agreement."""

    def fine_from_s(self, now_s: float) -> int: ...
    async def compare(self, start_s: int, end_s: int, now_s: float) -> Compared: ...
    async def compare_fine(self, hour_s: int, now_s: float) -> Compared: ...
    async def next_rows_s(self, start_s: int) -> int | None: ...
    async def verified_through_s(self) -> int: ...
    async def save(self, verified_through_s: int, rows: int) -> None: ...
    async def record(self, start_s: int, end_s: int, found: list[Difference]) -> None: ...
    async def open_ranges(self) -> list[tuple[int, int]]: ...


class ReconcileLoop:
    """Compares while this process reads the log (`holds`). Also a `ChangeSink`: hears what is touched."""

    def __init__(
        self,
        books: Books,
        holds: Callable[[], bool],
        config: ReconcileConfig,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._books, self._holds, self._config, self._metrics, self._clock = books, holds, config, metrics, clock
        self._frontier_s = _UNKNOWN_S
        self._advancing_from_s = _UNKNOWN_S
        """Where the slice begins that is being compared for the first time, or again."""
        self._width_s = HOUR_S
        self._sweep_s = EARLIEST_S
        self._touched: set[int] = set()
        self._open: list[tuple[int, int]] = []
        self._comparing: tuple[int, int] | None = None
        self._changed_meanwhile = False
        self._rechecked_at_s = 0.0
        self._rows_unsaved = 0
        self._saved_at_s = 0.0

    def rolled_up(self, delta: Delta, workflows: Sequence[Change]) -> None:
        """Follow the change stream (a `ChangeSink`)."""
        if delta.truncated:
            self._frontier_s, self._changed_meanwhile = EARLIEST_S, True
            self._touched.clear()
        seconds = {second for _tenant, _workflow, second, _status in delta.sums}
        if self._comparing is not None and not self._changed_meanwhile:
            start_s, end_s = self._comparing
            self._changed_meanwhile = any(start_s <= second < end_s for second in seconds)
        self._touched |= hours_of(seconds, self._frontier_s)
        if len(self._touched) > MAX_TOUCHED:
            self._frontier_s = min(self._frontier_s, *self._touched)
            self._touched.clear()

    def touch(self, start_s: int, end_s: int) -> None:
        """These hours were computed anew: compare them again."""
        if self._frontier_s != _UNKNOWN_S and start_s < end_s:
            self._frontier_s = min(self._frontier_s, max(EARLIEST_S, start_s))

    @property
    def verified_through_s(self) -> int | None:
        """All judgments created before this were found equal in the table and the rollups since they last changed.

        None: this process has not looked yet.
        """
        if self._frontier_s == _UNKNOWN_S:
            return None
        return min([self._frontier_s, self._advancing_from_s, *self._touched, *(start_s for start_s, _ in self._open)])

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; a comparison that waits for the rollups to come as far as the table was read does not hold it up."""
        stopped = asyncio.create_task(stop.wait(), name="reconcile-stop")
        comparing = asyncio.create_task(self._compare_on(), name="reconcile-compare")
        try:
            await asyncio.wait((stopped, comparing), return_when=asyncio.FIRST_COMPLETED)
            if comparing.done():
                comparing.result()  # it does not end by itself
        finally:
            stopped.cancel()
            comparing.cancel()
            await asyncio.wait((stopped, comparing))

    async def _compare_on(self) -> None:
        held = False
        while True:
            more = False
            try:
                if held and not self._holds():
                    self._frontier_s = _UNKNOWN_S
                    self._touched.clear()
                elif self._holds():
                    if not held:
                        await self._begin()
                    more = await self._step()
                    await self._save()
                held = self._holds()
            except (Unavailable, Overloaded) as error:
                log.debug("nothing could be compared", extra={"reason": str(error)})
            except Exception:  # judging goes on, whatever happens to its proof
                log.exception("comparing failed and is tried again")
            await asyncio.sleep(self._config.pause_s if more else self._config.interval_s)

    async def _begin(self) -> None:
        """This process has begun to read the log: go on a little before where the last one came to. What was touched since it
        began is known; what was touched in the last moment of another process is found by the sweep."""
        through_s = await self._books.verified_through_s()
        self._open = await self._books.open_ranges()
        through_s = min(self._frontier_s, through_s - through_s % HOUR_S - HOUR_S)
        self._frontier_s = max(EARLIEST_S, through_s)
        self._touched = hours_of(self._touched, self._frontier_s)

    async def _step(self) -> bool:
        """Compare one slice. False: nothing more is ready to be compared."""
        now_s = self._clock()
        ready_s = int(now_s - self._config.settle_s)
        fine_from_s = self._books.fine_from_s(now_s)
        if self._open and now_s - self._rechecked_at_s >= RECHECK_S:
            self._rechecked_at_s = now_s
            start_s, end_s = self._open[0]
            await self._check(start_s, min(end_s, ready_s - ready_s % LIVE_S), covered=(start_s, end_s))
            return True
        if self._touched:
            hour_s = min(self._touched)
            self._touched.discard(hour_s)
            end_s = min(hour_s + HOUR_S, self._frontier_s)
            if end_s % HOUR_S == 0 or hour_s >= fine_from_s:  # else the frontier comes by again
                self._advancing_from_s = hour_s  # not proven while it is looked at
                try:
                    await self._check(hour_s, end_s)
                except BaseException:
                    self._touched.add(hour_s)
                    raise
                finally:
                    self._advancing_from_s = _UNKNOWN_S
            return True
        start_s = self._frontier_s
        if start_s < fine_from_s:
            start_s -= start_s % HOUR_S
        end_s = slice_end(start_s, self._width_s, await self._books.next_rows_s(start_s), fine_from_s, ready_s)
        if end_s <= start_s:
            return await self._sweep()
        await self._advance(start_s, end_s)
        return end_s < ready_s - LIVE_S or await self._sweep()

    async def _advance(self, start_s: int, end_s: int) -> None:
        """Compare the next slice. What changes in it from now on is touched behind the frontier."""
        self._frontier_s, self._advancing_from_s = end_s, start_s
        try:
            rows = await self._check(start_s, end_s)
        except BaseException:
            self._frontier_s = min(self._frontier_s, start_s)
            raise
        finally:
            self._advancing_from_s = _UNKNOWN_S
        self._width_s = next_width_s(end_s - start_s, rows)

    async def _sweep(self) -> bool:
        """With nothing else to do: the hour after the one looked at last, and the hour that is not over. Always False."""
        now_s = self._clock()
        this_hour_s = int(now_s) - int(now_s) % HOUR_S
        seen = await self._books.compare_fine(this_hour_s, now_s)
        if seen.differences:  # of one moment: nothing to wait for
            await self._settle((this_hour_s, this_hour_s + HOUR_S), seen.differences)
        hour_s = await self._books.next_rows_s(self._sweep_s)
        if hour_s is None or hour_s + HOUR_S > self._frontier_s:
            self._sweep_s = EARLIEST_S
        else:
            self._sweep_s = hour_s + HOUR_S
            await self._check(hour_s, hour_s + HOUR_S)
        return False

    async def _check(self, start_s: int, end_s: int, covered: tuple[int, int] | None = None) -> int:
        """Compare until it is equal, or has differed often enough with nothing changing. Returns the rows read."""
        rows = tries = 0
        while True:
            self._comparing, self._changed_meanwhile = (start_s, end_s), False
            try:
                seen = await self._books.compare(start_s, end_s, self._clock())
            finally:
                self._comparing = None
            rows += seen.rows
            if not seen.differences:
                break
            if self._changed_meanwhile:  # it is busy: later
                self._touched |= hours_of(range(start_s, end_s, HOUR_S), self._frontier_s)
                return rows
            tries += 1
            if tries >= TRIES:
                break
            await asyncio.sleep(PAUSE_S)
        await self._settle(covered or (start_s, end_s), seen.differences)
        self._rows_unsaved += rows
        self._metrics.reconciled_rows += rows
        return rows

    async def _save(self) -> None:
        """Not at every step of an idle database: each would be a commit."""
        through_s, now_s = self.verified_through_s, self._clock()
        if through_s is None or (not self._rows_unsaved and now_s - self._saved_at_s < SAVE_IDLE_S):
            return
        await self._books.save(through_s, self._rows_unsaved)
        self._rows_unsaved, self._saved_at_s = 0, now_s

    async def _settle(self, covered: tuple[int, int], found: list[Difference]) -> None:
        if not found and not self._open:
            return
        before = set(self._open)
        found = [whole_hours(one) for one in found]
        await self._books.record(*covered, found)
        self._open = await self._books.open_ranges()
        for one in found:
            if (one.start_s, one.end_s) not in before:
                facts = {"tenant_id": one.tenant_id, "from_s": one.start_s, "to_s": one.end_s}
                facts |= {"stored": one.stored.total, "rolled_up": one.rolled_up.total}
                log.error("the rollups differ from the table", extra=facts)
        for start_s, end_s in before - set(self._open):
            log.info("a difference is no more", extra={"from_s": start_s, "to_s": end_s})
        self._metrics.differences_open = len(self._open)
