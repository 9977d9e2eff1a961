"""Wake coalescing: while a batch gathers and nothing else is to be done, the whole process sleeps, blind to what comes in.

Whatever arrives waits in the kernel and is then taken at one go. Awake, the process would be woken for each request, read it,
and wait on; a wake costs about as much as half a request (a system call, a switch, cold caches). Network cards moderate their
interrupts for the same reason. Nobody waits longer for it: the time is that of the batch that gathers (core/batching), and
no commit is under way whose answer would be held up. What else goes on in the process (pushes, the log) is held up that long
too, some milliseconds; so a process that has much else to do never sleeps.
"""

import time
from collections.abc import Callable

WINDOW_S = 0.1
BUSY = 0.7
"""Share of its time from which on a process has better things to do."""
SHORTEST_S, LONGEST_S = 0.0002, 0.01
"""Less is not worth it, sleeps are no finer; more would hold up all the rest, however long batches may wait."""


class Doze:
    """One process's sleep. Knows of the commits that are under way, and how busy the thread of the event loop is."""

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.thread_time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock, self._cpu_clock, self._sleep = clock, cpu_clock, sleep
        self._committing = 0
        self._busy = 1.0
        self._since_s, self._cpu_since_s = clock(), cpu_clock()

    def began(self) -> None:
        """A commit is under way."""
        self._committing += 1

    def ended(self) -> None:
        """It has ended, however."""
        self._committing -= 1

    def sleep(self, for_s: float) -> bool:
        """Sleep so long (`LONGEST_S` at most), where that holds up nothing. Whether it did."""
        if self._committing or for_s < SHORTEST_S or self._is_busy():
            return False
        self._sleep(min(for_s, LONGEST_S))
        return True

    def _is_busy(self) -> bool:
        now_s = self._clock()
        if now_s - self._since_s >= WINDOW_S:
            cpu_s = self._cpu_clock()
            self._busy = (cpu_s - self._cpu_since_s) / (now_s - self._since_s)
            self._since_s, self._cpu_since_s = now_s, cpu_s
        return self._busy >= BUSY
