"""Who reads the streams for the live tails of this process: ten times a second, and only streams that somebody watches.

A stream is shared by several tenants: of an entry of another one nothing is read but whose it is. Each reading begins at the
entry that the last one ended with: where that is gone, something may be missing, and the tails say so (`gap`). So they do when
a stream runs ahead of its reader, who then goes on at its end; nothing here is held for anybody beyond `core/tail`.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

from judgify_engine.config import LiveConfig
from judgify_engine.core.streams import just_before, stream_of
from judgify_engine.core.tail import Tail, TailFilter
from judgify_engine.errors import JudgifyError, Overloaded, QuotaExceeded
from judgify_engine.pipeline.streams import Streams
from judgify_engine.units import START, Position
from judgify_engine.wire.tail import is_judgment, row_of

log = logging.getLogger(__name__)

ROUND_S = 0.1
"""From one look to the next, and from one message to the next."""
COUNT = 500
"""Entries of one look: some 3 ms, if all are of tenants with a tail."""
LOOKS = 4
"""Of one round, at most."""
BEHIND_ROUNDS = 20
"""After so many rounds that did not reach the end, the reader goes there."""
LOST_S = 10.0
"""A stream that ends before where it was read, for so long, will not be filled up to there again."""


class TailClient:
    """One reader: what waits for it, and who is to hear that there is something."""

    def __init__(self, tenant_id: str, wanted: TailFilter, heard: Callable[[], None]) -> None:
        """`heard` is called once a round; it must be quick and must not raise."""
        self.tenant_id, self.tail, self.heard = tenant_id, Tail(wanted), heard
        self.position = START


class _Followed:
    """One stream, and the readers of its tenants."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.position = START
        self.clients: dict[bytes, set[TailClient]] = {}
        self.behind = 0
        """Rounds in a row that did not reach the end."""
        self.lost_since_s: float | None = None

    def all(self) -> list[TailClient]:
        return [client for clients in self.clients.values() for client in clients]

    def jump(self, position: Position) -> None:
        """Go on elsewhere, with a gap before."""
        self.position, self.behind, self.lost_since_s = position, 0, None
        for client in self.all():
            client.tail.lose()


class TailReader:
    """All tails of this process. `demand`: see that the streams are filled (it raises Overloaded)."""

    def __init__(self, streams: Streams, demand: Callable[[], Awaitable[None]], config: LiveConfig) -> None:
        self._streams, self._demand, self._config = streams, demand, config
        self._followed: dict[str, _Followed] = {}
        self._some = asyncio.Event()
        self._failing = False
        self._of_tenant = Counter[str]()

    @property
    def tails(self) -> int:
        """How many are open."""
        return self._of_tenant.total()

    async def join(self, client: TailClient) -> None:
        """From here on everything that comes for its tenant reaches it.

        Raises Overloaded, QuotaExceeded (its tenant has as many as one may have) or StreamsUnavailable.
        """
        self._take_place(client.tenant_id)
        try:
            await self._demand()
            name = stream_of(client.tenant_id)
            if name not in self._followed:
                (end,) = await self._streams.last((name,))
                if name not in self._followed:
                    self._followed[name] = _Followed(name)
                    self._followed[name].position = end
        except BaseException:
            self._give_place(client.tenant_id)
            raise
        followed = self._followed[name]
        followed.clients.setdefault(client.tenant_id.encode(), set()).add(client)
        client.position = followed.position
        self._some.set()

    def leave(self, client: TailClient) -> None:
        """It wants no more. A stream without readers is not read."""
        followed = self._followed[stream_of(client.tenant_id)]
        clients = followed.clients[client.tenant_id.encode()]
        clients.remove(client)
        self._give_place(client.tenant_id)
        if not clients:
            del followed.clients[client.tenant_id.encode()]
        if not followed.clients:
            del self._followed[followed.name]

    def _take_place(self, tenant_id: str) -> None:
        most, most_of_tenant = self._config.max_tails, self._config.max_tails_of_tenant
        if self._of_tenant[tenant_id] >= most_of_tenant:
            detail = f"tenant {tenant_id} may have {most_of_tenant} live tails open here"
            raise QuotaExceeded(detail, retry_after_s=5, quota="tails", limit=most_of_tenant)
        if self.tails >= most:
            raise Overloaded(f"this server serves {most} live tails at most", retry_after_s=5)
        self._of_tenant[tenant_id] += 1

    def _give_place(self, tenant_id: str) -> None:
        self._of_tenant[tenant_id] -= 1
        if not self._of_tenant[tenant_id]:
            del self._of_tenant[tenant_id]

    async def run(self, stop: asyncio.Event) -> None:
        """Read, until `stop`; without tails nothing wakes it."""
        waking = asyncio.get_running_loop().create_task(self._wake_at(stop), name="tails-stop")
        try:
            while not stop.is_set():
                if not self._followed:
                    self._some.clear()
                    await self._some.wait()
                    continue
                await asyncio.gather(*(self._round(followed) for followed in list(self._followed.values())))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), ROUND_S)
        finally:
            waking.cancel()

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._some.set()

    async def _round(self, followed: _Followed) -> None:
        try:
            await self._read(followed)
            self._failing = False
        except JudgifyError as error:
            if not self._failing:
                log.warning("live tails cannot be read just now", extra={"reason": str(error)})
            self._failing = True
        except Exception:  # judging goes on, whatever happens to tails
            log.exception("reading a live tail failed and is tried again")
        for client in followed.all():
            client.position = followed.position
            client.heard()

    async def _read(self, followed: _Followed) -> None:
        """What has come, up to a bound."""
        for _ in range(LOOKS):
            since = followed.position
            entries = await self._streams.after(followed.name, just_before(since) if since > START else START, COUNT)
            known = since == START or (bool(entries) and entries[0].id == since)
            if not known and not entries:
                return await self._look_for_end(followed)
            followed.lost_since_s = None
            if not known:
                followed.jump(since)
            for id, fields in entries:
                clients = followed.clients.get(fields.get(b"tenant_id", b"")) if id > since else None
                if clients and is_judgment(fields):
                    row = row_of(fields)
                    for client in clients:
                        client.tail.lose() if row is None else client.tail.offer(row)
            if entries:
                followed.position = max(since, entries[-1].id)
            if len(entries) < COUNT:
                followed.behind = 0
                return
            await asyncio.sleep(0)
        followed.behind += 1
        if followed.behind >= BEHIND_ROUNDS:
            (end,) = await self._streams.last((followed.name,))
            followed.jump(end)

    async def _look_for_end(self, followed: _Followed) -> None:
        """The stream has neither the entry that was read last, nor any beyond: it was emptied, and may be filled again."""
        now_s = asyncio.get_running_loop().time()
        if followed.lost_since_s is None:
            followed.lost_since_s = now_s
        if now_s - followed.lost_since_s >= LOST_S:
            (end,) = await self._streams.last((followed.name,))
            followed.jump(end)
