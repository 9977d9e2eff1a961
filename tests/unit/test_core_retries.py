"""What becomes of an attempt: which answers a repeat may cure, and when it is made."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core.jobs import Job, Lane, state_after
from judgify_engine.core.retries import Outcome, delay_s, retry_after_s, verdict_of

NOW_S = 1_767_225_600.0
"""2026-01-01."""


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(200, "succeeded"), (204, "succeeded"), (299, "succeeded"), (301, "refused"), (302, "retry"), (307, "retry"),
     (308, "refused"), (400, "refused"), (401, "refused"), (404, "refused"), (410, "refused"), (408, "retry"), (409, "retry"),
     (425, "retry"), (429, "retry"), (422, "refused"), (500, "retry"), (503, "retry"), (599, "retry"), (100, "retry")],
)  # fmt: skip
def test_only_what_a_repeat_may_cure_is_tried_again(status: int, verdict: str) -> None:
    assert verdict_of(status) == verdict


@given(attempt=st.integers(1, 10_000), chance=st.floats(0, 1), first=st.floats(0.01, 100), longest=st.floats(0.01, 1e5))
def test_rest_grows_and_is_bounded(attempt: int, chance: float, first: float, longest: float) -> None:
    rest_s = delay_s(attempt, first, longest, chance)
    assert 0 < rest_s <= longest
    assert delay_s(attempt + 1, first, longest, chance) >= rest_s
    assert rest_s >= min(longest, first) * 0.75


def test_rests_of_a_default_webhook_take_about_eleven_hours() -> None:
    rests = [delay_s(attempt, 2.0, 10_800.0, 1.0) for attempt in range(1, 12)]
    assert rests[:4] == [2, 6, 18, 54]
    assert 10 * 3600 < sum(rests) < 12 * 3600


def test_chance_spreads_what_failed_together() -> None:
    assert delay_s(3, 2.0, 1000.0, 0.0) == 13.5
    assert delay_s(3, 2.0, 1000.0, 1.0) == 18.0


def test_a_receiver_may_ask_for_more_rest_but_not_for_ever() -> None:
    assert delay_s(1, 2.0, 100.0, 1.0, asked_s=50.0) == 50.0
    assert delay_s(1, 2.0, 100.0, 1.0, asked_s=0.0) == 2.0
    assert delay_s(1, 2.0, 100.0, 1.0, asked_s=1e9) == 100.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, None), ("120", 120.0), (" 7 ", 7.0), ("", None), ("soon", None), ("-5", None), ("1.5", None),
     ("Mon, 01 Jan 2024 00:00:00 +99999999999999999999", None), ("Mon, 99999999999999999999 Jan 2024 00:00:00 GMT", None),
     ("Thu, 01 Jan 2026 00:01:00 GMT", 60.0), ("Thu, 01 Jan 2026 00:00:00", 0.0), ("Wed, 31 Dec 2025 23:00:00 GMT", 0.0),
     ("9" * 400, 999_999_999.0), ("\u0663", None)],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header, NOW_S) == seconds


def job(attempt: int, max_attempts: int) -> Job:
    return Job(None, Lane("t", "h:443"), "w", "id", "a", "{}", attempt, max_attempts, None, ())


@pytest.mark.parametrize(
    ("verdict", "attempt", "state"),
    [("succeeded", 1, "succeeded"), ("succeeded", 9, "succeeded"), ("retry", 1, "waiting"), ("retry", 3, "dead"),
     ("retry", 4, "dead"), ("refused", 1, "dead")],
)  # fmt: skip
def test_the_last_attempt_and_what_is_refused_are_dead(verdict: str, attempt: int, state: str) -> None:
    assert state_after(job(attempt, 3), Outcome(verdict)) == state  # type: ignore[arg-type]
