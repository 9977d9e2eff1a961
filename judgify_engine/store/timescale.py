"""TimescaleDB, where the server has it: whether it can be used, and its policies.

Its tables are made in sql/metrics/. What is known of its ways (2.28, tried): a refresh that reaches hours whose samples were
dropped by retention deletes them from the aggregate, so none starts before what is kept; one that ends after the
current hour freezes it, so none does; a policy is made anew only when its settings differ, because a new one runs at once.
"""

import logging
from datetime import timedelta
from typing import Any

from judgify_engine.config import MetricsConfig
from judgify_engine.errors import StartupError

log = logging.getLogger(__name__)

TABLE, HOURLY = "judgment_metrics_timeseries", "judgment_metrics_hourly_cagg"
_STATE = """
SELECT (SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb') AS available,
       (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS installed,
       EXISTS (SELECT FROM pg_settings WHERE name = 'timescaledb.disable_load') AS preloaded,
       coalesce(current_setting('timescaledb.license', true), 'timescale') AS license,
       has_database_privilege(current_database(), 'CREATE') AS may_create
"""
# The job of an aggregate bears the name of its view from 2.20 on, before that the name of the table that it fills.
_AGE_NOW = """
SELECT (config ->> $2)::interval FROM timescaledb_information.jobs
 WHERE proc_name = $1 AND hypertable_name IN ($3, $4, (
   SELECT materialization_hypertable_name FROM timescaledb_information.continuous_aggregates WHERE view_name = $4))
"""
# Procedure, the key of its age, how it is removed, how it is made. Refreshing reads only what changed since the last time, so
# it may come often: late rows below the aggregate's watermark show after it.
_POLICIES = (
    (
        "policy_compression",
        "compress_after",
        f"CALL remove_columnstore_policy('{TABLE}', if_exists => true)",
        f"CALL add_columnstore_policy('{TABLE}', after => $1::interval)",
    ),
    (
        "policy_retention",
        "drop_after",
        f"SELECT remove_retention_policy('{TABLE}', if_exists => true)",
        f"SELECT add_retention_policy('{TABLE}', drop_after => $1::interval)",
    ),
    (
        "policy_refresh_continuous_aggregate",
        "start_offset",
        f"SELECT remove_continuous_aggregate_policy('{HOURLY}', if_exists => true)",
        f"SELECT add_continuous_aggregate_policy('{HOURLY}', start_offset => $1::interval, end_offset => INTERVAL '1 hour',"
        " schedule_interval => INTERVAL '5 minutes')",
    ),
)


async def usable(connection: Any) -> bool:
    """Whether hypertables with all that we use can be made here; makes the extension. Logs why not, where it is there."""
    state = await connection.fetchrow(_STATE)
    if not state["available"] and not state["installed"]:
        return False
    lacks = ""
    if not state["preloaded"]:
        lacks = "it is not in shared_preload_libraries"
    elif state["license"] != "timescale":
        lacks = f"timescaledb.license is {state['license']}, which is without its community features"
    elif not state["installed"] and not state["may_create"]:
        lacks = "the database's user may not create extensions"
    if lacks:
        log.warning("TimescaleDB is there but is not used; plain tables are made", extra={"reason": lacks})
        return False
    await connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    return True


async def has_hypertable(connection: Any) -> bool:
    """Whether the samples are in a hypertable. Raises StartupError where they are, but TimescaleDB does not work any more."""
    state = await connection.fetchrow(_STATE)
    if not state["installed"]:
        return False
    if not state["preloaded"]:  # compressed rows would silently be left out
        raise StartupError(
            "the metrics database has TimescaleDB tables, but shared_preload_libraries has no timescaledb any more"
        )
    sql = "SELECT EXISTS (SELECT FROM timescaledb_information.hypertables WHERE hypertable_name = $1)"
    return bool(await connection.fetchval(sql, TABLE))


async def set_policies(connection: Any, config: MetricsConfig) -> None:
    """Make compression, retention and refreshing follow the settings."""
    ages = {
        "policy_compression": timedelta(days=config.compress_after_days),
        "policy_retention": timedelta(days=config.keep_days),
        "policy_refresh_continuous_aggregate": timedelta(days=config.keep_days) - timedelta(days=1),
    }
    for procedure, key, remove, add in _POLICIES:
        known = await connection.fetchval(_AGE_NOW, procedure, key, TABLE, HOURLY)
        if known == ages[procedure]:
            continue
        async with connection.transaction():
            await connection.execute(remove)
            await connection.execute(add, ages[procedure])
        log.info("a policy was set", extra={"policy": procedure, "days": ages[procedure].days})
