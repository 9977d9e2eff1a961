"""One dashboard that is held open during a load, as a user's would be (see `judgify_engine/live/PROTOCOL.md`).

Remembers when each message came and which total it showed; comes back when the connection ends. Totals never go
back for as long as the database is the same one.
"""

import asyncio
import itertools
import time
from array import array
from contextlib import suppress

import aiohttp
import msgspec

from .client import Target

PATH = "/ws/dashboards/main"
CONNECT_TIMEOUT_S = 10.0
RECONNECT_S = 0.25


class _Summary(msgspec.Struct):
    total_executions: int


class _Message(msgspec.Struct):
    type: str
    summary: _Summary | None = None


_decoder = msgspec.json.Decoder(_Message)


class Dashboard:
    """A watcher of `/ws/dashboards/main`. `watch` is its task; the rest may be read at any time."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.first = asyncio.Event()
        """Set once `initial_data` has come."""
        self.arrived_s = array("d")
        """When each message came (`time.perf_counter`), one entry per message with a summary."""
        self.totals = array("q")
        """The `total_executions` that each of them showed."""
        self.bytes_received = 0
        self.connections = 0
        self.went_back = 0
        """Messages that showed less than one before."""
        self.failure = ""
        """Why the last attempt to connect did not succeed."""

    @property
    def messages(self) -> int:
        """Messages received that carried a total."""
        return len(self.totals)

    @property
    def total(self) -> int:
        """The latest total, 0 before the first message."""
        return self.totals[-1] if self.totals else 0

    async def watch(self, stop: asyncio.Event) -> None:
        """Receive until `stop`, connecting again whenever the connection ends."""
        async with aiohttp.ClientSession() as session:
            while not stop.is_set():
                stopping = asyncio.ensure_future(stop.wait())
                receiving = asyncio.ensure_future(self._receive(session))
                try:
                    await asyncio.wait((stopping, receiving), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    stopping.cancel()
                    receiving.cancel()
                    await asyncio.wait((stopping, receiving))
                if receiving.cancelled():
                    return
                receiving.result()  # a defect of the bench itself must not pass unseen
                with suppress(TimeoutError):
                    async with asyncio.timeout(RECONNECT_S):
                        await stop.wait()

    async def wait_for_first(self, timeout_s: float = 10.0) -> bool:
        """Wait for the first message; False when it does not come in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.first.wait()
        return self.first.is_set()

    async def _receive(self, session: aiohttp.ClientSession) -> None:
        headers = {"Authorization": f"Bearer {self._target.token}"}
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                socket = await session.ws_connect(self._target.url + PATH, headers=headers, max_msg_size=64 * 1024 * 1024)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            status = getattr(error, "status", None)
            self.failure = f"the dashboard was refused with status {status}" if status else type(error).__name__
            return
        self.connections += 1
        self.failure = ""
        async with socket:
            async for message in socket:  # ends when the server closes or is gone
                if message.type == aiohttp.WSMsgType.TEXT:
                    self._take(message.data)

    def _take(self, text: str) -> None:
        now_s = time.perf_counter()
        self.bytes_received += len(text)
        message = _decoder.decode(text)
        if message.summary is None:
            return
        if message.summary.total_executions < self.total:
            self.went_back += 1
        self.arrived_s.append(now_s)
        self.totals.append(message.summary.total_executions)
        self.first.set()

    def longest_gap_s(self) -> float:
        """Longest time between two messages, 0 with fewer than two."""
        return max((b - a for a, b in itertools.pairwise(self.arrived_s)), default=0.0)
