"""From a token to what it grants, with a short memory: a revoked token is refused within `FRESH_S` seconds."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, Protocol

from judgify_engine.core.quota import UNBOUNDED, Quota
from judgify_engine.errors import Forbidden, Overloaded, RetryLater, Unauthorized

SCOPES = ("execute", "read", "admin")
FRESH_S = 5.0
REMEMBERED = 10_000
LOOKUPS_AT_ONCE = 4
LOOKUPS_WAITING = 200
LONGEST_TOKEN = 512
_session: ContextVar[str | None] = ContextVar("page-session", default=None)
"""The session that speaks for this task's request where it has no token."""


@contextmanager
def speaking_for(session: str) -> Iterator[None]:
    """Inside, a request without a token is the page session's with this secret."""
    before = _session.set(session)
    try:
        yield
    finally:
        _session.reset(before)


class Grant(NamedTuple):
    """Who a request speaks for, and what it may do."""

    tenant_id: str
    scopes: frozenset[str]
    token_id: str | None
    quota: Quota = UNBOUNDED
    """What its tenant may use in all processes together."""


class GrantSource(Protocol):
    """Where tokens are kept."""

    async def find(self, secret: str) -> Grant | None: ...

    async def find_session(self, secret: str) -> Grant | None: ...

    async def quota_of(self, tenant_id: str) -> Quota: ...


class Access:
    """Looks tokens up. `known`: tokens of the profile, which are in no table. `count`: counts a request of a grant."""

    def __init__(
        self, source: GrantSource, known: dict[str, Grant], count: Callable[[Grant], Awaitable[object]] | None = None
    ) -> None:
        self._source, self._known, self._count = source, known, count
        self._tokens: OrderedDict[str, tuple[Grant | None, float]] = OrderedDict()
        self._sessions: OrderedDict[str, tuple[Grant | None, float]] = OrderedDict()
        self._lookups = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        self._waiting = 0
        self._loop = asyncio.get_running_loop()

    def recall(self, authorization: str | None, scope: str) -> Grant | None:
        """The grant, if it is known without asking PostgreSQL. Raises Forbidden for a wrong scope; never waits."""
        if authorization is None or authorization[:7] != "Bearer ":
            return None
        entry = self._tokens.get(authorization[7:])
        if entry is None or entry[0] is None or entry[1] < self._loop.time():
            return None
        return _with_scope(entry[0], scope)

    async def check(self, authorization: str | None, scope: str) -> Grant:
        """The grant of a request, which is counted. Raises as `authenticate`, or QuotaExceeded."""
        grant = await self.authenticate(authorization, scope)
        if self._count is not None:
            await self._count(grant)
        return grant

    async def authenticate(self, authorization: str | None, scope: str) -> Grant:
        """The grant of an `Authorization` header. Raises Unauthorized, Forbidden, Overloaded or DatabaseUnavailable."""
        if authorization is None:
            session = _session.get()
            if session is not None:
                return await self.check_session(session, scope)
            raise Unauthorized("send the header Authorization: Bearer TOKEN")
        kind, _, token = authorization.partition(" ")
        token = token.strip()
        if kind.lower() != "bearer" or not token:
            raise Unauthorized("the header must be Authorization: Bearer TOKEN")
        return await self.check_token(token, scope)

    async def check_token(self, token: str, scope: str) -> Grant:
        """The grant of a token. Raises as `authenticate`."""
        grant = await self._look_up(token, session=False)
        if grant is None:
            raise Unauthorized("this token is unknown, expired or revoked")
        return _with_scope(grant, scope)

    async def check_session(self, secret: str, scope: str) -> Grant:
        """The grant of a page session's cookie. Raises as `authenticate`."""
        grant = await self._look_up(secret, session=True)
        if grant is None:
            raise Unauthorized("the session has ended; sign in again")
        return _with_scope(grant, scope)

    async def _look_up(self, secret: str, *, session: bool) -> Grant | None:
        if len(secret) > LONGEST_TOKEN and secret not in self._known:
            return None
        remembered = self._sessions if session else self._tokens
        entry = remembered.get(secret)
        if entry is not None and entry[1] >= self._loop.time():
            return entry[0]
        if self._waiting >= LOOKUPS_WAITING:
            if not session and secret in self._known:
                return self._known[secret]
            raise Overloaded("too many unknown tokens at once")
        self._waiting += 1
        try:
            async with self._lookups:
                grant = await (self._source.find_session(secret) if session else self._find(secret))
        finally:
            self._waiting -= 1
        remembered[secret] = (grant, self._loop.time() + FRESH_S)
        remembered.move_to_end(secret)
        while len(remembered) > REMEMBERED:
            remembered.popitem(last=False)
        return grant

    async def _find(self, token: str) -> Grant | None:
        known = self._known.get(token)
        if known is None:
            return await self._source.find(token)
        try:
            return known._replace(quota=await self._source.quota_of(known.tenant_id))
        except RetryLater:  # it needs no PostgreSQL to be known
            return known

    def forget_session(self, secret: str) -> None:
        """Forget a session that was just closed."""
        self._sessions.pop(secret, None)


def _with_scope(grant: Grant, scope: str) -> Grant:
    if scope not in grant.scopes:
        raise Forbidden(
            f"this needs the scope {scope!r}; the token has {', '.join(sorted(grant.scopes)) or 'none'}", scope=scope
        )
    return grant
