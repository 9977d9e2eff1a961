"""Watching a slot and its publication while they are streamed from."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from judgify_engine.core.healing import Publication, Slot
from judgify_engine.errors import Unavailable


class Watched(Protocol):
    """See store/slot."""

    gone: asyncio.Event

    async def slot(self) -> Slot | None: ...
    async def publication(self) -> Publication: ...


async def watch(slots: Watched, published: Publication, interval_s: float, look: Callable[[Slot], None]) -> None:
    """Look at both now and then, and show the slot to `look`. Raises Unavailable when the session must start over."""
    while True:
        slot = await slots.slot()
        if slot is None or slot.is_lost:
            raise Unavailable("the slot is gone" if slot is None else "the slot was lost: the server removed log it needs")
        if await slots.publication() != published:
            raise Unavailable("the publication was altered")
        look(slot)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(slots.gone.wait(), interval_s)
            # A server that stops waits for its stream to be read to the end, or to be left.
            raise Unavailable("the server ended our connection")
