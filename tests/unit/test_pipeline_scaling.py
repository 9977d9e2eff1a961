"""One process decides for all; what it decides is written, done and told, in that order, whatever fails."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from support.waiting import until
from unit.builders import steady

from judgify_engine.config import ScalingConfig
from judgify_engine.core.figures import Figures, Report
from judgify_engine.core.scaling import Decision, Last
from judgify_engine.core.streams import METRICS, SCALING_EVENTS
from judgify_engine.errors import DatabaseUnavailable, ScalingFailed, StreamsUnavailable
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.scaling_loop import Reporter, ScalingLoop
from judgify_engine.pipeline.streams import Entry
from judgify_engine.pipeline.team import Team
from judgify_engine.units import Position
from judgify_engine.wire.scaling import DecisionRecord, encode_report

CONFIG = ScalingConfig(interval_s=0.01)
NOW_S = 1000.0


class FixedStreams:
    """A stream of reports as a test wants it, and what was sent."""

    def __init__(self, reports: list[Report]) -> None:
        self.entries = [Entry(Position(int(one.at_s * 1000), place), encode_report(one)) for place, one in enumerate(reports)]
        self.entries.sort(key=lambda entry: entry.id)
        self.added: list[dict[bytes, bytes]] = []
        self.sent: list[tuple[str, bytes]] = []
        self.away = False
        self.reads = 0

    async def add(self, stream: str, fields: Any, keep: int) -> Position:
        assert stream == METRICS
        self.added.append(fields)
        return Position(int(NOW_S * 1000), 1_000_000)

    async def after(self, stream: str, position: Position, count: int) -> list[Entry]:
        self.reads += 1
        return [entry for entry in self.entries if entry.id > position][:count]

    async def send(self, messages: list[tuple[str, bytes]]) -> None:
        if self.away:
            raise StreamsUnavailable("away")
        self.sent += messages


class Book:
    """Decisions in memory. `held`: whether the lease can be had."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.held = self.failing = False
        self.can_hold = True

    async def lease(self) -> bool:
        if self.failing:
            raise DatabaseUnavailable("away")
        self.held = self.can_hold
        return self.held

    def let_go(self) -> None:
        self.held = False

    async def record(
        self, decision: Decision, figures: Figures, at_s: float, slot: int, executor: str, outcome: str
    ) -> int | None:
        assert self.held
        if any(row["slot"] == slot for row in self.rows):
            return None
        self.add(decision, slot, at_s, outcome)
        return len(self.rows)

    def add(self, decision: Decision, slot: int, at_s: float, outcome: str, *, published: bool = False) -> None:
        row = {"decision": decision, "slot": slot, "at_s": at_s, "outcome": outcome, "error": None, "published": published}
        self.rows.append(row)

    async def finish(self, number: int, outcome: str, error: str | None) -> None:
        self.rows[number - 1] |= {"outcome": outcome, "error": error}

    async def unpublished(self) -> list[DecisionRecord]:
        return [
            DecisionRecord(
                id=number, scope="s", at="", action=row["decision"].action, state=row["decision"].state, rule="", reason="",
                from_count=row["decision"].current, to_count=row["decision"].target, executor="", outcome=row["outcome"],
                error=row["error"],
            )
            for number, row in enumerate(self.rows, 1)
            if not row["published"]
        ]  # fmt: skip

    async def published(self, numbers: list[int]) -> None:
        for number in numbers:
            self.rows[number - 1]["published"] = True

    async def last(self) -> tuple[Last | None, str]:
        changes = [row for row in self.rows if row["decision"].action != "stay"]
        last = Last(changes[-1]["decision"].action, changes[-1]["at_s"]) if changes else None
        return last, self.rows[-1]["decision"].state if self.rows else ""

    async def list(self, limit: int) -> list[DecisionRecord]:
        return []


class Hands:
    """An executor that notes what it was asked for."""

    name, scope = "hands", "s"
    acts, by_host, shared_memory = True, False, False
    minimum, maximum = 1, 8

    def __init__(self, book: Book, count: int = 2) -> None:
        self.count, self._book = count, book
        self.failing = False
        self.outcomes_seen: list[str] = []

    def concerns(self, report: Report) -> bool:
        return report.group == ""

    async def current(self, heard: int) -> int:
        return self.count

    async def scale(self, current: int, target: int) -> None:
        self.outcomes_seen.append(self._book.rows[-1]["outcome"])
        if self.failing:
            raise ScalingFailed("no")
        assert self.count == current
        self.count = target


def loop_of(streams: Any, book: Book, hands: Hands) -> ScalingLoop:
    reporter = Reporter(streams, lambda: steady()[0], 100, 5.0)
    return ScalingLoop(streams, reporter, book, hands, CONFIG, Metrics())


def busy(count: int = 2) -> list[Report]:
    """So many processes, all at 95 %."""
    reach = steady(start_s=800.0, end_s=NOW_S)
    return [one._replace(process=f"a/{number}", cpu_s=one.at_s * 0.95) for number in range(count) for one in reach]


async def run(loop: ScalingLoop, probe: Callable[[], Any], leaving: Callable[[], bool] = lambda: False) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(loop.run(stop, leaving))
    try:
        await until(probe, "it comes so", 5)
    finally:
        stop.set()
        await running


async def test_a_decision_is_written_done_and_told() -> None:
    streams, book = FixedStreams(busy()), Book()
    hands = Hands(book)
    await run(loop_of(streams, book, hands), lambda: streams.sent)
    assert hands.outcomes_seen == ["pending"], "it was written before it was done"
    assert hands.count == 3
    assert [row["outcome"] for row in book.rows] == ["done"]
    channel, message = streams.sent[0]
    event = msgspec.json.decode(message)
    assert channel == SCALING_EVENTS
    assert (event["action"], event["from"], event["to"], event["outcome"]) == ("out", 2, 3, "done")
    assert not book.held, "at the end another one may decide"


async def test_only_who_holds_the_lease_decides() -> None:
    streams, book = FixedStreams(busy()), Book()
    book.can_hold = False
    loop = loop_of(streams, book, Hands(book))
    view = await loop.look()
    assert view.decision.action == "out", "anyone can tell what would be decided"
    await run(loop, lambda: not loop.leading)
    assert not book.rows


async def test_who_leaves_hands_the_lease_on() -> None:
    streams, book = FixedStreams([]), Book()
    loop, leaving = loop_of(streams, book, Hands(book)), False
    stop = asyncio.Event()
    running = asyncio.create_task(loop.run(stop, lambda: leaving))
    await until(lambda: book.held, "it holds the lease")
    leaving = True
    await until(lambda: not book.held, "it does no more")
    stop.set()
    await running


async def test_what_fails_is_written_and_told() -> None:
    streams, book = FixedStreams(busy()), Book()
    hands = Hands(book)
    hands.failing = True
    await run(loop_of(streams, book, hands), lambda: streams.sent)
    assert [(row["outcome"], row["error"]) for row in book.rows] == [("failed", "no")]
    assert msgspec.json.decode(streams.sent[0][1])["error"] == "no"


async def test_what_could_not_be_told_is_told_later() -> None:
    streams, book = FixedStreams(busy()), Book()
    streams.away = True
    loop = loop_of(streams, book, Hands(book))
    stop = asyncio.Event()
    running = asyncio.create_task(loop.run(stop, lambda: False))
    await until(lambda: streams.reads > 3, "it goes on")
    assert not streams.sent
    streams.away = False
    await until(lambda: streams.sent, "it is told")
    stop.set()
    await running
    assert len(streams.sent) == 1


async def test_one_decision_for_each_interval() -> None:
    streams, book = FixedStreams(busy()), Book()
    hands = Hands(book)
    hands.failing = True
    loop = loop_of(streams, book, hands)
    book.add(Decision("stay", "calm", "", "", 2, 2), int(NOW_S // CONFIG.interval_s), NOW_S, "told", published=True)
    await run(loop, lambda: streams.reads > 3)
    assert len(book.rows) == 1
    assert hands.outcomes_seen == []


async def test_a_database_that_is_away_ends_nothing() -> None:
    streams, book = FixedStreams(busy()), Book()
    book.failing = True
    loop = loop_of(streams, book, Hands(book))
    stop = asyncio.Event()
    running = asyncio.create_task(loop.run(stop, lambda: False))
    await asyncio.wait((running,), timeout=0.05)
    assert not running.done()
    book.failing = False
    await until(lambda: streams.sent, "it decides")
    stop.set()
    await running


async def test_what_nobody_foresaw_ends_nothing_and_leaves_the_decision_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams, book = FixedStreams(busy()), Book()
    hands, loop = Hands(book), loop_of(streams, book, Hands(book))

    async def strange(current: int, target: int) -> None:
        raise TypeError("an answer that is none")

    monkeypatch.setattr(loop, "executor", hands)
    monkeypatch.setattr(hands, "scale", strange)
    leases: list[bool] = []
    monkeypatch.setattr(book, "let_go", lambda: leases.append(book.held))
    await run(loop, lambda: streams.reads > 3)
    assert leases[0], "who takes it next says that its outcome is unknown"
    assert book.rows[0]["outcome"] == "pending"


async def test_a_new_leader_decides_as_the_old_one_would() -> None:
    """The cool-down is in the stored decisions, all else in the stream."""
    streams, book = FixedStreams(busy()), Book()
    hands = Hands(book)
    await run(loop_of(streams, book, hands), lambda: streams.sent)
    hands.count = 2  # as if it had done nothing
    second = loop_of(streams, book, hands)
    assert (await second.look()).decision.state == "settling"


async def test_what_stands_in_the_way_is_noted_once_and_when_it_is_gone() -> None:
    streams, book = FixedStreams(busy(8)), Book()
    hands = Hands(book, 8)
    loop = loop_of(streams, book, hands)
    await run(loop, lambda: streams.reads > 4)
    assert [(row["decision"].action, row["decision"].state) for row in book.rows] == [("stay", "limited")]
    book.rows[0]["slot"] = 0
    streams.entries = FixedStreams([one._replace(cpu_s=one.at_s / 2) for one in busy(8)]).entries
    await run(loop, lambda: len(book.rows) > 1)
    assert book.rows[1]["decision"].state == "calm"


async def test_reports_of_others_and_what_is_no_report_are_left_out() -> None:
    others = [one._replace(process="z/9", group="another", cpu_s=0.0) for one in busy(1)]
    streams, book = FixedStreams(busy() + others), Book()
    streams.entries.insert(50, Entry(streams.entries[49].id._replace(index=10**6), {b"what": b"ever"}))
    view = await loop_of(streams, book, Hands(book)).look()
    assert view.figures.processes == 2


async def test_many_reports_are_read_page_by_page() -> None:
    streams, book = FixedStreams(busy(100)), Book()
    view = await loop_of(streams, book, Hands(book, 100)).look()
    assert view.figures.processes == 100
    assert streams.reads == 2


async def test_who_leaves_reports_no_more() -> None:
    streams = FixedStreams([])
    reporter = Reporter(streams, lambda: steady()[0], 100, 0.01)  # type: ignore[arg-type]
    stop, leaving = asyncio.Event(), False
    running = asyncio.create_task(reporter.run(stop, lambda: leaving))
    await until(lambda: len(streams.added) > 2, "it reports")
    leaving = True
    before = len(streams.added)
    await asyncio.wait((running,), timeout=0.05)
    assert len(streams.added) == before
    stop.set()
    await running


async def test_a_supervisor_that_does_not_answer_is_a_failure() -> None:
    async def ask(size: int) -> None:
        pass

    with pytest.raises(ScalingFailed):
        await Team("t", 1, 1, ask).resize(2, 0.02)


async def test_a_supervisor_that_answers_is_believed() -> None:
    told: list[int] = []

    async def ask(size: int) -> None:
        asyncio.get_running_loop().call_soon(team.told, size, size + 1)

    team = Team("t", 3, 3, ask)
    team.on_told = told.append
    await team.resize(2, 1.0)
    assert (team.size, team.sharing, told) == (2, 3, [3])
