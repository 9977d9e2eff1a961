"""Alerts for people: listed with their deliveries, acknowledged, told to dashboards, and forgotten when they are old."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from judgify_engine.store.pool import Database

SLICE_ROWS = 1000
LIST_TIMEOUT_S = 10.0
_COLUMNS = """id, tenant_id, rule_id, rule_version, workflow_id, severity, state, summary, reason, numbers::text AS numbers,
 started_at, fired_at, resolved_at, recorded_at, resolved_reason, acknowledged_at, acknowledged_by, comment, silenced_by,
 revision, changed_at"""
_DELIVERIES = """
SELECT alert_id, sink_id, kind, event, state, attempts, last_error, at FROM alert_deliveries WHERE alert_id = ANY($1::uuid[])
 ORDER BY alert_id, event, sink_id, id
"""
_ACKNOWLEDGE = f"""
UPDATE alerts SET acknowledged_at = coalesce(acknowledged_at, clock_timestamp()),
                  acknowledged_by = coalesce($3, acknowledged_by),
                  comment = coalesce($4, comment), revision = revision + 1, changed_at = clock_timestamp()
 WHERE tenant_id = $1 AND id = $2 RETURNING {_COLUMNS}
"""
_CHANGED = f"""
SELECT {_COLUMNS} FROM alerts WHERE changed_at > clock_timestamp() - make_interval(secs => $1) AND tenant_id = ANY($2::text[])
 ORDER BY changed_at DESC LIMIT $3
"""
_FIRING = f"""
SELECT * FROM (
  SELECT {_COLUMNS}, count(*) OVER (PARTITION BY tenant_id) AS firing,
         row_number() OVER (PARTITION BY tenant_id ORDER BY id DESC) AS place
    FROM alerts WHERE state = 'firing' AND tenant_id = ANY($1::text[])) AS f
 WHERE place <= $2 ORDER BY id DESC
"""
_FORGET = """
DELETE FROM alerts WHERE id = ANY(ARRAY(
  SELECT id FROM alerts WHERE state = 'resolved' AND recorded_at < now() - make_interval(days => $1) LIMIT $2))
"""
_FORGET_SILENCES = """
DELETE FROM alert_silences WHERE ctid = ANY(ARRAY(
  SELECT ctid FROM alert_silences WHERE ends_at < now() - make_interval(days => $1) LIMIT $2))
"""


class AlertFilter(NamedTuple):
    """Which alerts of a tenant a list shows; None: all."""

    state: str | None = None
    rule_id: str | None = None
    severity: str | None = None
    workflow_id: str | None = None


class AlertStore:
    """All raise DatabaseUnavailable or Overloaded."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self, tenant_id: str, wanted: Sequence[str | None], before: UUID | None, limit: int
    ) -> tuple[list[Any], list[Any], bool]:
        """Alerts with an id below `before`, the newest first, their deliveries, and whether there are more. `wanted`: as in
        `AlertFilter`."""
        where, values = ["tenant_id = $1"], [tenant_id]
        conditions = zip(("state", "rule_id", "severity", "workflow_id"), wanted, strict=True)
        for name, value in (*((f"{name} =", value) for name, value in conditions), ("id <", before)):
            if value is not None:
                values.append(value)  # type: ignore[arg-type]  # a UUID for the last one
                where.append(f"{name} ${len(values)}")
        sql = f"SELECT {_COLUMNS} FROM alerts WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT {limit + 1:d}"
        async with self._database.query(may_be_slow=True) as connection:
            rows = await connection.fetch(sql, *values, timeout=LIST_TIMEOUT_S)
            found = rows[:limit]
            deliveries = await connection.fetch(_DELIVERIES, [row["id"] for row in found])
        return found, deliveries, len(rows) > limit

    async def get(self, tenant_id: str, alert_id: UUID) -> tuple[Any, list[Any]] | None:
        """One with its deliveries, or None: there is none, or it is another tenant's."""
        async with self._database.query() as connection:
            sql = f"SELECT {_COLUMNS} FROM alerts WHERE tenant_id = $1 AND id = $2"
            row = await connection.fetchrow(sql, tenant_id, alert_id)
            return None if row is None else (row, await connection.fetch(_DELIVERIES, [alert_id]))

    async def acknowledge(
        self, tenant_id: str, alert_id: UUID, by: str | None, comment: str | None
    ) -> tuple[Any, list[Any]] | None:
        """Somebody looks after it. The first time counts; None: there is no such alert."""
        async with self._database.query() as connection:
            row = await connection.fetchrow(_ACKNOWLEDGE, tenant_id, alert_id, by, comment)
            return None if row is None else (row, await connection.fetch(_DELIVERIES, [alert_id]))

    async def standing(self, tenant_id: str, slot: str) -> tuple[int, datetime | None]:
        """How many fire, and up to when the rules were evaluated."""
        async with self._database.query() as connection:
            firing = await connection.fetchval(
                "SELECT count(*) FROM alerts WHERE tenant_id = $1 AND state = 'firing'", tenant_id
            )
            through = await connection.fetchval("SELECT through FROM alert_evaluations WHERE slot_name = $1", slot)
        return firing, through

    async def changed(self, back_s: float, tenants: Collection[str], limit: int) -> list[Any]:
        """What changed in the last `back_s` seconds of these tenants, the last first."""
        async with self._database.query() as connection:
            found: list[Any] = await connection.fetch(_CHANGED, back_s, list(tenants), limit)
        return found

    async def firing(self, tenants: Collection[str], limit: int) -> tuple[list[Any], dict[str, int]]:
        """What fires, up to `limit` of each tenant, the last first; and how many fire, by tenant."""
        async with self._database.query() as connection:
            rows = await connection.fetch(_FIRING, list(tenants), limit)
        return rows, {row["tenant_id"]: row["firing"] for row in rows}

    async def deliveries(self, rows: Sequence[Any]) -> list[Any]:
        """Of these alerts."""
        if not rows:
            return []
        async with self._database.query() as connection:
            found: list[Any] = await connection.fetch(_DELIVERIES, [row["id"] for row in rows])
        return found


async def tidy(database: Database, days: int) -> None:
    """Forget what is over for so many days, in slices."""
    for sql in (_FORGET, _FORGET_SILENCES):
        forgotten = SLICE_ROWS
        while forgotten == SLICE_ROWS:
            async with database.query() as connection:
                done: str = await connection.execute(sql, days, SLICE_ROWS)
            forgotten = int(done.split()[-1])
