"""Judgments to jobs: reads the streams of changes as the group `judgify-actions`, and notes what each judgment has to be done.

An entry is acknowledged when its jobs are committed, so each is seen at least once; a job is of a judgment and an action, so
seen twice makes one. What cannot be understood is kept in `action_entries_refused` and acknowledged: nothing waits behind it.
Entries of a process that died are taken over. Of judgments whose workflow has no actions nothing is asked or written, and
streams whose tenants have none are not read: `watch` finds out which are to be.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from judgify_engine.core.actions import Plan, plan_of
from judgify_engine.core.jobs import NewJob, new_job
from judgify_engine.core.streams import JUDGMENTS, entry_id, stream_of
from judgify_engine.errors import JudgifyError, Overloaded, RowRefused
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.streams import Entry, Streams
from judgify_engine.units import Position
from judgify_engine.wire.actions import Judged, judged_of

log = logging.getLogger(__name__)

GROUP, CONSUMER = "judgify-actions", "engine"
"""One consumer for all processes: an entry goes to one of them all the same, and no names of dead ones pile up in Redis."""
COUNT = 500
"""Entries in one transaction, at most."""
WAIT_S = 0.5
LOOK_S = 2.0
"""How often it is looked for tenants that have actions; a PUT of a workflow does not wait for that."""
RETRY_S = 0.5
JOIN_TIMEOUT_S = 10.0
REMEMBERED = 10_000
ENTRY_BYTES = 8192
"""What is kept of an entry that is refused."""

VersionKey = tuple[str, str, int]
"""Tenant, workflow, version."""


class RefusedEntry(NamedTuple):
    """An entry that makes no job."""

    stream: str
    entry_id: str
    reason: str
    entry: bytes


class JobWriter(Protocol):
    """Where jobs are noted; see store/action_jobs."""

    async def acting_tenants(self) -> Collection[str]: ...
    async def definitions(self, keys: Collection[VersionKey]) -> Mapping[VersionKey, str]: ...
    async def add(self, jobs: Sequence[NewJob], refused: Sequence[RefusedEntry]) -> None: ...


async def join_group(streams: Streams, stream: str, position: Position | None = None) -> None:
    """Make the group where it is not known, to read what follows on a position (None: what comes from now on)."""
    if not await is_known(streams, stream):
        if position is None:
            (position,) = await streams.last((stream,))
        await streams.make_group(stream, GROUP, position)


async def is_known(streams: Streams, stream: str) -> bool:
    """Whether the group is on a stream."""
    return any(group.name == GROUP for group in await streams.groups(stream))


class ActionIntake:
    """Reads the streams. `run` is to be started once for each stream, and `watch` once."""

    def __init__(
        self,
        streams: Streams,
        jobs: JobWriter,
        join: Callable[[str, Position | None], Awaitable[None]],
        claim_idle_s: float,
        metrics: Metrics,
        added: Callable[[], None],
    ) -> None:
        """`join` has the group on a stream: before the first read and after each failure. `added`: there are new jobs."""
        self._streams, self._jobs, self._join, self._metrics, self._added = streams, jobs, join, metrics, added
        self._claim_idle_s = claim_idle_s
        self._joined: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._needed: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._since: dict[str, Position] = {}
        """Where streams ended when no tenant of theirs had actions yet."""
        self._plans: OrderedDict[VersionKey, Plan | str | None] = OrderedDict()
        """Of versions; as text: why it cannot be read."""

    async def joined(self, stream: str) -> None:
        """Returns when the group is on this stream: no judgment that comes from now on is missed. Raises Overloaded."""
        self._needed[stream].set()
        try:
            async with asyncio.timeout(JOIN_TIMEOUT_S):
                await self._joined[stream].wait()
        except TimeoutError:
            raise Overloaded("the streams that actions follow cannot be reached yet; try again", retry_after_s=5) from None

    async def watch(self, stop: asyncio.Event) -> None:
        """Find out which streams are to be followed, until `stop`. One that is followed stays so: its group holds the log.

        Where a stream ends is read before the tenants: so what a workflow has done whose actions are not seen by then, comes
        after that, also if it was written by hand.
        """
        before: Sequence[Position] | None = None
        while not stop.is_set():
            try:
                ends = await self._streams.last(JUDGMENTS)
                found = {stream_of(tenant_id) for tenant_id in await self._jobs.acting_tenants()}
                if before is None:
                    found |= {stream for stream in JUDGMENTS if await is_known(self._streams, stream)}
                for stream in found:
                    if not self._needed[stream].is_set():
                        if before is not None:
                            self._since[stream] = before[JUDGMENTS.index(stream)]
                        self._needed[stream].set()
                before = ends
            except JudgifyError as error:
                log.debug("who has actions cannot be asked now", extra={"reason": str(error)})
            except Exception:  # judging goes on, whatever happens to actions
                log.exception("who has actions cannot be asked now")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), LOOK_S)
        for stream in JUDGMENTS:  # whoever waits for it need not any more
            self._needed[stream].set()

    async def run(self, stream: str, stop: asyncio.Event) -> None:
        """Follow one stream, as soon as that is needed, until `stop`.

        What fails is tried again: first the same entries, then what follows.
        """
        entries: list[Entry] = []
        joined = failing = False
        claim_s = 0.0
        now_s = asyncio.get_running_loop().time
        await self._needed[stream].wait()
        while not stop.is_set():
            try:
                if not joined:
                    await self._join(stream, self._since.get(stream))
                    joined = True
                    self._joined[stream].set()
                if not entries and now_s() >= claim_s:
                    entries = await self._streams.claim(stream, GROUP, CONSUMER, self._claim_idle_s, COUNT)
                    claim_s = now_s() + (0.0 if len(entries) == COUNT else self._claim_idle_s / 2)
                if not entries:
                    entries = await self._streams.read(stream, GROUP, CONSUMER, COUNT, WAIT_S)
                if entries:
                    await self.take(stream, entries)
                    entries = []
                if failing:
                    log.info("actions are taken from the stream again", extra={"stream": stream})
                    failing = False
            except Exception as error:
                if not failing:
                    known = isinstance(error, JudgifyError)
                    log.warning(
                        "actions cannot be taken from the stream and are tried again",
                        extra={"stream": stream, "reason": str(error) or type(error).__name__},
                        exc_info=None if known else error,
                    )
                joined, failing = False, True
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), RETRY_S)

    async def take(self, stream: str, entries: Sequence[Entry]) -> None:
        """Note the jobs of these entries, then acknowledge them. May be done again with the same ones."""
        found: list[tuple[Entry, Judged]] = []
        refused: list[RefusedEntry] = []
        for entry in entries:
            try:
                judged = judged_of(entry.fields)
            except ValueError as error:
                refused.append(_refused(stream, entry, str(error)))
                continue
            if judged is not None and judged.workflow_version > 0:
                found.append((entry, judged))
        await self._learn({_version_of(judged) for _, judged in found})
        made: list[tuple[Entry, list[NewJob]]] = []
        for entry, judged in found:
            plan = self._plans.get(_version_of(judged))
            if isinstance(plan, str):
                refused.append(_refused(stream, entry, plan))
            elif plan is not None and (named := plan.of(judged.status, judged.rule_index)):
                key = _version_of(judged)
                made.append((entry, [new_job(*key, judged.id, one) for one in named]))
        if made or refused:
            refused += await self._write(stream, made, refused)
        await self._streams.ack(stream, GROUP, [entry.id for entry in entries])
        if refused:
            self._metrics.actions["refused"] += len(refused)
            log.error("entries of a stream made no actions", extra={"stream": stream, "reason": refused[0].reason})
        if made:
            self._metrics.actions["made"] += sum(len(jobs) for _, jobs in made)
            self._added()

    async def _learn(self, keys: Collection[VersionKey]) -> None:
        """Have the plans of these versions. One that is not stored (a row by hand may name any) is asked for again."""
        for key in keys:
            if key in self._plans:
                self._plans.move_to_end(key)
        unknown = [key for key in keys if key not in self._plans]
        if not unknown:
            return
        for key, definition in (await self._jobs.definitions(unknown)).items():
            try:
                self._plans[key] = plan_of(definition)
            except ValueError as error:
                self._plans[key] = str(error)
        while len(self._plans) > REMEMBERED:
            self._plans.popitem(last=False)

    async def _write(
        self, stream: str, made: Sequence[tuple[Entry, list[NewJob]]], refused: Sequence[RefusedEntry]
    ) -> list[RefusedEntry]:
        """All in one transaction; where PostgreSQL objects, each entry in its own. Returns what it objects to."""
        try:
            await self._jobs.add([job for _, jobs in made for job in jobs], refused)
            return []
        except RowRefused:
            pass
        objected: list[RefusedEntry] = []
        for entry, jobs in made:
            try:
                await self._jobs.add(jobs, ())
            except RowRefused as error:
                objected.append(_refused(stream, entry, error.detail))
        await self._jobs.add((), [*refused, *objected])
        return objected


def _version_of(judged: Judged) -> VersionKey:
    return judged.tenant_id, judged.workflow_id, judged.workflow_version


def _refused(stream: str, entry: Entry, reason: str) -> RefusedEntry:
    """What is kept of it; PostgreSQL takes no NUL in a text."""
    fields = {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in entry.fields.items()}
    text = reason[:500].replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
    return RefusedEntry(stream, entry_id(entry.id), text, msgspec.json.encode(fields)[:ENTRY_BYTES])
