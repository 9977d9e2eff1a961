"""What one dashboard shows, as a state that portions of deltas are added to, and the messages made from it. No I/O.

All figures in messages are absolute. A state holds for one position; a portion is added only when nothing before it was missed.
What its charts hold is in `core/chart_state`.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from judgify_engine.core.chart_points import MAX_WORKFLOWS, Point, busiest, p95_ms, workflow_points
from judgify_engine.core.chart_state import Changed, ChartState, FrameDetails, at
from judgify_engine.core.dashboards import ChartDefinition, Defined, needs_of
from judgify_engine.core.message import LIVE_WINDOW_S, encode_message, summary_of
from judgify_engine.core.portion import Portion
from judgify_engine.core.rollup import Details, Sums
from judgify_engine.core.samples import LIVE_S
from judgify_engine.core.trail import Resume, Trail
from judgify_engine.units import Position

RATE_WINDOW_S = 5
RATE_DELAY_S = 0.25
"""How long after its end a second counts as whole: its last commits must have come by."""
TELL_VERIFIED_S = 5
"""How often it is told, at most, that more is verified, when there is nothing else to tell."""
UNTOLD = Details([], [], None)


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
    details: FrameDetails | None = None


def origin_of(history: str, key: ViewKey, version: int) -> str:
    """Of what a position is: a history of the rollups, and what of them is shown (a client, or who defines the dashboard, may
    have changed that since)."""
    parts = (*key[:2], key.workflow_id or "", key.timeframe, str(version))
    shown = hashlib.blake2b("\0".join(parts).encode(), digest_size=4)
    return f"{history}{shown.hexdigest()}" if history else ""


class ViewState:
    """The figures of one view at `position`. `defined`: what its dashboard is."""

    def __init__(self, key: ViewKey, defined: Defined, snapshot: Snapshot) -> None:
        """`snapshot`: of what `needs_of` says; it becomes a part of the state."""
        self.key, self.defined = key, defined
        self.needs = needs_of(defined.dashboard, key.workflow_id)
        self.position, self.recomputing = snapshot.position, snapshot.recomputing
        self.origin = "" if snapshot.recomputing else origin_of(snapshot.origin, key, defined.version)
        self.trail = Trail(snapshot.position)
        self.verified_through_s = snapshot.verified_through_s
        self._told_verified: tuple[int | None, float] = (snapshot.verified_through_s, 0.0)
        self._workflows = snapshot.workflows
        self._results = snapshot.results
        self._charts = ChartState(key.timeframe, self.needs, snapshot.chart, snapshot.details or FrameDetails())
        self._live = snapshot.live
        self._total = Sums(histogram={})
        for sums in snapshot.workflows.values():
            self._total.add(sums)
        self._seconds: dict[int, int] = defaultdict(int)
        self._stepped_rate: float | None = None
        self._last_rate = 0.0
        self.changed = False
        self._changed_live: set[int] = set()
        self._changed_workflows: set[str] = set()
        self._forgotten_live = 0
        """Buckets before it were forgotten: a late change of theirs would show a part for the whole."""

    def add(self, portion: Portion) -> bool:
        """Add what changed for this view's tenant. False: something before it was missed, or it does not tell all that is
        shown, and nothing was added."""
        if portion.position <= self.position:
            return True
        details = portion.details or (UNTOLD if portion.sums or portion.results else Details([], [], []))
        if portion.after > self.position or not self._charts.can_add(details):
            return False
        self.position = portion.position
        shows = self.needs.shows
        for workflow, second, sums in portion.sums:
            if shows(workflow):
                self._add_sums(workflow, second, sums)
        for workflow, result, count in portion.results:
            if shows(workflow):
                self._results[result] = self._results.get(result, 0) + count
        self._add_details(portion, details)
        return True

    def _add_sums(self, workflow: str, second: int, sums: Sums) -> None:
        self.changed = True
        self._total.add(sums)
        self._seconds[second] += sums.total
        fine = second - second % LIVE_S
        at(self._workflows, workflow).add(sums)
        self._changed_workflows.add(workflow)
        self._charts.add_sums(second, sums)
        if fine >= self._forgotten_live:
            at(self._live, fine).add(sums)
            self._changed_live.add(fine)

    def _add_details(self, portion: Portion, details: Details) -> None:
        shows, charts = self.needs.shows, self._charts
        for (workflow, result, count), second in zip(portion.results, details.times, strict=False):
            if shows(workflow):
                charts.add_result(second, result, count)
        for workflow, second, bins in details.confidences:
            if shows(workflow):
                charts.add_confidences(second, bins)
        for workflow, metric, second, told in details.tracked or ():
            if shows(workflow):
                charts.add_tracked(metric, second, told)

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
        self._charts.move_to(now_s)
        if self.changed or self._charts.changed.details or abs(self.rate(now_s) - self._last_rate) > 1e-9:
            return True
        verified, told_s = self._told_verified
        return self.verified_through_s != verified and now_s - told_s >= TELL_VERIFIED_S

    def full(self, kind: str, now_s: float, recovered: bool | None = None) -> bytes:
        """Everything, as `initial_data` or `dashboard_update`."""
        self._forget(now_s)
        return self._message(kind, now_s, self._live, busiest(self._workflows), None, recovered)

    def rest(self, resume: Resume, now_s: float) -> bytes | None:
        """What changed after a position, as `initial_data` for a client that has all up to there. None: that is not known."""
        if not self.origin or resume.origin != self.origin or resume.position > self.position:
            return None
        if resume.definition_version not in (None, self.defined.version):
            return None
        self._note()
        changed = self.trail.after(resume.position)
        if changed is None or len(self._workflows) > MAX_WORKFLOWS:  # which are the busiest may have changed with others
            return None
        self._forget(now_s)
        live = {start for start in changed.get("live", set()) if start >= self._forgotten_live}
        rows = changed.get("workflow", set())
        charts = self._charts.since(changed.get("chart", set()))
        if charts is None or not (live <= self._live.keys() and rows <= self._workflows.keys()):
            return None  # what is there no more cannot be told as a change
        workflows = [name for name in busiest(self._workflows) if name in rows]
        return self._message("initial_data", now_s, live, workflows, charts, True)

    def update(self, now_s: float) -> bytes:
        """What changed since the last update, as `real_time_update`."""
        workflows = list(self._changed_workflows)
        if len(workflows) > MAX_WORKFLOWS:
            workflows = [name for name in busiest(self._workflows) if name in self._changed_workflows]
        message = self._message("real_time_update", now_s, self._changed_live, workflows, self._charts.changed)
        self._last_rate = self.rate(now_s)
        self._told_verified = (self.verified_through_s, now_s)
        self.settle()
        return message

    def keep_rate_of(self, before: "ViewState", elapsed_s: float, follows: bool) -> None:
        """Take over what no rollup holds: the seconds of the rate, what was told, and where things changed. Without deltas: the
        difference of the two states."""
        if (self.origin, self.position, self.defined) == (before.origin, before.position, before.defined):
            before._note()
            self.trail = before.trail
        self._last_rate = before._last_rate  # what was told last: a rate that fell since is news
        self._told_verified = before._told_verified
        if follows and self.needs.workflow_ids == before.needs.workflow_ids:
            self._seconds = before._seconds
        elif follows:
            self._last_rate = 0.0  # of other workflows
        else:
            self._stepped_rate = max(0, self._total.total - before._total.total) / max(elapsed_s, 0.1)

    def says_the_same_as(self, before: "ViewState") -> bool:
        """Whether nothing came, and nothing was repaired or defined anew, since the state before; of what fell out of its time
        frame it says nothing."""
        return (
            self.position == before.position
            and self.defined == before.defined
            and self._total == before._total
            and self._workflows == before._workflows
            and self._results == before._results
        )

    def settle(self) -> None:
        """What is here was told in full: the next update tells what comes after."""
        self._note()
        self.changed = False
        self._changed_live, self._changed_workflows = set(), set()
        self._charts.settle()

    def _note(self) -> None:
        """Remember where that which has changed, did."""
        for kind, parts in (
            ("chart", self._charts.changed.buckets),
            ("live", self._changed_live),
            ("workflow", self._changed_workflows),
        ):
            self.trail.note(self.position, kind, parts)

    def _forget(self, now_s: float) -> None:
        self._charts.forget(now_s)
        self._forgotten_live = max(self._forgotten_live, int(now_s) - LIVE_WINDOW_S)
        for start in [start for start in self._live if start < self._forgotten_live]:
            del self._live[start]

    def _message(
        self,
        kind: str,
        now_s: float,
        live: Iterable[int],
        workflows: list[str],
        changed: Changed | None,
        recovered: bool | None = None,
    ) -> bytes:
        charts = self._charts
        charts.move_to(now_s)
        rows = [(name, self._workflows[name]) for name in workflows]
        head: dict[str, Any] = {
            "type": kind,
            **({} if recovered is None else {"recovered": recovered}),
            "dashboard_id": self.key.dashboard_id,
            "definition_version": self.defined.version,
            "tenant_id": self.key.tenant_id,
            "workflow_id": self.key.workflow_id,
            "position": str(self.position),
            "resume": f"{self.position}@{self.origin}" if self.origin else None,
            "recomputing": self.recomputing,
            "verified_through": None if self.recomputing else self.verified_through_s,
            "server_time": round(now_s, 3),
            "rate_per_s": round(self.rate(now_s), 2),
            "summary": summary_of(self._total, self._results, p95_ms(charts.times)),
            "timeframe": self.key.timeframe,
            "bucket_s": charts.bucket_s,
            "charts": {
                chart.id: {"type": chart.type, "points": points}
                for chart in self.defined.dashboard.charts
                if (points := self._points(chart, rows, changed)) or changed is None
            },
        }
        return encode_message(head, [(start, self._live[start]) for start in sorted(live) if start in self._live], rows)

    def _points(self, chart: ChartDefinition, rows: list[tuple[str, Sums]], changed: Changed | None) -> list[Point]:
        return workflow_points(rows) if chart.type == "workflows_chart" else self._charts.points(chart, changed)
