"""What reports of processes make of a window: differences of counters, and nothing from who was not heard."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.builders import report, steady

from judgify_engine.core.figures import History, Report
from judgify_engine.errors import Corrupt
from judgify_engine.wire.scaling import decode_report, encode_report

WINDOW_S, FRESH_S = 60.0, 15.0


def figures(reports: list[Report], at_s: float = 1000.0, *, by_host: bool = False) -> Any:
    return History(reports).figures(at_s, WINDOW_S, FRESH_S, by_host=by_host)


def test_rates_come_from_the_differences_of_counters() -> None:
    found = figures(steady())
    assert (found.processes, found.replicas, found.starting) == (1, 1, 0)
    assert found.cpu == pytest.approx(0.5)
    assert found.response_ms == pytest.approx(100.0)
    assert found.answers_per_s == pytest.approx(10.0)


def test_a_process_that_may_use_less_than_a_core_is_busy_earlier() -> None:
    assert figures(steady(cores=0.5)).cpu == pytest.approx(1.0)


@given(st.sets(st.integers(1, 19)))
def test_lost_reports_change_no_rate(lost: set[int]) -> None:
    """As long as there is one near each end of the window."""
    lost -= {7, 8, 17, 18, 19}
    reports = [one for place, one in enumerate(steady()) if place not in lost]
    assert figures(reports).cpu == pytest.approx(0.5)
    assert figures(reports).response_ms == pytest.approx(100.0)


def test_response_is_the_mean_over_judgments_not_over_processes() -> None:
    busy = [one._replace(process="b/1", answers=int(one.at_s * 90), answers_s=one.at_s * 90 * 0.010) for one in steady()]
    assert figures(steady() + busy).response_ms == pytest.approx((10 * 100 + 90 * 10) / 100)
    assert figures([one._replace(answers=7, answers_s=1.0) for one in steady()]).response_ms is None


def test_the_longest_queue_and_the_oldest_wait_of_any_process_count() -> None:
    found = figures(steady() + steady("b/1", queue_rows=2000, oldest_s=7.0))
    assert (found.queue_rows, found.oldest_s) == (2000.0, 7.0)


def test_a_burst_that_is_over_is_not_a_queue() -> None:
    reports = [one._replace(queue_rows=9000 if place == 15 else 0) for place, one in enumerate(steady())]
    assert figures(reports).queue_rows < 1000


def test_who_has_stopped_to_report_is_not_counted() -> None:
    found = figures(steady() + steady("b/1", end_s=980.0, cpu_s=0.0))
    assert (found.processes, found.starting) == (1, 0)
    assert figures(steady() + steady("b/1", end_s=985.0)).processes == 2


def test_who_was_not_there_for_the_whole_window_is_starting() -> None:
    found = figures(steady() + steady("b/1", start_s=950.0))
    assert (found.processes, found.replicas, found.starting) == (1, 1, 1)
    assert figures(steady("b/1", start_s=940.0)).processes == 1


def test_a_silence_longer_than_the_window_covers_nothing() -> None:
    assert figures([report(at_s=900.0), report(at_s=1000.0)]).processes == 0


def test_a_process_that_was_started_again_is_another_one() -> None:
    """Its counters begin anew; nothing becomes negative."""
    again = [one._replace(process="a/2", cpu_s=0.0) for one in steady(start_s=960.0)]
    found = figures(steady(end_s=955.0) + again)
    assert (found.processes, found.starting) == (0, 1)


def test_pods_are_counted_by_their_hosts() -> None:
    reports = [one for name in ("a/1", "a/2", "b/1", "b/2") for one in steady(name)]
    found = figures(reports + steady("c/1", start_s=990.0) + steady("b/3", start_s=990.0), by_host=True)
    assert (found.processes, found.replicas, found.starting) == (4, 2, 1)


def test_the_past_can_be_looked_at() -> None:
    reports = steady(start_s=800.0, end_s=900.0, memory=0.2) + steady(start_s=905.0, memory=0.8)
    assert figures(reports, 900.0).memory == pytest.approx(0.2)
    assert figures(reports, 1000.0).memory == pytest.approx(0.8)


@given(st.floats(0, 1e9), st.floats(0, 1), st.integers(0, 2**60), st.text(max_size=30))
def test_a_report_survives_the_stream(cpu_s: float, memory: float, answers: int, group: str) -> None:
    one = report(cpu_s=cpu_s, memory=memory, answers=answers, group=group)
    assert decode_report(encode_report(one), one.at_s) == one


@pytest.mark.parametrize(
    "change",
    [{b"cpu_s": b"x"}, {b"cores": b"0"}, {b"cores": b"nan"}, {b"group": b"\xff"}, {b"answers": b"1.5"}, {b"cpu_s": b"inf"}],
)
def test_what_is_no_report_is_refused(change: dict[bytes, bytes]) -> None:
    fields = encode_report(report())
    with pytest.raises(Corrupt):
        decode_report({**fields, **change}, 1000.0)
    with pytest.raises(Corrupt):
        decode_report({name: value for name, value in fields.items() if name not in change}, 1000.0)
