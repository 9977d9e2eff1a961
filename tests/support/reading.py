"""A user's own service: a consumer group on the streams of judgments, and what it was given."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisError

from judgify_engine.core.streams import JUDGMENTS


class GroupReader:
    """Reads, notes and acknowledges, as one consumer of a group, from all streams; rides out whatever happens to Redis."""

    def __init__(self, url: str, group: str, *, cluster: bool = False) -> None:
        self.url, self.group, self._cluster = url, group, cluster
        self.seen: Counter[str] = Counter()
        """Judgments by how often an insert of them was handed out."""
        self.ids: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    async def register(self, at: str = "0") -> None:
        """Make the group, on all streams."""
        async with self._client() as client:
            for stream in JUDGMENTS:
                await client.xgroup_create(stream, self.group, id=at, mkstream=True)

    def start(self) -> "GroupReader":
        self._task = asyncio.create_task(self._run())
        return self

    async def stop(self) -> None:
        # Not cancelled: `wait_for` of Python 3.11, which the client uses, loses some cancellations.
        self._stopping = True
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        async with self._client() as client:
            while not self._stopping:
                try:
                    await self._read(client)
                except (RedisError, OSError):
                    await asyncio.sleep(0.05)

    def _client(self) -> "Redis[Any] | RedisCluster":
        options = {"socket_timeout": 5, "decode_responses": True}
        return RedisCluster.from_url(self.url, **options) if self._cluster else Redis.from_url(self.url, **options)

    async def _read(self, client: "Redis[Any] | RedisCluster") -> None:
        if not self._cluster:
            return await self._take(client, JUDGMENTS, block=100)
        for stream in JUDGMENTS:  # each may be on another node, and one that is away must not keep the others
            with contextlib.suppress(RedisError, OSError):
                await self._take(client, [stream])
        await asyncio.sleep(0.05)

    async def _take(self, client: "Redis[Any] | RedisCluster", streams: Sequence[str], block: int | None = None) -> None:
        found = await client.xreadgroup(self.group, "reader", dict.fromkeys(streams, ">"), count=500, block=block)
        for stream, entries in found or ():
            for entry_id, fields in entries:
                if fields.get("table") == "judgment_executions" and fields["op"] == "insert":
                    self.seen[fields["key"]] += 1
                    self.ids[fields["key"]] = entry_id
            await client.xack(stream, self.group, *[entry_id for entry_id, _ in entries])
