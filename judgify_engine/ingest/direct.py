"""An execute request without a task: decided at once, answered by the callback of its commit.

Nothing here waits. What would have to (a token or a workflow that is not in memory) is left to the ordinary way, where
`JudgmentRoutes.execute` does the same with `await`.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import partial
from http import HTTPStatus

from aiohttp.http import SERVER_SOFTWARE

from judgify_engine.core.model import Judgment
from judgify_engine.errors import DatabaseUnavailable, Draining, JudgifyError, QuotaExceeded, Rejected
from judgify_engine.ingest.admission import Admission
from judgify_engine.ingest.holding import Holding
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.access import Access
from judgify_engine.pipeline.judging import Judging
from judgify_engine.pipeline.partition_queue import Sender
from judgify_engine.pipeline.ports import Outcome
from judgify_engine.pipeline.quarantine_loop import Quarantine
from judgify_engine.pipeline.quotas import Quotas, Spent
from judgify_engine.wire.problem import encode_problem
from judgify_engine.wire.request import decode_execute

log = logging.getLogger(__name__)

MAX_REFUSALS = 1000
Reply = Callable[[bytes, bool], None]
"""Takes the bytes of an answer, and whether the connection ends with it."""


class Direct:
    """Takes execute requests from connections. `route`: their path, for the metrics."""

    def __init__(
        self,
        judging: Judging,
        access: Access,
        admission: Admission,
        database_available: Callable[[], bool],
        route: str,
        metrics: Metrics,
        quarantine: Quarantine,
        quotas: Quotas,
    ) -> None:
        self._judging, self._access, self._admission = judging, access, admission
        self._database_available, self._route, self._metrics = database_available, route, metrics
        self._quarantine, self._quotas = quarantine, quotas
        self._holding = Holding()
        self._refusals: dict[tuple[str, int], bytes] = {}
        """Answers to who is over a quota, as they are in the second `_refusals_s`."""
        self._refusals_s = 0

    def knows(self, authorization: str | None) -> bool:
        """Whether this header's token is known to be good for executing, without asking PostgreSQL."""
        try:
            return self._access.recall(authorization, "execute") is not None
        except JudgifyError:
            return False

    def take(self, authorization: str | None, body: bytes, reply: Reply, sender: Sender) -> bool:
        """Judge and queue; `reply` gets the whole HTTP answer once. False: nothing was done, take the ordinary way."""
        started_s = time.perf_counter()
        try:
            grant = self._access.recall(authorization, "execute")
            if grant is None:
                return False
            size = self._admission.enter(len(body))
        except JudgifyError as error:
            self._refuse(error, reply)
            return True
        try:
            spent = self._quotas.spend(grant, len(body))
            begun = self._begin(grant.tenant_id, body, started_s, sender)
        except QuotaExceeded as error:
            self._admission.hold(size)
            self._holding.hold(error.hold_s, partial(self._held, error, reply))
            return True
        except Exception as error:
            self._left(size, started_s)
            self._refuse(error, reply)
            if isinstance(error, Rejected):
                self._quarantine.refused(grant.tenant_id, body, error)
            return True
        if begun is None:
            self._admission.leave(size)
            self._quotas.give_back(grant, len(body))
            return False
        judgment, outcome = begun
        outcome.add_done_callback(partial(self._committed, judgment, size, started_s, spent, reply))
        return True

    def _begin(
        self, tenant_id: str, body: bytes, started_s: float, sender: Sender
    ) -> "tuple[Judgment, asyncio.Future[Outcome]] | None":
        if not self._database_available():
            raise DatabaseUnavailable("PostgreSQL is away; nothing was judged or stored")
        admitted_s = time.perf_counter()
        asked = decode_execute(body)
        self._metrics.admit.observe(admitted_s - started_s)
        self._metrics.decode.observe(time.perf_counter() - admitted_s)
        return self._judging.begin(tenant_id, asked, started_s, sender)

    def _committed(
        self,
        judgment: Judgment,
        size: int,
        started_s: float,
        spent: Spent | None,
        reply: Reply,
        outcome: "asyncio.Future[Outcome]",
    ) -> None:
        self._left(size, started_s)
        try:
            body = self._judging.finish(judgment, outcome)
        except Exception as error:
            self._refuse(error, reply)
            return
        self._metrics.requests[self._route, 200] += 1
        last = self._admission.retiring
        more = b"Connection: close\r\n" if last else b""
        if spent is not None:
            more += "".join(f"{name}: {value}\r\n" for name, value in spent.headers().items()).encode()
        reply(b"%b%bContent-Length: %d\r\n\r\n%b" % (_head(), more, len(body), body), last)

    def _held(self, error: QuotaExceeded, reply: Reply) -> None:
        self._admission.leave(0)
        if self._admission.retiring:
            self._refuse(error, reply)
            return
        self._metrics.errors[error.code] += 1
        self._metrics.requests[self._route, error.status] += 1
        now_s = int(time.time())
        if now_s != self._refusals_s or len(self._refusals) > MAX_REFUSALS:
            self._refusals_s = now_s
            self._refusals.clear()
        key = (error.detail, math.ceil(error.retry_after_s))
        answer = self._refusals.get(key)
        if answer is None:
            answer = self._refusals[key] = _encode(*encode_problem(error))
        reply(answer, False)

    def _left(self, size: int, started_s: float) -> None:
        self._admission.leave(size)
        self._metrics.answer.observe(time.perf_counter() - started_s)

    def _refuse(self, error: Exception, reply: Reply) -> None:
        if not isinstance(error, JudgifyError):
            log.error("a request failed", extra={"route": self._route}, exc_info=error)
            error = JudgifyError("something went wrong here; it is in the log")
        status, body, headers = encode_problem(error)
        last = isinstance(error, Draining) or self._admission.retiring
        if last:
            headers["Connection"] = "close"
        self._metrics.errors[error.code] += 1
        self._metrics.requests[self._route, status] += 1
        reply(_encode(status, body, headers), last)


def _encode(status: int, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    lines += [f"Content-Length: {len(body)}", f"Date: {formatdate(usegmt=True)}", f"Server: {SERVER_SOFTWARE}", "\r\n"]
    return "\r\n".join(lines).encode("latin-1") + body


_second = 0
_head_bytes = b""


def _head() -> bytes:
    """The status line and the headers that are the same for a second."""
    global _second, _head_bytes
    now = int(time.time())
    if now != _second:
        _second = now
        _head_bytes = (
            f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: {formatdate(now, usegmt=True)}\r\n"
            f"Server: {SERVER_SOFTWARE}\r\n"
        ).encode()
    return _head_bytes
