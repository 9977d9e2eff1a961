"""What has to be done now and then: partitions ahead; old judgments, the quarantine, actions and idempotency keys forgotten."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from judgify_engine.config import KeepConfig
from judgify_engine.errors import JudgifyError
from judgify_engine.store import actions, alerts, kept, partitions, quarantine, retention, scaling
from judgify_engine.store.pool import AWAY, Database

log = logging.getLogger(__name__)

INTERVAL_S = 600.0
SLICE_ROWS = 5000
_FORGET = {
    "idempotency_keys": "DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY("
    "SELECT ctid FROM idempotency_keys WHERE created_at < now() - make_interval(days => $1) LIMIT $2))",
    "scaling_decisions": scaling.FORGET,
}


async def run(
    database: Database, keep: KeepConfig, fine_days: int, stop: asyncio.Event, proven_s: Callable[[], int | None]
) -> None:
    """Once every ten minutes until `stop`; a failure is logged and tried again next time.

    `fine_days`: how long charts have buckets of less than an hour.

    `proven_s`: up to where the rollups were found equal to the table (Unix seconds; None: not known here). What was not proven
    yet is not dropped, and only the process that proves it drops.
    """
    while not stop.is_set():
        try:
            await once(database, keep)
            if (second := proven_s()) is not None:
                now = datetime.now(UTC)
                async with _session(database, stop) as connection:
                    await retention.drop_old(connection, now, keep, datetime.fromtimestamp(second, UTC))
                    await kept.merge(connection, now - timedelta(days=fine_days))
        except (JudgifyError, asyncpg.PostgresError, *AWAY) as error:
            if stop.is_set():
                return
            log.warning("upkeep failed and is tried again later", extra={"reason": str(error)})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), INTERVAL_S)


@contextlib.asynccontextmanager
async def _session(database: Database, stop: asyncio.Event) -> AsyncIterator[Any]:
    """A connection for what may take long, or wait for others. It ends at `stop`; what is under way in it fails at once.

    Not a cancellation, after which the ROLLBACK would be waited for: the server does that by itself.
    """
    async with database.session() as connection:

        async def leave() -> None:
            await stop.wait()
            connection.terminate()

        leaving = asyncio.create_task(leave(), name="upkeep-stop")
        try:
            yield connection
        finally:
            leaving.cancel()
            await asyncio.wait((leaving,))


async def once(database: Database, keep: KeepConfig) -> None:
    """Do it now, in small slices so that nobody waits for locks."""
    async with database.query() as connection:
        await partitions.make_ahead(connection, datetime.now(UTC), keep.partition)
    await quarantine.tidy(database, keep)
    await actions.tidy(database, keep.actions_days)
    await alerts.tidy(database, keep.alerts_days)
    for table, limit in (("idempotency_keys", keep.idempotency_days), ("scaling_decisions", keep.scaling_days)):
        forgotten = SLICE_ROWS
        while forgotten == SLICE_ROWS:
            async with database.query() as connection:
                done = await connection.execute(_FORGET[table], limit, SLICE_ROWS)
            forgotten = int(done.split()[-1])
