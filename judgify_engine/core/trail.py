"""What changed in a view after a position: so a client that comes back gets the rest only. Pure.

A trail knows of each part of a view (a bucket of a chart, a row) where it last changed, from one position (`since`) on. All
positions are ones at which a delta ended, so a part that last changed at P or before is the same in every state from P on.
That holds within one history of the rollups only: what changes them otherwise (a repair, a recomputation, a restored server)
begins another one, and a position says nothing about it. So clients name both, as a `Resume`.
"""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from judgify_engine.units import Position, parse_lsn

MAX_MARKS = 2_000
"""Of a view: beyond it the oldest are forgotten, and clients from before get a whole snapshot."""
_RESUME = re.compile(r"([0-9A-F]{1,8}/[0-9A-F]{1,8})-(-?[0-9]{1,19})(?:@([A-Za-z0-9]{1,64}))?\Z")


class Resume(NamedTuple):
    """Where a client stopped. `origin`: of which history of the rollups its position is; None: it did not say."""

    position: Position
    origin: str | None
    definition_version: int | None = None

    @classmethod
    def parse(cls, text: str, definition_version: int | None = None) -> "Resume":
        """Read `0/1A2B3C4-17@ORIGIN`. Raises ValueError."""
        found = _RESUME.match(text)
        if found is None:
            raise ValueError(f"not a position: {text[:80]!r}")
        return cls(Position(parse_lsn(found[1]), int(found[2])), found[3], definition_version)


class Trail:
    """The parts of one view that changed after `since`, and where each last did."""

    def __init__(self, since: Position) -> None:
        self.since = since
        self._marks: dict[tuple[str, Any], Position] = {}
        """In the order of their positions."""

    def note(self, position: Position, kind: str, parts: Iterable[Any]) -> None:
        """These changed at `position` or before, but after all that was noted until now. O(parts)."""
        for part in parts:
            self._marks.pop((kind, part), None)
            self._marks[kind, part] = position
        while len(self._marks) > MAX_MARKS:
            oldest = next(iter(self._marks))
            self.since = max(self.since, self._marks.pop(oldest))

    def after(self, position: Position) -> dict[str, set[Any]] | None:
        """What changed after `position`, by kind. None: that is before what is known."""
        if position < self.since:
            return None
        found: dict[str, set[Any]] = {}
        for (kind, part), last in reversed(self._marks.items()):
            if last <= position:
                break
            found.setdefault(kind, set()).add(part)
        return found
