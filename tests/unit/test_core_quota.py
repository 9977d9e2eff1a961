"""A rate lets through what it promises: never more than that and a burst, and never less to who keeps to it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core.quota import BURST_S, Meter, Quota

ARRIVALS = st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 5000)), min_size=1, max_size=200)


@given(ARRIVALS, st.floats(0.5, 500), st.floats(100, 100_000))
def test_no_window_holds_more_than_its_rate_and_a_burst(
    arrivals: list[tuple[float, int]], requests: float, size: float
) -> None:
    meter, now_s = Meter(Quota(requests, size)), 1000.0
    taken: list[tuple[float, int]] = []
    for wait_s, one in arrivals:
        now_s += wait_s
        if meter.spend(one, now_s) is None:
            taken.append((now_s, one))
    for first in range(len(taken)):
        window_s = taken[-1][0] - taken[first][0]
        assert len(taken) - first <= requests * (window_s + BURST_S) + 1 + 1e-3
        # One that is larger than all that a burst holds is let through alone, when nothing is owed.
        largest = max(one for _, one in taken[first:])
        assert sum(one for _, one in taken[first:]) <= size * (window_s + BURST_S) + largest + 1


@given(st.floats(0.5, 500), st.integers(1, 300))
def test_who_keeps_to_it_is_never_refused(rate: float, count: int) -> None:
    meter = Meter(Quota(rate, rate * 100))
    assert all(meter.spend(100, 1000.0 + number / rate * 1.000001) is None for number in range(count))


@given(ARRIVALS, st.floats(0.5, 50))
def test_who_comes_back_when_told_is_let_through(arrivals: list[tuple[float, int]], rate: float) -> None:
    meter, now_s = Meter(Quota(rate, rate * 1000)), 1000.0
    for wait_s, size in arrivals:
        now_s += wait_s
        refusal = meter.spend(size, now_s)
        if refusal is not None:
            assert refusal.retry_after_s > 0
            while refusal is not None:  # the other bound may say something too
                now_s += refusal.retry_after_s + 1e-6
                before, refusal = refusal, meter.spend(size, now_s)
                assert refusal is None or refusal.what != before.what


def test_a_burst_is_a_second_of_it() -> None:
    meter = Meter(Quota(requests_per_s=10))
    left = []
    while meter.spend(0, 50.0) is None:
        left.append(meter.requests_left(50.0))
    assert left == list(range(9, -1, -1))
    refusal = meter.spend(0, 50.0)
    assert refusal is not None
    assert (refusal.what, refusal.limit) == ("requests", 10)
    assert refusal.retry_after_s == pytest.approx(0.1)


def test_a_body_larger_than_a_second_goes_through_when_nothing_is_owed() -> None:
    meter = Meter(Quota(bytes_per_s=100))
    assert meter.spend(500, 10.0) is None
    refusal = meter.spend(1, 10.1)
    assert refusal is not None
    assert refusal.what == "bytes"
    assert meter.spend(1, 10.1 + refusal.retry_after_s + 1e-9) is None


def test_what_is_refused_costs_nothing() -> None:
    """Neither its bytes nor its place among the requests."""
    meter = Meter(Quota(requests_per_s=2, bytes_per_s=100))
    assert meter.spend(100, 5.0) is None
    for _ in range(10):
        assert meter.spend(90, 5.0) is not None
    assert meter.spend(0, 5.0) is None, "the second request of the burst is still free"


def test_processes_share_it_in_whole() -> None:
    for processes in (1, 2, 3, 7):
        each = Quota(100, 1e6, 10).shared_by(processes)
        assert each.requests_per_s * processes == pytest.approx(100)
        assert each.bytes_per_s * processes == pytest.approx(1e6)
        assert 10 <= each.sockets * processes < 10 + processes


def test_it_is_idle_when_a_new_one_would_say_the_same() -> None:
    meter = Meter(Quota(1))
    assert meter.is_idle(0.0)
    meter.spend(0, 10.0)
    assert not meter.is_idle(10.5)
    assert meter.is_idle(11.0)
    meter.sockets = 1
    assert not meter.is_idle(99.0)


def test_pressure_is_for_those_who_send_far_more() -> None:
    """Up to twice the quota there is none; ten times as much comes to the most within moments; and it goes away."""
    for times, low, high in ((1.5, 0.0, 0.02), (10, 0.85, 0.9)):
        meter, now_s, pressure_s = Meter(Quota(100)), 50.0, 0.0
        for _ in range(int(300 * times)):
            now_s += 0.01 / times
            refusal = meter.spend(0, now_s)
            pressure_s = pressure_s if refusal is None else refusal.pressure_s
        assert low <= pressure_s <= high, times
    meter.spend(0, now_s)
    assert meter.spend(0, now_s + 2.0) is None
    while (refusal := meter.spend(0, now_s + 2.0)) is None:
        pass
    assert refusal.pressure_s == 0.0


def test_what_comes_by_twice_counts_once() -> None:
    meter = Meter(Quota(2, 100))
    for _ in range(10):
        assert meter.spend(100, 9.0) is None
        meter.give_back(100)
    assert meter.requests_left(9.0) == 2


def test_bytes_that_come_to_light_later_are_owed() -> None:
    meter = Meter(Quota(bytes_per_s=100))
    assert meter.spend(0, 9.0) is None
    meter.charge(500)
    assert meter.spend(1, 9.1) is not None
    assert meter.spend(1, 14.1) is None


def test_what_is_owed_takes_the_time_of_the_new_quota() -> None:
    meter = Meter(Quota(0.01, 100))
    assert meter.spend(60_000, 0.0) is None
    assert meter.spend(1, 5.0) is not None
    meter.bound(Quota(1000, 1e6), 5.0)
    assert meter.spend(1, 6.0) is None
    meter.bound(Quota(), 6.0)
    assert meter.spend(10**9, 6.0) is None
    meter.bound(Quota(5), 6.0)
    assert meter.requests_left(6.0) == 5
