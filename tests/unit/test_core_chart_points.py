"""The points of charts: bins that are exact, results that are bounded, and what leaves or enters the time frame."""

from typing import Any

import pytest
from builders import T0
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core.bins import BINS, FROM_PPM, binned
from judgify_engine.core.chart_points import (
    MAX_RESULTS,
    OTHERS,
    busiest,
    confidence_points,
    frame_end_s,
    result_points,
    tracked_points,
    workflow_points,
)
from judgify_engine.core.chart_state import ChartState, FrameDetails
from judgify_engine.core.charts import frame_of
from judgify_engine.core.dashboards import (
    BUILT_IN,
    CHARTS,
    ChartDefinition,
    Dashboard,
    Line,
    Needs,
    check_dashboard,
    metrics_of,
    needs_of,
)
from judgify_engine.core.rollup import Sums
from judgify_engine.core.samples import Sample, sample_of, told
from judgify_engine.errors import InvalidField

PPM = st.integers(0, 1_000_000)
CONFIDENCE = ChartDefinition(id="c", type="confidence_chart")
VALUE = ChartDefinition(id="v", type="tracked_inputs_chart", field="a")
NEEDS = Needs((), ("confidence", "input.a"))


@given(st.lists(PPM, max_size=50), st.lists(PPM, max_size=50))
def test_each_confidence_is_in_the_bin_that_says_so_and_bins_add_up(some: list[int], others: list[int]) -> None:
    halves = [binned(sample_of(dict.fromkeys(values, 1), 1, False).histogram) for values in (some, others)]
    points = confidence_points(halves)
    values = [*set(some), *set(others)]
    ends = [*(point[0] for point in points[1:]), 2.0]
    assert len(points) == BINS
    for (start, count), end in zip(points, ends, strict=True):
        assert count == sum(start <= value / 1e6 < end for value in values)


@pytest.mark.parametrize("number", range(BINS))
def test_a_bin_begins_at_most_two_per_cent_below_a_round_figure_and_holds_it(number: int) -> None:
    exact = number * 50_000
    assert exact * 0.98 - 1 <= FROM_PPM[number] <= exact
    assert binned(sample_of({exact: 1}, 1, False).histogram) == {number: 1}


def test_a_confidence_of_one_is_in_the_last_bin() -> None:
    assert binned(sample_of({1_000_000: 3}, 1, False).histogram) == {BINS - 1: 3}


@given(st.dictionaries(st.text("abc*", max_size=3), st.integers(-1, 9), max_size=60))
def test_results_of_a_point_are_bounded_and_none_is_lost(results: dict[str, int]) -> None:
    [[start, shown]] = result_points([(7, results)])
    there = {name: count for name, count in results.items() if count}
    assert start == 7
    assert sum(shown.values()) == sum(there.values())
    assert len(shown) <= MAX_RESULTS + 1
    if len(there) <= MAX_RESULTS:
        assert shown == there
    else:
        kept = [count for name, count in shown.items() if name != OTHERS]
        assert min(kept) >= max(count for name, count in there.items() if name not in shown)


def test_a_tracked_field_is_in_its_own_unit_and_its_p95_among_its_values() -> None:
    sample = sample_of({1_000_000: 1, -2_500_000: 1}, 1, False)
    assert tracked_points([(5, sample), (10, Sample(histogram={}))]) == [[5, 2, -0.75, -2.5, 1.0, 1.0], [10, 0, *[None] * 4]]


def test_the_busiest_workflows_come_first_and_ties_by_name() -> None:
    sums = {
        name: Sums(total, 1, execution_time_us=total * 2000, histogram={}) for name, total in (("b", 2), ("a", 2), ("c", 3))
    }
    assert busiest(sums) == ["c", "a", "b"]
    assert workflow_points([("c", sums["c"])]) == [["c", 3, 2, 2.0]]


@given(st.integers(0, 10**7), st.sampled_from(["1h", "6h", "24h", "7d"]))
def test_the_frame_ends_where_the_apis_does(tenths: int, timeframe: str) -> None:
    now_s = T0 + tenths / 10
    frame = frame_of(timeframe, round(now_s * 1_000_000))
    assert frame_end_s(now_s, frame.bucket_s) == frame.end_s


def state() -> ChartState:
    found = ChartState("1h", NEEDS, {}, FrameDetails(T0 - 3600))
    found.move_to(T0 + 1)
    return found


def test_a_distribution_is_that_of_the_apis_frame_and_says_when_it_lost_something() -> None:
    charts = state()
    for start in (T0 - 3600, T0 - 3300, T0):
        charts.add_confidences(start, {18: 1})
    assert charts.points(CONFIDENCE, charts.changed)[18][1] == 2, "the frame begins at T0 - 3300"
    charts.settle()
    assert not charts.points(CONFIDENCE, charts.changed)
    charts.move_to(T0 + 299)
    assert not charts.changed.details
    charts.move_to(T0 + 301)
    assert charts.changed.details
    assert charts.points(CONFIDENCE, charts.changed)[18][1] == 1


def test_what_is_to_occur_shows_when_its_bucket_begins() -> None:
    charts = state()
    charts.add_tracked("input.a", T0 + 600, told(sample_of({1: 1}, 1, False)))
    assert charts.points(VALUE, None) == charts.points(VALUE, charts.changed) == []
    charts.settle()
    charts.move_to(T0 + 601)
    assert charts.changed.details
    assert [point[0] for point in charts.points(VALUE, charts.changed)] == [T0 + 600]


def test_what_belongs_before_the_frame_or_to_no_chart_is_passed_over() -> None:
    charts = state()
    charts.add_tracked("input.a", T0 - 3900, told(sample_of({1: 1}, 1, False)))
    charts.add_tracked("input.b", T0, told(sample_of({1: 1}, 1, False)))
    charts.add_confidences(T0 - 3900, {1: 1})
    charts.add_sums(T0 - 3900, Sums(1, histogram={}))
    assert not charts.changed.details
    assert not charts.sums


def test_the_same_portion_may_be_added_to_many_states() -> None:
    one, other, told_once = state(), state(), told(sample_of({1: 1}, 1, False))
    for charts in (one, one, other):
        charts.add_tracked("input.a", T0, told_once)
    assert [charts.points(VALUE, None)[0][1] for charts in (one, other)] == [2, 1]
    assert told_once == told(sample_of({1: 1}, 1, False))


def test_every_type_of_chart_has_metrics_and_columns_and_the_built_in_ones_are_valid() -> None:
    check_dashboard(BUILT_IN)
    assert {chart.type for chart in BUILT_IN.charts} | {"tracked_inputs_chart"} == set(CHARTS)
    assert metrics_of("tracked_inputs_chart", "a.b") == ("input.a.b",)
    assert needs_of(BUILT_IN, None) == Needs((), ("confidence", "method.hybrid", "method.llm", "method.rule", "result."))


def test_a_viewer_may_look_at_a_workflow_that_the_filter_leaves_out() -> None:
    dashboard = Dashboard(name="x", workflow_ids=["b", "a"])
    assert needs_of(dashboard, None).workflow_ids == ("a", "b")
    assert needs_of(dashboard, "c").workflow_ids == ("c",)
    assert needs_of(dashboard, None).shows("a")
    assert not needs_of(dashboard, None).shows("c")
    assert Needs((), ()).shows("anything")


@pytest.mark.parametrize(
    ("charts", "field"),
    [
        ([VALUE, VALUE], "charts[1].id"),
        ([ChartDefinition(id="c", type="results_chart", field="a")], "charts[0].field"),
        ([CONFIDENCE, ChartDefinition(id="d", type="tracked_inputs_chart", field="")], "charts[1].field"),
        ([ChartDefinition(id="d", type="tracked_inputs_chart", field="9", lines=[Line(1.0)])], "charts[0].field"),
    ],
)
def test_what_nobody_can_show_is_refused_by_name(charts: list[Any], field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        check_dashboard(Dashboard(name="x", charts=charts))
    assert caught.value.extra["field"] == field
