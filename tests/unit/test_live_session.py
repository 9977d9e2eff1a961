"""The end of dashboards' sockets: nobody who does not read holds it up."""

import asyncio
import socket
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from support.waiting import until
from test_wire_websocket import masked

from judgify_engine.core.trail import Resume
from judgify_engine.core.view import ViewKey
from judgify_engine.live import session as module
from judgify_engine.live import socket as socket_module
from judgify_engine.live.hub import Hub
from judgify_engine.live.session import DashboardRoutes
from judgify_engine.live.view import Outlet
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.access import Access, Grant
from judgify_engine.pipeline.quotas import Quotas
from judgify_engine.wire.websocket import CLOSE, Message

LARGE = Message(b"x" * 1_000_000)


class Flood:
    """A hub whose dashboards always have something new."""

    def __init__(self) -> None:
        self.sent = self.left = 0
        self.socket: Outlet | None = None

    async def join(self, key: ViewKey, resume: Resume | None) -> "Flood":
        return self

    def leave(self, client: object) -> None:
        self.left += 1

    def begin(self, socket: Outlet, resume: Resume | None) -> None:
        self.socket = socket
        while not socket.paused:
            socket.send(LARGE)
            self.sent += 1

    def drained(self, client: object) -> None:
        """Nobody reads."""


async def _granted(secret: str, scope: str) -> Grant:
    return Grant("acme", frozenset(("read",)), None)


class Served:
    """Dashboards on a port of their own, and one client that reads nothing."""

    def __init__(self, flood: Flood, dashboards: DashboardRoutes, runner: web.AppRunner, client: socket.socket) -> None:
        self.flood, self.dashboards, self.runner, self.client = flood, dashboards, runner, client


@pytest.fixture
async def stalled(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    monkeypatch.setattr(module, "CLOSE_TIMEOUT_S", 0.05)
    flood = Flood()
    access = cast(Access, SimpleNamespace(check_token=_granted))
    dashboards = DashboardRoutes(cast(Hub, cast(Any, flood)), access, Metrics(), Quotas(1))
    app = web.Application()
    app.add_routes(dashboards.routes())
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, runner.addresses[0])
        head = "GET /ws/dashboards/d?timeframe=1h HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        head += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: Bearer t\r\n\r\n"
        await loop.sock_sendall(client, head.encode())
        await until(lambda: flood.sent, "its buffers are full")
        assert flood.sent <= 2, "what does not go out is not written"
        yield Served(flood, dashboards, runner, client)
    await runner.cleanup()


@pytest.mark.parametrize("said", [masked(CLOSE, b"\x03\xe8"), masked(3, b"")], ids=["goodbye", "no frame at all"])
async def test_who_says_goodbye_and_reads_nothing_is_cut_off(
    stalled: Served, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    """Or it would hold its place, and its tenant's, for as long as it likes."""
    monkeypatch.setattr(socket_module, "ANSWER_S", 0.05)
    await asyncio.get_running_loop().sock_sendall(stalled.client, said)
    await until(lambda: stalled.flood.left == 1, "its session ends", 5)


async def test_who_ends_its_side_and_reads_nothing_is_cut_off(stalled: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_module, "ANSWER_S", 0.05)
    stalled.client.shutdown(socket.SHUT_WR)
    await until(lambda: stalled.flood.left == 1, "its session ends", 5)


async def test_a_stop_does_not_wait_for_a_dashboard_that_reads_nothing(stalled: Served) -> None:
    async with asyncio.timeout(5):
        await stalled.dashboards.close()
    await until(lambda: stalled.flood.left == 1, "its session ends")
    server = stalled.runner.server
    assert server is not None
    await until(lambda: not server.connections, "its connection is gone")
