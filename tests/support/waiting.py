"""Waiting for facts, never for time: a probe is asked until it says yes, and always with a deadline."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

PAUSE_S = 0.02


async def until(probe: Callable[[], Any], what: str, within_s: float = 15.0) -> Any:
    """Ask `probe` (plain or async) until it gives something true; return that. Fails with what it said last."""
    deadline_s = time.monotonic() + within_s
    while True:
        found = probe()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline_s:
            raise AssertionError(f"{what}: not within {within_s:g} s (last: {found!r})")
        await asyncio.sleep(PAUSE_S)


def until_now(probe: Callable[[], Any], what: str, within_s: float = 15.0) -> Any:
    """The same without an event loop."""
    deadline_s = time.monotonic() + within_s
    while not (found := probe()):
        if time.monotonic() > deadline_s:
            raise AssertionError(f"{what}: not within {within_s:g} s (last: {found!r})")
        time.sleep(PAUSE_S)
    return found


async def bucket_lasts(least_s: float, width_s: float = 300.0) -> None:
    """Until what takes `least_s` can be done within one bucket of a chart: for who looks at the last point of one."""
    await until(lambda: width_s - time.time() % width_s >= least_s, "the next bucket begins", least_s + 1)
