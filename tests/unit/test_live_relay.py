"""Live changes from the process that reads the log to the dashboards of another, over streams that lose, stop and come back."""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import msgspec
import pytest
from builders import T0, change, row
from support.waiting import until

from judgify_engine.config import load
from judgify_engine.core import portion as portion_module
from judgify_engine.core import rollup as rollup_module
from judgify_engine.core.dashboards import BUILT_IN, ChartDefinition, Dashboard, Defined, Needs
from judgify_engine.core.portion import Beat, Portion
from judgify_engine.core.rollup import Delta, Sums
from judgify_engine.core.samples import sample_of
from judgify_engine.core.streams import DASHBOARDS, NOTIFICATIONS, dashboard_stream_of, notifications_of
from judgify_engine.core.trail import Resume
from judgify_engine.core.view import Snapshot, ViewKey
from judgify_engine.errors import StreamsUnavailable
from judgify_engine.live import hearing as hearing_module
from judgify_engine.live import hub as hub_module
from judgify_engine.live import reading as reading_module
from judgify_engine.live import relay as relay_module
from judgify_engine.live.hearing import Hearing
from judgify_engine.live.hub import Hub
from judgify_engine.live.relay import Relay
from judgify_engine.live.view import Client
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.streams import Batch, Entry, Listener
from judgify_engine.streams.memory import MemoryStreams
from judgify_engine.units import Position
from judgify_engine.wire.portion import encode
from judgify_engine.wire.snapshot import decode as decode_kept

BEGAN = Position(100, -1)
EPOCHS = itertools.count(1)


class Wires(MemoryStreams):
    """Streams that several processes share, and that may fail."""

    shared = True

    def __init__(self) -> None:
        super().__init__(10_000_000)
        self.loses: Callable[[str], bool] = lambda channel: False
        self.away = self.stuck = self.full = False
        self._interrupted: list[Callable[[], None]] = []
        self.sent: Counter[str] = Counter()
        self.free = asyncio.Event()

    async def send(self, messages: Sequence[tuple[str, bytes]]) -> None:
        if self.stuck:
            await self.free.wait()
        if self.away:
            raise StreamsUnavailable("Redis is away")
        self.sent.update(channel for channel, _ in messages)
        await super().send([one for one in messages if not self.loses(one[0])])

    async def append(self, batches: Sequence[Batch]) -> None:
        if self.away or self.full:
            raise StreamsUnavailable("Redis is away, or has no room")
        await super().append(batches)

    @property
    def channels(self) -> set[str]:
        """All that anybody watches."""
        return {channel for listener in self._listeners for channel in listener.channels}

    def listen(self, heard: Callable[[str, bytes], None], interrupted: Callable[[], None]) -> Listener:
        self._interrupted.append(interrupted)
        return super().listen(heard, interrupted)

    def interrupt(self) -> None:
        """As where a connection broke and was made again."""
        for interrupted in self._interrupted:
            interrupted()


class Rollups:
    """The tables: counts by tenant, and the position that they hold for."""

    def __init__(self) -> None:
        self.at = BEGAN
        self.counts: Counter[str] = Counter()
        self.reads = self.history = 0
        self.sinks: list[Relay | Hub] = []
        self.slow = asyncio.Event()
        """Cleared: what was read is not there yet."""
        self.slow.set()

    async def position(self) -> Position:
        return self.at

    async def snapshot(self, key: ViewKey, needs: Needs) -> Snapshot:
        self.reads += 1
        count, position = self.counts[key.tenant_id], self.at
        await self.slow.wait()
        workflows = {"w": Sums(count, rule=count, histogram={})}
        return Snapshot(position, workflows, {"ok": count}, {}, {}, origin=f"h{self.history}")

    def roll_up(self, *tenants: str, truncates: bool = False) -> None:
        """One judgment of each of these is rolled up, and those who follow the log hear of it."""
        delta = Delta(self.at)
        lsn = self.at.lsn + 1
        if truncates:
            self.counts.clear()
            delta.add(change(0, None, None, lsn=lsn))
        for index, tenant in enumerate(tenants, 1):
            delta.add(change(index, None, row(tenant_id=tenant, created_at=(T0 - 1) * 1_000_000), lsn=lsn))
        self.counts.update(tenants)
        self.at = delta.position
        for sink in self.sinks:
            sink.rolled_up(delta, ())


async def defined(tenant_id: str, dashboard_id: str) -> Defined:
    """`charts` shows a tracked field, all others what is built in."""
    chart = ChartDefinition(id="value", type="tracked_inputs_chart", field="value")
    return Defined(1, Dashboard(name="Charts", charts=[chart])) if dashboard_id == "charts" else Defined(0, BUILT_IN)


class Process:
    """One process without an edge but streams and tables."""

    def __init__(self, wires: Wires, rollups: Rollups, *, reads_log: bool = False, origin: str = "server/slot") -> None:
        self.holding, self.metrics = reads_log, Metrics()
        self.origin = origin
        self.hearing = Hearing(wires, lambda: self.holding, self._whose, lambda: self.hub, 30.0)
        config = load(environ={})
        self.hub = Hub(
            rollups,
            lambda: self.holding,
            config.live,
            self.metrics,
            self.hearing,
            lambda: self.hearing.verified_through_s,
            defined,
        )
        self.relay = Relay(wires, lambda: self.holding, self._whose, lambda: 17, lambda: next(EPOCHS), 20, self.metrics)
        if reads_log:
            self.relay.begin(rollups.at)

    async def _whose(self) -> str | None:
        return self.origin

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Process"]:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for part in (self.relay, self.hearing, self.hub):
                tasks.create_task(part.run(stop))
            try:
                yield self
            finally:
                stop.set()

    async def watch(self, tenant: str, dashboard: str = "main") -> Client:
        return await self.hub.join(ViewKey(tenant, dashboard, None, "1h"))


def shown(client: Client) -> int:
    assert client.view.state is not None
    return client.view.state._total.total


async def shows(client: Client, count: int) -> None:
    await until(lambda: shown(client) == count, f"the dashboard shows {count}")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_module, "BEAT_S", 0.02)
    monkeypatch.setattr(relay_module, "PAUSE_S", 0.01)
    monkeypatch.setattr(relay_module, "RETRY_S", 0.01)
    monkeypatch.setattr(hearing_module, "LOOK_S", 0.01)
    monkeypatch.setattr(hearing_module, "LINGER_S", 0.05)
    monkeypatch.setattr(hub_module, "LOOK_S", 0.01)
    monkeypatch.setattr(hub_module, "KEEP_S", 0.05)
    monkeypatch.setattr(reading_module, "STANDBY_REFRESH_S", 30.0)  # what shows came by the relay


@pytest.fixture
async def rollups() -> Rollups:
    return Rollups()


@pytest.fixture
def wires() -> Wires:
    return Wires()


@pytest.fixture
async def pair(wires: Wires, rollups: Rollups) -> AsyncIterator[tuple[Process, Process]]:
    """One that reads the log, and one that hears it."""
    reader, other = Process(wires, rollups, reads_log=True), Process(wires, rollups)
    rollups.sinks += [reader.relay, reader.hub]
    async with reader.running(), other.running():
        await until(lambda: other.hearing.hears, "it hears")
        yield reader, other


Pair = tuple[Process, Process]


async def test_a_change_shows_in_both_without_a_look_into_the_tables(pair: Pair, rollups: Rollups) -> None:
    clients = [await process.watch("acme") for process in pair]
    reads = rollups.reads
    for count in range(1, 30):
        rollups.roll_up("acme", "other")
        for client in clients:
            await shows(client, count)
    assert rollups.reads == reads
    assert pair[1].hearing.verified_through_s == 17


async def test_a_process_watches_its_own_clients_tenants_and_no_others(pair: Pair, rollups: Rollups, wires: Wires) -> None:
    reader, other = pair
    await reader.watch("acme")
    assert wires.channels == {NOTIFICATIONS}, "who reads the log needs nobody to tell it"
    clients = [await other.watch("acme"), await other.watch("acme", "second"), await other.watch("globex")]
    assert wires.channels == {NOTIFICATIONS, notifications_of("acme"), notifications_of("globex")}
    other.hub.leave(clients[0])
    other.hub.leave(clients[2])
    await until(lambda: wires.channels == {NOTIFICATIONS, notifications_of("acme")}, "only what is watched is heard")
    rollups.roll_up("acme", "globex")
    await shows(clients[1], 1)
    again = await other.watch("globex")
    assert shown(again) == 1


async def test_a_lost_message_is_found_in_the_stream(pair: Pair, rollups: Rollups, wires: Wires) -> None:
    client, idle = await pair[1].watch("acme"), await pair[1].watch("idle")
    reads = rollups.reads
    rollups.roll_up("acme")
    await shows(client, 1)
    wires.loses = lambda channel: channel != NOTIFICATIONS
    rollups.roll_up("acme")  # the next beat says that something came
    await shows(client, 2)
    for _ in range(3):
        rollups.roll_up("acme", "other")
    await shows(client, 5)
    assert (rollups.reads, shown(idle)) == (reads, 0)
    assert pair[1].metrics.relay_gaps["stream"] >= 2


async def test_what_neither_channel_nor_stream_has_is_read_from_the_tables(pair: Pair, rollups: Rollups, wires: Wires) -> None:
    client = await pair[1].watch("acme")
    rollups.roll_up("acme")
    await shows(client, 1)
    reads = rollups.reads
    wires.loses = lambda channel: channel != NOTIFICATIONS
    rollups.roll_up("acme")
    await until(lambda: wires.sent[notifications_of("acme")] == 2, "it was told")
    await wires.empty(DASHBOARDS)
    await shows(client, 2)
    assert rollups.reads == reads + pair[1].metrics.relay_gaps["tables"]


async def test_after_an_interruption_nothing_is_missed_and_nothing_read_twice(
    pair: Pair, rollups: Rollups, wires: Wires
) -> None:
    client, idle = await pair[1].watch("acme"), await pair[1].watch("idle")
    rollups.roll_up("acme")
    await shows(client, 1)
    reads = rollups.reads
    wires.loses = lambda channel: True
    for _ in range(5):
        rollups.roll_up("acme")
    await until(lambda: wires.sent[notifications_of("acme")] == 6, "all was told to nobody")
    wires.interrupt()
    assert not pair[1].hearing.hears
    wires.loses = lambda channel: False
    await shows(client, 6)
    await until(lambda: idle.view.state.position == rollups.at, "it is known that nothing else was missed")
    assert (rollups.reads, shown(idle)) == (reads, 0)
    assert not client.view.missed


async def test_what_is_too_much_to_tell_is_read_from_the_tables(
    pair: Pair, rollups: Rollups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buckets of tracked fields; only who charts some needs them."""
    monkeypatch.setattr(rollup_module, "MAX_TOLD", 0)
    monkeypatch.setattr(Delta, "samples", {("acme", "w", "input.value", T0, "rule", "completed"): sample_of({1: 1}, 1, False)})
    client, charts = await pair[1].watch("acme"), await pair[1].watch("acme", "charts")
    reads = rollups.reads
    rollups.roll_up("acme")
    await shows(client, 1)
    assert rollups.reads - reads <= 1
    await shows(charts, 1)
    assert rollups.reads == reads + 1


@pytest.mark.parametrize("truncates", [False, True])
async def test_what_no_delta_made_is_read_anew_everywhere(pair: Pair, rollups: Rollups, truncates: bool) -> None:
    """A repair in the process that reads the log, or a table that was emptied."""
    reader, other = pair
    client = await other.watch("acme")
    rollups.roll_up("acme")
    await shows(client, 1)
    if truncates:
        rollups.roll_up("acme", "acme", truncates=True)
        await shows(client, 2)
    else:
        rollups.counts["acme"] = 40
        reader.relay.begin(rollups.at)
        await shows(client, 40)
    rollups.roll_up("acme")
    await shows(client, rollups.counts["acme"])


async def test_another_reader_of_the_log_is_followed(pair: Pair, rollups: Rollups, wires: Wires) -> None:
    reader, other = pair
    client = await reader.watch("acme")
    rollups.roll_up("acme")
    await shows(client, 1)
    reader.holding = False
    rollups.sinks = []
    rollups.roll_up("acme")  # committed, and told to nobody: its reader died
    other.holding = True
    other.hub.reload()
    other.relay.begin(rollups.at)
    rollups.sinks = [other.relay, other.hub]
    await shows(client, 2)
    rollups.roll_up("acme")
    await shows(client, 3)
    assert notifications_of("acme") in wires.channels


async def test_a_late_message_of_the_reader_before_changes_nothing(pair: Pair, rollups: Rollups, wires: Wires) -> None:
    reader, other = pair
    client = await other.watch("acme")
    rollups.roll_up("acme")
    await shows(client, 1)
    stream = await wires.after(dashboard_stream_of("acme"), BEGAN._replace(index=0), 10)
    old = stream[-1].fields[b"acme"]
    reader.relay.begin(rollups.at)
    rollups.roll_up("acme")
    await shows(client, 2)
    await wires.send([(notifications_of("acme"), old)] * 3)
    rollups.roll_up("acme")
    await shows(client, 3)


async def test_a_foreign_engine_on_the_same_redis_is_not_heeded(pair: Pair, rollups: Rollups, wires: Wires) -> None:
    _, other = pair
    client = await other.watch("acme")
    rollups.roll_up("acme")
    await shows(client, 1)
    foreign = Rollups()
    stranger = Process(wires, foreign, reads_log=True, origin="another/slot")
    foreign.sinks = [stranger.relay]
    reads = rollups.reads
    async with stranger.running():
        for _ in range(20):
            foreign.roll_up("acme")
            await asyncio.sleep(0)
        await until(lambda: stranger.metrics.relay_messages > 22, "it beats and tells")
        rollups.roll_up("acme")
        await shows(client, 2)
    assert rollups.reads == reads


async def test_what_a_foreign_engine_left_in_the_stream_is_not_added(pair: Pair, rollups: Rollups, wires: Wires) -> None:
    client = await pair[1].watch("acme")
    rollups.roll_up("acme")
    await shows(client, 1)
    at, foreign = rollups.at, Position(rollups.at.lsn, 50)
    stream = dashboard_stream_of("acme")
    portion = encode(Portion(2**62, at, foreign, [("w", T0, Sums(7, rule=7, histogram={}))]))

    async def appended() -> bool:
        return bool(await wires.after(stream, Position(0, 0), 10))

    await until(appended, "the stream ends where the tables are")
    await wires.append([Batch(stream, at, [Entry(foreign, {b"acme": portion})])])
    wires.loses = lambda channel: channel != NOTIFICATIONS
    rollups.roll_up("acme")
    await until(lambda: shown(client) > 1, "it is found")
    assert shown(client) == 2


async def test_a_beat_whose_list_is_cut_short_says_enough_after_an_interruption(
    pair: Pair, rollups: Rollups, wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await pair[1].watch("acme")
    rollups.roll_up("acme")
    await shows(client, 1)
    monkeypatch.setattr(portion_module, "LISTED", 1)
    wires.loses = lambda channel: True
    rollups.roll_up("acme")
    rollups.roll_up("other")
    await until(lambda: wires.sent[notifications_of("other")], "all was told to nobody")
    wires.interrupt()
    wires.loses = lambda channel: False
    await until(lambda: shown(client) == 2, "it shows before the list is whole again", portion_module.LISTED_S / 2)


@pytest.mark.parametrize("reading", [0, 1])
async def test_what_comes_while_a_view_is_read_is_not_missed(pair: Pair, rollups: Rollups, wires: Wires, reading: int) -> None:
    process = pair[reading]
    rollups.roll_up("acme")
    rollups.slow.clear()
    joining = asyncio.create_task(process.watch("acme"))
    await until(lambda: rollups.reads, "the tables were read")
    rollups.roll_up("acme")
    rollups.roll_up("acme")
    await until(lambda: wires.sent[notifications_of("acme")] == 3, "it was told")
    rollups.slow.set()
    reads = rollups.reads
    assert shown(await joining) == 3
    assert rollups.reads == reads


@pytest.fixture
async def third(pair: Pair, wires: Wires, rollups: Rollups) -> AsyncIterator[Process]:
    """One more that hears, beside the pair."""
    async with Process(wires, rollups).running() as process:
        await until(lambda: process.hearing.hears, "it hears")
        yield process


async def test_what_one_process_read_is_not_read_by_the_next(
    pair: Pair, third: Process, rollups: Rollups, wires: Wires
) -> None:
    rollups.roll_up("acme")
    first = await pair[1].watch("acme")
    await shows(first, 1)
    for _ in range(3):
        rollups.roll_up("acme", "other")
    await shows(first, 4)
    await until(lambda: wires.sent[notifications_of("acme")] == 4, "all is told")
    reads = rollups.reads
    second = await third.watch("acme")
    assert (shown(second), rollups.reads) == (4, reads)
    rollups.roll_up("acme")
    await shows(second, 5)
    await third.watch("acme", "of another name")
    assert rollups.reads == reads + 1


async def test_what_came_while_a_snapshot_was_read_is_not_in_the_cached_one(
    pair: Pair, third: Process, rollups: Rollups
) -> None:
    """It would be added again by whoever goes on from there."""
    other = pair[1]
    rollups.roll_up("acme")
    rollups.slow.clear()
    watching = asyncio.create_task(other.watch("acme"))
    await until(lambda: rollups.reads == 1, "it is being read")
    rollups.roll_up("acme")
    (view,) = other.hub._views.values()
    await until(lambda: any(portion.sums for portion in view.backlog or ()), "a change is heard meanwhile")
    rollups.slow.set()
    assert shown(await watching) == 2
    assert (shown(await third.watch("acme")), rollups.reads) == (2, 1)


async def test_a_cached_snapshot_serves_only_where_nothing_else_happened_to_the_rollups(
    pair: Pair, third: Process, rollups: Rollups
) -> None:
    await pair[1].watch("acme")
    rollups.counts["acme"] = 40
    pair[0].relay.begin(rollups.at)
    epoch = pair[1].hearing.epoch
    await until(lambda: third.hearing.epoch not in (None, epoch), "it hears that all is new")
    assert shown(await third.watch("acme")) == 40


async def test_a_cached_snapshot_serves_only_with_all_that_followed(
    pair: Pair, third: Process, rollups: Rollups, wires: Wires
) -> None:
    first = await pair[1].watch("acme")
    rollups.roll_up("acme")
    await shows(first, 1)
    await until(lambda: wires.sent[notifications_of("acme")], "it is told")

    async def gone() -> bool:
        await wires.empty(DASHBOARDS)
        return third.hearing._beat is not None and "acme" in third.hearing._beat.lasts

    await until(gone, "the last beat says that it changed, and the stream is empty")
    reads = rollups.reads
    assert (shown(await third.watch("acme")), rollups.reads) == (1, reads + 1)


@pytest.mark.parametrize("value", [b"", b"x", b"\x93\x01\x01\x01", None])
async def test_a_cached_snapshot_that_is_none_or_too_old_is_read_anew(
    pair: Pair, third: Process, rollups: Rollups, wires: Wires, value: bytes | None
) -> None:
    await pair[1].watch("acme")
    (key,) = [key for key in wires._values if key.startswith("dashboard_cache:acme:main")]
    if value is None:
        kept = decode_kept(await wires.get(key) or b"")
        value = encode(msgspec.structs.replace(kept, read_at_s=kept.read_at_s - 31))
    await wires.put(key, value, 300)
    reads = rollups.reads
    await third.watch("acme")
    assert rollups.reads == reads + 1


async def test_what_waits_of_a_log_that_went_further_is_not_put_in_the_way_of_the_new_one(
    pair: Pair, rollups: Rollups, wires: Wires
) -> None:
    reader, other = pair
    wires.away = True
    rollups.roll_up("acme")
    rollups.at = Position(50, -1)  # as after a restore
    reader.relay.begin(rollups.at)
    wires.away = False
    client = await other.watch("acme")
    wires.loses = lambda channel: channel != NOTIFICATIONS
    for count in range(2, 5):
        rollups.roll_up("acme")
        await shows(client, count)
    assert await wires.last([dashboard_stream_of("acme")]) == [rollups.at]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ViewKey("a", "b:c", None, "1h"), ViewKey("a:b", "c", None, "1h")),
        (ViewKey("a", "d", "6h:w", "1h"), ViewKey("a", "d:1h", "w", "6h")),
    ],
    ids=["of two tenants", "of one"],
)
async def test_cached_snapshots_whose_names_are_the_same_are_not_mixed_up(
    pair: Pair, third: Process, rollups: Rollups, one: ViewKey, other: ViewKey
) -> None:
    rollups.counts.update(a=3)
    await pair[1].hub.join(one)
    reads = rollups.reads
    found = await third.hub.join(other)
    assert (shown(found), rollups.reads) == (rollups.counts[other.tenant_id], reads + 1)


async def test_reading_the_log_never_waits_and_the_buffer_is_bounded(
    pair: Pair, rollups: Rollups, wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, other = pair
    client = await other.watch("acme")
    monkeypatch.setattr(relay_module, "MAX_WAITING", 100)
    wires.stuck = True
    for _ in range(500):
        rollups.roll_up("acme")  # plain calls: none of them can wait
    assert sum(len(portions) for portions in reader.relay._waiting) <= 100
    assert reader.metrics.relay_dropped >= 400
    wires.stuck = False
    wires.free.set()
    await shows(client, 500)


async def test_while_redis_is_away_the_tables_are_looked_into_and_then_no_more(
    pair: Pair, rollups: Rollups, wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, other = pair
    client = await other.watch("acme")
    monkeypatch.setattr(hearing_module, "SILENCE_S", 0.1)
    wires.away = True
    await until(lambda: not other.hearing.hears, "the silence is noticed")
    monkeypatch.setattr(reading_module, "STANDBY_REFRESH_S", 0.02)
    for count in range(1, 4):
        rollups.roll_up("acme")
        await shows(client, count)
    wires.away = False
    await until(lambda: other.hearing.follows("acme"), "it hears again")
    await until(lambda: client.view.loading is None and not client.view.missed, "what was missed is seen to")
    reads = rollups.reads
    for count in range(4, 10):
        rollups.roll_up("acme")
        await shows(client, count)
    assert rollups.reads == reads


async def test_a_redis_without_room_for_entries_passes_messages_on(pair: Pair, rollups: Rollups, wires: Wires) -> None:
    client = await pair[1].watch("acme")
    wires.full = True
    reads, beats = rollups.reads, wires.sent[NOTIFICATIONS]
    for count in range(1, 5):
        rollups.roll_up("acme")
        await shows(client, count)
    await until(lambda: wires.sent[NOTIFICATIONS] > beats + 2, "it beats")
    assert rollups.reads == reads


async def test_streams_of_a_log_that_went_further_are_emptied(wires: Wires, rollups: Rollups) -> None:
    """As after the database was restored: the ids of what comes are before those of what was."""
    stream = dashboard_stream_of("acme")
    await wires.append([Batch(name, Position(0, 0), [Entry(Position(9999, 0), {b"acme": b"old"})]) for name in DASHBOARDS])
    reader = Process(wires, rollups, reads_log=True)
    rollups.sinks = [reader.relay]
    async with reader.running():
        rollups.roll_up("acme")

        async def appended() -> list[Position]:
            return [entry.id for entry in await wires.after(stream, Position(0, 0), 10)]

        await until(lambda: wires.sent[notifications_of("acme")], "it is told")
        await until(appended, "it is in the stream")
        assert await appended() == [rollups.at]


async def test_streams_keep_so_many_deltas(pair: Pair, rollups: Rollups, wires: Wires) -> None:
    client = await pair[1].watch("acme")
    for count in range(1, 50):
        rollups.roll_up("acme")
        await shows(client, count)

    async def trimmed() -> bool:
        rollups.roll_up("acme")
        return len(await wires.after(dashboard_stream_of("acme"), Position(0, 0), 1000)) <= 25

    await until(trimmed, "about 20 stay")


async def test_messages_that_are_none_of_ours_do_no_harm(pair: Pair, rollups: Rollups, wires: Wires) -> None:
    client = await pair[1].watch("acme")
    beat = Beat("server/slot", "x", 1, Position(1, 1), Position(1, 1), {})
    for message in (b"", b"hello", b"\xc1\x00", encode([1, 2]), encode(beat)):
        await wires.send([(notifications_of("acme"), message)])
        await wires.send([(NOTIFICATIONS, message[:-1])])
    rollups.roll_up("acme")
    await shows(client, 1)


def test_names_are_those_that_others_rely_on() -> None:
    assert notifications_of("acme") == "websocket_notifications:acme"
    names: Iterable[str] = (f"dashboard-stream-{number}" for number in range(8))
    assert tuple(names) == DASHBOARDS


def resume_of(client: Client) -> Resume:
    """What a client of this view would name if it came back."""
    return Resume.parse(msgspec.json.decode(client.view.full("dashboard_update").payload)["resume"])


def first(client: Client, resume: Resume) -> dict[str, Any]:
    """What it would begin with here."""
    found: dict[str, Any] = msgspec.json.decode(client.view.first(resume).payload)
    return found


async def test_a_client_goes_on_at_another_process_where_it_stopped(pair: Pair, rollups: Rollups) -> None:
    """In both ways; the one that reads the log also names positions at which nothing of its tenant happened."""
    for here, there in (pair, reversed(pair)):
        client, witness = await here.watch("acme"), await there.watch("acme")
        rollups.roll_up("acme")
        rollups.roll_up("other")
        await shows(client, rollups.counts["acme"])
        resume = resume_of(client)
        here.hub.leave(client)
        rollups.roll_up("acme")
        rollups.roll_up("acme", "other")
        await shows(witness, rollups.counts["acme"])
        again = await there.hub.join(ViewKey("acme", "main", None, "1h"), resume)
        rest = first(again, resume)
        assert rest["recovered"] is True
        assert [one["total_executions"] for one in rest["workflows"]] == [rollups.counts["acme"]]
        assert first(again, resume_of(again))["workflows"] == []


async def test_of_before_a_repair_or_a_restore_nothing_is_taken_for_known(pair: Pair, rollups: Rollups) -> None:
    """Also where the position is one that the other history has, too."""
    reader, other = pair
    client = await other.watch("acme")
    rollups.roll_up("acme")
    await shows(client, 1)
    resume = resume_of(client)
    rollups.counts["acme"], rollups.history = 40, 1
    reader.relay.begin(rollups.at)
    await shows(client, 40)
    assert client.view.state is not None
    assert client.view.state.position == resume.position
    assert first(client, resume)["recovered"] is False
    assert first(client, resume_of(client))["recovered"] is True


async def test_who_comes_from_a_process_that_is_ahead_is_not_shown_less(rollups: Rollups, wires: Wires) -> None:
    """The log's reader may hear of a delta a little later than others find it in the tables."""
    reader = Process(wires, rollups, reads_log=True)
    async with reader.running():
        client = await reader.watch("acme")
        rollups.roll_up("acme")
        resume = Resume(rollups.at, resume_of(client).origin)
        again = await reader.hub.join(ViewKey("acme", "main", None, "1h"), resume)
        assert shown(again) == 1
        assert first(again, resume)["recovered"] is True
