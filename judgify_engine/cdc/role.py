"""What only one process does at a time, tried again and again: reading the log for the rollups, or for the streams.

Each try is a session: it returns at once where another process has the role, and raises when it fails. A session that ends is
let go of before the next one begins.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from judgify_engine.cdc.waiting import ended
from judgify_engine.errors import JudgifyError

log = logging.getLogger(__name__)

TELL_AGAIN_S = 60.0
"""How often a session that fails for the same reason again and again is told."""

_TAKEN = """
SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid = $1 AND objid = $2
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
"""


class Connections(Protocol):
    """Where connections are kept; see store/pool."""

    def query(self) -> contextlib.AbstractAsyncContextManager[Any]: ...


async def is_taken(database: Connections, lock: int) -> bool:
    """Whether a session has an advisory lock. Asked on a connection that is there, so that standing by costs little."""
    async with database.query() as connection:
        return bool(await connection.fetchval(_TAKEN, lock >> 32, lock & 0xFFFF_FFFF))


class Role:
    """`what` is done, for the log; `let_go` is called after each session."""

    def __init__(
        self,
        what: str,
        session: Callable[[], Coroutine[Any, Any, None]],
        let_go: Callable[[], object],
        pause_s: Callable[[], float],
        away: tuple[type[BaseException], ...],
        passed: Callable[[], None] = lambda: None,
    ) -> None:
        """`away`: errors to be expected, beside our own. `passed` is called when another process has the role."""
        self._what, self._session, self._let_go, self._pause_s, self._passed = what, session, let_go, pause_s, passed
        self._expected: tuple[type[BaseException], ...] = (JudgifyError, *away)
        self.trouble = ""
        """Why it cannot be done here; empty: it is done, here or by another process."""

    async def run(self, stop: asyncio.Event) -> None:
        """Have it, or wait to have it, until `stop`."""
        stopped = asyncio.create_task(stop.wait(), name=f"{self._what}-stop")
        told, failures, tell_s, now_s = "", 0, 0.0, asyncio.get_running_loop().time
        try:
            while not stop.is_set():
                session = asyncio.create_task(self._session(), name=f"{self._what}-session")
                try:
                    await asyncio.wait((session, stopped), return_when=asyncio.FIRST_COMPLETED)
                finally:  # cancelled, too: nobody else knows of the session, and it would outlive what it uses
                    if not session.done():
                        await ended((session,))
                    self._let_go()
                try:
                    await session
                    told, failures = "", 0
                    self._passed()
                except asyncio.CancelledError:
                    if not stop.is_set():
                        raise
                except self._expected as error:
                    reason = str(error)[:300] or type(error).__name__
                    failures += 1
                    if reason != told or now_s() >= tell_s:
                        facts = {"task": self._what, "reason": reason, "failures": failures}
                        log.warning("this failed and is tried again", extra=facts)
                        failures, tell_s = 0, now_s() + TELL_AGAIN_S
                    told = reason
                except Exception as error:  # judging goes on, whatever happens here
                    reason = f"{type(error).__name__}: {error}"[:300]
                    if reason != told:
                        log.exception("this failed and is tried again", extra={"task": self._what})
                    told = reason
                self.trouble = told
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), self._pause_s())
        finally:
            stopped.cancel()
