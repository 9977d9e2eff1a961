"""The rollups of a view at one position: all read in one transaction, so they agree with it and with each other."""

from collections.abc import AsyncIterable
from datetime import UTC, datetime, timedelta
from typing import Any

from judgify_engine.core.bins import binned
from judgify_engine.core.chart_state import FrameDetails, add_counts, at
from judgify_engine.core.counts import METHOD_PREFIX, RESULT_PREFIX
from judgify_engine.core.dashboards import BUCKETS_S, FRAMES_S, Needs
from judgify_engine.core.message import LIVE_WINDOW_S
from judgify_engine.core.rollup import Sums
from judgify_engine.core.samples import ALL_WORKFLOWS, CONFIDENCE, EXECUTION_TIME, FINE_S, HOUR_S, LIVE_S, Sample, told
from judgify_engine.core.view import Snapshot, ViewKey
from judgify_engine.store.charts import read_details, rows_of
from judgify_engine.store.pool import Database
from judgify_engine.store.rollup_writer import stored_position
from judgify_engine.units import START, Position

_WORKFLOWS = """
SELECT workflow_id, total_executions AS total, total_executions - successful_executions AS failed, rule_executions AS rule,
       llm_executions AS llm, hybrid_executions AS hybrid, execution_time_us_sum AS us, confidence_ppm_sum AS ppm
  FROM judgment_metrics_total WHERE tenant_id = $1 AND ($2::text[] IS NULL OR workflow_id = ANY($2))
"""
_VERIFIED = "SELECT verified_through FROM reconciliation WHERE slot_name = $1"
# Positions of two histories of the rollups say nothing of each other: another server or timeline, or rollups that were made
# what they are otherwise than by deltas.
_ORIGIN = """
SELECT left(md5(concat_ws('/', p.slot_name, p.system_identifier, p.timeline,
         (SELECT extract(epoch FROM max(recompute_finished_at)) FROM cdc_gaps WHERE slot_name = $1),
         (SELECT extract(epoch FROM max(finished_at)) FROM rollup_repairs WHERE slot_name = $1))), 16)
  FROM cdc_positions AS p WHERE p.slot_name = $1
"""
_SERVER = "SELECT system_identifier FROM cdc_positions WHERE slot_name = $1"
_RESULTS = """
SELECT result, sum(total_executions)::bigint AS total FROM judgment_results_total
 WHERE tenant_id = $1 AND ($2::text[] IS NULL OR workflow_id = ANY($2)) GROUP BY result
"""
_BUCKETS = f"""
SELECT extract(epoch FROM bucket)::bigint AS second, count AS total, failed, (sum * 1000)::bigint AS us, slots, counts
  FROM judgment_metrics_buckets
 WHERE tenant_id = $1 AND workflow_id = ANY($2::text[]) AND metric_name = '{EXECUTION_TIME}' AND width_s = $3 AND bucket >= $4
"""


class SnapshotReader:
    """Reads views from the rollup tables."""

    def __init__(self, database: Database, slot: str) -> None:
        self._database, self._slot = database, slot

    async def position(self) -> Position:
        """Up to where the rollups are computed; START while they are made anew. Raises DatabaseUnavailable, Overloaded."""
        async with self._database.query() as connection:
            return await stored_position(connection, self._slot) or START

    async def snapshot(self, key: ViewKey, needs: Needs) -> Snapshot:
        """The figures of a view and the position that they hold for. Raises DatabaseUnavailable."""
        now = datetime.now(UTC)
        who = key.tenant_id, list(needs.workflow_ids) or None
        width_s = BUCKETS_S[key.timeframe]
        since = _floor(now - timedelta(seconds=FRAMES_S[key.timeframe]), width_s)
        live_since = _floor(now - timedelta(seconds=LIVE_WINDOW_S), LIVE_S)
        async with (
            self._database.query(may_be_slow=True) as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            position = await stored_position(connection, self._slot)
            verified = await connection.fetchval(_VERIFIED, self._slot)
            origin = await connection.fetchval(_ORIGIN, self._slot)
            workflows = await connection.fetch(_WORKFLOWS, *who)
            results = await connection.fetch(_RESULTS, *who)
            place = key.tenant_id, list(needs.workflow_ids) or [ALL_WORKFLOWS]
            stored_s = HOUR_S if width_s >= HOUR_S else FINE_S
            sums = await _in_buckets(rows_of(connection, _BUCKETS, *place, stored_s, since), width_s)
            live = await _in_buckets(rows_of(connection, _BUCKETS, *place, LIVE_S, live_since), LIVE_S)
            details = FrameDetails(int(since.timestamp()))
            async for metric, second, sample in read_details(connection, *place, list(needs.metrics), stored_s, since):
                _detail(details, sums, metric, second - second % width_s, sample)
        return Snapshot(
            position or START,
            {row["workflow_id"]: _sums(row) for row in workflows},
            {row["result"]: row["total"] for row in results},
            sums,
            live,
            verified_through_s=None if verified is None else int(verified.timestamp()),
            recomputing=position is None,
            details=details,
            origin=origin or "",
        )

    async def origin(self) -> str | None:
        """Whose log the rollups are of; None: they are not whole. Raises DatabaseUnavailable."""
        async with self._database.query() as connection:
            server = await connection.fetchval(_SERVER, self._slot)
        return None if server is None else f"{server}/{self._slot}"


async def _in_buckets(rows: AsyncIterable[Any], width_s: int) -> dict[int, Sums]:
    found: dict[int, Sums] = {}
    async for row in rows:
        bucket = row["second"] - row["second"] % width_s
        sums = _sums(row)
        if bucket in found:
            found[bucket].add(sums)
        else:
            found[bucket] = sums
    return found


def _detail(details: FrameDetails, sums: dict[int, Sums], metric: str, bucket: int, sample: Sample) -> None:
    """Put a stored bucket in its place."""
    if metric == CONFIDENCE:
        add_counts(details.confidences.setdefault(bucket, {}), binned(sample.histogram))
    elif metric.startswith(RESULT_PREFIX):
        add_counts(details.results.setdefault(bucket, {}), {metric.removeprefix(RESULT_PREFIX): sample.count})
    elif metric.startswith(METHOD_PREFIX):
        method, found = metric.removeprefix(METHOD_PREFIX), at(sums, bucket)
        setattr(found, method, getattr(found, method) + sample.count)
    else:
        buckets = details.tracked.setdefault(metric, {})
        known = buckets.get(bucket)
        if known is not None:
            sample.add(known.sample)
        buckets[bucket] = told(sample)


def _floor(moment: datetime, width_s: int) -> datetime:
    seconds = int(moment.timestamp())
    return datetime.fromtimestamp(seconds - seconds % width_s, UTC)


def _sums(row: Any) -> Sums:
    return Sums(
        total=row["total"],
        failed=row["failed"],
        rule=row.get("rule", 0),
        llm=row.get("llm", 0),
        hybrid=row.get("hybrid", 0),
        execution_time_us=row["us"],
        confidence_ppm=row.get("ppm", 0),
        histogram=dict(zip(row.get("slots", ()), row.get("counts", ()), strict=True)),
    )
