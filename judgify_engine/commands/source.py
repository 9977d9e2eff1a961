"""A bounded bridge from a thread that reads rows to the event loop that posts them.

Reading may block for as long as a pipe is silent, so it has a thread of its own. At most `ROOM` rows wait between the
two; the thread sleeps until half of them are taken. An error in reading comes out of `next`.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Iterator

from judgify_engine.commands.rows import BadRow, Row

ROOM = 2048


class RowSource:
    """Rows of `rows`, read ahead by a daemon thread; `next` hands each to exactly one caller.

    `ended` turns True when the thread will not touch `rows` again.
    """

    def __init__(self, rows: Iterator[Row | BadRow]) -> None:
        self._rows = rows
        self._waiting: deque[Row | BadRow] = deque()
        self._room = threading.Event()
        self._some = asyncio.Event()
        self.ended = False
        self._closed = False
        self._error: Exception | None = None

    def start(self) -> None:
        """Begin to read; must be called on the running loop that will call `next`."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), name="feed-reader", daemon=True).start()

    def close(self) -> None:
        """Read no further; rows not yet taken are dropped and `next` returns None from now on."""
        self._closed = True
        self._waiting.clear()
        self._room.set()
        self._some.set()

    async def next(self) -> Row | BadRow | None:
        """Take one row, in the file's order; None when there are no more. Raises what reading raised (OSError)."""
        while not self._waiting:
            if self._closed or (self.ended and not self._waiting):
                if self._error is not None:
                    raise self._error
                return None
            self._some.clear()
            # Looked at again after clear(): the reader fills first and tells afterwards.
            if not (self._waiting or self.ended or self._closed):
                await self._some.wait()
        row = self._waiting.popleft()
        if len(self._waiting) <= ROOM // 2:
            self._room.set()
        return row

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            for row in self._rows:
                self._waiting.append(row)
                if not self._some.is_set():
                    loop.call_soon_threadsafe(self._some.set)
                if len(self._waiting) >= ROOM:
                    self._room.clear()
                    while len(self._waiting) >= ROOM and not self._closed:
                        self._room.wait(timeout=1.0)
                if self._closed:
                    return
        except Exception as error:
            self._error = error
        finally:
            self.ended = True
            try:
                loop.call_soon_threadsafe(self._some.set)
            except RuntimeError:  # the loop is gone: nobody waits
                self._closed = True
