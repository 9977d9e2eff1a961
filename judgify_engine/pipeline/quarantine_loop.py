"""Refused requests on their way into the quarantine: noted at once, written about once a second, never waited for.

What is noted is bounded (core/quarantine). A batch that could not be written is tried again as it is until PostgreSQL has
it: its ids are made here, so a batch that was committed unseen is not there twice. A stop writes the rest. So what is counted
is lost only with the process (kill -9), or when PostgreSQL is away at the end of a stop, which the log then says.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from typing import Any, Protocol

import uuid_utils

from judgify_engine.core.model import Judgment
from judgify_engine.core.quality import kind_of
from judgify_engine.core.quarantine import BODY_BYTES, FIELD_CHARS, REASON_CHARS, Buffer, Refused
from judgify_engine.errors import Rejected, RowRefused
from judgify_engine.observe.metrics import Metrics
from judgify_engine.wire.quarantine import encode_request, is_replay
from judgify_engine.wire.request import workflow_id_of

log = logging.getLogger(__name__)

WRITE_S = 1.0
RETRY_S = 0.2
LAST_S = 5.0
"""How long a stop may take to write what is left."""


class QuarantineWriter(Protocol):
    """Where the rows go."""

    async def add(self, rows: Sequence[Refused]) -> None:
        """Commit these rows, in one transaction; those that are there already (by id) are passed over."""


class Quarantine:
    """Notes refused requests and has them written."""

    def __init__(self, writer: QuarantineWriter, metrics: Metrics) -> None:
        self._writer, self._metrics = writer, metrics
        self._buffer = Buffer()
        self._pending: list[Refused] = []
        self._failing = False

    def refused(self, tenant_id: str, body: bytes, error: Rejected) -> None:
        """A tenant's request was answered with this error. Never waits, never raises."""
        kind = kind_of(error)
        if kind is None or isinstance(error, RowRefused):  # of those the writer tells, whether or not the sender waited
            return
        workflow_id = "" if kind == "bad_json" else workflow_id_of(body)
        self._add(tenant_id, workflow_id, kind, "http", error, error.detail, body)

    def refused_by_postgres(self, judgment: Judgment, error: RowRefused, sqlstate: str) -> None:
        """PostgreSQL refused this judgment; its request is put together again. Never waits, never raises."""
        if judgment.idempotency_key is None or not is_replay(judgment.idempotency_key):  # a replay's row is there
            reason = f"{error.detail[:REASON_CHARS]} (SQLSTATE {sqlstate})"
            body = encode_request(judgment)
            self._add(judgment.tenant_id, judgment.workflow_id, "refused_by_database", "postgres", error, reason, body)

    def _add(self, tenant_id: str, workflow_id: str, kind: str, source: str, error: Rejected, reason: str, body: bytes) -> None:
        now_us = time.time_ns() // 1000
        field = error.extra.get("field")
        self._metrics.quarantined[kind] += 1
        self._buffer.add(
            Refused(
                id=uuid_utils.uuid7().bytes,  # in their order also within a millisecond
                tenant_id=tenant_id,
                workflow_id=workflow_id,
                kind=kind,
                source=source,
                code=error.code,
                field=None if field is None else _storable(str(field), FIELD_CHARS),
                reason=_storable(reason, REASON_CHARS + 20),
                body=body[:BODY_BYTES],
                body_cut=len(body) > BODY_BYTES,
                created_at_us=now_us,
            )
        )

    async def run(self, stop: asyncio.Event, feeders: Collection["asyncio.Task[Any]"]) -> None:
        """Until `stop`, and until the `feeders` have ended, who may have something refused to the last."""
        ended = asyncio.create_task(_ended(stop, feeders), name="quarantine-end")
        try:
            while not ended.done():
                await asyncio.wait((ended,), timeout=WRITE_S)
                await self._write()
        finally:  # also when another part has failed
            ended.cancel()
            await self._write_the_rest()

    async def _write(self) -> bool:
        """Write the batch that failed, or what has come since. False: it has to be tried again."""
        if not self._pending:
            self._pending = self._buffer.take()
        if not self._pending:
            return True
        try:
            await self._writer.add(self._pending)
        except Exception as error:
            if not self._failing:
                log.warning("the quarantine cannot be written and is tried again", extra={"reason": str(error)})
            self._failing = True
            return False
        if self._failing:
            log.info("the quarantine is written again", extra={"rows": len(self._pending)})
        self._pending, self._failing = [], False
        return True

    async def _write_the_rest(self) -> None:
        try:
            async with asyncio.timeout(LAST_S):
                while self._pending or self._buffer.rows:
                    if not await self._write():
                        await asyncio.sleep(RETRY_S)
        except TimeoutError:
            lost = sum(row.repeated for row in [*self._pending, *self._buffer.take()])
            log.error("refused requests could not be put into quarantine", extra={"requests": lost})

    def gauges(self) -> list[tuple[str, str, dict[str, str], float]]:
        """For /metrics."""
        rows = len(self._pending) + self._buffer.rows
        size = sum(len(row.body or b"") for row in self._pending) + self._buffer.bytes
        return [
            ("judgify_quarantine_buffer_rows", "Rows that wait to be put into quarantine.", {}, rows),
            ("judgify_quarantine_buffer_bytes", "Bytes of the bodies in them.", {}, size),
        ]


async def _ended(stop: asyncio.Event, feeders: Collection["asyncio.Task[Any]"]) -> None:
    await stop.wait()
    if feeders:
        await asyncio.wait(feeders)


def _storable(text: str, chars: int) -> str:
    """Text that PostgreSQL takes, whatever the request held: NUL and half pairs are shown instead."""
    return text[:chars].replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
