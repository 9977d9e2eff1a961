"""Waits of who holds the slot: for whichever of several loops ends first, and for a slot that PostgreSQL makes.

A slot is made when all transactions that write at that moment have ended, also those of others, and that may take days. So it
is said whom it waits for: by process id and time, never by the statement, which may hold secrets.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, TypeVar

from judgify_engine.core.healing import Blocker

log = logging.getLogger(__name__)

T = TypeVar("T")
LOOK_S = 3.0
"""A slot that is not made within this time waits for somebody; then it is looked for whom, again and again."""

CANCEL_AGAIN_S = 0.5


async def slot_made(
    making: Coroutine[Any, Any, T], look: Callable[[], Coroutine[Any, Any, list[Blocker]]], tell: Callable[[str], None]
) -> T:
    """What `making` gives. Meanwhile `tell` hears whom it waits for (empty: nobody, as far as we know), and a warning says so.

    `look`: the transactions that it waits for just now; each is logged once. Cancelled, it leaves at once; the session that
    makes the slot is to be closed then.
    """
    task = asyncio.create_task(making, name="slot-making")
    told: list[Blocker] = []
    try:
        while True:
            done, _ = await asyncio.wait((task,), timeout=LOOK_S)
            if done:
                return task.result()
            found: list[Blocker] = []
            with contextlib.suppress(TimeoutError):  # a busy server is asked again
                found = await look()
            tell(" and ".join(map(str, found)))
            if found and found != told:
                facts = {"pids": [one.pid for one in found], "since": [one.since and one.since.isoformat() for one in found]}
                log.warning("a slot is made only when transactions of others have ended", extra=facts)
                told = found
    finally:
        tell("")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)  # a thread is left alone, not waited for


async def ended(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel them until they have ended; what they raise on the way out concerns nobody any more.

    One cancellation can get lost: `wait_for` of Python 3.11, which asyncpg uses, drops it when what it waits for is done in
    the same moment.
    """
    waiting, interrupted = set(tasks), False
    while waiting:
        for task in waiting:
            task.cancel()
        try:
            _, waiting = await asyncio.wait(waiting, timeout=CANCEL_AGAIN_S)
        except asyncio.CancelledError:  # whoever waits for us asks again: what these hold is given back all the same
            interrupted, waiting = True, {task for task in waiting if not task.done()}
    await asyncio.gather(*tasks, return_exceptions=True)
    if interrupted:
        raise asyncio.CancelledError


async def first_of(coroutines: Mapping[str, Coroutine[Any, Any, None]], leave: Callable[[], Any]) -> None:
    """Run together until one of them ends, then end the others, after `leave`; raises what that one raised."""
    tasks = [asyncio.create_task(coroutine, name=name) for name, coroutine in coroutines.items()]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leave()
        await ended(tasks)
    for task in done:
        task.result()
