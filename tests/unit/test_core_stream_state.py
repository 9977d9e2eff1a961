"""Whether streams and the log belong together."""

import pytest

from judgify_engine.core.healing import Server
from judgify_engine.core.stream_state import is_ahead, left_at
from judgify_engine.units import START, Position

HISTORY = "1\t0/5000028\tno recovery target specified\n\n2\t0/9000000\tbefore 2026-01-01 00:00:00+00\n"


@pytest.mark.parametrize(("timeline", "left_lsn"), [(1, 0x5000028), (2, 0x9000000), (3, None)])
def test_where_a_timeline_was_left_is_read_from_the_history(timeline: int, left_lsn: int | None) -> None:
    assert left_at(HISTORY, timeline) == left_lsn


def test_streams_beyond_the_end_of_the_log_are_ahead() -> None:
    server = Server("1", 1, 1000)
    assert not is_ahead([START, Position(999, 7)], server, None)
    assert is_ahead([START, Position(1001, 0)], server, None)


def test_streams_beyond_a_fork_that_they_did_not_see_are_ahead() -> None:
    server = Server("1", 2, 5000)
    assert not is_ahead([Position(999, 7), START], server, 1000)
    assert is_ahead([Position(1000, 0), START], server, 1000)
