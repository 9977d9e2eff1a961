"""What workflows track, as far back as there are versions. See core/tracking."""

from typing import Any

from judgify_engine.core.tracking import Tracking, tracked_names
from judgify_engine.store.pool import Database

# Only the versions at which the fields changed; workflows that never tracked anything are left out.
_CHANGED = """
SELECT tenant_id, workflow_id, version, created_at, definition::text AS definition
  FROM (SELECT *, definition -> 'track' AS track,
               lag(definition -> 'track') OVER (PARTITION BY tenant_id, workflow_id ORDER BY version) AS before
          FROM workflow_versions) AS v
 WHERE track IS DISTINCT FROM before ORDER BY tenant_id, workflow_id, version
"""


async def read_versions(connection: Any) -> list[tuple[str, str, int, int, tuple[str, ...]]]:
    """(tenant, workflow, version, created µs, fields) of the versions at which the fields changed, in order."""
    return [
        (
            row["tenant_id"],
            row["workflow_id"],
            row["version"],
            round(row["created_at"].timestamp() * 1_000_000),
            tracked_names(row["definition"]),
        )
        for row in await connection.fetch(_CHANGED)
    ]


async def read_tracking(database: Database) -> Tracking:
    """All of it. Raises DatabaseUnavailable or Overloaded."""
    async with database.query(may_be_slow=True) as connection:
        return Tracking(await read_versions(connection))
