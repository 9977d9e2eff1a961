"""From the log to the streams: each change once, in order, at its position, wherever it stops and whatever comes twice."""

import asyncio
import json
import random
from collections.abc import Sequence
from contextlib import suppress

import builders as b
import pytest

from judgify_engine.config import StreamsConfig
from judgify_engine.core.streams import ALERTS, JUDGMENTS, OWNER, stream_of
from judgify_engine.errors import StreamCut, StreamsUnavailable
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline import publish_loop, stream_upkeep
from judgify_engine.pipeline.publish_loop import PublishLoop
from judgify_engine.pipeline.stream_upkeep import StreamUpkeep
from judgify_engine.pipeline.streams import Batch, Entry, Group
from judgify_engine.streams.memory import MemoryStreams
from judgify_engine.units import START, Position

ROOM = 1 << 30


class EndOfLog(Exception):
    """There is nothing more to read in this test."""


class MemoryLog:
    """A server's log from some transaction on."""

    def __init__(self, messages: Sequence[bytes | None]) -> None:
        self._messages = list(messages)
        self.wal_end = 0
        self.confirmed: list[int] = []

    def read(self) -> bytes | None:
        return self._messages.pop(0) if self._messages else None

    async def readable(self, timeout_s: float, after_s: float = 0.0) -> None:
        if not self._messages:
            raise EndOfLog

    def confirm(self, lsn: int) -> None:
        self.confirmed.append(lsn)


class Faulty(MemoryStreams):
    """Fails at some appends (from 0), before or after they are done."""

    def __init__(self, trouble: dict[int, str]) -> None:
        super().__init__(ROOM)
        self._trouble, self._calls = trouble, 0

    async def append(self, batches: Sequence[Batch]) -> None:
        call, self._calls = self._calls, self._calls + 1
        if self._trouble.get(call) == "before":
            raise StreamsUnavailable("away")
        await super().append(batches)
        if self._trouble.get(call) == "after":
            raise StreamsUnavailable("done, but nobody heard")


def transaction(lsn: int, tenants: Sequence[str]) -> list[bytes]:
    rows = [b.insert(b.JUDGMENTS_OID, *b.wire_row(b.row(tenant_id=tenant))) for tenant in tenants]
    return [b.begin(lsn), *rows, b.commit(lsn, lsn + 8)]


def log_of(transactions: dict[int, Sequence[str]]) -> list[bytes | None]:
    """As the server sends it."""
    messages: list[bytes | None] = [b.judgments_relation()]
    for lsn, tenants in transactions.items():
        messages += [*transaction(lsn, tenants), None]
    return messages


async def publish(streams: MemoryStreams, messages: Sequence[bytes | None], published: int = 0) -> PublishLoop:
    """Run a loop to the end of the log."""
    loop = PublishLoop(MemoryLog(messages), streams, await streams.last(JUDGMENTS), published, Metrics())
    with pytest.raises(EndOfLog):
        await loop.run()
    return loop


async def content(streams: MemoryStreams) -> dict[str, list[tuple[Position, str]]]:
    """Each stream's entries: id and tenant."""
    found = {}
    for name in JUDGMENTS:
        entries = await streams.after(name, START, 100_000)
        found[name] = [(entry.id, json.loads(entry.fields[b"data"])["tenant_id"]) for entry in entries]
    return found


def expected(transactions: dict[int, Sequence[str]]) -> dict[str, list[tuple[Position, str]]]:
    found: dict[str, list[tuple[Position, str]]] = {name: [] for name in JUDGMENTS}
    for lsn, tenants in transactions.items():
        for index, tenant in enumerate(tenants):
            found[stream_of(tenant)].append((Position(lsn, index), tenant))
    return found


@pytest.fixture
def transactions() -> dict[int, Sequence[str]]:
    chance = random.Random(7)
    tenants = [f"tenant-{n}" for n in range(30)]
    return {100 + 16 * n: chance.choices(tenants, k=chance.randint(1, 40)) for n in range(60)}


async def test_each_stream_has_its_tenants_changes_at_their_positions(transactions: dict[int, Sequence[str]]) -> None:
    streams = MemoryStreams(ROOM)
    loop = await publish(streams, log_of(transactions))
    assert await content(streams) == expected(transactions)
    assert loop.published == max(transactions) + 8 - 1


@pytest.mark.parametrize("seed", range(20))
async def test_wherever_it_stops_each_entry_is_there_once(seed: int, transactions: dict[int, Sequence[str]]) -> None:
    chance = random.Random(seed)
    streams, messages = MemoryStreams(ROOM), log_of(transactions)
    for _ in range(chance.randint(1, 6)):  # it dies somewhere, also within a transaction; nothing was confirmed
        await publish(streams, messages[: chance.randint(1, len(messages))])
    await publish(streams, messages)
    assert await content(streams) == expected(transactions)


async def test_an_append_of_unknown_outcome_is_done_once(
    transactions: dict[int, Sequence[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish_loop, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(publish_loop, "LONGEST_PAUSE_S", 0.0)
    streams = Faulty({0: "before", 1: "after", 3: "after", 4: "before", 5: "before", 9: "after"})
    await publish(streams, log_of(transactions))
    assert await content(streams) == expected(transactions)


async def test_what_is_in_the_streams_is_not_published_before_it_is_whole(transactions: dict[int, Sequence[str]]) -> None:
    streams = MemoryStreams(ROOM)
    messages = [b.judgments_relation(), *transaction(100, ["a"]), *transaction(200, ["a", "b"])[:-1], None]
    loop = await publish(streams, messages)
    assert sum(map(len, (await content(streams)).values())) == 3
    assert loop.published == 107, "the second transaction has not ended"


async def test_a_stream_that_was_emptied_meanwhile_is_noticed_and_nothing_is_put_in() -> None:
    streams = MemoryStreams(ROOM)
    source = MemoryLog([b.judgments_relation(), *transaction(100, ["a"]), None, *transaction(200, ["a"])])
    loop = PublishLoop(source, streams, [START] * 8, 0, Metrics())

    async def emptied(timeout_s: float, after_s: float = 0.0) -> None:
        await streams.empty(JUDGMENTS)

    source.readable = emptied  # type: ignore[method-assign]
    with pytest.raises(StreamCut):
        await loop.run()
    assert await streams.last(JUDGMENTS) == [START] * 8


class Written:
    """What an upkeep wrote down."""

    def __init__(self) -> None:
        self.published = self.saved = 0
        self.groups: dict[tuple[str, str], Position] = {}
        self.skips: list[tuple[tuple[str, str], Position, Position]] = []

    async def save(self, published: int, last: Sequence[Position], groups: dict[tuple[str, str], Position]) -> None:
        self.published, self.groups = published, dict(groups)
        self.saved += 1

    def pass_checkpoint(self, reached_lsn: int) -> bool:
        return False

    async def take_checkpoint(self) -> None: ...

    async def skipped(self, key: tuple[str, str], start: Position, end: Position, why: str) -> None:
        self.skips.append((key, start, end))


async def upkeep(
    streams: MemoryStreams, loop: PublishLoop, config: StreamsConfig, monkeypatch: pytest.MonkeyPatch, rounds: int = 3
) -> tuple[Written, list[int]]:
    """Let an upkeep look some times, without time passing; everything counts as settled."""
    monkeypatch.setattr(stream_upkeep, "EVERY_S", 0.0)
    monkeypatch.setattr(stream_upkeep, "SETTLED_S", 0.0)
    monkeypatch.setattr(stream_upkeep, "BOUND_EVERY_S", 0.0)
    source, written = MemoryLog([]), Written()
    looking = asyncio.create_task(StreamUpkeep(loop, source, streams, written, config).run())
    for _ in range(rounds * 20):
        await asyncio.sleep(0)
    looking.cancel()
    with suppress(asyncio.CancelledError):
        await looking
    return written, source.confirmed


async def filled(streams: MemoryStreams, count: int) -> PublishLoop:
    await streams.put(OWNER, b"us", 3600)
    return await publish(streams, log_of({1000 * n: ["demo"] for n in range(1, count + 1)}))


CONFIG = StreamsConfig(keep_entries=10, keep_log_bytes=1 << 30, max_bytes=1 << 30)
STREAM = stream_of("demo")


async def test_the_server_may_forget_only_what_all_groups_have_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = MemoryStreams(ROOM)
    loop = await filled(streams, 50)
    await streams.make_group(STREAM, "fast", START)
    await streams.make_group(STREAM, "slow", START)
    await streams.ack(STREAM, "fast", [entry.id for entry in await streams.read(STREAM, "fast", "c", 100, 0)])
    seen = [entry.id for entry in await streams.read(STREAM, "slow", "c", 20, 0)]
    await streams.ack(STREAM, "slow", [*seen[:5], *seen[6:]])  # the sixth is pending
    written, confirmed = await upkeep(streams, loop, CONFIG, monkeypatch)
    assert written.groups[STREAM, "fast"] == Position(50_000, 0)
    assert Position(5000, 0) <= written.groups[STREAM, "slow"] < Position(6000, 0)
    assert 5000 <= max(confirmed) <= 6000
    assert [entry.id.lsn for entry in await streams.after(STREAM, START, 3)] == [6000, 7000, 8000]


async def test_without_groups_the_newest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = MemoryStreams(ROOM)
    loop = await filled(streams, 50)
    _, confirmed = await upkeep(streams, loop, CONFIG, monkeypatch)
    assert max(confirmed) == loop.published
    assert len(await streams.after(STREAM, START, 100)) == 10


async def test_a_group_too_far_behind_in_the_log_does_not_hold_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    streams = MemoryStreams(ROOM)
    loop = await filled(streams, 50)
    await streams.make_group(STREAM, "slow", START)
    config = StreamsConfig(keep_entries=10, keep_log_bytes=20_000, max_bytes=1 << 30)
    _, confirmed = await upkeep(streams, loop, config, monkeypatch)
    assert max(confirmed) == loop.published - 20_000
    assert "could not be filled again" in caplog.text
    assert len(await streams.after(STREAM, START, 100)) == 50, "its entries are there all the same"


async def test_at_the_end_of_the_room_the_slowest_group_skips_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    streams = MemoryStreams(ROOM)
    loop = await filled(streams, 200)
    await streams.make_group(STREAM, "slow", START)
    await streams.make_group(STREAM, "better", Position(150_000, 0))
    room = await streams.size_bytes(JUDGMENTS) // 2
    config = StreamsConfig(keep_entries=10, max_bytes=room)
    written, _ = await upkeep(streams, loop, config, monkeypatch, rounds=20)
    assert await streams.size_bytes(JUDGMENTS) < room
    assert {key for key, _, _ in written.skips} == {(STREAM, "slow")}
    assert "made to skip" in caplog.text
    first = (await streams.read(STREAM, "slow", "c", 1, 0))[0].id
    assert written.skips[-1][2] < first <= Position(115_000, 0), "no more was skipped than needed"
    assert (await streams.read(STREAM, "better", "c", 1, 0))[0].id == Position(151_000, 0)


async def test_an_emptied_quiet_stream_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = MemoryStreams(ROOM)
    loop = await filled(streams, 5)
    await streams.empty([STREAM])
    with pytest.raises(StreamCut):
        await StreamUpkeep(loop, MemoryLog([]), streams, Written(), CONFIG).run()


async def test_groups_that_are_gone_with_their_stream_are_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    streams, written = MemoryStreams(ROOM), Written()
    loop = await filled(streams, 5)
    await streams.make_group(STREAM, "slow", START)
    looked = StreamUpkeep(loop, MemoryLog([]), streams, written, CONFIG)
    ask = streams.groups

    async def emptied_meanwhile(stream: str) -> list[Group]:
        if stream == STREAM:
            await streams.empty([STREAM])
        return await ask(stream)

    monkeypatch.setattr(streams, "groups", emptied_meanwhile)
    with pytest.raises(StreamCut):
        await looked.run()
    assert not written.saved, "what is remembered of the groups stays"


async def test_an_entry_that_is_not_from_the_log_is_noticed() -> None:
    streams = MemoryStreams(ROOM)
    loop = await filled(streams, 5)
    await streams.append([Batch(STREAM, START, [Entry(Position(1 << 40, 0), {b"by": b"hand"})])])
    with pytest.raises(StreamCut, match="somebody else"):
        await StreamUpkeep(loop, MemoryLog([]), streams, Written(), CONFIG).run()


async def test_a_group_that_its_stream_will_leave_behind_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    streams = MemoryStreams(ROOM)
    loop = await filled(streams, 1)
    await streams.make_group(ALERTS, "sleepy", START)
    for _ in range(90):
        await streams.add(ALERTS, {b"a": b"b"}, 10)
    await upkeep(streams, loop, StreamsConfig(keep_dashboard_entries=10), monkeypatch)
    assert "will soon drop" in caplog.text
    assert "sleepy" in {getattr(record, "group", "") for record in caplog.records}


async def test_in_memory_few_stay_whatever_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_upkeep, "FEW", 20)
    streams = MemoryStreams(ROOM)
    loop = await filled(streams, 50)
    await upkeep(streams, loop, StreamsConfig(), monkeypatch)
    assert len(await streams.after(STREAM, START, 100)) == 20


async def test_what_fails_again_and_again_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publish_loop, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(publish_loop, "LONGEST_PAUSE_S", 0.0)
    with caplog.at_level("INFO"):
        await publish(Faulty(dict.fromkeys(range(50), "before")), log_of({100: ["a"]}))
    assert len(caplog.records) == 1


async def test_of_one_huge_transaction_no_more_is_skipped_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = MemoryStreams(ROOM)
    await streams.put(OWNER, b"us", 3600)
    loop = await publish(streams, log_of({1000: ["demo"] * 400}))
    await streams.make_group(STREAM, "slow", START)
    room = await streams.size_bytes(JUDGMENTS) * 3 // 4
    await upkeep(streams, loop, StreamsConfig(keep_entries=10, max_bytes=room), monkeypatch, rounds=20)
    assert await streams.size_bytes(JUDGMENTS) < room
    assert len(await streams.read(STREAM, "slow", "c", 1000, 0)) >= 200
