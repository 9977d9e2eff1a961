"""Tenants' quotas in one process: what each has used, and the refusal of more.

With several processes each grants its share. A refusal is held for a moment before it is sent, so that a client that asks again
at once costs the others little.
"""

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from judgify_engine.core.quota import BURST_S, UNBOUNDED, Meter
from judgify_engine.errors import QuotaExceeded
from judgify_engine.pipeline.access import Grant

HOLD_S = 0.1
"""How long a refusal is held, or a little less; up to a second where far more than the quota comes."""
REMEMBERED = 10_000
"""Tenants; of more, those that used nothing lately are forgotten."""


class Spent(NamedTuple):
    """A request that was let through, of a tenant whose requests are bounded."""

    left: int
    """Requests that are free right now."""
    limit: float

    def headers(self) -> dict[str, str]:
        """As draft-ietf-httpapi-ratelimit-headers-10 has them."""
        return rate_limit_headers("requests", self.limit, self.left, BURST_S)


class Quotas:
    """The meters of all tenants that have a bound. `processes`: how many share it."""

    def __init__(self, processes: int, clock_s: Callable[[], float] | None = None) -> None:
        self._processes = processes
        self._clock_s = clock_s or asyncio.get_running_loop().time
        self._meters: dict[str, Meter] = {}

    def share(self, processes: int) -> None:
        """So many share the quotas from now on."""
        self._processes = max(1, processes)

    def spend(self, grant: Grant, size_bytes: int = 0) -> Spent | None:
        """Count a request; None: it needs no counting. Raises QuotaExceeded; then it is not counted."""
        if grant.quota == UNBOUNDED:
            return None
        now_s, meter = self._clock_s(), self._meter(grant)
        refusal = meter.spend(size_bytes, now_s)
        if refusal is not None:
            what, limit, retry_after_s, pressure_s = refusal
            raise QuotaExceeded(
                f"tenant {grant.tenant_id} may use {limit:g} {what} a second here",
                retry_after_s=retry_after_s,
                hold_s=(HOLD_S + pressure_s) * random.uniform(0.5, 1.0),  # or many would come back all at once
                headers=rate_limit_headers(what, limit, 0, retry_after_s),
                quota=what,
                limit=limit,
            )
        limit = meter.quota.requests_per_s
        return Spent(meter.requests_left(now_s), limit) if limit else None

    async def spend_or_hold(self, grant: Grant) -> Spent | None:
        """As `spend`, for who can wait: a refusal comes a little later."""
        try:
            return self.spend(grant)
        except QuotaExceeded as error:
            await asyncio.sleep(error.hold_s)
            raise

    def give_back(self, grant: Grant, size_bytes: int) -> None:
        """A request that was counted goes another way, where it is counted again."""
        if grant.quota != UNBOUNDED:
            self._meter(grant).give_back(size_bytes)

    def charge(self, grant: Grant, size_bytes: int) -> None:
        """Count a body whose size was not known when the request was."""
        if grant.quota != UNBOUNDED:
            self._meter(grant).charge(size_bytes)

    @contextlib.contextmanager
    def socket(self, grant: Grant) -> Iterator[None]:
        """While a dashboard is open. Raises QuotaExceeded."""
        if not grant.quota.sockets:
            yield
            return
        meter = self._meter(grant)
        limit = meter.quota.sockets
        if meter.sockets >= limit:
            detail = f"tenant {grant.tenant_id} may have {limit} dashboards open here"
            raise QuotaExceeded(detail, retry_after_s=5.0, quota="sockets", limit=limit)
        meter.sockets += 1
        try:
            yield
        finally:
            meter.sockets -= 1

    def _meter(self, grant: Grant) -> Meter:
        meter, now_s = self._meters.get(grant.tenant_id), self._clock_s()
        if meter is None:
            if len(self._meters) >= REMEMBERED:
                self._meters = {tenant: one for tenant, one in self._meters.items() if not one.is_idle(now_s)}
            meter = self._meters[grant.tenant_id] = Meter()
        meter.bound(grant.quota.shared_by(self._processes), now_s)
        return meter


def rate_limit_headers(what: str, limit: float, left: int, seconds: float) -> dict[str, str]:
    """What a quota grants, and what is left of it."""
    whole = max(1, math.floor(limit))
    return {"RateLimit-Policy": f'"{what}";q={whole};w=1', "RateLimit": f'"{what}";r={left};t={max(1, math.ceil(seconds))}'}
