"""How many rows one commit takes: steered towards a target latency. Pure: time comes in as an argument.

The law of design.md §3: when the mean of the last 10 commits is over 1.5 x the target, shrink by 0.8; under half of it,
grow by 1.2. It only looks at full batches when it grows: a small batch that was fast says nothing about a large one.
"""

from collections import deque

WINDOW = 10
SLOW, SHRINK = 1.5, 0.8
FAST, GROW = 0.5, 1.2


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
