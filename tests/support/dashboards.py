"""A dashboard's side of the live protocol: collects messages and keeps the state that a page would show."""

import asyncio
import json
from typing import Any

import aiohttp

from support.client import Client
from support.waiting import until


def position_of(text: str) -> tuple[int, int]:
    """`0/1A2B3C4-17` as something that can be compared."""
    lsn, _, index = text.partition("-")
    high, _, low = lsn.partition("/")
    return (int(high, 16) << 32) | int(low, 16), int(index)


class Dashboard:
    """One open WebSocket, read by a task of its own unless `read=False`."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, *, read: bool = True) -> None:
        self.socket = socket
        self.messages: list[dict[str, Any]] = []
        self.alerts: list[dict[str, Any]] = []
        """Messages of that type."""
        self.summary: dict[str, Any] = {}
        self.charts: dict[str, dict[Any, Any]] = {}
        """By the chart's id: the first member of a point (a time, mostly) to the point."""
        self.types: dict[str, str] = {}
        self.live: dict[int, Any] = {}
        self.workflows: dict[str, Any] = {}
        self.position: tuple[int, int] = (-1, -1)
        self.version = -1
        self._task = asyncio.create_task(self._read()) if read else None

    def read(self) -> None:
        """Begin to read, for one that did not."""
        assert self._task is None
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.socket:
            assert message.type is aiohttp.WSMsgType.TEXT
            self.apply(json.loads(message.data))

    def apply(self, message: dict[str, Any]) -> None:
        """What a page does with a message; checks what must hold for each."""
        kind = message["type"]
        if kind == "alerts":
            assert self.messages, "alerts came before the first message"
            self.alerts.append(message)
            return
        assert kind == "initial_data" if not self.messages else kind in ("real_time_update", "dashboard_update"), kind
        position = position_of(message["position"])
        if not message["recomputing"]:
            assert position >= self.position, f"the position went back from {self.position} to {position}"
        if self.messages and position == self.position and message["definition_version"] == self.version:
            assert message["summary"] == self.summary, "one position, two truths"
        self.position, self.version = position, message["definition_version"]
        if kind != "real_time_update" and not message.get("recovered"):
            self.charts, self.types, self.live, self.workflows = {}, {}, {}, {}
        self.summary = message["summary"]
        for name, chart in message["charts"].items():
            self.types[name] = chart["type"]
            self.charts.setdefault(name, {}).update({point[0]: point for point in chart["points"]})
        self.live.update({point[0]: point for point in message["live"]})
        self.workflows.update({row["workflow_id"]: row for row in message["workflows"]})
        self.messages.append(message)

    def take_over(self, before: "Dashboard") -> None:
        """Go on with what the socket before showed, as a page does that comes back."""
        if self.messages[0]["recovered"]:
            for name, points in before.charts.items():
                self.charts[name] = points | self.charts.get(name, {})
            self.live, self.workflows = before.live | self.live, before.workflows | self.workflows

    @property
    def total(self) -> int:
        return int(self.summary.get("total_executions", -1))

    async def shows(self, total: int, within_s: float = 30.0) -> None:
        """Wait until it shows this many judgments."""

        def there() -> bool:
            if self._task is not None and self._task.done():
                self._task.result()
                raise AssertionError(f"the socket closed with {self.socket.close_code}")
            return self.total == total

        try:
            await until(there, f"the dashboard shows {total}", within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; it shows {self.total} after {len(self.messages)} messages") from None

    async def close(self) -> None:
        await self.socket.close()
        if self._task is not None:
            await self._task


async def watch(client: Client, dashboard_id: str = "main", query: str = "", *, read: bool = True, **more: Any) -> Dashboard:
    """Open a dashboard with the client's token in the header."""
    headers = more.pop("headers", {"Authorization": f"Bearer {client.token}"})
    url = f"{client.url}/ws/dashboards/{dashboard_id}{query}"
    return Dashboard(await client.session.ws_connect(url, headers=headers, max_msg_size=0, **more), read=read)
