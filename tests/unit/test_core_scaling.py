"""More processes when there is need, fewer when there is none, and never one because of the other."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.builders import CALM, figures

from bench.day import Day
from judgify_engine.config import ScalingConfig
from judgify_engine.core.figures import Figures
from judgify_engine.core.scaling import Decision, Last, Limits, decide

CONFIG = ScalingConfig()
IN_ROW, INTERVAL_S = CONFIG.in_evaluations, CONFIG.interval_s
LIMITS = Limits(
    minimum=1,
    maximum=20,
    shared_memory=False,
    **{name: getattr(CONFIG, name) for name in Limits._fields if hasattr(CONFIG, name)},
)
IDLE = {**CALM, "cpu": 0.2, "memory": 0.3}


def always(**values: Any) -> list[Figures]:
    """The same at each of the last evaluations."""
    return [figures(at_s=10_000.0 - back * INTERVAL_S, **values) for back in range(IN_ROW)]


@pytest.mark.parametrize(
    ("rule", "just", "over"),
    [("cpu", 0.8, 0.81), ("memory", 0.85, 0.86), ("response_ms", 3000.0, 3001.0), ("queue_rows", 1000.0, 1001.0)],
)
def test_each_rule_alone_asks_for_more_beyond_its_threshold(rule: str, just: float, over: float) -> None:
    assert decide(always(**{rule: just}), 4, None, LIMITS).action == "stay"
    decision = decide(always(**{rule: over}), 4, None, LIMITS)
    assert (decision.action, decision.rule) == ("out", rule.removesuffix("_ms").removesuffix("_rows"))
    assert decision.target == 5
    assert " > " in decision.reason


@pytest.mark.parametrize(
    ("figure", "just"), [("cpu", 0.3), ("memory", 0.4), ("response_ms", 1000.0), ("oldest_s", 1.0)]
)  # fmt: skip
def test_fewer_needs_all_of_them_below_their_thresholds(figure: str, just: float) -> None:
    assert decide(always(**IDLE), 4, None, LIMITS).action == "in"
    assert decide(always(**{**IDLE, figure: just}), 4, None, LIMITS).action == "stay"


def test_no_requests_at_all_is_idle_too() -> None:
    assert decide(always(**{**IDLE, "response_ms": None}), 4, None, LIMITS).action == "in"


def test_all_reasons_are_told_and_the_largest_need_is_met() -> None:
    decision = decide(always(processes=10, cpu=0.95, queue_rows=5000.0), 10, None, LIMITS)
    assert (decision.rule, decision.target) == ("cpu", 14)
    assert "CPU 95 % > 80 %" in decision.reason
    assert "a queue of 5000 > 1000" in decision.reason


def test_a_step_is_bounded_both_ways() -> None:
    assert decide(always(processes=12, cpu=1.0), 12, None, LIMITS).target == 16
    assert decide(always(processes=12, **{**IDLE, "cpu": 0.01, "memory": 0.05}), 12, None, LIMITS).target == 8


def test_once_idle_is_not_enough() -> None:
    recent = [*always(**IDLE)[:-1], figures(at_s=10_000.0 - (IN_ROW - 1) * INTERVAL_S)]
    decision = decide(recent, 4, None, LIMITS)
    assert (decision.action, decision.state) == ("stay", "waiting")


def test_fewer_must_be_able_to_bear_it() -> None:
    """With thresholds that lie close together: 2 at 45 % each would be 1 at 90 %."""
    close = LIMITS._replace(in_cpu=0.5)
    decision = decide(always(processes=2, **{**IDLE, "cpu": 0.45, "memory": 0.1}), 2, None, close)
    assert (decision.action, decision.state) == ("stay", "calm")
    assert "over its target" in decision.reason
    assert decide(always(processes=4, **{**IDLE, "cpu": 0.45, "memory": 0.1}), 4, None, close).target == 3


def test_nor_may_the_response_of_those_that_stay_be_too_long() -> None:
    """A queue at 29 % that takes 900 ms would take 2130 ms at 70 %."""
    slow = {**IDLE, "cpu": 0.29, "memory": 0.1, "response_ms": 900.0}
    tight = LIMITS._replace(out_response_ms=2000.0)
    assert decide(always(processes=3, **slow), 3, None, tight).action == "in", "at 43.5 % it takes 1131 ms"
    assert decide(always(processes=3, **slow), 3, None, LIMITS._replace(out_response_ms=1100.0)).state == "calm"


@pytest.mark.parametrize(("since_s", "state"), [(30.0, "settling"), (65.0, "cooling"), (91.0, "scaling")])
def test_after_a_decision_there_is_a_rest_before_more(since_s: float, state: str) -> None:
    last = Last("in", 10_000.0 - since_s)
    assert decide(always(cpu=0.9), 4, last, LIMITS._replace(cooldown_out_s=90.0)).state == state


@pytest.mark.parametrize(("since_s", "state"), [(299.0, "cooling"), (301.0, "scaling")])
def test_and_a_longer_one_before_fewer(since_s: float, state: str) -> None:
    assert decide(always(**IDLE), 4, Last("out", 10_000.0 - since_s), LIMITS).state == state


def test_figures_of_before_the_last_decision_do_not_count_for_fewer() -> None:
    quick = LIMITS._replace(cooldown_in_s=10.0)
    reach_s = (IN_ROW - 1) * INTERVAL_S + 60.0
    assert decide(always(**IDLE), 4, Last("out", 10_000.0 - reach_s + 1), quick).state == "waiting"
    assert decide(always(**IDLE), 4, Last("out", 10_000.0 - reach_s - 1), quick).action == "in"


def test_who_is_not_heard_counts_as_idle_for_more_and_forbids_fewer() -> None:
    assert decide(always(processes=3, cpu=0.9), 4, None, LIMITS).state == "calm", "three quarters of 90 % are 68 %"
    decision = decide(always(processes=3, cpu=1.0, queue_rows=2000.0), 4, None, LIMITS)
    assert (decision.action, decision.rule) == ("out", "queue")
    assert decide(always(processes=3, **IDLE), 4, None, LIMITS).action == "stay"


@pytest.mark.parametrize("load", [{"cpu": 1.0}, IDLE])
def test_nothing_is_decided_where_less_than_half_is_heard(load: dict[str, Any]) -> None:
    decision = decide(always(**{**load, "processes": 1}), 4, None, LIMITS)
    assert (decision.action, decision.state) == ("stay", "unheard")
    decision = decide(always(**{**load, "processes": 0}), 1, None, LIMITS)
    assert (decision.action, decision.state) == ("stay", "unheard")


def test_a_start_is_not_a_silence() -> None:
    assert decide(always(processes=0, starting=4), 4, None, LIMITS).state == "settling"


def test_bounds_are_kept_and_come_before_all_else() -> None:
    few = LIMITS._replace(minimum=3, maximum=6)
    last = Last("out", 9_999.0)
    assert decide(always(processes=0), 2, last, few).target == 3
    assert decide(always(cpu=1.0, processes=9), 9, last, few).target == 6
    assert decide(always(cpu=1.0, processes=6), 6, None, few).state == "limited"
    assert decide(always(processes=5, cpu=1.0), 5, None, few).target == 6
    assert decide(always(processes=3, **IDLE), 3, None, few).action == "stay"


def test_where_memory_is_shared_another_one_is_no_help() -> None:
    shared = LIMITS._replace(shared_memory=True)
    for load in ({"memory": 0.9}, {"memory": 0.9, "cpu": 0.95}):
        decision = decide(always(**load), 4, None, shared)
        assert (decision.action, decision.state) == ("stay", "crowded")


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.integers(1, 20))
def test_more_load_never_means_fewer(one: float, other: float, memory: float, processes: int) -> None:
    low, high = sorted((one, other))
    targets = [
        decide(always(processes=processes, **{**IDLE, "cpu": cpu, "memory": memory}), processes, None, LIMITS).target
        for cpu in (low, high)
    ]
    assert targets[0] <= targets[1]


SHARES = st.lists(st.floats(0.05, 0.95), min_size=3, max_size=3, unique=True).map(sorted)


@st.composite
def any_limits(draw: st.DrawFn) -> Limits:
    """Any that the settings accept."""
    (in_cpu, target_cpu, out_cpu), (in_memory, target_memory, out_memory) = draw(SHARES), draw(SHARES)
    in_response, out_response = sorted((draw(st.floats(1, 5000)), draw(st.floats(1, 5000))))
    minimum, maximum = sorted((draw(st.integers(1, 20)), draw(st.integers(1, 20))))
    return LIMITS._replace(
        minimum=minimum, maximum=maximum, max_step=draw(st.integers(1, 10)),
        in_cpu=in_cpu, target_cpu=target_cpu, out_cpu=out_cpu,
        in_memory=in_memory, target_memory=target_memory, out_memory=out_memory,
        in_response_ms=in_response, out_response_ms=out_response,
    )  # fmt: skip


@given(any_limits(), st.integers(1, 20), st.floats(0, 25), st.floats(0, 0.9), st.floats(0, 0.5), st.floats(0.1, 4000))
def test_a_constant_load_leads_one_way_and_then_to_rest(
    limits: Limits, processes: int, cores: float, memory: float, memory_per_load: float, service_ms: float
) -> None:
    """Whatever the thresholds are: never more and then fewer, nor fewer and then more."""
    decisions: list[Decision] = []
    history: list[Figures] = []
    last: Last | None = None
    for evaluation in range(400):
        at_s, cpu = 10_000.0 + evaluation * INTERVAL_S, min(1.0, cores / processes)
        response_ms = min(60_000.0, service_ms / max(1e-6, 1 - cores / processes)) if cores < processes else 60_000.0
        values = {"cpu": cpu, "memory": min(1.0, memory + memory_per_load * cpu), "response_ms": response_ms}
        queue = {"queue_rows": 0.0, "oldest_s": 0.0} if cores < processes else {"queue_rows": 9000.0, "oldest_s": 30.0}
        history.insert(0, figures(processes, at_s, **values, **queue))
        decision = decide(history[:IN_ROW], processes, last, limits)
        if decision.action != "stay":
            decisions.append(decision)
            last, processes = Last(decision.action, at_s), decision.target
    if decisions and decisions[0].rule in ("minimum", "maximum"):  # it was out of bounds to begin with
        decisions = decisions[1:]
    assert len({decision.action for decision in decisions}) <= 1, [(one.action, one.reason) for one in decisions]
    assert limits.minimum <= processes <= limits.maximum
    assert msgspec.json.encode(decisions)


@pytest.mark.parametrize(("peak", "seed"), [(24_000.0, 1), (100_000.0, 2)])
def test_a_simulated_day_keeps_what_the_bench_promises(peak: float, seed: int) -> None:
    day = Day(peak, 3000.0, CONFIG, random.Random(seed))
    day.run()
    assert list(day.broken()) == []
    assert {moment.decision.action for moment in day.changes} == {"out", "in"}
