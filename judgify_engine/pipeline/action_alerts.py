"""Alerts as actions: an entry in the stream of alerts, and messages to who listens just now."""

from judgify_engine.core.actions import Alert
from judgify_engine.core.jobs import Job
from judgify_engine.core.retries import Outcome
from judgify_engine.core.streams import ALERT_CHANNEL, ALERTS, CACHED_S, PERFORMANCE_ALERTS, recent_key
from judgify_engine.errors import StreamsUnavailable
from judgify_engine.pipeline.streams import Streams
from judgify_engine.wire.actions import AlertEntry, message_id
from judgify_engine.wire.answer import format_time

GONE = "the judgment is gone"


class AlertPerformer:
    """Raises alerts. `keep`: entries of the stream that stay."""

    def __init__(self, streams: Streams, keep: int) -> None:
        self._streams, self._keep = streams, keep

    async def perform(self, job: Job, action: Alert) -> Outcome:
        """Append, send, and only then mark it as sent: a crash between may repeat it with the same id, but never lose it."""
        if job.judgment is None:
            return Outcome("refused", GONE)
        alert = AlertEntry(
            id=message_id(job.judgment_id, job.action),
            tenant_id=job.lane.tenant_id,
            severity=action.severity,
            name=job.action,
            message=action.message,
            judgment_id=job.judgment_id,
            workflow_id=job.workflow_id,
            at=format_time(job.judgment["created_at"]),
        )
        channels = (ALERT_CHANNEL, PERFORMANCE_ALERTS) if action.about == "performance" else (ALERT_CHANNEL,)
        request = {"type": "alert", "id": alert.id, "severity": action.severity, "channels": list(channels)}
        recent = recent_key(ALERTS, alert.id)
        try:
            if await self._streams.get(recent) is None:
                await self._streams.add(ALERTS, alert.fields(), self._keep)
                message = alert.message_bytes()
                await self._streams.send([(channel, message) for channel in channels])
                await self._streams.put(recent, b"1", CACHED_S)
        except StreamsUnavailable as error:
            return Outcome("retry", str(error), request=request)
        return Outcome("succeeded", request=request)
