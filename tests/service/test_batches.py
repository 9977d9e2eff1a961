"""Group commit: a bad row fails alone, a full queue says so, and a refusal stores nothing."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest
from support.client import Answer, Client
from support.cluster import Database
from support.engine import Engine
from support.rollups import check_rollups
from support.waiting import until

WORKFLOW = "test-workflow-0"


async def test_refused_row_fails_alone(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(database)
    await database.do(
        "ALTER TABLE judgment_executions ADD CONSTRAINT no_machine_13 CHECK (input_data ->> 'machine_id' <> 'MACHINE_13')"
    )
    async with Client(engine.url, "test-token", connections=200) as client:
        # With the table locked, nothing commits: the rows gather into batches that hold good and bad ones.
        blocker = await database.connect()
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("LOCK TABLE judgment_executions IN ACCESS EXCLUSIVE MODE")
        sending = [
            asyncio.create_task(
                client.execute(
                    {"machine_id": f"MACHINE_{number % 20}", "n": number}, WORKFLOW, key=f"k{number}" if number % 3 else None
                )
            )
            for number in range(100)
        ]
        await until(lambda: queued(client, 100), "all are queued")
        await transaction.rollback()
        await blocker.close()
        answers: list[Answer] = await asyncio.gather(*sending)
        for number, answer in enumerate(answers):
            if number % 20 == 13:
                problem = answer.problem(422, "row_refused")
                assert problem["sqlstate"] == "23514"
                assert "no_machine_13" in problem["detail"]
            else:
                assert answer.status == 200, answer.body
        stored = await database.rows("SELECT (input_data ->> 'n')::int AS n FROM judgment_executions ORDER BY 1")
        assert [row["n"] for row in stored] == [number for number in range(100) if number % 20 != 13]

        async def five() -> bool:
            return int(await database.value("SELECT count(*) FROM judgment_quarantine")) == 5

        await until(five, "the refused rows are in quarantine")
        kept = await database.rows("SELECT * FROM judgment_quarantine ORDER BY id")
        assert all((row["kind"], row["source"], row["repeated"]) == ("refused_by_database", "postgres", 1) for row in kept)
        assert all(row["tenant_id"] == "demo" and row["workflow_id"] == WORKFLOW for row in kept)
        assert all("23514" in row["reason"] and "no_machine_13" in row["reason"] for row in kept)
        assert sorted(json.loads(row["body"])["input_data"]["n"] for row in kept) == [13, 33, 53, 73, 93]
        # The key of a refused judgment is free: when the reason is gone, the same request goes through.
        await database.do("ALTER TABLE judgment_executions DROP CONSTRAINT no_machine_13")
        again = await client.execute({"machine_id": "MACHINE_13", "n": 13}, WORKFLOW, key="k13")
        assert again.status == 200
    assert await check_rollups(database) == 96
    assert engine.terminate() == 0


async def queued(client: Client, rows: int) -> bool:
    """Whether so many judgments are queued or being committed."""
    for line in (await client.get("/metrics")).body.decode().splitlines():
        if line.startswith("judgify_requests_under_way "):
            return float(line.split()[-1]) >= rows
    return False


@pytest.fixture
async def small(database: Database, start_engine: Callable[..., Engine]) -> AsyncIterator[tuple[Engine, Client]]:
    """An engine whose queues are small."""
    engine = start_engine(database, settings={"JUDGIFY_QUEUE_MAX_ROWS": "20", "JUDGIFY_QUEUE_PARTITIONS": "1"})
    async with Client(engine.url, "test-token", connections=200) as client:
        yield engine, client
    assert engine.terminate() == 0


async def test_full_queue_is_503_and_stores_nothing(database: Database, small: tuple[Engine, Client]) -> None:
    _, client = small
    blocker = await database.connect()
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("LOCK TABLE judgment_executions IN ACCESS EXCLUSIVE MODE")
    waiting = [asyncio.create_task(client.execute({"n": number}, WORKFLOW)) for number in range(20)]
    await until(lambda: queued(client, 20), "the queue is full")
    for number in range(20, 40):
        (await client.execute({"n": number}, WORKFLOW)).problem(503, "queue_full")
    ready = await client.get("/ready")
    assert ready.status == 503
    assert ready.json["checks"]["queues"] == "a queue is full"
    await transaction.rollback()
    await blocker.close()
    assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}
    assert (await client.get("/ready")).status == 200
    assert (await client.execute({"n": 99}, WORKFLOW)).status == 200
    stored = await database.rows("SELECT (input_data ->> 'n')::int AS n FROM judgment_executions ORDER BY 1")
    assert [row["n"] for row in stored] == [*range(20), 99]


async def test_too_many_requests_are_503(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(database, settings={"JUDGIFY_HTTP_MAX_REQUESTS": "10"})
    async with Client(engine.url, "test-token", connections=200) as client:
        blocker = await database.connect()
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("LOCK TABLE judgment_executions IN ACCESS EXCLUSIVE MODE")
        waiting = [asyncio.create_task(client.execute({"n": number}, WORKFLOW)) for number in range(10)]
        await until(lambda: queued(client, 10), "all are under way")
        (await client.execute({"n": 10}, WORKFLOW)).problem(503, "overloaded")
        assert (await client.get("/health")).status == 200
        await transaction.rollback()
        await blocker.close()
        assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}
    assert engine.terminate() == 0


async def test_commit_that_takes_too_long_is_told_and_resolved(database: Database, start_engine: Callable[..., Engine]) -> None:
    """The senders are told that the outcome is not known; what the table says later is not contradicted by any answer."""
    engine = start_engine(database, settings={"JUDGIFY_HTTP_REQUEST_TIMEOUT_S": "2", "JUDGIFY_DATABASE_COMMAND_TIMEOUT_S": "1"})
    async with Client(engine.url, "test-token") as client:
        await client.execute({"n": 0}, WORKFLOW)
        blocker = await database.connect()
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("LOCK TABLE judgment_executions IN ACCESS EXCLUSIVE MODE")
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        answers = await asyncio.gather(*(client.execute({"n": number}, WORKFLOW) for number in range(1, 6)))
        assert loop.time() - began_s < 8
        for answer in answers:
            answer.problem(503, answer.json["code"])
            assert answer.json["code"] in ("commit_unknown", "database_unavailable")
        await transaction.rollback()
        await blocker.close()

        async def works() -> bool:
            return (await client.execute({"n": 9}, WORKFLOW)).status == 200

        await until(works, "it works again", 20)
        certain = {number for number, answer in enumerate(answers, 1) if answer.json["code"] != "commit_unknown"}
        stored = await database.rows(
            "SELECT (input_data ->> 'n')::int AS n, count(*) AS times FROM judgment_executions GROUP BY 1"
        )
        assert not certain & {row["n"] for row in stored}
        assert all(row["times"] == 1 for row in stored if row["n"] != 9)
    assert engine.terminate() == 0
