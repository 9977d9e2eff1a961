"""A live tail as a page reads it: what came, in order, with what was skipped."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from support.client import Client
from support.dashboards import position_of
from support.waiting import until


class Tail:
    """One open tail; checks of each message what must hold for all."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.messages: list[dict[str, Any]] = []
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.socket:
            found = json.loads(message.data)
            assert found["type"] == "tail"
            assert len(found["judgments"]) <= 50
            assert not self.messages or position_of(found["position"]) >= position_of(self.messages[-1]["position"])
            self.messages.append(found)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row for message in self.messages for row in message["judgments"]]

    @property
    def ids(self) -> list[str]:
        return [row["judgment_id"] for row in self.rows]

    @property
    def skipped(self) -> int:
        return sum(message["skipped"] for message in self.messages)

    @property
    def gaps(self) -> int:
        return sum(message["gap"] for message in self.messages)

    async def shows(self, count: int, within_s: float = 15.0) -> None:
        """Wait until so many came, shown or skipped."""

        def there() -> bool:
            if self._task.done():
                self._task.result()
                raise AssertionError(f"the socket closed with {self.socket.close_code}")
            return len(self.rows) + self.skipped >= count

        await until(there, f"the tail has {count}", within_s)
        assert len(self.rows) + self.skipped == count

    async def close(self) -> None:
        await self.socket.close()
        await self._task


@contextlib.asynccontextmanager
async def tail(client: Client, query: str = "", **more: Any) -> AsyncIterator[Tail]:
    """Open a tail with the client's token; everything that is committed from now on comes."""
    headers = {"Authorization": f"Bearer {client.token}"}
    socket = await client.session.ws_connect(f"{client.url}/ws/tail{query}", headers=headers, max_msg_size=0, **more)
    opened = Tail(socket)
    try:
        await until(lambda: opened.messages, "the tail begins")
        assert opened.messages[0]["judgments"] == []
        yield opened
    finally:
        await opened.close()
