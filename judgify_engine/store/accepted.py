"""What processes have answered, as they counted it: `judgments_accepted`."""

from datetime import UTC, datetime

from judgify_engine.store.pool import Database

# Never less than before: a process whose clock went back may have forgotten an hour and counts it anew.
_WRITE = """
INSERT INTO judgments_accepted AS a (hour, tenant_id, process, count)
SELECT hour, tenant, $1::text::uuid, count FROM unnest($2::timestamptz[], $3::text[], $4::bigint[]) AS c(hour, tenant, count)
ON CONFLICT (hour, tenant_id, process) DO UPDATE SET count = greatest(a.count, excluded.count)
"""


class AcceptedStore:
    """Writes the counts beside the rollups."""

    def __init__(self, rollups: Database) -> None:
        self._rollups = rollups

    async def write(self, process: str, counts: dict[tuple[str, int], int]) -> None:
        """Keep these absolute counts of (tenant, hour). Raises DatabaseUnavailable or Overloaded."""
        hours = [datetime.fromtimestamp(hour, UTC) for _, hour in counts]
        tenants = [tenant for tenant, _ in counts]
        async with self._rollups.query() as connection:
            await connection.execute(_WRITE, process, hours, tenants, list(counts.values()))
