"""`Idempotency-Key`: one judgment for each key, and the first answer for every repeat, whatever happens in between."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

from support.client import EXECUTE, Answer, Client
from support.cluster import Database
from support.engine import Engine
from support.waiting import until


async def stored(database: Database, tenant_id: str) -> int:
    return int(await database.value("SELECT count(*) FROM judgment_executions WHERE tenant_id = $1", tenant_id))


def one_answer(answers: list[Answer]) -> dict[str, Any]:
    """Check that all are the same 200, and one at most was not a replay."""
    assert {answer.status for answer in answers} == {200}, [answer.body for answer in answers if answer.status != 200][:3]
    first: dict[str, Any] = answers[0].json
    assert all(answer.json == first for answer in answers)
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) <= 1
    return first


async def test_repeat_gets_the_first_answer(tenant: Client, engine: Engine) -> None:
    first = await tenant.execute({"value": 12}, key="k")
    assert "Idempotent-Replayed" not in first.headers
    await tenant.put_workflow("check", {"default": {"result": {"verdict": "changed"}}})
    for _ in range(3):
        again = await tenant.execute({"value": 12}, key="k")
        assert again.status == 200
        assert again.headers["Idempotent-Replayed"] == "true"
        assert again.body == first.body
    assert await stored(engine.database, tenant.tenant_id) == 1


async def test_same_meaning_in_other_words_is_a_repeat(tenant: Client) -> None:
    one = b'{"workflow_id": "check", "input_data": {"value": 1, "a": [1, 2]}, "context": {}}'
    two = b'{"input_data":{"a":[1,2],"value":1},"workflow_id":"check"}'
    answers = [await tenant.call("POST", EXECUTE, data=body, headers={"Idempotency-Key": "k"}) for body in (one, two)]
    one_answer(answers)


async def test_other_request_with_the_key_is_refused(tenant: Client, engine: Engine) -> None:
    await tenant.put_workflow("other")
    assert (await tenant.execute({"value": 12}, key="k")).status == 200
    for answer in (
        await tenant.execute({"value": 13}, key="k"),
        await tenant.execute({"value": 12}, "other", key="k"),
        await tenant.execute({"value": 12}, context={"a": 1}, key="k"),
        await tenant.execute({"value": 12}, occurred_at="2026-01-01T00:00:00Z", key="k"),
        await tenant.execute({"value": True}, key="k"),
    ):
        answer.problem(422, "idempotency_mismatch")
    assert await stored(engine.database, tenant.tenant_id) == 1


async def test_50_at_once_are_one_judgment(tenant: Client, engine: Engine) -> None:
    one_answer(await asyncio.gather(*(tenant.execute({"value": 12}, key="k") for _ in range(50))))
    assert await stored(engine.database, tenant.tenant_id) == 1


async def test_50_at_once_with_two_meanings_are_one_judgment(tenant: Client, engine: Engine) -> None:
    answers = await asyncio.gather(*(tenant.execute({"value": number % 2}, key="k") for number in range(50)))
    good = [answer for answer in answers if answer.status == 200]
    assert {answer.status for answer in answers} == {200, 422}, {answer.body for answer in answers}
    one_answer(good)
    assert len(good) == 25, "all that mean what the first one meant are repeats of it"
    for answer in answers:
        if answer.status != 200:
            answer.problem(422, "idempotency_mismatch")
    assert await stored(engine.database, tenant.tenant_id) == 1


async def test_failed_judgment_is_an_answer_too(tenant: Client, engine: Engine) -> None:
    answers = [await tenant.execute({}, key="k") for _ in range(2)]
    assert one_answer(answers)["status"] == "failed"
    assert await stored(engine.database, tenant.tenant_id) == 1


async def test_refused_request_does_not_use_the_key_up(tenant: Client) -> None:
    (await tenant.execute({"value": 1}, "not-yet", key="k")).problem(404, "workflow_not_found")
    await tenant.put_workflow("not-yet")
    assert (await tenant.execute({"value": 1}, "not-yet", key="k")).status == 200


async def test_repeat_after_the_workflow_was_deleted(tenant: Client) -> None:
    first = await tenant.execute({"value": 12}, key="k")
    assert (await tenant.call("DELETE", "/api/v1/workflows/check")).status == 204
    again = await tenant.execute({"value": 12}, key="k")
    assert (again.status, again.json) == (200, first.json)
    (await tenant.execute({"value": 13}, key="k")).problem(422, "idempotency_mismatch")


async def test_repeat_after_the_judgment_was_removed(database: Database, start_engine: Callable[..., Engine]) -> None:
    """The first answer is kept with the key, byte for byte; nothing is judged a second time."""
    engine = start_engine(database)
    async with Client(engine.url, "test-token") as client:
        first = await client.execute({"temperature": 70}, "test-workflow-0", key="k")
        await database.do("DELETE FROM judgment_executions WHERE id = $1", uuid.UUID(first.json["judgment_id"]))
        again = await client.execute({"temperature": 70}, "test-workflow-0", key="k")
        assert (again.status, again.body) == (200, first.body)
        assert again.headers["Idempotent-Replayed"] == "true"
    assert await stored(database, "demo") == 0
    assert engine.terminate() == 0


async def test_two_processes_on_one_database(database: Database, start_engine: Callable[..., Engine]) -> None:
    engines = [start_engine(database), start_engine(database)]
    clients = [Client(engine.url, "test-token", "demo") for engine in engines]
    try:
        for round_ in range(5):
            answers = await asyncio.gather(
                *(clients[n % 2].execute({"temperature": 70}, "test-workflow-0", key=f"k{round_}") for n in range(50))
            )
            one_answer(answers)
        # The same, mixed: many keys in one batch of each process, in opposite orders.
        keys = [f"m{number}" for number in range(40)]
        answers = await asyncio.gather(
            *(clients[0].execute({"temperature": 70}, "test-workflow-0", key=key) for key in keys),
            *(clients[1].execute({"temperature": 70}, "test-workflow-0", key=key) for key in reversed(keys)),
        )
        for first, second in zip(answers[:40], reversed(answers[40:]), strict=True):
            one_answer([first, second])
        assert await stored(database, "demo") == 45
    finally:
        for client in clients:
            await client.session.close()
    for engine in engines:
        assert engine.terminate() == 0


async def test_repeat_after_kill_9(database: Database, start_engine: Callable[..., Engine]) -> None:
    """Also the keys whose answers never arrived: each is one judgment in the end."""
    engine = start_engine(database)
    keys = [f"k{number}" for number in range(200)]
    first: dict[str, Any] = {}

    async def send(client: Client, key: str) -> None:
        answer = await client.execute({"temperature": 70}, "test-workflow-0", key=key)
        if answer.status == 200:
            first[key] = answer.json

    async with Client(engine.url, "test-token") as client:
        sending = asyncio.gather(*(send(client, key) for key in keys), return_exceptions=True)
        await until(lambda: len(first) >= 20, "some answers came")
        engine.kill()
        await sending
    await asyncio.to_thread(engine.start)
    async with Client(engine.url, "test-token") as client:
        for key in keys:
            again = await client.execute({"temperature": 70}, "test-workflow-0", key=key)
            assert again.status == 200, again.body
            if key in first:
                assert again.json == first[key]
    assert await stored(database, "demo") == 200
    assert await database.value("SELECT count(*) FROM idempotency_keys") == 200
    assert engine.terminate() == 0
