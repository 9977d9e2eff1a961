"""What is remembered of the streams, to know later whether they, and the slot behind them, are still what they were. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

from judgify_engine.core.healing import Server, Stored
from judgify_engine.core.streams import JUDGMENTS
from judgify_engine.units import Position, parse_lsn

GroupKey = tuple[str, str]
"""stream, group."""


class Checkpoint(NamedTuple):
    """A snapshot of the database (as `pg_snapshot` is written): all that it shows was committed before `lsn`."""

    snapshot: str
    lsn: int


class StreamState(NamedTuple):
    """Up to where the streams are filled, and what that belongs to."""

    server: Server
    """Its `wal_lsn`: all that was committed before is in the streams."""
    publication: str
    """Its fingerprint."""
    last: Sequence[Position]
    """The last entry of each of `JUDGMENTS`."""
    checkpoint: Checkpoint | None
    """All that it shows is in the streams."""

    @property
    def begun(self) -> bool:
        """Whether they were ever filled; else it is only known from where on they are to be."""
        return bool(self.server.system_identifier)

    @property
    def stored(self) -> Stored:
        """As a position that a slot can be held against."""
        position, server = Position(self.server.wal_lsn, 0), self.server
        return Stored(position, server.system_identifier or None, server.timeline or None, self.publication or None)

    def cut(self, last: Sequence[Position]) -> list[str]:
        """The streams that lack entries which they had, as they end at `last` now."""
        return [name for name, was, now in zip(JUDGMENTS, self.last, last, strict=True) if now < was]


def is_ahead(last: Sequence[Position], server: Server, left_lsn: int | None) -> bool:
    """Whether streams that end at `last` hold what the server's log does not: it was taken back to an older state.

    `left_lsn`: where the log left the timeline that was published last, for another one; None: it did not.
    """
    return any(one.lsn > server.wal_lsn or (left_lsn is not None and one.lsn >= left_lsn) for one in last)


def left_at(history: str, timeline: int) -> int | None:
    """Where a log left `timeline`, by the history of its own timeline (a server's `.history` file); None: it is not told."""
    for line in history.splitlines():
        parent, _, rest = line.strip().partition("\t")
        if parent.isdigit() and int(parent) >= timeline:
            return parse_lsn(rest.partition("\t")[0])
    return None
