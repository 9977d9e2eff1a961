"""Wake coalescing: a process sleeps blind only where that holds up nothing."""

import pytest

from judgify_engine.pipeline.doze import BUSY, LONGEST_S, WINDOW_S, Doze


class Machine:
    """A thread whose time passes by hand; `busy` is the share of it that it works."""

    def __init__(self) -> None:
        self.now_s = self.cpu_s = 0.0
        self.slept: list[float] = []
        self.doze = Doze(lambda: self.now_s, lambda: self.cpu_s, self.slept.append)

    def work(self, busy: float) -> None:
        self.now_s += 2 * WINDOW_S
        self.cpu_s += 2 * WINDOW_S * busy


@pytest.fixture
def machine() -> Machine:
    made = Machine()
    made.work(0.1)
    return made


def test_a_process_with_little_to_do_sleeps(machine: Machine) -> None:
    assert machine.doze.sleep(0.005)
    assert machine.slept == [0.005]


def test_a_process_that_is_not_known_yet_stays_awake() -> None:
    machine = Machine()
    assert not machine.doze.sleep(0.005)
    assert machine.slept == []


def test_nobody_sleeps_while_an_answer_may_come(machine: Machine) -> None:
    machine.doze.began()
    machine.doze.began()
    machine.doze.ended()
    assert not machine.doze.sleep(0.005), "one is still under way"
    machine.doze.ended()
    assert machine.doze.sleep(0.005)


def test_a_busy_process_stays_awake_until_it_is_less_so(machine: Machine) -> None:
    assert machine.doze.sleep(0.005)
    machine.work(BUSY + 0.05)
    assert not machine.doze.sleep(0.005)
    machine.work(BUSY - 0.05)
    assert machine.doze.sleep(0.005)


@pytest.mark.parametrize("for_s", [0.0, -1.0, 0.0001])
def test_what_is_too_short_is_not_slept(machine: Machine, for_s: float) -> None:
    assert not machine.doze.sleep(for_s)
    assert machine.slept == []


def test_whatever_batches_may_wait_nobody_sleeps_for_long(machine: Machine) -> None:
    assert machine.doze.sleep(1.0)
    assert machine.slept == [LONGEST_S]
