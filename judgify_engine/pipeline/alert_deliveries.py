"""Deliveries of alerts to attempts: leases what is due, makes the attempts side by side, and records each.

Whoever evaluates the rules also delivers. A lease that runs out, because its process died, makes the delivery due again, with
the same id for its receiver. To one sink of a tenant goes one at a time, in order; so a receiver that hangs holds up itself.
"""

import asyncio
import logging
import random
from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from judgify_engine.config import AlertsConfig
from judgify_engine.core.retries import Outcome, delay_s
from judgify_engine.errors import JudgifyError
from judgify_engine.observe.metrics import Metrics

log = logging.getLogger(__name__)

LOOK_S = 1.0
PER_TENANT = 8
"""Deliveries of one tenant at once."""
LEASE_S = 15.0
"""How long after its timeout an attempt is given up, when its process is gone."""
STOP_S = 3.0


class AlertDelivery(NamedTuple):
    """A delivery that this process has leased, and all that an attempt needs."""

    id: Any
    """A UUID."""
    tenant_id: str
    sink_id: str
    kind: str
    event: Literal["firing", "resolved"]
    attempt: int
    repeated: bool
    """It was delivered before: it still fires."""
    alert: Any
    """The stored row of the alert, its id as `alert_id`."""
    sink: str | None
    """The stored definition; None: it is gone, or it is the stream."""
    secrets: tuple[str, ...]


class Delivered(NamedTuple):
    """An attempt that is over."""

    delivery: AlertDelivery
    state: Literal["waiting", "delivered", "failed"]
    error: str | None
    rest_s: float
    """Until the next attempt, or the next repeat."""
    repeats: bool


class Outbox(Protocol):
    """Where deliveries are; see store/alert_deliveries. All raise DatabaseUnavailable or Overloaded."""

    async def claim(
        self, owner: str, lease_s: float, free: int, per_tenant: int, busy: Collection[tuple[str, str]]
    ) -> list[AlertDelivery]: ...
    async def record(self, owner: str, finished: Sequence[Delivered]) -> None: ...


class Performer(Protocol):
    """Makes attempts; see actions/alert_sinks."""

    async def perform(self, delivery: AlertDelivery) -> Outcome: ...


class AlertDeliveries:
    """Delivers while `leading`."""

    def __init__(
        self, outbox: Outbox, performer: Performer, config: AlertsConfig, owner: str, metrics: Metrics, chance: random.Random
    ) -> None:
        self._outbox, self._performer, self._config, self._owner = outbox, performer, config, owner
        self._metrics, self._chance = metrics, chance
        self._running: dict[asyncio.Task[Delivered], AlertDelivery] = {}
        self._finished: list[Delivered] = []
        self._news = asyncio.Event()
        self._told = ""

    def wake(self) -> None:
        """There may be something to deliver."""
        self._news.set()

    async def run(self, stop: asyncio.Event, leading: "asyncio.Event") -> None:
        """Until `stop`, while `leading` is set; whatever fails is tried again."""
        ending = asyncio.create_task(self._wake_at(stop), name="alert-deliveries-stop")
        try:
            while not stop.is_set():
                if not leading.is_set() and not self._running:
                    leading_now = asyncio.create_task(leading.wait(), name="alert-deliveries-leading")
                    try:
                        await asyncio.wait((leading_now, ending), return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        leading_now.cancel()
                    continue
                self._news.clear()
                await self._turn(leading.is_set())
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._news.wait()
                except TimeoutError:
                    pass
        finally:
            ending.cancel()
            await self._end()

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._news.set()

    async def _turn(self, leading: bool) -> None:
        try:
            await self._record()
            if leading:
                await self._start()
            self._told = ""
        except JudgifyError as error:
            if error.detail != self._told:
                log.warning("alerts cannot be delivered now", extra={"reason": error.detail})
            self._told = error.detail
        except Exception:  # judging goes on, whatever happens to alerts
            log.exception("delivering alerts failed and is tried again")

    async def _record(self) -> None:
        batch = self._finished[:]
        if batch:
            await self._outbox.record(self._owner, batch)
            del self._finished[: len(batch)]

    async def _start(self) -> None:
        busy = [(each.tenant_id, each.sink_id) for each in self._running.values()]
        busy += [(each.delivery.tenant_id, each.delivery.sink_id) for each in self._finished]
        free = self._config.concurrency - len(busy)
        if free <= 0:
            return
        lease_s = self._config.timeout_s + LEASE_S
        for delivery in await self._outbox.claim(self._owner, lease_s, free, PER_TENANT, busy):
            task = asyncio.create_task(self._attempt(delivery), name="alert-delivery")
            self._running[task] = delivery
            task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[Delivered]") -> None:
        del self._running[task]
        if not task.cancelled():
            self._finished.append(task.result())
        self._news.set()

    async def _attempt(self, delivery: AlertDelivery) -> Delivered:
        """One attempt. Raises nothing; cut off, its lease makes it due again."""
        try:
            async with asyncio.timeout(self._config.timeout_s + 1.0):
                outcome = await self._performer.perform(delivery)
        except Exception as error:  # its text may hold what is secret of a URL
            log.warning("a delivery of an alert failed", extra={"kind": delivery.kind, "error": type(error).__name__})
            outcome = Outcome("retry", f"the engine failed at this: {type(error).__name__}")
        self._metrics.alert_deliveries["delivered" if outcome.verdict == "succeeded" else "failed"] += 1
        return self._after(delivery, outcome)

    def _after(self, delivery: AlertDelivery, outcome: Outcome) -> Delivered:
        config = self._config
        repeats = delivery.kind == "alertmanager" and delivery.event == "firing"
        if outcome.verdict == "succeeded":
            return Delivered(delivery, "delivered", None, config.repeat_s, repeats)
        rest_s = delay_s(
            delivery.attempt, config.retry_first_s, config.retry_longest_s, self._chance.random(), outcome.retry_after_s
        )
        if delivery.repeated:  # told it was; it is only told again
            return Delivered(delivery, "delivered", outcome.error, min(rest_s, config.repeat_s), True)
        if outcome.verdict == "refused" or (delivery.attempt >= config.max_attempts and delivery.kind != "stream"):
            return Delivered(delivery, "failed", outcome.error, 0.0, False)
        return Delivered(delivery, "waiting", outcome.error, rest_s, False)

    async def _end(self) -> None:
        """Wait a moment for what is under way, cut off the rest, and record what is over."""
        if self._running:
            await asyncio.wait(list(self._running), timeout=STOP_S)
        cut_off = list(self._running)
        for task in cut_off:
            task.cancel()
        if cut_off:
            await asyncio.wait(cut_off)
        try:
            async with asyncio.timeout(STOP_S):
                await self._record()
        except Exception as error:
            log.warning("deliveries could not be recorded; they are made again", extra={"error": type(error).__name__})
