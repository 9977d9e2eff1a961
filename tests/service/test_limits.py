"""What a tenant may have so many of: not one more, however many are put at once."""

import asyncio
from typing import Any, NamedTuple

import pytest
from support.client import Client, new_tenant
from support.engine import Engine
from support.waiting import until

from judgify_engine.config import Config
from judgify_engine.core.alert_rules import MAX_RULES
from judgify_engine.core.alert_sinks import MAX_SINKS
from judgify_engine.core.dashboards import MAX_DASHBOARDS
from judgify_engine.store.alert_rules import MAX_SILENCES
from judgify_engine.store.limits import LIMIT_LOCKS, one_writer
from judgify_engine.store.pool import Database as Pools

AT_ONCE = 20
WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = $1 AND NOT granted"


class Limited(NamedTuple):
    """`columns`, `values`: a row of the table, but for its tenant and its id, which ends in the number `n`."""

    path: str
    table: str
    field: str
    limit: int
    columns: str
    values: str
    body: dict[str, Any]


LIMITED = [
    Limited(
        "dashboards", "dashboards", "dashboard_id", MAX_DASHBOARDS, "version, definition", "0, '{}'",
        {"name": "One", "charts": []},
    ),
    Limited("alert-rules", "alert_rules", "rule_id", MAX_RULES, "version, definition", "0, '{}'", {"when": "window.count > 1"}),
    Limited("alert-sinks", "alert_sinks", "sink_id", MAX_SINKS, "definition", "'{}'", {"kind": "slack", "url": "http://example.org"}),
    Limited(
        "silences", "alert_silences", "silence_id", MAX_SILENCES, "starts_at, ends_at", "now(), now() + interval '1 day'",
        {"ends_at": "2100-01-01T00:00:00Z"},
    ),
]  # fmt: skip


@pytest.mark.parametrize("what", LIMITED, ids=[one.path for one in LIMITED])
async def test_of_many_at_once_no_more_are_stored_than_a_tenant_may_have(tenant: Client, engine: Engine, what: Limited) -> None:
    database = engine.database
    assert database is not None
    of_it = f"FROM {what.table} WHERE tenant_id = '{tenant.tenant_id}'"
    free = 2
    await database.do(
        f"INSERT INTO {what.table} (tenant_id, {what.field}, {what.columns})"
        f" SELECT $1, 'kept-' || n, {what.values} FROM generate_series(1, $2::int) AS n",
        tenant.tenant_id,
        what.limit - free,
    )

    def put(name: str) -> Any:
        return tenant.call("PUT", f"/api/v1/{what.path}/{name}", body=what.body)

    elsewhere = Pools(database.dsn, Config())
    await elsewhere.open()
    try:
        async with one_writer(elsewhere, what.table, tenant.tenant_id) as connection:
            puts = [asyncio.create_task(put(f"new-{n}")) for n in range(AT_ONCE)]
            await until(lambda: _wait(connection), "they wait for who writes in another process", 4)
            async with new_tenant(tenant.url, database) as other:
                assert (await other.get("/api/v1/workflows/check")).status == 200, "nobody else waits with them"
            await connection.execute(
                f"INSERT INTO {what.table} (tenant_id, {what.field}, {what.columns}) SELECT $1, 'first', {what.values}",
                tenant.tenant_id,
            )
        answers = await asyncio.gather(*puts)
    finally:
        await elsewhere.close()
    free -= 1
    assert sorted(answer.status for answer in answers) == [201] * free + [422] * (AT_ONCE - free)
    refused = next(answer for answer in answers if answer.status == 422).problem(422, "invalid_field")
    assert (refused["field"], refused["limit"]) == (what.field, what.limit)
    assert await database.value(f"SELECT count(*) {of_it}") == what.limit
    stored = next(answer.json[what.field] for answer in answers if answer.status == 201)
    assert (await put(stored)).status == 200, "one that is there can be changed"


async def _wait(connection: Any) -> bool:
    return bool(await connection.fetchval(WAITING, LIMIT_LOCKS))
