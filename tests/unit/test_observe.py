"""Figures as Prometheus reads them, and log events as machines and people do."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from judgify_engine.observe.logs import ConsoleFormatter, JsonFormatter
from judgify_engine.observe.metrics import SECONDS, Histogram, Metrics


def scrape(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    registry = CollectorRegistry()
    registry.register(metrics)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


@given(st.lists(st.floats(0, 100), max_size=50))
def test_a_histogram_counts_up_to_each_bound_and_that_bound_included(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    for bound, count in histogram.cumulative():
        assert count == sum(value <= float(bound) for value in values)
    assert histogram.count == len(values)
    assert histogram.sum == pytest.approx(sum(values))
    assert [float(bound) for bound, _ in histogram.cumulative()] == [*SECONDS, float("inf")]


def test_every_stage_has_its_histogram() -> None:
    metrics = Metrics()
    stages = ("admit", "decode", "judge", "queue", "commit", "answer", "rollup", "push")
    for number, stage in enumerate(stages, 1):
        for _ in range(number):
            getattr(metrics, stage).observe(0.01)
    told = scrape(metrics)
    for number, stage in enumerate(stages, 1):
        assert told["judgify_stage_duration_seconds_count", (("stage", stage),)] == number
        assert told["judgify_stage_duration_seconds_sum", (("stage", stage),)] == pytest.approx(number * 0.01)


def test_counters_are_told_by_their_labels() -> None:
    metrics = Metrics()
    metrics.judgments["completed"] += 3
    metrics.judgments["queue_full"] += 2
    metrics.requests["/health", 200] += 5
    metrics.quarantined["refused_by_database"] += 4
    told = scrape(metrics)
    assert told["judgify_judgments_total", (("outcome", "completed"),)] == 3
    assert told["judgify_judgments_total", (("outcome", "queue_full"),)] == 2
    assert told["judgify_http_requests_total", (("route", "/health"), ("status", "200"))] == 5
    assert told["judgify_quarantined_total", (("kind", "refused_by_database"),)] == 4


def test_gauges_of_several_partitions_are_one_family() -> None:
    metrics = Metrics()
    metrics.gauges.append(lambda: [("judgify_queue_rows", "x", {"partition": str(i)}, float(i)) for i in range(3)])
    told = scrape(metrics)
    assert [told["judgify_queue_rows", (("partition", str(i)),)] for i in range(3)] == [0, 1, 2]


def test_the_lag_is_told_by_the_process_that_reads_the_log() -> None:
    metrics = Metrics()
    assert not [key for key in scrape(metrics) if key[0].startswith("judgify_wal_lag")]
    metrics.slot_held, metrics.wal_end_lsn, metrics.confirmed_lsn = 1, 1000, 400
    told = scrape(metrics)
    assert told["judgify_wal_lag_bytes", ()] == 600
    assert told["judgify_wal_lag_seconds", ()] == 0


def test_the_process_is_told_of() -> None:
    told = scrape(Metrics())
    assert told["process_resident_memory_bytes", ()] > 1_000_000
    assert told["process_open_fds", ()] > 0


def record(level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("judgify_engine.x", level, "x.py", 1, "copy committed", (), None)
    vars(made).update(fields)
    return made


def test_a_json_line_has_constant_text_and_fields_apart() -> None:
    line = JsonFormatter().format(record(rows=512, partition=3, name_of="grün\n"))
    assert "\n" not in line
    told = json.loads(line)
    assert told["event"] == "copy committed"
    assert (told["level"], told["logger"], told["rows"], told["partition"]) == ("info", "judgify_engine.x", 512, 3)
    assert told["time"].endswith("Z")
    assert set(told) == {"event", "level", "logger", "rows", "partition", "name_of", "time"}


def test_any_field_can_be_logged() -> None:
    assert json.loads(JsonFormatter().format(record(what={1, 2}, error=ValueError("x"))))["error"] == "x"


def test_an_exception_is_a_field() -> None:
    made = record(logging.ERROR)
    try:
        raise ValueError("boom")
    except ValueError as error:
        made.exc_info = (ValueError, error, error.__traceback__)
    assert "boom" in json.loads(JsonFormatter().format(made))["exception"]
    assert "boom" in ConsoleFormatter().format(made)


def test_a_console_line_is_one_line() -> None:
    line = ConsoleFormatter().format(record(rows=512))
    assert line.endswith("info    copy committed  rows=512")
