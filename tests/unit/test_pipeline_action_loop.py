"""The loop of attempts over a table in memory: bounded, recorded before it is forgotten, and alive whatever fails."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from builders import settle
from support.waiting import until

from judgify_engine.config import ActionsConfig
from judgify_engine.core.actions import Webhook
from judgify_engine.core.jobs import Finished, Job, Lane
from judgify_engine.core.retries import Outcome
from judgify_engine.errors import DatabaseUnavailable
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline import action_loop
from judgify_engine.pipeline.action_loop import ActionLoop, Backlog

DEFINITION = msgspec.json.encode(Webhook("https://receiver.example/")).decode()


def job(number: int, *, attempt: int = 1, definition: str = DEFINITION) -> Job:
    return Job(number, Lane("acme", "receiver.example:443"), "w", "id", "a", definition, attempt, 3, {}, ("whsec_x",))


class Table:
    """Hands out what is due. `fail`: raised in turn by whatever is called."""

    def __init__(self, *due: Job) -> None:
        self.due = list(due)
        self.recorded: list[Finished] = []
        self.fail: list[Exception] = []
        self.busiest: Counter[Lane] = Counter()

    def _may_fail(self) -> None:
        if self.fail:
            raise self.fail.pop()

    async def claim(
        self, owner: str, lease_s: float, free: int, per_lane: int, per_tenant: int, busy: Mapping[Lane, int]
    ) -> list[Job]:
        self._may_fail()
        self.busiest |= Counter(busy)
        taken, self.due = self.due[:free], self.due[free:]
        return taken

    async def next_due_s(self) -> float | None:
        return None

    async def record(self, owner: str, finished: Sequence[Finished]) -> None:
        self._may_fail()
        self.recorded += finished

    async def backlog(self) -> Backlog:
        return Backlog(1, 2, 3, 4.0)


class Performer:
    """Answers what it is told to; counts how many are under way."""

    def __init__(self, answer: Outcome | Exception = Outcome("succeeded")) -> None:  # noqa: B008
        self.answer, self.under_way, self.most = answer, 0, 0
        self.go = asyncio.Event()
        self.go.set()

    async def perform(self, job: Job, action: Any) -> Outcome:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.go.wait()
        finally:
            self.under_way -= 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Running:
    """The loop, from `async with` to its stop."""

    def __init__(self, table: Table, performer: Performer, **config: Any) -> None:
        self.table, self.performer, self.metrics, self.stop = table, performer, Metrics(), asyncio.Event()
        self.loop = ActionLoop(table, performer, performer, ActionsConfig(**config), "me", self.metrics, random.Random(1))

    async def __aenter__(self) -> "Running":
        self._task = asyncio.create_task(self.loop.run(self.stop))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop.set()
        await asyncio.wait_for(self._task, 5)

    async def recorded(self, count: int) -> list[Finished]:
        await until(lambda: len(self.table.recorded) >= count, f"{count} are recorded", 5)
        return self.table.recorded


async def test_no_more_than_the_bound_are_under_way() -> None:
    table, performer = Table(*map(job, range(20))), Performer()
    async with Running(table, performer, concurrency=4) as running:
        performer.go.clear()
        await settle()
        assert performer.under_way == 4
        performer.go.set()
        await running.recorded(20)
    assert performer.most == 4


async def test_what_is_not_recorded_yet_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action_loop, "RETRY_S", 0.001)
    table, performer = Table(*map(job, range(6))), Performer()
    performer.go.clear()
    async with Running(table, performer, concurrency=2) as running:
        await settle()
        table.fail = [DatabaseUnavailable("away") for _ in range(3)]
        performer.go.set()
        await settle()
        assert len(table.due) == 4
        assert table.recorded == []
        assert sorted(each.job.id for each in await running.recorded(6)) == list(range(6))
    assert table.busiest[Lane("acme", "receiver.example:443")] <= 2


async def test_whatever_an_attempt_raises_it_is_tried_again() -> None:
    async with Running(Table(job(1)), Performer(ValueError("not foreseen"))) as running:
        (finished,) = await running.recorded(1)
    assert (finished.state, finished.outcome.error) == ("waiting", "the engine failed at this: ValueError")
    assert 1.5 <= finished.rest_s <= 2.0
    assert running.metrics.actions == {"failed": 1, "dead": 0}


async def test_a_definition_that_cannot_be_read_is_dead() -> None:
    async with Running(Table(job(1, definition="{}")), Performer()) as running:
        (finished,) = await running.recorded(1)
    assert finished.state == "dead"
    assert finished.outcome.error is not None
    assert "definition is wrong" in finished.outcome.error


async def test_the_last_attempt_that_fails_is_dead() -> None:
    async with Running(Table(job(1, attempt=3)), Performer(Outcome("retry", "no"))) as running:
        (finished,) = await running.recorded(1)
    assert finished.state == "dead"
    assert running.metrics.actions["dead"] == 1


async def test_a_stop_cuts_off_what_hangs_and_records_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action_loop, "STOP_S", 0.001)
    table, performer = Table(job(1, attempt=3)), Performer()
    performer.go.clear()
    async with Running(table, performer):
        await settle()
        assert performer.under_way == 1
    (finished,) = table.recorded
    assert (finished.state, finished.rest_s) == ("waiting", 0.0), "it is no fault of the receiver: the last attempt stays"


async def test_a_stop_does_not_wait_for_ever_for_postgres(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(action_loop, "RETRY_S", 0.001)
    monkeypatch.setattr(action_loop, "LAST_S", 0.02)
    table, performer = Table(job(1)), Performer()
    performer.go.clear()
    async with Running(table, performer):
        await settle()
        table.fail = [DatabaseUnavailable("away") for _ in range(10_000)]
        performer.go.set()
    assert table.recorded == []
    assert "attempts could not be recorded" in caplog.text


async def test_the_loop_goes_on_whatever_fails(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(action_loop, "RETRY_S", 0.001)
    table = Table(job(1))
    table.fail = [ValueError("not foreseen"), DatabaseUnavailable("away")]
    async with Running(table, Performer()) as running:
        await running.recorded(1)
    assert caplog.text.count("actions cannot go on") == 1
    assert {name for name, *_ in running.loop.gauges()} >= {"judgify_action_jobs", "judgify_action_oldest_due_seconds"}
