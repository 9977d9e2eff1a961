"""Judgments of one partition that wait for their commit: bounded in rows and bytes, from `put` until answered.

Its tenants take turns: who sends much waits behind himself. When he has filled it, there is still a reserve for the others.
"""

import asyncio
from collections import deque
from time import perf_counter
from typing import NamedTuple

from judgify_engine.core.model import Judgment
from judgify_engine.errors import CommitUnknown, Draining, QueueFull
from judgify_engine.pipeline.ports import Outcome

LATELY_S = 0.25
RESERVE = 4
"""A full queue takes one part in so many more, from tenants who hold less than that themselves."""


class Waiting(NamedTuple):
    """A judgment, who waits for it, and since when (`time.perf_counter`: uvloop's own clock counts milliseconds)."""

    judgment: Judgment
    outcome: "asyncio.Future[Outcome]"
    since_s: float
    size_bytes: int


class Sender:
    """Who sends one judgment after another: a connection. Lets a queue count how many there are."""

    __slots__ = ("queue", "round")

    def __init__(self) -> None:
        self.queue: PartitionQueue | None = None
        self.round = 0


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
        self._waiting: dict[str, deque[Waiting]] = {}
        """By tenant, each in order; who is first has the next turn."""
        self._count = 0
        self._held: dict[str, tuple[int, int]] = {}
        """Tenant to rows and bytes, until `done`."""
        self._unanswered: deque[tuple[asyncio.Future[Outcome], float]] = deque()
        self._arrival, self._enough = asyncio.Event(), 1
        """Set when so many are queued, or it was closed."""
        self._loop = asyncio.get_running_loop()
        self._round, self._round_began_s = 0, 0.0
        self._senders = self._senders_before = 0

    def __len__(self) -> int:
        return self._count

    @property
    def oldest_age_s(self) -> float:
        """How long the oldest judgment that is not being committed yet has waited; 0 when there is none."""
        return perf_counter() - min(line[0].since_s for line in self._waiting.values()) if self._waiting else 0.0

    @property
    def senders(self) -> int:
        """How many have sent something lately; those that `put` was told of."""
        return max(self._senders, self._senders_before)

    def put(self, judgment: Judgment, sender: Sender | None = None) -> "asyncio.Future[Outcome]":
        """Queue a judgment; the future gets its outcome. Raises QueueFull or Draining; never waits."""
        if self.closed:
            raise Draining("the server is stopping; send this to another one or again later")
        size, tenant = judgment.size_bytes, judgment.tenant_id
        held = self._held.get(tenant) or (0, 0)
        max_rows, max_bytes = self._max_rows, self._max_bytes
        if held[0] * RESERVE < max_rows and held[1] * RESERVE < max_bytes:
            max_rows, max_bytes = max_rows + max_rows // RESERVE, max_bytes + max_bytes // RESERVE
        if self.rows >= max_rows or self.bytes + size > max_bytes:
            raise QueueFull(
                f"partition {self.partition} holds {self.rows} judgments ({self.bytes} bytes) of at most {self._max_rows} "
                f"({self._max_bytes} bytes)"
            )
        future: asyncio.Future[Outcome] = self._loop.create_future()
        now_s = perf_counter()
        item = Waiting(judgment, future, now_s, size)
        line = self._waiting.get(tenant)
        if line is None:
            self._waiting[tenant] = deque((item,))
        else:
            line.append(item)
        self._unanswered.append((future, now_s))
        self._count += 1
        self.rows += 1
        self.bytes += size
        self._held[tenant] = (held[0] + 1, held[1] + size)
        if sender is not None:
            self._count_sender(sender, now_s)
        if self._count >= self._enough:
            self._arrival.set()
        return future

    def _count_sender(self, sender: Sender, now_s: float) -> None:
        elapsed_s = now_s - self._round_began_s
        if elapsed_s >= LATELY_S:
            self._senders_before = self._senders if elapsed_s < 2 * LATELY_S else 0
            self._senders, self._round_began_s = 0, now_s
            self._round += 1
        if sender.round != self._round or sender.queue is not self:
            sender.queue, sender.round = self, self._round
            self._senders += 1

    async def wait(self) -> bool:
        """Wait until something is queued. False: the queue is closed and empty."""
        while not self._waiting:
            if self.closed:
                return False
            self._arrival.clear()
            await self._arrival.wait()
        return True

    async def gather(self, rows: int, timeout_s: float) -> None:
        """Wait until so many are queued, at most so long, and no longer than until it is closed."""
        if self._count >= rows or self.closed or timeout_s <= 0:
            return
        self._arrival.clear()
        self._enough = rows
        timer = self._loop.call_later(timeout_s, self._arrival.set)
        try:
            await self._arrival.wait()
        finally:
            timer.cancel()
            self._enough = 1

    def take(self, max_rows: int, max_bytes: int) -> list[Waiting]:
        """Remove and return the oldest of each tenant in turn: at least one, at most so many rows and about so many bytes."""
        batch: list[Waiting] = []
        size = 0
        waiting = self._waiting
        while waiting and len(batch) < max_rows:
            tenant, line = next(iter(waiting.items()))
            if batch and size + line[0].size_bytes > max_bytes:
                break
            item = line.popleft()
            size += item.size_bytes
            batch.append(item)
            if len(waiting) > 1 or not line:  # the next tenant's turn
                del waiting[tenant]
                if line:
                    waiting[tenant] = line
        self._count -= len(batch)
        return batch

    def done(self, batch: list[Waiting]) -> None:
        """These were answered: give their room free."""
        for item in batch:
            tenant, size = item.judgment.tenant_id, item.size_bytes
            rows, total = self._held[tenant]
            if rows > 1:
                self._held[tenant] = (rows - 1, total - size)
            else:
                del self._held[tenant]
            self.bytes -= size
        self.rows -= len(batch)
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
