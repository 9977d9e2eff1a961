"""Alerts as they go out: to the stream, to webhooks, to Slack and Alertmanager, to dashboards and by the API. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from judgify_engine.core.actions import Webhook, destination_of
from judgify_engine.core.alert_rules import AlertRule, Id, Severity
from judgify_engine.core.alert_sinks import AlertSink, target_of
from judgify_engine.errors import InvalidField
from judgify_engine.wire.actions import AlertEntry
from judgify_engine.wire.answer import format_time, format_us
from judgify_engine.wire.request import check_carefully, decode_body, explain

State = Literal["firing", "resolved"]
STATES: tuple[State, ...] = ("firing", "resolved")


class Delivery(msgspec.Struct):
    """What became of telling a sink."""

    sink_id: str
    kind: str
    event: State
    state: Literal["waiting", "delivered", "failed", "silenced"]
    attempts: int
    last_error: str | None
    at: str
    """When this was last so."""


class AlertRecord(msgspec.Struct):
    """One alert: it fires once, and is resolved once."""

    alert_id: str
    rule_id: str
    rule_version: int
    """0: a built-in rule."""
    severity: str
    state: State
    workflow_id: str | None
    """null: all workflows together."""
    cause: str
    """What there is at most one firing alert of."""
    summary: str
    reason: str
    """With the numbers that made it fire; of a resolved one also why it is over."""
    numbers: msgspec.Raw
    started_at: str
    """Since when it is so; this and the next two are times of what was judged, RFC 3339, UTC."""
    fired_at: str
    resolved_at: str | None
    recorded_at: str
    """When the engine found out."""
    acknowledged_at: str | None
    acknowledged_by: str | None
    comment: str | None
    silenced_by: str | None
    """The silence that keeps it from sinks."""
    deliveries: list[Delivery]


class AlertPage(msgspec.Struct):
    """Alerts, the newest first."""

    alerts: list[AlertRecord]
    cursor: str | None
    """Give it as `cursor` to get the next page; null: this is the last."""
    firing: int
    """How many fire, whatever is asked for."""
    evaluated_through: str | None
    """Up to when the rules were evaluated; null: not yet."""


class RuleRecord(msgspec.Struct):
    """A rule as it holds."""

    rule_id: str
    version: int
    """0: as it is built in."""
    built_in: bool
    definition: AlertRule
    updated_at: str | None
    states: list["RuleState"] = []
    """How it stands, where there is something to know."""


class RuleState(msgspec.Struct):
    """Of one cause."""

    workflow_id: str | None
    phase: str
    reason: str


class RulePage(msgspec.Struct):
    """All rules of a tenant."""

    rules: list[RuleRecord]


class SinkRecord(msgspec.Struct, omit_defaults=True):
    """A sink. Of its URL only the host is shown."""

    sink_id: str
    kind: str
    url: str
    updated_at: str
    labels: dict[str, str] = {}


class SinkPage(msgspec.Struct):
    """All sinks of a tenant."""

    sinks: list[SinkRecord]


class SilenceRecord(msgspec.Struct):
    """A silence; what is null is any."""

    silence_id: str
    rule_id: str | None
    workflow_id: str | None
    severity: str | None
    starts_at: str
    ends_at: str
    comment: str
    by: str
    active: bool


class SilencePage(msgspec.Struct):
    """All silences of a tenant that are not over, and those that are over for a short while."""

    silences: list[SilenceRecord]


class Acknowledgement(msgspec.Struct, forbid_unknown_fields=True):
    """Who looks after an alert."""

    by: Annotated[str, Meta(max_length=200)] | None = None
    comment: Annotated[str, Meta(max_length=2000)] | None = None


class Silence(msgspec.Struct, forbid_unknown_fields=True):
    """What is not to be told to sinks for a while; what is absent is any."""

    ends_at: datetime
    rule_id: Id | None = None
    workflow_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    severity: Severity | None = None
    starts_at: datetime | None = None
    """Absent: now."""
    comment: Annotated[str, Meta(max_length=2000)] = ""
    by: Annotated[str, Meta(max_length=200)] = ""


_decode_rule: msgspec.json.Decoder[AlertRule] = msgspec.json.Decoder(AlertRule)


def decode_rule(body: bytes, built_in: AlertRule | None) -> AlertRule:
    """A rule from the body of a request; what it leaves out of a built-in one is as that. Raises as `decode_body` does."""
    members: dict[str, Any] = {"kind": "condition"}
    if built_in is not None:
        members = msgspec.json.decode(msgspec.json.encode(built_in))
    given: dict[str, Any] = decode_body(body, dict[str, Any])
    if given.get("kind", members["kind"]) != members["kind"]:
        members = {}
    merged = msgspec.json.encode(members | given)
    try:
        return _decode_rule.decode(merged)
    except msgspec.MsgspecError as error:
        raise explain(error, merged) from error


def decode_stored_rule(definition: str) -> AlertRule:
    """Raises MsgspecError."""
    return _decode_rule.decode(definition)


def decode_sink_body(body: bytes) -> AlertSink:
    """A sink from the body of a request. Raises as `decode_body` does; its URL is in no message."""
    check_carefully(body)
    try:
        sink: AlertSink = msgspec.json.decode(body, type=AlertSink)
        destination_of(Webhook(target_of(sink)))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise explain(error, body) from error
    except ValueError as error:
        raise InvalidField(f"url: {error}", field="url") from error
    return sink


def alert_of(row: Any, deliveries: list[Any]) -> AlertRecord:
    """From the stored rows."""
    reason = row["reason"] if row["resolved_reason"] is None else f"{row['reason']}; over: {row['resolved_reason']}"
    return AlertRecord(
        alert_id=str(row["id"]),
        rule_id=row["rule_id"],
        rule_version=row["rule_version"],
        severity=row["severity"],
        state=row["state"],
        workflow_id=row["workflow_id"] or None,
        cause=cause_of(row),
        summary=row["summary"],
        reason=reason,
        numbers=msgspec.Raw(row["numbers"].encode()),
        started_at=format_time(row["started_at"]),
        fired_at=format_time(row["fired_at"]),
        resolved_at=_time(row["resolved_at"]),
        recorded_at=format_time(row["recorded_at"]),
        acknowledged_at=_time(row["acknowledged_at"]),
        acknowledged_by=row["acknowledged_by"],
        comment=row["comment"],
        silenced_by=row["silenced_by"],
        deliveries=[
            Delivery(
                each["sink_id"], each["kind"], each["event"], each["state"], each["attempts"], each["last_error"],
                format_time(each["at"]),
            )
            for each in deliveries
        ],
    )  # fmt: skip


def cause_of(row: Any) -> str:
    """A cause as text."""
    return f"{row['rule_id']}/{row['workflow_id']}" if row["workflow_id"] else str(row["rule_id"])


def _time(moment: Any) -> str | None:
    return None if moment is None else format_time(moment)


class RuleAlertEntry(AlertEntry, kw_only=True):
    """An alert of a rule, as the stream and the channels have it; `judgment_id` is empty."""

    rule_id: str
    state: str
    reason: str
    alert_id: str
    started_at: str


def entry_of(row: Any, event: str) -> RuleAlertEntry:
    """For the stream."""
    return RuleAlertEntry(
        id=delivery_id(row["alert_id"], event, row["severity"]),
        tenant_id=row["tenant_id"],
        severity=row["severity"],
        name=row["rule_id"],
        message=row["summary"],
        judgment_id="",
        workflow_id=row["workflow_id"],
        at=format_time(row["fired_at"] if event == "firing" else row["resolved_at"]),
        rule_id=row["rule_id"],
        state=event,
        reason=_reason(row, event),
        alert_id=str(row["alert_id"]),
        started_at=format_time(row["started_at"]),
    )


def delivery_id(alert_id: Any, event: str, severity: str) -> str:
    """The same for each repeat: the receiver's idempotency key. It has no full stop."""
    return f"msg_{str(alert_id).replace('-', '')}_{event}_{severity}"


def webhook_body(row: Any, event: str) -> bytes:
    """`{"type": "alert.firing", "timestamp": …, "data": {the alert}}`."""
    resolved = event == "resolved"
    data: dict[str, Any] = {
        "alert_id": str(row["alert_id"]),
        "tenant_id": row["tenant_id"],
        "rule_id": row["rule_id"],
        "rule_version": row["rule_version"],
        "workflow_id": row["workflow_id"] or None,
        "cause": cause_of(row),
        "severity": row["severity"],
        "state": event,
        "summary": row["summary"],
        "reason": _reason(row, event),
        "numbers": msgspec.Raw((row["resolved_numbers"] if resolved else row["numbers"]).encode()),
        "started_at": format_time(row["started_at"]),
        "fired_at": format_time(row["fired_at"]),
        "resolved_at": _time(row["resolved_at"]) if resolved else None,
    }
    at = format_time(row["resolved_at"] if resolved else row["fired_at"])
    return msgspec.json.encode({"type": f"alert.{event}", "timestamp": at, "data": data})


def slack_body(row: Any, event: str) -> bytes:
    """What incoming webhooks of Slack and of those like it take."""
    sign = {"critical": ":red_circle:", "warning": ":large_orange_circle:"}.get(row["severity"], ":large_blue_circle:")
    head = f"{sign} *{row['severity'].upper()}*" if event == "firing" else ":white_check_mark: *RESOLVED*"
    where = f" · workflow `{_slack(row['workflow_id'])}`" if row["workflow_id"] else ""
    text = f"{head} {_slack(row['summary'])}\n`{_slack(cause_of(row))}`{where} · tenant `{_slack(row['tenant_id'])}`"
    text += f"\n{_slack(_reason(row, event))}\nsince {format_time(row['started_at'])}"
    return msgspec.json.encode({"text": text})


def _slack(text: str) -> str:
    """As Slack asks for it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("`", "'")


def alertmanager_body(row: Any, event: str, labels: Mapping[str, str], now_us: int, holds_s: float, page_url: str) -> bytes:
    """For `POST /api/v2/alerts`. `holds_s`: after so long without another one it takes the alert for resolved.

    `severity_ended` of the row: what it was told of as before, which is over; None: nothing.
    """
    own = {
        "alertname": row["rule_id"],
        "severity": row["severity"],
        "tenant": row["tenant_id"],
        "alert_id": str(row["alert_id"]),
        **({"workflow": row["workflow_id"]} if row["workflow_id"] else {}),
    }
    # Its times are of a clock: an alert that is over ended when that was found out.
    ends_us = now_us + int(holds_s * 1_000_000) if event == "firing" else now_us
    starts_us = min(int(row["recorded_at"].timestamp() * 1_000_000), now_us)
    alert = {
        "labels": {**labels, **own},
        "annotations": {"summary": row["summary"], "description": _reason(row, event), "since": format_time(row["started_at"])},
        "startsAt": format_us(starts_us),
        "endsAt": format_us(ends_us),
        **({"generatorURL": f"{page_url.rstrip('/')}/#/alerts"} if page_url else {}),
    }
    if row["severity_ended"] is None:
        return msgspec.json.encode([alert])
    ended = {**alert, "labels": {**labels, **own, "severity": row["severity_ended"]}, "endsAt": format_us(now_us)}
    return msgspec.json.encode([alert, ended])


def _reason(row: Any, event: str) -> str:
    text: str = row["reason"] if event == "firing" else row["resolved_reason"] or ""
    return text


class AlertsMessage(msgspec.Struct, tag_field="type", tag="alerts"):
    """Alerts of the tenant that changed; to a socket that has just begun, or missed some: all that fire, up to 100."""

    firing: int
    """How many fire in all."""
    alerts: list[AlertRecord]


def alerts_of(rows: Sequence[Any], deliveries: Sequence[Any]) -> list[AlertRecord]:
    """Alerts with their deliveries."""
    by_alert: dict[Any, list[Any]] = {}
    for each in deliveries:
        by_alert.setdefault(each["alert_id"], []).append(each)
    return [alert_of(row, by_alert.get(row["id"], [])) for row in rows]
