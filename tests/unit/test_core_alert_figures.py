"""What conditions are asked of: moments, windows, what is usual, and figures that do not exist."""

from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core.alert_figures import (
    LONGEST_GAP_S,
    MOST_LOOKS,
    Read,
    Sums,
    Window,
    figures,
    instants,
    need_of,
    usual_count,
)
from judgify_engine.core.alert_rules import BUILT_IN, CompiledCondition, Condition
from judgify_engine.core.alert_state import NEVER

END_S = 1_800_000_000
NOTHING = Read({}, {}, {}, {}, END_S, {})


def compiled(when: str, **more: object) -> CompiledCondition:
    return CompiledCondition(Condition(when=when, **more))  # type: ignore[arg-type]


def test_a_first_evaluation_looks_at_the_last_whole_bucket() -> None:
    assert instants(NEVER, END_S + 4.9, 5.0) == [END_S]


def test_nothing_is_looked_at_twice() -> None:
    assert instants(END_S, END_S + 4.9, 5.0) == []
    assert instants(END_S, END_S + 5.0, 5.0) == [END_S + 5]


@given(st.floats(0.1, 1e6), st.floats(0.1, 300))
def test_what_was_missed_is_looked_at_in_order_within_bounds(gap_s: float, interval_s: float) -> None:
    found = instants(END_S, END_S + gap_s, interval_s)
    assert found == sorted(set(found))
    assert len(found) <= MOST_LOOKS
    assert all(END_S < second <= END_S + gap_s and second % 5 == 0 for second in found)
    if gap_s >= 5:
        assert found[-1] == int((END_S + gap_s) // 5) * 5
        assert found[0] >= found[-1] - LONGEST_GAP_S


def test_figures_of_a_window() -> None:
    rule = compiled('window.count > 1 && tracked["t"].mean > 1.0', window_s=60)
    key = Window(END_S - 60, END_S), "acme", ""
    fine = {
        "confidence": Sums(4, 0, 3.0, 0.5, 1.0),
        "result.ok": Sums(3, 0, 0, None, None),
        "input.t": Sums(2, 0, 9.0, 4.0, 5.0),
    }
    read = Read({key: Sums(4, 1, 50.0, 5.0, 20.0)}, {key: {1: 4}}, {key: fine}, {}, END_S, {"acme": (95, 5)})
    found = figures(rule, read, "acme", "", END_S)
    window = found["window"]
    assert (window["count"], window["failed"], window["success_rate"], window["mean_execution_time_ms"]) == (4, 1, 0.75, 12.5)
    assert (window["mean_confidence"], window["results"], window["methods"]) == (0.75, {"ok": 3}, {})
    assert found["tracked"] == {"t": {"count": 2, "mean": 4.5, "min": 4.0, "max": 5.0}}
    assert found["quality"] == {"count": 100, "valid_share": 0.95}
    assert found["usual"] == {}


def test_of_nothing_there_is_no_mean_and_no_share() -> None:
    found = figures(compiled('tracked["t"].count > 1'), NOTHING, "acme", "", END_S)
    assert found == {
        "window": {"count": 0, "failed": 0, "rate_per_s": 0.0, "results": {}, "methods": {}},
        "usual": {},
        "quality": {"count": 0},
        "tracked": {"t": {"count": 0}},
    }


def test_what_is_usual_heeds_neither_a_burst_nor_a_pause_and_needs_some_past() -> None:
    day = 288
    assert usual_count((END_S - 300 * day, [100] * day), END_S, 60) == 20.0
    assert usual_count((END_S - 300 * day, [100] * (day - 1) + [100_000]), END_S, 60) == 20.0
    assert usual_count((END_S - 300 * day, [100] * (day // 2 + 1)), END_S, 60) == 20.0, "a pause of less than half"
    assert usual_count((END_S - 300 * day, [100] * (day // 2 - 1)), END_S, 60) == 0.0, "there are usually none"
    assert usual_count((END_S - 600, [100, 100]), END_S, 60) is None
    assert usual_count(None, END_S, 60) is None


def test_one_query_serves_all_tenants_and_reads_no_more_than_rules_name() -> None:
    rules = [(tenant, CompiledCondition(rule)) for tenant in ("a", "b") for rule in BUILT_IN.values()]
    need = need_of(rules, [END_S])
    assert need.windows == [Window(END_S - 300, END_S), Window(END_S - 60, END_S)]
    assert (need.by_workflow, need.p95, need.fine, need.metrics) == ([], [], [], [])
    assert need.usual == need.quality == ["a", "b"]
    assert need.usual_by_workflow == []
    special = compiled("window.p95_execution_time_ms > 1.0 && window.results.size() > 1", each="workflow")
    need = need_of([*rules, ("c", special)], [END_S])
    assert (need.by_workflow, need.p95, need.fine, need.metrics) == (["c"], ["c"], ["c"], ["result."])
