"""Turns of a loop that a stop cuts off."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any


async def take_turns(turn: Callable[[], Coroutine[Any, Any, None]], every_s: float, stop: asyncio.Event, name: str) -> None:
    """A turn, a pause of `every_s`, and again, until `stop`; a turn under way is cancelled then. Raises what a turn raises."""
    stopped = asyncio.create_task(stop.wait(), name=f"{name}-stop")
    try:
        while not stop.is_set():
            turning = asyncio.create_task(turn(), name=f"{name}-turn")
            try:
                await asyncio.wait((turning, stopped), return_when=asyncio.FIRST_COMPLETED)
            finally:
                turning.cancel()  # does nothing to one that is done
            try:
                await turning
            except asyncio.CancelledError:
                if not stop.is_set():
                    raise
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), every_s)
    finally:
        stopped.cancel()
