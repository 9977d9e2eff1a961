"""Judgments over HTTP: execute, get, list."""

import asyncio
import base64
import binascii
import time
from typing import Any, Protocol
from uuid import UUID

import msgspec
from aiohttp import web

from judgify_engine.core.histogram import MILLIONTHS
from judgify_engine.core.model import METHODS
from judgify_engine.errors import DatabaseUnavailable, InvalidField, NotFound, QuotaExceeded, Rejected, UnsupportedEncoding
from judgify_engine.ingest.admission import Admission, too_large
from judgify_engine.ingest.query import (
    checked_query,
    confidence_ppm,
    limit_of,
    one_of,
    result_of,
    time_us,
    tracked_of,
    uuid_of,
    workflow_ids_of,
)
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.access import Access, Grant
from judgify_engine.pipeline.explaining import Explainer
from judgify_engine.pipeline.judging import Judging
from judgify_engine.pipeline.quarantine_loop import Quarantine
from judgify_engine.pipeline.quotas import Quotas
from judgify_engine.store.judgments import JudgmentReader, ListFilter, Place
from judgify_engine.wire.actions import ActionFilter
from judgify_engine.wire.answer import JudgmentPage, record_of
from judgify_engine.wire.explained import explained_of
from judgify_engine.wire.request import IDEMPOTENCY_KEY, decode_execute

EXECUTE_PATH = "/api/v1/judgments/execute"
MAX_ACTIONS = 100
"""Of one judgment, in its record."""
READ_TIMEOUT_S = 30.0
JSON = "application/json"


class ActionRows(Protocol):
    """Where the actions of judgments are; see store/actions."""

    async def page(self, tenant_id: str, wanted: ActionFilter, before: UUID | None, limit: int) -> tuple[list[Any], bool]: ...


class JudgmentRoutes:
    """The handlers; see `routes`."""

    def __init__(
        self,
        judging: Judging,
        reader: JudgmentReader,
        access: Access,
        admission: Admission,
        database_available: Any,
        metrics: Metrics,
        quarantine: Quarantine,
        quotas: Quotas,
        explainer: Explainer,
        actions: ActionRows,
    ) -> None:
        self._quotas, self._explainer, self._actions = quotas, explainer, actions
        self._judging, self._reader, self._access, self._admission = judging, reader, access, admission
        self._database_available, self._metrics, self._quarantine = database_available, metrics, quarantine

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post(EXECUTE_PATH, self.execute),
            web.get("/api/v1/judgments", self.page, allow_head=False),
            web.get("/api/v1/judgments/{judgment_id:[0-9A-Fa-f-]{36}}", self.get, allow_head=False),
        ]

    async def execute(self, request: web.Request) -> web.Response:
        """Token to tenant, admit, decode, validate, judge, queue, batch, COPY, COMMIT, answer."""
        started_s = time.perf_counter()
        headers = request.headers
        authorization = headers.get("Authorization")
        grant = self._access.recall(authorization, "execute") or await self._access.authenticate(authorization, "execute")
        size = self._admission.enter(request.content_length)
        body: bytes | None = None
        try:
            spent = self._quotas.spend(grant, request.content_length or 0)
            if not self._database_available():
                raise DatabaseUnavailable("PostgreSQL is away; nothing was judged or stored")
            body = await self._body(request, grant)
            read_s = time.perf_counter()
            asked = decode_execute(body)
            decoded_s = time.perf_counter()
            self._metrics.admit.observe(read_s - started_s)
            self._metrics.decode.observe(decoded_s - read_s)
            key = headers.get("Idempotency-Key")
            if key is not None and not IDEMPOTENCY_KEY.match(key):
                raise InvalidField("Idempotency-Key must be 1 to 255 visible ASCII characters", field="Idempotency-Key")
            answer = await self._judging.execute(grant.tenant_id, asked, read_s, key)
        except Rejected as error:
            if body is not None:
                self._quarantine.refused(grant.tenant_id, body, error)
            raise
        except QuotaExceeded as error:
            self._admission.hold(size)
            size = 0
            await asyncio.sleep(error.hold_s)
            raise
        finally:
            self._admission.leave(size)
            self._metrics.answer.observe(time.perf_counter() - started_s)
        headers_out = {} if spent is None else spent.headers()
        if answer.replayed:
            headers_out["Idempotent-Replayed"] = "true"
        return web.Response(body=answer.body, content_type=JSON, headers=headers_out)

    async def _body(self, request: web.Request, grant: Grant) -> bytes:
        """The body; where its size was not told before, it is counted now."""
        size = request.client_max_size
        try:
            body = await read_body(request, self._admission)
            size = len(body)
            return body
        finally:
            if request.content_length is None:
                self._quotas.charge(grant, size)

    async def get(self, request: web.Request) -> web.Response:
        """One record; with `?explain=true` also its rules, asked again, and its actions."""
        grant = await self._access.check(request.headers.get("Authorization"), "read")
        text = request.match_info["judgment_id"]
        judgment_id = uuid_of(text)
        explain = one_of(checked_query(request, {"explain"}), "explain", ("true", "false")) == "true"
        row = await self._reader.get(grant.tenant_id, judgment_id) if judgment_id else None
        if row is None:
            raise NotFound(f"there is no judgment {text[:80]!r}")
        if not explain:
            return web.Response(body=msgspec.json.encode(record_of(row)), content_type=JSON)
        explained = await self._explainer.explain(grant.tenant_id, row)
        actions, _ = await self._actions.page(grant.tenant_id, ActionFilter(judgment_id=row["id"]), None, MAX_ACTIONS)
        return web.Response(body=msgspec.json.encode(explained_of(row, *explained, actions)), content_type=JSON)

    async def page(self, request: web.Request) -> web.Response:
        """A page of records, newest first: by when they were created, or are charted where that is asked for."""
        grant = await self._access.check(request.headers.get("Authorization"), "read")
        query = checked_query(
            request,
            {
                "workflow_id", "status", "method_used", "result", "confidence_min", "confidence_max", "created_from",
                "created_to", "tracked", "occurred_from", "occurred_to", "limit", "cursor",
            },
            lists=("workflow_id",),
        )  # fmt: skip
        most_ppm = confidence_ppm(query, "confidence_max")
        wanted = ListFilter(
            workflow_ids=workflow_ids_of(query),
            status=one_of(query, "status", ("completed", "failed")),
            method_used=one_of(query, "method_used", METHODS),
            created_from_us=time_us(query, "created_from"),
            created_to_us=time_us(query, "created_to"),
            result=result_of(query),
            confidence_min_ppm=confidence_ppm(query, "confidence_min"),
            confidence_max_ppm=None if most_ppm == MILLIONTHS else most_ppm,  # the last bin of a chart holds 1, too
            tracked=tracked_of(query),
            occurred_from_us=time_us(query, "occurred_from"),
            occurred_to_us=time_us(query, "occurred_to"),
        )
        before = decode_place(query.get("cursor"))
        rows, place = await self._reader.page(grant.tenant_id, wanted, before, limit_of(query))
        page = JudgmentPage([record_of(row) for row in rows], None if place is None else encode_place(place))
        return web.Response(body=msgspec.json.encode(page), content_type=JSON)


async def read_body(request: web.Request, admission: Admission) -> bytes:
    """The whole body. Raises BodyTooLarge, UnsupportedEncoding, InvalidField when it does not come in time, or Draining."""
    encoding = request.headers.get("Content-Encoding")
    if encoding is not None and encoding.strip().lower() != "identity":
        raise UnsupportedEncoding(f"Content-Encoding {encoding[:40]!r}: send the body as it is")
    try:
        if request.content.is_eof():  # it came with the headers, as nearly always: a timeout would cost 5 % of a request
            body = request.content.read_nowait()
            if len(body) > request.client_max_size:
                raise too_large(request.client_max_size, len(body))
            return body
        async with asyncio.timeout(READ_TIMEOUT_S) as patience:
            with admission.reading(patience):
                return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise too_large(request.client_max_size) from error
    except TimeoutError as error:
        admission.check_open()
        raise InvalidField(f"the body did not arrive within {READ_TIMEOUT_S:.0f} s", field="body") from error


def encode_place(place: Place) -> str:
    """Where a page of judgments ended, as text for the next request."""
    packed = place.at_us.to_bytes(8, "big", signed=True) + place.id.bytes
    return base64.urlsafe_b64encode(packed).decode()


def decode_place(text: str | None) -> Place | None:
    """The other way. Raises InvalidField."""
    if text is None:
        return None
    try:
        packed = base64.b64decode(text, altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        packed = b""
    if len(packed) == 24:
        return Place(int.from_bytes(packed[:8], "big", signed=True), UUID(bytes=packed[8:]))
    raise InvalidField("cursor is not one that this server gave out", field="cursor")
