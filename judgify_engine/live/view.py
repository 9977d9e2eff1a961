"""A view and the sockets that watch it: each message is encoded once for all of them.

A socket that takes no more (`paused`) is sent nothing, and when it does again the whole latest state: nothing piles up for it,
and it is not cut off. Messages go out when the hub pushes, never in between, so what bounds a view's pace bounds each socket's.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Protocol

from judgify_engine.core.portion import Portion
from judgify_engine.core.trail import Resume
from judgify_engine.core.view import ViewKey, ViewState
from judgify_engine.units import START
from judgify_engine.wire.websocket import Message

MAX_BACKLOG = 10_000
SLICE = 100
"""Sockets written to before others get the event loop: about a ms."""


class Outlet(Protocol):
    """Where a client's messages go; see live/socket."""

    @property
    def paused(self) -> bool: ...
    def send(self, message: Message) -> None: ...


class Client:
    """One socket's side of a view."""

    __slots__ = ("behind", "outlet", "told", "view")

    def __init__(self, view: "View") -> None:
        self.view = view
        self.outlet: Outlet | None = None
        self.behind = False
        """It missed something: the next message is the whole state."""
        self.told = 0
        """The number of the view's last message that it needs no more."""

    def begin(self, outlet: Outlet, resume: Resume | None = None) -> None:
        """Send the first message; from now on it gets all that is pushed."""
        self.outlet, self.told = outlet, self.view.number
        outlet.send(self.view.first(resume))


class View:
    """A state and the sockets that watch it."""

    def __init__(self, key: ViewKey) -> None:
        self.key = key
        self.state: ViewState | None = None
        self.at_least = START
        """What is read anew must not be older."""
        self.clients: set[Client] = set()
        self.idle_s: float | None = None
        """Since when nobody watches it."""
        self.loaded_s = self.pushed_s = self.cost_s = 0.0
        """When it was read and last pushed, and how long pushing took."""
        self.number = 0
        """Of the message that is, or was, pushed last."""
        self.void = False
        """It must be read anew, whatever its position."""
        self.missed = False
        """Something that follows on its position may have been missed."""
        self.renewed = False
        """It was read anew: the next message is the whole state."""
        self.late = False
        """A socket that fell behind takes messages again."""
        self.not_before_s = 0.0
        """After a failure: when to try again."""
        self.backlog: list[Portion] | None = None
        """What came while it is being read."""
        self.loading: asyncio.Task[None] | None = None
        self._full: tuple[object, str, Message] | None = None

    def first(self, resume: Resume | None) -> Message:
        """What a socket begins with: the rest after the position that it names, where that is known, or all."""
        assert self.state is not None
        if resume is None:
            return self.full("initial_data")
        rest = self.state.rest(resume, time.time())
        return self.full("initial_data", recovered=False) if rest is None else Message(rest)

    def full(self, kind: str, *, recovered: bool | None = None) -> Message:
        """The whole state as a message, encoded once per position and second (the rate falls with time alone)."""
        assert self.state is not None
        now_s = time.time()
        mark = (self.state, self.state.position, int(now_s), recovered)
        if self._full is None or self._full[0] != mark or self._full[1] != kind:
            self._full = (mark, kind, Message(self.state.full(kind, now_s, recovered)))
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

    def has_news(self, now_s: float) -> bool:
        """Whether there is anything to push."""
        return self.state is not None and (self.renewed or self.late or self.state.has_news(now_s))

    def push(self) -> Iterator[tuple[int, int]]:
        """Send what is new to all sockets, in slices of (sent, missed); to those who missed something, all there is."""
        state, self.late = self.state, False
        assert state is not None
        message: Message | None = None
        self.number += 1
        if self.renewed:
            self.renewed, message = False, self.full("dashboard_update")
            state.settle()
        elif state.has_news(time.time()):
            message = Message(state.update(time.time()))
        clients, number = list(self.clients), self.number
        for start in range(0, len(clients), SLICE):
            yield self._push_to(clients[start : start + SLICE], message, number)

    def _push_to(self, clients: list[Client], message: Message | None, number: int) -> tuple[int, int]:
        sent = missed = 0
        for client in clients:
            outlet = client.outlet
            if outlet is None or client.told >= number:
                continue
            if outlet.paused:
                missed += message is not None
                client.behind |= message is not None
                continue
            latest = self.full("dashboard_update") if client.behind else message
            client.behind, client.told = False, number
            if latest is not None:
                outlet.send(latest)
                sent += 1
        return sent, missed
