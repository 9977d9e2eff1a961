"""Group commit: while one batch is being committed, the next one gathers. One loop per partition.

A judgment that comes alone is committed at once. With others on their way, a batch may wait `max_wait_s` for as many as the
last one had; that keeps batches large under load and costs an idle sender nothing.
"""

import asyncio
import logging
from time import perf_counter

from judgify_engine.config import BatchConfig
from judgify_engine.core.batching import BatchSize
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.partition_queue import PartitionQueue, Waiting
from judgify_engine.pipeline.ports import JudgmentWriter

log = logging.getLogger(__name__)

SWEEP_S = 0.5


class BatchLoop:
    """Takes batches from one queue and has them committed, a few at once."""

    def __init__(
        self, queue: PartitionQueue, writer: JudgmentWriter, config: BatchConfig, metrics: Metrics, timeout_s: float
    ) -> None:
        """`timeout_s`: longest time from `put` to an answer."""
        self._queue, self._writer, self._config, self._metrics = queue, writer, config, metrics
        self._timeout_s = timeout_s
        self.size = BatchSize(config.min_rows, config.max_rows, config.target_latency_s)
        self._free = asyncio.Semaphore(config.commits_in_flight)
        self._in_flight = 0
        self._last_rows = 1

    async def run(self) -> None:
        """Until the queue is closed and empty; then all that was accepted has its outcome."""
        sweeper = asyncio.create_task(self._sweep(), name=f"sweep-{self._queue.partition}")
        try:
            async with asyncio.TaskGroup() as commits:
                while await self._queue.wait():
                    await self._free.acquire()
                    if self._in_flight and len(self._queue) < self._last_rows // 2 and not self._queue.closed:
                        await asyncio.sleep(self._config.max_wait_s)
                    batch = self._queue.take(self.size.rows, self._config.max_bytes)
                    self._in_flight += 1
                    commits.create_task(self._commit(batch), name=f"commit-{self._queue.partition}")
        finally:
            sweeper.cancel()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            given_up = self._queue.give_up(self._timeout_s)
            if given_up:
                log.error("judgments were not committed in time", extra={"rows": given_up})

    async def _commit(self, batch: list[Waiting]) -> None:
        started_s = perf_counter()
        try:
            outcomes = await self._writer.commit([item.judgment for item in batch])
            for item, outcome in zip(batch, outcomes, strict=True):
                if not item.outcome.done():  # its sender may have gone
                    item.outcome.set_result(outcome)
        finally:
            self._in_flight -= 1
            self._last_rows = len(batch)
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
