"""Alerts on open dashboards: a small table is looked at while any is open, and each socket is told what changed of its tenant.

A message is encoded once for all sockets of a tenant. A socket that takes no more is sent nothing, and later all that fires:
nothing piles up for it. Looks reach back a few seconds, so what commits late is seen; each revision of an alert is told once.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Collection, Sequence
from typing import Any, Protocol

import msgspec

from judgify_engine.errors import JudgifyError
from judgify_engine.wire.alerts import AlertsMessage, alerts_of
from judgify_engine.wire.websocket import Message

log = logging.getLogger(__name__)

LOOK_S, BACK_S = 1.0, 15.0
AT_ONCE = 100
"""Alerts in one message."""
CHANGED, REMEMBERED = 1000, 10_000
SLICE = 100
"""Sockets written to before others get the event loop."""


class Alerts(Protocol):
    """Where they are; see store/alerts."""

    async def changed(self, back_s: float, tenants: Collection[str], limit: int) -> list[Any]: ...
    async def firing(self, tenants: Collection[str], limit: int) -> tuple[list[Any], dict[str, int]]: ...
    async def deliveries(self, rows: Sequence[Any]) -> list[Any]: ...


class Outlet(Protocol):
    """See live/socket."""

    @property
    def paused(self) -> bool: ...
    def send(self, message: Message) -> None: ...


class Watching(Protocol):
    """An open dashboard; see live/session."""

    tenant_id: str
    alerts_due: bool

    @property
    def socket(self) -> Outlet: ...


class AlertPush:
    """Tells open dashboards. `sessions`: those of this process."""

    def __init__(self, alerts: Alerts, sessions: Collection[Watching]) -> None:
        self._alerts, self._sessions = alerts, sessions
        self._seen: OrderedDict[tuple[Any, int], None] = OrderedDict()
        """Revisions that were told, or that nobody was there to be told of."""

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_S)
            if not self._sessions or stop.is_set():
                continue
            try:
                await self.look()
            except JudgifyError as error:
                log.debug("alerts cannot be looked at now", extra={"reason": error.detail})
            except Exception:  # dashboards go on, whatever happens to alerts
                log.exception("looking at alerts failed and is tried again")

    async def look(self) -> None:
        """Do it now."""
        watching: dict[str, list[Watching]] = defaultdict(list)
        for session in list(self._sessions):
            watching[session.tenant_id].append(session)
        rows = await self._alerts.changed(BACK_S, watching, CHANGED)
        changed = [row for row in rows if (row["id"], row["revision"]) not in self._seen]
        concerned = {row["tenant_id"] for row in changed}
        concerned |= {tenant_id for tenant_id, all_of in watching.items() if any(_is_due(one) for one in all_of)}
        if not concerned:
            return
        firing, counts = await self._alerts.firing(concerned, AT_ONCE)
        deliveries = await self._alerts.deliveries([*{row["id"]: row for row in (*firing, *changed)}.values()])
        self._note(changed)  # not before: what fails until here is looked at again
        written = 0
        for tenant_id in concerned:
            news = _message(counts, tenant_id, changed, deliveries)
            whole = _message(counts, tenant_id, firing, deliveries)
            for session in watching[tenant_id]:
                _tell(session, news, whole)
                written += 1
                if written % SLICE == 0:
                    await asyncio.sleep(0)

    def _note(self, rows: Sequence[Any]) -> None:
        for row in rows:
            self._seen[row["id"], row["revision"]] = None
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)


def _is_due(session: Watching) -> bool:
    return session.alerts_due and not session.socket.paused


def _tell(session: Watching, news: Message | None, whole: Message | None) -> None:
    if session.socket.paused:
        session.alerts_due |= news is not None
    elif session.alerts_due:
        session.alerts_due = False
        session.socket.send(whole or Message(msgspec.json.encode(AlertsMessage(0, []))))
    elif news is not None:
        session.socket.send(news)


def _message(counts: dict[str, int], tenant_id: str, rows: Sequence[Any], deliveries: Sequence[Any]) -> Message | None:
    own = [row for row in rows if row["tenant_id"] == tenant_id][:AT_ONCE]
    if not own:
        return None
    return Message(msgspec.json.encode(AlertsMessage(counts.get(tenant_id, 0), alerts_of(own, deliveries))))
