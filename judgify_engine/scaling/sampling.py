"""How this process is doing, as it reports it."""

import os
import socket
import time
from collections.abc import Callable, Sequence

from judgify_engine.core.figures import Report
from judgify_engine.observe.allowance import Allowance
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.partition_queue import PartitionQueue


class Sampler:
    """Takes its own measure. `group`: the supervisor that looks after it; `siblings`: how many live where it does."""

    def __init__(self, metrics: Metrics, queues: Sequence[PartitionQueue], group: str, siblings: Callable[[], int]) -> None:
        self._metrics, self._queues, self._siblings = metrics, queues, siblings
        self._host, self._group = socket.gethostname(), group
        self._process = f"{self._host}/{os.getpid()}/{time.time_ns() // 1_000_000}"
        self._allowance = Allowance()

    def sample(self) -> Report:
        """As of now; the time is the stream's to say."""
        answer = self._metrics.answer
        return Report(
            process=self._process,
            host=self._host,
            group=self._group,
            at_s=0.0,
            cpu_s=time.process_time(),
            cores=self._allowance.cores(self._siblings()),
            memory=self._allowance.memory(),
            answers=answer.count,
            answers_s=answer.sum,
            queue_rows=max(queue.rows for queue in self._queues),
            oldest_s=max(queue.oldest_age_s for queue in self._queues),
        )
