"""What a live tail shows: which judgments, and how many of them where more come than anybody reads. Pure."""

from collections import deque
from typing import NamedTuple

MAX_ROWS = 50
"""Of one message."""


class TailRow(NamedTuple):
    """A judgment as it came, and as it is sent."""

    workflow_id: str
    status: str
    method_used: str
    result: str
    """Its name in the figures (core/results)."""
    encoded: bytes
    """JSON, made once for all who see it."""


class TailFilter(NamedTuple):
    """Which judgments; None: all."""

    workflow_id: str | None = None
    status: str | None = None
    method_used: str | None = None
    result: str | None = None

    def takes(self, row: TailRow) -> bool:
        """Whether this one is wanted."""
        return (
            self.workflow_id in (None, row.workflow_id)
            and self.status in (None, row.status)
            and self.method_used in (None, row.method_used)
            and self.result in (None, row.result)
        )


class Waiting(NamedTuple):
    """What one message brings."""

    rows: list[TailRow]
    """The newest last."""
    skipped: int
    gap: bool


class Tail:
    """What waits for one reader: the newest rows, and the number of those before them that found no room."""

    def __init__(self, wanted: TailFilter) -> None:
        self._wanted = wanted
        self._rows: deque[TailRow] = deque()
        self._skipped, self._gap = 0, False

    @property
    def news(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._rows or self._skipped or self._gap)

    def offer(self, row: TailRow) -> None:
        """The next judgment of this tenant. O(1)."""
        if self._wanted.takes(row):
            if len(self._rows) == MAX_ROWS:
                self._rows.popleft()
                self._skipped += 1
            self._rows.append(row)

    def lose(self) -> None:
        """Judgments may be missing here, and nobody knows how many: those that wait are before them, and go too."""
        self._skipped += len(self._rows)
        self._rows.clear()
        self._gap = True

    def take(self) -> Waiting:
        """All that waits; nothing does after it."""
        taken = Waiting(list(self._rows), self._skipped, self._gap)
        self._rows.clear()
        self._skipped, self._gap = 0, False
        return taken
