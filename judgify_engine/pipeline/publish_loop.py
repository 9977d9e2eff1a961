"""Publishing: receive, decode, append to the streams. It has a slot of its own, so that Redis never holds up the rollups.

Each stream gets the changes of its tenants in the order of the log, with their positions as ids. An entry that is there already
is passed over, and an append says where the stream must end for it (`Batch.after`): what is sent twice is there once, and what
is missing is noticed. Reading stops while an append is under way: nothing piles up here.

What is confirmed to the server lies behind, where the slowest group stands: from there on, emptied streams can be filled again.
That is `StreamUpkeep`'s business.
"""

import asyncio
import logging
from collections.abc import Sequence
from time import perf_counter

from judgify_engine.core.model import Change
from judgify_engine.core.streams import JUDGMENTS, PARTITIONS, stream_of
from judgify_engine.errors import StreamsUnavailable
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.ports import ChangeSource
from judgify_engine.pipeline.streams import Batch, Entry, Streams
from judgify_engine.units import MIB, START, Position
from judgify_engine.wire.entry import JSON_READERS, KEYS, entry_of
from judgify_engine.wire.pgoutput import Commit, Decoder

log = logging.getLogger(__name__)

SLICE_MESSAGES = 200
"""Messages decoded before others get the event loop: about 3 ms."""
MAX_ROWS, MAX_BYTES = 2000, 2 * MIB
"""Of one append, over all streams."""
GATHER_S = 0.005
"""While changes come in one by one, they are looked for so seldom: an append costs more than a few of its entries."""
LOOK_S = 1.0
PATIENCE_S = 10.0
"""So long an append is tried again; then the session starts over, which also keeps the server from taking us for dead."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0


class PublishLoop:
    """Follows one stream of the log. `last`: the id that each of `JUDGMENTS` got last; `published`: all before is in them."""

    def __init__(
        self, source: ChangeSource, streams: Streams, last: Sequence[Position], published: int, metrics: Metrics
    ) -> None:
        self._source, self._streams, self._metrics = source, streams, metrics
        self._decoder = Decoder(dict.fromkeys(KEYS), JSON_READERS)
        self.last, self.published = list(last), published
        self._waiting: list[list[Entry]] = [[] for _ in JUDGMENTS]
        self._rows = self._bytes = 0
        self._ended_lsn = published
        self.newest = START
        """The last change that was taken from the log: no stream has one beyond it, or beyond `last`."""
        self.caught_up = False
        """There was nothing more to read a moment ago."""

    @property
    def reached(self) -> int:
        """All that was committed before this LSN is in the streams, whether or not there was anything for us."""
        idle = self.caught_up and not self._rows and not self._decoder.in_transaction
        return max(self.published, self._source.wal_end) if idle else self.published

    async def run(self) -> None:
        """Until cancelled, or until the log or the streams fail. Raises StreamCut, StreamsUnavailable, Corrupt."""
        since_wait = 0
        while True:
            taken, dry = self._drain()
            since_wait += taken
            if self._rows and (dry or self._rows >= MAX_ROWS or self._bytes >= MAX_BYTES):
                await self._append()
            if not self._rows:
                self.published = self._ended_lsn
            self.caught_up = dry
            if dry:
                self._metrics.published_lsn, self._metrics.publish_wal_end_lsn = self.published, self._source.wal_end
                few = 0 < since_wait < SLICE_MESSAGES
                since_wait = 0
                await self._source.readable(LOOK_S, GATHER_S if few else 0.0)
            else:
                await asyncio.sleep(0)

    def _drain(self) -> tuple[int, bool]:
        """Take a slice of what is there: how many messages, and whether there are no more right now."""
        for taken in range(SLICE_MESSAGES):
            if self._rows >= MAX_ROWS or self._bytes >= MAX_BYTES:
                return taken, False
            message = self._source.read()
            if message is None:
                return taken, True
            self._take(message)
        return SLICE_MESSAGES, False

    def _take(self, message: bytes) -> None:
        event = self._decoder.decode(message)
        if type(event) is Change:
            self._change(event)
        elif type(event) is Commit:
            self._ended_lsn = event.end_lsn - 1
        elif type(event) is list:
            for change in event:
                self._change(change)

    def _change(self, change: Change) -> None:
        if change.table not in KEYS:
            return
        tenant, fields = entry_of(change)
        self.newest = change.position
        entry = Entry(change.position, fields)
        for number in range(PARTITIONS) if tenant is None else (JUDGMENTS.index(stream_of(tenant)),):
            if change.position > self.last[number]:
                self._waiting[number].append(entry)
                self._rows += 1
                self._bytes += len(fields.get(b"data", b"")) + 200

    async def _append(self) -> None:
        batches = [
            Batch(JUDGMENTS[number], self.last[number], entries) for number, entries in enumerate(self._waiting) if entries
        ]
        started_s = perf_counter()
        await self._surely(batches)
        self._metrics.publish.observe(perf_counter() - started_s)
        self._metrics.published += self._rows
        for number, entries in enumerate(self._waiting):
            if entries:
                self.last[number] = entries[-1].id
        self._waiting = [[] for _ in JUDGMENTS]
        self._rows = self._bytes = 0

    async def _surely(self, batches: list[Batch]) -> None:
        """Append, again and again for a while: what is there already is passed over."""
        loop = asyncio.get_running_loop()
        until_s, pause_s, told = loop.time() + PATIENCE_S, FIRST_PAUSE_S, False
        while True:
            try:
                return await self._streams.append(batches)
            except StreamsUnavailable as error:
                if loop.time() + pause_s > until_s:
                    raise
                if not told:
                    log.info("an append to the streams is tried again", extra={"reason": str(error)[:300]})
                told = True
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
