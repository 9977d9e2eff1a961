"""One delivery of an alert: to the stream of alerts, or by an HTTP call, with the guards that webhooks have."""

import time

import msgspec

from judgify_engine.actions.webhooks import WebhookPerformer, signed
from judgify_engine.config import AlertsConfig
from judgify_engine.core.alert_sinks import AlertmanagerSink, SlackSink, WebhookSink, decode_sink, target_of, without_secrets
from judgify_engine.core.retries import Outcome
from judgify_engine.core.streams import ALERT_CHANNEL, ALERTS, CACHED_S, PERFORMANCE_ALERTS, recent_key
from judgify_engine.errors import StreamsUnavailable
from judgify_engine.pipeline.alert_deliveries import AlertDelivery
from judgify_engine.pipeline.streams import Streams
from judgify_engine.wire.alerts import alertmanager_body, delivery_id, entry_of, slack_body, webhook_body

NOT_AGAIN = "the sink is of another kind now, which is not told again"
REPEATS_HELD = 4
"""An alert that Alertmanager was not told of for so many times `repeat_s` is resolved there."""


class AlertPerformer:
    """Makes deliveries, within the context of `webhooks`. `keep`: entries of the stream that stay."""

    def __init__(self, streams: Streams, webhooks: WebhookPerformer, config: AlertsConfig, keep: int) -> None:
        self._streams, self._webhooks, self._config, self._keep = streams, webhooks, config, keep

    async def perform(self, delivery: AlertDelivery) -> Outcome:
        """One attempt. Nothing of a sink's URL is in what it tells."""
        if delivery.kind == "stream":
            return await self._append(delivery)
        if delivery.sink is None:
            return Outcome("refused", "there is no such sink any more")
        try:
            sink = decode_sink(delivery.sink)
        except msgspec.MsgspecError:
            return Outcome("refused", "the sink's definition is wrong")
        if delivery.repeated and not isinstance(sink, AlertmanagerSink):
            return Outcome("refused", NOT_AGAIN)
        row, event = delivery.alert, delivery.event
        identifier = delivery_id(row["alert_id"], event, row["severity"])
        headers: dict[str, str] = {}
        if isinstance(sink, WebhookSink):
            body = webhook_body(row, event)
            if not delivery.secrets:
                return Outcome("retry", "the tenant has no secret to sign with")
            headers = signed(identifier, body, delivery.secrets, time.time())
        elif isinstance(sink, SlackSink):
            body = slack_body(row, event)
        else:
            assert isinstance(sink, AlertmanagerSink)
            holds_s = REPEATS_HELD * self._config.repeat_s
            now_us = time.time_ns() // 1000
            body = alertmanager_body(row, event, sink.labels, now_us, holds_s, self._config.page_url)
        outcome = await self._webhooks.send(row["tenant_id"], target_of(sink), body, headers, self._config.timeout_s, {})
        error = None if outcome.error is None else without_secrets(outcome.error, sink)[:1000]
        return outcome._replace(error=error, request={}, response=None)

    async def _append(self, delivery: AlertDelivery) -> Outcome:
        """Append, send, and only then mark it as sent: a crash between may repeat it with the same id, but never lose it."""
        entry = entry_of(delivery.alert, delivery.event)
        performance = delivery.alert["about"] == "performance"
        channels = (ALERT_CHANNEL, PERFORMANCE_ALERTS) if performance else (ALERT_CHANNEL,)
        recent = recent_key(ALERTS, entry.id)
        try:
            if await self._streams.get(recent) is None:
                await self._streams.add(ALERTS, entry.fields(), self._keep)
                message = entry.message_bytes()
                await self._streams.send([(channel, message) for channel in channels])
                await self._streams.put(recent, b"1", CACHED_S)
        except StreamsUnavailable as error:
            return Outcome("retry", str(error))
        return Outcome("succeeded")
