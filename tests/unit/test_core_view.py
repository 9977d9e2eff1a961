"""A dashboard's state: deltas on top of a snapshot give what a later snapshot says; messages hold absolute figures."""

import copy
from typing import Any

import msgspec
import pytest
from builders import T0, change, row
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core.bins import binned
from judgify_engine.core.chart_points import MAX_WORKFLOWS
from judgify_engine.core.chart_state import FrameDetails
from judgify_engine.core.counts import RESULT_PREFIX
from judgify_engine.core.dashboards import BUCKETS_S, BUILT_IN, FRAMES_S, ChartDefinition, Dashboard, Defined, needs_of
from judgify_engine.core.message import LIVE_WINDOW_S
from judgify_engine.core.portion import Portion
from judgify_engine.core.rollup import Delta, Sums
from judgify_engine.core.samples import CONFIDENCE, LIVE_S, Sample, together, told
from judgify_engine.core.tracking import Tracking
from judgify_engine.core.trail import Resume
from judgify_engine.core.view import Snapshot, ViewKey, ViewState
from judgify_engine.units import START, Position
from judgify_engine.wire.portion import decode_portion, encode

NOW_S = float(T0)
BEGAN = Position(50, 0)
KEY = ViewKey("demo", "main", None, "1h")
TRACKED = ChartDefinition(id="value", type="tracked_inputs_chart", field="value")
SHOWN = Defined(3, Dashboard(name="All", charts=[*BUILT_IN.charts, TRACKED]))
"""All types of charts."""
TRACKING = Tracking([("demo", workflow, 1, 0, ("value", "other")) for workflow in ("w", "x")])


def snapshot_of(rows: list[dict[str, Any]], position: Position, key: ViewKey = KEY, shown: Defined = SHOWN) -> Snapshot:
    """What the store would read: the sums of the rows, in the window of the time frame."""
    whole = Delta(START, TRACKING)
    for index, one in enumerate(rows):
        whole.add(change(index, None, one))
    needs = needs_of(shown.dashboard, key.workflow_id)
    width_s = BUCKETS_S[key.timeframe]
    since_s = int(NOW_S - FRAMES_S[key.timeframe]) // width_s * width_s

    def mine(tenant: str, workflow: str) -> bool:
        return tenant == key.tenant_id and needs.shows(workflow)

    def table(width_s: int, since_s: int) -> dict[int, Sums]:
        found: dict[int, Sums] = {}
        for (tenant, workflow, start), sums in whole.by(width_s).items():
            if mine(tenant, workflow) and start >= since_s:
                found.setdefault(start, Sums(histogram={})).add(sums)
        return found

    details = FrameDetails(since_s)
    for (tenant, workflow, metric, second), count in whole.counts.items():
        start = second // width_s * width_s
        if mine(tenant, workflow) and start >= since_s and metric.startswith(RESULT_PREFIX):
            found = details.results.setdefault(start, {})
            result = metric.removeprefix(RESULT_PREFIX)
            found[result] = found.get(result, 0) + count
    samples: dict[tuple[str, int], list[Sample]] = {}
    for (tenant, workflow, metric, second, _, _), sample in whole.samples.items():
        if mine(tenant, workflow) and second >= since_s and metric in needs.metrics:
            samples.setdefault((metric, second // width_s * width_s), []).append(sample)
    for (metric, start), parts in samples.items():
        if metric == CONFIDENCE:
            details.confidences[start] = binned(together(parts).histogram)
        else:
            details.tracked.setdefault(metric, {})[start] = told(together(parts))
    workflows: dict[str, Sums] = {}
    for (tenant, workflow, _, _), sums in whole.sums.items():
        if mine(tenant, workflow):
            workflows.setdefault(workflow, Sums(histogram={})).add(sums)
    results: dict[str, int] = {}
    for (tenant, workflow, _, result), count in whole.results.items():
        if mine(tenant, workflow):
            results[result] = results.get(result, 0) + count
    live = table(LIVE_S, int(NOW_S - LIVE_WINDOW_S) // LIVE_S * LIVE_S)
    return Snapshot(position, workflows, results, table(width_s, since_s), live, details=details)


def state_of(rows: list[dict[str, Any]], position: Position = BEGAN, key: ViewKey = KEY, shown: Defined = SHOWN) -> ViewState:
    return ViewState(key, shown, snapshot_of(rows, position, key, shown))


def decode(message: bytes) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(message)
    return found


def figures(message: bytes) -> dict[str, Any]:
    """What a message tells, in an order that ties cannot change, without buckets and workflows whose rows are all gone."""
    told = decode(message)
    told["workflows"] = sorted((w for w in told["workflows"] if w["total_executions"]), key=lambda w: str(w["workflow_id"]))
    told["live"] = [point for point in told["live"] if point[1]]
    charts = told["charts"]
    kept = {point[0] for point in charts["count"]["points"] if point[1]}
    for chart in charts.values():
        if chart["type"] == "workflows_chart":
            chart["points"] = sorted(point for point in chart["points"] if point[1])
        elif chart["type"] == "tracked_inputs_chart":
            chart["points"] = [point for point in chart["points"] if point[1]]
        elif chart["type"] != "confidence_chart":
            chart["points"] = [point for point in chart["points"] if point[0] in kept]
    told.pop("rate_per_s")
    return told


def portion_of(delta: Delta, tenant_id: str = "demo") -> Portion:
    """What a delta means for a tenant, to who hears of every delta."""
    return Portion(1, delta.base, delta.position, *delta.shares.get(tenant_id, ()))


def delta_of(*changes: Any, base: Position) -> Portion:
    delta = Delta(base, TRACKING)
    for one in changes:
        delta.add(one)
    return portion_of(delta)


ROWS = st.builds(
    row,
    tenant_id=st.sampled_from(["demo", "demo", "other"]),
    workflow_id=st.sampled_from(["w", "x", "y"]),
    status=st.sampled_from(["completed", "completed", "failed"]),
    method_used=st.sampled_from(["rule", "llm", "hybrid"]),
    execution_time_ms=st.floats(0, 30_000),
    confidence_score=st.floats(0, 1),
    final_result=st.sampled_from(['{"verdict": "ok"}', '{"verdict": "inspect"}', "{}"]),
    created_at=st.integers((T0 - 1200) * 1_000_000, T0 * 1_000_000),
    input_data=st.sampled_from(['{"value": 1}', '{"value": -7.25}', '{"value": 9e12}', '{"value": 2, "other": 3}', "{}"]),
    occurred_at=st.none()
    | st.sampled_from([-9.5, -7.9, -6.9, -5, -2, -0.9, -0.2, -0.02, 0.005]).map(lambda d: (T0 + int(d * 86_400)) * 1_000_000),
)
KEYS = st.builds(ViewKey, st.just("demo"), st.just("main"), st.sampled_from([None, "w"]), st.sampled_from(sorted(BUCKETS_S)))
FILTERS = st.sampled_from([[], ["w"], ["w", "y"]])


@given(
    KEYS, FILTERS, st.lists(ROWS, max_size=8), st.lists(ROWS, max_size=12), st.lists(st.integers(0, 12), max_size=4), st.data()
)
def test_deltas_after_a_snapshot_give_what_a_later_snapshot_says(
    key: ViewKey,
    workflow_ids: list[str],
    before: list[dict[str, Any]],
    after: list[dict[str, Any]],
    cuts: list[int],
    data: st.DataObject,
) -> None:
    """Of every type of chart; also where another process told of the deltas. Only smallest and largest values widen."""
    shown = Defined(3, msgspec.structs.replace(SHOWN.dashboard, workflow_ids=workflow_ids))
    state = state_of(before, Position(50, 0), key, shown)
    rows, taken_back = list(before), False
    delta = Delta(state.position, TRACKING)
    for index, new in enumerate(after):
        taken = rows.pop(data.draw(st.integers(0, len(rows) - 1))) if rows and data.draw(st.booleans()) else None
        taken_back |= taken is not None
        delta.add(change(index, taken, new))
        rows.append(new)
        if index in cuts:
            assert state.add(decode_portion(encode(portion_of(delta))))
            delta = Delta(delta.position, TRACKING)
    if delta.changes:
        assert state.add(portion_of(delta))
    later = state_of(rows, state.position, key, shown)
    shows, says = figures(state.full("dashboard_update", NOW_S)), figures(later.full("dashboard_update", NOW_S))
    if taken_back:
        for told in (shows, says):
            for point in told["charts"]["value"]["points"]:
                del point[3:]
    assert shows == says


@given(KEYS, st.lists(st.lists(ROWS, max_size=4), max_size=6), st.data())
def test_a_client_that_gets_all_updates_shows_what_a_new_one_is_shown(
    key: ViewKey, deltas: list[list[dict[str, Any]]], data: st.DataObject
) -> None:
    """It replaces points by their first member; a distribution by the whole new one."""
    state = state_of([], Position(50, 0), key)
    client = decode(state.full("initial_data", NOW_S))["charts"]
    state.settle()
    now_s = NOW_S
    for number, rows in enumerate(deltas):
        delta = Delta(state.position, TRACKING)
        for index, one in enumerate(rows):
            delta.add(change(index, None, one, lsn=100 + number))
        if delta.changes:
            assert state.add(portion_of(delta))
        now_s += data.draw(st.sampled_from([0, 1, 400]))
        if state.has_news(now_s):
            for name, chart in decode(state.update(now_s))["charts"].items():
                known = {point[0]: point for point in client[name]["points"]}
                client[name]["points"] = list((known | {point[0]: point for point in chart["points"]}).values())
    width_s = BUCKETS_S[key.timeframe]
    since_s = int(now_s) - FRAMES_S[key.timeframe] - width_s
    for name, chart in decode(state.full("dashboard_update", now_s))["charts"].items():
        known = {point[0]: point for point in client[name]["points"]}
        if chart["type"] not in ("confidence_chart", "workflows_chart"):
            known = {start: point for start, point in known.items() if start >= since_s}
        assert known == {point[0]: point for point in chart["points"]}, name


@given(KEYS, st.lists(st.lists(ROWS, min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_a_client_that_comes_back_needs_the_rest_only(
    key: ViewKey, deltas: list[list[dict[str, Any]]], data: st.DataObject
) -> None:
    """From any position that it was told of, whatever others were told meanwhile, and however much time went by."""
    state = ViewState(key, SHOWN, snapshot_of([], BEGAN, key)._replace(origin="here"))
    clients = {state.position: decode(state.full("initial_data", NOW_S))["charts"]}
    state.settle()
    now_s = NOW_S
    for number, rows in enumerate(deltas):
        delta = Delta(state.position, TRACKING)
        for index, one in enumerate(rows):
            delta.add(change(index, None, one, lsn=100 + number))
        assert state.add(portion_of(delta))
        now_s += data.draw(st.sampled_from([0, 1, 400]))
        if data.draw(st.booleans()):
            state.update(now_s)
        clients[state.position] = decode(state.full("dashboard_update", now_s))["charts"]
    since_s = int(now_s) - FRAMES_S[key.timeframe] - BUCKETS_S[key.timeframe]
    whole = decode(state.full("dashboard_update", now_s))["charts"]
    assert state.rest(Resume(BEGAN, state.origin, 2), now_s) is None, "it has another definition"
    assert state.rest(Resume(BEGAN, "there", 3), now_s) is None
    for position, client in clients.items():
        rest = state.rest(Resume(position, state.origin, 3), now_s)
        assert rest is not None
        told = decode(rest)
        assert (told["type"], told["recovered"]) == ("initial_data", True)
        for name, chart in whole.items():
            points = client[name]["points"] + told["charts"].get(name, {"points": []})["points"]
            known = {point[0]: point for point in points}
            if chart["type"] not in ("confidence_chart", "workflows_chart"):
                known = {start: point for start, point in known.items() if start >= since_s}
            assert known == {point[0]: point for point in chart["points"]}, name


@pytest.mark.parametrize(("days", "told"), [(7.2, True), (8.1, False)])
def test_what_occurred_in_any_time_frame_is_told_and_what_did_in_none_is_not(days: float, told: bool) -> None:
    """A feed of old readings has a bucket for nearly each of them."""
    delta = Delta(BEGAN, TRACKING)
    delta.add(change(0, None, row(occurred_at=(T0 - int(days * 86_400)) * 1_000_000)))
    assert bool(delta.shares["demo"].details.tracked) is told
    assert delta.shares["demo"].results


def test_the_same_delta_again_changes_nothing() -> None:
    state = state_of([row()], Position(50, 0))
    delta = delta_of(change(0, None, row()), base=Position(50, 0))
    assert state.add(delta)
    told = state.full("dashboard_update", NOW_S)
    assert state.add(delta)
    assert state.full("dashboard_update", NOW_S) == told


def test_a_delta_from_before_the_snapshot_changes_nothing() -> None:
    state = state_of([row()], Position(100, 5))
    assert state.add(delta_of(change(3, None, row()), base=START))
    assert decode(state.full("initial_data", NOW_S))["summary"]["total_executions"] == 1
    assert not state.changed


@pytest.mark.parametrize("base", [Position(50, 1), Position(51, 0)])
def test_a_delta_with_something_missing_before_it_is_refused_and_leaves_no_trace(base: Position) -> None:
    state = state_of([row()], Position(50, 0))
    told = state.full("dashboard_update", NOW_S)
    assert not state.add(delta_of(change(0, None, row()), base=base))
    assert state.full("dashboard_update", NOW_S) == told
    assert state.position == Position(50, 0)


def test_an_update_holds_only_what_changed_and_absolute_figures() -> None:
    old, new = T0 - 1000, T0 - 2
    rows = [row(created_at=old * 1_000_000, workflow_id="quiet"), row(created_at=new * 1_000_000)]
    state = state_of(rows, Position(50, 0))
    assert state.add(delta_of(change(0, None, row(created_at=new * 1_000_000, status="failed")), base=Position(50, 0)))
    told = decode(state.update(NOW_S))
    bucket, fine = new // 300 * 300, new // 5 * 5
    assert told["type"] == "real_time_update"
    assert told["charts"]["count"]["points"] == [[bucket, 2, 1]]
    assert told["charts"]["success"]["points"] == [[bucket, 0.5]]
    assert [point[:3] for point in told["live"]] == [[fine, 2, 1]]
    assert [(w["workflow_id"], w["total_executions"], w["successful_executions"]) for w in told["workflows"]] == [("w", 2, 1)]
    assert told["summary"]["total_executions"] == 3
    assert told["summary"]["success_rate"] == round(2 / 3, 6)
    assert told["position"] == "0/64-0"


def test_an_update_is_told_once() -> None:
    state = state_of([], Position(50, 0))
    assert state.add(delta_of(change(0, None, row(created_at=(T0 - 1) * 1_000_000)), base=Position(50, 0)))
    assert state.changed
    assert state.has_news(NOW_S)
    state.update(NOW_S)
    assert not state.changed
    again = decode(state.update(NOW_S))
    assert again["live"] == again["workflows"] == []
    assert again["charts"] == {}
    assert again["summary"]["total_executions"] == 1


def test_what_was_told_in_full_is_not_told_again() -> None:
    state = state_of([], Position(50, 0))
    assert state.add(delta_of(change(0, None, row(created_at=(T0 - 1) * 1_000_000)), base=Position(50, 0)))
    state.full("initial_data", NOW_S)
    state.settle()
    assert decode(state.update(NOW_S))["live"] == []


def test_a_replayed_update_leaves_a_client_where_it_was() -> None:
    """A client replaces buckets by their start, so the same message twice is the same as once."""
    state = state_of([row(created_at=(T0 - 7) * 1_000_000)], Position(50, 0))
    client = {point[0]: point for point in decode(state.full("initial_data", NOW_S))["live"]}
    assert state.add(delta_of(change(0, None, row(created_at=(T0 - 1) * 1_000_000)), base=Position(50, 0)))
    message = state.update(NOW_S)
    for _ in range(2):
        client |= {point[0]: point for point in decode(message)["live"]}
    assert list(client.values()) == decode(state.full("dashboard_update", NOW_S))["live"]


def test_other_tenants_and_workflows_do_not_show() -> None:
    key = KEY._replace(workflow_id="w")
    state = state_of([], Position(50, 0), key)
    strangers = [row(tenant_id="other"), row(workflow_id="x"), row(tenant_id="other", workflow_id="x")]
    assert state.add(delta_of(*(change(i, None, one) for i, one in enumerate(strangers)), base=Position(50, 0)))
    assert not state.changed
    assert state.position == Position(100, 2)
    assert decode(state.full("dashboard_update", NOW_S))["summary"]["total_executions"] == 0


def test_nothing_has_no_rate_and_no_means() -> None:
    summary = decode(state_of([], START).full("initial_data", NOW_S))["summary"]
    assert summary["total_executions"] == 0
    assert summary["success_rate"] is None
    assert summary["mean_execution_time_ms"] is None
    assert summary["p95_execution_time_ms"] is None
    assert summary["mean_confidence"] is None


def test_the_rate_counts_the_last_five_whole_seconds_and_falls_to_nothing() -> None:
    state = state_of([], Position(50, 0))
    changes = [change(i, None, row(created_at=int((NOW_S - 1 - i % 3) * 1_000_000))) for i in range(30)]
    changes.append(change(30, None, row(created_at=int((NOW_S - 8) * 1_000_000))))
    assert state.add(delta_of(*changes, base=Position(50, 0)))
    assert decode(state.update(NOW_S + 0.5))["rate_per_s"] == 6.0
    assert state.has_news(NOW_S + 20)
    assert decode(state.update(NOW_S + 20))["rate_per_s"] == 0.0
    assert not state.has_news(NOW_S + 21)


def test_a_steady_rate_is_shown_as_it_is_at_any_moment() -> None:
    state = state_of([], Position(50, 0))
    changes = [change(i, None, row(created_at=int((NOW_S - 10 + i / 100) * 1_000_000))) for i in range(1000)]
    assert state.add(delta_of(*changes, base=Position(50, 0)))
    assert {state.rate(NOW_S - tenth / 10) for tenth in range(10)} == {100.0}


@pytest.mark.parametrize("timeframe", sorted(BUCKETS_S))
def test_buckets_are_those_of_the_time_frame(timeframe: str) -> None:
    assert {"1h": 300, "6h": 1800, "24h": 3600, "7d": 21_600}[timeframe] == BUCKETS_S[timeframe]
    key = KEY._replace(timeframe=timeframe)
    state = state_of([row(created_at=(T0 - 1) * 1_000_000)], START, key)
    told = decode(state.full("initial_data", NOW_S))
    assert told["bucket_s"] == BUCKETS_S[timeframe]
    assert [point[0] % BUCKETS_S[timeframe] for point in told["charts"]["count"]["points"]] == [0]


def test_what_left_the_window_is_forgotten() -> None:
    state = state_of([row(created_at=(T0 - 30) * 1_000_000)], START)
    told = decode(state.full("dashboard_update", NOW_S + FRAMES_S["1h"] + 2 * BUCKETS_S["1h"]))
    assert told["charts"]["count"]["points"] == told["live"] == []
    assert told["summary"]["total_executions"] == 1


def test_an_update_never_tells_part_of_a_bucket_that_was_forgotten() -> None:
    """Figures are absolute: a late change to a bucket outside the window must not show as all that the bucket holds."""
    rows = [row(created_at=(T0 - 30) * 1_000_000) for _ in range(10)]
    state = state_of(rows, Position(50, 0))
    later_s = NOW_S + FRAMES_S["1h"] + 2 * BUCKETS_S["1h"]
    state.full("dashboard_update", later_s)
    assert state.add(delta_of(change(0, None, rows[0]), base=Position(50, 0)))  # the eleventh
    told = decode(state.update(later_s))
    assert all(point[1] == 11 for point in [*told["charts"].get("count", {}).get("points", []), *told["live"]])


def test_a_snapshot_is_at_most_fifty_workflows_the_busiest() -> None:
    rows = [row(workflow_id=f"w{i:03}", created_at=(T0 - 1) * 1_000_000) for i in range(MAX_WORKFLOWS + 10)]
    state = state_of([*rows, rows[-1]], START)
    told = decode(state.full("initial_data", NOW_S))["workflows"]
    assert len(told) == MAX_WORKFLOWS
    assert told[0]["workflow_id"] == rows[-1]["workflow_id"]


def test_a_new_state_keeps_the_rate() -> None:
    before = state_of([], Position(50, 0))
    assert before.add(delta_of(change(0, None, row(created_at=(T0 - 1) * 1_000_000)), base=Position(50, 0)))
    after = state_of([row()], Position(100, 0))
    after.keep_rate_of(copy.copy(before), 1.0, True)
    assert after.rate(NOW_S + 0.5) == before.rate(NOW_S + 0.5) > 0


def test_what_one_client_is_told_in_full_is_news_to_the_others() -> None:
    """Each gets `verified_through` when it changes, whoever joins meanwhile or has fallen behind."""
    state = state_of([], START)
    state.verified_through_s = 17
    assert msgspec.json.decode(state.full("initial_data", NOW_S))["verified_through"] == 17
    assert state.has_news(NOW_S)
    later = ViewState(KEY, SHOWN, snapshot_of([], START)._replace(verified_through_s=17))
    later.keep_rate_of(state, 1.0, follows=False)
    assert later.has_news(NOW_S), "also after it was read anew without a word to anybody"
    later.update(NOW_S)
    assert not later.has_news(NOW_S)
