"""The law of batch sizes (design.md §3: shrink by 0.8 over 1.5 x the target, grow by 1.2 under half of it), and of waiting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core.batching import ENOUGH, BatchSize, Pace

TARGET_S = 0.1


def test_slow_commits_shrink_it_by_a_fifth() -> None:
    size = BatchSize(10, 1000, TARGET_S)
    before = size.rows
    size.committed(before, 1.6 * TARGET_S)
    assert size.rows == int(before * 0.8)


def test_fast_full_commits_grow_it_by_a_fifth() -> None:
    size = BatchSize(10, 1000, TARGET_S)
    before = size.rows
    size.committed(before, 0.4 * TARGET_S)
    assert before * 1.2 <= size.rows <= before * 1.2 + 1


def test_a_fast_small_commit_says_nothing() -> None:
    size = BatchSize(10, 1000, TARGET_S)
    before = size.rows
    size.committed(before - 1, 0.001)
    assert size.rows == before


def test_commits_near_the_target_change_nothing() -> None:
    size = BatchSize(10, 1000, TARGET_S)
    before = size.rows
    for took_s in (0.6 * TARGET_S, TARGET_S, 1.4 * TARGET_S):
        size.committed(before, took_s)
    assert size.rows == before


def test_the_mean_of_the_last_ten_decides() -> None:
    size = BatchSize(10, 1000, TARGET_S)
    for _ in range(30):
        size.committed(1, 1.0 * TARGET_S)
    before = size.rows
    for _ in range(6):
        size.committed(1, 1.8 * TARGET_S)  # (4 x 1.0 + 6 x 1.8) / 10 = 1.48: not yet
    assert size.rows == before
    size.committed(1, 1.8 * TARGET_S)  # 1.56
    assert size.rows < before


@given(
    st.tuples(st.integers(1, 1000), st.integers(1, 1000)).map(sorted),
    st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 10)), max_size=60),
)
def test_it_stays_between_its_bounds(bounds: list[int], commits: list[tuple[int, float]]) -> None:
    size = BatchSize(bounds[0], bounds[1], TARGET_S)
    assert bounds[0] <= size.rows <= bounds[1]
    for rows, took_s in commits:
        size.committed(rows, took_s)
        assert bounds[0] <= size.rows <= bounds[1]


def test_it_reaches_both_bounds() -> None:
    size = BatchSize(10, 1000, TARGET_S)
    for _ in range(50):
        size.committed(size.rows, 0.0)
    assert size.rows == 1000
    for _ in range(50):
        size.committed(size.rows, 1.0)
    assert size.rows == 10
    for _ in range(50):
        size.committed(size.rows, 0.0)
    assert size.rows == 1000


MAX_WAIT_S = 0.008


def steady(rate_per_s: float, every_s: float = 0.003, max_wait_s: float = MAX_WAIT_S) -> tuple[Pace, float]:
    """A pace after a second of commits at this rate, and the time."""
    pace, now_s = Pace(max_wait_s), 100.0
    for _ in range(int(1 / every_s)):
        now_s += every_s
        pace.began(rate_per_s * every_s, now_s)  # type: ignore[arg-type]  # parts of rows make it exact
    return pace, now_s


def test_nothing_waits_before_anything_is_known() -> None:
    pace = Pace(MAX_WAIT_S)
    assert (pace.wait_s(100.0), pace.enough(0, 0, 100.0)) == (0.0, 1)
    pace.began(1000, 100.0)
    assert pace.wait_s(100.0) == 0.0, "one burst is no rate"


@pytest.mark.parametrize(
    ("rate_per_s", "wait_s"), [(100, 0), (200, 0), (300, 0.00072), (500, 0.002), (750, 0.0045), (1000, 0.008), (1500, 0.008)]
)
def test_the_wait_grows_with_the_square_of_the_rate(rate_per_s: float, wait_s: float) -> None:
    pace, now_s = steady(rate_per_s)
    assert pace.wait_s(now_s) == pytest.approx(wait_s, rel=0.01)


@pytest.mark.parametrize("rate_per_s", [2000, 4000, 8000, 16_000])
def test_where_more_come_it_is_as_long_as_it_takes_until_there_are_enough(rate_per_s: float) -> None:
    pace, now_s = steady(rate_per_s)
    assert rate_per_s * pace.wait_s(now_s) == pytest.approx(ENOUGH, rel=0.01)
    assert pace.expected_s(ENOUGH) == pytest.approx(pace.wait_s(now_s), rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 1)), max_size=60), st.floats(0, 1), st.floats(0, 1))
def test_it_never_waits_longer_than_it_may(commits: list[tuple[int, float]], later_s: float, max_wait_s: float) -> None:
    pace, now_s = Pace(max_wait_s), 100.0
    for rows, after_s in commits:
        now_s += after_s
        pace.began(rows, now_s)
        pace.ended(rows, now_s)
        assert 0 <= pace.wait_s(now_s + later_s) <= max_wait_s
        assert pace.enough(0, 0, now_s + later_s) >= 1


def test_a_rate_is_soon_forgotten() -> None:
    pace, now_s = steady(2000)
    assert pace.wait_s(now_s + 1.0) == 0.0


def test_who_is_alone_is_enough() -> None:
    pace, now_s = steady(2000)
    for _ in range(10):
        pace.ended(1, now_s)
    assert pace.enough(1, 0, now_s) == 1


def test_everybody_is_enough_also_those_who_are_being_committed() -> None:
    pace, now_s = steady(2000)
    pace.ended(12, now_s)
    assert (pace.enough(0, 0, now_s), pace.enough(0, 4, now_s), pace.enough(0, 12, now_s)) == (12, 8, 1)
    assert pace.enough(0, 0, now_s + 0.002) == 12, "from one commit to the next it is remembered"
    pace.ended(3, now_s + 1.0)
    assert pace.enough(0, 0, now_s + 1.0) <= 3, "they have gone"


def test_a_batch_that_is_worth_it_waits_for_nobody() -> None:
    pace, now_s = steady(4000)
    pace.ended(1000, now_s)
    assert pace.enough(0, 0, now_s) == ENOUGH


def test_senders_that_are_known_may_all_come() -> None:
    pace, now_s = steady(2000)
    pace.ended(3, now_s)
    assert (pace.enough(10, 0, now_s), pace.enough(10, 4, now_s), pace.enough(1000, 0, now_s)) == (10, 6, ENOUGH)
