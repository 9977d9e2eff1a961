"""A view and the sockets that watch it: each message is encoded once for all of them, and at most one waits for each.

A socket that is still busy with the message before misses updates and gets the whole latest state when it is free: nothing
piles up for it, and it is not cut off.
"""

import asyncio
import time

from judgify_engine.core.portion import Portion
from judgify_engine.core.view import ViewKey, ViewState
from judgify_engine.units import START

MAX_BACKLOG = 10_000


class Client:
    """One socket's side of a view: at most one message waits for it."""

    def __init__(self, view: "View") -> None:
        self.view = view
        self._next: bytes | None = None
        self._behind = False
        self._wake = asyncio.Event()

    def first(self) -> bytes:
        """The message that a socket begins with; what was offered before is in it."""
        self._next, self._behind = None, False
        return self.view.full("initial_data")

    def offer(self, message: bytes, *, full: bool) -> bool:
        """Hand over the next message. False: the one before is still waiting, so this one is missed."""
        if self._next is not None and not full:
            self._behind = True
            return False
        self._next = message
        if full:
            self._behind = False
        self._wake.set()
        return True

    async def next(self) -> bytes:
        """The next message for this socket: the one that waits, or the latest state when some were missed."""
        while self._next is None and not self._behind:
            self._wake.clear()
            await self._wake.wait()
        if self._behind:
            self._next, self._behind = None, False
            return self.view.full("dashboard_update")
        message, self._next = self._next, None
        assert message is not None
        return message


class View:
    """A state and the sockets that watch it."""

    def __init__(self, key: ViewKey) -> None:
        self.key = key
        self.state: ViewState | None = None
        self.at_least = START
        """What is read anew must not be older."""
        self.clients: set[Client] = set()
        self.loaded_s = self.pushed_s = 0.0
        self.void = False
        """It must be read anew, whatever its position."""
        self.missed = False
        """Something that follows on its position may have been missed."""
        self.not_before_s = 0.0
        """After a failure: when to try again."""
        self.backlog: list[Portion] | None = None
        """What came while it is being read."""
        self.loading: asyncio.Task[None] | None = None
        self._full: tuple[object, str, bytes] | None = None

    def full(self, kind: str) -> bytes:
        """The whole state as a message, encoded once per position and second (the rate falls with time alone)."""
        assert self.state is not None
        now_s = time.time()
        mark = (self.state, self.state.position, int(now_s))
        if self._full is None or self._full[0] != mark or self._full[1] != kind:
            self._full = (mark, kind, self.state.full(kind, now_s))
        return self._full[2]

    def take(self, portion: Portion) -> None:
        """Add what changed, or know that something was missed. While it is being read, what does not follow is kept."""
        followed = self.state is not None and self.state.add(portion)
        if self.backlog is None:
            self.missed |= self.state is not None and not followed
        elif len(self.backlog) < MAX_BACKLOG:
            self.backlog.append(portion)
        else:
            self.void = True

    def add_backlog(self, state: ViewState) -> bool:
        """Add what came while it was being read. False: something is missing before."""
        return all(map(state.add, self.backlog or ()))

    def push(self, message: bytes, *, full: bool) -> int:
        """Offer a message to all sockets; returns how many missed it."""
        return sum(not client.offer(message, full=full) for client in self.clients)
