"""A user's own service: a consumer group on the streams of judgments, and what it was given."""

import asyncio
import contextlib
from collections import Counter
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from judgify_engine.core.streams import JUDGMENTS


class GroupReader:
    """Reads, notes and acknowledges, as one consumer of a group, from all streams; rides out whatever happens to Redis."""

    def __init__(self, url: str, group: str) -> None:
        self.url, self.group = url, group
        self.seen: Counter[str] = Counter()
        """Judgments by how often an insert of them was handed out."""
        self.ids: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._client: Redis[Any] | None = None

    async def register(self, at: str = "0") -> None:
        """Make the group, on all streams."""
        async with Redis.from_url(self.url, socket_timeout=5) as client:
            for stream in JUDGMENTS:
                await client.xgroup_create(stream, self.group, id=at, mkstream=True)

    def start(self) -> "GroupReader":
        self._task = asyncio.create_task(self._run())
        return self

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        async with Redis.from_url(self.url, socket_timeout=5, decode_responses=True) as client:
            while True:
                try:
                    await self._read(client)
                except (RedisError, OSError):
                    await asyncio.sleep(0.05)

    async def _read(self, client: "Redis[Any]") -> None:
        found = await client.xreadgroup(self.group, "reader", dict.fromkeys(JUDGMENTS, ">"), count=500, block=100)
        for stream, entries in found or ():
            for entry_id, fields in entries:
                if fields["table"] == "judgment_executions" and fields["op"] == "insert":
                    self.seen[fields["key"]] += 1
                    self.ids[fields["key"]] = entry_id
            await client.xack(stream, self.group, *[entry_id for entry_id, _ in entries])
