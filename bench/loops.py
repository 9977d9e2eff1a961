"""The two ways to put load on a server, over `users` keep-alive connections.

Closed loop: each user sends its next request when the last one is answered. Open loop (`rate_per_s` > 0): request n is
due at n / rate, whatever the server does; it goes out on an idle connection, its latency counts from when it was due
(no coordinated omission), and what is still unsent at the end is reported. Requests become due in steps of 1 ms, the
resolution of the event loop's timers.

A refusal (503, 429) makes its user wait as long as it was asked to. With `keyed`, each request carries an
`Idempotency-Key` and is repeated until it is answered, also over broken connections: then exactly one row must exist
for each request. Without, a broken request is counted and gone.
"""

import asyncio
import time
import uuid
from contextlib import suppress

from .client import EXECUTE_PATH, SEED_BODY, Connection, Response, Target
from .recorder import Recorder

LATE_S = 0.010
TICK_S = 0.001
WATCH_S = 0.5
CONNECT_TIMEOUT_S = 10.0
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.02, 0.5
MAX_RETRY_AFTER_S = 5.0
KEY_MARK = b"KEY-GOES-HERE"


class _User:
    """One user: its connection, if it has one, and its request, if one is outstanding or to be repeated."""

    __slots__ = ("connection", "due_s", "is_idle", "is_sent", "lost", "request", "sent_s")

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.request = b""
        self.due_s = 0.0
        self.sent_s = 0.0
        self.is_sent = False
        self.is_idle = False
        self.lost = asyncio.Event()


class Load:
    """One run of load against `target`; what comes back goes to `recorder`. Use it once."""

    def __init__(
        self,
        target: Target,
        recorder: Recorder,
        users: int,
        *,
        rate_per_s: float = 0.0,
        keyed: bool = False,
        timeout_s: float = 30.0,
        grace_s: float = 30.0,
    ) -> None:
        self._target = target
        self._recorder = recorder
        self._users = [_User() for _ in range(users)]
        self._rate_per_s = rate_per_s
        self._keyed = keyed
        self._timeout_s = timeout_s
        self._grace_s = grace_s
        headers = {"Idempotency-Key": KEY_MARK.decode()} if keyed else None
        self._head, _, self._tail = target.encode("POST", EXECUTE_PATH, SEED_BODY, headers).partition(KEY_MARK)
        self._run_id = uuid.uuid4().hex.encode()
        self._idle: list[_User] = []
        self._stop = asyncio.Event()
        self._done = asyncio.Event()
        self._due = 0
        self._most_due = 0
        self.issued = 0
        """Requests begun, each counted once however often it was repeated."""
        self.began_s = 0.0
        self.ended_s = 0.0
        """When the last answer came."""

    def stop(self) -> None:
        """Send nothing new from now on; `run` returns when what is outstanding has been answered."""
        self._stop.set()

    def abort(self) -> None:
        """Cut everything: `run` returns soon, what is outstanding stays without an answer."""
        self._stop.set()
        self._done.set()
        for user in self._users:
            if user.connection is not None:
                user.connection.abort()

    @property
    def outstanding(self) -> int:
        """Requests that have no answer (yet)."""
        return sum(1 for user in self._users if user.request)

    async def run(self, seconds: float) -> None:
        """Load the server for `seconds`, or until `stop`; then wait `grace_s` at most for outstanding answers."""
        self.began_s = self.ended_s = time.perf_counter()
        self._most_due = int(self._rate_per_s * seconds)
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(self._watch_timeouts(), name="load-watch")
            keepers = [
                tasks.create_task(self._keep_connected(user), name=f"load-user-{number}")
                for number, user in enumerate(self._users)
            ]
            if self._rate_per_s:
                self._tick()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._stop.wait()
            if self._rate_per_s:
                self._tick()
            self._stop.set()
            self._recorder.unsent += max(0, self._due - self.issued)
            for user in self._users:
                if not user.request and user.connection is not None:
                    user.connection.close()
            await asyncio.wait(keepers, timeout=self._grace_s)
            self.abort()
            watch.cancel()

    async def _keep_connected(self, user: _User) -> None:
        loop = asyncio.get_running_loop()
        backoff_s = FIRST_BACKOFF_S
        while not self._done.is_set() and (user.request or not self._stop.is_set()):
            user.lost.clear()
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await loop.create_connection(
                        lambda: Connection(
                            lambda made: self._made(user, made),
                            lambda response: self._answered(user, response),
                            lambda error: self._lost(user, error),
                        ),
                        self._target.host,
                        self._target.port,
                    )
            except (OSError, TimeoutError):
                self._recorder.connect_failures += 1
                with suppress(TimeoutError):
                    async with asyncio.timeout(backoff_s):
                        await self._done.wait()
                backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)
                continue
            backoff_s = FIRST_BACKOFF_S
            await user.lost.wait()  # bounded: `run` closes every connection in the end

    def _made(self, user: _User, connection: Connection) -> None:
        user.connection = connection
        self._continue(user)

    def _continue(self, user: _User) -> None:
        """Do what is next for a user whose connection is free: repeat, begin, wait for a turn, or leave."""
        connection = user.connection
        if connection is None or user.is_sent or user.is_idle:
            return
        now_s = time.perf_counter()
        if user.request:
            self._send(user, connection, now_s)
        elif self._stop.is_set():
            connection.close()
        elif not self._rate_per_s:
            self._begin(user, connection, now_s, now_s)
        elif self.issued < self._due:
            self._begin(user, connection, self.began_s + self.issued / self._rate_per_s, now_s)
        else:
            user.is_idle = True
            self._idle.append(user)

    def _begin(self, user: _User, connection: Connection, due_s: float, now_s: float) -> None:
        late_s = now_s - due_s
        if late_s > LATE_S:
            self._recorder.late += 1
            self._recorder.max_late_s = max(self._recorder.max_late_s, late_s)
        user.due_s = due_s
        user.request = b"%b%b-%d%b" % (self._head, self._run_id, self.issued, self._tail) if self._keyed else self._head
        self.issued += 1
        self._send(user, connection, now_s)

    def _send(self, user: _User, connection: Connection, now_s: float) -> None:
        user.sent_s = now_s
        user.is_sent = True
        connection.send(user.request)

    def _tick(self) -> None:
        """Make due what the clock says, and send it while connections are idle."""
        if self._stop.is_set():
            return
        elapsed_s = time.perf_counter() - self.began_s
        self._due = min(int(elapsed_s * self._rate_per_s) + 1, self._most_due)
        while self._idle and self.issued < self._due:
            user = self._idle.pop()
            user.is_idle = False
            self._continue(user)
        asyncio.get_running_loop().call_later(TICK_S, self._tick)

    def _answered(self, user: _User, response: Response) -> None:
        now_s = time.perf_counter()
        user.is_sent = False
        if response.status == 200:
            user.request = b""
            self.ended_s = now_s
            self._recorder.accept(response, now_s - user.due_s, now_s)
        elif response.status in (429, 503):
            self._recorder.refuse(response)
            if not self._keyed:
                user.request = b""
            asked = response.header(b"retry-after")
            wait_s = min(float(asked), MAX_RETRY_AFTER_S) if asked.isdigit() else 0.1
            asyncio.get_running_loop().call_later(wait_s, self._continue, user)
            return
        else:
            user.request = b""
            self._recorder.reject_status(response)
        self._continue(user)

    def _lost(self, user: _User, error: Exception | None) -> None:
        user.connection = None
        if user.is_sent:
            self._recorder.cut += 1
            user.is_sent = False
            if not self._keyed:
                user.request = b""
        if user.is_idle:
            user.is_idle = False
            self._idle.remove(user)
        user.lost.set()

    async def _watch_timeouts(self) -> None:
        while not self._done.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_S):
                    await self._done.wait()
            oldest_s = time.perf_counter() - self._timeout_s
            for user in self._users:
                if user.is_sent and user.sent_s < oldest_s and user.connection is not None:
                    self._recorder.timeouts += 1
                    user.is_sent = False
                    if not self._keyed:
                        user.request = b""
                    user.connection.abort()
