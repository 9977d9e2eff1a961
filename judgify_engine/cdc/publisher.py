"""Who fills the streams: one process at a time, over a slot of its own, by a lock that PostgreSQL frees when that process dies.

A session begins where the streams end. Where they lack what they had (emptied, another server in their place), the groups are
put back to where they stood, and the log is read again from what the slowest of them needs. Where the slot itself is gone or
was moved, changes are missing: a new one is made, and judgments of which no entry was made are put in from the table.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from judgify_engine.cdc.holder import PUBLICATION, Slots
from judgify_engine.cdc.progress import Memory, Progress
from judgify_engine.cdc.putting_back import empty_all, put_back
from judgify_engine.cdc.replication import PUBLISHER_LOCK, Replication
from judgify_engine.cdc.role import Role, is_taken
from judgify_engine.cdc.waiting import first_of, slot_made
from judgify_engine.cdc.watch import watch
from judgify_engine.config import Config
from judgify_engine.core.healing import Finding, Publication, Server, Slot, diagnose
from judgify_engine.core.stream_state import StreamState, is_ahead
from judgify_engine.core.streams import JUDGMENTS, OWNER
from judgify_engine.errors import Corrupt, Overloaded, StreamsUnavailable, Unavailable
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.publish_loop import PublishLoop
from judgify_engine.pipeline.stream_upkeep import StreamUpkeep
from judgify_engine.pipeline.streams import Streams
from judgify_engine.units import START, Position

log = logging.getLogger(__name__)

UNWANTED_S = 2.0
"""How often it is looked whether streams are wanted, where nobody else could read them."""
GIVE_UP_S = 60.0
"""How long streams are not wanted before their slot is dropped."""
OWNED_S = 10 * 365 * 86_400.0
DEMAND_TIMEOUT_S, DEMAND_LOOK_S = 15.0, 0.1


def slot_of(config: Config) -> str:
    """The name of the slot that the streams are filled from."""
    return f"{config.change.slot[:55]}_streams"


class Sessions(Protocol):
    """The database with the judgments."""

    dsn: str

    def session(self) -> contextlib.AbstractAsyncContextManager[Any]: ...
    def query(self) -> contextlib.AbstractAsyncContextManager[Any]: ...


class Publisher:
    """Tries to fill the streams, for as long as the process lives. `slots`: over a connection to the judgments' database."""

    def __init__(
        self,
        judgments: Sessions,
        slots: Callable[[Any, str, str], Slots],
        streams: Streams,
        memory: Memory,
        config: Config,
        metrics: Metrics,
        reads_log: Callable[[], bool],
        away: tuple[type[BaseException], ...],
    ) -> None:
        """`memory`: of the slot `slot_of(config)`. `away`: how the database's errors look.

        `reads_log`: whether this process has the other role; it then leaves this one to others for a moment.
        """
        self._judgments, self._slots, self._streams = judgments, slots, streams
        self._config, self._metrics, self._reads_log = config, metrics, reads_log
        self.slot_name = slot_of(config)
        self._store = memory
        self._role = Role("filling the streams", self._turn, self._let_go, self._pause_s, away)
        self._upkeep: StreamUpkeep | None = None
        self._filling = asyncio.Event()
        self._wanted = streams.shared
        self._start_over = ""
        self._told: set[str] = set()
        self._waits_for = ""
        self._polite = True
        self._unwanted_since_s = asyncio.get_running_loop().time()

    @property
    def state(self) -> str:
        """In words, for people."""
        if self._filling.is_set():
            return "this process"
        if not self._wanted:
            return "not needed"
        if self._waits_for:
            return f"this process, waiting for {self._waits_for} to end"
        return f"failing: {self._role.trouble}" if self._role.trouble else "standby"

    async def run(self, stop: asyncio.Event) -> None:
        """Fill, or wait to fill, until `stop`."""
        await self._role.run(stop)

    async def demand(self) -> None:
        """From now on the streams are wanted. Returns when what is judged will come by in them: they are filled, here or by
        another process on this database, or the log is kept for them until Redis is back. Raises Overloaded if that takes long.
        """
        self._wanted = True
        now_s = asyncio.get_running_loop().time
        deadline_s = now_s() + DEMAND_TIMEOUT_S
        while not (self._filling.is_set() or await self._store.kept(in_use=not self._streams.shared)):
            if now_s() >= deadline_s:
                raise Overloaded("the streams that actions need are not filled yet; try again", retry_after_s=5)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DEMAND_LOOK_S):
                    await self._filling.wait()

    def gauges(self) -> Iterator[tuple[str, str, dict[str, str], float]]:
        """For `/metrics`, in the process that fills the streams."""
        upkeep = self._upkeep
        if upkeep is None:
            return
        lag = max(0, self._metrics.publish_wal_end_lsn - self._metrics.published_lsn)
        yield "judgify_publish_lag_bytes", "Log read that is not in the streams yet.", {}, lag
        yield from upkeep.gauges()

    def _let_go(self) -> bool:
        held = self._filling.is_set()
        self._filling.clear()
        self._upkeep = None
        self._metrics.publishing = 0
        return held

    def _pause_s(self) -> float:
        return self._config.change.takeover_interval_s if self._wanted else UNWANTED_S

    async def _turn(self) -> None:
        try:
            await self._session()
        except Corrupt as error:
            log.critical("the log could not be understood; the streams get a new slot", extra={"reason": str(error)})
            self._start_over = str(error)[:300]
            raise Unavailable("the log could not be understood") from error

    async def _session(self) -> None:
        """One try: returns at once when another process fills them, raises when it cannot be done."""
        if not self._streams.shared:
            self._wanted = self._wanted or await self._store.any_actions()
            if not self._wanted:
                return await self._tidy()
        if self._reads_log() and self._polite:  # the two roles are better held by two processes, where there are two
            self._polite = False
            return
        if await is_taken(self._judgments, PUBLISHER_LOCK):
            self._polite = True
            return
        last = await self._streams.last(JUDGMENTS)  # before anything else: nothing can be done without them
        stream = Replication(self._judgments.dsn)
        try:
            await stream.connect()
            if not await stream.take_lock(PUBLISHER_LOCK):
                self._polite = True
                return
            async with self._judgments.session() as watched:
                slots = self._slots(watched, self.slot_name, PUBLICATION)
                await self._fill(stream, slots, last, watched)
        finally:
            stream.close()

    async def _tidy(self) -> None:
        """Nobody needs the streams, but somebody did before: let the server forget the log that it keeps for them."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._unwanted_since_s < GIVE_UP_S:  # another process, with other settings, may be starting again
            return
        self._unwanted_since_s = now_s
        if await self._store.end():
            log.warning("the streams are needed no more, their slot is dropped", extra={"slot": self.slot_name})

    async def _fill(self, stream: Replication, slots: Slots, last: list[Position], watched: Any) -> None:
        server = await stream.identify()
        slot, published, state = await slots.slot(), await slots.publication(), await self._store.state()
        if slot is not None and not slot.ours:
            raise Unavailable(f"the replication slot {self.slot_name} belongs to another database of this server")
        if published.wrong is not None:
            raise Unavailable(f"the publication cannot be used: {published.wrong}; who reads the log for the rollups mends it")
        owner = await self._own(server, state, last)
        await self._heed()
        left_lsn = None if state is None else await stream.left_at(state.server.timeline, server.timeline)
        if is_ahead(last, server, left_lsn):
            log.warning("streams hold what the database's log does not, as one before a restore, and are filled again")
            await empty_all(self._streams, await self._store.groups())
            last = [START] * len(JUDGMENTS)
        finding = diagnose(server, slot, published, state and state.stored, together=True, used=False)
        if self._start_over:
            finding = Finding("corrupt", {"message": self._start_over})
        if finding is not None and (state is None or not state.begun):
            finding = Finding("first", {})
        if finding is not None:
            state = await self._heal(stream, slots, finding, server, slot, published, state, last)
            last, start = list(state.last), state.server.wal_lsn
        else:
            assert state is not None
            assert slot is not None
            start = await self._where(slot, state, last, owner is None)
        if owner != self._name_of(server):  # a Redis that is full takes no value, but is trimmed in a session only
            await self._streams.put(OWNER, self._name_of(server).encode(), OWNED_S)  # last: what is emptied stays known as such
        await stream.mark()
        await stream.start(self.slot_name, PUBLICATION, start)
        facts = {"slot": self.slot_name, "from_lsn": start, "healed": finding is not None}
        log.info("filling the streams", extra=facts)
        loop = PublishLoop(stream, self._streams, last, start, self._metrics)
        progress = Progress(self._store, server, published, state.checkpoint)
        self._upkeep = StreamUpkeep(loop, stream, self._streams, progress, self._config.streams)
        self._metrics.publishing = 1
        self._filling.set()
        watching = watch(slots, published, self._config.change.watch_interval_s, lambda _: None)
        loops = {"publish-loop": loop.run(), "stream-upkeep": self._upkeep.run(), "stream-slot-watch": watching}
        await first_of(loops, watched.terminate)

    async def _own(self, server: Server, state: StreamState | None, last: Sequence[Position]) -> str | None:
        """See that the streams are ours: their ids are places in the log of one server. Whose they are; None: of nobody."""
        known = {self._name_of(server)} if state is None else {self._name_of(server), self._name_of(state.server)}
        found = await self._streams.get(OWNER)
        owner = None if found is None else found.decode(errors="replace")
        fresh = state is None or not state.begun
        if (owner is None and fresh and any(one > START for one in last)) or (owner is not None and owner not in known):
            raise Unavailable(
                "the streams of this Redis belong to another engine's database; name another Redis, or another database of"
                f" it, or remove the keys judgify-stream-* and {OWNER} if they are of no use any more"
            )
        return owner

    async def _heed(self) -> None:
        """Say what about the server endangers the streams; again, where it is so again or is another server by now."""
        try:
            found = set(await self._streams.warnings())
        except StreamsUnavailable as error:  # a node of a cluster is away: what can be filled is filled
            found = {f"it could not be asked how safe they are: {error}"}
        for reason in sorted(found - self._told):
            log.warning("the streams are in danger", extra={"reason": reason})
        self._told = found

    async def _where(self, slot: Slot, state: StreamState, last: Sequence[Position], emptied: bool) -> int:
        """The LSN to go on from. Where streams lack entries, the groups are made again: before anything is put in."""
        cut = state.cut(last)
        if not cut and not emptied:
            return max(slot.confirmed_lsn, state.server.wal_lsn)
        level = logging.WARNING if self._streams.shared else logging.INFO  # in memory, they always do after a start
        log.log(level, "streams lack entries and are filled again from the log", extra={"streams": cut, "emptied": emptied})
        await put_back(self._streams, self._store, cut, state.last, slot.confirmed_lsn)
        return slot.confirmed_lsn

    async def _heal(
        self, stream: Replication, slots: Slots, finding: Finding, server: Server, slot: Slot | None, published: Publication,
        state: StreamState | None, last: list[Position],
    ) -> StreamState:  # fmt: skip
        """A new slot; and entries for judgments that the streams have not heard of, as far as that can be known."""
        facts = {"slot": self.slot_name, "reason": finding.reason, "details": finding.details}
        log.log(
            logging.INFO if finding.reason == "first" else logging.WARNING, "making a new slot for the streams", extra=facts
        )
        if slot is not None:
            await slots.drop()
        making = stream.create_slot(self.slot_name)
        lsn, snapshot = await slot_made(making, lambda: slots.blockers(stream.pid), self._tell_waiting)
        refilled = 0
        if finding.reason == "restored":
            await empty_all(self._streams, dict.fromkeys(await self._store.groups(), START))
            last = [START] * len(JUDGMENTS)
        elif state is not None and state.checkpoint is not None:
            await put_back(self._streams, self._store, state.cut(last), state.last, state.checkpoint.lsn)
            last, refilled = await self._store.refill(self._streams, snapshot, state.checkpoint, lsn, last)
        checkpoint = await self._store.checkpoint_of(snapshot, lsn)
        new = StreamState(Server(server.system_identifier, server.timeline, lsn), published.fingerprint, last, checkpoint)
        await self._store.save(new, {} if finding.reason == "restored" else None)
        if state is not None and state.begun:
            await self._store.gap(finding.reason, finding.details, state.server.wal_lsn, lsn, refilled)
        self._start_over = ""
        return new

    def _name_of(self, server: Server) -> str:
        return f"{server.system_identifier}/{self.slot_name}"

    def _tell_waiting(self, for_whom: str) -> None:
        self._waits_for = for_whom
