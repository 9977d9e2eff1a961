"""Group commit: one alone at once, others gather while a commit is under way, and everybody gets their own outcome."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from time import perf_counter

import pytest
from builders import judgment, settle

from judgify_engine.config import BatchConfig
from judgify_engine.core.model import Judgment
from judgify_engine.errors import CommitUnknown, DatabaseUnavailable, RowRefused
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline import batch_loop
from judgify_engine.pipeline.batch_loop import BatchLoop
from judgify_engine.pipeline.doze import Doze
from judgify_engine.pipeline.partition_queue import PartitionQueue
from judgify_engine.pipeline.ports import Outcome

MANY = 10**9


@pytest.fixture(autouse=True)
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what was learnt of the load fades where the machine is busy with something else for a moment."""
    now_s = perf_counter()
    monkeypatch.setattr(batch_loop, "perf_counter", lambda: now_s)


class MemoryWriter:
    """Commits when told to. `started`: the numbers of each commit, in order."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.started: list[list[int]] = []
        self.gates: list[asyncio.Event] = []
        self.at_once = at_once
        self.outcomes: dict[int, Outcome | Exception] = {}

    async def commit(self, judgments: Sequence[Judgment]) -> list[Outcome]:
        numbers = [int.from_bytes(j.id) for j in judgments]
        gate = asyncio.Event()
        self.started.append(numbers)
        self.gates.append(gate)
        if not self.at_once:
            await gate.wait()
        found: list[Outcome] = []
        for number in numbers:
            outcome = self.outcomes.get(number)
            if isinstance(outcome, ArithmeticError):
                raise outcome
            found.append(outcome)  # type: ignore[arg-type]
        return found


class Setting:
    """A queue with its loop running."""

    def __init__(
        self,
        writer: MemoryWriter,
        *,
        in_flight: int = 1,
        max_rows: int = 1000,
        max_wait_s: float = 0.0,
        timeout_s: float = 60.0,
    ) -> None:
        config = BatchConfig(commits_in_flight=in_flight, min_rows=min(10, max_rows), max_rows=max_rows, max_wait_s=max_wait_s)
        self.queue, self.writer, self.metrics = PartitionQueue(0, MANY, MANY), writer, Metrics()
        self.loop = BatchLoop(self.queue, writer, config, self.metrics, timeout_s, Doze())

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Setting"]:
        task = asyncio.create_task(self.loop.run())
        try:
            await settle()
            yield self
            self.queue.close()
            for gate in self.writer.gates:
                gate.set()
            self.writer.at_once = True
            await asyncio.wait_for(task, 5)
        finally:
            task.cancel()
            with suppress(BaseException):
                await task

    def put(self, *numbers: int) -> list["asyncio.Future[Outcome]"]:
        return [self.queue.put(judgment(number)) for number in numbers]


async def test_one_alone_is_committed_at_once_without_waiting() -> None:
    async with Setting(MemoryWriter(), in_flight=2, max_wait_s=3600.0).running() as s:
        for number in range(5):
            (future,) = s.put(number)
            await settle()  # no time passes here
            assert future.done()
        assert s.writer.started == [[0], [1], [2], [3], [4]]


async def test_one_alone_after_a_burst_is_committed_at_once_too() -> None:
    async with Setting(MemoryWriter(), in_flight=2, max_wait_s=3600.0).running() as s:
        s.put(*range(100))
        await settle()
        (future,) = s.put(100)
        await settle()
        assert future.done()


async def test_whatever_hangs_is_given_up_and_no_timer_runs_while_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_loop, "SWEEP_S", 0.001)
    async with Setting(MemoryWriter(at_once=False), timeout_s=-1.0).running() as s:
        found_empty, give_up = asyncio.Event(), s.queue.give_up

        def look(timeout_s: float) -> int:
            if not s.queue.rows:
                found_empty.set()
            return give_up(timeout_s)

        monkeypatch.setattr(s.queue, "give_up", look)
        assert s.loop._sweeping is None
        for number in range(2):  # the second time after nothing waited
            for hanging in s.put(2 * number, 2 * number + 1):
                assert isinstance(await asyncio.wait_for(hanging, 5), CommitUnknown)
            found_empty.clear()
            s.writer.gates[-1].set()
            await asyncio.wait_for(found_empty.wait(), 5)
            assert s.loop._sweeping is None, "it would wake an idle process"


def busy(s: Setting, *, senders: int, rate_per_s: int = 1) -> None:
    """As after so much load, from so many who wait for their answers. At 1 in a second a batch may wait for 16 s, not less."""
    now_s = batch_loop.perf_counter()
    s.loop._pace.began(1, now_s - 10.0)
    s.loop._pace.began(10 * rate_per_s, now_s)
    s.loop._pace.ended(senders, now_s)


async def test_under_load_a_batch_waits_for_others_until_all_are_here() -> None:
    async with Setting(MemoryWriter(), in_flight=2, max_wait_s=3600.0).running() as s:
        busy(s, senders=5)
        futures = s.put(0, 1)
        await settle()
        futures += s.put(2, 3)
        await settle()
        assert s.writer.started == []
        futures += s.put(4)
        await settle()
        assert s.writer.started == [[0, 1, 2, 3, 4]]
        assert all(future.done() for future in futures)


async def test_under_load_who_is_being_committed_counts_as_here() -> None:
    async with Setting(MemoryWriter(at_once=False), in_flight=2, max_wait_s=3600.0).running() as s:
        s.put(0, 1, 2)
        await settle()
        busy(s, senders=5)
        s.put(3)
        await settle()
        assert s.writer.started == [[0, 1, 2]]
        s.put(4)
        await settle()
        assert s.writer.started == [[0, 1, 2], [3, 4]]


async def test_nobody_waits_longer_than_he_may() -> None:
    async with Setting(MemoryWriter(), max_wait_s=0.002).running() as s:
        busy(s, senders=1000, rate_per_s=10_000)
        (future,) = s.put(0)
        await asyncio.wait_for(future, 5)


async def test_closing_ends_the_wait_for_others() -> None:
    s = Setting(MemoryWriter(), max_wait_s=3600.0)
    task = asyncio.create_task(s.loop.run())
    await settle()
    busy(s, senders=5)
    futures = s.put(0, 1)
    await settle()
    s.queue.close()
    await asyncio.wait_for(task, 5)
    assert [future.result() for future in futures] == [None, None]


async def test_while_a_commit_is_under_way_later_ones_gather() -> None:
    async with Setting(MemoryWriter(at_once=False)).running() as s:
        futures = s.put(0)
        await settle()
        for number in range(1, 20):
            futures += s.put(number)
            await settle()
        assert s.writer.started == [[0]]
        s.writer.gates[0].set()
        await settle()
        assert s.writer.started == [[0], list(range(1, 20))]
        assert [future.done() for future in futures] == [True] + [False] * 19
        s.writer.gates[1].set()
        await settle()
        assert all(future.done() for future in futures)


async def test_no_more_commits_are_under_way_than_allowed() -> None:
    async with Setting(MemoryWriter(at_once=False), in_flight=2).running() as s:
        for number in range(6):
            s.put(number)
            await settle()
        assert s.writer.started == [[0], [1]]
        s.writer.gates[1].set()
        await settle()
        assert s.writer.started == [[0], [1], [2, 3, 4, 5]]


async def test_nobody_is_answered_before_the_commit() -> None:
    async with Setting(MemoryWriter(at_once=False)).running() as s:
        futures = s.put(1, 2, 3)
        await settle()
        assert not any(future.done() for future in futures)
        s.writer.gates[0].set()
        await settle()
        assert [future.result() for future in futures] == [None, None, None]


async def test_each_gets_its_own_outcome() -> None:
    writer = MemoryWriter()
    writer.outcomes = {2: RowRefused("bad"), 4: DatabaseUnavailable("away")}
    async with Setting(writer).running() as s:
        futures = s.put(1, 2, 3, 4, 5)
        await settle()
        assert [future.result() for future in futures] == [None, writer.outcomes[2], None, writer.outcomes[4], None]


async def test_after_a_failed_commit_the_next_one_goes_on() -> None:
    writer = MemoryWriter()
    writer.outcomes = {1: DatabaseUnavailable("away")}
    async with Setting(writer).running() as s:
        (failed,) = s.put(1)
        await settle()
        (fine,) = s.put(2)
        await settle()
        assert isinstance(failed.result(), DatabaseUnavailable)
        assert fine.result() is None


async def test_a_batch_is_never_larger_than_the_batch_size() -> None:
    async with Setting(MemoryWriter(), max_rows=7).running() as s:
        s.put(*range(30))
        await settle()
        assert [number for numbers in s.writer.started for number in numbers] == list(range(30))
        assert max(map(len, s.writer.started)) <= 7


async def test_closing_commits_what_is_queued_and_ends() -> None:
    s = Setting(MemoryWriter(at_once=False), max_wait_s=3600.0)
    task = asyncio.create_task(s.loop.run())
    await settle()
    futures = s.put(0)
    await settle()
    futures += s.put(1, 2, 3)
    s.queue.close()
    await settle()
    assert not task.done()
    s.writer.gates[0].set()
    await settle()
    s.writer.gates[1].set()
    await asyncio.wait_for(task, 5)
    assert [future.result() for future in futures] == [None] * 4
    assert (s.queue.rows, s.queue.bytes, s.writer.started) == (0, 0, [[0], [1, 2, 3]])


async def test_closing_an_empty_queue_ends() -> None:
    async with Setting(MemoryWriter()).running() as s:
        assert s.writer.started == []


async def test_a_writer_that_breaks_tells_nobody_that_it_is_committed() -> None:
    writer = MemoryWriter()
    writer.outcomes = {2: ArithmeticError("nobody foresaw this")}
    s = Setting(writer)
    task = asyncio.create_task(s.loop.run())
    await settle()
    futures = s.put(1, 2, 3)
    await settle()
    with pytest.raises(ExceptionGroup) as caught:
        await task
    assert caught.group_contains(ArithmeticError)
    assert all(future.cancelled() for future in futures)
    assert s.queue.rows == 0


async def test_a_sender_who_has_gone_disturbs_nobody() -> None:
    async with Setting(MemoryWriter(at_once=False)).running() as s:
        futures = s.put(1, 2, 3)
        await settle()
        futures[1].cancel()
        s.writer.gates[0].set()
        await settle()
        assert (futures[0].result(), futures[2].result()) == (None, None)
        assert s.queue.rows == 0


async def test_room_is_given_back_and_commits_are_measured() -> None:
    async with Setting(MemoryWriter()).running() as s:
        s.put(*range(10))
        await settle()
        assert (s.queue.rows, s.queue.bytes) == (0, 0)
        assert s.metrics.commit.count == s.metrics.batch_rows.count == len(s.writer.started)
        assert s.metrics.batch_rows.sum == s.metrics.queue.count == 10
