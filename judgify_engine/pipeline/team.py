"""The workers of one supervisor, as one of them sees them: how many there are, and whom to ask for another number."""

import asyncio
from collections.abc import Awaitable, Callable

from judgify_engine.errors import ScalingFailed


class Team:
    """What the supervisor told last; see control.py."""

    def __init__(self, name: str, size: int, sharing: int, ask: Callable[[int], Awaitable[None]]) -> None:
        """`ask`: tell the supervisor how many there should be; it answers with a `told`."""
        self.name = name
        """Which supervisor's, the same after it was started again."""
        self.size = size
        """How many there are to be."""
        self.sharing = sharing
        """How many there are, also those that come or go just now: each may grant its share of what a tenant may use."""
        self._ask = ask
        self._told = asyncio.Event()
        self.on_told: Callable[[int], None] = lambda sharing: None
        """Called with `sharing` when it was told."""

    def told(self, size: int, sharing: int) -> None:
        """The supervisor says so."""
        self.size, self.sharing = size, sharing
        self.on_told(sharing)
        self._told.set()

    async def resize(self, size: int, timeout_s: float) -> None:
        """Ask for another number; returns when the supervisor sees to it. Raises ScalingFailed."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ask(size)
                while self.size != size:
                    self._told.clear()
                    await self._told.wait()
        except TimeoutError:
            raise ScalingFailed(f"the supervisor did not take over the number {size} within {timeout_s:g} s") from None
