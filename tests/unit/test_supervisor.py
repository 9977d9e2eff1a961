"""Who shares the quotas and who is stopped while workers are replaced, with processes that are none."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import ClassVar

import msgspec
import pytest
from support.waiting import until

from judgify_engine import control
from judgify_engine import supervisor as module
from judgify_engine.child import Hooks
from judgify_engine.config import load
from judgify_engine.errors import StartupError
from judgify_engine.supervisor import Supervisor
from judgify_engine.worker import Stop


class FakeChild:
    """What the supervisor sees of a process."""

    all: ClassVar[list["FakeChild"]] = []
    fails = False
    was_steady = True
    pid = 1

    def __init__(self, orders: control.Orders) -> None:
        self.sharing, self.size = orders.config.workers, orders.size
        self.exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.retiring, self.stopping = asyncio.Event(), asyncio.Event()
        self.may_end = asyncio.Event()
        FakeChild.all.append(self)

    @classmethod
    async def start(cls, orders: control.Orders, hooks: Hooks, listens: Callable[[], None]) -> "FakeChild":
        if FakeChild.fails:
            raise StartupError("no")
        return cls(orders)

    def tell_size(self, size: int, sharing: int) -> None:
        self.size, self.sharing = size, sharing

    async def watch(self) -> None:
        await asyncio.wait((self.exit,))

    async def retire(self, within_s: float) -> None:
        self.retiring.set()
        await self._end()

    async def stop(self, within_s: float) -> None:
        self.stopping.set()
        await self._end()

    async def _end(self) -> None:
        await self.may_end.wait()
        if not self.exit.done():
            self.exit.set_result(0)


def living() -> list[FakeChild]:
    return [child for child in FakeChild.all if not child.exit.done()]


def granted() -> float:
    """The quotas that all together grant."""
    return sum(1 / child.sharing for child in living())


@pytest.fixture
async def stop() -> Stop:
    return Stop()


@pytest.fixture
async def two(monkeypatch: pytest.MonkeyPatch, stop: Stop) -> AsyncIterator[Supervisor]:
    """Two workers, looked after."""
    monkeypatch.setattr(module, "Child", FakeChild)
    FakeChild.all, FakeChild.fails = [], False
    config = msgspec.structs.replace(load(environ={}, flags={("http", "port"): 0}), workers=2)
    supervisor = Supervisor(config, "", lambda: config)
    await supervisor.find_port()
    ready = asyncio.Event()

    async def beside(tasks: asyncio.TaskGroup, url: str) -> None:
        ready.set()

    running = asyncio.create_task(supervisor.run(stop, beside))
    await ready.wait()
    yield supervisor
    for child in FakeChild.all:
        child.may_end.set()
    stop.now.set()
    await running


def hang_up(supervisor: Supervisor) -> None:
    supervisor._hung_up = True
    supervisor._wanted.set()


async def test_workers_never_grant_more_than_the_quota_while_they_are_replaced(two: Supervisor) -> None:
    first, second = FakeChild.all
    hang_up(two)
    await until(first.retiring.is_set, "the first is replaced")
    assert (len(living()), granted()) == (3, pytest.approx(1.0))
    assert {child.size for child in living()} == {2}, "who decides about scaling must not take it for three"
    first.may_end.set()
    await until(second.retiring.is_set, "the second is replaced")
    assert (len(living()), granted()) == (3, pytest.approx(1.0))
    second.may_end.set()
    await until(lambda: granted() == pytest.approx(1.0) and len(living()) == 2, "all of it is granted again")


async def test_a_worker_that_is_not_replaced_grants_its_share_again(two: Supervisor, caplog: pytest.LogCaptureFixture) -> None:
    FakeChild.fails = True
    hang_up(two)
    await until(lambda: "not all workers are replaced" in caplog.text, "it fails")
    assert granted() == pytest.approx(1.0)


async def test_a_stop_reaches_all_at_once(two: Supervisor, stop: Stop) -> None:
    """Also those who are on their way out: each may take long, and a stop as long as one of them."""
    first, second = FakeChild.all
    hang_up(two)
    await until(first.retiring.is_set, "the first is replaced")
    stop.now.set()
    await until(lambda: all(child.stopping.is_set() for child in (first, second, FakeChild.all[2])), "all are told", 5)


async def test_a_worker_that_dies_again_and_again_does_not_wait_where_nobody_else_serves(
    two: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHORTEST_PAUSE_S", 0.02)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 3600.0)
    monkeypatch.setattr(FakeChild, "was_steady", False)
    for place in two._places:
        place.pause_s = 1800.0
    first, second = FakeChild.all
    first.exit.set_result(-9)
    await until(lambda: two._places[0].pause_s == 3600, "the first rests")
    second.exit.set_result(-9)
    await until(living, "somebody serves again", 5)
