"""`bench day`: a day's load on simulated processes, scaled by the very rules that the engine follows; time is compressed.

Each process answers up to `--rate` judgments a second. What comes is spread over them evenly; what cannot be answered waits,
and is refused at `QUEUE_ROWS` a process. Response is that of a queue served at random (M/M/1) plus the wait. A process that is
added serves `START_S` later; one that is not needed ends at once. Every process reports as a real one does (core/figures),
every 30 s it is decided (core/scaling), and what is decided is done.

Checked: never more or fewer than the bounds; no change of direction within the cool-down; never overloaded for longer than
`MOST_OVERLOADED` evaluations in a row while more were allowed; the night is served by fewer than the noon, where that needs
more than the fewest.
"""

import argparse
import itertools
import math
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from judgify_engine.config import ScalingConfig
from judgify_engine.core.figures import History, Report
from judgify_engine.core.scaling import Decision, Last, Limits, decide
from judgify_engine.pipeline.scaling_loop import MISSED_REPORTS

from . import report

DAY_S, HOUR_S = 86_400, 3600
START_S = 20.0
QUEUE_ROWS = 20_000
SERVICE_S = 0.002
"""What a judgment takes alone."""
BASE_MEMORY, MEMORY_PER_LOAD = 0.18, 0.12
MOST_OVERLOADED = 6
CURVE = ((0, 0.08), (5, 0.05), (7, 0.25), (9, 0.7), (12, 1.0), (14, 0.8), (17, 0.85), (20, 0.45), (22, 0.2), (24, 0.08))
"""Hour and share of the peak, with straight lines between."""
BURST = (15.0, 15.5, 1.35)
"""From, to (hours), and the share of the peak that comes on top of the curve's."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench day`."""
    parser.description = "A day's load curve on simulated processes, with the real rules of scaling; seconds of real time."
    parser.add_argument("--peak", type=float, default=24_000.0, help="judgments a second at noon (default: 24,000)")
    parser.add_argument("--rate", type=float, default=3000.0, help="what one process can answer a second (default: 3,000)")
    parser.add_argument("--seed", type=int, default=1, help="of the noise in the load (default: 1)")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON (-: standard output)")


def run(args: argparse.Namespace) -> int:
    """Simulate, print, check; 1 when a promise was broken."""
    scaling = ScalingConfig()
    day = Day(args.peak, args.rate, scaling, random.Random(args.seed))
    day.run()
    broken = list(day.broken())
    figures = day.summary()
    with report.tables_apart(args.json):
        day.show()
        print(report.pairs(figures))
        for one in broken:
            print(f"BROKEN: {one}")
    report.write_json({"figures": figures, "broken": broken, "decisions": day.rows()}, args.json)
    return 1 if broken else 0


def load_at(second: float) -> float:
    """Share of the peak at this second of the day, without noise."""
    hour = second / HOUR_S
    for (before, low), (after, high) in itertools.pairwise(CURVE):
        if before <= hour <= after:
            share = low + (high - low) * (hour - before) / (after - before)
            return share + (BURST[2] - 1.0 if BURST[0] <= hour < BURST[1] else 0.0)
    raise ValueError(f"a day has 24 hours, not {hour}")


class Process:
    """One simulated process: what it used and what waits in it."""

    def __init__(self, number: int, serves_s: float) -> None:
        self.name, self.serves_s = f"p{number}", serves_s
        self.cpu_s = self.answers = self.answers_s = self.waiting = 0.0
        self.busy = 0.0
        self.refused = 0.0

    def work(self, arriving: float, rate: float, step_s: float) -> None:
        """`arriving`: judgments that come in this step."""
        capacity = rate * step_s
        answered = min(self.waiting + arriving, capacity)
        self.busy = answered / capacity
        wait_s = self.waiting / rate
        self.waiting += arriving - answered
        self.refused += max(0.0, self.waiting - QUEUE_ROWS)
        self.waiting = min(self.waiting, QUEUE_ROWS)
        self.cpu_s += self.busy * step_s
        self.answers += answered
        self.answers_s += answered * (wait_s + SERVICE_S / max(0.02, 1 - self.busy))

    def report(self, at_s: float, rate: float) -> Report:
        memory = BASE_MEMORY + MEMORY_PER_LOAD * self.busy + 0.5 * self.waiting / QUEUE_ROWS
        return Report(
            self.name, self.name, "", at_s, self.cpu_s, 1.0, memory, int(self.answers), self.answers_s, int(self.waiting),
            self.waiting / rate,
        )  # fmt: skip


class Moment(NamedTuple):
    """What there was at one evaluation."""

    at_s: float
    load: float
    processes: int
    cpu: float
    decision: Decision


class Day:
    """The simulation."""

    def __init__(self, peak: float, rate: float, config: ScalingConfig, chance: random.Random) -> None:
        self.config, self.peak, self.rate, self._chance = config, peak, rate, chance
        self.limits = Limits(
            minimum=config.min_replicas,
            maximum=config.max_replicas,
            shared_memory=False,
            **{name: getattr(config, name) for name in Limits._fields if hasattr(config, name)},
        )
        self._made = 0
        self._processes: list[Process] = []
        self._reports: list[Report] = []
        self.moments: list[Moment] = []
        self.refused = self.process_hours = 0.0

    def run(self) -> None:
        """From midnight to midnight, in steps as long as a report's interval."""
        self._resize(self.limits.minimum, -START_S)
        last, step_s = None, self.config.report_interval_s
        for step in range(1, int(DAY_S / step_s) + 1):
            at_s = step * step_s
            load = self.peak * load_at(at_s) * self._chance.uniform(0.92, 1.08)
            serving = [one for one in self._processes if one.serves_s <= at_s]
            for one in serving:
                one.work(load * step_s / len(serving), self.rate, step_s)
            self._reports += [one.report(at_s, self.rate) for one in serving]
            self.process_hours += len(self._processes) * step_s / HOUR_S
            if at_s % self.config.interval_s == 0:
                decision = self._decide(at_s, last)
                cpu = sum(one.busy for one in serving) / len(serving)
                self.moments.append(Moment(at_s, load, len(self._processes), cpu, decision))
                if decision.action != "stay":
                    last = Last(decision.action, at_s)
                    self._resize(decision.target, at_s)
        self.refused += sum(one.refused for one in self._processes)

    def _decide(self, at_s: float, last: Last | None) -> Decision:
        config, fresh_s = self.config, MISSED_REPORTS * self.config.report_interval_s
        reach_s = config.window_s + (config.in_evaluations - 1) * config.interval_s + fresh_s
        self._reports = [one for one in self._reports if one.at_s >= at_s - reach_s]
        history = History(self._reports)
        recent = [
            history.figures(at_s - back * config.interval_s, config.window_s, fresh_s, by_host=False)
            for back in range(config.in_evaluations)
        ]
        return decide(recent, len(self._processes), last, self.limits)

    def _resize(self, target: int, at_s: float) -> None:
        while len(self._processes) < target:
            self._made += 1
            self._processes.append(Process(self._made, at_s + START_S))
        for one in self._processes[target:]:
            self.refused += one.refused
        del self._processes[target:]

    @property
    def changes(self) -> list[Moment]:
        return [moment for moment in self.moments if moment.decision.action != "stay"]

    def broken(self) -> Iterator[str]:
        """The promises that were, in words."""
        low, high = self.limits.minimum, self.limits.maximum
        if not all(low <= moment.processes <= high for moment in self.moments):
            yield f"there were fewer than {low} or more than {high}"
        for before, after in itertools.pairwise(self.changes):
            turned = before.decision.action != after.decision.action
            rest_s = self.config.cooldown_in_s if after.decision.action == "in" else self.config.cooldown_out_s
            if after.at_s - before.at_s < rest_s:
                yield f"{_clock(after.at_s)}: {after.decision.action}, {after.at_s - before.at_s:.0f} s after a decision"
            if turned and after.at_s - before.at_s < self.config.cooldown_in_s:
                yield f"{_clock(after.at_s)}: {before.decision.action} and then {after.decision.action} within the cool-down"
        if self.longest_overload > MOST_OVERLOADED:
            yield f"overloaded for {self.longest_overload} evaluations in a row while more were allowed"
        night = [moment.processes for moment in self.moments if 3 * HOUR_S < moment.at_s < 5 * HOUR_S]
        noon = [moment.processes for moment in self.moments if 11 * HOUR_S < moment.at_s < 13 * HOUR_S]
        needed = self.peak / self.rate > self.limits.minimum * self.limits.out_cpu
        if needed and max(night) >= min(noon):
            yield f"the night has {max(night)} processes, the noon {min(noon)}"

    @property
    def longest_overload(self) -> int:
        """Evaluations in a row with all processes at their end, though there might have been more."""
        longest = row = 0
        for moment in self.moments:
            row = row + 1 if moment.cpu > 0.99 and moment.processes < self.limits.maximum else 0
            longest = max(longest, row)
        return longest

    def summary(self) -> dict[str, float]:
        """The figures of the day."""
        came = sum(moment.load for moment in self.moments) * self.config.interval_s
        return {
            "decisions_out": sum(moment.decision.action == "out" for moment in self.changes),
            "decisions_in": sum(moment.decision.action == "in" for moment in self.changes),
            "most_processes": max(moment.processes for moment in self.moments),
            "fewest_processes": min(moment.processes for moment in self.moments),
            "process_hours": round(self.process_hours, 1),
            "process_hours_at_the_most": max(moment.processes for moment in self.moments) * 24.0,
            "mean_cpu_percent": round(100 * sum(moment.cpu for moment in self.moments) / len(self.moments), 1),
            "longest_overload_evaluations": self.longest_overload,
            "refused_percent": round(100 * self.refused / came, 4),
        }

    def rows(self) -> list[dict[str, Any]]:
        """The decisions, for programs."""
        return [
            {"at_s": moment.at_s, "load": round(moment.load), "action": moment.decision.action, "from": moment.decision.current,
             "to": moment.decision.target, "reason": moment.decision.reason}
            for moment in self.changes
        ]  # fmt: skip

    def show(self) -> None:
        """The decisions, and every hour that brought none, for people."""
        told: list[tuple[str, str, str, str, str]] = []
        for moment in self.moments:
            decision = moment.decision
            if decision.action == "stay" and moment.at_s % HOUR_S:
                continue
            bar = "#" * math.ceil(30 * moment.load / (self.peak * BURST[2]))
            step = f"{decision.current} → {decision.target}" if decision.action != "stay" else f"{moment.processes}"
            told.append((_clock(moment.at_s), bar, f"{moment.load:,.0f}/s", step, decision.reason))
        print(report.table(("time", "load", "", "processes", "why"), told))


def _clock(at_s: float) -> str:
    return f"{int(at_s) // HOUR_S:02}:{int(at_s) % HOUR_S // 60:02}:{int(at_s) % 60:02}"
