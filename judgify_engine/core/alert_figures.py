"""What alert conditions are asked of: which figures rules need, and the figures of one window made of what was read. Pure.

`window` is of the last `window_s` seconds, in whole buckets of 5 s (of 5 minutes beyond an hour). Confidence, results, methods
and tracked fields are stored by 5 minutes, so theirs begins with the bucket in which the window begins. `usual.count` is the
median of what came in windows as wide over the last day, or since the first judgment in it; it needs 15 minutes of past.
`quality` is of this hour and the one before. Where there is nothing, a figure is absent.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from judgify_engine.core.alert_rules import CompiledCondition
from judgify_engine.core.histogram import MILLIONTHS, quantile
from judgify_engine.core.samples import CONFIDENCE, FINE_S, HOUR_S, LIVE_S, TRACKED_PREFIX

RESULT_PREFIX, METHOD_PREFIX = "result.", "method."
NARROW_UP_TO_S = HOUR_S
"""Windows up to this are made of buckets of 5 s, wider ones of those of 5 minutes."""
USUAL_S, LEAST_PAST = 86_400, 3
"""How far back it is looked for what is usual, and how many buckets of 5 minutes it takes."""
MOST_LOOKS = 24
"""Moments that one evaluation looks at; after a longer gap they lie further apart."""
LONGEST_GAP_S = 4 * HOUR_S
"""What lies further back is not looked at any more: its narrow buckets may be gone (`keep.live_hours` is 6 at least, a window
an hour at most of them), and what is gone would be taken for nothing having come."""
MOST_RESULTS = 50


class Window(NamedTuple):
    """[start, end) in Unix seconds."""

    start_s: int
    end_s: int

    @property
    def width_s(self) -> int:
        """Of the buckets that execution times are read from."""
        return LIVE_S if self.end_s - self.start_s <= NARROW_UP_TO_S else FINE_S

    @property
    def fine_start_s(self) -> int:
        """Where the first bucket of 5 minutes begins."""
        return self.start_s - self.start_s % FINE_S


class Sums(NamedTuple):
    """Of values in their unit."""

    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs of sums
    failed: int
    total: float
    low: float | None
    high: float | None


Place = tuple[str, str]
"""tenant, workflow (empty: all together)."""


class Need(NamedTuple):
    """What has to be read for some rules at some moments. Tenants: of whom it is needed."""

    tenants: Sequence[str]
    windows: Sequence[Window]
    by_workflow: Sequence[str]
    p95_windows: Sequence[Window]
    p95: Sequence[str]
    fine_windows: Sequence[Window]
    fine: Sequence[str]
    metrics: Sequence[str]
    """Stored names, of `fine`; a prefix ends with a full stop."""
    usual: Sequence[str]
    usual_by_workflow: Sequence[str]
    quality: Sequence[str]


class Read(NamedTuple):
    """What was read."""

    sums: Mapping[tuple[Window, str, str], Sums]
    """By window, tenant and workflow."""
    histograms: Mapping[tuple[Window, str, str], Mapping[int, int]]
    fine: Mapping[tuple[Window, str, str], Mapping[str, Sums]]
    """By metric."""
    past: Mapping[Place, tuple[int, Sequence[int]]]
    """Of the last day: where the first bucket of 5 minutes begins, and the counts of those that hold something."""
    past_end_s: int
    quality: Mapping[str, tuple[int, int]]
    """By tenant: valid and invalid records."""


def instants(through_s: float, until_s: float, interval_s: float) -> list[int]:
    """The moments to look at after `through_s`, up to the last whole bucket before `until_s`; the last one of a first time."""
    last_s = int(until_s // LIVE_S) * LIVE_S
    since_s = max(through_s, last_s - LONGEST_GAP_S)
    if through_s < 0 or last_s - through_s <= max(interval_s, LIVE_S):
        return [last_s] if last_s > through_s else []
    step_s = max(interval_s, (last_s - since_s) / MOST_LOOKS)
    count = max(1, int((last_s - since_s) / step_s))
    found = {int((last_s - place * step_s) // LIVE_S) * LIVE_S for place in range(count)}
    return sorted(second for second in found if second > through_s)


def need_of(rules: Iterable[tuple[str, CompiledCondition]], moments: Sequence[int]) -> Need:
    """`rules`: with their tenants."""
    windows, p95_windows, fine_windows = (set[Window]() for _ in range(3))
    tenants, by_workflow, p95, fine, usual, usual_by_workflow, quality = (set[str]() for _ in range(7))
    metrics: set[str] = set()
    of_width: dict[int, set[Window]] = {}
    for tenant_id, compiled in rules:
        width_s = compiled.rule.window_s
        tenants.add(tenant_id)
        if width_s not in of_width:
            of_width[width_s] = {Window(end_s - width_s, end_s) for end_s in moments}
            windows |= of_width[width_s]
        if compiled.rule.each == "workflow":
            by_workflow.add(tenant_id)
        if compiled.uses("window.p95_execution_time_ms"):
            p95.add(tenant_id)
            p95_windows |= of_width[width_s]
        named = {TRACKED_PREFIX + field for field in compiled.tracked}
        named |= {CONFIDENCE} if compiled.uses("window.mean_confidence") else set()
        named |= {RESULT_PREFIX} if compiled.uses("window.results") else set()
        named |= {METHOD_PREFIX} if compiled.uses("window.methods") else set()
        if named:
            fine.add(tenant_id)
            fine_windows |= of_width[width_s]
            metrics |= named
        if compiled.uses("usual.count"):
            usual.add(tenant_id)
            if compiled.rule.each == "workflow":
                usual_by_workflow.add(tenant_id)
        if compiled.uses("quality.valid_share") or compiled.uses("quality.count"):
            quality.add(tenant_id)
    return Need(
        tenants=sorted(tenants),
        windows=sorted(windows),
        by_workflow=sorted(by_workflow),
        p95_windows=sorted(p95_windows),
        p95=sorted(p95),
        fine_windows=sorted(fine_windows),
        fine=sorted(fine),
        metrics=sorted(metrics),
        usual=sorted(usual),
        usual_by_workflow=sorted(usual_by_workflow),
        quality=sorted(quality),
    )


def figures(compiled: CompiledCondition, read: Read, tenant_id: str, workflow_id: str, end_s: int) -> dict[str, Any]:
    """What a rule is asked of at one moment."""
    window = Window(end_s - compiled.rule.window_s, end_s)
    key = window, tenant_id, workflow_id
    sums = read.sums.get(key)
    told: dict[str, Any] = {"count": 0, "failed": 0, "rate_per_s": 0.0}
    if sums is not None and sums.count > 0:
        told = {
            "count": sums.count,
            "failed": sums.failed,
            "rate_per_s": _rounded(sums.count / compiled.rule.window_s),
            "success_rate": _rounded((sums.count - sums.failed) / sums.count),
            "mean_execution_time_ms": _rounded(sums.total / sums.count),
        }
        if sums.high is not None:
            told["max_execution_time_ms"] = sums.high
        p95 = quantile(read.histograms.get(key, {}), 0.95)
        if p95 is not None:
            told["p95_execution_time_ms"] = _rounded(p95 / MILLIONTHS)
    fine = read.fine.get(key, {})
    confidence = fine.get(CONFIDENCE)
    if confidence is not None and confidence.count > 0:
        told["mean_confidence"] = _rounded(confidence.total / confidence.count)
    told["results"], told["methods"] = _counts(fine, RESULT_PREFIX), _counts(fine, METHOD_PREFIX)
    past = read.past.get((tenant_id, workflow_id)) if compiled.uses("usual.count") else None
    usual = usual_count(past, read.past_end_s, compiled.rule.window_s)
    valid, invalid = read.quality.get(tenant_id, (0, 0))
    total = valid + invalid
    return {
        "window": told,
        "usual": {} if usual is None else {"count": usual},
        "quality": {"count": total, "valid_share": _rounded(valid / total)} if total else {"count": 0},
        "tracked": {field: _tracked(fine.get(TRACKED_PREFIX + field)) for field in sorted(compiled.tracked)},
    }


def usual_count(past: tuple[int, Sequence[int]] | None, end_s: int, window_s: int) -> float | None:
    """How many there usually are in a window as wide; None: there is too little past. `past`, `end_s`: as in `Read`.

    Of buckets of 5 minutes: a median of them does not heed a burst, nor a pause. A wide window is as many of them.
    """
    if past is None:
        return None
    first_s, counts = past
    buckets = (end_s - first_s) // FINE_S
    if buckets < LEAST_PAST:
        return None
    return _rounded(median([*counts, *[0] * (buckets - len(counts))]) * window_s / FINE_S)


def _counts(fine: Mapping[str, Sums], prefix: str) -> dict[str, int]:
    found = [(name.removeprefix(prefix), sums.count) for name, sums in fine.items() if name.startswith(prefix) and sums.count]
    return dict(sorted(found, key=lambda one: -one[1])[:MOST_RESULTS])


def _tracked(sums: Sums | None) -> dict[str, Any]:
    if sums is None or sums.count <= 0:
        return {"count": 0}
    told: dict[str, Any] = {"count": sums.count, "mean": _rounded(sums.total / sums.count)}
    return told | ({"min": sums.low, "max": sums.high} if sums.low is not None and sums.high is not None else {})


def _rounded(value: float) -> float:
    return float(round(value, 6))
