"""One WebSocket: who it is, what it watches, and a message at a time until one side leaves."""

import asyncio
import contextlib
import logging
import re
import socket

from aiohttp import WSCloseCode, WSMsgType, web

from judgify_engine.core.dashboards import BUCKETS_S
from judgify_engine.core.view import ViewKey
from judgify_engine.errors import Draining, Forbidden, InvalidField, JudgifyError, Unauthorized
from judgify_engine.live.hub import Hub
from judgify_engine.live.page import SESSION_COOKIE, PageRoutes
from judgify_engine.live.view import Client
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.access import Access, Grant
from judgify_engine.pipeline.quotas import Quotas

log = logging.getLogger(__name__)

SUBPROTOCOL = "judgify.v1"
BEARER = "bearer."
RECHECK_S = 30.0
CLOSE_TIMEOUT_S = 1.0
"""How long an end waits until a client has taken what was sent, and again for its goodbye."""
_DASHBOARD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z")


class DashboardRoutes:
    """`GET /ws/dashboards/{dashboard_id}`, see PROTOCOL.md."""

    def __init__(self, hub: Hub, access: Access, metrics: Metrics, quotas: Quotas) -> None:
        self._hub, self._access, self._metrics, self._quotas = hub, access, metrics, quotas
        self._sockets: dict[web.WebSocketResponse, asyncio.Transport | None] = {}
        self._closing = False

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/ws/dashboards/{dashboard_id}", self.serve, allow_head=False)]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Refuses before the upgrade, then pushes until one side leaves."""
        if self._closing:
            raise Draining("the server is stopping")
        secret, kind = _secret_of(request)
        grant = await self._check(secret, kind)
        key = _view_key(request, grant)
        if not key.timeframe:
            key = key._replace(timeframe=(await self._hub.definition(*key[:2])).dashboard.timeframe)
        socket_ = web.WebSocketResponse(
            protocols=(SUBPROTOCOL,), compress=False, max_msg_size=64 * 1024, timeout=CLOSE_TIMEOUT_S
        )
        if not socket_.can_prepare(request):
            raise InvalidField("this address speaks WebSocket only", field="Upgrade")
        await self._quotas.spend_or_hold(grant)
        with self._quotas.socket(grant):
            client = await self._hub.join(key)
            try:
                await socket_.prepare(request)
                _keep_alive(request)
                self._sockets[socket_] = request.transport
                await self._push(socket_, client, secret, kind)
            except ConnectionError:
                pass  # it left while we wrote
            finally:
                self._hub.leave(client)
                self._sockets.pop(socket_, None)
        return socket_

    async def _push(self, socket_: web.WebSocketResponse, client: Client, secret: str, kind: str) -> None:
        async with asyncio.TaskGroup() as tasks:
            writer = tasks.create_task(self._write(socket_, client), name="socket-write")
            guard = tasks.create_task(self._recheck(socket_, secret, kind), name="socket-recheck")
            async for message in socket_:  # ends when either side closes
                if message.type is WSMsgType.ERROR:
                    break
            writer.cancel()
            guard.cancel()

    async def _write(self, socket_: web.WebSocketResponse, client: Client) -> None:
        with contextlib.suppress(ConnectionError, RuntimeError):  # closed under our hands: the reader ends the session
            await socket_.send_frame(client.first(), WSMsgType.TEXT)
            while not socket_.closed:
                await socket_.send_frame(await client.next(), WSMsgType.TEXT)
                self._metrics.push_messages += 1

    async def _recheck(self, socket_: web.WebSocketResponse, secret: str, kind: str) -> None:
        """End the socket soon after its token was revoked."""
        while not socket_.closed:  # a cancellation can get lost in the look-up
            await asyncio.sleep(RECHECK_S)
            try:
                await self._check(secret, kind)
            except (Unauthorized, Forbidden):
                await self._end(socket_, WSCloseCode.POLICY_VIOLATION, b"the token is no longer valid")
                return
            except JudgifyError:
                continue  # PostgreSQL is away: it stays until it is known

    async def _check(self, secret: str, kind: str) -> Grant:
        if kind == "session":
            return await self._access.check_session(secret, "read")
        return await self._access.check_token(secret, "read")

    async def close(self) -> None:
        """The server stops: say so to every socket."""
        self._closing = True
        await asyncio.gather(
            *(self._end(socket_, WSCloseCode.GOING_AWAY, b"the server stops") for socket_ in list(self._sockets)),
            return_exceptions=True,
        )

    async def _end(self, socket_: web.WebSocketResponse, code: WSCloseCode, message: bytes) -> None:
        """Say goodbye; whoever does not even read is cut off, it would hold us up for ever."""
        transport = self._sockets.get(socket_)
        try:
            async with asyncio.timeout(2 * CLOSE_TIMEOUT_S):
                await socket_.close(code=code, message=message)
        except TimeoutError:
            if transport is not None:
                transport.abort()


def _secret_of(request: web.Request) -> tuple[str, str]:
    """The token or the session's secret, and which of them it is."""
    authorization = request.headers.get("Authorization")
    if authorization is not None:
        kind, _, token = authorization.partition(" ")
        if kind.lower() != "bearer" or not token.strip():
            raise Unauthorized("the header must be Authorization: Bearer TOKEN")
        return token.strip(), "token"
    for protocol in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        if protocol.strip().startswith(BEARER):
            return protocol.strip().removeprefix(BEARER), "token"
    cookie = request.cookies.get(SESSION_COOKIE)
    if cookie:
        PageRoutes.check_origin(request)  # a cookie is sent by any page's request, a token is not
        return cookie, "session"
    raise Unauthorized("send Authorization: Bearer TOKEN, or the subprotocols judgify.v1 and bearer.TOKEN")


def _view_key(request: web.Request, grant: Grant) -> ViewKey:
    """What is watched; without a time frame where the request names none."""
    dashboard_id = request.match_info["dashboard_id"]
    if not _DASHBOARD_ID.match(dashboard_id):
        raise InvalidField("dashboard_id: letters, digits and . _ : -, at most 128", field="dashboard_id")
    for name in request.query:
        if name not in ("timeframe", "workflow_id"):
            raise InvalidField(f"unknown parameter {name[:80]!r}; known: timeframe, workflow_id", field=name[:80])
    timeframe = request.query.get("timeframe", "")
    if timeframe not in BUCKETS_S and "timeframe" in request.query:
        known = ", ".join(BUCKETS_S)
        raise InvalidField(f"timeframe must be one of {known}, got {timeframe[:40]!r}", field="timeframe")
    workflow_id = request.query.get("workflow_id")
    if workflow_id is not None and not _DASHBOARD_ID.match(workflow_id):
        raise InvalidField("workflow_id: letters, digits and . _ : -, at most 128", field="workflow_id")
    return ViewKey(grant.tenant_id, dashboard_id, workflow_id, timeframe)


def _keep_alive(request: web.Request) -> None:
    """Let the kernel find out within minutes that a client vanished; pings would cut off the merely slow."""
    transport_socket = request.transport.get_extra_info("socket") if request.transport else None
    if transport_socket is not None and hasattr(socket, "TCP_KEEPIDLE"):
        with contextlib.suppress(OSError):
            transport_socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            transport_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
            transport_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 20)
