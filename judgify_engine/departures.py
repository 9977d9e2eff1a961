"""Workers that are not needed any more, on their way out (see supervisor): no new connections, then their end.

A process counts as going from before another one takes its place until it has ended: all that time it still answers those who
are connected, out of its share of what tenants may use.
"""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from judgify_engine.child import Child
from judgify_engine.ingest.steering import Group
from judgify_engine.place import Place

STEERED_S = 1.0
"""How long a worker that is to retire still accepts whoever was connecting when new connections were steered away from it."""


class Departures:
    """Those that are going. `changed` is called when one comes to them or has gone."""

    def __init__(self, listening: Group[Place], changed: Callable[[], None]) -> None:
        self._listening, self._changed = listening, changed
        self.going: set[Child] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._steering = asyncio.Lock()
        """Held while new connections are steered: away from one at a time."""

    def announce(self, child: Child) -> None:
        """It is to go, as soon as another one is there."""
        self.going.add(child)
        self._changed()

    def over(self, child: Child) -> None:
        """It has gone, or stays after all."""
        self.going.discard(child)
        self._changed()

    def see_off(self, child: Child, within_s: float) -> "asyncio.Task[None]":
        """Its place is taken over: let it end when its clients have gone to the other one."""
        return self._begin(child, child.retire(within_s))

    def dismiss(self, child: Child, place: Place, others: Callable[[], Place | None], within_s: float, deaf_s: float) -> None:
        """Its place is given up: it gets no new connections, answers those that it has, and goes. `others`: any of them.

        `within_s`: the longest time for all of it, `deaf_s` for taking over those who were connecting.
        """
        _ = self._begin(child, self._dismiss(child, place, others, within_s, deaf_s))

    def _begin(self, child: Child, leaving: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        self.announce(child)
        task = asyncio.create_task(leaving, name="retire")
        self._tasks.add(task)

        def left(task: "asyncio.Task[None]") -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                self.over(child)

        task.add_done_callback(left)
        return task

    async def break_off(self) -> None:
        """All stop: wait for nobody any more; who is still `going` is to be stopped like the others."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _dismiss(
        self, child: Child, place: Place, others: Callable[[], Place | None], within_s: float, deaf_s: float
    ) -> None:
        async with self._steering:
            self._listening.steer_away(place, _sockets(others()))
            try:
                await asyncio.sleep(STEERED_S)
                place.close()
                await child.stop_listening(deaf_s)
            finally:
                place.close()
                self._listening.closed(place)
                self._listening.steer_freely(_sockets(others()))  # the one of before may have lost its own
        await child.retire(within_s)


def _sockets(place: Place | None) -> list[socket.socket]:
    return [] if place is None else place.sockets
