"""Positions are ordered as the log is, and LSNs read back as they were written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.units import END_OF_TRANSACTION, START, Position, format_lsn, parse_lsn

LSNS = st.integers(0, 2**64 - 1)


@given(LSNS)
def test_lsn_reads_back_as_written(lsn: int) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn


@pytest.mark.parametrize(
    ("lsn", "text"),
    [(0, "0/0"), (0x1A2B3C4, "0/1A2B3C4"), (1 << 32, "1/0"), (2**64 - 1, "FFFFFFFF/FFFFFFFF"), (0x16_B374D848, "16/B374D848")],
)
def test_lsn_is_written_as_postgres_does(lsn: int, text: str) -> None:
    assert format_lsn(lsn) == text
    assert parse_lsn(text.lower()) == lsn


@pytest.mark.parametrize("text", ["", "0", "0x1A", "/", "0/", "/0", "0/G", "hello/world"])
def test_what_is_no_lsn_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - int() says it in its own words
        parse_lsn(text)


@given(LSNS, st.integers(0, 2**31), LSNS, st.integers(0, 2**31))
def test_positions_are_ordered_by_lsn_then_index(lsn: int, index: int, other_lsn: int, other_index: int) -> None:
    first, second = Position(lsn, index), Position(other_lsn, other_index)
    assert (first < second) == (lsn < other_lsn or (lsn == other_lsn and index < other_index))
    assert START <= first < Position(lsn, END_OF_TRANSACTION)


def test_a_new_slot_starts_before_the_first_change_of_its_lsn() -> None:
    assert Position(10, -1) < Position(10, 0) < Position(10, 1) < Position(11, 0)


def test_position_is_shown_as_lsn_and_index() -> None:
    assert str(Position(0x1_0000_00AB, 3)) == "1/AB-3"
