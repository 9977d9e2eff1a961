"""Workflows in PostgreSQL. A trigger numbers the versions, whoever writes (see sql/0001)."""

from datetime import datetime
from typing import NamedTuple

from judgify_engine.store.pool import Database


class StoredWorkflow(NamedTuple):
    """One version as it is stored; `definition` is JSON."""

    tenant_id: str
    workflow_id: str
    version: int
    definition: str
    updated_at: datetime


class WorkflowStore:
    """Reads and writes workflows, each call within one tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, tenant_id: str, workflow_id: str, version: int | None = None) -> StoredWorkflow | None:
        """The current version, or the one asked for (also of a deleted workflow)."""
        if version is None:
            sql = "SELECT *, updated_at AS at FROM workflows WHERE tenant_id = $1 AND workflow_id = $2"
        else:
            sql = "SELECT *, created_at AS at FROM workflow_versions WHERE tenant_id = $1 AND workflow_id = $2 AND version = $3"
        async with self._database.query() as connection:
            arguments = (tenant_id, workflow_id) if version is None else (tenant_id, workflow_id, version)
            row = await connection.fetchrow(sql, *arguments)
        return None if row is None else StoredWorkflow(tenant_id, workflow_id, row["version"], row["definition"], row["at"])

    async def page(self, tenant_id: str, after: str, limit: int, contains: str = "") -> list[StoredWorkflow]:
        """Current versions in the order of their ids, beginning after `after`; `contains`: with this in the id, in any case."""
        async with self._database.query() as connection:
            rows = await connection.fetch(
                "SELECT * FROM workflows WHERE tenant_id = $1 AND workflow_id > $2"
                " AND strpos(lower(workflow_id), lower($4)) > 0 ORDER BY workflow_id LIMIT $3",
                tenant_id,
                after,
                limit,
                contains,
            )
        return [StoredWorkflow(tenant_id, r["workflow_id"], r["version"], r["definition"], r["updated_at"]) for r in rows]

    async def put(self, tenant_id: str, workflow_id: str, definition: str) -> StoredWorkflow:
        """Store a new version."""
        async with self._database.query() as connection:
            row = await connection.fetchrow(
                "INSERT INTO workflows (tenant_id, workflow_id, version, definition) VALUES ($1, $2, 0, $3)"
                " ON CONFLICT (tenant_id, workflow_id) DO UPDATE SET definition = excluded.definition"
                " RETURNING version, definition, updated_at",
                tenant_id,
                workflow_id,
                definition,
            )
        return StoredWorkflow(tenant_id, workflow_id, *row)

    async def delete(self, tenant_id: str, workflow_id: str) -> bool:
        """Remove the workflow; its versions are kept for the records that name them. False: there was none."""
        async with self._database.query() as connection:
            done = await connection.execute(
                "DELETE FROM workflows WHERE tenant_id = $1 AND workflow_id = $2", tenant_id, workflow_id
            )
        return bool(done != "DELETE 0")
