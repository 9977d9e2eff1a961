"""TimescaleDB, where the server has it: whether it can be used, and its policies. Its tables are made in sql/metrics/."""

import logging
from typing import Any

import asyncpg

from judgify_engine.config import MetricsConfig

log = logging.getLogger(__name__)

TABLE, HOURLY = "judgment_metrics_timeseries", "judgment_metrics_hourly_cagg"


async def usable(connection: Any) -> bool:
    """Whether hypertables with all that we use can be made here; makes the extension. Logs why not, where it is there."""
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')"):
        return False
    try:
        async with connection.transaction():
            await connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
            license_ = await connection.fetchval("SELECT current_setting('timescaledb.license', true)")
    except asyncpg.PostgresError as error:
        log.warning("TimescaleDB is installed but cannot be used; plain tables are made", extra={"reason": str(error)})
        return False
    if license_ != "timescale":
        log.warning("TimescaleDB without its community features; plain tables are made", extra={"license": license_})
        return False
    return True


async def has_hypertable(connection: Any, table: str) -> bool:
    """Whether this table is one."""
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb')"):
        return False
    sql = "SELECT EXISTS (SELECT FROM timescaledb_information.hypertables WHERE hypertable_name = $1)"
    return bool(await connection.fetchval(sql, table))


async def set_policies(connection: Any, config: MetricsConfig) -> None:
    """Make compression and retention follow the settings."""
