"""Looks whether dashboards that are shown here were defined anew, by whichever process or by hand.

One query a second, and none where nothing is shown. The versions themselves are compared, so nothing can be passed over;
a notification could be lost, and would need a connection of its own.
"""

import asyncio
import contextlib
import logging
from collections.abc import Collection
from typing import Protocol

from judgify_engine.errors import RetryLater
from judgify_engine.live.hub import Hub

log = logging.getLogger(__name__)

LOOK_S = 1.0


class VersionSource(Protocol):
    """Where definitions are; see store/dashboards."""

    async def versions_of(self, dashboards: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]: ...


class Definitions:
    """See the module."""

    def __init__(self, source: VersionSource, hub: Hub) -> None:
        self._source, self._hub = source, hub

    async def look(self) -> None:
        """Have each view read anew that shows another version than the current one. Raises RetryLater."""
        shown = self._hub.shown()
        if not shown:
            return
        current = await self._source.versions_of(shown)
        for dashboard, versions in shown.items():
            if versions != {current.get(dashboard, 0)}:
                self._hub.redefined(*dashboard)

    async def run(self, stop: asyncio.Event) -> None:
        """Look every second, until `stop`."""
        while not stop.is_set():
            try:
                await self.look()
            except RetryLater as error:
                log.debug("definitions cannot be looked up", extra={"reason": str(error)})
            except Exception:  # judging goes on, whatever happens to dashboards
                log.exception("looking for definitions failed and is tried again")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_S)
