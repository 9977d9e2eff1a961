"""The buckets of single metrics that anomaly rules walk over; each look-up is one range of the primary key."""

from collections.abc import Sequence
from datetime import UTC, datetime

from judgify_engine.core.anomaly import Bucket
from judgify_engine.core.samples import FINE_S
from judgify_engine.store.pool import Database

_NEWEST = f"""
SELECT extract(epoch FROM found.bucket)::bigint AS second
  FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS s(tenant_id, workflow_id, metric_name, place)
  LEFT JOIN LATERAL (
       SELECT b.bucket FROM judgment_metrics_buckets AS b
        WHERE b.tenant_id = s.tenant_id AND b.workflow_id = s.workflow_id AND b.metric_name = s.metric_name
          AND b.width_s = {FINE_S} AND b.bucket <= $4 AND b.count > 0
        ORDER BY b.bucket DESC LIMIT 1) AS found ON true
 ORDER BY s.place
"""
_READ = f"""
SELECT extract(epoch FROM bucket)::bigint AS second, count, (sum / count)::double precision AS mean
  FROM judgment_metrics_buckets
 WHERE tenant_id = $1 AND workflow_id = $2 AND metric_name = $3 AND width_s = {FINE_S} AND bucket >= $4 AND bucket < $5
   AND count > 0
 ORDER BY bucket LIMIT $6
"""


class BucketReader:
    """Reads stored buckets. All raise DatabaseUnavailable or Overloaded."""

    def __init__(self, rollups: Database) -> None:
        self._rollups = rollups

    async def newest(self, series: Sequence[tuple[str, str, str]], until_s: int) -> list[int | None]:
        """The start of the newest bucket that begins no later than `until_s`, of each (tenant, workflow, metric)."""
        if not series:
            return []
        columns = [list(column) for column in zip(*series, strict=True)]
        async with self._rollups.query(may_be_slow=True) as connection:
            rows = await connection.fetch(_NEWEST, *columns, datetime.fromtimestamp(until_s, UTC))
        return [row[0] for row in rows]

    async def read(self, series: tuple[str, str, str], from_s: int, to_s: int, limit: int) -> list[Bucket]:
        """The first `limit` buckets that begin in these Unix seconds, in the order of their time."""
        span = datetime.fromtimestamp(from_s, UTC), datetime.fromtimestamp(to_s, UTC)
        async with self._rollups.query(may_be_slow=True) as connection:
            rows = await connection.fetch(_READ, *series, *span, limit)
        return [Bucket(*row) for row in rows]
