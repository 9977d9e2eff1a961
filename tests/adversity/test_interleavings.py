"""Random interleavings of everything that may happen to rows, engine, PostgreSQL and slot: the rollups are those of the table.

Each seed is one script of steps. `JUDGIFY_TEST_INTERLEAVINGS` says how many seeds are tried (a few by default).
"""

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Awaitable, Callable, Iterator

import asyncpg
import pytest
from support.client import CHECK, Client
from support.cluster import Cluster, Database
from support.engine import Engine
from support.layouts import LAYOUTS, laid_out
from support.rollups import check_rollups
from support.waiting import until

from .test_kills import database_of

# In use: the walsender of an engine that was just killed may live a moment longer.
AWAY = (
    asyncpg.ObjectInUseError,
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.InterfaceError,
)
SEEDS = int(os.environ.get("JUDGIFY_TEST_INTERLEAVINGS", "2"))
STEPS = 28
CHECK_EVERY = 9
INSERT = """
INSERT INTO judgment_executions (tenant_id, workflow_id, workflow_version, input_data, final_result, confidence_score,
                                 method_used, status, execution_time_ms, created_at, occurred_at)
SELECT 'demo', 'tracked', (random() * 2)::int, jsonb_build_object('heat', round((random() * 100)::numeric, 3), 'n', n),
       CASE WHEN n % 9 = 0 THEN 'null' ELSE '{{"verdict": "ok"}}' END::jsonb, random(),
       (ARRAY['rule', 'llm', 'hybrid'])[1 + n % 3],
       CASE WHEN n % 7 = 0 THEN 'failed' ELSE 'completed' END, random() * 100, now() - random() * {spread},
       CASE WHEN n % 4 = 0 THEN now() - random() * interval '30 days' END
  FROM generate_series(1, {rows}) AS n
"""
SOME = "id IN (SELECT id FROM judgment_executions ORDER BY random() LIMIT {rows})"


class Script:
    """One random script on one engine."""

    def __init__(self, engine: Engine, database: Database, seed: int, *, may_kill_postgres: bool) -> None:
        self.engine, self.database, self.chance = engine, database, random.Random(seed)
        self.said: list[str] = []
        steps = [self.judge] * 4 + [self.insert] * 3 + [self.update] * 2 + [self.delete] * 2 + [self.roll_back] * 2
        steps += [self.part_rolled_back, self.kill_engine, self.kill_engine, self.lose_slot, self.truncate]
        self.steps: list[Callable[[], Awaitable[None]]] = steps + [self.kill_postgres] * 2 * may_kill_postgres

    async def run(self) -> None:
        try:
            await self.track(["heat"])
            for number in range(1, STEPS + 1):
                step = self.chance.choice(self.steps)
                self.said.append(step.__name__)
                await step()
                if number % CHECK_EVERY == 0 or number == STEPS:
                    await self.sql("SELECT 1")
                    await check_rollups(self.database, 60)
        except BaseException:
            print("the script was:", *self.said)
            raise

    async def sql(self, *statements: str) -> None:
        """Until it was done: PostgreSQL may just be away. One transaction, so it is done once or not at all."""

        async def done() -> bool:
            with contextlib.suppress(*AWAY):
                await self.database.do(";".join(statements))
                return True
            return False

        await until(done, f"{statements[0][:60]} is done", 40)

    async def track(self, fields: list[str]) -> None:
        async with Client(self.engine.url, "test-token") as client:
            assert (await client.put_workflow("tracked", {**CHECK, "track": fields})).status in (200, 201)

    async def judge(self) -> None:
        """Over HTTP, answered or not."""
        with contextlib.suppress(OSError):
            async with Client(self.engine.url, "test-token", timeout_s=20) as client:
                values = [
                    self.chance.choice([self.chance.uniform(0, 120), "hot", None]) for _ in range(self.chance.randrange(1, 30))
                ]
                await asyncio.gather(
                    *(client.execute({"value": 1, "heat": value}, "tracked") for value in values), return_exceptions=True
                )

    async def insert(self) -> None:
        spread = self.chance.choice(["interval '0'", "interval '3 hours'", "interval '400 days'"])
        await self.sql(INSERT.format(rows=self.chance.choice([1, 20, 900]), spread=spread))

    async def update(self) -> None:
        what = self.chance.choice(
            ["execution_time_ms = random() * 50", "created_at = created_at - interval '5 hours'", "workflow_id = 'moved'",
             "input_data = input_data || '{\"heat\": -3}'", "status = 'failed', confidence_score = 0"]
        )  # fmt: skip
        await self.sql(f"UPDATE judgment_executions SET {what} WHERE {SOME.format(rows=self.chance.choice([1, 30]))}")

    async def delete(self) -> None:
        await self.sql(f"DELETE FROM judgment_executions WHERE {SOME.format(rows=self.chance.choice([1, 30]))}")

    async def roll_back(self) -> None:
        await self.sql(
            "BEGIN", INSERT.format(rows=50, spread="interval '1 hour'"), "DELETE FROM judgment_executions", "ROLLBACK"
        )

    async def part_rolled_back(self) -> None:
        insert = INSERT.format(rows=40, spread="interval '1 hour'")
        await self.sql("BEGIN", insert, "SAVEPOINT s", insert, "ROLLBACK TO s", insert, "COMMIT")

    async def truncate(self) -> None:
        if self.chance.random() < 0.3:
            await self.sql("TRUNCATE judgment_executions")

    async def kill_engine(self) -> None:
        self.engine.kill()
        if self.chance.random() < 0.5 and not self.engine_owns_postgres:
            await self.insert()
        await asyncio.to_thread(self.engine.start)

    async def lose_slot(self) -> None:
        if self.engine_owns_postgres:
            drop = "SELECT pg_terminate_backend(active_pid), pg_drop_replication_slot(slot_name) FROM pg_replication_slots"

            async def dropped() -> bool:  # its reader is quick to come back
                with contextlib.suppress(*AWAY):
                    await self.database.do(f"{drop} WHERE slot_name = '{self.database.slot}'")
                return self.engine.log.count("making a new slot") > before

            before = self.engine.log.count("making a new slot")
            await until(dropped, "the slot is made anew", 40)
            return
        self.engine.kill()
        await self.delete()
        slot = f"FROM pg_replication_slots WHERE slot_name = '{self.database.slot}'"
        await self.sql(f"SELECT pg_drop_replication_slot(slot_name) {slot}")  # it may not be made yet
        await self.insert()
        await asyncio.to_thread(self.engine.start)

    async def kill_postgres(self) -> None:
        await self.sql("SELECT 1")  # it is up
        before = self.engine.log.count("postgres died")
        os.kill(self.engine.postgres_pid, signal.SIGKILL)
        await until(lambda: self.engine.log.count("postgres died") > before, "its death was noticed", 20)

    @property
    def engine_owns_postgres(self) -> bool:
        return self.engine.database is None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_whatever_happens_the_rollups_are_those_of_the_table(seed: int, start_engine: Callable[..., Engine]) -> None:
    engine = start_engine()
    engine.port = engine.listening_port
    await Script(engine, database_of(engine), seed, may_kill_postgres=True).run()
    assert engine.terminate() == 0


@pytest.fixture(params=LAYOUTS)
def database(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Database]:
    with laid_out(request.param, cluster) as made:
        yield made


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(100, 100 + (SEEDS + 1) // 2))
async def test_the_same_wherever_the_rollups_live(seed: int, database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(database)
    engine.port = engine.listening_port
    await Script(engine, database, seed, may_kill_postgres=False).run()
    assert engine.terminate() == 0
