"""Too many different results are noticed once for each tenant and hour, and what is remembered for that is bounded."""

import logging

import pytest
from builders import change, row

from judgify_engine.core import variety
from judgify_engine.core.rollup import Delta
from judgify_engine.core.variety import MANY_RESULTS, Variety
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.variety_watch import VarietyWatch

HOUR_S = 1_700_006_400


def came(number: int, tenant: str = "acme", hour_s: int = HOUR_S, first: int = 0) -> list[tuple[str, str, int, str]]:
    return [(tenant, "check", hour_s, f"v{first + one}") for one in range(number)]


def test_many_results_are_told_once_for_a_tenant_and_hour() -> None:
    seen = Variety()
    assert seen.add(came(MANY_RESULTS)) == []
    assert seen.add(came(MANY_RESULTS)) == [], "the same ones again"
    assert seen.add(came(1, first=MANY_RESULTS)) == [("acme", HOUR_S)]
    assert seen.add(came(500, first=5000)) == []
    assert seen.add(came(MANY_RESULTS + 1, hour_s=HOUR_S + 3600)) == [("acme", HOUR_S + 3600)]


def test_what_others_have_does_not_count() -> None:
    seen = Variety()
    for number in range(10):
        assert seen.add(came(MANY_RESULTS // 2, f"t{number}", first=number * 1000)) == []


def test_many_workflows_with_the_same_few_results_are_not_many_results() -> None:
    seen = Variety()
    of_many = [("acme", f"w{one}", HOUR_S, result) for one in range(MANY_RESULTS) for result in ("ok", "inspect")]
    assert seen.add(of_many) == []


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variety, "REMEMBERED", 3)
    seen = Variety()
    for number in range(20):
        seen.add(came(2 * MANY_RESULTS, f"t{number}"))
    assert len(seen._seen) == 3
    assert all(not results for results in seen._seen.values())


def test_it_is_warned_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    metrics, delta = Metrics(), Delta()
    for number in range(MANY_RESULTS + 5):
        delta.add(change(number, None, row(final_result=f'{{"verdict": "id-{number}"}}')))
    with caplog.at_level(logging.WARNING):
        watch = VarietyWatch(metrics)
        watch.rolled_up(delta, [])
        watch.rolled_up(delta, [])
    assert metrics.many_results == 1
    assert [vars(record)["tenant"] for record in caplog.records] == [row()["tenant_id"]]
