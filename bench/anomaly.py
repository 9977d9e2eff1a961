"""`bench anomaly`: a file of readings through the anomaly rule, as the engine would have judged them at the time.

The readings (CSV: `timestamp`, `value`) become buckets of 5 minutes; a bucket is judged by what came before it only, by the
code that the engine runs (core/anomaly, core/alert_state). Printed are all firings with the labelled window that each
is in, and how much the outcome depends on the rule's settings: each of them alone is varied around what the rule says. The
labels are those of the machine temperature readings of the Numenta Anomaly Benchmark; the second and the last are failures.

Good means: at least one firing in each of the two failure windows, and fewer than 5 outside all windows.
"""

import argparse
import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from judgify_engine.core.alert_rules import Anomaly
from judgify_engine.core.alert_state import CauseState, Observation, Timing, advance
from judgify_engine.core.anomaly import Bucket, Memory, Settings, Walk
from judgify_engine.core.samples import FINE_S

from . import report


def _second(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


WINDOWS = {
    "2013-12-10 (labelled)": (_second("2013-12-10 06:25"), _second("2013-12-12 05:35")),
    "2013-12-15 (failure)": (_second("2013-12-15 17:50"), _second("2013-12-17 17:00")),
    "2014-01-27 (labelled)": (_second("2014-01-27 14:20"), _second("2014-01-29 13:30")),
    "2014-02-07 (failure)": (_second("2014-02-07 14:55"), _second("2014-02-09 14:05")),
}
FAILURES = ("2013-12-15 (failure)", "2014-02-07 (failure)")
OUTSIDE = "outside"
MOST_OUTSIDE = 4
VARIED: Mapping[str, Sequence[Any]] = {
    "sensitivity": (3.0, 3.5, 3.75, 4.0, 4.25, 4.5, 5.0),
    "history_days": (14, 21, 28, 35, 42),
    "for_s": (900.0, 1800.0, 3600.0, 5400.0, 7200.0),
    "clear_for_s": (900.0, 3600.0, 14_400.0),
    "season": ("hour", "none"),
}


class Firing(NamedTuple):
    """One alert. Times are Unix seconds."""

    window: str
    since_s: float
    fired_s: float
    resolved_s: float | None
    reason: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench anomaly`."""
    parser.description = (
        "Readings through the anomaly rule: what fires, in which window, and how much that depends on settings."
    )
    parser.add_argument(
        "file", type=Path, help="CSV with the columns timestamp (UTC) and value, such as machine_temperature.csv"
    )
    parser.add_argument("--sensitivity", type=float, help="spreads to each end of the band (default: the rule's)")
    parser.add_argument("--history-days", type=int, help="how far back the band looks (default: the rule's)")
    parser.add_argument("--no-table", action="store_true", help="only the firings, not how they depend on the settings")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON (-: standard output)")


def run(args: argparse.Namespace) -> int:
    """Replay, print, judge; 0 when good, 1 when not, 2 for a file that cannot be read."""
    try:
        buckets = buckets_of(args.file)
    except (OSError, KeyError, ValueError) as error:
        print(f"bench anomaly: cannot read {args.file}: {error!r}", file=sys.stderr)
        return 2
    given = {"sensitivity": args.sensitivity, "history_days": args.history_days}
    rule = Anomaly(metric="input.value", **{name: value for name, value in given.items() if value is not None})
    with report.tables_apart(args.json):
        found = firings(buckets, rule)
        print(f"{len(buckets):,} buckets; sensitivity {rule.sensitivity:g}, {rule.history_days} days, for {rule.for_s:g} s")
        for one in found:
            print(f"{_time(one.fired_s)} to {_time(one.resolved_s)}  {one.window}\n    {one.reason}")
        counted = counts(found)
        print(report.pairs(counted))
        table = [] if args.no_table else list(_varied(buckets, rule))
        if table:
            print(report.table(["varied", *WINDOWS, OUTSIDE, "good"], [[name, *of.values(), _good(of)] for name, of in table]))
        good = _good(counted)
        print("GOOD" if good else "NOT GOOD")
    figures = {"firings": [one._asdict() for one in found], "counts": counted, "varied": dict(table), "good": good}
    report.write_json(figures, args.json)
    return 0 if good else 1


def buckets_of(path: Path) -> list[Bucket]:
    """The readings of a file in buckets, as the rollups hold them: by the time that they say."""
    sums: dict[int, list[float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            second = _second(row["timestamp"])
            one = sums.setdefault(second - second % FINE_S, [0, 0.0])
            one[0] += 1
            one[1] += float(row["value"])
    return [Bucket(second, int(count), total / count) for second, (count, total) in sorted(sums.items())]


def firings(buckets: Sequence[Bucket], rule: Anomaly) -> list[Firing]:
    """What a rule would have told, bucket after bucket."""
    return _firings(_observations(buckets, rule), rule)


def _observations(buckets: Sequence[Bucket], rule: Anomaly) -> list[Observation]:
    walk = Walk(Settings(rule.sensitivity, rule.history_days, rule.season), Memory())
    return [seen for bucket in buckets for seen in walk.judge(bucket)]


def _firings(observations: Sequence[Observation], rule: Anomaly) -> list[Firing]:
    _, events = advance(CauseState(), observations, Timing(rule.for_s, rule.clear_for_s, rule.severity))
    found: list[Firing] = []
    for event in events:
        seen = event.observation
        if event.kind == "fired":
            found.append(Firing(window_of(seen.at_s), event.since_s, seen.at_s, None, seen.reason))
        elif event.kind == "resolved":
            found[-1] = found[-1]._replace(resolved_s=seen.at_s)
    return found


def window_of(second: float) -> str:
    """The labelled window that a moment is in."""
    return next((name for name, (start, end) in WINDOWS.items() if start <= second <= end), OUTSIDE)


def counts(found: Sequence[Firing]) -> dict[str, int]:
    """Firings by window, and those outside."""
    return {name: sum(one.window == name for one in found) for name in (*WINDOWS, OUTSIDE)}


def _good(counted: Mapping[str, int]) -> bool:
    return all(counted[name] for name in FAILURES) and counted[OUTSIDE] <= MOST_OUTSIDE


def _varied(buckets: Sequence[Bucket], rule: Anomaly) -> Iterator[tuple[str, dict[str, int]]]:
    known: dict[Settings, list[Observation]] = {}
    for field, values in VARIED.items():
        for value in values:
            other: Anomaly = msgspec.structs.replace(rule, **{field: value})
            settings = Settings(other.sensitivity, other.history_days, other.season)
            if settings not in known:
                known[settings] = _observations(buckets, other)
            mark = " *" if other == rule else ""
            yield f"{field} = {value}{mark}", counts(_firings(known[settings], other))


def _time(second: float | None) -> str:
    return "(fires)" if second is None else f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M}"
