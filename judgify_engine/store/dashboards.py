"""Dashboards' definitions in PostgreSQL. A trigger numbers the versions, whoever writes (see sql/0012)."""

import logging
from collections.abc import Collection

import msgspec

from judgify_engine.core.dashboards import BUILT_IN, MAX_DASHBOARDS, Dashboard, Defined, StoredDashboard, VersionRow
from judgify_engine.errors import InvalidField, VersionMismatch
from judgify_engine.store.limits import one_writer
from judgify_engine.store.pool import Database

log = logging.getLogger(__name__)

_COUNT = "SELECT count(*) FROM dashboards WHERE tenant_id = $1 AND dashboard_id <> $2"
# Of several writers who expect the same version one finds it: the row is locked before its version is looked at.
_PUT = """
INSERT INTO dashboards AS d (tenant_id, dashboard_id, version, definition) VALUES ($1, $2, 0, $3)
    ON CONFLICT (tenant_id, dashboard_id) DO UPDATE SET definition = excluded.definition
 WHERE $4::int IS NULL OR d.version = $4
RETURNING version, definition, updated_at
"""
_PUT_OVER = """
UPDATE dashboards SET definition = $3 WHERE tenant_id = $1 AND dashboard_id = $2 AND version = $4
RETURNING version, definition, updated_at
"""
_VERSIONS = """
SELECT d.tenant_id, d.dashboard_id, d.version
  FROM unnest($1::text[], $2::text[]) AS asked(tenant_id, dashboard_id) JOIN dashboards AS d USING (tenant_id, dashboard_id)
"""
_decode = msgspec.json.Decoder(Dashboard).decode


class DashboardStore:
    """Reads and writes definitions, each call within one tenant, but for `versions_of`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, tenant_id: str, dashboard_id: str, version: int | None = None) -> StoredDashboard | None:
        """The current version, or the one asked for (also of a deleted dashboard)."""
        columns = "SELECT version, definition, {} AS at FROM {} WHERE tenant_id = $1 AND dashboard_id = $2"
        sql = columns.format("updated_at", "dashboards")
        if version is not None:
            sql = columns.format("created_at", "dashboard_versions") + " AND version = $3"
        async with self._database.query() as connection:
            arguments = (tenant_id, dashboard_id) if version is None else (tenant_id, dashboard_id, version)
            row = await connection.fetchrow(sql, *arguments)
        return None if row is None else StoredDashboard(dashboard_id, row["version"], row["definition"], row["at"])

    async def stored(self, tenant_id: str) -> list[VersionRow]:
        """All that are stored, in the order of their ids."""
        async with self._database.query() as connection:
            rows = await connection.fetch(
                "SELECT dashboard_id, version, coalesce(definition->>'name', '') AS name, updated_at FROM dashboards"
                " WHERE tenant_id = $1 ORDER BY dashboard_id",
                tenant_id,
            )
        return [VersionRow(*row) for row in rows]

    async def versions(self, tenant_id: str, dashboard_id: str, before: int, limit: int) -> list[VersionRow]:
        """The versions under `before`, the newest first; also of a deleted dashboard."""
        async with self._database.query() as connection:
            rows = await connection.fetch(
                "SELECT dashboard_id, version, coalesce(definition->>'name', '') AS name, created_at FROM dashboard_versions"
                " WHERE tenant_id = $1 AND dashboard_id = $2 AND version < $3 ORDER BY version DESC LIMIT $4",
                tenant_id,
                dashboard_id,
                before,
                limit,
            )
        return [VersionRow(*row) for row in rows]

    async def put(self, tenant_id: str, dashboard_id: str, definition: str, expected: int | None) -> StoredDashboard:
        """Store a new version. `expected`: only over this one; 0: only where there is none.

        Raises VersionMismatch, and InvalidField where a tenant has too many.
        """
        async with one_writer(self._database, "dashboards", tenant_id) as connection:
            others = await connection.fetchval(_COUNT, tenant_id, dashboard_id)
            if others >= MAX_DASHBOARDS:
                raise InvalidField(
                    f"a tenant may have {MAX_DASHBOARDS} dashboards, and has {others} others; delete one of them",
                    field="dashboard_id",
                    limit=MAX_DASHBOARDS,
                )
            sql = _PUT_OVER if expected else _PUT
            row = await connection.fetchrow(sql, tenant_id, dashboard_id, definition, expected)
        if row is None:
            raise await self._mismatch(tenant_id, dashboard_id, expected)
        return StoredDashboard(dashboard_id, *row)

    async def delete(self, tenant_id: str, dashboard_id: str, expected: int | None) -> bool:
        """Remove the dashboard; its versions are kept. False: there was none. Raises VersionMismatch."""
        async with self._database.query() as connection:
            done = await connection.execute(
                "DELETE FROM dashboards WHERE tenant_id = $1 AND dashboard_id = $2 AND ($3::int IS NULL OR version = $3)",
                tenant_id,
                dashboard_id,
                expected,
            )
        if done == "DELETE 0" and expected is not None and (expected or await self.get(tenant_id, dashboard_id)):
            raise await self._mismatch(tenant_id, dashboard_id, expected)
        return bool(done != "DELETE 0")

    async def _mismatch(self, tenant_id: str, dashboard_id: str, expected: int | None) -> VersionMismatch:
        stored = await self.get(tenant_id, dashboard_id)
        current = 0 if stored is None else stored.version
        return VersionMismatch(
            f"If-Match names version {expected} of dashboard {dashboard_id!r}, and the current one is {current}: read it,"
            " and put your changes into it",
            field="If-Match",
            version=current,
        )

    async def current(self, tenant_id: str, dashboard_id: str) -> Defined:
        """What sockets show. What somebody stored past the API and nobody can show is taken for the built-in one."""
        stored = await self.get(tenant_id, dashboard_id)
        if stored is None:
            return Defined(0, BUILT_IN)
        try:
            return Defined(stored.version, _decode(stored.definition))
        except msgspec.ValidationError as error:
            log.warning("a dashboard's definition cannot be used", extra={"dashboard": dashboard_id, "reason": str(error)})
            return Defined(stored.version, BUILT_IN)

    async def versions_of(self, dashboards: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
        """(tenant, id) to the current version, of those that are stored."""
        tenants, ids = [tenant_id for tenant_id, _ in dashboards], [dashboard_id for _, dashboard_id in dashboards]
        async with self._database.query() as connection:
            rows = await connection.fetch(_VERSIONS, tenants, ids)
        return {(row["tenant_id"], row["dashboard_id"]): row["version"] for row in rows}
