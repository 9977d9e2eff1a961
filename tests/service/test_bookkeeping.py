"""What the rollups keep books of is tidied when it is over and done with, and never before."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from support import cluster
from support.engine import Engine

from judgify_engine.config import Config
from judgify_engine.store import metrics_upkeep
from judgify_engine.store.pool import Database

ASK = "INSERT INTO rollup_repairs (slot_name, range_from, range_to, requested_at, finished_at, error)"
RECORD = "INSERT INTO reconciliation_differences (slot_name, tenant_id, range_from, range_to, stored, rolled_up, resolved_at)"
HOURS = "'2026-01-01T00:00Z', '2026-01-01T01:00Z'"
OLD, RECENT = "now() - interval '31 days'", "now() - interval '29 days'"


async def test_what_is_done_with_is_forgotten_after_a_month(
    database: cluster.Database, start_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_upkeep, "SLICE_ROWS", 2)
    start_engine(database).terminate()
    for ended in (OLD, OLD, OLD, RECENT, "NULL"):
        await database.do(f"{ASK} VALUES ('s', {HOURS}, {OLD}, {ended}, 'refused')")
        await database.do(f"{RECORD} VALUES ('s', gen_random_uuid()::text, {HOURS}, 1, 2, {ended})")
    await database.do("INSERT INTO cdc_gaps (slot_name, reason, recompute_finished_at) VALUES ('s', 'lost', '2001-01-01')")
    pools = Database(database.dsn, Config())
    await pools.open()
    try:
        await metrics_upkeep.forget(pools, Config(), datetime.now(UTC))
    finally:
        await pools.close()
    left = "SELECT {0} FROM {1} ORDER BY {0} NULLS FIRST"
    for table, ended in (("rollup_repairs", "finished_at"), ("reconciliation_differences", "resolved_at")):
        open_one, recent = [row[0] for row in await database.rows(left.format(ended, table))]
        assert open_one is None, "what is open stays, however old"
        assert datetime.now(UTC) - recent < timedelta(days=30)
    assert await database.value("SELECT count(*) FROM cdc_gaps") == 1, "gaps are a record for users"
