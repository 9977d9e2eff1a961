"""From entries to jobs: acknowledged when noted, never before; nothing is asked for workflows without actions."""

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from support.waiting import until

from judgify_engine.core.jobs import NewJob
from judgify_engine.core.streams import stream_of
from judgify_engine.errors import DatabaseUnavailable, RowRefused
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline import action_intake
from judgify_engine.pipeline.action_intake import GROUP, ActionIntake, RefusedEntry, VersionKey, join_group
from judgify_engine.pipeline.streams import Batch, Entry
from judgify_engine.streams.memory import MemoryStreams
from judgify_engine.units import MIB, Position

STREAM = stream_of("acme")
HOOK = {"type": "webhook", "url": "https://receiver.example/"}
ACTING = json.dumps({"default": {"result": {}, "actions": ["a"]}, "actions": {"a": HOOK}})
UUID = "0198c0de-0000-7000-8000-00000000000{}"


class Table:
    """Remembers what is noted. `fail`: raised by the next `add`s; `hate`: the judgment that it objects to."""

    def __init__(self, definitions: dict[VersionKey, str]) -> None:
        self.known, self.asked, self.looked = definitions, 0, 0
        self.jobs: list[NewJob] = []
        self.refused: list[RefusedEntry] = []
        self.fail: list[Exception] = []
        self.hate = ""

    async def acting_tenants(self) -> Collection[str]:
        self.looked += 1
        return {tenant_id for tenant_id, _, _ in self.known}

    async def definitions(self, keys: Collection[VersionKey]) -> Mapping[VersionKey, str]:
        self.asked += 1
        return {key: self.known[key] for key in keys if key in self.known}

    async def add(self, jobs: Sequence[NewJob], refused: Sequence[RefusedEntry]) -> None:
        if self.fail:
            raise self.fail.pop()
        if any(job.judgment_id == self.hate for job in jobs):
            raise RowRefused("no")
        self.jobs += jobs
        self.refused += refused


def entry(index: int, version: int = 1, workflow_id: str = "w", **fields: bytes) -> Entry:
    data = {"id": UUID.format(index), "tenant_id": "acme", "workflow_id": workflow_id, "workflow_version": version,
            "status": "completed", "rule_index": None, "input_data": {"x": 1}}  # fmt: skip
    plain = {b"op": b"insert", b"table": b"judgment_executions", b"data": json.dumps(data).encode()}
    return Entry(Position(1, index), {**plain, **{name.encode(): value for name, value in fields.items()}})


class Setup:
    def __init__(self, definitions: dict[VersionKey, str] | None = None) -> None:
        self.streams = MemoryStreams(4 * MIB)
        self.table = Table(definitions if definitions is not None else {("acme", "w", 1): ACTING})
        self.metrics = Metrics()
        self.woken = 0
        join = partial(join_group, self.streams)
        self.intake = ActionIntake(self.streams, self.table, join, 30.0, self.metrics, self._wake)

    def _wake(self) -> None:
        self.woken += 1

    async def append(self, *entries: Entry) -> None:
        (last,) = await self.streams.last((STREAM,))
        await self.streams.append([Batch(STREAM, last, entries)])

    async def read(self) -> list[Entry]:
        return await self.streams.read(STREAM, GROUP, "test", 100, 0)

    async def pending(self) -> int:
        ((group),) = await self.streams.groups(STREAM)
        return group.pending


async def test_what_was_there_before_the_group_is_not_acted_on() -> None:
    setup = Setup()
    await setup.append(entry(1))
    await join_group(setup.streams, STREAM)
    await setup.append(entry(2))
    await join_group(setup.streams, STREAM)
    assert [one.id for one in await setup.read()] == [Position(1, 2)]


async def test_acknowledged_only_after_the_jobs_are_noted() -> None:
    setup = Setup()
    await join_group(setup.streams, STREAM)
    await setup.append(entry(1))
    entries = await setup.read()
    setup.table.fail = [DatabaseUnavailable("away")]
    with pytest.raises(DatabaseUnavailable):
        await setup.intake.take(STREAM, entries)
    assert (await setup.pending(), setup.woken) == (1, 0)
    await setup.intake.take(STREAM, entries)
    assert (await setup.pending(), setup.woken) == (0, 1)
    assert [(job.judgment_id, job.action) for job in setup.table.jobs] == [(UUID.format(1), "a")]


async def test_workflows_without_actions_cost_one_question_for_each_version() -> None:
    setup = Setup({("acme", "w", version): "{}" for version in (1, 2)})
    await join_group(setup.streams, STREAM)
    for index, version in enumerate([1, 1, 2, 1, 2]):
        await setup.intake.take(STREAM, [entry(index, version)])
    await setup.intake.take(STREAM, [entry(6, 0)])
    assert setup.table.asked == 2
    assert setup.table.jobs == []
    assert setup.woken == 0


async def test_what_is_remembered_of_versions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action_intake, "REMEMBERED", 2)
    setup = Setup({("acme", "w", version): ACTING for version in range(1, 9)})
    for version in range(1, 9):
        await setup.intake.take(STREAM, [entry(1, version)])
    assert len(setup.intake._plans) == 2
    await setup.intake.take(STREAM, [entry(1, 8), entry(2, 7)])
    assert setup.table.asked == 8


async def test_a_version_that_comes_later_is_found_later() -> None:
    setup = Setup({})
    await setup.intake.take(STREAM, [entry(1)])
    setup.table.known["acme", "w", 1] = ACTING
    await setup.intake.take(STREAM, [entry(1)])
    assert len(setup.table.jobs) == 1


async def test_an_entry_that_postgres_objects_to_is_refused_alone() -> None:
    setup = Setup()
    await join_group(setup.streams, STREAM)
    await setup.append(entry(1), entry(2), entry(3))
    setup.table.hate = UUID.format(2)
    await setup.intake.take(STREAM, await setup.read())
    assert [job.judgment_id for job in setup.table.jobs] == [UUID.format(1), UUID.format(3)]
    assert [(one.entry_id, one.reason) for one in setup.table.refused] == [("1-2", "no")]
    assert await setup.pending() == 0


@pytest.mark.parametrize(
    "fields",
    [
        *({"data": data} for data in (b"", b"[]", b'{"id": 5}', b"[" * 100_000, b"\xff")),
        *(
            {"data": entry(1).fields[b"data"].replace(was, becomes)}
            for was, becomes in ((b'"acme"', b'"a\\u0000"'), (b'"w"', b'"\\ud800"'), (b'version": 1', b'version": 2147483648'))
        ),
    ],
)
async def test_an_entry_that_cannot_be_read_blocks_nothing(fields: dict[str, bytes]) -> None:
    setup = Setup()
    await setup.intake.take(STREAM, [entry(1, **fields), entry(2)])
    assert [one.entry_id for one in setup.table.refused] == ["1-1"]
    assert len(setup.table.refused[0].entry) <= action_intake.ENTRY_BYTES
    assert [job.judgment_id for job in setup.table.jobs] == [UUID.format(2)]


@pytest.mark.parametrize(
    "fields", [{"op": b"update"}, {"op": b"delete"}, {"table": b"workflows"}, {"table": b"action_executions"}]
)
async def test_only_inserted_judgments_count(fields: dict[str, bytes]) -> None:
    setup = Setup()
    await setup.intake.take(STREAM, [entry(1, **fields)])
    assert (setup.table.jobs, setup.table.refused, setup.table.asked) == ([], [], 0)


async def test_the_loop_tries_the_same_entries_again(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action_intake, "RETRY_S", 0.001)
    setup, stop = Setup(), asyncio.Event()
    setup.table.fail = [ValueError("not foreseen"), DatabaseUnavailable("away")]
    running: Any = asyncio.create_task(setup.intake.run(STREAM, stop))
    await setup.intake.joined(STREAM)
    await setup.append(entry(1))
    await until(lambda: setup.woken, "the jobs are noted")
    stop.set()
    await asyncio.wait_for(running, 5)
    assert [job.judgment_id for job in setup.table.jobs] == [UUID.format(1)]
    assert await setup.pending() == 0
    assert caplog.text.count("actions cannot be taken from the stream") == 1


async def test_a_stream_whose_tenants_have_no_actions_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(action_intake, "LOOK_S", 0.001)
    setup, stop = Setup({}), asyncio.Event()
    await setup.append(entry(1))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(setup.intake.run(STREAM, stop))
        tasks.create_task(setup.intake.watch(stop))
        await until(lambda: setup.table.looked > 3, "it was looked for tenants")
        assert not await setup.streams.groups(STREAM)
        # Written by hand: its judgments are in the stream before anybody looks again.
        setup.table.known["acme", "w", 1] = ACTING
        await setup.append(entry(2), entry(3))
        await until(lambda: len(setup.table.jobs) == 2, "those that came after are acted on")
        stop.set()
    assert {job.judgment_id for job in setup.table.jobs} == {UUID.format(2), UUID.format(3)}


async def test_a_group_that_is_there_is_read_though_nobody_has_actions_any_more() -> None:
    """Else its stream would be kept for it, and the log, for ever."""
    setup, stop = Setup({}), asyncio.Event()
    await join_group(setup.streams, STREAM)
    await setup.append(entry(1))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(setup.intake.run(STREAM, stop))
        tasks.create_task(setup.intake.watch(stop))

        async def read() -> bool:
            ((group),) = await setup.streams.groups(STREAM)
            return group.waiting == 0 and group.pending == 0

        await until(read, "its entries are seen to")
        stop.set()
