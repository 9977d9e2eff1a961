"""The law of batch sizes (design.md §3): shrink by 0.8 over 1.5 x the target, grow by 1.2 under half of it."""

from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core.batching import BatchSize

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
