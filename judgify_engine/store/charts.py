"""What GET /api/v1/metrics reads: the stored buckets of a frame, and what else it tells, all of one moment.

Each metric is one range of the primary key of `judgment_metrics_buckets`, so the time depends on the frame and on the number
of metrics, not on how much is stored.
"""

from collections.abc import AsyncIterable, AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

from judgify_engine.core.charts import Frame
from judgify_engine.core.counts import RESULT_PREFIX
from judgify_engine.core.rollup import Sums
from judgify_engine.core.samples import ALL_WORKFLOWS, Sample
from judgify_engine.store.pool import Database
from judgify_engine.store.rollup_writer import stored_position
from judgify_engine.units import Position

SLICE = 200
"""Stored buckets that are looked at in one go: some ms."""
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
 WHERE tenant_id = $1 AND workflow_id = ANY($2::text[]) AND width_s = $4 AND bucket >= $5
   AND ($6::timestamptz IS NULL OR bucket < $6) AND metric_name = ANY($3::text[]{results})
"""
# The names of the counted results are known: those of another prefix need not be looked through.
_RESULTS = f"""
SELECT '{RESULT_PREFIX}' || result FROM judgment_results_total
 WHERE tenant_id = $1 AND ($2::text[] = '{{""}}' OR workflow_id = ANY($2::text[])) GROUP BY result
"""
_DETAILS = _BUCKETS.format(results="")
_WITH_RESULTS = _BUCKETS.format(results=f" || ARRAY({_RESULTS})")
_WORKFLOWS = """
SELECT workflow_id, total_executions AS total, total_executions - successful_executions AS failed,
       execution_time_us_sum AS us
  FROM judgment_metrics_total WHERE tenant_id = $1 AND ($2::text[] IS NULL OR workflow_id = ANY($2))
"""
_VERIFIED = "SELECT verified_through FROM reconciliation WHERE slot_name = $1"


def rows_of(connection: Any, sql: str, *values: Any) -> AsyncIterable[Any]:
    """The rows of a query, some at a time, so that others get the event loop: twenty workflows, a week and all metrics are
    20,000. In a transaction."""
    rows: AsyncIterable[Any] = connection.cursor(sql, *values, prefetch=SLICE)
    return rows


async def read_details(
    connection: Any,
    tenant_id: str,
    workflow_ids: list[str],
    metrics: list[str],
    width_s: int,
    since: datetime,
    end: datetime | None = None,
) -> AsyncIterator[tuple[str, int, Sample]]:
    """(metric, start in Unix seconds, sample) of each stored bucket. `metrics`: as in core/dashboards `Needs`.

    `workflow_ids`: `ALL_WORKFLOWS` alone, or some. In a transaction.
    """
    named = [metric for metric in metrics if metric != RESULT_PREFIX]
    sql = _DETAILS if len(named) == len(metrics) else _WITH_RESULTS
    if not metrics:
        return
    rows = rows_of(connection, sql, tenant_id, workflow_ids, named, width_s, since, end)
    async for metric, second, count, failed, total, low, high, slots, counts in rows:
        yield metric, second, Sample(count, failed, int(total), low, high, dict(zip(slots, counts, strict=True)))


class Read:
    """What was read. `known`: the names of all stored metrics; `position`: up to where all is computed, None: not yet.

    `workflows`: sums of all times, where they were asked for.
    """

    def __init__(
        self,
        rows: list[tuple[str, int, Sample]],
        known: list[str],
        workflows: dict[str, Sums],
        position: Position | None,
        verified_through: datetime | None,
    ) -> None:
        self.known, self.workflows = known, workflows
        self.position, self.verified_through = position, verified_through
        self._rows: dict[str, list[tuple[int, Sample]]] = {}
        for metric, second, sample in rows:
            self._rows.setdefault(metric, []).append((second, sample))

    @property
    def metrics(self) -> list[str]:
        """Those that were read, and of which there is something."""
        return list(self._rows)

    def samples(self, metric: str) -> list[tuple[int, Sample]]:
        """(start in Unix seconds, sample) of each stored bucket of a metric."""
        return self._rows.get(metric, [])


class ChartReader:
    """Reads stored buckets. `slot`: whose rollups."""

    def __init__(self, database: Database, slot: str) -> None:
        self._database, self._slot = database, slot

    async def read(
        self,
        tenant_id: str,
        workflow_ids: list[str],
        choose: Callable[[list[str]], list[str]],
        frame: Frame,
        *,
        workflows: bool = False,
    ) -> Read:
        """The stored buckets of the metrics that `choose` picks, given all that are known. No `workflow_ids`: of all.

        Raises DatabaseUnavailable or Overloaded, and what `choose` raises.
        """
        who = tenant_id, workflow_ids or [ALL_WORKFLOWS]
        start, end = datetime.fromtimestamp(frame.start_s, UTC), datetime.fromtimestamp(frame.end_s, UTC)
        async with (
            self._database.query(may_be_slow=True) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            position = await stored_position(connection, self._slot)
            verified_through = await connection.fetchval(_VERIFIED, self._slot)
            found = [await connection.fetch(_KNOWN, tenant_id, one, MAX_KNOWN) for one in who[1]]
            known = list(dict.fromkeys(row["metric_name"] for rows in found for row in rows))
            chosen = choose(known)
            details = [row async for row in read_details(connection, *who, chosen, frame.stored_s, start, end)]
            totals = await connection.fetch(_WORKFLOWS, tenant_id, workflow_ids or None) if workflows else []
        return Read(details, known, {row["workflow_id"]: _sums(row) for row in totals}, position, verified_through)


def _sums(row: Any) -> Sums:
    return Sums(row["total"], row["failed"], execution_time_us=row["us"], histogram={})
