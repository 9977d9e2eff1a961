"""Quotas of tenants that have their own (`tenant_quotas`)."""

from typing import Any

from judgify_engine.store.pool import Database

_SET = """
INSERT INTO tenant_quotas AS q (tenant_id, requests_per_s, bytes_per_s, sockets) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant_id) DO UPDATE SET requests_per_s = coalesce($2, q.requests_per_s), updated_at = now(),
  bytes_per_s = coalesce($3, q.bytes_per_s), sockets = coalesce($4, q.sockets)
"""


class QuotaStore:
    """Who may use how much. All raise DatabaseUnavailable or Overloaded."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def set(self, tenant_id: str, requests_per_s: float | None, bytes_per_s: float | None, sockets: int | None) -> None:
        """Give a tenant bounds of its own; None leaves one as it is, 0 lifts it."""
        async with self._database.query() as connection:
            await connection.execute(_SET, tenant_id, requests_per_s, bytes_per_s, sockets)

    async def list(self) -> list[Any]:
        """All that are set, by tenant."""
        async with self._database.query() as connection:
            return list(await connection.fetch("SELECT * FROM tenant_quotas ORDER BY tenant_id"))

    async def remove(self, tenant_id: str) -> bool:
        """Let the settings hold for a tenant again. False: it has none of its own."""
        async with self._database.query() as connection:
            done = await connection.execute("DELETE FROM tenant_quotas WHERE tenant_id = $1", tenant_id)
        return bool(done == "DELETE 1")
