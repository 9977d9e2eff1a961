"""Group commit: while one batch is being committed, the next one gathers. One loop per partition.

A judgment that comes alone is committed at once. With many on their way, the first of a batch waits a little for others,
`max_wait_s` at most (the law: core/batching); that keeps commits few under load and costs an idle sender nothing.
"""

import asyncio
import logging
from time import perf_counter

from judgify_engine.config import BatchConfig
from judgify_engine.core.batching import BatchSize, Pace
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.doze import Doze
from judgify_engine.pipeline.partition_queue import PartitionQueue, Waiting
from judgify_engine.pipeline.ports import JudgmentWriter

log = logging.getLogger(__name__)

SWEEP_S = 0.5


class BatchLoop:
    """Takes batches from one queue and has them committed, a few at once."""

    def __init__(
        self,
        queue: PartitionQueue,
        writer: JudgmentWriter,
        config: BatchConfig,
        metrics: Metrics,
        timeout_s: float,
        doze: Doze,
    ) -> None:
        """`timeout_s`: longest time from `put` to an answer. `doze`: the process's own, shared by all its loops."""
        self._queue, self._writer, self._config, self._metrics = queue, writer, config, metrics
        self._timeout_s, self._doze = timeout_s, doze
        self.size = BatchSize(config.min_rows, config.max_rows, config.target_latency_s)
        self._free = asyncio.Semaphore(config.commits_in_flight)
        self._pace = Pace(config.max_wait_s)
        self._loop = asyncio.get_running_loop()
        self._sweeping: asyncio.TimerHandle | None = None
        """Set while judgments wait for their answers."""

    async def run(self) -> None:
        """Until the queue is closed and empty; then all that was accepted has its outcome."""
        try:
            async with asyncio.TaskGroup() as commits:
                while await self._queue.wait():
                    if self._sweeping is None:
                        self._sweeping = self._loop.call_later(SWEEP_S, self._sweep)
                    await self._free.acquire()
                    await self._gather()
                    batch = self._queue.take(self.size.rows, self._config.max_bytes)
                    self._pace.began(len(batch), perf_counter())
                    commits.create_task(self._commit(batch), name=f"commit-{self._queue.partition}")
        finally:
            if self._sweeping is not None:
                self._sweeping.cancel()

    async def _gather(self) -> None:
        queue, pace, now_s = self._queue, self._pace, perf_counter()
        enough = min(pace.enough(queue.senders, queue.rows - len(queue), now_s), self.size.rows)
        if len(queue) < enough and (wait_s := pace.wait_s(now_s)):
            await asyncio.sleep(0)  # takes in what is there
            missing = enough - len(queue)
            if missing > 0 and self._doze.sleep(min(wait_s - queue.oldest_age_s, pace.expected_s(missing))):
                await asyncio.sleep(0)
            await queue.gather(enough, wait_s - queue.oldest_age_s)

    def _sweep(self) -> None:
        # Not while the queue is empty: the eight of an idle process woke it 16 times a second.
        given_up = self._queue.give_up(self._timeout_s)
        if given_up:
            log.error("judgments were not committed in time", extra={"rows": given_up})
        self._sweeping = self._loop.call_later(SWEEP_S, self._sweep) if self._queue.rows else None

    async def _commit(self, batch: list[Waiting]) -> None:
        started_s = perf_counter()
        self._doze.began()
        try:
            outcomes = await self._writer.commit([item.judgment for item in batch])
            for item, outcome in zip(batch, outcomes, strict=True):
                if not item.outcome.done():  # its sender may have gone
                    item.outcome.set_result(outcome)
        finally:
            self._doze.ended()
            self._pace.ended(self._queue.rows, perf_counter())
            self._free.release()
            self._queue.done(batch)
            for item in batch:
                if not item.outcome.done():  # only when something unforeseen ended the commit
                    item.outcome.cancel()
        took_s = perf_counter() - started_s
        self.size.committed(len(batch), took_s)
        self._metrics.commit.observe(took_s)
        self._metrics.batch_rows.observe(len(batch))
        observe = self._metrics.queue.observe
        for item in batch:
            observe(started_s - item.since_s)
