"""Dashboards over WebSocket: who it is, what it watches and from where on, and what is given back when it ends.

A socket has no task of its own: the hub writes to it, and one sweep looks all tokens up again.
"""

import asyncio
import contextlib
import re
from typing import NamedTuple, Protocol

from aiohttp import WSCloseCode, web
from aiohttp.http import ws_ext_parse

from judgify_engine.core.dashboards import BUCKETS_S
from judgify_engine.core.trail import Resume
from judgify_engine.core.view import ViewKey
from judgify_engine.errors import Draining, Forbidden, InvalidField, JudgifyError, Unauthorized
from judgify_engine.live.asyncapi import build_asyncapi
from judgify_engine.live.hub import Hub
from judgify_engine.live.page import SESSION_COOKIE, PageRoutes
from judgify_engine.live.socket import Socket
from judgify_engine.live.view import Client
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.access import Access, Grant
from judgify_engine.pipeline.quotas import Quotas
from judgify_engine.wire import websocket

SUBPROTOCOL = "judgify.v1"
BEARER = "bearer."
RECHECK_S = 30.0
CLOSE_TIMEOUT_S = 1.0
"""How long an end waits until a client has taken what was sent, and again for its goodbye."""
PARAMETERS = ("timeframe", "workflow_id", "position", "definition_version")
_VERSION = re.compile(r"[0-9]{1,9}\Z")
_DASHBOARD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z")


class Places(Protocol):
    """How many connections may be open; aiohttp counts only those that are its own."""

    def enter(self) -> None: ...
    def leave(self) -> None: ...


class Guarded(Protocol):
    """An open socket whose token is looked up again, and which is closed when the server stops."""

    @property
    def secret(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def socket(self) -> Socket: ...


class Entrance(NamedTuple):
    """Who wants a socket, and how that was said."""

    secret: str
    kind: str
    grant: Grant


class Session:
    """One open dashboard (an `Owner` of its socket), and what must be given back when it ends."""

    __slots__ = ("_client", "_hub", "_routes", "_stack", "alerts_due", "kind", "secret", "socket", "tenant_id")

    def __init__(self, routes: "DashboardRoutes", hub: Hub, tenant_id: str, secret: str, kind: str, compressed: bool) -> None:
        self._routes, self._hub, self.tenant_id, self.secret, self.kind = routes, hub, tenant_id, secret, kind
        self.alerts_due = True
        """It is to be told of all alerts that fire: it has just begun, or missed some (live/alerts)."""
        self.socket = Socket(compressed=compressed)
        self._client: Client | None = None
        self._stack: contextlib.ExitStack | None = None

    def begin(
        self, request: web.Request, head: bytes, client: Client, resume: Resume | None, stack: contextlib.ExitStack
    ) -> None:
        """Take the connection over and send the first message; `stack` gives back what it needs when it ends.

        Raises ConnectionResetError when the client has gone; then the stack is still the caller's.
        """
        self.socket.take_over(request, head, self)
        self._client, self._stack = client, stack.pop_all()
        self._routes.sessions.add(self)
        self._routes.watching.add(self)
        client.begin(self.socket, resume)

    def drained(self) -> None:
        """The socket takes messages again."""
        if self._client is not None:
            self._hub.drained(self._client)

    def lost(self) -> None:
        """The socket is closed."""
        self._routes.ended(self)
        if self._stack is not None:
            self._stack.close()


class DashboardRoutes:
    """`GET /ws/dashboards/{dashboard_id}`, see PROTOCOL.md, and the same for programs: `GET /api/v1/asyncapi.json`."""

    def __init__(self, hub: Hub, access: Access, metrics: Metrics, quotas: Quotas) -> None:
        self._hub, self._access, self._metrics, self._quotas = hub, access, metrics, quotas
        self.sessions: set[Guarded] = set()
        self.watching: set[Session] = set()
        """Those of them that show a dashboard."""
        self.places: Places | None = None
        """Where connections are counted, if anywhere."""
        self._asyncapi = build_asyncapi()
        self._closing, self._all_ended = False, asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/ws/dashboards/{dashboard_id}", self.serve, allow_head=False),
            web.get("/api/v1/asyncapi.json", self.asyncapi),
        ]

    async def asyncapi(self, request: web.Request) -> web.Response:
        """The live protocol as a document; needs no token."""
        return web.Response(body=self._asyncapi, content_type="application/json")

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Refuses before the upgrade; then the session has the connection, and aiohttp is told that it is gone."""
        secret, kind, grant = await self.admit(request)
        key, resume = _view_key(request, grant), _resume(request)
        if not key.timeframe:
            key = key._replace(timeframe=(await self._hub.definition(*key[:2])).dashboard.timeframe)
        head, compressed = await self.shake_hands(request, grant)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._quotas.socket(grant))
            client = await self._hub.join(key, resume)
            stack.callback(self._hub.leave, client)
            self.take_place(stack)
            session = Session(self, self._hub, grant.tenant_id, secret, kind, compressed)
            session.begin(request, head, client, resume, stack)
        return web.Response(status=101)

    async def admit(self, request: web.Request) -> Entrance:
        """Who asks for a socket. Raises Draining, Unauthorized, Forbidden, Overloaded or DatabaseUnavailable."""
        if self._closing:
            raise Draining("the server is stopping")
        secret, kind = _secret_of(request)
        return Entrance(secret, kind, await self._check(secret, kind))

    async def shake_hands(self, request: web.Request, grant: Grant) -> tuple[bytes, bool]:
        """Count the request; the answer to it, and whether the client takes compressed messages."""
        ready = web.WebSocketResponse(protocols=(SUBPROTOCOL,)).can_prepare(request)
        if not ready:
            raise InvalidField("this address speaks WebSocket only", field="Upgrade")
        await self._quotas.spend_or_hold(grant)
        compressed = ws_ext_parse(request.headers.get("Sec-WebSocket-Extensions"), isserver=True)[0] == 15
        return _head(request, ready.protocol, compressed), compressed

    def take_place(self, stack: contextlib.ExitStack) -> None:
        """Count the connection as open until `stack` ends. Raises Draining."""
        if self._closing:
            raise Draining("the server is stopping")
        if self.places is not None:
            self.places.enter()
            stack.callback(self.places.leave)

    async def run(self, stop: asyncio.Event) -> None:
        """End sockets soon after their tokens were revoked, until `stop`."""
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RECHECK_S)
            for secret, kind in {(session.secret, session.kind) for session in self.sessions}:
                try:
                    await self._check(secret, kind)
                except (Unauthorized, Forbidden):
                    for session in [one for one in self.sessions if (one.secret, one.kind) == (secret, kind)]:
                        session.socket.end(WSCloseCode.POLICY_VIOLATION, b"the token is no longer valid", 2 * CLOSE_TIMEOUT_S)
                except JudgifyError:
                    continue  # PostgreSQL is away: they stay until it is known

    async def _check(self, secret: str, kind: str) -> Grant:
        if kind == "session":
            return await self._access.check_session(secret, "read")
        return await self._access.check_token(secret, "read")

    def ended(self, session: Guarded) -> None:
        """A session's socket is closed."""
        self.sessions.discard(session)
        if isinstance(session, Session):
            self.watching.discard(session)
        if not self.sessions:
            self._all_ended.set()

    async def close(self) -> None:
        """The server stops: say so to every socket, and wait until all are closed (those that do not read are cut off)."""
        self._closing = True
        for session in list(self.sessions):
            session.socket.end(WSCloseCode.GOING_AWAY, b"the server stops", 2 * CLOSE_TIMEOUT_S)
        if self.sessions:
            self._all_ended.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(3 * CLOSE_TIMEOUT_S):
                    await self._all_ended.wait()


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
        if name not in PARAMETERS:
            raise InvalidField(f"unknown parameter {name[:80]!r}; known: {', '.join(PARAMETERS)}", field=name[:80])
    timeframe = request.query.get("timeframe", "")
    if timeframe not in BUCKETS_S and "timeframe" in request.query:
        known = ", ".join(BUCKETS_S)
        raise InvalidField(f"timeframe must be one of {known}, got {timeframe[:40]!r}", field="timeframe")
    workflow_id = request.query.get("workflow_id")
    if workflow_id is not None and not _DASHBOARD_ID.match(workflow_id):
        raise InvalidField("workflow_id: letters, digits and . _ : -, at most 128", field="workflow_id")
    return ViewKey(grant.tenant_id, dashboard_id, workflow_id, timeframe)


def _resume(request: web.Request) -> Resume | None:
    """Where the client stopped, if it says so."""
    version = request.query.get("definition_version")
    if version is not None and not _VERSION.match(version):
        raise InvalidField(f"definition_version must be a whole number, got {version[:40]!r}", field="definition_version")
    position = request.query.get("position")
    if position is None:
        return None
    try:
        return Resume.parse(position, None if version is None else int(version))
    except ValueError:
        detail = f"position must be `resume` (or `position`) of a message, like 0/1A2B3C4-17@0f3c, got {position[:80]!r}"
        raise InvalidField(detail, field="position") from None


def _head(request: web.Request, protocol: str | None, compressed: bool) -> bytes:
    """The answer to the upgrade."""
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {websocket.accept_of(request.headers['Sec-WebSocket-Key'])}",
    ]
    if protocol:
        lines.append(f"Sec-WebSocket-Protocol: {protocol}")
    if compressed:
        lines.append(f"Sec-WebSocket-Extensions: {websocket.DEFLATE}")
    return "\r\n".join([*lines, "", ""]).encode()
