"""Conditions of alert rules: what they may say, what is refused and how, and what absent figures mean."""

import random
from collections import Counter
from typing import Any

import pytest

from judgify_engine.core.alert_rules import BUILT_IN, CompiledCondition, Condition
from judgify_engine.core.alert_state import START, Observation, Timing, advance
from judgify_engine.errors import InvalidAlertRule


def ask(when: str, figures: dict[str, Any], **more: Any) -> tuple[bool, bool]:
    answer = CompiledCondition(Condition(when=when, **more)).ask(figures)
    assert answer.problem == ""
    return answer.bad, answer.clear


def test_a_condition_over_the_figures_of_a_window() -> None:
    when = 'window.success_rate < 0.9 && tracked["machine.temp"].mean > 80.0'
    hot = {"window": {"success_rate": 0.8}, "tracked": {"machine.temp": {"mean": 81.0}}}
    assert ask(when, hot) == (True, False)
    assert ask(when, {**hot, "window": {"success_rate": 0.95}}) == (False, True)


def test_between_the_two_conditions_it_is_neither() -> None:
    more = {"clear_when": "window.success_rate > 0.95"}
    told = [ask("window.success_rate < 0.9", {"window": {"success_rate": rate}}, **more) for rate in (0.8, 0.92, 0.97)]
    assert told == [(True, False), (False, False), (False, True)]


def test_where_both_hold_it_is_not_over() -> None:
    assert ask("window.count > 1", {"window": {"count": 2}}, clear_when="window.count > 0") == (True, False)


def test_a_figure_that_does_not_exist_makes_nothing_bad_and_all_over() -> None:
    assert ask("window.mean_execution_time_ms > 5000.0", {"window": {"count": 0}}) == (False, True)
    more = {"clear_when": "window.mean_execution_time_ms < 4000.0"}
    assert ask("window.mean_execution_time_ms > 5000.0", {"window": {"count": 0}}, **more) == (False, True)


def test_what_cannot_be_asked_changes_nothing_and_says_why() -> None:
    answer = CompiledCondition(Condition(when='window.count > "1"')).ask({"window": {"count": 2}})
    assert (answer.bad, answer.clear) == (False, False)
    assert answer.problem
    answer = CompiledCondition(Condition(when="window.count")).ask({"window": {"count": 2}})
    assert "true or false" in answer.problem


@pytest.mark.parametrize(
    ("rule", "field", "words"),
    [
        ({"when": "window.count >"}, "when", "Syntax error"),
        ({"when": "input.value > 3"}, "when", "`window`, `usual`, `quality` and `tracked`"),
        ({"when": "window.counts > 3"}, "when", "no 'counts'; it has count, failed"),
        ({"when": "window.count > 3", "clear_when": "window.nothing < 1"}, "clear_when", "nothing"),
        ({"when": "window.count > 3", "critical_when": "foo(1)"}, "critical_when", "unknown function 'foo'"),
        ({"when": "tracked[window.count].mean > 3.0"}, "when", "written out"),
        ({"when": 'tracked["a"].mean > 3.0 && size(tracked) > 1'}, "when", "written out"),
        ({"when": 'tracked["a"].median > 3.0'}, "when", "count, mean, min, max"),
        ({"when": 'tracked["a b"].mean > 3.0'}, "when", "no name of a tracked field"),
        ({"when": "window.results.all(a, window.results.all(b, window.results.all(c, true)))"}, "when", "nested"),
        ({"when": "window.results.map(a, window.results.map(b, b)).size() > 1"}, "when", "cost too much"),
        ({"when": "window.results.all(a, window.results.all(b, true))"}, "when", "cost too much"),
        ({"when": "window.results.exists(r, r.matches('^bad'))"}, "when", "regular expressions"),
        ({"when": "window.count > 3", "clear_when": "'a'.matches('(.{50}){5}')"}, "clear_when", "regular expressions"),
        ({"when": "window.count > 3", "workflow_ids": ["w"]}, "workflow_ids", "each"),
    ],
)
def test_what_could_never_be_asked_is_refused_by_name(rule: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(InvalidAlertRule) as caught:
        CompiledCondition(Condition(**rule))
    assert caught.value.extra["field"] == field
    assert words in caught.value.detail
    assert field in caught.value.detail


def test_a_rule_knows_which_figures_it_needs() -> None:
    compiled = CompiledCondition(
        Condition(when='window.p95_execution_time_ms > 9.0 && tracked["a.b"].max > 1.0', clear_when="usual.count > 1.0")
    )
    assert compiled.tracked == {"a.b"}
    assert compiled.uses("window.p95_execution_time_ms")
    assert compiled.uses("usual.count")
    assert not compiled.uses("window.mean_confidence")


def test_macros_over_results_are_possible() -> None:
    figures = {"window": {"count": 10, "results": {"ok": 6, "inspect": 4}}}
    assert ask('"inspect" in window.results && window.results["inspect"] * 3 > window.count', figures) == (True, False)
    assert ask("window.results.exists(name, window.results[name] > 5)", figures) == (True, False)


def test_the_built_in_rules_are_those_of_the_design() -> None:
    slow = CompiledCondition(BUILT_IN["high_response_time"])
    assert (slow.rule.window_s, slow.rule.severity) == (300, "critical")
    assert [slow.ask({"window": {"mean_execution_time_ms": ms}}).bad for ms in (5000.0, 5000.1)] == [False, True]
    few = CompiledCondition(BUILT_IN["low_throughput"])
    assert few.rule.window_s == 60
    pairs = ((9, 20.0), (10, 50.0), (9, 19.0), (6, 19.0), (3, 10.0), (2, 9.9))
    told = [few.ask({"window": {"count": n}, "usual": {"count": u}}).bad for n, u in pairs]
    assert told == [True, False, False, True, True, False]
    assert not few.ask({"window": {"count": 0}, "usual": {}}).bad
    valid = CompiledCondition(BUILT_IN["data_quality_alert"])
    answers = [valid.ask({"quality": {"valid_share": share, "count": 20}}) for share in (0.95, 0.949, 0.9, 0.899)]
    told = [(answer.bad, answer.severe) for answer in answers]
    assert told == [(False, False), (True, False), (True, False), (True, True)]
    assert not valid.ask({"quality": {"valid_share": 0.5, "count": 19}}).bad, "a few records tell nothing"


@pytest.mark.parametrize("rate", [10, 12, 15, 20, 25])
def test_chance_alone_is_no_low_throughput(rate: int) -> None:
    """Half a day of arrivals that have nothing to do with each other, `rate` a minute, looked at every 5 seconds."""
    chance = random.Random(rate)
    counts = Counter(int(chance.random() * 43_200 / 5) for _ in range(rate * 720))
    rule = BUILT_IN["low_throughput"]
    few, state, alerts = CompiledCondition(rule), START, 0
    for place in range(12, 8640):
        count = sum(counts[n] for n in range(place - 12, place))
        answer = few.ask({"window": {"count": count}, "usual": {"count": float(rate)}})
        look = Observation(place * 5.0, answer.bad, answer.clear, "")
        state, events = advance(state, [look], Timing(rule.for_s, rule.clear_for_s, "warning"))
        alerts += len(events)
    assert alerts <= 2, "an alert is a firing and a resolved"
