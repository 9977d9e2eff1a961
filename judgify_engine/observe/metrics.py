"""All figures of one process, under one roof, and how `/metrics` shows them.

Hot counters are plain integers on this object, read when scraped; histograms are a list and a bisect (0.3 µs), because
prometheus_client takes a lock for each observation. Names: `judgify_<what>_<unit>[_total]`, base units.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import psutil
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from judgify_engine import __version__

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
ROWS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)


class Histogram:
    """Counts by upper bound, as Prometheus wants them."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self.counts)

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, observations up to it), the last one `+Inf`."""
        seen, result = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            seen += count
            result.append((bound, float(seen)))
        return result


class Metrics(Collector):
    """The figures. Each stage of design.md §2 has its histogram; `gauges` are asked when scraped."""

    def __init__(self) -> None:
        self.admit = Histogram()
        self.decode = Histogram()
        self.judge = Histogram()
        self.queue = Histogram()
        self.commit = Histogram()
        self.answer = Histogram()
        self.rollup = Histogram()
        self.publish = Histogram()
        self.push = Histogram()
        self.loop_lag = Histogram()
        self.batch_rows = Histogram(ROWS)
        self.judgments: Counter[str] = Counter()
        """Answered ones by outcome: completed, failed, replayed."""
        self.errors: Counter[str] = Counter()
        """Requests answered with an error, by its code."""
        self.requests: Counter[tuple[str, int]] = Counter()
        """By route and status."""
        self.changes_decoded = 0
        self.changes_skipped = 0
        self.changes_applied = 0
        self.slot_held = 0
        self.confirmed_lsn = 0
        self.wal_end_lsn = 0
        self.oldest_waiting_commit_us = 0
        """When the oldest change that is decoded and not rolled up was committed; 0: there is none."""
        self.published = 0
        self.publishing = 0
        self.published_lsn = 0
        self.publish_wal_end_lsn = 0
        self.reconciled_rows = 0
        self.differences_open = 0
        self.push_messages = 0
        self.push_skipped = 0
        self.relay_messages = 0
        self.relay_dropped = 0
        self.relay_gaps: Counter[str] = Counter()
        """Views that had missed something, by where it was found."""
        self.commits_resolved = 0
        self.quarantined: Counter[str] = Counter()
        """Refused requests by what is wrong with them (core/quality)."""
        self.many_results = 0
        """Tenants and hours with more different results than figures by result are for (core/variety)."""
        self.actions: Counter[str] = Counter()
        """Actions made, and attempts by outcome: see pipeline/action_loop."""
        self.action = Histogram((*SECONDS, 60.0))
        """Attempts of actions."""
        self.scaling: Counter[str] = Counter()
        self.alert_evaluations: Counter[str] = Counter()
        self.alert_deliveries: Counter[str] = Counter()
        """Decisions about the number of processes: out, in; and failed."""
        self.gauges: list[Callable[[], Iterable[tuple[str, str, dict[str, str], float]]]] = []
        """Each yields (name, help, labels, value)."""
        self._process = psutil.Process()
        self._started_s = time.time()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    async def figures(self) -> bytes:
        """What `/metrics` answers where this process is the only one."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        yield from self._stages()
        yield from self._counters()
        yield from self._gauges()

    def _stages(self) -> Iterator[Metric]:
        stages = HistogramMetricFamily(
            "judgify_stage_duration_seconds",
            "Time that a judgment, a batch or a change spends in a stage.",
            labels=["stage"],
        )
        for stage in ("admit", "decode", "judge", "queue", "commit", "answer", "rollup", "publish", "push"):
            histogram: Histogram = getattr(self, stage)
            stages.add_metric([stage], histogram.cumulative(), histogram.sum)
        yield stages
        for name, text, histogram in (
            ("judgify_batch_rows", "Judgments in one commit.", self.batch_rows),
            ("judgify_action_duration_seconds", "Time that an attempt of an action takes.", self.action),
            ("judgify_event_loop_lag_seconds", "How late the event loop wakes a timer.", self.loop_lag),
        ):
            family = HistogramMetricFamily(name, text)
            family.add_metric([], histogram.cumulative(), histogram.sum)
            yield family

    def _counters(self) -> Iterator[Metric]:
        judgments = CounterMetricFamily("judgify_judgments", "Judgments by outcome.", labels=["outcome"])
        for outcome, count in list(self.judgments.items()):
            judgments.add_metric([outcome], count)
        yield judgments
        errors = CounterMetricFamily("judgify_errors", "Requests answered with an error, by its code.", labels=["code"])
        for code, count in list(self.errors.items()):
            errors.add_metric([code], count)
        yield errors
        requests = CounterMetricFamily("judgify_http_requests", "Answered requests.", labels=["route", "status"])
        for (route, status), count in list(self.requests.items()):
            requests.add_metric([route, str(status)], count)
        yield requests
        quarantined = CounterMetricFamily("judgify_quarantined", "Refused requests by kind of error.", labels=["kind"])
        for kind, count in list(self.quarantined.items()):
            quarantined.add_metric([kind], count)
        yield quarantined
        gaps = CounterMetricFamily(
            "judgify_relay_gaps", "Views that may have missed changes, by where they were read.", labels=["mended"]
        )
        for where, count in list(self.relay_gaps.items()):
            gaps.add_metric([where], count)
        yield gaps
        text = "Actions that were made, attempts that succeeded or failed, actions given up, entries that made none."
        actions = CounterMetricFamily("judgify_actions", text, labels=["outcome"])
        for outcome, count in list(self.actions.items()):
            actions.add_metric([outcome], count)
        yield actions
        scaling = CounterMetricFamily("judgify_scaling_decisions", "Decisions to have more or fewer.", labels=["action"])
        for action, count in list(self.scaling.items()):
            scaling.add_metric([action], count)
        yield scaling
        text = "Evaluations of all alert rules: done, behind (the rollups had not come far enough) or failed."
        evaluations = CounterMetricFamily("judgify_alert_evaluations", text, labels=["outcome"])
        for outcome, count in list(self.alert_evaluations.items()):
            evaluations.add_metric([outcome], count)
        yield evaluations
        deliveries = CounterMetricFamily("judgify_alert_deliveries", "Attempts to tell a sink of an alert.", labels=["outcome"])
        for outcome, count in list(self.alert_deliveries.items()):
            deliveries.add_metric([outcome], count)
        yield deliveries
        changes = CounterMetricFamily("judgify_changes", "Changes read from the log, by what became of them.", labels=["stage"])
        for stage in ("decoded", "skipped", "applied"):
            changes.add_metric([stage], getattr(self, f"changes_{stage}"))
        yield changes
        for name, text, value in (
            ("judgify_push_messages", "Messages written to dashboards.", self.push_messages),
            (
                "judgify_push_skipped",
                "Messages that a slow dashboard missed; it got the latest state later.",
                self.push_skipped,
            ),
            ("judgify_many_results", "Tenants and hours with more than 1000 different results.", self.many_results),
            ("judgify_relay_messages", "Messages of live changes sent to all processes.", self.relay_messages),
            ("judgify_relay_dropped", "Messages of live changes that could not be sent.", self.relay_dropped),
            (
                "judgify_commits_resolved",
                "Commits whose outcome was unknown at first and was found out.",
                self.commits_resolved,
            ),
            (
                "judgify_published_entries",
                "Entries appended to the streams of judgments.",
                self.published,
            ),
            (
                "judgify_reconciled_rows",
                "Judgments read from the table to be compared with the rollups.",
                self.reconciled_rows,
            ),
        ):
            yield CounterMetricFamily(name, text, value)

    def _gauges(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for source in self.gauges:
            for name, text, labels, value in source():
                family = families.get(name)
                if family is None:
                    family = families[name] = GaugeMetricFamily(name, text, labels=list(labels))
                family.add_metric(list(labels.values()), value)
        yield from families.values()
        yield GaugeMetricFamily("judgify_slot_held", "1 in the process that reads the log.", self.slot_held)
        yield GaugeMetricFamily("judgify_publishing", "1 in the process that fills the streams.", self.publishing)
        if self.slot_held:
            name, text = "judgify_reconciliation_differences", "Ranges in which rollups and table differ."
            yield GaugeMetricFamily(name, text, self.differences_open)
            lag = max(0, self.wal_end_lsn - self.confirmed_lsn)
            yield GaugeMetricFamily("judgify_wal_lag_bytes", "Log written but not confirmed as rolled up.", lag)
            waiting_us = self.oldest_waiting_commit_us
            seconds = max(0.0, time.time() - waiting_us / 1e6) if waiting_us else 0.0
            yield GaugeMetricFamily("judgify_wal_lag_seconds", "Age of the oldest commit read and not rolled up.", seconds)
        with self._process.oneshot():
            cpu = self._process.cpu_times()
            yield CounterMetricFamily("process_cpu_seconds", "User and system CPU time.", cpu.user + cpu.system)
            yield GaugeMetricFamily("process_resident_memory_bytes", "Resident memory.", self._process.memory_info().rss)
            yield GaugeMetricFamily("process_open_fds", "Open file descriptors.", self._process.num_fds())
        yield GaugeMetricFamily("process_start_time_seconds", "Start time, Unix seconds.", self._started_s)
        info = GaugeMetricFamily("judgify_info", "The version.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
