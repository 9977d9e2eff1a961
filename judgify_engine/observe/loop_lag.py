"""How late the event loop is: the first sign of work that is too long for it."""

import asyncio
import contextlib
from time import perf_counter

from judgify_engine.observe.metrics import Metrics

INTERVAL_S = 0.25


async def measure(metrics: Metrics, stop: asyncio.Event) -> None:
    """Observe the lag of a timer, again and again, until `stop`."""
    while not stop.is_set():
        due_s = perf_counter() + INTERVAL_S
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), INTERVAL_S)
        metrics.loop_lag.observe(max(0.0, perf_counter() - due_s))
