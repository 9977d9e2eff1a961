"""Answers that are held back for a moment, given together: many of them wake the event loop as seldom as a few.

Bounded by the admission, which counts each of their requests as under way until it is answered.
"""

import asyncio
from collections import deque
from collections.abc import Callable

TURN_S = 0.01


class Holding:
    """What is held, by the turn in which it is due."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due: dict[int, deque[Callable[[], None]]] = {}
        self._turn = 0
        self._began_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, seconds: float, answer: Callable[[], None]) -> None:
        """Call `answer` after so long, or up to `TURN_S` later. It must be quick and must not raise."""
        if self._timer is None:
            self._began_s, self._turn = self._loop.time(), 0
            self._timer = self._loop.call_later(TURN_S, self._next)
        turn = int((self._loop.time() - self._began_s + seconds) / TURN_S) + 1
        self._due.setdefault(turn, deque()).append(answer)

    def _next(self) -> None:
        reached = int((self._loop.time() - self._began_s) / TURN_S)
        while self._turn < reached:
            self._turn += 1
            for answer in self._due.pop(self._turn, ()):
                answer()
        self._timer = self._loop.call_later(TURN_S, self._next) if self._due else None
