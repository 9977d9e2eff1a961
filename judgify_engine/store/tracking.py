"""What workflows track, as far back as there are versions, and how a judgment's tracked values are found in SQL. See
core/tracking."""

from typing import Any

import msgspec

from judgify_engine.core.depth import is_deep_sql
from judgify_engine.core.histogram import LIMIT
from judgify_engine.core.tracking import Tracking, ranges, tracked_names
from judgify_engine.store.pool import Database

# Only the versions at which the fields changed; workflows that never tracked anything are left out.
_CHANGED = """
SELECT tenant_id, workflow_id, version, created_at, definition::text AS definition
  FROM (SELECT *, definition -> 'track' AS track,
               lag(definition -> 'track') OVER (PARTITION BY tenant_id, workflow_id ORDER BY version) AS before
          FROM workflow_versions WHERE {which}) AS v
 WHERE track IS DISTINCT FROM before ORDER BY tenant_id, workflow_id, version
"""

BELIEVED_SQL = "occurred_at >= '2000-01-01Z' AND occurred_at < '2200-01-01Z'"
"""Whether a judgment's tracked values are charted by `occurred_at`; else by `created_at`. As `tracked_time_us`."""
CREATED_US_SQL = "(extract(epoch FROM created_at) * 1000000)::bigint"
TRACKS_COLUMNS = "workflow_id text, from_version bigint, to_version bigint, from_us bigint, to_us bigint"
"""Of what `ranges` gives, as `jsonb_to_recordset` takes it."""


def held_sql(version: str, created_us: str) -> str:
    """Whether a range (`TRACKS_COLUMNS`) holds for a judgment of this version and time."""
    return (
        f"CASE WHEN {version} > 0 THEN {version} >= from_version AND {version} < to_version"
        f" ELSE {created_us} >= from_us AND {created_us} < to_us END"
    )


def value_sql(place: str) -> str:
    """The value of a place in JSON as double precision; NULL: it is no number, or none that fits."""
    return (
        f"CASE WHEN jsonb_typeof({place}) = 'number'"
        f" THEN CASE WHEN abs({place}::numeric) >= 1e13 THEN NULL WHEN abs({place}::numeric) < 1e-300 THEN 0"
        f" ELSE {place}::numeric END END::double precision"
    )


def counts_sql(tracks: str, field: str) -> str:
    """Whether a judgment has a value that is charted of a field. `tracks`, `field`: parameters, the former of `tracks_of`."""
    return (
        f"EXISTS (SELECT FROM jsonb_to_recordset({tracks}::jsonb) AS t({TRACKS_COLUMNS})"
        f" WHERE t.workflow_id = judgment_executions.workflow_id AND {held_sql('workflow_version', CREATED_US_SQL)})"
        f" AND (SELECT abs({value_sql('place')}) <= {LIMIT:.0f}"
        f" FROM (SELECT input_data #> string_to_array({field}::text, '.') AS place) AS p)"
        f" AND NOT {is_deep_sql('input_data')}"
    )


async def tracks_of(connection: Any, tenant_id: str, field: str) -> str | None:
    """Which versions of a tenant's workflows track a field, as JSON (`TRACKS_COLUMNS`); None: none ever did."""
    found = [track for track in ranges(await read_versions(connection, tenant_id)) if field in track["fields"]]
    return msgspec.json.encode(found).decode() if found else None


async def read_versions(connection: Any, tenant_id: str | None = None) -> list[tuple[str, str, int, int, tuple[str, ...]]]:
    """(tenant, workflow, version, created µs, fields) of the versions at which the fields changed, in order.

    `tenant_id`: of this tenant only.
    """
    if tenant_id is None:
        rows = await connection.fetch(_CHANGED.format(which="true"))
    else:
        rows = await connection.fetch(_CHANGED.format(which="tenant_id = $1"), tenant_id)
    return [
        (
            row["tenant_id"],
            row["workflow_id"],
            row["version"],
            round(row["created_at"].timestamp() * 1_000_000),
            tracked_names(row["definition"]),
        )
        for row in rows
    ]


async def read_tracking(database: Database) -> Tracking:
    """All of it. Raises DatabaseUnavailable or Overloaded."""
    async with database.query(may_be_slow=True) as connection:
        return Tracking(await read_versions(connection))
