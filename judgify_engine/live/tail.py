"""The live tail over WebSocket: judgments as they are committed, filtered here, as many as can be read."""

import asyncio
import contextlib
import re

from aiohttp import web

from judgify_engine.core.model import METHODS
from judgify_engine.core.results import RESULT_CHARS
from judgify_engine.core.tail import TailFilter
from judgify_engine.errors import InvalidField
from judgify_engine.live.session import DashboardRoutes, Entrance
from judgify_engine.live.socket import Socket
from judgify_engine.live.tail_reader import TailClient, TailReader
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.quotas import Quotas
from judgify_engine.wire.tail import message_of
from judgify_engine.wire.websocket import Message

STATUSES = ("completed", "failed")
BEAT_S = 20.0
"""After so long without news a message says that there are none: so a client knows a silent connection from a dead one."""
PARAMETERS = ("workflow_id", "status", "method_used", "result")
_WORKFLOW_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z")


class TailSession:
    """One open tail (an `Owner` of its socket). While the socket takes nothing, the newest wait, and the rest is counted."""

    __slots__ = ("_dashboards", "_loop", "_metrics", "_sent_s", "_stack", "client", "kind", "secret", "socket")

    def __init__(
        self, dashboards: DashboardRoutes, metrics: Metrics, entrance: Entrance, compressed: bool, wanted: TailFilter
    ) -> None:
        self._dashboards, self._metrics = dashboards, metrics
        self._loop, self._sent_s = asyncio.get_running_loop(), 0.0
        self.secret, self.kind = entrance.secret, entrance.kind
        self.socket = Socket(compressed=compressed)
        self.client = TailClient(entrance.grant.tenant_id, wanted, self._push)
        self._stack: contextlib.ExitStack | None = None

    def begin(self, request: web.Request, head: bytes, stack: contextlib.ExitStack) -> None:
        """Take the connection over, and say from where on everything comes. `stack` gives back what it needs when it ends.

        Raises ConnectionResetError when the client has gone; then the stack is still the caller's.
        """
        self.socket.take_over(request, head, self)
        self._stack = stack.pop_all()
        self._dashboards.sessions.add(self)
        self._send()

    def drained(self) -> None:
        """The socket takes messages again: the next round writes."""

    def lost(self) -> None:
        """The socket is closed."""
        self._dashboards.ended(self)
        if self._stack is not None:
            self._stack.close()

    def _push(self) -> None:
        due = self.client.tail.news or self._loop.time() - self._sent_s >= BEAT_S
        if due and self._stack is not None and not self.socket.paused:
            self._send()

    def _send(self) -> None:
        self.socket.send(Message(message_of(self.client.position, self.client.tail.take())))
        self._metrics.push_messages += 1
        self._sent_s = self._loop.time()


class TailRoutes:
    """`GET /ws/tail`, see PROTOCOL.md. `dashboards` checks who comes, looks tokens up again, and closes all sockets."""

    def __init__(self, reader: TailReader, dashboards: DashboardRoutes, metrics: Metrics, quotas: Quotas) -> None:
        self._reader, self._dashboards, self._metrics, self._quotas = reader, dashboards, metrics, quotas

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/ws/tail", self.serve, allow_head=False)]

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Refuses before the upgrade; then the session has the connection, and aiohttp is told that it is gone."""
        entrance = await self._dashboards.admit(request)
        wanted = _filter(request)
        head, compressed = await self._dashboards.shake_hands(request, entrance.grant)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._quotas.socket(entrance.grant))
            session = TailSession(self._dashboards, self._metrics, entrance, compressed, wanted)
            await self._reader.join(session.client)
            stack.callback(self._reader.leave, session.client)
            self._dashboards.take_place(stack)
            session.begin(request, head, stack)
        return web.Response(status=101)


def _filter(request: web.Request) -> TailFilter:
    """What is wanted. Raises InvalidField."""
    query = request.query
    for name in query:
        if name not in PARAMETERS:
            raise InvalidField(f"unknown parameter {name[:80]!r}; known: {', '.join(PARAMETERS)}", field=name[:80])
    for name, known in (("status", STATUSES), ("method_used", METHODS)):
        if name in query and query[name] not in known:
            raise InvalidField(f"{name} must be one of {', '.join(known)}, got {query[name][:40]!r}", field=name)
    workflow_id, result = query.get("workflow_id"), query.get("result")
    if workflow_id is not None and not _WORKFLOW_ID.match(workflow_id):
        raise InvalidField("workflow_id: letters, digits and . _ : -, at most 128", field="workflow_id")
    if result is not None and len(result) > RESULT_CHARS:
        raise InvalidField(f"result has at most {RESULT_CHARS} characters, got {len(result)}", field="result")
    return TailFilter(workflow_id, query.get("status"), query.get("method_used"), result)
