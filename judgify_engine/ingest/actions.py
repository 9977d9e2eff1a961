"""Actions over HTTP: list, the attempts of a judgment, replay one or many."""

from typing import Any, Protocol
from uuid import UUID

import msgspec
from aiohttp import web

from judgify_engine.errors import InvalidField, NotFound, NotReplayable
from judgify_engine.ingest.judgments import JSON
from judgify_engine.ingest.query import checked_query, decode_cursor, encode_cursor, limit_of, one_of, uuid_of
from judgify_engine.pipeline.access import Access
from judgify_engine.wire.actions import (
    STATES,
    ActionFilter,
    ActionPage,
    AttemptPage,
    ReplayedActions,
    action_of,
    attempt_of,
)

_PATH = "/api/v1/actions/{action_id:[0-9A-Fa-f-]{36}}"


class ActionRows(Protocol):
    """Where the rows are; see store/actions."""

    async def get(self, tenant_id: str, action_id: UUID) -> Any | None: ...
    async def page(self, tenant_id: str, wanted: ActionFilter, before: UUID | None, limit: int) -> tuple[list[Any], bool]: ...
    async def attempts(self, tenant_id: str, judgment_id: UUID, before: UUID | None, limit: int) -> tuple[list[Any], bool]: ...
    async def replay(self, tenant_id: str, action_id: UUID, workflow_id: str, action: str) -> Any | None: ...
    async def replay_all(self, tenant_id: str, workflow_id: str | None, action: str | None) -> tuple[int, bool]: ...


class JudgmentRows(Protocol):
    """Where the judgments are; see store/judgments."""

    async def get(self, tenant_id: str, judgment_id: UUID) -> Any | None: ...


class Waker(Protocol):
    """Who makes the attempts in this process; see pipeline/action_loop."""

    def wake(self) -> None: ...


class ActionRoutes:
    """The handlers; see `routes`."""

    def __init__(self, rows: ActionRows, judgments: JudgmentRows, waker: Waker, access: Access) -> None:
        self._rows, self._judgments, self._waker, self._access = rows, judgments, waker, access

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/v1/actions", self.page, allow_head=False),
            web.get(_PATH, self.get, allow_head=False),
            web.post(_PATH + "/replay", self.replay),
            web.post("/api/v1/actions/replay", self.replay_all),
            web.get("/api/v1/judgments/{judgment_id:[0-9A-Fa-f-]{36}}/actions", self.attempts, allow_head=False),
        ]

    async def page(self, request: web.Request) -> web.Response:
        """A page of actions, newest first."""
        grant = await self._access.check(request.headers.get("Authorization"), "read")
        query = checked_query(request, {"state", "workflow_id", "judgment_id", "action", "limit", "cursor"})
        judgment_id = None if "judgment_id" not in query else uuid_of(query["judgment_id"])
        if "judgment_id" in query and judgment_id is None:
            raise InvalidField(f"judgment_id must be a UUID, got {query['judgment_id'][:40]!r}", field="judgment_id")
        wanted = ActionFilter(one_of(query, "state", STATES), query.get("workflow_id"), judgment_id, query.get("action"))
        limit = limit_of(query)
        rows, more = await self._rows.page(grant.tenant_id, wanted, decode_cursor(query.get("cursor")), limit)
        return _answer(ActionPage([action_of(row) for row in rows], encode_cursor(rows[-1]["id"]) if more else None))

    async def get(self, request: web.Request) -> web.Response:
        """One action."""
        grant = await self._access.check(request.headers.get("Authorization"), "read")
        return _answer(action_of(await self._find(grant.tenant_id, request.match_info["action_id"])))

    async def attempts(self, request: web.Request) -> web.Response:
        """What was tried for a judgment, newest first."""
        grant = await self._access.check(request.headers.get("Authorization"), "read")
        query = checked_query(request, {"limit", "cursor"})
        limit, before = limit_of(query), decode_cursor(query.get("cursor"))
        text = request.match_info["judgment_id"]
        judgment_id = uuid_of(text)
        if judgment_id is None:
            raise NotFound(f"there is no judgment {text[:80]!r}")
        rows, more = await self._rows.attempts(grant.tenant_id, judgment_id, before, limit)
        if not rows and await self._judgments.get(grant.tenant_id, judgment_id) is None:
            raise NotFound(f"there is no judgment {text[:80]!r}")
        return _answer(AttemptPage([attempt_of(row) for row in rows], encode_cursor(rows[-1]["id"]) if more else None))

    async def replay(self, request: web.Request) -> web.Response:
        """Have a dead one tried again, with the same `webhook-id`, as its workflow defines it now."""
        grant = await self._access.check(request.headers.get("Authorization"), "admin")
        row = await self._find(grant.tenant_id, request.match_info["action_id"])
        replayed = await self._rows.replay(grant.tenant_id, row["id"], row["workflow_id"], row["action"])
        if replayed is None:
            state = "is waiting for its next attempt" if row["state"] == "waiting" else "is not dead (any more)"
            raise NotReplayable(f"only an action that was given up is replayed; this one {state}", state=row["state"])
        self._waker.wake()
        return _answer(action_of(replayed))

    async def replay_all(self, request: web.Request) -> web.Response:
        """The same for all dead ones, or those of a workflow or a name."""
        grant = await self._access.check(request.headers.get("Authorization"), "admin")
        query = checked_query(request, {"workflow_id", "action"})
        replayed, more = await self._rows.replay_all(grant.tenant_id, query.get("workflow_id"), query.get("action"))
        self._waker.wake()
        return _answer(ReplayedActions(replayed, more))

    async def _find(self, tenant_id: str, text: str) -> Any:
        action_id = uuid_of(text)
        row = None if action_id is None else await self._rows.get(tenant_id, action_id)
        if row is None:
            raise NotFound(f"there is no action {text[:80]!r}")
        return row


def _answer(answer: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), content_type=JSON)
