"""Judgments over HTTP: execute, get, list."""

import asyncio
import base64
import binascii
import time
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import msgspec
from aiohttp import web

from judgify_engine.core.dashboards import MAX_WORKFLOW_IDS
from judgify_engine.core.model import METHODS
from judgify_engine.core.results import RESULT_CHARS
from judgify_engine.errors import DatabaseUnavailable, InvalidField, NotFound, QuotaExceeded, Rejected, UnsupportedEncoding
from judgify_engine.ingest.admission import Admission, too_large
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
DEFAULT_LIMIT, MAX_LIMIT = 50, 500
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
        """A page of records, newest first."""
        grant = await self._access.check(request.headers.get("Authorization"), "read")
        query = checked_query(
            request,
            {"workflow_id", "status", "method_used", "result", "created_from", "created_to", "limit", "cursor"},
            lists=("workflow_id",),
        )
        wanted = ListFilter(
            workflow_ids=workflow_ids_of(query),
            status=one_of(query, "status", ("completed", "failed")),
            method_used=one_of(query, "method_used", METHODS),
            created_from_us=time_us(query, "created_from"),
            created_to_us=time_us(query, "created_to"),
            result=result_of(query),
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


def checked_query(request: web.Request, known: set[str], lists: Collection[str] = ()) -> dict[str, str]:
    """The query's parameters. Those of `lists` may come several times, and are joined by commas.

    Raises InvalidField for one that is unknown or given twice.
    """
    query: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in known:
            raise InvalidField(f"unknown parameter {name[:80]!r}; known: {', '.join(sorted(known))}", field=name[:80])
        if name in query and name not in lists:
            raise InvalidField(f"the parameter {name!r} is given twice", field=name)
        if "\0" in value:
            raise InvalidField(f"{name} holds the character NUL", field=name)
        if name in query:
            value = f"{query[name]},{value}"
        query[name] = value
    return query


def limit_of(query: dict[str, str]) -> int:
    """The parameter `limit`. Raises InvalidField."""
    text = query.get("limit", str(DEFAULT_LIMIT))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MAX_LIMIT:
        raise InvalidField(f"limit must be a number from 1 to {MAX_LIMIT}, got {text[:40]!r}", field="limit")
    return int(text)


def one_of(query: dict[str, str], name: str, known: Collection[str]) -> str | None:
    """A parameter of a closed set. Raises InvalidField."""
    value = query.get(name)
    if value is not None and value not in known:
        raise InvalidField(f"{name} must be one of {', '.join(known)}, got {value[:40]!r}", field=name)
    return value


def time_us(query: dict[str, str], name: str) -> int | None:
    """A parameter that is a time, as µs since 1970. Raises InvalidField."""
    text = query.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))  # a + that was not escaped
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidField(f"{name} must be an RFC 3339 time with a zone, got {text[:40]!r}", field=name)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def workflow_ids_of(query: dict[str, str]) -> list[str]:
    """The parameter `workflow_id`, each once; none: all. A comma is in no workflow's id. Raises InvalidField."""
    if "workflow_id" not in query:
        return []
    found = sorted(set(query["workflow_id"].split(",")))
    if "" in found:
        raise InvalidField("workflow_id is empty; leave it out for all workflows", field="workflow_id")
    if len(found) > MAX_WORKFLOW_IDS:
        detail = f"at most {MAX_WORKFLOW_IDS} workflows at once, got {len(found)}"
        raise InvalidField(detail, field="workflow_id", limit=MAX_WORKFLOW_IDS)
    return found


def result_of(query: dict[str, str]) -> str | None:
    """The parameter `result`, which may be empty. Raises InvalidField."""
    text = query.get("result")
    if text is not None and len(text) > RESULT_CHARS:
        detail = f"result has at most {RESULT_CHARS} characters, as the figures of results have it, got {len(text)}"
        raise InvalidField(detail, field="result")
    return text


def uuid_of(text: str) -> UUID | None:
    """The UUID, or None: it is none."""
    try:
        return UUID(text) if len(text) == 36 else None
    except ValueError:
        return None


def encode_cursor(last: UUID) -> str:
    """Where a page ended, as text for the next request."""
    return base64.urlsafe_b64encode(bytes(last.bytes)).decode().rstrip("=")


def decode_cursor(text: str | None) -> UUID | None:
    """The other way. Raises InvalidField."""
    if text is None:
        return None
    try:
        return UUID(bytes=base64.urlsafe_b64decode(text + "=="))
    except (ValueError, binascii.Error):
        raise InvalidField("cursor is not one that this server gave out", field="cursor") from None


def encode_place(place: Place) -> str:
    """Where a page of judgments ended, as text for the next request."""
    packed = place.created_at_us.to_bytes(8, "big", signed=True) + place.id.bytes
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
