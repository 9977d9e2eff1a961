"""One judgment from request to answer, and a repeated Idempotency-Key that gets the first answer."""

import asyncio
import time
from typing import Any

import msgspec
import pytest
from builders import compiled, settle

from judgify_engine.core.model import Judgment
from judgify_engine.core.partition import partition_of
from judgify_engine.core.rules import CompiledWorkflow
from judgify_engine.errors import (
    CommitUnknown,
    DatabaseUnavailable,
    IdempotencyMismatch,
    QueueFull,
    RowRefused,
    Unavailable,
    WorkflowNotFound,
)
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.accepted import Accepted
from judgify_engine.pipeline.judging import Answer, Judging
from judgify_engine.pipeline.partition_queue import PartitionQueue, Waiting
from judgify_engine.pipeline.ports import Outcome, Replayed
from judgify_engine.pipeline.registry import WorkflowRegistry
from judgify_engine.wire.request import Asked, decode_execute

PARTITIONS = 4


class NoWorkflows:
    """A table without workflows."""

    async def get(self, tenant_id: str, workflow_id: str, version: int | None = None) -> None:
        return None


class MemoryKeys:
    """The table of idempotency keys."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}

    async def by_key(self, tenant_id: str, key: str) -> dict[str, Any] | None:
        await asyncio.sleep(0)
        return self.rows.get((tenant_id, key))


class NoBooks:
    """Where nothing is written."""

    async def write(self, process: str, counts: dict[tuple[str, int], int]) -> None: ...


def asked(value: float = 1, **rest: Any) -> Asked:
    return decode_execute(msgspec.json.encode({"workflow_id": "w", "input_data": {"value": value}, **rest}))


class Setting:
    """Judging over queues whose commits the test makes."""

    def __init__(self) -> None:
        registry = WorkflowRegistry(NoWorkflows(), lambda: True)
        registry.stored(compiled("input.value > 10"))
        registry.stored(CompiledWorkflow("acme", "w", 1, compiled().definition))
        self.queues = [PartitionQueue(i, 100, 10**9) for i in range(PARTITIONS)]
        self.keys, self.metrics = MemoryKeys(), Metrics()
        self.judging = Judging(registry, self.queues, self.keys, self.metrics, Accepted(NoBooks()))

    def start(self, request: Asked, key: str | None = None, tenant_id: str = "demo") -> "asyncio.Task[Answer]":
        return asyncio.create_task(self.judging.execute(tenant_id, request, time.perf_counter(), key))

    def queued(self) -> list[Waiting]:
        """What waits for a commit, taken from the queues."""
        return [item for queue in self.queues for item in queue.take(100, 10**9)]

    def commit(self, outcome: Outcome = None) -> list[Judgment]:
        """Give everything queued this outcome."""
        items = self.queued()
        for item in items:
            if outcome is None and item.judgment.idempotency_key is not None:
                j = item.judgment
                self.keys.rows[j.tenant_id, str(j.idempotency_key)] = {"fingerprint": j.fingerprint, "answer": j.answer}
            if not item.outcome.done():  # its sender may have gone
                item.outcome.set_result(outcome)
        for queue in self.queues:
            queue.done([item for item in items if partition_of(item.judgment.tenant_id, PARTITIONS) == queue.partition])
        return [item.judgment for item in items]


def told(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(answer.body)
    return found


async def test_a_judgment_is_answered_only_when_it_is_committed() -> None:
    s = Setting()
    task = s.start(asked(20))
    await settle()
    assert not task.done()
    (judgment,) = s.commit()
    answer = await task
    assert not answer.replayed
    assert told(answer)["final_result"] == {"verdict": "0"}
    assert told(answer)["judgment_id"].replace("-", "") == judgment.id.hex()
    assert judgment.input_data == b'{"value":20}'
    assert 0 <= judgment.execution_time_ms <= 30_000
    assert s.metrics.judgments["completed"] == 1


async def test_a_rule_that_fails_is_stored_and_answered_as_failed() -> None:
    s = Setting()
    task = s.start(decode_execute(b'{"workflow_id":"w","input_data":{}}'))
    await settle()
    (judgment,) = s.commit()
    assert told(await task)["status"] == judgment.status == "failed"
    assert "no such field: value" in str(judgment.error)
    assert s.metrics.judgments["failed"] == 1


async def test_the_time_told_is_never_over_thirty_seconds() -> None:
    s = Setting()
    task = asyncio.create_task(s.judging.execute("demo", asked(), time.perf_counter() - 100, None))
    await settle()
    (judgment,) = s.commit()
    assert judgment.execution_time_ms == 30_000
    await task


async def test_a_tenants_judgments_go_to_its_partition() -> None:
    s = Setting()
    tasks = [s.start(asked(), tenant_id=tenant) for tenant in ("demo", "acme")]
    await settle()
    for tenant in ("demo", "acme"):
        queue = s.queues[partition_of(tenant, PARTITIONS)]
        assert tenant in queue._waiting
    s.commit()
    await asyncio.gather(*tasks)


async def test_ids_are_ordered_by_time() -> None:
    s = Setting()
    tasks = [s.start(asked(i)) for i in range(20)]
    await settle()
    judgments = s.commit()
    assert len({j.id for j in judgments}) == 20
    assert {j.id[6] >> 4 for j in judgments} == {7}
    milliseconds = [int.from_bytes(j.id[:6]) for j in judgments]
    assert milliseconds == sorted(milliseconds)
    assert all(abs(ms - j.created_at_us // 1000) <= 1 for ms, j in zip(milliseconds, judgments, strict=True))
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("outcome", [RowRefused("bad"), DatabaseUnavailable("away"), CommitUnknown("?")])
async def test_what_went_wrong_is_raised(outcome: Any) -> None:
    for key in (None, "k"):
        s = Setting()
        task = s.start(asked(), key)
        await settle()
        (judgment,) = s.commit(outcome)
        with pytest.raises(type(outcome)) as caught:
            await task
        if isinstance(outcome, CommitUnknown):
            assert caught.value.extra["judgment_id"].replace("-", "") == judgment.id.hex()


async def test_an_unknown_workflow_is_not_found_and_nothing_is_queued() -> None:
    s = Setting()
    for key in (None, "k"):
        with pytest.raises(WorkflowNotFound):
            await s.start(decode_execute(b'{"workflow_id":"nosuch","input_data":{}}'), key)
    assert s.queued() == []


async def test_a_full_queue_is_said_at_once() -> None:
    s = Setting()
    for queue in s.queues:
        queue._max_rows = 0
    with pytest.raises(QueueFull):
        await s.start(asked())


async def test_a_commit_that_broke_off_is_unavailable_not_a_cancelled_sender() -> None:
    s = Setting()
    task = s.start(asked())
    await settle()
    (item,) = s.queued()
    item.outcome.cancel()
    with pytest.raises(Unavailable):
        await task


async def test_a_cancelled_sender_is_cancelled_and_told_nothing_wrong() -> None:
    """The judgment is still committed, so "interrupted" would be untrue; and who cancels a task must see it end cancelled."""
    s = Setting()
    task = s.start(asked())
    await settle()
    task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError)
    assert len(s.commit()) == 1


# The same key again ---------------------------------------------------------------------------------------------------


async def test_many_at_once_with_one_key_are_one_judgment() -> None:
    s = Setting()
    tasks = [s.start(asked(), "k") for _ in range(10)]
    await settle()
    assert len(s.commit()) == 1
    answers = await asyncio.gather(*tasks)
    assert len({answer.body for answer in answers}) == 1
    assert [answer.replayed for answer in answers] == [False] + [True] * 9
    assert s.queued() == []


async def test_a_repeat_after_the_commit_gets_the_first_answer() -> None:
    s = Setting()
    first = s.start(asked(), "k")
    await settle()
    s.commit()
    again = await s.start(asked(), "k")
    assert again == Answer((await first).body, True)
    assert s.queued() == []
    assert s.metrics.judgments["replayed"] == 1


async def test_a_repeat_that_lost_the_race_in_the_commit_gets_the_stored_answer() -> None:
    """Two processes: the other one's transaction had the key first."""
    s = Setting()
    task = s.start(asked(), "k")
    await settle()
    (item,) = s.queued()
    item.outcome.set_result(Replayed(item.judgment.fingerprint, b'{"first":1}'))
    assert await task == Answer(b'{"first":1}', True)


async def test_the_race_lost_to_another_request_is_a_mismatch() -> None:
    s = Setting()
    task = s.start(asked(), "k")
    await settle()
    s.commit(Replayed(b"another", b"{}"))
    with pytest.raises(IdempotencyMismatch):
        await task


@pytest.mark.parametrize("moment", ["under way", "stored"])
@pytest.mark.parametrize(
    "other",
    [asked(2), asked(1, context={"a": 1}), asked(1, occurred_at="2026-01-01T00:00:00Z"), asked(1)._replace(workflow_id="x")],
)
async def test_the_key_with_another_request_is_422(moment: str, other: Asked) -> None:
    s = Setting()
    first = s.start(asked(1), "k")
    await settle()
    if moment == "stored":
        s.commit()
    second = s.start(other, "k")
    await settle()
    s.commit()  # what is under way decides nothing: what is stored does
    with pytest.raises(IdempotencyMismatch) as caught:
        async with asyncio.timeout(5):
            await second
    assert caught.value.status == 422
    assert not (await first).replayed


async def test_the_order_of_members_makes_no_other_request() -> None:
    s = Setting()
    first = s.start(decode_execute(b'{"workflow_id":"w","input_data":{"value":1,"b":{"x":1,"y":2}}}'), "k")
    await settle()
    s.commit()
    again = await s.start(decode_execute(b'{"input_data": {"b":{"y":2,"x":1}, "value": 1}, "workflow_id":"w"}'), "k")
    assert again.replayed
    assert again.body == (await first).body


async def test_tenants_keys_are_their_own() -> None:
    s = Setting()
    tasks = [s.start(asked(), "k", tenant) for tenant in ("demo", "acme")]
    await settle()
    assert len(s.commit()) == 2
    assert [answer.replayed for answer in await asyncio.gather(*tasks)] == [False, False]


async def test_an_error_is_not_remembered() -> None:
    s = Setting()
    failed = [s.start(asked(), "k") for _ in range(3)]
    await settle()
    s.commit(DatabaseUnavailable("away"))
    outcomes = await asyncio.gather(*failed, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {DatabaseUnavailable}
    again = s.start(asked(), "k")
    await settle()
    assert len(s.commit()) == 1
    assert not (await again).replayed


async def test_one_who_stops_waiting_takes_nothing_from_the_others() -> None:
    s = Setting()
    first, second, third = (s.start(asked(), "k") for _ in range(3))
    await settle()
    second.cancel()
    await settle()
    s.commit()
    assert (await first).body == (await third).body


async def test_when_the_first_is_cut_off_the_others_get_an_answer() -> None:
    s = Setting()
    first, second = (s.start(asked(), "k") for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    s.commit()
    await settle()
    s.commit()
    outcome = (await asyncio.gather(second, return_exceptions=True))[0]
    assert isinstance(outcome, Answer | Unavailable)


async def test_without_a_key_nothing_is_remembered() -> None:
    s = Setting()
    tasks = [s.start(asked()) for _ in range(3)]
    await settle()
    assert len(s.commit()) == 3
    assert not any(answer.replayed for answer in await asyncio.gather(*tasks))
    assert s.judging._under_way == {}
