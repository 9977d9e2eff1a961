"""The answer's CSV: RFC 4180, one row for each metric and bucket, and no cell that a spreadsheet runs."""

import csv
import io

import pytest

from judgify_engine.core.charts import frame_of, merged, whole
from judgify_engine.core.rollup import Sums
from judgify_engine.core.samples import Sample, sample_of
from judgify_engine.wire.metrics import (
    Chart,
    MetricsAnswer,
    confidence_chart,
    encode_csv,
    results_chart,
    series_of,
    sums_chart,
    workflows_chart,
)

FRAME = frame_of("24h", 1_700_000_000 * 1_000_000)
NOW_S = FRAME.end_s - 10.0
BUCKETS = merged([(FRAME.start_s, sample_of({-5_500_000: 1}, 1, True))], FRAME)


def answer(workflow_id: str | None, metrics: list[str], chart: Chart | str | None = None) -> MetricsAnswer:
    return MetricsAnswer(
        tenant_id="t",
        workflow_id=workflow_id,
        workflow_ids=[] if workflow_id is None else [workflow_id],
        timeframe="24h",
        from_="",
        to="",
        bucket_s=FRAME.bucket_s,
        quantile_error=0.01,
        metrics=[series_of(metric, BUCKETS, whole(BUCKETS), FRAME, NOW_S) for metric in metrics],
        chart=sums_chart(chart, BUCKETS, {}, FRAME) if isinstance(chart, str) else chart,
        available=[],
        position=None,
        verified_through=None,
        recomputing=True,
    )


def rows(text: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text.decode(), newline=""), strict=True))


def test_a_row_for_each_metric_and_bucket_below_a_head() -> None:
    head, *found = rows(encode_csv(answer(None, ["input.a", "input.b"]), NOW_S))
    assert head == [
        "workflow_id", "metric", "from", "to", "over", "count", "failed", "mean", "min", "max", "p50", "p95", "p99",
    ]  # fmt: skip
    assert [row[1] for row in found] == ["input.a"] * 24 + ["input.b"] * 24
    assert found[0][4:] == ["true", "1", "1", "-5.5", "-5.5", "-5.5", "-5.5", "-5.5", "-5.5"]
    assert found[1][4:] == ["true", "0", "0", "", "", "", "", "", ""]
    assert [row[4] for row in found[:24]] == ["true"] * 23 + ["false"]
    assert found[0][3] == found[1][2] < found[1][3]


def test_lines_end_as_rfc_4180_says() -> None:
    text = encode_csv(answer(None, ["input.a"]), NOW_S)
    assert text.count(b"\r\n") == text.count(b"\n") == 25
    assert text.endswith(b"\r\n")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\nx"])
def test_no_name_becomes_a_formula(name: str) -> None:
    for text in (
        encode_csv(answer(name, ["input.a"]), NOW_S),
        encode_csv(answer(name, [], "success_rate_chart"), NOW_S),
    ):
        assert {row[0] for row in rows(text)[1:]} == {f"'{name}"}
    assert {row[1] for row in rows(encode_csv(answer(None, [name]), NOW_S))[1:]} == {f"'{name}"}


@pytest.mark.parametrize("name", ['a"b', "a,b", "a\r\nb", "ü'", "plain"])
def test_other_names_come_back_as_they_are(name: str) -> None:
    assert {row[0] for row in rows(encode_csv(answer(name, ["input.a"]), NOW_S))[1:]} == {name}


@pytest.mark.parametrize(
    ("chart", "columns", "first"),
    [
        ("execution_count_chart", ["total", "failed"], ["1", "1"]),
        ("response_time_chart", ["mean_ms", "p95_ms"], ["-5.5", "-5.5"]),
        ("success_rate_chart", ["rate"], ["0.0"]),
    ],
)
def test_charts(chart: str, columns: list[str], first: list[str]) -> None:
    head, *found = rows(encode_csv(answer("w", [], chart), NOW_S))
    assert head == ["workflow_id", "chart", "from", "to", "over", *columns]
    assert len(found) == 24
    assert found[0][:2] == ["w", chart]
    assert found[0][4] == "true"
    assert [float(value) for value in found[0][5:]] == pytest.approx([float(value) for value in first], rel=0.01)
    assert set(found[-1][5:]) <= {"0", ""}
    assert found[-1][4] == "false"


def test_each_result_is_a_column_and_none_a_formula() -> None:
    counts = merged([(FRAME.start_s, Sample(3, histogram={}))], FRAME)
    head, *found = rows(encode_csv(answer("w", [], results_chart({"ok": counts, "=1": counts}, FRAME)), NOW_S))
    assert head == ["workflow_id", "chart", "from", "to", "over", "'=1", "ok"]
    assert found[0][4:] == ["true", "3", "3"]
    assert found[1][4:] == ["true", "", ""]


def test_what_has_no_time_has_a_row_for_each_bin_or_workflow() -> None:
    head, *found = rows(encode_csv(answer("w", [], confidence_chart(BUCKETS)), NOW_S))
    assert head == ["workflow_id", "chart", "from", "count"]
    assert len(found) == 20
    head, *found = rows(encode_csv(answer(None, [], workflows_chart({"=w": Sums(2, 1, histogram={})})), NOW_S))
    assert head == ["workflow_id", "chart", "total", "successful", "mean_ms"]
    assert found == [["'=w", "workflows_chart", "2", "1", "0.0"]]
