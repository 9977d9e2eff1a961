"""What this process has answered with 200, by tenant and hour: the first arm of the comparison, from the edge's own memory.

Written now and then in absolute numbers under this process's id, so a write of unknown outcome is just repeated. What was
counted since the last write is gone with a kill -9: the arm says "at least so many", and the table must hold them.
"""

import asyncio
import logging
import time
from collections.abc import Collection
from typing import Any, Protocol

import uuid_utils

from judgify_engine.core.samples import HOUR_S

log = logging.getLogger(__name__)

WRITE_S = 2.0
LONGEST_WRITE_S = 3.0
"""A stop waits no longer for it."""
FORGET_AFTER_S = 2 * HOUR_S
"""Judgments are answered soon after they are made: older hours do not change any more."""
MAX_COUNTS = 50_000
"""Tenants times hours that are counted at once; others are not (their arm says less, never more)."""


class AcceptedWriter(Protocol):
    """Where the counts are kept."""

    async def write(self, process: str, counts: dict[tuple[str, int], int]) -> None: ...


class Accepted:
    """The counts of one process."""

    def __init__(self, writer: AcceptedWriter) -> None:
        self._writer = writer
        self._process = str(uuid_utils.uuid7())
        self._counts: dict[tuple[str, int], int] = {}
        self._changed: set[tuple[str, int]] = set()

    def note(self, tenant_id: str, created_at_us: int) -> None:
        """One more judgment was committed and is answered now."""
        second = created_at_us // 1_000_000
        key = (tenant_id, second - second % HOUR_S)
        count = self._counts.get(key, 0)
        if count or len(self._counts) < MAX_COUNTS:
            self._counts[key] = count + 1
            self._changed.add(key)

    async def run(self, stop: asyncio.Event, feeders: Collection["asyncio.Task[Any]"]) -> None:
        """Until `stop`, and until the `feeders` have ended, who may answer to the last."""
        stopped = asyncio.create_task(stop.wait(), name="accepted-stop")
        try:
            while not stop.is_set():
                await asyncio.wait((stopped,), timeout=WRITE_S)
                if not stop.is_set():  # else the last write says it: where PostgreSQL hangs, each is waited for
                    await self.write()
        finally:
            stopped.cancel()
        if feeders:
            await asyncio.wait(feeders)
        await self.write()

    async def write(self) -> None:
        """Write what has changed; what cannot be written now is written next time."""
        changed, self._changed = self._changed, set()
        if not changed:
            return
        try:
            async with asyncio.timeout(LONGEST_WRITE_S):
                await self._writer.write(self._process, {key: self._counts[key] for key in changed})
        except Exception as error:  # judging goes on, whatever happens to its proof
            log.debug("what was accepted cannot be written now", extra={"reason": str(error)})
            self._changed |= changed
            return
        before_s = int(time.time()) - FORGET_AFTER_S
        for key in [key for key in self._counts if key[1] < before_s and key not in self._changed]:
            del self._counts[key]
