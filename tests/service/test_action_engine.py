"""Actions in the whole engine: from the answer of a judgment, over the log and the streams, to the receiver."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.client import Client, new_tenant
from support.cluster import Database
from support.engine import Engine, run
from support.receiver import Receiver, receiver
from support.redis_server import RedisServer
from support.waiting import until

PATH = "/api/v1/actions"
QUICK = {
    "JUDGIFY_ACTIONS_RETRY_FIRST_S": "0.05",
    "JUDGIFY_ACTIONS_RETRY_LONGEST_S": "0.2",
    "JUDGIFY_ACTIONS_LEASE_S": "0.5",
    "JUDGIFY_ACTIONS_CLAIM_IDLE_S": "1",
}


@pytest.fixture
async def target() -> AsyncIterator[Receiver]:
    async with receiver() as made:
        yield made


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path / "redis").start()
    yield made
    made.kill()


def workflow(target: Receiver, path: str = "/hook", **more: Any) -> dict[str, Any]:
    return {
        "default": {"result": {"verdict": "ok"}, "actions": ["notify"]},
        "actions": {"notify": {"type": "webhook", "url": target.url + path, **more}},
    }


async def actions_of(client: Client, count: int, state: str) -> list[dict[str, Any]]:
    """The list, once there are so many in a state."""

    async def there() -> list[dict[str, Any]] | None:
        answer = await client.get(f"{PATH}?limit=500&state={state}")
        assert answer.status == 200, answer.body
        found: list[dict[str, Any]] = answer.json["items"]
        return found if len(found) >= count else None

    found: list[dict[str, Any]] = await until(there, f"{count} are {state}", 30)
    return found


async def test_a_second_process_without_redis_leaves_actions_to_the_one_that_fills_its_streams(
    database: Database, start_engine: Callable[..., Engine], target: Receiver
) -> None:
    one, other = start_engine(database, settings=QUICK), start_engine(database, settings=QUICK)
    for engine, name in ((one, "first"), (other, "second")):
        async with new_tenant(engine.url, database) as client:
            assert (await client.put_workflow(name, workflow(target))).status == 201
            await client.judge(workflow_id=name)
            await actions_of(client, 1, "succeeded")
    for engine in (one, other):
        assert engine.terminate() == 0


async def test_in_one_process_without_redis(database: Database, start_engine: Callable[..., Engine], target: Receiver) -> None:
    engine = start_engine(database, settings=QUICK)
    target.answers["/hook"] = [500, 200]
    async with new_tenant(engine.url, database) as client:
        assert (await client.put_workflow("w", workflow(target))).status == 201
        judged = await client.judge(workflow_id="w")
        await client.judge()  # its workflow has no actions
        (action,) = await actions_of(client, 1, "succeeded")
        assert action["judgment_id"] == judged["judgment_id"]
        assert action["message_id"] == target.calls[0].id
        assert (action["attempts"], action["running"], action["workflow_id"]) == (2, False, "w")
        attempts = (await client.get(f"/api/v1/judgments/{judged['judgment_id']}/actions")).json["items"]
        assert [(one["attempt"], one["status"]) for one in attempts] == [(2, "succeeded"), (1, "failed")]
        assert attempts[1]["response"] == {"status": 500, "body": "status 500"}
        (await client.get(f"/api/v1/judgments/{judged['judgment_id'][:-1]}z/actions")).problem(404, "not_found")
        shown = run("webhooks", "secret", client.tenant_id, settings={"JUDGIFY_DATABASE_URL": database.dsn})
        assert shown.returncode == 0, shown.stderr
        event = target.calls[0].check(shown.stdout.strip())
        assert event["data"]["judgment_id"] == judged["judgment_id"]
        again = run("webhooks", "secret", client.tenant_id, settings={"JUDGIFY_DATABASE_URL": database.dsn})
        assert (again.returncode, again.stdout) == (1, "")
        metrics = (await client.get("/metrics")).body.decode()
        assert 'judgify_actions_total{outcome="made"} 1.0' in metrics
        assert 'judgify_actions_total{outcome="succeeded"} 1.0' in metrics
        assert "judgify_action_duration_seconds_count 2.0" in metrics
        assert 'judgify_action_jobs{outcome="dead"}' in metrics
    assert engine.terminate() == 0


async def test_a_restart_sends_what_the_one_before_did_not(
    database: Database, start_engine: Callable[..., Engine], target: Receiver
) -> None:
    """kill -9 right after the answers: the streams in memory are gone, the log is not."""
    engine = start_engine(database, settings=QUICK)
    async with new_tenant(engine.url, database) as client:
        await client.put_workflow("w", workflow(target, timeout_s=1))
        await client.judge(workflow_id="w")
        await until(lambda: target.calls, "the first call")
        ids = [answer["judgment_id"] for answer in await asyncio.gather(*[client.judge(workflow_id="w") for _ in range(50)])]
        engine.kill()
        await asyncio.to_thread(engine.start)
        client.url = engine.url
        done = await actions_of(client, 51, "succeeded")
        assert {one["judgment_id"] for one in done} >= set(ids)
        assert len(done) == 51
    assert {call.id for call in target.calls} == {one["message_id"] for one in done}
    assert engine.terminate() == 0


async def test_several_processes_without_redis(
    database: Database, start_engine: Callable[..., Engine], target: Receiver
) -> None:
    """One of them fills its streams for all, whichever is asked; another one takes over."""
    engines = [start_engine(database, settings=QUICK) for _ in range(2)]
    async with new_tenant(engines[0].url, database) as client:
        for number, engine in enumerate(engines):
            client.url = engine.url
            assert (await client.put_workflow(f"w-{number}", workflow(target))).status == 201
            await client.judge(workflow_id=f"w-{number}")
        done = await actions_of(client, 2, "succeeded")
        roles: dict[str, Engine] = {}
        for engine in engines:
            client.url = engine.url
            roles[(await client.get("/ready")).json["publisher"]] = engine
        holder, other = roles["this process"], roles["standby"]
        client.url = other.url
        ids = [(await client.judge(workflow_id="w-0"))["judgment_id"] for _ in range(10)]
        holder.kill()
        ids.append((await client.judge(workflow_id="w-1"))["judgment_id"])
        done = await actions_of(client, 13, "succeeded")
    assert {one["judgment_id"] for one in done} >= set(ids)
    assert {call.id for call in target.calls} == {one["message_id"] for one in done}
    assert other.terminate() == 0


async def test_a_workflow_with_actions_waits_for_the_first_slot(
    database: Database, start_engine: Callable[..., Engine], target: Receiver, redis: RedisServer
) -> None:
    """What is judged before the slot of the streams is made never comes by in them."""
    connection = await database.connect()
    writing = connection.transaction()
    await writing.start()
    await connection.execute("SELECT pg_current_xact_id()")  # PostgreSQL makes a slot when this has ended
    engine = start_engine(database, settings={**QUICK, "JUDGIFY_REDIS_URL": redis.url})
    async with new_tenant(engine.url, database) as client:

        async def waiting() -> bool:
            return "waiting for" in (await client.get("/ready")).json["publisher"]

        await until(waiting, "the slot is being made", 30)
        put = asyncio.create_task(client.put_workflow("w", workflow(target)))
        await client.judge()
        await until(waiting, "it is still")
        assert not put.done()
        await writing.rollback()
        await connection.close()
        assert (await put).status == 201
        await client.judge(workflow_id="w")
        await actions_of(client, 1, "succeeded")
    assert engine.terminate() == 0


async def test_kill_9_in_the_middle_of_a_call(
    database: Database, start_engine: Callable[..., Engine], target: Receiver, redis: RedisServer
) -> None:
    """Another process takes over what the dead one had begun, under the same id."""
    target.answers["/hook"] = ["hang"]
    settings = {**QUICK, "JUDGIFY_REDIS_URL": redis.url}
    first = start_engine(database, settings=settings)
    async with new_tenant(first.url, database) as client:
        await client.put_workflow("w", workflow(target, timeout_s=1))
        judged = await client.judge(workflow_id="w")
        await until(lambda: target.calls, "the call is under way")
        first.kill()
        target.answers["/hook"] = [200]
        second = start_engine(database, settings=settings)
        client.url = second.url
        (action,) = await actions_of(client, 1, "succeeded")
        attempts = (await client.get(f"/api/v1/judgments/{judged['judgment_id']}/actions")).json["items"]
    assert [one["status"] for one in attempts] == ["succeeded", "lost"]
    assert {call.id for call in target.calls} == {action["message_id"]}
    assert second.terminate() == 0


async def test_several_processes_over_redis_call_once_each(
    database: Database, start_engine: Callable[..., Engine], target: Receiver, redis: RedisServer
) -> None:
    settings = {**QUICK, "JUDGIFY_REDIS_URL": redis.url}
    engines = [start_engine(database, settings=settings) for _ in range(2)]
    async with new_tenant(engines[0].url, database) as client:
        await client.put_workflow("w", workflow(target))
        await client.judge(workflow_id="w")
        await actions_of(client, 1, "succeeded")
        for _ in range(4):
            await asyncio.gather(*[client.judge(workflow_id="w") for _ in range(50)])
        await actions_of(client, 201, "succeeded")
        assert len(target.calls) == len({call.id for call in target.calls}) == 201
        # A row written by hand counts like any other.
        await database.do(
            "INSERT INTO judgment_executions (tenant_id, workflow_id, workflow_version, input_data, final_result,"
            " confidence_score, method_used, execution_time_ms) VALUES ($1, 'w', 1, '{}', '{}', 1, 'rule', 1)",
            client.tenant_id,
        )
        await actions_of(client, 202, "succeeded")
    for engine in engines:
        assert engine.terminate() == 0


async def test_the_list_its_filters_and_replay(tenant: Client, target: Receiver) -> None:
    target.answers["/hook"] = [410]
    await tenant.put_workflow("w", workflow(target))
    judged = [await tenant.judge(workflow_id="w") for _ in range(3)]
    dead = await actions_of(tenant, 3, "dead")
    assert {one["judgment_id"] for one in dead} == {one["judgment_id"] for one in judged}
    assert [one["action_id"] for one in dead] == sorted((one["action_id"] for one in dead), reverse=True)
    page = (await tenant.get(f"{PATH}?limit=2")).json
    rest = (await tenant.get(f"{PATH}?limit=2&cursor={page['next_cursor']}")).json
    assert page["items"] + rest["items"] == dead
    assert rest["next_cursor"] is None
    for query, count in {"workflow_id=w": 3, "workflow_id=x": 0, "state=waiting": 0, "action=notify": 3}.items():
        assert len((await tenant.get(f"{PATH}?{query}")).json["items"]) == count
    (one,) = (await tenant.get(f"{PATH}?judgment_id={judged[0]['judgment_id']}")).json["items"]
    assert (await tenant.get(f"{PATH}/{one['action_id']}")).json == one
    (await tenant.get(f"{PATH}?state=gone")).problem(422, "invalid_field")
    (await tenant.get(f"{PATH}?judgment_id=5")).problem(422, "invalid_field")
    target.answers["/hook"] = [200]
    answer = await tenant.call("POST", f"{PATH}/{one['action_id']}/replay")
    assert answer.status == 200
    assert answer.json["state"] == "waiting"
    await actions_of(tenant, 1, "succeeded")
    (await tenant.call("POST", f"{PATH}/{one['action_id']}/replay")).problem(409, "not_replayable")
    assert (await tenant.call("POST", f"{PATH}/replay?workflow_id=w")).json == {"replayed": 2, "more": False}
    await actions_of(tenant, 3, "succeeded")
    assert {call.id for call in target.calls} == {one["message_id"] for one in dead}


async def test_another_tenant_sees_and_replays_nothing(tenant: Client, engine: Engine, target: Receiver) -> None:
    target.answers["/hook"] = [410]
    await tenant.put_workflow("w", workflow(target))
    judged = await tenant.judge(workflow_id="w")
    (dead,) = await actions_of(tenant, 1, "dead")
    assert engine.database is not None
    async with new_tenant(engine.url, engine.database) as other:
        assert (await other.get(PATH)).json["items"] == []
        (await other.get(f"{PATH}/{dead['action_id']}")).problem(404, "not_found")
        (await other.get(f"/api/v1/judgments/{judged['judgment_id']}/actions")).problem(404, "not_found")
        (await other.call("POST", f"{PATH}/{dead['action_id']}/replay")).problem(404, "not_found")
        assert (await other.call("POST", f"{PATH}/replay")).json["replayed"] == 0
    async with new_tenant(engine.url, engine.database, "read", workflow=False) as reader:
        (await reader.call("POST", f"{PATH}/replay")).problem(403, "forbidden")
        (await reader.call("POST", f"{PATH}/{dead['action_id']}/replay")).problem(403, "forbidden")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"default": {"result": {}, "actions": ["nothing"]}}, "default.actions[0]"),
        ({"default": {"result": {}, "actions": ["notify", "notify"]}}, "default.actions[1]"),
        ({"on_failure": ["nothing"]}, "on_failure[0]"),
        ({"rules": [{"when": "true", "result": {}, "actions": ["x"]}]}, "rules[0].actions[0]"),
        ({"default": {"result": {}}}, "actions.notify"),
        ({"actions": {"notify": {"type": "webhook", "url": "ftp://x"}}}, "actions.notify.url"),
        ({"actions": {"notify": {"type": "webhook", "url": "https://a:b@x"}}}, "actions.notify.url"),
        ({"actions": {"notify": {"type": "webhook", "url": "https://x:70000/"}}}, "actions.notify.url"),
        ({"actions": {"notify": {"type": "webhook", "url": "https://x", "timeout_s": 61}}}, "actions.notify.timeout_s"),
        ({"actions": {"notify": {"type": "webhook", "url": "https://x", "max_attempts": 0}}}, "actions.notify.max_attempts"),
        ({"actions": {"notify": {"type": "mail"}}}, "actions.notify.type"),
        ({"actions": {"notify": {"type": "alert", "message": ""}}}, "actions.notify.message"),
        ({"actions": {"a b": {"type": "alert", "message": "m"}}}, "actions"),
    ],
)
async def test_what_could_never_be_done_is_refused_by_name(tenant: Client, change: dict[str, Any], field: str) -> None:
    base = {
        "default": {"result": {}, "actions": ["notify"]},
        "actions": {"notify": {"type": "webhook", "url": "https://receiver.example/"}},
    }
    answer = await tenant.put_workflow("w", {**base, **change})
    assert answer.status == 422
    assert answer.json["field"] == field
