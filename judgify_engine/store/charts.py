"""What GET /api/v1/metrics reads: the stored buckets of a frame, and what else it tells, all of one moment.

Each metric is one range of the primary key of `judgment_metrics_buckets`, so the time depends on the frame and on the number
of metrics, not on how much is stored.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from judgify_engine.core.charts import Frame
from judgify_engine.core.samples import ALL_WORKFLOWS, Sample
from judgify_engine.store.pool import Database
from judgify_engine.store.rollup_writer import stored_position
from judgify_engine.units import Position

MAX_KNOWN = 500
"""Metrics of one workflow that are told, at most."""

# From one name to the next by the primary key: SELECT DISTINCT would read all buckets of years.
_KNOWN = """
WITH RECURSIVE known(metric_name) AS (
  (SELECT metric_name FROM judgment_metrics_buckets WHERE tenant_id = $1 AND workflow_id = $2 ORDER BY metric_name LIMIT 1)
  UNION ALL
  SELECT (SELECT b.metric_name FROM judgment_metrics_buckets AS b
           WHERE b.tenant_id = $1 AND b.workflow_id = $2 AND b.metric_name > known.metric_name
           ORDER BY b.metric_name LIMIT 1)
    FROM known WHERE known.metric_name IS NOT NULL
)
SELECT metric_name FROM known WHERE metric_name IS NOT NULL LIMIT $3
"""
_BUCKETS = """
SELECT metric_name, extract(epoch FROM bucket)::bigint AS second, count, failed, trunc(sum * 1000000)::text AS total,
       round(minimum * 1000000)::bigint AS low, round(maximum * 1000000)::bigint AS high, slots, counts
  FROM judgment_metrics_buckets
 WHERE tenant_id = $1 AND workflow_id = $2 AND metric_name = ANY($3::text[]) AND width_s = $4 AND bucket >= $5 AND bucket < $6
"""
_VERIFIED = "SELECT verified_through FROM reconciliation WHERE slot_name = $1"


class Read:
    """What was read. `known`: the names of all stored metrics; `position`: up to where all is computed, None: not yet."""

    def __init__(self, rows: list[Any], known: list[str], position: Position | None, verified_through: datetime | None) -> None:
        self.known, self.position, self.verified_through = known, position, verified_through
        self._rows: dict[str, list[Any]] = {}
        for row in rows:
            self._rows.setdefault(row["metric_name"], []).append(row)

    def samples(self, metric: str) -> Iterator[tuple[int, Sample]]:
        """(start in Unix seconds, sample) of each stored bucket of a metric."""
        for _, second, count, failed, total, low, high, slots, counts in self._rows.get(metric, ()):
            yield second, Sample(count, failed, int(total), low, high, dict(zip(slots, counts, strict=True)))


class ChartReader:
    """Reads stored buckets. `slot`: whose rollups."""

    def __init__(self, database: Database, slot: str) -> None:
        self._database, self._slot = database, slot

    async def read(
        self, tenant_id: str, workflow_id: str | None, choose: Callable[[list[str]], list[str]], frame: Frame
    ) -> Read:
        """The stored buckets of the metrics that `choose` picks, given all that are known.

        Raises DatabaseUnavailable or Overloaded, and what `choose` raises.
        """
        who = tenant_id, workflow_id or ALL_WORKFLOWS
        start, end = datetime.fromtimestamp(frame.start_s, UTC), datetime.fromtimestamp(frame.end_s, UTC)
        async with (
            self._database.query(may_be_slow=True) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            position = await stored_position(connection, self._slot)
            verified_through = await connection.fetchval(_VERIFIED, self._slot)
            known = [row["metric_name"] for row in await connection.fetch(_KNOWN, *who, MAX_KNOWN)]
            rows = await connection.fetch(_BUCKETS, *who, choose(known), frame.stored_s, start, end)
        return Read(rows, known, position, verified_through)
