"""What processes say about themselves, and what that makes of all of them over a window of time. Pure.

Counters are told as they stand, so a report that is lost costs nothing: the difference between two others still holds. All
times are those of one clock, the one that the stream of reports is ordered by.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec


class Report(NamedTuple):
    """How one process is doing. It is named anew with each start, so that its counters only grow."""

    process: str
    host: str
    """The machine, or the pod."""
    group: str
    """The processes that one supervisor looks after; empty: it has none."""
    at_s: float
    cpu_s: float
    """Counter: processor time used."""
    cores: float
    """What it may use at once: one core, or less where its container is granted less."""
    memory: float
    """The share of the memory that it lives in which is taken (see observe/allowance)."""
    answers: int
    """Counter: judgments answered."""
    answers_s: float
    """Counter: the time that these took, in all."""
    queue_rows: int
    """Of its longest queue."""
    oldest_s: float
    """Age of the oldest judgment that waits."""


class Share(msgspec.Struct, frozen=True):
    """One process in a window."""

    process: str
    host: str
    cpu: float
    """Of what it may use."""
    memory: float
    response_ms: float | None
    """Mean; null: it answered nothing."""
    answers: int
    queue_rows: float
    oldest_s: float


class Figures(msgspec.Struct, frozen=True):
    """All processes in a window."""

    at_s: float
    window_s: float
    processes: int
    """Those that were heard for the whole window."""
    replicas: int
    """What is scaled: these processes, or the hosts (pods) that they run on."""
    starting: int
    """Replicas that were heard for a part of the window only."""
    cpu: float
    """Mean over processes, of what each may use: 1.0 is a core, or the part of it that a container is granted."""
    memory: float
    """Mean over processes."""
    response_ms: float | None
    """Mean over judgments; null: nothing was answered."""
    answers_per_s: float
    queue_rows: float
    """Mean over time of the longest queue, in the process where that is largest."""
    oldest_s: float
    """The longest that a judgment was seen to wait."""


class History:
    """Reports of the last while, by process."""

    def __init__(self, reports: Iterable[Report]) -> None:
        """`reports`: in the order of their times, for each process."""
        self._of: dict[str, list[Report]] = defaultdict(list)
        for report in reports:
            self._of[report.process].append(report)

    def shares(self, at_s: float, window_s: float, fresh_s: float) -> tuple[list[Share], set[str]]:
        """Each process that was heard for all of the window which ends at `at_s`; and the hosts and processes heard only in
        a part of it. One whose last report is older than `fresh_s` has stopped to report: it is neither."""
        found: list[Share] = []
        starting: set[str] = set()
        for reports in self._of.values():
            times = [report.at_s for report in reports]
            last, first = bisect_right(times, at_s) - 1, bisect_right(times, at_s - window_s) - 1
            if last < 0 or times[last] < at_s - fresh_s:
                continue
            if first < 0 or first == last or times[first] < at_s - window_s - fresh_s:
                starting |= {reports[last].process, reports[last].host}
            else:
                found.append(_share(reports[first], reports[first + 1 : last + 1]))
        return found, starting

    def figures(self, at_s: float, window_s: float, fresh_s: float, *, by_host: bool) -> Figures:
        """Of the window which ends at `at_s`. `by_host`: hosts are what is scaled, not processes."""
        shares, starting = self.shares(at_s, window_s, fresh_s)
        replicas = {share.host if by_host else share.process for share in shares}
        known = {one.host if by_host else one.process for reports in self._of.values() for one in reports[-1:]}
        answers = sum(share.answers for share in shares)
        spent_ms = sum(share.answers * share.response_ms for share in shares if share.response_ms is not None)
        return Figures(
            at_s=at_s,
            window_s=window_s,
            processes=len(shares),
            replicas=len(replicas),
            starting=len(starting & known - replicas),
            cpu=_mean([share.cpu for share in shares]),
            memory=_mean([share.memory for share in shares]),
            response_ms=spent_ms / answers if answers else None,
            answers_per_s=answers / window_s,
            queue_rows=max([share.queue_rows for share in shares], default=0.0),
            oldest_s=max([share.oldest_s for share in shares], default=0.0),
        )


def _share(first: Report, later: Sequence[Report]) -> Share:
    """`later`: the reports that follow on `first`, one at least."""
    last = later[-1]
    passed_s, answers = last.at_s - first.at_s, last.answers - first.answers
    return Share(
        process=last.process,
        host=last.host,
        cpu=(last.cpu_s - first.cpu_s) / passed_s / last.cores,
        memory=_mean([report.memory for report in later]),
        response_ms=(last.answers_s - first.answers_s) / answers * 1000 if answers else None,
        answers=answers,
        queue_rows=_mean([report.queue_rows for report in later]),
        oldest_s=max(report.oldest_s for report in later),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
