"""Refusals that are held: all are given, none too soon, none more than a turn late, and many in one turn of the loop."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.ingest import holding as module
from judgify_engine.ingest.holding import TURN_S, Holding


class Loop:
    """Time that the test moves; one timer, as `Holding` has one."""

    def __init__(self) -> None:
        self.now_s, self.wakes = 1000.0, 0
        self.timer: tuple[float, Callable[[], None]] | None = None

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, call: Callable[[], None]) -> object:
        assert self.timer is None
        self.timer = (self.now_s + delay_s, call)
        return self.timer

    def run(self, until_s: float, late_s: float = 0.0) -> None:
        """`late_s`: how much later than it should the loop wakes."""
        while self.timer is not None and self.timer[0] <= until_s:
            due_s, call = self.timer
            self.timer, self.now_s, self.wakes = None, due_s + late_s, self.wakes + 1
            call()
        self.now_s = max(self.now_s, until_s)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> tuple[Loop, Holding]:
    return made(monkeypatch)


def made(monkeypatch: pytest.MonkeyPatch) -> tuple[Loop, Holding]:
    loop = Loop()
    monkeypatch.setattr(module.asyncio, "get_running_loop", lambda: loop)
    return loop, Holding()


@given(st.lists(st.tuples(st.floats(0, 0.05), st.floats(0, 1)), min_size=1, max_size=60), st.floats(0, 0.1))
def test_each_is_given_once_in_its_time(asked: list[tuple[float, float]], late_s: float) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        loop, holding = made(monkeypatch)
        given_s: dict[int, float] = {}
        due_s: dict[int, float] = {}

        def answer(number: int) -> None:
            assert number not in given_s
            given_s[number] = loop.now_s

        for number, (pause_s, hold_s) in enumerate(asked):
            loop.run(loop.now_s + pause_s, late_s)
            due_s[number] = loop.now_s + hold_s
            holding.hold(hold_s, partial(answer, number))
        loop.run(loop.now_s + 5, late_s)
        assert given_s.keys() == due_s.keys()
        for number, at_s in given_s.items():
            assert -1e-9 <= at_s - due_s[number] <= 2 * TURN_S + 2 * late_s + 1e-9
        assert loop.timer is None, "nothing is held: nobody is woken"


def test_many_wake_the_loop_as_seldom_as_a_few(held: tuple[Loop, Holding]) -> None:
    loop, holding = held
    answers: list[int] = []
    for number in range(5000):
        holding.hold(0.05 + number / 5000, partial(answers.append, number))
    loop.run(loop.now_s + 2)
    assert sorted(answers) == list(range(5000))
    assert loop.wakes <= 1.05 / TURN_S + 2


def test_one_that_asks_again_with_its_answer_is_held_again(held: tuple[Loop, Holding]) -> None:
    loop, holding = held
    given_s: list[float] = []

    def again() -> None:
        given_s.append(loop.now_s)
        if len(given_s) < 3:
            holding.hold(0.05, again)

    holding.hold(0.05, again)
    loop.run(loop.now_s + 1)
    assert [later - before >= 0.05 for before, later in pairwise(given_s)] == [True, True]
