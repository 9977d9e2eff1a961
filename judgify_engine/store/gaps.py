"""Gaps: times at which changes may have been missed, so that all rollups were computed anew (`cdc_gaps`).

A gap is opened in the transaction that forgets the position, and closed in the one that puts the new rollups and the new
position in place: there is never a position without its rollups, nor such a recomputation without its record.
"""

from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from judgify_engine.core.healing import Finding
from judgify_engine.store.pool import Database

_OPEN = """
WITH forgotten AS (
  DELETE FROM cdc_positions WHERE slot_name = $1 RETURNING commit_lsn, change_index, updated_at
), unproven AS (
  DELETE FROM reconciliation WHERE slot_name = $1
)
INSERT INTO cdc_gaps AS g (slot_name, reason, details, from_lsn, from_index, last_applied_at)
SELECT $1, $2, $3::text::jsonb, f.commit_lsn, f.change_index, f.updated_at FROM (SELECT) AS one LEFT JOIN forgotten AS f ON true
ON CONFLICT (slot_name) WHERE recompute_finished_at IS NULL
DO UPDATE SET attempts = g.attempts + 1, recompute_started_at = now()
RETURNING id, reason
"""
_COUNT_BEFORE = """
INSERT INTO cdc_gap_tenants (gap_id, tenant_id, judgments_before, judgments_after)
SELECT $1, tenant_id, sum(total_executions), 0 FROM judgment_metrics_total GROUP BY tenant_id
"""
_COUNT_AFTER = """
INSERT INTO cdc_gap_tenants AS t (gap_id, tenant_id, judgments_before, judgments_after)
SELECT $1, tenant_id, 0, sum(total_executions) FROM judgment_metrics_total GROUP BY tenant_id
ON CONFLICT (gap_id, tenant_id) DO UPDATE SET judgments_after = excluded.judgments_after
"""
_CLOSE = """
UPDATE cdc_gaps SET recompute_finished_at = now(), to_lsn = $2::text::pg_lsn, error = NULL,
       (judgments_before, judgments_after) = (
         SELECT coalesce(sum(judgments_before), 0), coalesce(sum(judgments_after), 0) FROM cdc_gap_tenants WHERE gap_id = $1)
 WHERE id = $1
"""
_ONLY_DIFFERENT = "DELETE FROM cdc_gap_tenants WHERE gap_id = $1 AND judgments_before = judgments_after"
# The very first slot of an empty table: nothing was missed, nothing is told.
_NO_GAP = "DELETE FROM cdc_gaps WHERE id = $1 AND reason = 'first' AND NOT (details ->> 'judgments')::boolean"
_LIST = """
SELECT g.id, reason, detected_at, from_lsn::text AS from_lsn, from_index, last_applied_at, to_lsn::text AS to_lsn, attempts,
       recompute_started_at, recompute_finished_at, error IS NOT NULL AS failing, t.judgments_before, t.judgments_after
  FROM cdc_gaps AS g LEFT JOIN cdc_gap_tenants AS t ON t.gap_id = g.id AND t.tenant_id = $2
 WHERE slot_name = $1 ORDER BY g.id DESC LIMIT $3
"""
_OPEN_ONE = "SELECT reason, detected_at FROM cdc_gaps WHERE slot_name = $1 AND recompute_finished_at IS NULL"


class OpenGap(NamedTuple):
    """A gap that is being closed."""

    number: int
    reason: str


async def begin(connection: Any, slot: str, finding: Finding) -> OpenGap:
    """Forget the position and open a gap, or go on with the one that is open, in one statement."""
    row = await connection.fetchrow(_OPEN, slot, finding.reason, msgspec.json.encode(finding.details).decode())
    return OpenGap(row["id"], row["reason"])


async def count_before(connection: Any, gap: OpenGap) -> None:
    """In the transaction that replaces the rollups, before it does."""
    await connection.execute(_COUNT_BEFORE, gap.number)


async def close(connection: Any, gap: OpenGap, lsn: str) -> None:
    """In the transaction that has replaced the rollups."""
    await connection.execute(_COUNT_AFTER, gap.number)
    await connection.execute(_CLOSE, gap.number, lsn)
    await connection.execute(_ONLY_DIFFERENT, gap.number)
    await connection.execute(_NO_GAP, gap.number)


async def failed(database: Database, gap: OpenGap, reason: str) -> None:
    """Keep why an attempt failed. Raises DatabaseUnavailable or Overloaded."""
    async with database.query() as connection:  # the one that the attempt was made over may be dead, without saying so
        await connection.execute("UPDATE cdc_gaps SET error = $2 WHERE id = $1", gap.number, reason[:1000])


async def open_one(connection: Any, slot: str) -> tuple[str, datetime] | None:
    """The reason of the gap that is being closed, and since when; None: there is none."""
    row = await connection.fetchrow(_OPEN_ONE, slot)
    return None if row is None else (row["reason"], row["detected_at"])


class GapReader:
    """Lists gaps, the newest first. `slot`: whose rollups."""

    def __init__(self, database: Database, slot: str) -> None:
        self._database, self._slot = database, slot

    async def list(self, tenant_id: str, limit: int) -> list[Any]:
        """With the counts of this tenant only. Raises DatabaseUnavailable or Overloaded."""
        async with self._database.query(may_be_slow=True) as connection:
            return list(await connection.fetch(_LIST, self._slot, tenant_id, limit))
