"""What GET /api/v1/summary reads: sums over two spans of time, open differences, and how far all is verified, of one moment."""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from judgify_engine.core.samples import ALL_WORKFLOWS, CONFIDENCE, EXECUTION_TIME, FINE_S, HOUR_S
from judgify_engine.store import gaps
from judgify_engine.store.pool import Database
from judgify_engine.store.quality import FRAMES, read_quality, whole_hours
from judgify_engine.store.rollup_writer import stored_position

_SUMS = f"""
SELECT coalesce(sum(count) FILTER (WHERE time), 0)::bigint AS total,
       coalesce(sum(count - failed) FILTER (WHERE time), 0)::bigint AS successful,
       coalesce(sum(sum) FILTER (WHERE time) * 1000, 0)::bigint AS us,
       coalesce(sum(sum) FILTER (WHERE NOT time) * 1000000, 0)::bigint AS ppm
  FROM (SELECT *, metric_name = '{EXECUTION_TIME}' AS time FROM judgment_metrics_buckets
         WHERE tenant_id = $1 AND workflow_id = coalesce($2, '{ALL_WORKFLOWS}')
           AND metric_name IN ('{EXECUTION_TIME}', '{CONFIDENCE}') AND width_s = $3
           AND bucket >= $4 AND bucket < $5) AS buckets
"""
_DIFFERENCES = """
SELECT range_from, range_to, stored, rolled_up, arm FROM reconciliation_differences
 WHERE slot_name = $1 AND tenant_id = $2 AND resolved_at IS NULL ORDER BY range_from LIMIT 100
"""
SHORT = ("1h", "6h")
"""Frames of buckets of 5 minutes, the others are of hours."""


class Span(NamedTuple):
    """Sums over whole buckets of [start, end)."""

    start: datetime
    end: datetime
    total: int
    successful: int
    execution_time_us: int
    confidence_ppm: int


class Read(NamedTuple):
    """All that a summary is made of."""

    now: Span
    current: Span
    previous: Span
    hours: tuple[datetime, datetime]
    """From when, until when: the whole hours that hold the frame that ends now."""
    stored: dict[str, int]
    """Judgments by workflow in those hours."""
    wrong: list[Any]
    """What was wrong in those hours: workflow_id, source, kind, count."""
    differences: list[Any]
    verified_through: datetime | None
    recomputing: bool
    gap: tuple[str, datetime] | None
    """Why all rollups are computed anew right now, and since when that is known."""


class SummaryReader:
    """Reads summaries. `slot`: whose rollups."""

    def __init__(self, database: Database, slot: str) -> None:
        self._database, self._slot = database, slot

    async def read(self, tenant_id: str, workflow_id: str | None, timeframe: str) -> Read:
        """The frame that ends now, and the last one that is over beside the one before it.

        Raises DatabaseUnavailable or Overloaded.
        """
        width_s = FINE_S if timeframe in SHORT else HOUR_S
        frame, bucket = FRAMES[timeframe], timedelta(seconds=width_s)
        second = int(datetime.now(UTC).timestamp())
        over = datetime.fromtimestamp(second - second % width_s, UTC)
        async with (
            self._database.query(may_be_slow=True) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):

            async def span(start: datetime, end: datetime) -> Span:
                row = await connection.fetchrow(_SUMS, tenant_id, workflow_id, width_s, start, end)
                return Span(start, end, row["total"], row["successful"], row["us"], row["ppm"])

            now = await span(over + bucket - frame, over + bucket)
            current, previous = await span(over - frame, over), await span(over - 2 * frame, over - frame)
            hours = whole_hours(datetime.now(UTC), frame)
            stored, wrong = await read_quality(connection, tenant_id, workflow_id, *hours)
            differences = await connection.fetch(_DIFFERENCES, self._slot, tenant_id)
            through = await connection.fetchval("SELECT verified_through FROM reconciliation WHERE slot_name = $1", self._slot)
            position = await stored_position(connection, self._slot)
            gap = await gaps.open_one(connection, self._slot)
        if position is None:  # what was found equal are no longer the figures of the table
            through = None
        return Read(now, current, previous, hours, stored, wrong, list(differences), through, position is None, gap)
