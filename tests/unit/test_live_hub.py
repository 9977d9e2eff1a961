"""The hub's bounds: one tenant's dashboards leave room for the others'."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any

import msgspec
import pytest
from builders import T0, change, row
from support.waiting import until

from judgify_engine.config import load
from judgify_engine.core.dashboards import BUILT_IN, ChartDefinition, Dashboard, Defined, Needs
from judgify_engine.core.rollup import Delta, Sums
from judgify_engine.core.trail import Resume
from judgify_engine.core.view import Snapshot, ViewKey
from judgify_engine.errors import DatabaseUnavailable, Overloaded
from judgify_engine.live import definitions as definitions_module
from judgify_engine.live import hub as module
from judgify_engine.live import reading as reading_module
from judgify_engine.live.definitions import Definitions as DefinitionWatch
from judgify_engine.live.feed import NoFeed
from judgify_engine.live.hub import Hub
from judgify_engine.live.view import Client
from judgify_engine.observe.metrics import Metrics
from judgify_engine.units import Position
from judgify_engine.wire.websocket import Message


class Sink:
    """A socket that takes everything, or nothing while it is paused."""

    def __init__(self) -> None:
        self.paused = False
        self.sent: list[Message] = []
        self.messages: list[dict[str, Any]] = []
        self.on_message: Callable[[], None] = lambda: None

    def send(self, message: Message) -> None:
        assert not self.paused
        self.on_message()
        self.sent.append(message)
        self.messages.append(msgspec.json.decode(message.payload))


class Empty:
    """Rollups without anything."""

    async def position(self) -> Position:
        return Position(1, 0)

    async def snapshot(self, key: ViewKey, needs: Needs) -> Snapshot:
        return Snapshot(Position(1, 0), {}, {}, {}, {})


def key(tenant_id: str, number: int) -> ViewKey:
    return ViewKey(tenant_id, f"d{number}", None, "1h")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr(module, "MAX_VIEWS_OF_TENANT", 3)
    monkeypatch.setattr(module, "MAX_VIEWS", 5)
    return Hub(Empty(), lambda: True, load(environ={}).live, Metrics(), NoFeed())


async def test_different_dashboards_of_a_tenant_are_bounded(hub: Hub) -> None:
    clients = [await hub.join(key("acme", number)) for number in range(3)]
    with pytest.raises(Overloaded, match="a tenant may watch 3"):
        await hub.join(key("acme", 3))
    await hub.join(key("acme", 0))  # one more socket on a view that is there
    others = [await hub.join(key("other", number)) for number in range(2)]
    with pytest.raises(Overloaded, match="serves 5 different"):
        await hub.join(key("third", 0))
    assert hub.sockets == 6
    hub.leave(clients.pop())
    await hub.join(key("acme", 3))
    for client in (*clients, *others):
        hub.leave(client)
    assert hub.sockets == 2


class Strange(Empty):
    """Rollups with a count at one position, that fail once in a way that nobody foresaw."""

    def __init__(self) -> None:
        self.count = self.reads = 0

    async def snapshot(self, key: ViewKey, needs: Needs) -> Snapshot:
        self.reads += 1
        if self.reads == 2:
            raise ValueError("canceling statement due to user request")
        return Snapshot(Position(1, 0), {"w": Sums(self.count, rule=self.count, histogram={})}, {"ok": self.count}, {}, {})


async def test_what_must_be_read_anew_is_after_any_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise changes would be added to figures that are void."""
    monkeypatch.setattr(reading_module, "STANDBY_REFRESH_S", 0.02)
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    source, stop = Strange(), asyncio.Event()
    hub = Hub(source, lambda: True, load(environ={}).live, Metrics(), NoFeed())
    view = (await hub.join(key("acme", 0))).view
    source.count = 7
    hub.reload()
    running = asyncio.create_task(hub.run(stop))
    await until(lambda: view.state is not None and view.state._total.total == 7, "it is read", 5)
    assert source.reads == 3
    stop.set()
    await running


class Ear(NoFeed):
    """Notes which tenants are to be heard."""

    def __init__(self) -> None:
        self.needed: set[str] = set()

    async def ready(self, tenant_id: str) -> None:
        self.needed.add(tenant_id)

    def leave(self, tenant_id: str) -> None:
        self.needed.discard(tenant_id)


async def test_a_tenant_without_dashboards_is_not_heard_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one leaves when its view is about to be read anew."""
    monkeypatch.setattr(module, "KEEP_S", 0.02)
    ear, stop = Ear(), asyncio.Event()
    hub = Hub(Empty(), lambda: True, load(environ={}).live, Metrics(), ear)
    client = await hub.join(key("acme", 0))
    assert ear.needed == {"acme"}
    reading = hub._readings.load(client.view)
    hub.leave(client)
    await reading
    running = asyncio.create_task(hub.run(stop))
    await until(lambda: not ear.needed, "it is not heard any more", 5)
    stop.set()
    await running


async def test_a_repair_shows_also_where_nobody_tells_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes figures, but not the position that they hold for."""
    monkeypatch.setattr(reading_module, "STANDBY_REFRESH_S", 0.02)
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    source, stop = Strange(), asyncio.Event()
    hub = Hub(source, lambda: False, load(environ={}).live, Metrics(), NoFeed())
    client = await hub.join(key("acme", 0))
    source.count, source.reads = 7, 2
    sink = Sink()
    client.begin(sink)
    running = asyncio.create_task(hub.run(stop))
    await until(lambda: len(sink.messages) > 1, "it is told", 5)
    message = sink.messages[-1]
    assert message["type"] == "dashboard_update"
    assert message["workflows"][0]["total_executions"] == 7
    stop.set()
    await running


class Moving(Empty):
    """Rollups that another process adds to, and that nobody tells of."""

    def __init__(self) -> None:
        self.count = self.reads = 0

    async def position(self) -> Position:
        return Position(1 + self.count, 0)

    async def snapshot(self, key: ViewKey, needs: Needs) -> Snapshot:
        self.reads += 1
        workflows = {"w": Sums(self.count, rule=self.count, histogram={})}
        return Snapshot(await self.position(), workflows, {"ok": self.count}, {}, {})


async def test_who_comes_from_another_process_is_not_shown_less_than_there() -> None:
    source = Moving()
    hub = Hub(source, lambda: False, load(environ={}).live, Metrics(), NoFeed())
    await hub.join(key("acme", 0))
    await hub.join(key("acme", 0))
    assert source.reads == 1, "nothing has changed"
    source.count = 7
    client = await hub.join(key("acme", 0))
    sink = Sink()
    client.begin(sink)
    assert sink.messages[0]["summary"]["total_executions"] == 7


async def test_who_reads_the_log_has_it_all_and_asks_nobody() -> None:
    source = Moving()
    hub = Hub(source, lambda: True, load(environ={}).live, Metrics(), NoFeed())
    await hub.join(key("acme", 0))
    source.count = 7
    await hub.join(key("acme", 0))
    assert source.reads == 1


class Definitions:
    """One dashboard's definition, which changes."""

    def __init__(self) -> None:
        self.defined = Defined(0, BUILT_IN)
        self.away = False

    async def current(self, tenant_id: str, dashboard_id: str) -> Defined:
        return self.defined

    async def versions_of(self, dashboards: Collection[tuple[str, str]]) -> dict[tuple[str, str], int]:
        if self.away:
            raise DatabaseUnavailable("gone")
        return {("acme", "d0"): self.defined.version} if self.defined.version else {}


async def test_who_watches_a_dashboard_that_is_defined_anew_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word from whoever changed it; others keep what they have."""
    monkeypatch.setattr(definitions_module, "LOOK_S", 0.01)
    source, stop = Definitions(), asyncio.Event()
    hub = Hub(Empty(), lambda: True, load(environ={}).live, Metrics(), NoFeed(), defined=source.current)
    watching = DefinitionWatch(source, hub)
    client, sink = await hub.join(key("acme", 0)), Sink()
    client.begin(sink)
    assert sink.messages[0]["definition_version"] == 0
    running = [asyncio.create_task(part.run(stop)) for part in (hub, watching)]
    for version, name in ((4, "a"), (5, "b"), (0, "count")):
        chart = ChartDefinition(id=name, type="execution_count_chart")
        source.defined = Defined(version, Dashboard(name="x", charts=[chart])) if version else Defined(0, BUILT_IN)
        await until(lambda version=version: sink.messages[-1]["definition_version"] == version, "the new definition is told", 5)
        assert sink.messages[-1]["type"] == "dashboard_update"
        assert name in sink.messages[-1]["charts"]
    stop.set()
    await asyncio.gather(*running)


async def test_nobody_is_asked_for_definitions_where_nothing_is_shown() -> None:
    source = Definitions()
    source.away = True
    hub = Hub(Empty(), lambda: True, load(environ={}).live, Metrics(), NoFeed(), defined=source.current)
    await DefinitionWatch(source, hub).look()
    await hub.join(key("acme", 0))
    with pytest.raises(DatabaseUnavailable):
        await DefinitionWatch(source, hub).look()


def delta_at(lsn: int, base: Position, tenant_id: str = "acme") -> Delta:
    """One judgment more."""
    delta = Delta(base)
    delta.add(change(0, None, row(tenant_id=tenant_id, created_at=(T0 - 1) * 1_000_000), lsn=lsn))
    return delta


class Followed:
    """A hub that runs, and the log that it follows."""

    def __init__(self, hub: Hub) -> None:
        self.hub, self.at, self.count = hub, Position(1, 0), 0

    def roll_up(self) -> None:
        delta = delta_at(self.at.lsn + 1, self.at)
        self.at, self.count = delta.position, self.count + 1
        self.hub.rolled_up(delta, ())

    async def watch(self, resume: Resume | None = None) -> tuple[Client, Sink]:
        client, sink = await self.hub.join(key("acme", 0), resume), Sink()
        client.begin(sink, resume)
        return client, sink

    async def shows(self, sink: Sink) -> None:
        await until(lambda: total(sink.messages[-1]) == self.count, f"it shows {self.count}", 5)


def total(message: dict[str, Any]) -> int:
    return int(message["summary"]["total_executions"])


class Whose(Empty):
    """Rollups that say of which history they are."""

    async def snapshot(self, key: ViewKey, needs: Needs) -> Snapshot:
        return (await super().snapshot(key, needs))._replace(origin="a")


@pytest.fixture
async def followed() -> AsyncIterator[Followed]:
    """With the pace that users have."""
    stop = asyncio.Event()
    hub = Hub(Whose(), lambda: True, load(environ={}).live, Metrics(), NoFeed())
    running = asyncio.create_task(hub.run(stop))
    yield Followed(hub)
    stop.set()
    await running


async def test_a_change_after_a_pause_is_pushed_at_once_and_then_at_most_ten_a_second(followed: Followed) -> None:
    _, sink = await followed.watch()
    loop = asyncio.get_running_loop()
    times: list[float] = []
    sink.on_message = lambda: times.append(loop.time())
    began_s = loop.time()
    while loop.time() < began_s + 0.55:
        followed.roll_up()
        await asyncio.sleep(0)
    await followed.shows(sink)
    assert times[0] - began_s < 0.09
    assert 3 <= len(times) <= 7
    assert all(later - sooner > 0.09 for sooner, later in itertools.pairwise(times))


async def test_a_socket_that_takes_nothing_is_sent_nothing_and_then_all_there_is(followed: Followed) -> None:
    client, slow = await followed.watch()
    _, fast = await followed.watch()
    slow.paused = True
    for _ in range(3):
        followed.roll_up()
        await followed.shows(fast)
    assert len(slow.messages) == 1
    slow.paused = False
    followed.hub.drained(client)
    await followed.shows(slow)
    assert [message["type"] for message in slow.messages] == ["initial_data", "dashboard_update"]
    followed.roll_up()
    await followed.shows(slow)
    assert slow.messages[-1]["type"] == fast.messages[-1]["type"] == "real_time_update"


async def test_all_sockets_are_sent_the_very_same_message(followed: Followed) -> None:
    sinks = [(await followed.watch())[1] for _ in range(3)]
    followed.roll_up()
    for sink in sinks:
        await followed.shows(sink)
    assert len({id(sink.sent[-1]) for sink in sinks}) == 1


async def test_who_comes_back_gets_the_rest_also_where_nobody_else_watched(followed: Followed) -> None:
    client, sink = await followed.watch()
    followed.roll_up()
    await followed.shows(sink)
    resume = Resume.parse(sink.messages[-1]["resume"])
    followed.hub.leave(client)
    followed.roll_up()
    _, again = await followed.watch(resume)
    assert (again.messages[0]["recovered"], total(again.messages[0])) == (True, 2)
    assert [one["total_executions"] for one in again.messages[0]["workflows"]] == [2]
    _, other = await followed.watch(resume._replace(origin="b"))
    assert (other.messages[0]["recovered"], total(other.messages[0])) == (False, 2)
    _, new = await followed.watch()
    assert "recovered" not in new.messages[0]


async def test_what_was_repaired_meanwhile_is_not_taken_for_known(followed: Followed) -> None:
    client, sink = await followed.watch()
    followed.roll_up()
    await followed.shows(sink)
    followed.hub.leave(client)
    followed.hub.reload()
    _, again = await followed.watch(Resume.parse(sink.messages[-1]["resume"]))
    assert again.messages[0]["recovered"] is False


async def test_a_view_that_cannot_be_told_stops_no_other(followed: Followed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor the process, which judges: it is read anew."""
    monkeypatch.setattr(reading_module, "STANDBY_REFRESH_S", 0.02)
    client, _ = await followed.watch()
    other, sink = await followed.hub.join(key("acme", 1)), Sink()
    other.begin(sink)
    broken = client.view.state
    assert broken is not None

    def update(now_s: float) -> bytes:
        raise KeyError("a figure that nobody foresaw")

    monkeypatch.setattr(broken, "update", update)
    followed.roll_up()
    await followed.shows(sink)
    await until(lambda: client.view.state is not broken, "it is read anew", 5)
    followed.roll_up()
    await followed.shows(sink)


async def test_views_that_nobody_watches_make_room(hub: Hub) -> None:
    for number in range(3):
        hub.leave(await hub.join(key("acme", number)))
    clients = [await hub.join(key("acme", number)) for number in range(3, 6)]
    with pytest.raises(Overloaded, match="a tenant may watch 3"):
        await hub.join(key("acme", 6))
    for client in clients:
        hub.leave(client)
