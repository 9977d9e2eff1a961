"""Judgments of one partition that wait for their commit: bounded in rows and bytes, from `put` until answered."""

import asyncio
from collections import deque
from time import perf_counter
from typing import NamedTuple

from judgify_engine.core.model import Judgment
from judgify_engine.errors import CommitUnknown, Draining, QueueFull
from judgify_engine.pipeline.ports import Outcome


class Waiting(NamedTuple):
    """A judgment, who waits for it, and since when (`time.perf_counter`: uvloop's own clock counts milliseconds)."""

    judgment: Judgment
    outcome: "asyncio.Future[Outcome]"
    since_s: float
    size_bytes: int


class PartitionQueue:
    """A queue that refuses when it is full, instead of growing.

    Rows and bytes count until `done`, so what is being committed is inside the bound too.
    """

    def __init__(self, partition: int, max_rows: int, max_bytes: int) -> None:
        self.partition = partition
        self.rows = 0
        self.bytes = 0
        self.closed = False
        self._max_rows, self._max_bytes = max_rows, max_bytes
        self._waiting: deque[Waiting] = deque()
        self._unanswered: deque[tuple[asyncio.Future[Outcome], float]] = deque()
        self._arrival = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def oldest_age_s(self) -> float:
        """How long the oldest judgment that is not being committed yet has waited; 0 when there is none."""
        return perf_counter() - self._waiting[0].since_s if self._waiting else 0.0

    def put(self, judgment: Judgment) -> "asyncio.Future[Outcome]":
        """Queue a judgment; the future gets its outcome. Raises QueueFull or Draining; never waits."""
        if self.closed:
            raise Draining("the server is stopping; send this to another one or again later")
        size = judgment.size_bytes
        if self.rows >= self._max_rows or self.bytes + size > self._max_bytes:
            raise QueueFull(
                f"partition {self.partition} holds {self.rows} judgments ({self.bytes} bytes) of at most {self._max_rows} "
                f"({self._max_bytes} bytes)"
            )
        future: asyncio.Future[Outcome] = self._loop.create_future()
        now_s = perf_counter()
        self._waiting.append(Waiting(judgment, future, now_s, size))
        self._unanswered.append((future, now_s))
        self.rows += 1
        self.bytes += size
        self._arrival.set()
        return future

    async def wait(self) -> bool:
        """Wait until something is queued. False: the queue is closed and empty."""
        while not self._waiting:
            if self.closed:
                return False
            self._arrival.clear()
            await self._arrival.wait()
        return True

    def take(self, max_rows: int, max_bytes: int) -> list[Waiting]:
        """Remove and return the oldest, at least one, at most so many rows and about so many bytes."""
        batch: list[Waiting] = []
        size = 0
        waiting = self._waiting
        while waiting and len(batch) < max_rows and (not batch or size + waiting[0].size_bytes <= max_bytes):
            item = waiting.popleft()
            size += item.size_bytes
            batch.append(item)
        return batch

    def done(self, batch: list[Waiting]) -> None:
        """These were answered: give their room free."""
        self.rows -= len(batch)
        self.bytes -= sum(item.size_bytes for item in batch)
        if len(self._unanswered) > 2 * self.rows + 16:  # most of them were answered
            self._unanswered = deque(entry for entry in self._unanswered if not entry[0].done())

    def give_up(self, timeout_s: float) -> int:
        """Answer those that have waited longer than `timeout_s`; to be called now and then. Returns how many.

        One sweep instead of a timer for each judgment, which would cost 2 % of a request. Their rows may still be
        committed, so they count until `done`.
        """
        before_s, given_up = perf_counter() - timeout_s, 0
        unanswered = self._unanswered
        while unanswered and (unanswered[0][0].done() or unanswered[0][1] < before_s):
            outcome, _since_s = unanswered.popleft()
            if not outcome.done():
                detail = "this was not committed in time and may still be; look it up by its id before you send it again"
                outcome.set_result(CommitUnknown(detail, retry_after_s=5.0))
                given_up += 1
        return given_up

    def close(self) -> None:
        """Take nothing more; what is queued is still committed."""
        self.closed = True
        self._arrival.set()
