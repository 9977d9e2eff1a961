"""Jobs to attempts: leases what is due, makes the attempts side by side, records each, and moves its job on.

One turn records what is over, then leases what there is room for; between turns it waits for an attempt to end, for new jobs,
or for the time at which the next one is due. Attempts have bounds: in all, for each tenant, and for each lane (of a tenant, for
a destination), so a receiver that hangs holds up its own lane only. An attempt that is over keeps its place until it is
recorded, so nothing piles up while PostgreSQL is away. At a stop the attempts under way get a moment; what is cut off is due
again at once.
"""

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from judgify_engine.config import ActionsConfig
from judgify_engine.core.actions import Action, Alert, Webhook, decode_action
from judgify_engine.core.jobs import Finished, Job, Lane, state_after
from judgify_engine.core.retries import Outcome, delay_s
from judgify_engine.errors import JudgifyError
from judgify_engine.observe.metrics import Metrics

log = logging.getLogger(__name__)

LOOK_S, SELDOM_S = 1.0, 5.0
"""How often it is looked for jobs that nobody told of: those of others who have too many, or died; and while nothing waits."""
RETRY_S = 0.5
BACKLOG_S = 10.0
STOP_S, LAST_S = 3.0, 5.0
"""What attempts under way have at a stop, and what recording them may take."""


class Backlog(NamedTuple):
    """What there is, in all processes together."""

    waiting: int
    dead: int
    refused: int
    oldest_due_s: float | None


class JobStore(Protocol):
    """Where jobs are; see store/action_jobs."""

    async def claim(
        self, owner: str, lease_s: float, free: int, per_lane: int, per_tenant: int, busy: Mapping[Lane, int]
    ) -> list[Job]: ...
    async def next_due_s(self) -> float | None: ...
    async def record(self, owner: str, finished: Sequence[Finished]) -> None: ...
    async def backlog(self) -> Backlog: ...


class Performer(Protocol):
    """Makes attempts of one type of action."""

    async def perform(self, job: Job, action: Any) -> Outcome:
        """One attempt. Anything that it raises means: try again later."""


class ActionLoop:
    """Runs the jobs of this process."""

    def __init__(
        self,
        jobs: JobStore,
        webhooks: Performer,
        alerts: Performer,
        config: ActionsConfig,
        owner: str,
        metrics: Metrics,
        chance: random.Random,
    ) -> None:
        self._jobs, self._config, self._owner, self._metrics, self._chance = jobs, config, owner, metrics, chance
        self._performers: dict[type[Action], Performer] = {Webhook: webhooks, Alert: alerts}
        self._running: dict[asyncio.Task[None], Job] = {}
        self._finished: list[Finished] = []
        self._news = asyncio.Event()
        self._backlog: Backlog | None = None
        self._backlog_s = 0.0
        self._failing = False

    def wake(self) -> None:
        """There are new jobs."""
        self._news.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; whatever fails is tried again."""
        ending = asyncio.create_task(self._wake_at(stop), name="actions-stop")
        try:
            while not stop.is_set():
                self._news.clear()
                rest_s = await self._turn()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(rest_s):
                        await self._news.wait()
        finally:
            ending.cancel()
            await self._end()

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._news.set()

    async def _turn(self) -> float:
        """Record, lease, start. Returns how long nothing will have to be done unless there is news."""
        try:
            await self._record()
            rest_s = await self._lease()
            await self._look()
        except Exception as error:
            if not self._failing:
                known = isinstance(error, JudgifyError)
                reason = str(error) or type(error).__name__
                log.warning(
                    "actions cannot go on and are tried again", extra={"reason": reason}, exc_info=None if known else error
                )
            self._failing = True
            self._news.clear()
            return RETRY_S
        if self._failing:
            log.info("actions go on")
            self._failing = False
        return rest_s

    async def _record(self) -> None:
        """Attempts that end meanwhile are recorded in the next turn."""
        batch = self._finished[:]
        if batch:
            await self._jobs.record(self._owner, batch)
            del self._finished[: len(batch)]

    async def _lease(self) -> float:
        config = self._config
        busy = Counter([job.lane for job in self._running.values()] + [each.job.lane for each in self._finished])
        free = config.concurrency - busy.total()
        if free <= 0:
            return LOOK_S
        per_tenant = max(1, config.concurrency // 2)
        jobs = await self._jobs.claim(self._owner, config.lease_s, free, config.per_destination, per_tenant, busy)
        for job in jobs:
            task = asyncio.create_task(self._attempt(job), name="action-attempt")
            self._running[task] = job
            task.add_done_callback(self._ended)
        if len(jobs) == free:  # there is no room before one of them ends
            return LOOK_S
        due_s = await self._jobs.next_due_s()
        if due_s is None:
            return LOOK_S if self._running else SELDOM_S
        return min(LOOK_S, max(0.001, due_s))

    async def _look(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._backlog_s:
            self._backlog_s = now_s + BACKLOG_S
            self._backlog = await self._jobs.backlog()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        del self._running[task]
        self._news.set()

    async def _attempt(self, job: Job) -> None:
        """Make one attempt; whatever comes of it is among the finished ones."""
        began_s = asyncio.get_running_loop().time()
        outcome = Outcome("retry", "the engine stopped during this attempt")
        cut_off = True
        try:
            action = decode_action(job.definition)
            async with asyncio.timeout(action.timeout_s + 1.0):  # who performs it has its own timeout, and knows more to tell
                outcome = await self._performers[type(action)].perform(job, action)
            cut_off = False
        except (msgspec.MsgspecError, RecursionError) as error:
            outcome, cut_off = Outcome("refused", f"its definition is wrong: {error}"), False
        except Exception as error:
            log.warning("an attempt failed", extra={"action": job.action}, exc_info=error)
            outcome, cut_off = Outcome("retry", f"the engine failed at this: {type(error).__name__}"), False
        finally:
            duration_s = asyncio.get_running_loop().time() - began_s
            state = "waiting" if cut_off else state_after(job, outcome)
            rest_s = 0.0 if cut_off else self._rest_s(job, outcome)
            self._finished.append(Finished(job, outcome, state, rest_s, duration_s * 1000))
            self._count(outcome, state, duration_s)

    def _rest_s(self, job: Job, outcome: Outcome) -> float:
        first_s, longest_s = self._config.retry_first_s, self._config.retry_longest_s
        return delay_s(job.attempt, first_s, longest_s, self._chance.random(), outcome.retry_after_s)

    def _count(self, outcome: Outcome, state: str, duration_s: float) -> None:
        self._metrics.actions["succeeded" if state == "succeeded" else "failed"] += 1
        self._metrics.actions["dead"] += state == "dead"
        self._metrics.action.observe(duration_s)

    async def _end(self) -> None:
        """Wait a moment for what is under way, cut off the rest, and record it."""
        if self._running:
            await asyncio.wait(list(self._running), timeout=STOP_S)
        for task in list(self._running):
            task.cancel()
        if self._running:
            await asyncio.wait(list(self._running))
        reason = "PostgreSQL did not answer"
        try:
            async with asyncio.timeout(LAST_S):
                while self._finished:
                    try:
                        await self._record()
                    except Exception as error:
                        reason = str(error) or type(error).__name__
                        await asyncio.sleep(RETRY_S)
        except TimeoutError:
            facts = {"attempts": len(self._finished), "reason": reason}
            log.error("attempts could not be recorded; others make them again", extra=facts)

    def gauges(self) -> list[tuple[str, str, dict[str, str], float]]:
        """For /metrics."""
        rows: list[tuple[str, str, dict[str, str], float]] = [
            ("judgify_action_attempts_under_way", "Attempts of actions under way.", {}, len(self._running))
        ]
        if self._backlog is not None:
            waiting, dead, refused, oldest_due_s = self._backlog
            text = "Actions that wait, or were given up; counted up to 100,000."
            rows += [
                ("judgify_action_jobs", text, {"outcome": "waiting"}, waiting),
                ("judgify_action_jobs", text, {"outcome": "dead"}, dead),
                ("judgify_action_entries_refused", "Entries of the streams that made no action.", {}, refused),
                ("judgify_action_oldest_due_seconds", "Age of the oldest action that is due.", {}, oldest_due_s or 0.0),
            ]
        return rows
