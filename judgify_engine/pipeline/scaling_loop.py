"""Each process reports how it is doing; one of them looks at all reports and sees that there are as many as are needed.

What is decided follows from the stream of reports, the stored decisions and the number of processes alone. So whoever holds the
lease next decides as the one before would have, and any process can tell what would be decided now.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from judgify_engine.config import ScalingConfig
from judgify_engine.core.figures import Figures, History, Report, Share
from judgify_engine.core.scaling import NOTEWORTHY, Decision, Last, Limits, decide
from judgify_engine.core.streams import METRICS, SCALING_EVENTS
from judgify_engine.errors import Corrupt, JudgifyError, ScalingFailed
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.streams import Streams
from judgify_engine.pipeline.turns import take_turns
from judgify_engine.units import Position
from judgify_engine.wire.scaling import DecisionRecord, decode_report, encode_event, encode_report

log = logging.getLogger(__name__)

PAGE_ENTRIES = 1000
MISSED_REPORTS = 3
"""A process that missed so many has stopped to report."""


class Executor(Protocol):
    """Who sees that there are as many as were decided."""

    name: str
    scope: str
    """What is scaled, for people; decisions about one scope follow on each other."""
    acts: bool
    """Whether it does anything."""
    by_host: bool
    """Whether it counts hosts (pods), not processes."""
    shared_memory: bool
    """Whether another one would live in the same memory."""
    minimum: int
    maximum: int

    def concerns(self, report: Report) -> bool:
        """Whether a report is of what is scaled."""

    async def current(self, heard: int) -> int:
        """How many there should be just now; `heard`: how many report. Raises ScalingFailed, in bounded time."""

    async def scale(self, current: int, target: int) -> None:
        """Have as many, if there are still to be `current`. Raises ScalingFailed, in bounded time."""


class Decisions(Protocol):
    """Where decisions are kept, and the right to make them; see store/scaling. All raise DatabaseUnavailable or Overloaded."""

    async def lease(self) -> bool: ...

    def let_go(self) -> None: ...

    async def record(
        self, decision: Decision, figures: Figures, at_s: float, slot: int, executor: str, outcome: str
    ) -> int | None: ...

    async def finish(self, number: int, outcome: str, error: str | None) -> None: ...

    async def unpublished(self) -> list[DecisionRecord]: ...

    async def published(self, numbers: list[int]) -> None: ...

    async def last(self) -> tuple[Last | None, str]: ...

    async def list(self, limit: int) -> list[DecisionRecord]: ...


class View(NamedTuple):
    """What is seen now, and what follows from it."""

    figures: Figures
    shares: list[Share]
    decision: Decision
    noted: str
    """The state that was written last."""


class Reporter:
    """Appends this process's figures to `metrics-stream`, again and again."""

    def __init__(self, streams: Streams, sample: Callable[[], Report], keep: int, interval_s: float) -> None:
        """`keep`: about how many reports stay in the stream, of all processes."""
        self._streams, self._sample, self._keep, self._interval_s = streams, sample, keep, interval_s

    async def report(self) -> Position:
        """Do it now; where the report stands, so the time of the stream. Raises StreamsUnavailable."""
        return await self._streams.add(METRICS, encode_report(self._sample()), self._keep)

    async def run(self, stop: asyncio.Event, leaving: Callable[[], bool]) -> None:
        """Until `stop`; nothing is said while `leaving`: who retires is to be counted no more."""
        told = ""
        while not stop.is_set():
            try:
                if not leaving():
                    await self.report()
                told = ""
            except JudgifyError as error:
                if error.detail != told:
                    log.warning("figures cannot be reported now", extra={"reason": error.detail})
                told = error.detail
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._interval_s)


class ScalingLoop:
    """Evaluates while it holds the lease. `leading`: whether it does."""

    def __init__(
        self, streams: Streams, reporter: Reporter, decisions: Decisions, executor: Executor, config: ScalingConfig,
        metrics: Metrics,
    ) -> None:  # fmt: skip
        self._streams, self._reporter, self._decisions = streams, reporter, decisions
        self.executor, self._config, self._metrics = executor, config, metrics
        self._limits = Limits(
            minimum=executor.minimum,
            maximum=executor.maximum,
            shared_memory=executor.shared_memory,
            **{name: getattr(config, name) for name in Limits._fields if hasattr(config, name)},
        )
        self.leading = False
        self._seen: View | None = None
        self._told = ""

    async def run(self, stop: asyncio.Event, leaving: Callable[[], bool]) -> None:
        """Until `stop`. Whoever is `leaving` hands the lease to another one."""
        try:
            await take_turns(lambda: self._turn(leaving()), self._config.interval_s, stop, "scaling")
        finally:
            self.leading = False
            self._decisions.let_go()

    async def _turn(self, leaving: bool) -> None:
        try:
            await self._evaluate(leaving)
            self._told = ""
        except JudgifyError as error:
            self._seen = None
            if error.detail != self._told:
                log.warning("scaling cannot be decided now", extra={"reason": error.detail})
            self._told = error.detail
        except Exception:  # judging goes on, whatever happens to scaling
            self._seen = None
            self._decisions.let_go()  # what was begun is nobody's now
            log.exception("deciding about scaling failed and is tried again")

    async def _evaluate(self, leaving: bool) -> None:
        """Once, if it is our turn. Raises JudgifyError."""
        if leaving:
            self._decisions.let_go()
            self.leading = False
            return
        self.leading = await self._decisions.lease()
        if not self.leading:
            return
        self._seen = view = await self.look()
        if view.decision.action != "stay":
            await self._carry_out(view)
        elif _is_news(view):
            await self._write(view, "told")
            log.info("scaling: something has changed", extra={"state": view.decision.state, "reason": view.decision.reason})
        await self._publish()

    async def look(self) -> View:
        """What is so now, and what would be decided; does nothing. Raises JudgifyError."""
        config, by_host = self._config, self.executor.by_host
        at = await self._reporter.report()  # our own figures are there, and this is the time on the stream's clock
        at_s = at.lsn / 1000
        fresh_s = MISSED_REPORTS * config.report_interval_s
        reach_s = config.window_s + (config.in_evaluations - 1) * config.interval_s + fresh_s
        history = History(await self._read(at, reach_s))
        shares, _ = history.shares(at_s, config.window_s, fresh_s)
        recent = [
            history.figures(at_s - back * config.interval_s, config.window_s, fresh_s, by_host=by_host)
            for back in range(config.in_evaluations)
        ]
        current = await self.executor.current(recent[0].replicas + recent[0].starting)
        last, noted = await self._decisions.last()
        return View(recent[0], shares, decide(recent, current, last, self._limits), noted)

    async def _read(self, to: Position, reach_s: float) -> list[Report]:
        """The reports of the last `reach_s` that concern us; as many as the stream keeps, at most."""
        position, found, refused = Position(max(0, to.lsn - int(reach_s * 1000)), 0), [], 0
        while True:
            entries = await self._streams.after(METRICS, position, PAGE_ENTRIES)
            for entry in entries:
                try:
                    report = decode_report(entry.fields, entry.id.lsn / 1000)
                except Corrupt:
                    refused += 1
                    continue
                if entry.id <= to and self.executor.concerns(report):
                    found.append(report)
            if len(entries) < PAGE_ENTRIES or entries[-1].id >= to:
                break
            position = entries[-1].id
        if refused:
            log.warning("entries of the metrics stream are no reports", extra={"stream": METRICS, "entries": refused})
        return found

    async def _write(self, view: View, outcome: str) -> int | None:
        at_s = view.figures.at_s
        slot = int(at_s // self._config.interval_s)
        return await self._decisions.record(view.decision, view.figures, at_s, slot, self.executor.name, outcome)

    async def _carry_out(self, view: View) -> None:
        """Written first, then done: what was begun is known, whatever becomes of us."""
        decision, executor = view.decision, self.executor
        number = await self._write(view, "pending" if executor.acts else "told")
        if number is None:  # it was decided for this interval
            return
        facts = {"action": decision.action, "from": decision.current, "to": decision.target, "reason": decision.reason}
        log.info("scaling decided", extra={**facts, "executor": executor.name})
        self._metrics.scaling[decision.action] += 1
        if not executor.acts:
            return
        try:
            await executor.scale(decision.current, decision.target)
        except ScalingFailed as error:
            log.error("scaling failed and is tried again after the cool-down", extra={"reason": error.detail})
            self._metrics.scaling["failed"] += 1
            await self._decisions.finish(number, "failed", error.detail[:1000])
        else:
            await self._decisions.finish(number, "done", None)

    async def _publish(self) -> None:
        """Tell who listens; what could not be told is told next time."""
        records = await self._decisions.unpublished()
        if records:
            await self._streams.send([(SCALING_EVENTS, encode_event(record)) for record in records])
            await self._decisions.published([record.id for record in records])

    async def recent(self, limit: int) -> list[DecisionRecord]:
        """The last decisions, the newest first. Raises DatabaseUnavailable or Overloaded."""
        return await self._decisions.list(limit)

    def gauges(self) -> Iterator[tuple[str, str, dict[str, str], float]]:
        """For `/metrics`, in the process that decides."""
        yield "judgify_scaling_leader", "1 in the process that decides about scaling.", {}, float(self.leading)
        view = self._seen
        if not self.leading or view is None:
            return
        figures, decision = view.figures, view.decision
        unit = "pods" if self.executor.by_host else "processes"
        yield "judgify_scaling_desired_processes", f"How many {unit} there should be.", {}, decision.target
        yield "judgify_scaling_current_processes", f"How many {unit} there were to be before.", {}, decision.current
        yield "judgify_scaling_heard_processes", "Processes whose figures cover the window.", {}, figures.processes
        yield "judgify_scaling_cpu_ratio", "Mean of all processes, of what each may use.", {}, figures.cpu
        yield "judgify_scaling_memory_ratio", "Mean of all processes.", {}, figures.memory
        yield "judgify_scaling_queue_rows", "The longest queue of any process, mean over the window.", {}, figures.queue_rows
        yield "judgify_scaling_oldest_seconds", "The longest that a judgment was seen to wait.", {}, figures.oldest_s
        if figures.response_ms is not None:
            yield "judgify_scaling_response_seconds", "Mean over all judgments.", {}, figures.response_ms / 1000
        text = "What is done now: 1 for the state that holds."
        for state in ("scaling", "calm", "waiting", "cooling", "settling", *NOTEWORTHY):
            yield "judgify_scaling_state", text, {"state": state}, float(state == decision.state)


def _is_news(view: View) -> bool:
    """Whether something has come in the way, or is there no more. Just after a change nothing can be told."""
    state, noted = view.decision.state, view.noted
    return state != "settling" and (state if state in NOTEWORTHY else "") != (noted if noted in NOTEWORTHY else "")
