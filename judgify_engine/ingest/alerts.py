"""Alerts over HTTP: rules, alerts, silences and sinks."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import msgspec
from aiohttp import web

from judgify_engine.core.alert_rules import BUILT_IN, SEVERITIES, CompiledCondition, Condition
from judgify_engine.core.alert_sinks import AlertmanagerSink, decode_sink, shown_url
from judgify_engine.errors import InvalidField, NotFound
from judgify_engine.ingest.admission import Admission
from judgify_engine.ingest.judgments import JSON, read_body
from judgify_engine.ingest.query import checked_query, decode_cursor, encode_cursor, limit_of, one_of, uuid_of
from judgify_engine.pipeline.access import Access
from judgify_engine.wire.alerts import (
    STATES,
    Acknowledgement,
    AlertPage,
    AlertRecord,
    RulePage,
    RuleRecord,
    RuleState,
    Silence,
    SilencePage,
    SilenceRecord,
    SinkPage,
    SinkRecord,
    alert_of,
    alerts_of,
    decode_rule,
    decode_sink_body,
    decode_stored_rule,
)
from judgify_engine.wire.answer import format_time
from judgify_engine.wire.request import EARLIEST, LATEST, decode_body

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
_ALERT = "/api/v1/alerts/{alert_id:[0-9A-Fa-f-]{36}}"


class RuleRows(Protocol):
    """Where rules, sinks and silences are; see store/alert_rules."""

    async def rules(self, tenant_id: str) -> Sequence[Any]: ...
    async def rule(self, tenant_id: str, rule_id: str, version: int | None = None) -> Any | None: ...
    async def put_rule(self, tenant_id: str, rule_id: str, definition: str) -> Any: ...
    async def delete_rule(self, tenant_id: str, rule_id: str) -> bool: ...
    async def states(self, tenant_id: str) -> list[Any]: ...
    async def sinks(self, tenant_id: str, sink_id: str | None = None) -> list[Any]: ...
    async def put_sink(self, tenant_id: str, sink_id: str, definition: str) -> Any: ...
    async def delete_sink(self, tenant_id: str, sink_id: str) -> bool: ...
    async def silences(self, tenant_id: str, silence_id: str | None = None) -> list[Any]: ...
    async def put_silence(self, tenant_id: str, silence_id: str, values: Sequence[Any]) -> Any: ...
    async def delete_silence(self, tenant_id: str, silence_id: str) -> bool: ...


class AlertRows(Protocol):
    """Where alerts are; see store/alerts."""

    async def page(
        self, tenant_id: str, wanted: Sequence[str | None], before: UUID | None, limit: int
    ) -> tuple[list[Any], list[Any], bool]: ...
    async def get(self, tenant_id: str, alert_id: UUID) -> tuple[Any, list[Any]] | None: ...
    async def acknowledge(
        self, tenant_id: str, alert_id: UUID, by: str | None, comment: str | None
    ) -> tuple[Any, list[Any]] | None: ...
    async def standing(self, tenant_id: str, slot: str) -> tuple[int, datetime | None]: ...


class AlertRoutes:
    """The handlers; see `routes`. `slot`: whose rollups are evaluated."""

    def __init__(self, rules: RuleRows, alerts: AlertRows, access: Access, admission: Admission, slot: str) -> None:
        self._rules, self._alerts, self._access, self._admission, self._slot = rules, alerts, access, admission, slot

    def routes(self) -> list[web.RouteDef]:
        found = [
            web.get("/api/v1/alerts", self.page, allow_head=False),
            web.get(_ALERT, self.get, allow_head=False),
            web.post(_ALERT + "/acknowledge", self.acknowledge),
        ]
        for path, name, handlers in (
            ("alert-rules", "rule_id", (self.rules, self.get_rule, self.put_rule, self.delete_rule)),
            ("alert-sinks", "sink_id", (self.sinks, self.get_sink, self.put_sink, self.delete_sink)),
            ("silences", "silence_id", (self.silences, self.get_silence, self.put_silence, self.delete_silence)),
        ):
            one = f"/api/v1/{path}/{{{name}}}"
            listed, get, put, delete = handlers
            found += [
                web.get(f"/api/v1/{path}", listed, allow_head=False),
                web.get(one, get, allow_head=False),
                web.put(one, put),
                web.delete(one, delete),
            ]
        return found

    # Alerts -----------------------------------------------------------------------------------------------------------

    async def page(self, request: web.Request) -> web.Response:
        """A page of alerts, the newest first."""
        tenant_id = await self._check(request, "read")
        query = checked_query(request, {"state", "rule_id", "severity", "workflow_id", "limit", "cursor"})
        state, severity = one_of(query, "state", STATES), one_of(query, "severity", SEVERITIES)
        wanted = state, query.get("rule_id"), severity, query.get("workflow_id")
        before = decode_cursor(query.get("cursor"))
        rows, deliveries, more = await self._alerts.page(tenant_id, wanted, before, limit_of(query))
        firing, through = await self._alerts.standing(tenant_id, self._slot)
        cursor = encode_cursor(rows[-1]["id"]) if more else None
        return _answer(
            AlertPage(alerts_of(rows, deliveries), cursor, firing, None if through is None else format_time(through))
        )

    async def get(self, request: web.Request) -> web.Response:
        """One alert."""
        tenant_id = await self._check(request, "read")
        alert_id = uuid_of(request.match_info["alert_id"])
        return _answer(_found(request, None if alert_id is None else await self._alerts.get(tenant_id, alert_id)))

    async def acknowledge(self, request: web.Request) -> web.Response:
        """Somebody looks after it."""
        tenant_id = await self._check(request, "admin")
        alert_id = uuid_of(request.match_info["alert_id"])
        body = await self._body(request)
        asked: Acknowledgement = decode_body(body, Acknowledgement) if body.strip() else Acknowledgement()
        found = None if alert_id is None else await self._alerts.acknowledge(tenant_id, alert_id, asked.by, asked.comment)
        return _answer(_found(request, found))

    # Rules ------------------------------------------------------------------------------------------------------------

    async def rules(self, request: web.Request) -> web.Response:
        """All rules of the tenant, built-in ones as it has them, and how it stands with each."""
        tenant_id = await self._check(request, "read")
        checked_query(request, set())
        stored = {row.rule_id: row for row in await self._rules.rules(tenant_id)}
        states = await self._rules.states(tenant_id)
        records = [_rule(row, states) for row in stored.values()]
        records += [_built_in(rule_id, states) for rule_id in BUILT_IN if rule_id not in stored]
        return _answer(RulePage(sorted(records, key=lambda record: record.rule_id)))

    async def get_rule(self, request: web.Request) -> web.Response:
        """The current version, or `?version=N` (0: as it is built in)."""
        tenant_id = await self._check(request, "read")
        rule_id = _id(request, "rule_id")
        text = checked_query(request, {"version"}).get("version")
        if text is not None and not (text.isascii() and text.isdigit() and len(text) <= 9):
            raise InvalidField(f"version must be a number, got {text[:40]!r}", field="version")
        row = None if text == "0" else await self._rules.rule(tenant_id, rule_id, None if text is None else int(text))
        states = await self._rules.states(tenant_id) if text is None else []
        if row is not None:
            return _answer(_rule(row, states))
        if rule_id in BUILT_IN and text in (None, "0"):
            return _answer(_built_in(rule_id, states))
        raise NotFound(f"there is no alert rule {rule_id!r}" + ("" if text is None else f" in version {text}"))

    async def put_rule(self, request: web.Request) -> web.Response:
        """Check, compile, store a new version. Of a built-in rule what is left out stays as it is built in."""
        tenant_id = await self._check(request, "admin")
        rule_id = _id(request, "rule_id")
        rule = decode_rule(await self._body(request), BUILT_IN.get(rule_id))
        if isinstance(rule, Condition):
            CompiledCondition(rule)  # refuses what cannot be used
        await self._check_sinks(tenant_id, rule.sinks)
        row = await self._rules.put_rule(tenant_id, rule_id, msgspec.json.encode(rule).decode())
        return _answer(_rule(row, []), 201 if row.version == 1 else 200)

    async def _check_sinks(self, tenant_id: str, named: list[str] | None) -> None:
        if named:
            known = [row["sink_id"] for row in await self._rules.sinks(tenant_id)]
            for index, sink_id in enumerate(named):
                if sink_id not in known:
                    detail = f"sinks[{index}]: there is no alert sink {sink_id!r}; defined: {', '.join(known) or 'none'}"
                    raise InvalidField(detail, field=f"sinks[{index}]")

    async def delete_rule(self, request: web.Request) -> web.Response:
        """Remove it; what fires by it is resolved. A built-in one is again as it is built in."""
        tenant_id = await self._check(request, "admin")
        rule_id = _id(request, "rule_id")
        if not await self._rules.delete_rule(tenant_id, rule_id):
            more = '; to be without a built-in one, put {"enabled": false}' if rule_id in BUILT_IN else ""
            raise NotFound(f"there is no alert rule {rule_id!r} of your own{more}")
        return web.Response(status=204)

    # Sinks ------------------------------------------------------------------------------------------------------------

    async def sinks(self, request: web.Request) -> web.Response:
        """All sinks of the tenant."""
        tenant_id = await self._check(request, "read")
        checked_query(request, set())
        return _answer(SinkPage([_sink(row) for row in await self._rules.sinks(tenant_id)]))

    async def get_sink(self, request: web.Request) -> web.Response:
        """One sink, its URL shown in part."""
        tenant_id = await self._check(request, "read")
        sink_id = _id(request, "sink_id")
        rows = await self._rules.sinks(tenant_id, sink_id)
        if not rows:
            raise NotFound(f"there is no alert sink {sink_id!r}")
        return _answer(_sink(rows[0]))

    async def put_sink(self, request: web.Request) -> web.Response:
        """Store a sink."""
        tenant_id = await self._check(request, "admin")
        sink_id = _id(request, "sink_id")
        sink = decode_sink_body(await self._body(request))
        if sink_id == "stream":
            raise InvalidField("sink_id: 'stream' is the stream of alerts, which gets every alert", field="sink_id")
        row = await self._rules.put_sink(tenant_id, sink_id, msgspec.json.encode(sink).decode())
        return _answer(_sink(row), 201 if row["made"] else 200)

    async def delete_sink(self, request: web.Request) -> web.Response:
        """Remove a sink; what waits for it fails."""
        tenant_id = await self._check(request, "admin")
        sink_id = _id(request, "sink_id")
        if not await self._rules.delete_sink(tenant_id, sink_id):
            raise NotFound(f"there is no alert sink {sink_id!r}")
        return web.Response(status=204)

    # Silences ---------------------------------------------------------------------------------------------------------

    async def silences(self, request: web.Request) -> web.Response:
        """Silences, those that end last first."""
        tenant_id = await self._check(request, "read")
        checked_query(request, set())
        return _answer(SilencePage([_silence(row) for row in await self._rules.silences(tenant_id)]))

    async def get_silence(self, request: web.Request) -> web.Response:
        """One silence."""
        tenant_id = await self._check(request, "read")
        silence_id = _id(request, "silence_id")
        rows = await self._rules.silences(tenant_id, silence_id)
        if not rows:
            raise NotFound(f"there is no silence {silence_id!r}")
        return _answer(_silence(rows[0]))

    async def put_silence(self, request: web.Request) -> web.Response:
        """Store a silence; it holds from its beginning to its end."""
        tenant_id = await self._check(request, "admin")
        silence_id = _id(request, "silence_id")
        asked: Silence = decode_body(await self._body(request), Silence)
        for name in ("starts_at", "ends_at"):
            moment = getattr(asked, name)
            if moment is not None and moment.tzinfo is None:
                raise InvalidField(f"{name} must be an RFC 3339 time with a zone", field=name)
            if moment is not None and not EARLIEST <= moment < LATEST:
                detail = f"{name} must lie between {EARLIEST:%Y} and {LATEST:%Y}, got {moment.isoformat()}"
                raise InvalidField(detail, field=name)
        values = asked.rule_id, asked.workflow_id, asked.severity, asked.starts_at, asked.ends_at, asked.comment, asked.by
        row = await self._rules.put_silence(tenant_id, silence_id, values)
        return _answer(_silence(row), 201 if row["made"] else 200)

    async def delete_silence(self, request: web.Request) -> web.Response:
        """End a silence now; what still fires is told then."""
        tenant_id = await self._check(request, "admin")
        silence_id = _id(request, "silence_id")
        if not await self._rules.delete_silence(tenant_id, silence_id):
            raise NotFound(f"there is no silence {silence_id!r}")
        return web.Response(status=204)

    async def _check(self, request: web.Request, scope: str) -> str:
        return (await self._access.check(request.headers.get("Authorization"), scope)).tenant_id

    async def _body(self, request: web.Request) -> bytes:
        size = self._admission.enter(request.content_length)
        try:
            return await read_body(request, self._admission)
        finally:
            self._admission.leave(size)


def _id(request: web.Request, name: str) -> str:
    text = request.match_info[name]
    if not _ID.match(text):
        detail = f"{name}: letters, digits, _ and -, at most 64, the first one a letter or digit, got {text[:80]!r}"
        raise InvalidField(detail, field=name)
    return text


def _found(request: web.Request, found: tuple[Any, list[Any]] | None) -> AlertRecord:
    if found is None:
        raise NotFound(f"there is no alert {request.match_info['alert_id'][:80]!r}")
    return alert_of(*found)


def _rule(row: Any, states: list[Any]) -> RuleRecord:
    rule = decode_stored_rule(row.definition)
    built_in = row.rule_id in BUILT_IN
    return RuleRecord(row.rule_id, row.version, built_in, rule, format_time(row.updated_at), _states(row.rule_id, states))


def _built_in(rule_id: str, states: list[Any]) -> RuleRecord:
    return RuleRecord(rule_id, 0, True, BUILT_IN[rule_id], None, _states(rule_id, states))


def _states(rule_id: str, states: list[Any]) -> list[RuleState]:
    own = [row for row in states if row["rule_id"] == rule_id]
    return [RuleState(row["workflow_id"] or None, row["phase"], row["reason"]) for row in own]


def _sink(row: Any) -> SinkRecord:
    sink = decode_sink(row["definition"])
    labels = sink.labels if isinstance(sink, AlertmanagerSink) else {}
    kind = str(sink.__struct_config__.tag)
    return SinkRecord(row["sink_id"], kind, shown_url(sink.url), format_time(row["updated_at"]), labels)


def _silence(row: Any) -> SilenceRecord:
    return SilenceRecord(
        silence_id=row["silence_id"],
        rule_id=row["rule_id"],
        workflow_id=row["workflow_id"],
        severity=row["severity"],
        starts_at=format_time(row["starts_at"]),
        ends_at=format_time(row["ends_at"]),
        comment=row["comment"],
        by=row["by"],
        active=row["active"],
    )


def _answer(answer: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), content_type=JSON, status=status)
