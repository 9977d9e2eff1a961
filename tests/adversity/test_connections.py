"""Connections to PostgreSQL that are cut, stalled or refused: every answer stays true, and the engine recovers by itself."""

import asyncio
import gc
import random
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from support.client import Client, Load
from support.cluster import Database, Server
from support.engine import Engine, run
from support.ports import free_port
from support.proxy import Proxy
from support.rollups import check_rollups
from support.waiting import until

from judgify_engine.config import Config
from judgify_engine.store.pool import Database as Pools

WORKFLOW = "test-workflow-0"
IMPATIENT = {"JUDGIFY_HTTP_REQUEST_TIMEOUT_S": "3"}
"""Those whose commit was cut off wait for its outcome as long as this; then all senders of a load are free again."""


@pytest.fixture
async def proxy(database: Database) -> AsyncIterator[Proxy]:
    """Before the session's server."""
    port = urlsplit(database.dsn).port
    if port is None or urlsplit(database.dsn).hostname != "127.0.0.1":
        pytest.skip("the test's PostgreSQL does not listen on 127.0.0.1")
    async with Proxy(port) as made:
        yield made


def through(proxy: Proxy, database: Database) -> str:
    parts = urlsplit(database.dsn)
    user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{proxy.port}", query="sslmode=disable"))


async def more_answers(load: Load, count: int, within_s: float = 40) -> None:
    target = len(load.answered) + count
    await until(lambda: len(load.answered) >= target, f"{count} more answers", within_s)


@pytest.mark.parametrize("keyed", [0.0, 0.6])
async def test_cut_in_the_moment_of_a_commit(
    database: Database, proxy: Proxy, start_engine: Callable[..., Engine], keyed: float
) -> None:
    """Before the server got it, while it works on it, and after it had committed and before it could say so."""
    engine = await asyncio.to_thread(start_engine, database, dsn=through(proxy, database))
    async with Load(engine.url, "test-token", workers=24, keyed=keyed) as load:
        await more_answers(load, 50)
        proxy.cut_commits = 0.15
        await until(
            lambda: all(proxy.cuts[moment] >= 3 for moment in ("before", "race", "after")), "each kind of cut 3 times", 60
        )
        proxy.cut_commits = 0.0
        await more_answers(load, 100)
        await load.stop()
        async with Client(engine.url, "test-token") as client:
            metrics = (await client.get("/metrics")).body.decode()
    await load.check(database)
    assert await check_rollups(database) >= len(load.answered)
    resolved = next(line for line in metrics.splitlines() if line.startswith("judgify_commits_resolved_total "))
    assert float(resolved.split()[1]) > 0
    assert load.unknown["commit_unknown"] == 0, "with the server there, every outcome is found out"
    assert await asyncio.to_thread(engine.terminate) == 0


async def test_cuts_at_any_moment(database: Database, proxy: Proxy, start_engine: Callable[..., Engine]) -> None:
    engine = await asyncio.to_thread(start_engine, database, dsn=through(proxy, database))
    chance = random.Random(4)
    async with Load(engine.url, "test-token", workers=24, keyed=0.3) as load:
        for number in range(15):
            await more_answers(load, chance.randrange(1, 60))
            if number % 5 == 4:
                proxy.cut_all()
            else:
                proxy.cut_one()
        await more_answers(load, 100)
        await load.stop()
    await load.check(database)
    await check_rollups(database)
    assert await asyncio.to_thread(engine.terminate) == 0


async def test_log_stream_cut_again_and_again(database: Database, proxy: Proxy, start_engine: Callable[..., Engine]) -> None:
    """The reader of the log loses its connections, in the middle of large transactions too; nothing is counted twice."""
    engine = await asyncio.to_thread(
        start_engine, database, dsn=through(proxy, database), settings={"JUDGIFY_CHANGE_MAX_ROWS": "500"}
    )
    insert = """
        INSERT INTO judgment_executions (tenant_id, workflow_id, input_data, final_result, confidence_score, method_used,
          execution_time_ms)
        SELECT 'demo', 'w' || n % 5, '{}', '{"verdict": "ok"}', 0.5, 'rule', n % 100 FROM generate_series(1, 20000) AS n"""
    for _ in range(4):
        await database.do(insert)
        before = await database.value("SELECT coalesce(sum(total_executions), 0) FROM judgment_metrics_hourly")
        await until(
            lambda before=before: database.value(
                "SELECT coalesce(sum(total_executions), 0) > $1 FROM judgment_metrics_hourly", before
            ),
            "some of it is rolled up",
            20,
        )
        proxy.cut_all()
    assert await check_rollups(database, 60) == 80_000
    assert "making a new slot" not in engine.log.split("reading the log", 1)[1]
    assert await asyncio.to_thread(engine.terminate) == 0


async def test_stalled_connections_are_given_up_in_bounded_time(
    database: Database, proxy: Proxy, start_engine: Callable[..., Engine]
) -> None:
    engine = await asyncio.to_thread(
        start_engine,
        database,
        dsn=through(proxy, database),
        settings={
            "JUDGIFY_DATABASE_COMMAND_TIMEOUT_S": "2",
            "JUDGIFY_DATABASE_CONNECT_TIMEOUT_S": "1",
            "JUDGIFY_HTTP_REQUEST_TIMEOUT_S": "4",
        },
    )
    async with Load(engine.url, "test-token", workers=16, keyed=0.3) as load, Client(engine.url, "test-token") as client:
        await more_answers(load, 100)
        proxy.stall()
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        answer = await client.execute({"temperature": 70}, WORKFLOW)
        answer.problem(503, answer.json["code"])
        assert loop.time() - began_s < 10
        began_s = loop.time()
        assert (await client.get("/health")).status == 200
        assert loop.time() - began_s < 1

        async def unready() -> bool:
            answer = await client.get("/ready")
            return answer.status == 503 and answer.json["checks"]["database"] != "ok"

        await until(unready, "it says that it is not ready", 10)
        proxy.resume()
        await more_answers(load, 200)
        await load.stop()
        assert load.longest_s < 12
        assert (await client.get("/ready")).status == 200
    await load.check(database)
    await check_rollups(database, 60)
    assert await asyncio.to_thread(engine.terminate) == 0


async def test_no_new_connections_for_a_while(database: Database, proxy: Proxy, start_engine: Callable[..., Engine]) -> None:
    engine = await asyncio.to_thread(start_engine, database, dsn=through(proxy, database), settings=IMPATIENT)
    async with Load(engine.url, "test-token", workers=16) as load:
        await more_answers(load, 100)
        proxy.refusing = True
        proxy.cut_all()
        await until(lambda: len(load.refused) > 50, "judgments are refused", 20)
        assert set(load.refused.values()) <= {"database_unavailable"}
        proxy.refusing = False
        await more_answers(load, 200)
        await load.stop()
    await load.check(database)
    await check_rollups(database)
    assert await asyncio.to_thread(engine.terminate) == 0


async def test_postgres_stopped_while_serving(server: Server, start_engine: Callable[..., Engine]) -> None:
    database = server.cluster.make()
    engine = start_engine(database, settings=IMPATIENT)
    async with Load(engine.url, "test-token", workers=16, keyed=0.3) as load, Client(engine.url, "test-token") as client:
        await more_answers(load, 100)
        server.stop()
        await until(lambda: len(load.refused) > 20, "judgments are refused", 30)
        (await client.execute({"temperature": 70}, WORKFLOW)).problem(503, "database_unavailable")
        ready = await client.get("/ready")
        assert ready.status == 503
        assert ready.json["ready"] is False
        assert ready.json["checks"]["database"] == "PostgreSQL is away"
        assert (await client.get("/health")).status == 200
        (await client.get("/api/v1/judgments")).problem(503, "database_unavailable")
        (await client.put_workflow("w")).problem(503, "database_unavailable")
        (await client.execute({"temperature": 70}, WORKFLOW, key="k")).problem(503, "database_unavailable")
        server.start()
        await more_answers(load, 200)
        await load.stop()
        assert (await client.get("/ready")).status == 200
    await load.check(database)
    await check_rollups(database)
    assert await asyncio.to_thread(engine.terminate) == 0


async def test_unknown_outcome_is_said_when_postgres_stays_away(server: Server, start_engine: Callable[..., Engine]) -> None:
    """The connection breaks in a commit and the server does not come back in time: neither yes nor no would be true."""
    database = server.cluster.make()
    async with Proxy(server.port) as proxy:
        engine = await asyncio.to_thread(
            start_engine, database, dsn=proxy.dsn(database.name), settings={"JUDGIFY_HTTP_REQUEST_TIMEOUT_S": "2"}
        )
        async with Client(engine.url, "test-token") as client:
            await client.judge(70, WORKFLOW)
            proxy.cut_commits = 1.0
            proxy.moments = ("after",)
            sending = asyncio.create_task(client.execute({"n": 1}, WORKFLOW))
            await until(lambda: proxy.cuts["after"] >= 1, "it was cut")
            proxy.refusing = True
            answer = await sending
            problem = answer.problem(503, "commit_unknown")
            # The answer names the judgment, so that its sender can look it up.
            proxy.refusing, proxy.cut_commits = False, 0.0

            async def found() -> bool:
                return (await client.get(f"/api/v1/judgments/{problem['judgment_id']}")).status == 200

            await until(found, "it can be looked up, and was stored", 10)
        assert await asyncio.to_thread(engine.terminate) == 0


def test_postgres_away_at_the_start(database: Database) -> None:
    for dsn in (
        f"postgresql://postgres@127.0.0.1:{free_port()}/x",
        database.dsn.replace(database.name, "no_such_database"),
        "postgresql://postgres@host-that-does-not-exist.invalid/x",
        "nonsense",
    ):
        done = run("serve", "--port", "0", settings={"JUDGIFY_DATABASE_URL": dsn}, within_s=30)
        assert done.returncode in (1, 2), (dsn, done.stderr)
        assert "Traceback" not in done.stderr
        assert done.stderr.strip(), dsn
        assert "database" in done.stderr


async def test_stop_while_postgres_is_away(server: Server, start_engine: Callable[..., Engine]) -> None:
    database = server.cluster.make()
    engine = start_engine(database)
    async with Client(engine.url, "test-token") as client:
        await client.judge(70, WORKFLOW)
        server.stop()

        async def away() -> bool:
            return (await client.execute({"temperature": 70}, WORKFLOW)).status == 503

        await until(away, "it is noticed")
    assert await asyncio.to_thread(engine.terminate, 15) == 0


async def test_stop_while_postgres_hangs(database: Database, proxy: Proxy, start_engine: Callable[..., Engine]) -> None:
    """It holds the stop up, but not once for each thing that is still to be written, read or closed."""
    engine = await asyncio.to_thread(start_engine, database, dsn=through(proxy, database), settings=IMPATIENT)
    async with Load(engine.url, "test-token", workers=16, keyed=0.3) as load, Client(engine.url, "test-token") as client:
        await more_answers(load, 100)
        assert (await client.get("/api/v1/judgments")).status == 200
        await load.stop()
        proxy.stall()
        assert await asyncio.to_thread(engine.terminate, 12) == 0


async def test_read_only_server(database: Database, start_engine: Callable[..., Engine]) -> None:
    """As after a fail-over to a standby: nothing can be stored, which is not the sender's fault."""
    engine = start_engine(database, settings=IMPATIENT)
    async with Load(engine.url, "test-token", workers=8, keyed=0.3) as load, Client(engine.url, "test-token") as client:
        await more_answers(load, 50)
        await database.do(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
        await database.do(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'judgify-engine%'"
        )
        await until(lambda: len(load.refused) > 20, "judgments are refused", 20)
        answer = await client.execute({"temperature": 70}, WORKFLOW)
        answer.problem(503, answer.json["code"])
        assert engine.log.count("postgres is back") < 5, "it is not back as long as it is read-only"
        await database.do(
            f"BEGIN; SET TRANSACTION READ WRITE; ALTER DATABASE {database.name} RESET default_transaction_read_only; COMMIT;"
        )
        await database.do(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'judgify-engine%'"
        )
        await more_answers(load, 100)
        await load.stop()
    await load.check(database)
    await check_rollups(database)
    assert await asyncio.to_thread(engine.terminate) == 0


async def test_a_return_that_fails_is_heard_of_also_when_who_gave_it_back_has_gone(database: Database, proxy: Proxy) -> None:
    """As at a stop while PostgreSQL hangs: else asyncio complains of an error that nobody heard, at some later time."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
    pools = Pools(through(proxy, database), Config())
    await pools.open()

    async def ask() -> None:
        async with pools.query() as connection:
            await connection.execute("SELECT pg_sleep(60)")

    asking = asyncio.create_task(ask())
    other = await database.connect()
    try:
        sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND datname = current_database()"
        await until(lambda: other.fetchval(sleeping), "it asks")
    finally:
        await other.close()
    proxy.stall()
    for _ in range(2):  # the first one has the connection given back
        asking.cancel()
        await asyncio.wait((asking,), timeout=0.1)
    assert asking.cancelled()
    await until(lambda: not pools._giving_back, "it was given up")
    gc.collect()
    assert complaints == []
    proxy.cut_all()
    await pools.close()
