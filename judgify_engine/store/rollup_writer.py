"""Deltas to the rollup tables, each exactly once: the position moves in the same statement.

The statement does nothing unless the stored position is the one that the delta starts from. So a delta that was committed
unseen (the connection broke) or that a process applies after another took over changes nothing a second time.
"""

import logging
from typing import Any

import asyncpg

from judgify_engine.core.histogram import to_array
from judgify_engine.core.rollup import FINE_BUCKET_S, HOUR_S, Delta, Sums
from judgify_engine.errors import DatabaseUnavailable, Unavailable
from judgify_engine.store.pool import AWAY
from judgify_engine.store.recompute import EMPTY, fill
from judgify_engine.units import Position, format_lsn, parse_lsn

log = logging.getLogger(__name__)

_APPLY = """
WITH moved AS (
  UPDATE cdc_positions SET commit_lsn = $2::text::pg_lsn, change_index = $3, updated_at = now()
   WHERE slot_name = $1 AND commit_lsn = $4::text::pg_lsn AND change_index = $5 RETURNING 1
), hourly AS (
  INSERT INTO judgment_metrics_hourly AS m (tenant_id, workflow_id, hour, total_executions, successful_executions,
    rule_executions, llm_executions, hybrid_executions, execution_time_us_sum, confidence_ppm_sum, execution_time_histogram)
  SELECT tenant, workflow, to_timestamp(hour), total, total - failed, rule, llm, hybrid, us, ppm, histogram::bigint[]
    FROM unnest($6::text[], $7::text[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[],
                $14::bigint[], $15::bigint[], $16::text[])
      AS d(tenant, workflow, hour, total, failed, rule, llm, hybrid, us, ppm, histogram)
   WHERE EXISTS (SELECT FROM moved)
  ON CONFLICT (tenant_id, workflow_id, hour) DO UPDATE SET
    total_executions = m.total_executions + excluded.total_executions,
    successful_executions = m.successful_executions + excluded.successful_executions,
    rule_executions = m.rule_executions + excluded.rule_executions,
    llm_executions = m.llm_executions + excluded.llm_executions,
    hybrid_executions = m.hybrid_executions + excluded.hybrid_executions,
    execution_time_us_sum = m.execution_time_us_sum + excluded.execution_time_us_sum,
    confidence_ppm_sum = m.confidence_ppm_sum + excluded.confidence_ppm_sum,
    execution_time_histogram = judgify_histogram_add(m.execution_time_histogram, excluded.execution_time_histogram)
), results AS (
  INSERT INTO judgment_results_hourly AS m (tenant_id, workflow_id, hour, result, total_executions)
  SELECT tenant, workflow, to_timestamp(hour), result, total
    FROM unnest($17::text[], $18::text[], $19::bigint[], $20::text[], $21::bigint[]) AS d(tenant, workflow, hour, result, total)
   WHERE EXISTS (SELECT FROM moved)
  ON CONFLICT (tenant_id, workflow_id, hour, result) DO UPDATE SET
    total_executions = m.total_executions + excluded.total_executions
), fine AS (
  INSERT INTO judgment_metrics_timeseries AS m (time, tenant_id, workflow_id, metric_name, dimensions, count, sum, histogram)
  SELECT to_timestamp(bucket), tenant, workflow, 'execution_time_ms', jsonb_build_object('status', status), total, us,
         histogram::bigint[]
    FROM unnest($22::text[], $23::text[], $24::bigint[], $25::text[], $26::bigint[], $27::bigint[], $28::text[])
      AS d(tenant, workflow, bucket, status, total, us, histogram)
   WHERE EXISTS (SELECT FROM moved)
  ON CONFLICT (tenant_id, time, workflow_id, metric_name, dimensions) DO UPDATE SET
    count = m.count + excluded.count, sum = m.sum + excluded.sum,
    histogram = judgify_histogram_add(m.histogram, excluded.histogram)
)
SELECT count(*) FROM moved
"""


class Fenced(Unavailable):
    """The stored position is not where this process left it: another one reads the log now."""

    code, title = "fenced", "Another process reads the log"


class RollupStore:
    """Writes the rollups over one connection of its own, which belongs to the holder of the slot."""

    def __init__(self, connection: "asyncpg.Connection[Any]", slot: str) -> None:
        self._connection, self._slot = connection, slot

    async def position(self) -> Position | None:
        """Up to where the rollups are computed; None: never."""
        return await stored_position(self._connection, self._slot)

    async def apply(self, delta: Delta) -> None:
        """Commit a delta with its position. Raises Fenced, or DatabaseUnavailable (then it may or may not be committed)."""
        try:
            if delta.truncated:
                async with self._connection.transaction():
                    await self._connection.execute(EMPTY, timeout=3600)
                    await add(self._connection, self._slot, delta)
            else:
                await add(self._connection, self._slot, delta)
        except AWAY as error:
            raise DatabaseUnavailable("PostgreSQL is away; the rollup goes on when it is back") from error

    async def forget_position(self) -> None:
        """Before a new slot is made: until `rebuild` is done, there is no position, so a crash starts over."""
        await self._connection.execute("DELETE FROM cdc_positions WHERE slot_name = $1", self._slot)

    async def rebuild(self, snapshot: str, consistent_lsn: int, live_hours: int) -> Position:
        """Compute the rollups from the table, as of an exported snapshot, and set the position to where a new slot starts."""
        position = Position(consistent_lsn, -1)
        connection = self._connection
        async with connection.transaction(isolation="repeatable_read"):
            # A snapshot's name comes from the server and SET takes no parameters.
            await connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
            await connection.execute(EMPTY, timeout=3600)
            await fill(connection, live_hours)
            await connection.execute(
                "INSERT INTO cdc_positions (slot_name, commit_lsn, change_index) VALUES ($1, $2::text::pg_lsn, $3)",
                self._slot,
                format_lsn(position.lsn),
                position.index,
            )
        return position


async def add(connection: Any, slot: str, delta: Delta) -> None:
    """Add a delta and move the position, in one statement. Raises Fenced when the position is not the delta's base."""
    bounds = (format_lsn(delta.position.lsn), delta.position.index, format_lsn(delta.base.lsn), delta.base.index)
    columns = (*_hourly_columns(delta), *_result_columns(delta), *_fine_columns(delta))
    if not await connection.fetchval(_APPLY, slot, *bounds, *columns):
        raise Fenced("the rollups were moved by another process")


async def stored_position(connection: Any, slot: str) -> Position | None:
    """Up to where the rollups are computed, as this connection's transaction sees it."""
    row = await connection.fetchrow(
        "SELECT commit_lsn::text AS lsn, change_index FROM cdc_positions WHERE slot_name = $1", slot
    )
    return None if row is None else Position(parse_lsn(row["lsn"]), row["change_index"])


def _hourly_columns(delta: Delta) -> list[list[Any]]:
    merged: dict[tuple[str, str, int], Sums] = {}
    for (tenant, workflow, hour, _status), sums in delta.by(HOUR_S).items():
        merged.setdefault((tenant, workflow, hour), Sums(histogram={})).add(sums)
    rows = [
        (*key, s.total, s.failed, s.rule, s.llm, s.hybrid, s.execution_time_us, s.confidence_ppm, to_array(s.histogram))
        for key, s in merged.items()
    ]
    return _columns(rows, 11)


def _result_columns(delta: Delta) -> list[list[Any]]:
    return _columns([(*key, total) for key, total in delta.results.items() if total], 5)


def _fine_columns(delta: Delta) -> list[list[Any]]:
    rows = [
        (tenant, workflow, bucket, status, sums.total, sums.execution_time_us, to_array(sums.histogram))
        for (tenant, workflow, bucket, status), sums in delta.by(FINE_BUCKET_S).items()
    ]
    return _columns(rows, 7)


def _columns(rows: list[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """Rows to columns, as `unnest` takes them."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
