"""Actions on a real PostgreSQL and against a real receiver: each is done, once as far as it honours the key, whatever fails."""

import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web
from standardwebhooks import WebhookVerificationError
from support.actions import QUICK, TENANT, Acting, acting
from support.cluster import Database
from support.ports import free_port
from support.receiver import Receiver, receiver
from support.waiting import until

from judgify_engine.core.jobs import Finished, Lane
from judgify_engine.core.retries import Outcome
from judgify_engine.core.streams import ALERT_CHANNEL, ALERTS, PERFORMANCE_ALERTS, stream_of
from judgify_engine.pipeline import action_loop
from judgify_engine.pipeline.action_intake import GROUP, join_group
from judgify_engine.pipeline.streams import Batch, Entry
from judgify_engine.store import actions
from judgify_engine.store.action_jobs import ActionJobs
from judgify_engine.store.webhook_secrets import WebhookSecrets
from judgify_engine.units import START, Position


@pytest.fixture
async def target() -> AsyncIterator[Receiver]:
    async with receiver() as made:
        yield made


@pytest.fixture
async def prepared(database: Database) -> AsyncIterator[Acting]:
    async with acting(database) as made:
        yield made


def calling(target: Receiver, path: str = "/hook", **more: Any) -> dict[str, Any]:
    """A workflow whose default is called back."""
    webhook = {"type": "webhook", "url": target.url + path, **more}
    return {"default": {"result": {}, "actions": ["notify"]}, "actions": {"notify": webhook}}


async def secret_of(acts: Acting) -> str:
    return str(await acts.database.value("SELECT secret FROM webhook_secrets WHERE tenant_id = $1", TENANT))


async def test_a_result_is_sent_signed_with_its_judgment(prepared: Acting, target: Receiver) -> None:
    await prepared.workflow(calling(target))
    async with prepared.running():
        (judgment_id,) = await prepared.judge()
        (job,) = await prepared.settled(1)
    (call,) = target.calls
    event = call.check(await secret_of(prepared))
    assert event["type"] == "judgment.completed"
    assert event["data"]["judgment_id"] == judgment_id
    assert event["data"]["tenant_id"] == TENANT
    assert event["data"]["action"] == "notify"
    assert event["data"]["input_data"] == {"value": 7}
    assert event["timestamp"] == event["data"]["created_at"]
    assert call.id == call.headers["idempotency-key"] == f"msg_{judgment_id.replace('-', '')}_notify"
    assert call.headers["content-type"] == "application/json"
    (attempt,) = await prepared.attempts()
    assert (attempt["attempt"], attempt["status"], attempt["error"]) == (1, "succeeded", None)
    assert json.loads(attempt["response"]) == {"status": 200, "body": "status 200"}
    assert json.loads(attempt["request"])["url"] == target.url + "/hook"
    assert (job["attempts"], job["owner"]) == (1, None)


# Which actions a judgment has ----------------------------------------------------------------------------------------------


async def test_the_rule_the_default_and_failure_have_their_own(prepared: Acting, target: Receiver) -> None:
    def hook(path: str) -> dict[str, Any]:
        return {"type": "webhook", "url": target.url + path}

    await prepared.workflow(
        {
            "rules": [{"when": "true", "result": {}, "actions": ["first", "both"]}, {"when": "true", "result": {}}],
            "default": {"result": {}, "actions": ["both"]},
            "on_failure": ["failed"],
            "actions": {"first": hook("/first"), "both": hook("/both"), "failed": hook("/failed")},
        }
    )
    async with prepared.running():
        await prepared.judge(rule_index=0)
        await prepared.judge(rule_index=1)
        await prepared.judge(rule_index=9)
        await prepared.judge()
        await prepared.judge(rule_index=1, status="failed")
        await prepared.judge(workflow_version=0)
        await prepared.judge(workflow_version=77)
        await prepared.settled(4)
    assert sorted(call.path for call in target.calls) == ["/both", "/both", "/failed", "/first"]
    event = target.of("/failed")[0].check(await secret_of(prepared))
    assert event["type"] == "judgment.failed"
    assert len(await prepared.jobs()) == 4


async def test_an_action_written_wrong_by_hand_is_seen_and_blocks_nothing(prepared: Acting, target: Receiver) -> None:
    definition = calling(target)
    definition["default"]["actions"] += ["nothing", "bad"]
    definition["actions"]["bad"] = {"type": "webhook", "url": "gopher://x"}
    await prepared.workflow(definition)
    await prepared.workflow({"default": {"result": {}, "actions": 5}, "actions": {}}, "unreadable")
    async with prepared.running():
        await prepared.judge(workflow_id="unreadable")
        await prepared.judge()
        await prepared.settled(1)
        dead = await prepared.settled(2, "dead")
    assert {job["action"]: job["error"].split(":")[0] for job in dead} == {
        "nothing": "the workflow defines no such action",
        "bad": "its definition is wrong",
    }
    (refused,) = await prepared.database.rows("SELECT * FROM action_entries_refused")
    assert "the workflow's actions cannot be read" in refused["reason"]
    assert b"unreadable" in refused["entry"]
    assert len(target.calls) == 1


# From the stream to jobs ---------------------------------------------------------------------------------------------------


async def test_an_entry_seen_twice_is_acted_on_once(prepared: Acting, target: Receiver) -> None:
    await prepared.workflow(calling(target))
    async with prepared.running():
        await prepared.judge(3)
        await prepared.settled(3)
        await prepared.publish(await prepared.database.rows("SELECT * FROM judgment_executions"))
        (last,) = await prepared.judge()
        await prepared.settled(4)
    assert len(target.calls) == len(await prepared.jobs()) == 4
    assert target.calls[-1].id == f"msg_{last.replace('-', '')}_notify"


async def test_entries_that_mean_nothing_are_kept_and_block_nothing(prepared: Acting, target: Receiver) -> None:
    await prepared.workflow(calling(target))
    async with prepared.running():
        stream = stream_of(TENANT)
        (last,) = await prepared.streams.last((stream,))
        judged = {
            "tenant_id": TENANT,
            "workflow_id": "w",
            "workflow_version": 1,
            "status": "completed",
            "id": str(uuid.uuid4()),
        }
        bad = [
            {b"op": b"insert", b"table": b"judgment_executions", b"data": b"{"},
            {b"op": b"insert", b"table": b"judgment_executions", b"data": b'{"id": "x", "tenant_id": "\\u0000"}'},
            {b"hello": b"\xff\0"},
            {b"op": b"insert", b"table": b"judgment_executions", b"data": json.dumps({**judged, "workflow_id": "\0"}).encode()},
            {b"op": b"insert", b"table": b"judgment_executions", b"data": json.dumps({**judged, "id": "none"}).encode()},
            {b"op": b"insert", b"table": b"workflows", b"data": b"{}"},
            {b"op": b"truncate", b"table": b"judgment_executions"},
        ]
        entries = [Entry(Position(1, index), fields) for index, fields in enumerate(bad)]
        await prepared.streams.append([Batch(stream, last, entries)])
        await prepared.judge()
        await prepared.settled(1)
        (group,) = await prepared.streams.groups(stream)
        assert (group.pending, group.waiting) == (0, 0)
    kept = await prepared.database.rows("SELECT * FROM action_entries_refused ORDER BY entry_id")
    assert [row["entry_id"] for row in kept] == ["1-0", "1-1", "1-2", "1-3", "1-4"]
    assert json.loads(kept[2]["entry"]) == {"hello": "\N{REPLACEMENT CHARACTER}\0"}
    assert prepared.metrics.actions["refused"] == 5


async def test_entries_of_a_consumer_that_died_are_taken_over(prepared: Acting, target: Receiver) -> None:
    await prepared.workflow(calling(target))
    stream = stream_of(TENANT)
    await join_group(prepared.streams, stream)
    await prepared.judge(2)
    assert len(await prepared.streams.read(stream, GROUP, "dead", 10, 1)) == 2
    async with prepared.running():
        await prepared.settled(2)
        await until(lambda: _pending(prepared, stream), "all is acknowledged")


async def _pending(acts: Acting, stream: str) -> bool:
    return [group.pending for group in await acts.streams.groups(stream)] == [0]


async def test_several_processes_make_each_call_once(prepared: Acting, target: Receiver) -> None:
    other = Acting(prepared.database, prepared.pools, prepared.streams, QUICK, "two")
    await prepared.workflow(calling(target))
    async with prepared.running(), other.running():
        for _ in range(10):
            await prepared.judge(20)
        await prepared.settled(200)
    assert len(target.calls) == len({call.id for call in target.calls}) == 200
    assert {attempt["status"] for attempt in await prepared.attempts()} == {"succeeded"}


# What fails ----------------------------------------------------------------------------------------------------------------


async def test_it_is_tried_again_until_it_succeeds_once(prepared: Acting, target: Receiver) -> None:
    target.answers["/hook"] = [500, 429, 200]
    await prepared.workflow(calling(target))
    async with prepared.running():
        await prepared.judge()
        (job,) = await prepared.settled(1)
    assert len(target.calls) == job["attempts"] == 3
    assert len({call.id for call in target.calls}) == 1
    secret = await secret_of(prepared)
    assert len({json.dumps(call.check(secret)) for call in target.calls}) == 1
    attempts = await prepared.attempts()
    assert [(one["attempt"], one["status"]) for one in attempts] == [(1, "failed"), (2, "failed"), (3, "succeeded")]
    assert attempts[0]["error"] == "the receiver answered 500"
    assert attempts[0]["duration_ms"] > 0


@pytest.mark.parametrize(
    ("answer", "calls", "told"),
    [(410, 1, "410"), (400, 1, "400"), (308, 1, "redirects are not followed"), (500, 2, "500"), (302, 2, "not followed")],
)
async def test_what_a_repeat_cannot_help_is_dead_at_once(
    prepared: Acting, target: Receiver, answer: int, calls: int, told: str
) -> None:
    async def answering(request: web.Request) -> web.Response:
        return web.Response(status=answer, headers={"Location": "/elsewhere"})

    target.answers["/hook"] = [answering]
    await prepared.workflow(calling(target, max_attempts=2))
    async with prepared.running():
        await prepared.judge()
        (job,) = await prepared.settled(1, "dead")
    assert job["attempts"] == len(target.calls) == calls
    assert told in job["error"]
    assert not target.of("/elsewhere")
    assert prepared.metrics.actions["dead"] == 1


async def test_no_answer_in_time_is_a_failure(prepared: Acting, target: Receiver) -> None:
    target.answers["/hook"] = ["hang"]
    await prepared.workflow(calling(target, timeout_s=0.2, max_attempts=2))
    async with prepared.running():
        await prepared.judge()
        (job,) = await prepared.settled(1, "dead")
    assert job["error"] == "no answer within 0.2 s"
    assert job["attempts"] == 2


async def test_nobody_listening_is_a_failure(prepared: Acting, target: Receiver) -> None:
    definition = calling(target, max_attempts=2)
    definition["actions"]["notify"]["url"] = f"http://127.0.0.1:{free_port()}/"
    await prepared.workflow(definition)
    async with prepared.running():
        await prepared.judge()
        (job,) = await prepared.settled(1, "dead")
    assert "onnect" in job["error"]


async def test_an_endless_answer_is_not_read_to_its_end(prepared: Acting, target: Receiver) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while not target.hanging.is_set():
            await response.write(b"\0" + b"x" * 999)
        return response

    target.answers["/hook"] = [endless]
    await prepared.workflow(calling(target))
    async with prepared.running():
        await prepared.judge()
        await prepared.settled(1)
    (attempt,) = await prepared.attempts()
    assert 2048 <= len(json.loads(attempt["response"])["body"]) < 2060


async def test_a_receiver_that_hangs_holds_up_only_its_own(database: Database, target: Receiver) -> None:
    target.answers["/hook"] = ["hang"]
    config = msgspec.structs.replace(QUICK, concurrency=16, per_destination=3)
    async with acting(database, config) as acts, receiver() as good, acts.running():
        await acts.workflow(calling(target), "bad")
        await acts.workflow(calling(good), "good")
        await acts.judge(50, workflow_id="bad")
        await until(lambda: len(target.calls) == 3, "its lane is full")
        await acts.judge(50, workflow_id="good")
        await acts.settled(50)
        assert len(good.calls) == 50
        assert len(target.calls) == 3
        target.answers["/hook"] = [200]
        target.hanging.set()
        await acts.settled(100)


async def test_a_tenant_whose_receivers_all_hang_holds_up_no_other(database: Database) -> None:
    config = msgspec.structs.replace(QUICK, concurrency=6, per_destination=2)
    async with acting(database, config) as acts, contextlib.AsyncExitStack() as stack:
        hanging = [await stack.enter_async_context(receiver()) for _ in range(5)]
        good = await stack.enter_async_context(receiver())
        async with acts.running():
            for number, one in enumerate(hanging):
                one.answers["/hook"] = ["hang"]
                await acts.workflow(calling(one), f"bad-{number}")
                await acts.judge(5, workflow_id=f"bad-{number}")
            await until(lambda: sum(len(one.calls) for one in hanging) == 3, "the tenant has its half")
            await acts.workflow(calling(good), tenant="other")
            await acts.judge(20, tenant="other")
            await acts.settled(20)
            assert sum(len(one.calls) for one in hanging) == 3
            for one in hanging:
                one.answers["/hook"] = [200]
                one.hanging.set()
            await acts.settled(45)


async def test_a_lease_takes_what_the_bounds_leave_free(prepared: Acting, target: Receiver) -> None:
    await prepared.workflow(calling(target))
    stream = stream_of(TENANT)
    await join_group(prepared.streams, stream)
    await prepared.judge(20)
    await prepared.intake.take(stream, await prepared.streams.read(stream, GROUP, "test", 100, 1))
    jobs, lane = ActionJobs(prepared.pools), Lane(TENANT, target.url.removeprefix("http://"))
    assert len(await jobs.claim("me", 10, 64, 3, 10, {lane: 2})) == 1
    assert len(await jobs.claim("me", 10, 64, 3, 10, {lane: 3})) == 0
    assert len(await jobs.claim("me", 10, 64, 8, 4, {lane: 1})) == 3
    assert len(await jobs.claim("me", 10, 64, 8, 4, {Lane(TENANT, "another:443"): 4})) == 0
    assert len(await jobs.claim("me", 10, 2, 8, 8, {})) == 2
    assert len(await jobs.claim("me", 10, 64, 64, 64, {})) == 14


# Processes that end --------------------------------------------------------------------------------------------------------


async def test_what_a_process_left_behind_is_made_again_with_the_same_id(prepared: Acting, target: Receiver) -> None:
    await prepared.workflow(calling(target))
    stream = stream_of(TENANT)
    await join_group(prepared.streams, stream)
    (judgment_id,) = await prepared.judge()
    await prepared.intake.take(stream, await prepared.streams.read(stream, GROUP, "gone", 10, 1))
    jobs = ActionJobs(prepared.pools)
    await prepared.database.do("UPDATE action_jobs SET timeout_s = 0.2")
    (leased,) = await jobs.claim("gone", 0.3, 10, 10, 10, {})
    assert await jobs.claim("two", 0.3, 10, 10, 10, {}) == []
    async with prepared.running():
        (job,) = await prepared.settled(1)
    assert [(one["attempt"], one["status"]) for one in await prepared.attempts()] == [(1, "lost"), (2, "succeeded")]
    assert [call.id for call in target.calls] == [f"msg_{judgment_id.replace('-', '')}_notify"]
    # The one that was thought dead comes back: what it tells is recorded, and changes nothing.
    await jobs.record("gone", [Finished(leased, Outcome("retry", "late"), "dead", 0.0, 1.0)])
    await jobs.record("gone", [Finished(leased, Outcome("succeeded"), "succeeded", 0.0, 1.0)])
    assert [one["status"] for one in await prepared.attempts()] == ["lost", "failed", "repeated", "succeeded"]
    assert (await prepared.jobs())[0]["finished_at"] == job["finished_at"]


async def test_a_stop_cuts_off_what_hangs_and_leaves_it_due(
    prepared: Acting, target: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(action_loop, "STOP_S", 0.05)
    target.answers["/hook"] = ["hang", 200]
    await prepared.workflow(calling(target))
    async with prepared.running():
        await prepared.judge()
        await until(lambda: target.calls, "the call is under way")
    (job,) = await prepared.jobs()
    assert (job["state"], job["owner"], job["error"]) == ("waiting", None, "the engine stopped during this attempt")
    async with prepared.running():
        await prepared.settled(1)
    assert len({call.id for call in target.calls}) == 1


# Dead letters --------------------------------------------------------------------------------------------------------------


async def test_a_replay_takes_the_definition_of_now_and_the_same_id(prepared: Acting, target: Receiver) -> None:
    target.answers["/gone"] = [410]
    await prepared.workflow(calling(target, "/gone"))
    async with prepared.running():
        await prepared.judge(3)
        dead = await prepared.settled(3, "dead")
        await prepared.workflow(calling(target, "/mended"))
        one = await prepared.store.replay(TENANT, dead[0]["id"], "w", "notify")
        assert one["state"] == "waiting"
        assert await prepared.store.replay(TENANT, dead[0]["id"], "w", "notify") is None
        assert await prepared.store.replay("other", dead[1]["id"], "w", "notify") is None
        assert await prepared.store.replay_all(TENANT, "nothing", None) == (0, False)
        assert await prepared.store.replay_all(TENANT, None, "notify") == (2, False)
        prepared.loop.wake()
        await prepared.settled(3)
    assert {call.id for call in target.of("/gone")} == {call.id for call in target.of("/mended")}
    assert len(target.of("/mended")) == 3


async def test_what_is_over_is_forgotten_and_what_waits_stays(prepared: Acting, target: Receiver) -> None:
    await prepared.workflow(calling(target))
    async with prepared.running():
        await prepared.judge(3)
        await prepared.settled(3)
    await prepared.database.do(
        "UPDATE action_jobs SET finished_at = now() - interval '31 days'"
        " WHERE id = (SELECT min(id::text)::uuid FROM action_jobs)"
    )
    await prepared.database.do(
        "UPDATE action_executions SET id = judgify_uuid7_floor(now() - interval '31 days') WHERE judgment_id ="
        " (SELECT judgment_id FROM action_jobs WHERE finished_at < now() - interval '30 days')"
    )
    await prepared.database.do("UPDATE action_jobs SET state = 'waiting', finished_at = NULL WHERE id ="
                               " (SELECT max(id::text)::uuid FROM action_jobs)")  # fmt: skip
    await actions.tidy(prepared.pools, 30)
    assert len(await prepared.jobs()) == len(await prepared.attempts()) == 2
    assert [len(await prepared.jobs(state=state)) for state in ("waiting", "succeeded")] == [1, 1]


# Secrets and addresses -----------------------------------------------------------------------------------------------------


async def test_both_secrets_sign_while_one_replaces_the_other(prepared: Acting, target: Receiver) -> None:
    secrets = WebhookSecrets(prepared.pools)
    first = (await secrets.show(TENANT)).secret
    assert first is not None
    assert first.startswith("whsec_")
    assert (await secrets.show(TENANT)).secret is None
    second = (await secrets.show(TENANT, rotate=True)).secret
    assert second is not None
    await prepared.workflow(calling(target))
    async with prepared.running():
        await prepared.judge()
        await prepared.settled(1)
        (both,) = target.calls
        assert both.check(first)["data"] == both.check(second)["data"]
        await prepared.database.do("UPDATE webhook_secrets SET retired_at = now() WHERE secret = $1", first)
        await prepared.judge()
        await prepared.settled(2)
    assert target.calls[1].check(second)
    with pytest.raises(WebhookVerificationError):
        target.calls[1].check(first)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "[::1]"])
async def test_a_private_address_is_not_called(database: Database, target: Receiver, host: str) -> None:
    config = msgspec.structs.replace(QUICK, private_networks=False)
    port = target.url.rpartition(":")[2]
    async with acting(database, config) as acts:
        definition = calling(target)
        definition["actions"]["notify"]["url"] = f"http://{host}:{port}/hook"
        await acts.workflow(definition)
        async with acts.running():
            await acts.judge()
            (job,) = await acts.settled(1, "dead")
    assert "which is not public" in job["error"]
    assert job["attempts"] == 1
    assert target.calls == []


# Alerts --------------------------------------------------------------------------------------------------------------------


async def test_an_alert_is_in_the_stream_and_on_the_channels_once(prepared: Acting) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    listener = prepared.streams.listen(lambda channel, text: heard.append((channel, json.loads(text))), lambda: None)
    await listener.watch([ALERT_CHANNEL, PERFORMANCE_ALERTS])
    alert = {"type": "alert", "severity": "critical", "message": "too hot", "about": "performance"}
    await prepared.workflow({"default": {"result": {}, "actions": ["page"]}, "actions": {"page": alert}})
    async with prepared.running():
        (judgment_id,) = await prepared.judge()
        await prepared.settled(1)
        # Its process ended before it told: it is made again, and nobody is alarmed twice.
        await prepared.database.do("UPDATE action_jobs SET state = 'waiting', finished_at = NULL, due_at = now()")
        prepared.loop.wake()
        await until(lambda: _attempted(prepared, 2), "it was made again")
    (entry,) = await prepared.streams.after(ALERTS, START, 10)
    fields = {name.decode(): value.decode() for name, value in entry.fields.items()}
    at = fields.pop("at")
    assert at.endswith("Z")
    assert fields == {
        "id": f"msg_{judgment_id.replace('-', '')}_page", "tenant_id": TENANT, "severity": "critical", "name": "page",
        "message": "too hot", "judgment_id": judgment_id, "workflow_id": "w",
    }  # fmt: skip
    assert [channel for channel, _ in heard] == [ALERT_CHANNEL, PERFORMANCE_ALERTS]
    assert heard[0][1] == {**fields, "at": at}


async def _attempted(acts: Acting, count: int) -> bool:
    return len(await acts.attempts()) == count
