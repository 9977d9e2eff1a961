"""The bound on what is under way: requests and their bytes. The first gate, before anything is read."""

import asyncio
import contextlib
from collections.abc import Iterator

from judgify_engine.config import HttpConfig
from judgify_engine.errors import BodyTooLarge, Draining, Overloaded

DRAIN_READ_S = 1.0
"""How long a body that is on its way may still take when the server stops."""


class Admission:
    """Counts what is under way; refuses what is too much. Not a lock: all on one event loop."""

    def __init__(self, config: HttpConfig) -> None:
        self.requests = 0
        self.bytes = 0
        self._config = config
        self._draining = False
        self.retiring = False
        """Another process takes over: answers end their connections."""
        self._reading: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def enter(self, content_length: int | None) -> int:
        """Admit a request; returns the bytes to give back with `leave`. Raises Draining, BodyTooLarge or Overloaded."""
        config = self._config
        self.check_open()
        size = config.max_body_bytes if content_length is None else content_length
        if size > config.max_body_bytes:
            raise too_large(config.max_body_bytes, size)
        if self.requests >= config.max_requests or self.bytes + size > config.max_request_bytes:
            raise Overloaded(
                f"{self.requests} requests of {self.bytes} bytes are under way, of at most {config.max_requests} "
                f"({config.max_request_bytes} bytes)"
            )
        self.requests += 1
        self.bytes += size
        self._idle.clear()
        return size

    def check_open(self) -> None:
        """Raises Draining when nothing more is admitted."""
        if self._draining:
            raise Draining("the server is stopping; send this to another one or again later")

    @contextlib.contextmanager
    def reading(self, patience: asyncio.Timeout) -> Iterator[None]:
        """While a body is being read: a stop shortens the patience with it."""
        self._reading.add(patience)
        try:
            yield
        finally:
            self._reading.discard(patience)

    def hold(self, size: int) -> None:
        """A request will be refused, but not yet: it still is under way, its bytes are not. Leave with 0 then."""
        self.bytes -= size

    def leave(self, size: int) -> None:
        """A request was answered."""
        self.requests -= 1
        self.bytes -= size
        if not self.requests:
            self._idle.set()

    def retire(self) -> None:
        """Admit what comes on open connections, but end each with its next answer."""
        self.retiring = True

    @property
    def draining(self) -> bool:
        return self._draining

    async def drain(self, timeout_s: float) -> bool:
        """Admit nothing more and wait until all that is under way is answered. False: not in time."""
        self._draining = True
        until_s = asyncio.get_running_loop().time() + DRAIN_READ_S
        for patience in self._reading:
            ends_s = patience.when()
            if not patience.expired() and (ends_s is None or ends_s > until_s):
                patience.reschedule(until_s)
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True


def too_large(limit: int, size: int | None = None) -> BodyTooLarge:
    """The error for a body over the limit."""
    came = "" if size is None else f", got {size}"
    return BodyTooLarge(f"the body may have {limit} bytes at most{came}", limit=limit)
