"""Whatever is done to the rows, and however the log is cut: the sums are those of the rows that are left."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from builders import T0, change, row
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core.counts import counts_by_bucket
from judgify_engine.core.histogram import slot_of
from judgify_engine.core.model import Change
from judgify_engine.core.results import result_name
from judgify_engine.core.rollup import UNTRACKED, Delta, Sums
from judgify_engine.core.samples import (
    ALL_WORKFLOWS,
    CONFIDENCE,
    EXECUTION_TIME,
    FINE_S,
    HOUR_S,
    LIVE_S,
    Sample,
    Windows,
    buckets_of,
    kept,
)
from judgify_engine.core.tracking import Tracking
from judgify_engine.units import START, Position

ROWS = st.builds(
    row,
    tenant_id=st.sampled_from(["a", "b"]),
    workflow_id=st.sampled_from(["w", "x"]),
    status=st.sampled_from(["completed", "completed", "failed"]),
    method_used=st.sampled_from(["rule", "llm", "hybrid"]),
    execution_time_ms=st.floats(0, 30_000),
    confidence_score=st.floats(0, 1),
    final_result=st.sampled_from(['{"verdict": "ok"}', '{"verdict": "inspect"}', "{}", '{"verdict": 5}']),
    created_at=st.integers(T0 * 1_000_000 - 4_000_000_000, T0 * 1_000_000 + 4_000_000_000),
)
# (what, which row it is done to, the new row)
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["insert"] * 4 + ["update"] * 2 + ["delete", "truncate"]), st.integers(0, 99), ROWS), max_size=30
)


class Told(NamedTuple):
    """All that a Sums says, as a value."""

    total: int = 0
    failed: int = 0
    rule: int = 0
    llm: int = 0
    hybrid: int = 0
    time_us: int = 0
    ppm: int = 0
    histogram: frozenset[tuple[int, int]] = frozenset()


def told(sums: Sums) -> Told:
    return Told(
        sums.total, sums.failed, sums.rule, sums.llm, sums.hybrid, sums.execution_time_us, sums.confidence_ppm,
        frozenset((bucket, count) for bucket, count in sums.histogram.items() if count),
    )  # fmt: skip


def run(operations: list[tuple[str, int, dict[str, Any]]]) -> tuple[list[Change], list[dict[str, Any]]]:
    """The changes that the operations make, and the rows that are left."""
    rows: list[dict[str, Any]] = []
    changes = []
    for index, (what, which, new) in enumerate(operations):
        if what == "truncate":
            rows.clear()
            changes.append(change(index, None, None))
        elif what == "insert" or not rows:
            rows.append(new)
            changes.append(change(index, None, new))
        elif what == "update":
            changes.append(change(index, rows[which % len(rows)], new))
            rows[which % len(rows)] = new
        else:
            changes.append(change(index, rows.pop(which % len(rows)), None))
    return changes, rows


def expected(rows: list[dict[str, Any]], width_s: int) -> dict[Any, Told]:
    """The sums of rows, added up another way: by lists."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for r in rows:
        second = r["created_at"] // 1_000_000
        groups.setdefault((r["tenant_id"], r["workflow_id"], second // width_s * width_s), []).append(r)
    result = {}
    for key, group in groups.items():
        times = [round(r["execution_time_ms"] * 1000) for r in group]
        buckets = [slot_of(time * 1000) for time in times]
        methods = [r["method_used"] for r in group]
        result[key] = Told(
            len(group), sum(r["status"] == "failed" for r in group), methods.count("rule"), methods.count("llm"),
            methods.count("hybrid"),
            sum(times), sum(round(r["confidence_score"] * 1_000_000) for r in group),
            frozenset((bucket, buckets.count(bucket)) for bucket in buckets),
        )  # fmt: skip
    return result


def expected_results(rows: list[dict[str, Any]]) -> dict[Any, int]:
    counts: dict[Any, int] = {}
    for r in rows:
        verdict = {'{"verdict": "ok"}': "ok", '{"verdict": "inspect"}': "inspect"}.get(r["final_result"], "")
        name = "failed" if r["status"] == "failed" else verdict
        key = (r["tenant_id"], r["workflow_id"], r["created_at"] // 1_000_000 // HOUR_S * HOUR_S, name)
        counts[key] = counts.get(key, 0) + 1
    return counts


def expected_counts(rows: list[dict[str, Any]]) -> dict[Any, int]:
    names = {'{"verdict": "ok"}': "ok", '{"verdict": "inspect"}': "inspect"}
    return Counter(
        (r["tenant_id"], workflow, metric, width, r["created_at"] // 1_000_000 // width * width)
        for r in rows
        for workflow in (r["workflow_id"], ALL_WORKFLOWS)
        for metric in (
            f"method.{r['method_used']}",
            "result." + ("failed" if r["status"] == "failed" else names.get(r["final_result"], "")),
        )
        for width in (FINE_S, HOUR_S)
    )


def cut(changes: list[Change], cuts: list[int], tracking: Tracking = UNTRACKED) -> Iterator[Delta]:
    """The deltas of a run of the log that is cut at these places."""
    delta = Delta(tracking=tracking)
    for index, one in enumerate(changes):
        delta.add(one)
        if index in cuts:
            yield delta
            delta = Delta(delta.position, tracking)
    if delta.changes:
        yield delta


@pytest.mark.parametrize("width_s", [LIVE_S, HOUR_S])
@given(OPERATIONS, st.lists(st.integers(0, 30), max_size=8))
def test_the_sums_are_those_of_the_surviving_rows_however_the_log_is_cut(
    width_s: int, operations: list[tuple[str, int, dict[str, Any]]], cuts: list[int]
) -> None:
    changes, rows = run(operations)
    sums: dict[Any, Sums] = {}
    results: dict[Any, int] = {}
    counts: dict[Any, int] = {}
    for delta in cut(changes, cuts):
        if delta.truncated:
            sums.clear()
            results.clear()
            counts.clear()
        for bucket_key, count in counts_by_bucket(delta.counts, T0, FOREVER).items():
            counts[bucket_key] = counts.get(bucket_key, 0) + count
        for key, added in delta.by(width_s).items():
            sums.setdefault(key, Sums(histogram={})).add(added)
        for result_key, count in delta.results.items():
            results[result_key] = results.get(result_key, 0) + count
    assert {key: told(value) for key, value in sums.items() if told(value) != Told()} == expected(rows, width_s)
    assert {key: count for key, count in results.items() if count} == expected_results(rows)
    assert {key: count for key, count in counts.items() if count} == expected_counts(rows)


def test_what_came_and_went_in_one_delta_is_not_written() -> None:
    came, went, one = Delta(), Delta(), row()
    for delta in (came, went):
        delta.add(change(0, None, one))
    went.add(change(1, one, None))
    assert len(counts_by_bucket(came.counts, T0, FOREVER)) == 8, "result and method, of the workflow and of all, in two widths"
    assert counts_by_bucket(went.counts, T0, FOREVER) == {}


def test_a_row_without_a_workflow_counts_for_all_together_only() -> None:
    delta = Delta()
    delta.add(change(0, None, row(workflow_id="")))
    assert counts_by_bucket(delta.counts, T0, FOREVER) == {
        (row()["tenant_id"], ALL_WORKFLOWS, metric, width, T0 // width * width): 1
        for metric in ("method.rule", f"result.{next(iter(delta.results))[3]}")
        for width in (FINE_S, HOUR_S)
    }


@given(OPERATIONS, st.lists(st.integers(0, 30), max_size=8))
def test_deltas_follow_on_each_other_and_count_every_change(
    operations: list[tuple[str, int, dict[str, Any]]], cuts: list[int]
) -> None:
    changes, _ = run(operations)
    deltas = list(cut(changes, cuts))
    assert sum(delta.changes for delta in deltas) == len(changes)
    position = START
    for delta in deltas:
        assert delta.base == position < delta.position
        position = delta.position
    assert position == (changes[-1].position if changes else START)


def test_a_change_of_another_table_only_moves_the_position() -> None:
    delta = Delta()
    delta.note(change(4, None, {"workflow_id": "w"}, table="workflows"))
    assert (delta.position, delta.changes, delta.sums, delta.results) == (Position(100, 4), 1, {}, {})


def test_an_update_that_changes_nothing_adds_nothing() -> None:
    delta = Delta()
    delta.add(change(0, row(), row()))
    assert {told(sums) for sums in delta.sums.values()} == {Told()}
    assert set(delta.results.values()) == {0}


def test_by_does_not_change_the_delta() -> None:
    delta = Delta()
    for index in range(5):
        delta.add(change(index, None, row(created_at=(T0 + index) * 1_000_000)))
    before = {key: told(sums) for key, sums in delta.sums.items()}
    assert delta.by(HOUR_S).keys() == {("demo", "w", T0)}
    assert told(delta.by(HOUR_S)["demo", "w", T0]).total == 5
    assert {key: told(sums) for key, sums in delta.sums.items()} == before


@pytest.mark.parametrize("created_us", [0, -1, -3_600_000_001, 1])
def test_times_before_1970_fall_into_the_bucket_that_holds_them(created_us: int) -> None:
    delta = Delta()
    delta.add(change(0, None, row(created_at=created_us)))
    ((_, _, hour),) = delta.by(HOUR_S).keys()
    assert hour * 1_000_000 <= created_us < (hour + HOUR_S) * 1_000_000


@pytest.mark.parametrize(
    ("time_ms", "time_us"), [(0.0005, 0), (0.0015, 2), (0.0025, 2), (1.2345, 1234), (29_999.9999, 30_000_000)]
)
def test_times_are_rounded_as_postgres_rounds_half_to_even(time_ms: float, time_us: int) -> None:
    delta = Delta()
    delta.add(change(0, None, row(execution_time_ms=time_ms)))
    (sums,) = delta.sums.values()
    assert sums.execution_time_us == time_us


@pytest.mark.parametrize(
    ("final_result", "name"),
    [
        ('{"verdict": "ok"}', "ok"),
        ('{"a": 1, "verdict": "inspect", "b": {"verdict": "no"}}', "inspect"),
        ("{}", ""),
        ('{"verdict": null}', ""),
        ('{"verdict": 5}', ""),
        ('{"verdict": {"a": 1}}', ""),
        ('{"Verdict": "ok"}', ""),
        ("[]", ""),
        ("5", ""),
        ('"verdict"', ""),
        ("null", ""),
        ('{"verdict": ""}', ""),
        ('{"verdict": "%s"}' % ("x" * 65), "x" * 64),
        ('{"verdict": "%s"}' % ("😀" * 65), "😀" * 64),
        ('{"verdict": "gr\\u00fcn"}', "grün"),
    ],
)
def test_the_verdict_names_the_result(final_result: str, name: str) -> None:
    assert result_name(final_result) == name
    assert result_name(final_result) == name  # remembered


def test_a_failed_judgment_counts_as_failed_whatever_its_result_says() -> None:
    delta = Delta()
    delta.add(change(0, None, row(status="failed", final_result='{"verdict": "ok"}')))
    assert delta.results == {("demo", "w", T0, "failed"): 1}


FOREVER = Windows(10**12, 10**12)
TRACKING = Tracking([("a", "w", 1, 0, ("heat",)), ("b", "x", 1, 0, ("heat", "deep.er"))])
INPUTS = st.sampled_from(
    ['{"heat": 92.3}', '{"heat": -7, "deep": {"er": 0.5}}', '{"heat": "hot"}', '{"heat": true}', '{"deep": 3}', "[]", "5",
     '{"heat": 1e13}', '{"heat": 0}', '{"deep": {"er": 1e-7}, "heat": 123456789012.123456}']
)  # fmt: skip
TRACKED_ROWS = st.builds(
    lambda one, text, occurred: one | {"input_data": text, "occurred_at": occurred},
    ROWS,
    INPUTS,
    st.one_of(st.none(), st.integers(T0 * 1_000_000 - 9_000_000_000, T0 * 1_000_000)),
)


def values_of(r: dict[str, Any]) -> list[tuple[str, int, int]]:
    """(metric, second, value in millionths) of a row, found another way."""
    created, occurred = r["created_at"], r["occurred_at"]
    second = created // 1_000_000
    found = [
        (EXECUTION_TIME, second, round(r["execution_time_ms"] * 1000) * 1000),
        (CONFIDENCE, second, round(r["confidence_score"] * 1_000_000)),
    ]
    fields = {("a", "w"): ["heat"], ("b", "x"): ["heat", "deep.er"]}.get((r["tenant_id"], r["workflow_id"]), [])
    for field in fields:
        value: Any = json.loads(r["input_data"])
        for part in field.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 9e12:
            at = (created if occurred is None else occurred) // 1_000_000
            found.append((f"input.{field}", at, round(float(value) * 1e6)))
    return found


def expected_buckets(rows: list[dict[str, Any]]) -> dict[Any, tuple[Any, ...]]:
    groups: dict[Any, list[tuple[int, bool]]] = {}
    for r in rows:
        for metric, second, value in values_of(r):
            for width in (LIVE_S, FINE_S, HOUR_S) if metric == EXECUTION_TIME else (FINE_S, HOUR_S):
                for workflow in (r["workflow_id"], ALL_WORKFLOWS):
                    key = (r["tenant_id"], workflow, metric, width, second // width * width)
                    groups.setdefault(key, []).append((value, r["status"] != "completed"))
    return {
        key: (
            len(group), sum(failed for _, failed in group), sum(value for value, _ in group),
            frozenset(Counter(slot_of(value) for value, _ in group).items()),
        )
        for key, group in groups.items()
    }  # fmt: skip


def figures(sample: Sample) -> tuple[Any, ...]:
    counts = frozenset((slot, count) for slot, count in sample.histogram.items() if count)
    return sample.count, sample.failed, sample.sum, counts


@given(
    st.lists(
        st.tuples(st.sampled_from(["insert"] * 4 + ["update"] * 2 + ["delete", "truncate"]), st.integers(0, 99), TRACKED_ROWS),
        max_size=25,
    ),
    st.lists(st.integers(0, 25), max_size=8),
)
def test_buckets_hold_the_values_of_the_surviving_rows_however_the_log_is_cut(
    operations: list[tuple[str, int, dict[str, Any]]], cuts: list[int]
) -> None:
    changes, rows = run(operations)
    buckets: dict[Any, Sample] = {}
    samples: dict[Any, Sample] = {}
    for delta in cut(changes, cuts, TRACKING):
        if delta.truncated:
            buckets.clear()
            samples.clear()
        for key, added in buckets_of(delta.samples, T0, FOREVER).items():
            buckets.setdefault(key, Sample(histogram={})).add(added)
        for sample_key, sample in kept(delta.samples, T0, FOREVER):
            samples.setdefault(sample_key, Sample(histogram={})).add(sample)
    nothing = figures(Sample())
    assert {key: figures(sample) for key, sample in buckets.items() if figures(sample) != nothing} == expected_buckets(rows)
    assert sum(sample.count for key, sample in samples.items() if key[2] == EXECUTION_TIME) == len(rows)
    if not any(what in ("update", "delete") for what, _, _ in operations):
        for (tenant, workflow, metric, width, bucket), sample in buckets.items():
            values = [
                value
                for r in rows if r["tenant_id"] == tenant and workflow in (r["workflow_id"], ALL_WORKFLOWS)
                for name, second, value in values_of(r) if name == metric and second // width * width == bucket
            ]  # fmt: skip
            assert (sample.minimum, sample.maximum) == (min(values), max(values))


@given(st.lists(TRACKED_ROWS, max_size=12), st.integers(-3, 2))
def test_a_window_counts_what_belongs_to_it_and_nothing_else(rows: list[dict[str, Any]], hour: int) -> None:
    start = T0 + hour * HOUR_S
    windowed, whole = Delta(tracking=TRACKING, window=(start, start + HOUR_S)), Delta(tracking=TRACKING)
    for index, one in enumerate(rows):
        windowed.add(change(index, None, one))
        whole.add(change(index, None, one))
    inside = {key: figures(sample) for key, sample in whole.samples.items() if start <= key[3] < start + HOUR_S}
    assert {key: figures(sample) for key, sample in windowed.samples.items()} == inside
    assert windowed.counts == {key: count for key, count in whole.counts.items() if start <= key[3] < start + HOUR_S}


def test_what_is_taken_back_names_the_hours_to_compute_anew() -> None:
    delta = Delta(tracking=TRACKING)
    delta.add(change(0, None, row(created_at=(T0 + 5) * 1_000_000)))
    assert delta.taken_back == set()
    gone = row(tenant_id="a", created_at=(T0 + HOUR_S) * 1_000_000, occurred_at=(T0 - 1) * 1_000_000, input_data='{"heat": 1}')
    delta.add(change(1, gone, None))
    assert delta.taken_back == {T0 + HOUR_S, T0 - HOUR_S}


def test_old_values_are_only_counted_by_the_hour() -> None:
    delta = Delta()
    delta.add(change(0, None, row(created_at=(T0 - 10 * HOUR_S) * 1_000_000)))
    windows = Windows(live_s=HOUR_S, fine_s=5 * HOUR_S)
    assert kept(delta.samples, T0, windows) == []
    assert {key[3] for key in buckets_of(delta.samples, T0, windows)} == {HOUR_S}
    assert {key[3] for key in counts_by_bucket(delta.counts, T0, windows)} == {HOUR_S}


@given(st.lists(st.integers(-50, 0), min_size=1, max_size=20))
def test_what_is_recent_is_counted_by_the_second(seconds: list[int]) -> None:
    """The rate of the last seconds is made of it."""
    delta = Delta()
    for index, second in enumerate(seconds):
        delta.add(change(index, None, row(created_at=(T0 + second) * 1_000_000)))
    counts = {key[2]: sums.total for key, sums in delta.by(1).items()}
    assert counts == {T0 + second: seconds.count(second) for second in seconds}
