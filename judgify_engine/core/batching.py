"""How many rows one commit takes, and how long it waits for them. Pure: time comes in as an argument.

Size, by the law of design.md §3, steered towards a target latency: when the mean of the last 10 commits is over 1.5 x the
target, shrink by 0.8; under half of it, grow by 1.2. It only looks at full batches when it grows: a small batch that was fast
says nothing about a large one.

Wait: a commit costs about the same for one row as for ten, and so does waking a process, which counts when there are many of
them. So the first row of a batch waits for others: as long as it takes until `ENOUGH` have come, at most `max_wait_s`; where
fewer than `COMPANY` come in that time, by the square less. But nobody waits who is alone, nor when everybody is here already:
as many as have sent lately, or were unanswered at once, or `ENOUGH`. So who waits for his answer is not held up, and where all
is busy nothing stands still.
"""

import math
from collections import deque

WINDOW = 10
SLOW, SHRINK = 1.5, 0.8
FAST, GROW = 0.5, 1.2
COMPANY, ENOUGH = 8.0, 16
RATE_MEMORY_S, CROWD_MEMORY_S = 0.1, 0.25
SHORTEST_WAIT_S = 0.0005
"""Timers are no finer."""


class BatchSize:
    """The largest number of rows that the next commit may take."""

    def __init__(self, lowest: int, highest: int, target_s: float) -> None:
        self.rows = min(highest, max(lowest, 100))
        self._lowest, self._highest, self._target_s = lowest, highest, target_s
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def committed(self, rows: int, took_s: float) -> None:
        """Learn from one commit of `rows` rows that took `took_s` seconds. Never raises, O(1)."""
        self._recent.append(took_s)
        mean_s = sum(self._recent) / len(self._recent)
        if mean_s > SLOW * self._target_s:
            self._change_to(self.rows * SHRINK)
        elif mean_s < FAST * self._target_s and rows >= self.rows:
            self._change_to(self.rows * GROW + 1)

    def _change_to(self, rows: float) -> None:
        self.rows = max(self._lowest, min(self._highest, int(rows)))
        self._recent.clear()


class Pace:
    """How long a batch gathers. Knows of the batches that began and ended before."""

    def __init__(self, max_wait_s: float) -> None:
        self._max_wait_s = max_wait_s
        self._rate_per_s = 0.0
        self._began_s: float | None = None
        self._crowd, self._counted_s = 1.0, 0.0

    def began(self, rows: int, now_s: float) -> None:
        """A commit of so many rows begins. How many come in a second is told by the time since the one before."""
        if self._began_s is not None and now_s > self._began_s:
            share = self._fading(now_s)
            self._rate_per_s = share * self._rate_per_s + (1 - share) * rows / (now_s - self._began_s)
        self._began_s = now_s

    def ended(self, unanswered: int, now_s: float) -> None:
        """A commit has ended; before it is answered, so many are unanswered, its own among them."""
        self._crowd, self._counted_s = max(unanswered, self._crowd_at(now_s)), now_s

    def enough(self, senders: int, committing: int, now_s: float) -> int:
        """How many rows need not wait for more, while so many are being committed, and so many senders are known."""
        return min(ENOUGH, max(1, max(senders, math.ceil(self._crowd_at(now_s))) - committing))

    def wait_s(self, now_s: float) -> float:
        """How long the first row of a batch may wait for others; 0: they are not worth it."""
        if self._began_s is None:
            return 0.0
        come = self._fading(now_s) * self._rate_per_s * self._max_wait_s
        wait_s = self._max_wait_s * min(1.0, (come / COMPANY) ** 2, ENOUGH / max(come, 1.0))
        return wait_s if wait_s >= SHORTEST_WAIT_S else 0.0

    def expected_s(self, rows: int) -> float:
        """How long it takes until so many more have come, as they came lately."""
        return rows / self._rate_per_s if self._rate_per_s else math.inf

    def _fading(self, now_s: float) -> float:
        assert self._began_s is not None
        return math.exp((self._began_s - now_s) / RATE_MEMORY_S)

    def _crowd_at(self, now_s: float) -> float:
        return max(1.0, self._crowd * math.exp((self._counted_s - now_s) / CROWD_MEMORY_S))
