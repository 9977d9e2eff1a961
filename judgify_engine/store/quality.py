"""How much of a tenant's input was wrong, by workflow: read from the hourly counts."""

from datetime import UTC, datetime, timedelta
from typing import Any

from judgify_engine.store.pool import Database

FRAMES = {"1h": timedelta(hours=1), "6h": timedelta(hours=6), "24h": timedelta(hours=24), "7d": timedelta(days=7)}

_STORED = """
SELECT workflow_id, sum(total_executions)::bigint AS count FROM judgment_metrics_hourly
 WHERE tenant_id = $1 AND ($2::text IS NULL OR workflow_id = $2) AND hour >= $3 AND hour < $4 GROUP BY 1
"""
_WRONG = """
SELECT workflow_id, source, kind, sum(count)::bigint AS count FROM judgment_quality_hourly
 WHERE tenant_id = $1 AND ($2::text IS NULL OR workflow_id = $2) AND hour >= $3 AND hour < $4 GROUP BY 1, 2, 3
 HAVING sum(count) <> 0
"""


async def read_quality(
    connection: Any, tenant_id: str, workflow_id: str | None, start: datetime, end: datetime
) -> tuple[dict[str, int], list[Any]]:
    """Judgments stored by workflow, and rows (workflow_id, source, kind, count) of what was wrong, in whole hours."""
    stored = await connection.fetch(_STORED, tenant_id, workflow_id, start, end)
    wrong = await connection.fetch(_WRONG, tenant_id, workflow_id, start, end)
    return {row["workflow_id"]: row["count"] for row in stored if row["count"]}, list(wrong)


def whole_hours(now: datetime, frame: timedelta) -> tuple[datetime, datetime]:
    """The whole hours that hold the frame that ends now."""
    hour = timedelta(hours=1)
    start, end = (now - frame).timestamp() // 3600, now.timestamp() // 3600
    return datetime.fromtimestamp(start * 3600, UTC), datetime.fromtimestamp(end * 3600, UTC) + hour


class QualityReader:
    """Reads the counts in one transaction."""

    def __init__(self, rollups: Database) -> None:
        self._rollups = rollups

    async def read(self, tenant_id: str, workflow_id: str | None, timeframe: str) -> tuple[datetime, datetime, Any]:
        """From when, until when, and see `read_quality`. Raises DatabaseUnavailable or Overloaded."""
        start, end = whole_hours(datetime.now(UTC), FRAMES[timeframe])
        async with (
            self._rollups.query(may_be_slow=True) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            return start, end, await read_quality(connection, tenant_id, workflow_id, start, end)
