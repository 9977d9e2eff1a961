"""Listening to Redis, beside what tests/service and tests/adversity try on servers."""

import asyncio
from typing import Any, cast

from judgify_engine.streams.listener import RedisListener


class Deaf:
    """A server, or its client, that loses the first cancellation, as `wait_for` of Python 3.11 does."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def sharded(self) -> bool:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()
        return False


async def test_a_cancellation_that_gets_lost_does_not_keep_it_from_closing() -> None:
    server = Deaf()
    listener = RedisListener(cast(Any, server), 1.0, lambda *_: None, lambda: None)
    await server.asked.wait()
    async with asyncio.timeout(5):
        await listener.close()
