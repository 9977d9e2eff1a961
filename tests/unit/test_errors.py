"""Errors are sorted by who can act, and carry what an answer needs."""

import pytest

from judgify_engine import errors
from judgify_engine.errors import JudgifyError, QuotaExceeded, Rejected, RetryLater

ALL = [found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, JudgifyError)]


@pytest.mark.parametrize("kind", ALL)
def test_its_status_says_who_can_act(kind: type[JudgifyError]) -> None:
    if issubclass(kind, Rejected):
        assert 400 <= kind.status < 500
    elif issubclass(kind, RetryLater):
        assert kind.status == (429 if kind is QuotaExceeded else 503)
    else:
        assert kind.status == 500


@pytest.mark.parametrize("kind", ALL)
def test_it_carries_detail_for_people_and_extra_for_programs(kind: type[JudgifyError]) -> None:
    error = kind("what happened", field="x", limit=5)
    assert str(error) == error.detail == "what happened"
    assert error.extra == {"field": "x", "limit": 5}


def test_what_a_repeat_can_cure_says_when() -> None:
    error = errors.QueueFull("full", retry_after_s=2.5, partition=3)
    assert error.retry_after_s == 2.5
    assert error.extra == {"partition": 3}
    assert errors.QueueFull("full").retry_after_s > 0
