"""Dashboards' definitions over HTTP: put, get, delete, list, and their versions."""

import re
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from aiohttp import web

from judgify_engine.core.dashboards import BUILT_IN, MAIN, StoredDashboard, VersionRow
from judgify_engine.errors import InvalidField, NotFound
from judgify_engine.ingest.admission import Admission
from judgify_engine.ingest.judgments import JSON, read_body
from judgify_engine.ingest.query import checked_query, limit_of
from judgify_engine.pipeline.access import Access
from judgify_engine.wire.answer import format_time
from judgify_engine.wire.dashboards import (
    DashboardAnswer,
    DashboardList,
    DashboardListed,
    DashboardVersion,
    DashboardVersions,
    decode_dashboard,
    encode_dashboard,
)
from judgify_engine.wire.request import WorkflowId

MAX_VERSION = 2**31 - 1
_is_tag = re.compile(r'"(0|[1-9]\d{0,8})"').fullmatch


class DefinitionStore(Protocol):
    """Where definitions are; see store/dashboards."""

    async def get(self, tenant_id: str, dashboard_id: str, version: int | None = None) -> StoredDashboard | None: ...
    async def stored(self, tenant_id: str) -> list[VersionRow]: ...
    async def versions(self, tenant_id: str, dashboard_id: str, before: int, limit: int) -> list[VersionRow]: ...
    async def put(self, tenant_id: str, dashboard_id: str, definition: str, expected: int | None) -> StoredDashboard: ...
    async def delete(self, tenant_id: str, dashboard_id: str, expected: int | None) -> bool: ...


class DefinitionRoutes:
    """The handlers; see `routes`. `changed`: told of each dashboard (tenant, id) that is now another one."""

    def __init__(
        self, store: DefinitionStore, access: Access, admission: Admission, changed: Callable[[str, str], None]
    ) -> None:
        self._store, self._access, self._admission, self._changed = store, access, admission, changed

    def routes(self) -> list[web.RouteDef]:
        one = "/api/v1/dashboards/{dashboard_id}"
        return [
            web.get("/api/v1/dashboards", self.page, allow_head=False),
            web.get(one, self.get, allow_head=False),
            web.get(one + "/versions", self.versions, allow_head=False),
            web.put(one, self.put),
            web.delete(one, self.delete),
        ]

    async def put(self, request: web.Request) -> web.Response:
        """Check and store a new version; shown here at once, by other processes within a second or so."""
        grant = await self._access.check(request.headers.get("Authorization"), "admin")
        dashboard_id, expected = _dashboard_id(request), _expected(request)
        size = self._admission.enter(request.content_length)
        try:
            dashboard = decode_dashboard(await read_body(request, self._admission))
        finally:
            self._admission.leave(size)
        stored = await self._store.put(grant.tenant_id, dashboard_id, encode_dashboard(dashboard).decode(), expected)
        self._changed(grant.tenant_id, dashboard_id)
        return _respond(stored, 201 if stored.version == 1 else 200)

    async def get(self, request: web.Request) -> web.Response:
        """The current version, or `?version=N`."""
        grant = await self._access.check(request.headers.get("Authorization"), "read")
        dashboard_id = _dashboard_id(request)
        text = checked_query(request, {"version"}).get("version")
        if text is not None and not (text.isascii() and text.isdigit() and len(text) <= 9):
            raise InvalidField(f"version must be a number from 0 to 999999999, got {text[:40]!r}", field="version")
        version = None if text is None else int(text)
        stored = None if version == 0 else await self._store.get(grant.tenant_id, dashboard_id, version)
        if stored is not None:
            return _respond(stored, 200)
        if dashboard_id == MAIN and not version:
            answer = DashboardAnswer(MAIN, 0, True, None, msgspec.Raw(encode_dashboard(BUILT_IN)))
            return _answer(answer, 200, 0)
        of = "" if version is None else f" with the version {version}"
        raise NotFound(f"there is no dashboard {dashboard_id!r}{of}", dashboard_id=dashboard_id)

    async def delete(self, request: web.Request) -> web.Response:
        """Remove the dashboard. Its versions stay; `main` is the built-in one again."""
        grant = await self._access.check(request.headers.get("Authorization"), "admin")
        dashboard_id = _dashboard_id(request)
        if not await self._store.delete(grant.tenant_id, dashboard_id, _expected(request)):
            raise NotFound(f"there is no dashboard {dashboard_id!r} that was stored", dashboard_id=dashboard_id)
        self._changed(grant.tenant_id, dashboard_id)
        return web.Response(status=204)

    async def page(self, request: web.Request) -> web.Response:
        """All dashboards of the tenant; there are at most 200."""
        grant = await self._access.check(request.headers.get("Authorization"), "read")
        checked_query(request, set())
        found = [
            DashboardListed(row.dashboard_id, row.name, row.version, format_time(row.updated_at), False)
            for row in await self._store.stored(grant.tenant_id)
        ]
        if all(one.dashboard_id != MAIN for one in found):
            found = [DashboardListed(MAIN, BUILT_IN.name, 0, None, True), *found]
        return _answer(DashboardList(sorted(found, key=lambda one: one.dashboard_id)), 200)

    async def versions(self, request: web.Request) -> web.Response:
        """What was stored under this id, also where it is deleted now."""
        grant = await self._access.check(request.headers.get("Authorization"), "read")
        dashboard_id = _dashboard_id(request)
        query = checked_query(request, {"limit", "cursor"})
        limit, cursor = limit_of(query), query.get("cursor", str(MAX_VERSION))
        if not (cursor.isascii() and cursor.isdigit() and int(cursor[:10]) <= MAX_VERSION):
            raise InvalidField(f"cursor must be `next_cursor` of the page before, got {cursor[:40]!r}", field="cursor")
        found = await self._store.versions(grant.tenant_id, dashboard_id, int(cursor), limit + 1)
        if not found and "cursor" not in query and dashboard_id != MAIN:
            raise NotFound(f"there never was a dashboard {dashboard_id!r}", dashboard_id=dashboard_id)
        rows = [DashboardVersion(row.version, row.name, format_time(row.updated_at)) for row in found[:limit]]
        return _answer(DashboardVersions(rows, str(rows[-1].version) if len(found) > limit else None), 200)


def _dashboard_id(request: web.Request) -> str:
    text = request.match_info["dashboard_id"]
    try:
        return msgspec.convert(text, WorkflowId)
    except msgspec.ValidationError as error:
        detail = f"dashboard_id: letters, digits and . _ : -, at most 128 and no sign first, got {text[:80]!r}"
        raise InvalidField(detail, field="dashboard_id") from error


def _expected(request: web.Request) -> int | None:
    """The version that `If-Match` names; None: whichever is there. Raises InvalidField."""
    text = request.headers.get("If-Match")
    if text is None:
        return None
    tag = _is_tag(text.strip())
    if tag is None:
        raise InvalidField(
            f'If-Match must be a version in quotes, such as "3" ("0": none was stored), got {text[:40]!r}', field="If-Match"
        )
    return int(tag[1])


def _respond(stored: StoredDashboard, status: int) -> web.Response:
    definition, at = msgspec.Raw(stored.definition.encode()), format_time(stored.updated_at)
    return _answer(DashboardAnswer(stored.dashboard_id, stored.version, False, at, definition), status, stored.version)


def _answer(answer: Any, status: int, version: int | None = None) -> web.Response:
    headers = {} if version is None else {"ETag": f'"{version}"'}
    return web.Response(body=msgspec.json.encode(answer), content_type=JSON, status=status, headers=headers)
