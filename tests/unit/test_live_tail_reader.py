"""Reading a stream for live tails: nothing is passed over in silence, whatever becomes of the stream."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from judgify_engine.config import LiveConfig
from judgify_engine.core.streams import stream_of
from judgify_engine.core.tail import TailFilter
from judgify_engine.errors import Overloaded, QuotaExceeded
from judgify_engine.live import tail_reader
from judgify_engine.live.tail_reader import TailClient, TailReader
from judgify_engine.pipeline.streams import Batch, Entry
from judgify_engine.streams.memory import MemoryStreams
from judgify_engine.units import MIB, Position

TENANT = "tenant-a"
STREAM = stream_of(TENANT)
CONFIG = LiveConfig()


def entry(lsn: int, tenant: str = TENANT, data: bytes | None = None, op: bytes = b"insert") -> Entry:
    row = {
        "id": str(lsn), "workflow_id": "w", "workflow_version": 1, "status": "completed", "method_used": "rule",
        "final_result": {"verdict": "ok"}, "confidence_score": 1, "execution_time_ms": 1, "created_at": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    fields = {b"table": b"judgment_executions", b"op": op, b"tenant_id": tenant.encode()}
    return Entry(Position(lsn, 0), {**fields, b"data": msgspec.json.encode(row) if data is None else data})


class Reading:
    """A reader, a stream in memory, and one tail."""

    def __init__(self, config: LiveConfig) -> None:
        self.streams = MemoryStreams(64 * MIB)
        self.last = Position(0, 0)
        self.rounds = 0
        self.round = asyncio.Event()
        self.client = TailClient(TENANT, TailFilter(), self._heard)
        self.shown: list[str] = []
        self.skipped = self.gaps = 0
        self.reader = TailReader(self.streams, self._demand, config)

    async def _demand(self) -> None:
        return None

    def _heard(self) -> None:
        waiting = self.client.tail.take()
        self.shown += [msgspec.json.decode(row.encoded)["judgment_id"] for row in waiting.rows]
        self.skipped += waiting.skipped
        self.gaps += waiting.gap
        self.rounds += 1
        self.round.set()

    async def append(self, *entries: Entry) -> None:
        await self.streams.append([Batch(STREAM, self.last, entries)])
        self.last = entries[-1].id

    async def rest(self, rounds: int = 2) -> None:
        """Until the reader has looked so often."""
        until = self.rounds + rounds
        async with asyncio.timeout(10):
            while self.rounds < until:
                self.round.clear()
                await self.round.wait()


@contextlib.asynccontextmanager
async def reading(monkeypatch: pytest.MonkeyPatch, *before: Entry, config: LiveConfig = CONFIG) -> AsyncIterator[Reading]:
    monkeypatch.setattr(tail_reader, "ROUND_S", 0.001)
    made, stop = Reading(config), asyncio.Event()
    if before:
        await made.append(*before)
    await made.reader.join(made.client)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(made.reader.run(stop), name="reader")
        yield made
        stop.set()


async def test_what_comes_after_it_began_is_shown_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with reading(monkeypatch, entry(1), entry(2)) as made:
        await made.append(entry(3), entry(4, "another"), entry(5, op=b"update"), entry(6))
        await made.rest()
        await made.append(entry(7))
        await made.rest()
        assert (made.shown, made.skipped, made.gaps) == (["3", "6", "7"], 0, 0)
        assert made.client.position == Position(7, 0)


async def test_a_stream_that_begins_is_read_from_its_first_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    async with reading(monkeypatch) as made:
        await made.append(entry(1), entry(2))
        await made.rest()
        assert (made.shown, made.gaps) == (["1", "2"], 0)


async def test_what_was_trimmed_unread_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    async with reading(monkeypatch, entry(1)) as made:
        await made.append(*[entry(lsn) for lsn in range(2, 30)])
        await made.streams.trim(STREAM, 5)  # before the reader had a turn
        await made.rest()
        assert made.shown == [str(lsn) for lsn in range(25, 30)]
        assert made.gaps == 1


async def test_a_stream_that_was_emptied_and_filled_again_shows_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async with reading(monkeypatch, entry(1)) as made:
        await made.append(entry(2), entry(3))
        await made.rest()
        await made.streams.empty([STREAM])
        await made.rest()
        made.last = Position(0, 0)
        await made.append(entry(2), entry(3), entry(4))
        await made.rest()
        assert (made.shown, made.gaps) == (["2", "3", "4"], 0)


async def test_a_stream_of_an_older_log_is_followed_with_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database was taken back: what comes now has lower positions, for ever."""
    monkeypatch.setattr(tail_reader, "LOST_S", 0.0)
    async with reading(monkeypatch, entry(100)) as made:
        await made.streams.empty([STREAM])
        made.last = Position(0, 0)
        await made.append(entry(10))
        await made.rest()
        await made.append(entry(11))
        await made.rest()
        assert made.shown == ["11"]
        assert made.gaps == 1


async def test_a_stream_that_runs_ahead_is_caught_up_with_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_reader, "COUNT", 1)
    monkeypatch.setattr(tail_reader, "LOOKS", 1)
    async with reading(monkeypatch, entry(1)) as made:
        await made.append(*[entry(lsn) for lsn in range(2, 200)])
        await made.rest(tail_reader.BEHIND_ROUNDS + 2)
        assert made.client.position == Position(199, 0)
        assert made.gaps == 1
        assert len(made.shown) + made.skipped <= tail_reader.BEHIND_ROUNDS


async def test_a_row_that_cannot_be_shown_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    async with reading(monkeypatch, entry(1)) as made:
        await made.append(entry(2, data=b""), entry(3))
        await made.rest()
        assert (made.shown, made.gaps) == (["3"], 1)


async def test_streams_that_nobody_watches_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Any] = []
    async with reading(monkeypatch, entry(1)) as made:
        after = made.streams.after

        async def counted(*arguments: Any) -> Any:
            looks.append(arguments)
            return await after(*arguments)

        monkeypatch.setattr(made.streams, "after", counted)
        await made.rest()
        made.reader.leave(made.client)
        await asyncio.sleep(0)
        seen = len(looks)
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert len(looks) <= seen + 1
        assert made.reader.tails == 0


async def test_more_tails_than_a_process_serves_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with reading(monkeypatch, config=LiveConfig(max_tails=1)) as made:
        with pytest.raises(Overloaded):
            await made.reader.join(tail_of("tenant-b"))
        assert made.reader.tails == 1


async def test_one_tenant_leaves_others_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async with reading(monkeypatch, config=LiveConfig(max_tails=4, max_tails_of_tenant=2)) as made:
        second = tail_of(TENANT)
        await made.reader.join(second)
        with pytest.raises(QuotaExceeded) as refused:
            await made.reader.join(tail_of(TENANT))
        assert refused.value.extra == {"quota": "tails", "limit": 2}
        await made.reader.join(tail_of("tenant-b"))
        made.reader.leave(second)  # its place is free again
        await made.reader.join(tail_of(TENANT))
        assert made.reader.tails == 3


async def test_a_tail_that_could_not_begin_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async with reading(monkeypatch, config=LiveConfig(max_tails_of_tenant=2)) as made:

        async def refuse() -> None:
            raise Overloaded("no streams just now", retry_after_s=1)

        with monkeypatch.context() as patched:
            patched.setattr(made.reader, "_demand", refuse)
            for _ in range(3):
                with pytest.raises(Overloaded):
                    await made.reader.join(tail_of(TENANT))
        await made.reader.join(tail_of(TENANT))
        assert made.reader.tails == 2


def tail_of(tenant_id: str) -> TailClient:
    return TailClient(tenant_id, TailFilter(), lambda: None)
