"""Workflows over HTTP: put, get, delete, list."""

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from judgify_engine.core.rules import CompiledWorkflow
from judgify_engine.errors import InvalidField, WorkflowNotFound
from judgify_engine.ingest.admission import Admission
from judgify_engine.ingest.judgments import JSON, read_body
from judgify_engine.ingest.query import checked_query, limit_of
from judgify_engine.pipeline.access import Access
from judgify_engine.pipeline.registry import WorkflowRegistry
from judgify_engine.store.workflows import StoredWorkflow, WorkflowStore
from judgify_engine.wire.answer import format_time
from judgify_engine.wire.definition import decode_definition
from judgify_engine.wire.request import WorkflowId

MAX_ID_CHARS = 128


class WorkflowAnswer(msgspec.Struct, omit_defaults=True):
    """One version of a workflow."""

    workflow_id: str
    version: int
    definition: msgspec.Raw
    updated_at: str
    """RFC 3339, UTC."""


class WorkflowPage(msgspec.Struct):
    """Workflows in the order of their ids."""

    items: list[WorkflowAnswer]
    next_cursor: str | None


class WorkflowRoutes:
    """The handlers; see `routes`."""

    def __init__(
        self,
        store: WorkflowStore,
        registry: WorkflowRegistry,
        access: Access,
        admission: Admission,
        follow: Callable[[str], Awaitable[None]],
    ) -> None:
        """`follow`: see that the actions of a tenant's judgments are done from now on."""
        self._store, self._registry, self._access, self._admission = store, registry, access, admission
        self._follow = follow

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/v1/workflows", self.page, allow_head=False),
            web.get("/api/v1/workflows/{workflow_id}", self.get, allow_head=False),
            web.put("/api/v1/workflows/{workflow_id}", self.put),
            web.delete("/api/v1/workflows/{workflow_id}", self.delete),
        ]

    async def put(self, request: web.Request) -> web.Response:
        """Check, compile, store a new version; live here at once, elsewhere by the change stream."""
        grant = await self._access.check(request.headers.get("Authorization"), "admin")
        workflow_id = _workflow_id(request)
        size = self._admission.enter(request.content_length)
        try:
            definition = decode_definition(await read_body(request, self._admission))
            CompiledWorkflow(grant.tenant_id, workflow_id, 0, definition)  # refuses what cannot be used
            if definition.actions:
                await self._follow(grant.tenant_id)
            stored = await self._store.put(grant.tenant_id, workflow_id, msgspec.json.encode(definition).decode())
            self._registry.stored(CompiledWorkflow(grant.tenant_id, workflow_id, stored.version, definition))
        finally:
            self._admission.leave(size)
        return _respond(stored, 201 if stored.version == 1 else 200)

    async def get(self, request: web.Request) -> web.Response:
        """The current version, or `?version=N`."""
        grant = await self._access.check(request.headers.get("Authorization"), "read")
        workflow_id = _workflow_id(request)
        text = checked_query(request, {"version"}).get("version")
        if text is not None and not (text.isascii() and text.isdigit() and 1 <= len(text) <= 9):
            raise InvalidField(f"version must be a number, got {text[:40]!r}", field="version")
        stored = await self._store.get(grant.tenant_id, workflow_id, None if text is None else int(text))
        if stored is None:
            raise _not_found(workflow_id)
        return _respond(stored, 200)

    async def delete(self, request: web.Request) -> web.Response:
        """Remove the workflow. Its versions stay with the records that name them."""
        grant = await self._access.check(request.headers.get("Authorization"), "admin")
        workflow_id = _workflow_id(request)
        if not await self._store.delete(grant.tenant_id, workflow_id):
            raise _not_found(workflow_id)
        self._registry.deleted(grant.tenant_id, workflow_id)
        return web.Response(status=204)

    async def page(self, request: web.Request) -> web.Response:
        """The workflows of the tenant, or those with `?contains=` in their ids, a page at a time."""
        grant = await self._access.check(request.headers.get("Authorization"), "read")
        query = checked_query(request, {"contains", "limit", "cursor"})
        limit, contains = limit_of(query), query.get("contains", "")
        if len(contains) > MAX_ID_CHARS:
            detail = f"contains has at most {MAX_ID_CHARS} characters, as ids have, got {len(contains)}"
            raise InvalidField(detail, field="contains", limit=MAX_ID_CHARS)
        found = await self._store.page(grant.tenant_id, query.get("cursor", ""), limit + 1, contains)
        items = [_answer(stored) for stored in found[:limit]]
        page = WorkflowPage(items, items[-1].workflow_id if len(found) > limit else None)
        return web.Response(body=msgspec.json.encode(page), content_type=JSON)


def _workflow_id(request: web.Request) -> str:
    text = request.match_info["workflow_id"]
    try:
        return msgspec.convert(text, WorkflowId)
    except msgspec.ValidationError as error:
        detail = f"workflow_id: letters, digits and . _ : -, at most 128 and no sign first, got {text[:80]!r}"
        raise InvalidField(detail, field="workflow_id") from error


def _not_found(workflow_id: str) -> WorkflowNotFound:
    return WorkflowNotFound(f"there is no workflow {workflow_id!r}", workflow_id=workflow_id)


def _answer(stored: StoredWorkflow) -> WorkflowAnswer:
    definition = msgspec.Raw(stored.definition.encode())
    return WorkflowAnswer(stored.workflow_id, stored.version, definition, format_time(stored.updated_at))


def _respond(stored: StoredWorkflow, status: int) -> web.Response:
    return web.Response(body=msgspec.json.encode(_answer(stored)), content_type=JSON, status=status)
