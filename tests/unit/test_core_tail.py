"""A tail shows the newest of what fits, and accounts for all of it."""

from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core import tail as core_tail
from judgify_engine.core.tail import Tail, TailFilter, TailRow

ROWS = st.builds(
    TailRow, st.sampled_from("ab"), st.just("completed"), st.just("rule"), st.sampled_from(["", "ok"]), st.binary()
)
FILTERS = st.builds(TailFilter, workflow_id=st.sampled_from([None, "a"]), result=st.sampled_from([None, "", "ok"]))


@given(FILTERS, st.lists(st.one_of(ROWS, ROWS, ROWS, ROWS, st.sampled_from(["take", "lose"])), min_size=20, max_size=60))
def test_all_that_fits_is_shown_or_counted_in_order(wanted: TailFilter, steps: list[TailRow | str]) -> None:
    with patch.object(core_tail, "MAX_ROWS", 3):
        check(wanted, steps)


def check(wanted: TailFilter, steps: list[TailRow | str]) -> None:
    tail, came, told, gaps, lost = Tail(wanted), [], 0, 0, 0
    for step in [*steps, "take"]:
        if isinstance(step, TailRow):
            tail.offer(step)
            came += [step] if wanted.takes(step) else []
        elif step == "lose":
            tail.lose()
            lost += 1
        else:
            news = tail.news
            waiting = tail.take()
            assert news == bool(waiting.rows or waiting.skipped or waiting.gap)
            told += len(waiting.rows) + waiting.skipped
            gaps += waiting.gap
            assert len(waiting.rows) <= 3
            assert told == len(came)
            assert waiting.rows == came[len(came) - len(waiting.rows) :], "the newest, in their order"
            assert not tail.news
    assert bool(gaps) == bool(lost)


def test_a_filter_takes_what_has_all_it_names() -> None:
    row = TailRow("w", "failed", "rule", "failed", b"{}")
    assert TailFilter().takes(row)
    assert TailFilter("w", "failed", "rule", "failed").takes(row)
    assert not any(one.takes(row) for one in (TailFilter("x"), TailFilter(status="completed"), TailFilter(result="")))
