"""Computing a range of hours anew from the table, while judgments go on: nothing is missed, nothing is counted twice.

The changes of the range are recorded from before a snapshot is taken, whose place in the log (`lsn`) is known. The range is
computed in that snapshot. Between two deltas, what was computed takes the place of what was there, and the recorded changes
from `lsn` on, which the rollups had and the snapshot has not, are added to it: in one transaction, fenced by the position.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple, Protocol

from judgify_engine.core.model import Change
from judgify_engine.core.rollup import Delta
from judgify_engine.core.tracking import Tracking
from judgify_engine.errors import JudgifyError, Overloaded, Unavailable
from judgify_engine.pipeline.change_loop import ChangeLoop
from judgify_engine.units import Position

log = logging.getLogger(__name__)

LOOK_S = 1.0
MAX_CHANGES = 2_000_000
"""Changes recorded beside one repair, at most: some 300 MB."""


class Request(NamedTuple):
    """Hours to compute anew, [start_s, end_s) in Unix seconds."""

    number: int
    start_s: int
    end_s: int


class Repairs(Protocol):
    """Where requests are kept, and the work on the tables."""

    async def next(self) -> Request | None: ...
    def prepared(
        self, request: Request, snapshot_at: Callable[[int], None]
    ) -> AbstractAsyncContextManager[tuple[int, Any]]: ...
    async def swap(self, request: Request, prepared: Any, extra: Delta) -> int: ...
    async def postpone(self, request: Request) -> None: ...
    async def failed(self, request: Request, reason: str) -> None: ...


class Recorder:
    """What changes in a range, added up: by transaction until it is known from which on, then together."""

    def __init__(self, start_s: int, end_s: int, tracking: Tracking) -> None:
        self._window, self._tracking = (start_s, end_s), tracking
        self._waiting: dict[int, Delta] = {}
        self._from_lsn: int | None = None
        self._delta = self._empty()
        self.truncated = False
        self.changes = 0

    def __call__(self, change: Change) -> None:
        if change.old is None and change.new is None:
            self.truncated = True
        self.changes += 1
        if self.changes > MAX_CHANGES:
            self._waiting.clear()
            self._delta = self._empty()
            return
        lsn = change.position.lsn
        if self._from_lsn is not None:
            if lsn >= self._from_lsn:
                self._delta.add(change)
            return
        delta = self._waiting.get(lsn) or self._empty()
        delta.add(change)
        if delta.holds_something:
            self._waiting[lsn] = delta

    def _empty(self) -> Delta:
        return Delta(tracking=self._tracking, window=self._window)

    def begin_at(self, lsn: int) -> None:
        """Only what was committed from here on counts."""
        self._from_lsn = lsn
        for of_lsn, delta in self._waiting.items():
            if of_lsn >= lsn:
                self._delta.merge(delta)
        self._waiting.clear()

    def delta_at(self, position: Position) -> Delta:
        """What was recorded, as a delta that starts and ends at `position`."""
        self._delta.base = self._delta.position = position
        return self._delta


class RepairLoop:
    """Serves the requests in the process that reads the log. `repaired` is told of each range that was computed anew."""

    def __init__(
        self, repairs: Repairs, changes: Callable[[], ChangeLoop | None], repaired: Callable[[int, int], None]
    ) -> None:
        self._repairs, self._changes, self._repaired = repairs, changes, repaired

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        while not stop.is_set():
            try:
                changes = self._changes()
                request = await self._repairs.next() if changes is not None else None
                if changes is not None and request is not None:
                    await self._serve_until(stop, changes, request)
                    continue
            except (Unavailable, Overloaded) as error:
                log.debug("requests for repairs cannot be read", extra={"reason": str(error)})
            except Exception:  # judging goes on, whatever happens to its rollups
                log.exception("serving a repair failed and is tried again")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_S)

    async def _serve_until(self, stop: asyncio.Event, changes: ChangeLoop, request: Request) -> None:
        serving = asyncio.create_task(self._serve(changes, request), name="repair")
        stopped = asyncio.create_task(stop.wait(), name="repair-stop")
        try:
            while not serving.done() and not stopped.done():
                await asyncio.wait((serving, stopped), timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                if self._changes() is not changes:
                    break  # another one reads the log, or this one starts over: so does the repair
        finally:
            stopped.cancel()
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await serving

    async def _serve(self, changes: ChangeLoop, request: Request) -> None:
        facts = {"from_s": request.start_s, "to_s": request.end_s}
        log.info("hours are computed anew", extra=facts)
        recorder = Recorder(request.start_s, request.end_s, changes.tracking)
        changes.recorder = recorder
        try:
            async with self._repairs.prepared(request, recorder.begin_at) as (lsn, prepared):

                async def swap(position: Position) -> None:
                    if recorder.changes > MAX_CHANGES:
                        raise JudgifyError(f"over {MAX_CHANGES} changes came meanwhile; ask for fewer hours at once")
                    if recorder.truncated:
                        raise Unavailable("the table was emptied meanwhile; ask again")
                    count = await self._repairs.swap(request, prepared, recorder.delta_at(position))
                    log.info("hours were computed anew", extra={**facts, "judgments": count})

                await changes.between(lsn, swap)
        except (Unavailable, Overloaded) as error:
            log.info("hours are computed anew later", extra={**facts, "reason": str(error)})
            await self._repairs.postpone(request)
        except JudgifyError as error:
            log.error("hours could not be computed anew", extra={**facts, "reason": str(error)})
            await self._repairs.failed(request, str(error))
        else:
            self._repaired(request.start_s, request.end_s)
        finally:
            if changes.recorder is recorder:
                changes.recorder = None
