"""Actions without the rest of an engine: a database with workflows and judgments, and the loops over streams in memory.

`publish` appends entries in the documented form, so that what consumes them is tested against what is promised to users.
"""

import asyncio
import contextlib
import json
import random
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from judgify_engine.actions.webhooks import WebhookPerformer
from judgify_engine.config import ActionsConfig, Config
from judgify_engine.core.streams import JUDGMENTS, stream_of
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.action_alerts import AlertPerformer
from judgify_engine.pipeline.action_intake import ActionIntake, join_group
from judgify_engine.pipeline.action_loop import ActionLoop
from judgify_engine.pipeline.streams import Batch, Entry, Streams
from judgify_engine.store.action_jobs import ActionJobs
from judgify_engine.store.actions import ActionStore
from judgify_engine.store.migrate import migrate
from judgify_engine.store.pool import Database as Pools
from judgify_engine.streams.memory import MemoryStreams
from judgify_engine.units import MIB, Position
from support.cluster import Database
from support.waiting import until

QUICK = ActionsConfig(private_networks=True, retry_first_s=0.05, retry_longest_s=0.4, lease_s=1.0, claim_idle_s=0.2)
TENANT = "acme"


def entry_of(row: Any, position: Position, op: str = "insert") -> Entry:
    """An entry of a judgment, as README says it looks."""
    data = {name: _json(name, value) for name, value in dict(row).items()}
    fields = {
        "op": op,
        "table": "judgment_executions",
        "tenant_id": row["tenant_id"],
        "key": str(row["id"]),
        "committed_at": _time(datetime.now(UTC)),
        "data": json.dumps(data),
    }
    return Entry(position, {name.encode(): text.encode() for name, text in fields.items()})


def _json(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return _time(value)
    if name in ("input_data", "context", "final_result"):
        return json.loads(value)
    return str(value) if isinstance(value, uuid.UUID) else value


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"


class Acting:
    """One process's actions. `streams` and the database may be shared by several."""

    def __init__(self, database: Database, pools: Pools, streams: Streams, config: ActionsConfig, name: str) -> None:
        self.database, self.pools, self.streams = database, pools, streams
        self.metrics = Metrics()
        self.store = ActionStore(pools)
        jobs = ActionJobs(pools)
        self.webhooks = WebhookPerformer(config)
        self.loop = ActionLoop(jobs, self.webhooks, AlertPerformer(streams, 1000), config, name, self.metrics, random.Random(1))
        join = partial(join_group, streams)
        self.intake = ActionIntake(streams, jobs, join, config.claim_idle_s, self.metrics, self.loop.wake)
        self._lsn = 1000

    async def workflow(self, definition: dict[str, Any], workflow_id: str = "w", tenant: str = TENANT) -> None:
        await self.database.do(
            "INSERT INTO workflows (tenant_id, workflow_id, version, definition) VALUES ($1, $2, 0, $3::text::jsonb)"
            " ON CONFLICT (tenant_id, workflow_id) DO UPDATE SET definition = excluded.definition",
            tenant, workflow_id, json.dumps(definition),
        )  # fmt: skip

    async def judge(self, count: int = 1, *, tenant: str = TENANT, workflow_id: str = "w", **columns: Any) -> list[str]:
        """Store judgments of the current version and publish them; their ids."""
        values = {"status": "completed", "rule_index": None, **columns}
        rows = await self.database.rows(
            "INSERT INTO judgment_executions (tenant_id, workflow_id, workflow_version, input_data, final_result,"
            " confidence_score, method_used, execution_time_ms, status, rule_index)"
            " SELECT $1, $2, coalesce($6, (SELECT version FROM workflows WHERE tenant_id = $1 AND workflow_id = $2), 0),"
            """ '{"value": 7}', '{"verdict": "ok"}', 0.5, 'rule', 1.5, $3, $4 FROM generate_series(1, $5) RETURNING *""",
            tenant, workflow_id, values["status"], values["rule_index"], count, values.get("workflow_version"),
        )  # fmt: skip
        await self.publish(rows)
        return [str(row["id"]) for row in rows]

    async def publish(self, rows: Sequence[Any]) -> list[Entry]:
        self._lsn += 1
        entries = [entry_of(row, Position(self._lsn, index)) for index, row in enumerate(rows)]
        stream = stream_of(rows[0]["tenant_id"])
        (last,) = await self.streams.last((stream,))
        await self.streams.append([Batch(stream, last, entries)])
        return entries

    async def jobs(self, **wanted: Any) -> list[Any]:
        where = " AND ".join(f"{name} = '{value}'" for name, value in wanted.items()) or "true"
        return await self.database.rows(f"SELECT * FROM action_jobs WHERE {where} ORDER BY id")

    async def attempts(self) -> list[Any]:
        return await self.database.rows("SELECT * FROM action_executions ORDER BY job_id, attempt")

    async def settled(self, count: int, state: str = "succeeded", within_s: float = 15) -> list[Any]:
        """Wait until so many jobs are in a state."""

        async def there() -> list[Any] | None:
            found = await self.jobs(state=state)
            return found if len(found) >= count else None

        found: list[Any] = await until(there, f"{count} jobs are {state}", within_s)
        return found

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Acting"]:
        """All loops."""
        stop = asyncio.Event()
        async with self.webhooks, asyncio.TaskGroup() as tasks:
            try:
                for stream in JUDGMENTS:
                    tasks.create_task(self.intake.run(stream, stop))
                    tasks.create_task(self.intake.joined(stream))
                tasks.create_task(self.loop.run(stop))
                await until(self._joined, "the group has joined")
                yield self
            finally:
                stop.set()

    async def _joined(self) -> bool:
        return all([await self.streams.groups(stream) for stream in JUDGMENTS])


@contextlib.asynccontextmanager
async def acting(database: Database, config: ActionsConfig = QUICK, name: str = "one") -> AsyncIterator[Acting]:
    """Tables made, nothing running yet."""
    connection = await database.connect()
    try:
        await migrate(connection)
    finally:
        await connection.close()
    pools = Pools(database.dsn, Config())
    await pools.open()
    try:
        yield Acting(database, pools, MemoryStreams(64 * MIB), config, name)
    finally:
        await pools.close()
