"""The quarantine over HTTP: list, get, replay, delete."""

import time
from typing import Any, Protocol
from uuid import UUID

import msgspec
from aiohttp import web

from judgify_engine.core.quality import KINDS
from judgify_engine.errors import AlreadyReplayed, IdempotencyMismatch, NotFound, NotReplayable
from judgify_engine.ingest.admission import Admission
from judgify_engine.ingest.judgments import JSON, read_body
from judgify_engine.ingest.query import checked_query, decode_cursor, encode_cursor, limit_of, one_of, time_us, uuid_of
from judgify_engine.pipeline.access import Access
from judgify_engine.pipeline.judging import Answer, Judging, KeySource
from judgify_engine.wire.quarantine import (
    QuarantineFilter,
    QuarantinePage,
    item_of,
    judgment_id_of,
    record_of,
    replay_key,
)
from judgify_engine.wire.request import decode_execute

_PATH = "/api/v1/quarantine/{quarantine_id:[0-9A-Fa-f-]{36}}"


class QuarantineRows(Protocol):
    """Where the rows are; see store/quarantine."""

    async def get(self, tenant_id: str, quarantine_id: UUID) -> Any | None: ...
    async def page(
        self, tenant_id: str, wanted: QuarantineFilter, before: UUID | None, limit: int
    ) -> tuple[list[Any], bool]: ...
    async def mark(self, tenant_id: str, quarantine_id: UUID, judgment_id: UUID) -> None: ...
    async def delete(self, tenant_id: str, quarantine_id: UUID) -> bool: ...


class QuarantineRoutes:
    """The handlers; see `routes`."""

    def __init__(self, rows: QuarantineRows, judging: Judging, keys: KeySource, access: Access, admission: Admission) -> None:
        self._rows, self._judging, self._keys, self._access, self._admission = rows, judging, keys, access, admission

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/v1/quarantine", self.page, allow_head=False),
            web.get(_PATH, self.get, allow_head=False),
            web.post(_PATH + "/replay", self.replay),
            web.delete(_PATH, self.delete),
        ]

    async def page(self, request: web.Request) -> web.Response:
        """A page of rows, newest first, without their bodies."""
        grant = await self._access.check(request.headers.get("Authorization"), "read")
        query = checked_query(request, {"workflow_id", "kind", "replayed", "created_from", "created_to", "limit", "cursor"})
        replayed = one_of(query, "replayed", ("true", "false"))
        wanted = QuarantineFilter(
            workflow_id=query.get("workflow_id"),
            kind=one_of(query, "kind", KINDS),
            replayed=None if replayed is None else replayed == "true",
            created_from_us=time_us(query, "created_from"),
            created_to_us=time_us(query, "created_to"),
        )
        limit = limit_of(query)
        rows, more = await self._rows.page(grant.tenant_id, wanted, decode_cursor(query.get("cursor")), limit)
        page = QuarantinePage([item_of(row) for row in rows], encode_cursor(rows[-1]["id"]) if more else None)
        return web.Response(body=msgspec.json.encode(page), content_type=JSON)

    async def get(self, request: web.Request) -> web.Response:
        """One row with its body."""
        grant = await self._access.check(request.headers.get("Authorization"), "read")
        row = await self._find(grant.tenant_id, _id(request))
        return web.Response(body=msgspec.json.encode(record_of(row)), content_type=JSON)

    async def delete(self, request: web.Request) -> web.Response:
        """Remove a row; a judgment that its replay made stays."""
        grant = await self._access.check(request.headers.get("Authorization"), "admin")
        quarantine_id = _id(request)
        if not await self._rows.delete(grant.tenant_id, quarantine_id):
            raise _not_found(quarantine_id)
        return web.Response(status=204)

    async def replay(self, request: web.Request) -> web.Response:
        """Judge the kept request, or the corrected one in the body, once: its key is in the transaction of its judgment.

        The mark on the row comes after that. A replay that was cut off in between gives the first answer when it is
        repeated, and marks the row then; so does a replay that runs beside another one.
        """
        started_s = time.perf_counter()
        grant = await self._access.check(request.headers.get("Authorization"), "admin")
        quarantine_id = _id(request)
        size = self._admission.enter(request.content_length)
        try:
            corrected = await read_body(request, self._admission)
            row = await self._find(grant.tenant_id, quarantine_id)
            answer = await self._judge(grant.tenant_id, row, corrected, started_s)
            await self._rows.mark(grant.tenant_id, quarantine_id, UUID(judgment_id_of(answer.body)))
        finally:
            self._admission.leave(size)
        headers = {"Idempotent-Replayed": "true"} if answer.replayed else None
        return web.Response(body=answer.body, content_type=JSON, headers=headers)

    async def _judge(self, tenant_id: str, row: Any, corrected: bytes, started_s: float) -> Answer:
        if row["replayed_at"] is not None:
            raise _already(str(row["judgment_id"]))
        if not row["kept"]:
            raise NotReplayable(
                f"this row counts {row['repeated']} refused requests whose bodies are not kept; have them sent again"
            )
        if not corrected and row["body_cut"]:
            raise NotReplayable("only the beginning of this request is kept; send the whole as the body of the replay")
        asked = decode_execute(corrected or row["body"])
        key = replay_key(str(row["id"]))
        try:
            return await self._judging.execute(tenant_id, asked, started_s, key)
        except IdempotencyMismatch as error:  # another replay, with another correction, was first
            first = await self._keys.by_key(tenant_id, key)
            if first is None:
                raise
            raise _already(judgment_id_of(first["answer"])) from error

    async def _find(self, tenant_id: str, quarantine_id: UUID) -> Any:
        row = await self._rows.get(tenant_id, quarantine_id)
        if row is None:
            raise _not_found(quarantine_id)
        return row


def _id(request: web.Request) -> UUID:
    text = request.match_info["quarantine_id"]
    found = uuid_of(text)
    if found is None:
        raise _not_found(text)
    return found


def _not_found(quarantine_id: object) -> NotFound:
    return NotFound(f"there is nothing in quarantine with the id {str(quarantine_id)!r}")


def _already(judgment_id: str) -> AlreadyReplayed:
    return AlreadyReplayed(f"a replay has made the judgment {judgment_id}", judgment_id=judgment_id)
