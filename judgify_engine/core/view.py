"""What one dashboard shows, as a state that portions of deltas are added to, and the messages made from it. No I/O.

All figures in messages are absolute. A state holds for one position; a portion is added only when nothing before it was missed.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

import msgspec

from judgify_engine.core.histogram import MILLIONTHS, quantile
from judgify_engine.core.portion import Portion
from judgify_engine.core.rollup import Sums
from judgify_engine.core.samples import LIVE_S
from judgify_engine.core.trail import Resume, Trail
from judgify_engine.units import Position

BUCKETS_S = {"1h": 300, "6h": 1800, "24h": 3600, "7d": 21_600}
"""Time frame to the width of its buckets (design.md §3)."""
FRAMES_S = {"1h": 3600, "6h": 21_600, "24h": 86_400, "7d": 604_800}
LIVE_WINDOW_S = 600
RATE_WINDOW_S = 5
RATE_DELAY_S = 0.25
"""How long after its end a second counts as whole: its last commits must have come by."""
MAX_WORKFLOWS = 50
TELL_VERIFIED_S = 5
"""How often it is told, at most, that more is verified, when there is nothing else to tell."""
CHARTS = {
    "execution_count_chart": ("total", "failed"),
    "response_time_chart": ("mean_ms", "p95_ms"),
    "success_rate_chart": ("rate",),
}
"""Chart to what its points hold after their time."""


class ViewKey(NamedTuple):
    """Dashboards with the same key show the same and share their messages."""

    tenant_id: str
    dashboard_id: str
    workflow_id: str | None
    timeframe: str


class Snapshot(NamedTuple):
    """The rollups of one view at one position, as the store reads them."""

    position: Position
    workflows: dict[str, Sums]
    results: dict[str, int]
    chart: dict[int, Sums]
    """Bucket of the time frame (Unix seconds) to sums."""
    live: dict[int, Sums]
    """Bucket of 5 seconds to sums, the last 10 minutes."""
    verified_through_s: int | None = None
    """Judgments created before it were found equal in the table and the rollups; None: not known."""
    recomputing: bool = False
    """There is no position: the rollups are being computed anew, these figures are of before."""
    origin: str = ""
    """Of which history of the rollups the position is (core/trail); empty: of none."""


class ViewState:
    """The figures of one view at `position`."""

    def __init__(self, key: ViewKey, snapshot: Snapshot) -> None:
        self.key = key
        self.position, self.recomputing = snapshot.position, snapshot.recomputing
        self.origin, self.trail = "" if snapshot.recomputing else snapshot.origin, Trail(snapshot.position)
        self.verified_through_s = snapshot.verified_through_s
        self._told_verified: tuple[int | None, float] = (snapshot.verified_through_s, 0.0)
        self._workflows = snapshot.workflows
        self._results = snapshot.results
        self._chart, self._live = snapshot.chart, snapshot.live
        self._frame: dict[int, int] = {}
        """Histogram of the whole time frame."""
        for sums in snapshot.chart.values():
            _add_counts(self._frame, sums.histogram, 1)
        self._total = Sums(histogram={})
        for sums in snapshot.workflows.values():
            self._total.add(sums)
        self._bucket_s = BUCKETS_S[key.timeframe]
        self._seconds: dict[int, int] = defaultdict(int)
        self._stepped_rate: float | None = None
        self._last_rate = 0.0
        self.changed = False
        self._changed_chart: set[int] = set()
        self._changed_live: set[int] = set()
        self._changed_workflows: set[str] = set()
        self._forgotten_chart = self._forgotten_live = 0
        """Buckets before these were forgotten: a late change of theirs would show a part for the whole."""

    def add(self, portion: Portion) -> bool:
        """Add what changed for this view's tenant. False: something before it was missed, and nothing was added."""
        if portion.position <= self.position:
            return True
        if portion.after > self.position:
            return False
        self.position = portion.position
        only = self.key.workflow_id
        for workflow, second, sums in portion.sums:
            if only is None or only == workflow:
                self._add_sums(workflow, second, sums)
        for workflow, result, count in portion.results:
            if only is None or only == workflow:
                self._results[result] = self._results.get(result, 0) + count
        return True

    def _add_sums(self, workflow: str, second: int, sums: Sums) -> None:
        self.changed = True
        self._total.add(sums)
        self._seconds[second] += sums.total
        bucket, fine = second - second % self._bucket_s, second - second % LIVE_S
        _at(self._workflows, workflow).add(sums)
        self._changed_workflows.add(workflow)
        if bucket >= self._forgotten_chart:
            _at(self._chart, bucket).add(sums)
            _add_counts(self._frame, sums.histogram, 1)
            self._changed_chart.add(bucket)
        if fine >= self._forgotten_live:
            _at(self._live, fine).add(sums)
            self._changed_live.add(fine)

    def rate(self, now_s: float) -> float:
        """Judgments per second over the last 5 whole seconds, or since the state before where no deltas come."""
        if self._stepped_rate is not None:
            return self._stepped_rate
        for second in [second for second in self._seconds if second < now_s - 2 * RATE_WINDOW_S]:
            del self._seconds[second]
        end = int(now_s - RATE_DELAY_S)
        return sum(n for second, n in self._seconds.items() if end - RATE_WINDOW_S <= second < end) / RATE_WINDOW_S

    def has_news(self, now_s: float) -> bool:
        """Whether an update would tell anything: figures changed, the rate fell, or (now and then) more is verified."""
        if self.changed or abs(self.rate(now_s) - self._last_rate) > 1e-9:
            return True
        verified, told_s = self._told_verified
        return self.verified_through_s != verified and now_s - told_s >= TELL_VERIFIED_S

    def full(self, kind: str, now_s: float, recovered: bool | None = None) -> bytes:
        """Everything, as `initial_data` or `dashboard_update`."""
        self._forget_old(now_s)
        return self._message(kind, now_s, self._chart.keys(), self._live.keys(), self._busiest(), recovered)

    def rest(self, resume: Resume, now_s: float) -> bytes | None:
        """What changed after a position, as `initial_data` for a client that has all up to there. None: that is not known."""
        if not self.origin or resume.origin != self.origin or resume.position > self.position:
            return None
        self._note()
        changed = self.trail.after(resume.position)
        if changed is None or len(self._workflows) > MAX_WORKFLOWS:  # which are the busiest may have changed with others
            return None
        self._forget_old(now_s)
        workflows = [name for name in self._busiest() if name in changed.get("workflow", ())]
        return self._message("initial_data", now_s, changed.get("chart", ()), changed.get("live", ()), workflows, True)

    def update(self, now_s: float) -> bytes:
        """What changed since the last update, as `real_time_update`."""
        workflows = list(self._changed_workflows)
        if len(workflows) > MAX_WORKFLOWS:
            workflows = [name for name in self._busiest() if name in self._changed_workflows]
        message = self._message("real_time_update", now_s, self._changed_chart, self._changed_live, workflows)
        self._last_rate = self.rate(now_s)
        self._told_verified = (self.verified_through_s, now_s)
        self.settle()
        return message

    def keep_rate_of(self, before: "ViewState", elapsed_s: float, follows: bool) -> None:
        """Take over what no rollup holds: the seconds of the rate, what was told, and where things changed. Without deltas: the
        difference of the two states."""
        if self.origin == before.origin and self.position == before.position:
            before._note()
            self.trail = before.trail
        self._last_rate = before._last_rate  # what was told last: a rate that fell since is news
        self._told_verified = before._told_verified
        if follows:
            self._seconds = before._seconds
        else:
            self._stepped_rate = max(0, self._total.total - before._total.total) / max(elapsed_s, 0.1)

    def says_the_same_as(self, before: "ViewState") -> bool:
        """Whether nothing came, and nothing was repaired, since the state before; of what fell out of its time frame it says
        nothing."""
        return (
            self.position == before.position
            and self._total == before._total
            and self._workflows == before._workflows
            and self._results == before._results
        )

    def settle(self) -> None:
        """What is here was told in full: the next update tells what comes after."""
        self._note()
        self.changed = False
        self._changed_chart, self._changed_live, self._changed_workflows = set(), set(), set()

    def _note(self) -> None:
        """Remember where that which has changed, did."""
        for kind, parts in (
            ("chart", self._changed_chart),
            ("live", self._changed_live),
            ("workflow", self._changed_workflows),
        ):
            self.trail.note(self.position, kind, parts)

    def _forget_old(self, now_s: float) -> None:
        self._forgotten_chart = max(self._forgotten_chart, int(now_s) - FRAMES_S[self.key.timeframe] - self._bucket_s)
        self._forgotten_live = max(self._forgotten_live, int(now_s) - LIVE_WINDOW_S)
        for start in [start for start in self._chart if start < self._forgotten_chart]:
            _add_counts(self._frame, self._chart.pop(start).histogram, -1)
        for start in [start for start in self._live if start < self._forgotten_live]:
            del self._live[start]

    def _busiest(self) -> list[str]:
        return sorted(self._workflows, key=lambda name: -self._workflows[name].total)[:MAX_WORKFLOWS]

    def _message(
        self, kind: str, now_s: float, chart: Any, live: Any, workflows: list[str], recovered: bool | None = None
    ) -> bytes:
        points = [(start, self._chart[start]) for start in sorted(chart) if start in self._chart]
        recovery = {} if recovered is None else {"recovered": recovered}
        return msgspec.json.encode(
            {
                "type": kind,
                **recovery,
                "dashboard_id": self.key.dashboard_id,
                "tenant_id": self.key.tenant_id,
                "workflow_id": self.key.workflow_id,
                "position": str(self.position),
                "resume": f"{self.position}@{self.origin}" if self.origin else None,
                "recomputing": self.recomputing,
                "verified_through": None if self.recomputing else self.verified_through_s,
                "server_time": round(now_s, 3),
                "rate_per_s": round(self.rate(now_s), 2),
                "summary": summary_of(self._total, self._results, _p95_ms(self._frame)),
                "timeframe": self.key.timeframe,
                "bucket_s": self._bucket_s,
                "charts": {chart: points_of(chart, points) for chart in CHARTS},
                "live_bucket_s": LIVE_S,
                "live_window_s": LIVE_WINDOW_S,
                "live": [
                    [start, s.total, s.failed, _mean_ms(s), _p95_ms(s.histogram)]
                    for start, s in ((start, self._live[start]) for start in sorted(live) if start in self._live)
                ],
                "workflows": [
                    {
                        "workflow_id": name,
                        "total_executions": self._workflows[name].total,
                        "successful_executions": self._workflows[name].total - self._workflows[name].failed,
                        "mean_execution_time_ms": _mean_ms(self._workflows[name]),
                    }
                    for name in workflows
                ],
            }
        )


def points_of(chart: str, buckets: Iterable[tuple[int, Sums]]) -> list[list[Any]]:
    """The points of a chart: the time, then what `CHARTS` names."""
    if chart == "execution_count_chart":
        return [[start, sums.total, sums.failed] for start, sums in buckets]
    if chart == "response_time_chart":
        return [[start, _mean_ms(sums), _p95_ms(sums.histogram)] for start, sums in buckets]
    return [[start, _success_rate(sums)] for start, sums in buckets]


K = TypeVar("K")


def _at(table: dict[K, Sums], place: K) -> Sums:
    """The sums at a place, made when it is new."""
    known = table.get(place)
    if known is None:
        known = table[place] = Sums(histogram={})
    return known


def _add_counts(into: dict[int, int], counts: dict[int, int], sign: int) -> None:
    for slot, count in counts.items():
        into[slot] = into.get(slot, 0) + sign * count


def summary_of(total: Sums, results: dict[str, int], p95_ms: float | None) -> dict[str, Any]:
    """The summary of PROTOCOL.md."""
    return {
        "total_executions": total.total,
        "successful_executions": total.total - total.failed,
        "failed_executions": total.failed,
        "success_rate": _success_rate(total),
        "mean_execution_time_ms": _mean_ms(total),
        "p95_execution_time_ms": p95_ms,
        "mean_confidence": round(total.confidence_ppm / 1e6 / total.total, 6) if total.total else None,
        "methods": {"rule": total.rule, "llm": total.llm, "hybrid": total.hybrid},
        "results": {name: count for name, count in sorted(results.items()) if count},
    }


def _success_rate(sums: Sums) -> float | None:
    return round((sums.total - sums.failed) / sums.total, 6) if sums.total else None


def _mean_ms(sums: Sums) -> float | None:
    return round(sums.execution_time_us / 1000 / sums.total, 4) if sums.total else None


def _p95_ms(histogram: dict[int, int]) -> float | None:
    value = quantile(histogram, 0.95)
    return None if value is None else round(value / MILLIONTHS, 4)
