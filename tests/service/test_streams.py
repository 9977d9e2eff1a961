"""What streams promise, in memory, on one Redis and on a cluster of them, of every version that is here."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack

import pytest
from support.ears import Ear
from support.redis_server import RedisCluster, RedisServer, binaries
from support.waiting import until

from judgify_engine.config import RedisConfig
from judgify_engine.errors import StreamCut, StreamsUnavailable
from judgify_engine.pipeline.streams import Batch, Entry, Group, Streams
from judgify_engine.streams.memory import MemoryStreams
from judgify_engine.streams.redis import RedisStreams
from judgify_engine.units import MIB, START, Position

Open = Callable[[], Streams]
PLACES = ["memory", *(f"{name}-{form}" for name in binaries() for form in ("single", "cluster"))]
LAST_OF_ALL = Position(2**64 - 1, 2**64 - 1)
S, T = "judgify-stream-0", "judgify-stream-1"


@pytest.fixture(scope="module", params=PLACES)
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the streams are; empty: in memory."""
    if request.param == "memory":
        yield ""
        return
    name, _, form = request.param.rpartition("-")
    folder, binary = tmp_path_factory.mktemp("redis"), binaries()[name]
    server = RedisServer(folder, binary) if form == "single" else RedisCluster(folder, binary)
    try:
        yield server.start().url
    finally:
        server.kill()


@pytest.fixture
async def streams(url: str) -> AsyncIterator[Streams]:
    made: Streams = RedisStreams(RedisConfig(url=url)) if url else MemoryStreams(64 * MIB)
    yield made
    await made.empty([S, T])
    await made.close()


@pytest.fixture
async def other(url: str, streams: Streams) -> AsyncIterator[Streams]:
    """As another process has it, where that sees the same."""
    if not url:
        yield streams
        return
    made = RedisStreams(RedisConfig(url=url))
    yield made
    await made.close()


def entry(lsn: int, index: int = 0, **fields: bytes) -> Entry:
    return Entry(Position(lsn, index), {b"data": b"%d-%d" % (lsn, index), **{k.encode(): v for k, v in fields.items()}})


def batch(after: int, *lsns: int, stream: str = S) -> Batch:
    return Batch(stream, Position(after, 0) if after else START, [entry(lsn) for lsn in lsns])


def lsns(entries: list[Entry]) -> list[int]:
    return [one.id.lsn for one in entries]


async def all_of(streams: Streams, stream: str = S) -> list[Entry]:
    return await streams.after(stream, START, 100_000)


async def group_of(streams: Streams, name: str = "g", stream: str = S) -> Group:
    return next(group for group in await streams.groups(stream) if group.name == name)


# Appending ------------------------------------------------------------------------------------------------------------


async def test_entries_come_back_as_they_were(streams: Streams) -> None:
    odd = Entry(Position(2**64 - 1, 5), {b"\x00\xff": b"", b"b": bytes(range(256)), b"long": b"x" * 100_000})
    await streams.append([Batch(S, START, [entry(1), entry(1, 1), entry(2**53 + 1), odd])])
    assert await all_of(streams) == [entry(1), entry(1, 1), entry(2**53 + 1), odd]
    assert await streams.last([S, T]) == [odd.id, START]


async def test_ids_are_compared_exactly_up_to_the_last_one(streams: Streams) -> None:
    near = [Position(2**63, 2**64 - 2), Position(2**63, 2**64 - 1), Position(2**63 + 1, 0), LAST_OF_ALL]
    await streams.append([Batch(S, START, [Entry(near[0], {b"n": b"0"})])])
    for before, id in itertools.pairwise(near):
        await streams.append([Batch(S, before, [Entry(before, {b"again": b""}), Entry(id, {b"n": b"1"})])])
        assert await streams.last([S]) == [id]
    assert [one.id for one in await all_of(streams)] == near
    assert await streams.after(S, LAST_OF_ALL, 10) == []
    assert [one.id for one in await streams.after(S, near[1], 1)] == [near[2]]


async def test_a_batch_that_is_sent_again_changes_nothing(streams: Streams) -> None:
    await streams.append([batch(0, 10, 20)])
    await streams.append([batch(0, 10, 20)])
    await streams.append([batch(0, 10, 20, 30)])
    await streams.append([batch(20, 20, 30, 40)])
    assert lsns(await all_of(streams)) == [10, 20, 30, 40]


async def test_a_gap_is_refused_and_named_and_nothing_is_appended(streams: Streams) -> None:
    await streams.append([batch(0, 10)])
    with pytest.raises(StreamCut) as cut:
        await streams.append([batch(20, 30), batch(0, 10, stream=T)])
    assert cut.value.stream == S
    assert lsns(await all_of(streams)) == [10]
    with pytest.raises(StreamCut):
        await streams.append([Batch(S, Position(10, 1), [])])
    await streams.append([Batch(S, Position(10, 0), [])])


async def test_an_emptied_stream_is_a_gap(streams: Streams) -> None:
    await streams.append([batch(0, 10)])
    await streams.empty([S])
    assert await streams.last([S]) == [START]
    with pytest.raises(StreamCut):
        await streams.append([batch(10, 20)])
    await streams.append([batch(0, 20)])


async def test_a_large_batch_is_whole(streams: Streams) -> None:
    many = [Entry(Position(7, index), {b"i": b"%d" % index, b"pad": b"x" * (index % 300)}) for index in range(1, 5001)]
    many += [Entry(Position(8, index), {b"pad": b"y" * 400_000}) for index in range(12)]
    await streams.append([Batch(S, START, many), Batch(T, START, many)])
    assert await all_of(streams) == many
    assert await all_of(streams, T) == many


async def test_two_publishers_cannot_interleave(streams: Streams, other: Streams) -> None:
    await streams.append([batch(0, 10)])
    await asyncio.gather(
        *[one.append([batch(10, *range(11, 400))]) for one in (streams, other)],
        *[one.append([batch(10, *range(11, 600))]) for one in (other, streams)],
    )
    assert lsns(await all_of(streams)) == list(range(10, 600))


async def test_added_entries_have_the_clock_as_id_and_the_newest_stay(streams: Streams) -> None:
    ids = [await streams.add(S, {b"n": b"%d" % n}, 100) for n in range(1000)]
    assert ids == sorted(set(ids))
    kept = await all_of(streams)
    assert [one.id for one in kept] == ids[-len(kept) :]
    assert 100 <= len(kept) < 400
    assert await streams.last([S]) == [ids[-1]]


# Groups ---------------------------------------------------------------------------------------------------------------


async def test_each_entry_goes_to_one_consumer_and_stays_until_acknowledged(streams: Streams) -> None:
    await streams.append([batch(0, *range(1, 11))])
    await streams.make_group(S, "g", Position(2, 0))
    first = await streams.read(S, "g", "a", 3, 0)
    second = await streams.read(S, "g", "b", 3, 0)
    assert (lsns(first), lsns(second)) == ([3, 4, 5], [6, 7, 8])
    state = await group_of(streams)
    assert (state.delivered, state.pending, state.oldest_pending) == (Position(8, 0), 6, Position(3, 0))
    assert state.floor < Position(3, 0)
    assert state.floor >= Position(2, 0)
    await streams.ack(S, "g", [Position(3, 0), Position(5, 0), Position(99, 0)])
    assert (await group_of(streams)).oldest_pending == Position(4, 0)
    await streams.ack(S, "g", [one.id for one in first + second])
    state = await group_of(streams)
    assert (state.pending, state.oldest_pending, state.oldest_pending_s, state.floor) == (0, None, 0, Position(8, 0))


async def test_waiting_is_told(streams: Streams) -> None:
    await streams.append([batch(0, *range(1, 101))])
    await streams.make_group(S, "all", START)
    await streams.make_group(S, "half", Position(50, 0))
    await streams.make_group(S, "none", Position(100, 0))
    waiting = {group.name: group.waiting for group in await streams.groups(S)}
    assert waiting["all"] == 100
    assert 45 <= waiting["half"] <= 55
    assert waiting["none"] == 0
    assert await streams.groups(T) == []


async def test_groups_do_not_take_from_each_other(streams: Streams) -> None:
    await streams.append([batch(0, 1, 2)])
    for name in ("g", "h"):
        await streams.make_group(S, name, START)
        assert lsns(await streams.read(S, name, "a", 10, 0)) == [1, 2]


async def test_a_group_that_is_there_stays_as_it_is(streams: Streams) -> None:
    await streams.append([batch(0, 1, 2, 3)])
    await streams.make_group(S, "g", Position(1, 0))
    assert lsns(await streams.read(S, "g", "a", 1, 0)) == [2]
    await streams.make_group(S, "g", START)
    assert lsns(await streams.read(S, "g", "a", 9, 0)) == [3]


async def test_a_group_may_be_made_before_the_stream_and_ahead_of_it(streams: Streams) -> None:
    await streams.make_group(S, "g", Position(5, 0))
    await streams.append([batch(0, 4, 5, 6)])
    assert lsns(await streams.read(S, "g", "a", 9, 0)) == [6]


async def test_reading_makes_no_group(streams: Streams) -> None:
    await streams.append([batch(0, 1)])
    for stream in (S, T):
        with pytest.raises(StreamsUnavailable):
            await streams.read(stream, "g", "a", 1, 0)
        with pytest.raises(StreamsUnavailable):
            await streams.claim(stream, "g", "a", 0, 1)
        with pytest.raises(StreamsUnavailable):
            await streams.move_group(stream, "g", Position(1, 0))
        await streams.ack(stream, "g", [Position(1, 0)])
        await streams.drop_group(stream, "g")
    assert await streams.groups(S) == []


async def test_a_moved_group_skips_and_never_goes_back(streams: Streams) -> None:
    await streams.append([batch(0, *range(1, 11))])
    await streams.make_group(S, "g", START)
    await streams.read(S, "g", "a", 6, 0)
    await streams.move_group(S, "g", Position(4, 0))
    state = await group_of(streams)
    assert (state.delivered, state.pending, state.oldest_pending) == (Position(6, 0), 2, Position(5, 0))
    await streams.move_group(S, "g", Position(8, 0))
    state = await group_of(streams)
    assert (state.delivered, state.pending) == (Position(8, 0), 0)
    assert lsns(await streams.read(S, "g", "a", 9, 0)) == [9, 10]


async def test_a_group_moves_past_very_much(streams: Streams) -> None:
    await streams.append([batch(0, *range(1, 12_001))])
    await streams.make_group(S, "g", START)
    await streams.read(S, "g", "a", 12_000, 0)
    await streams.move_group(S, "g", Position(11_999, 0))
    assert (await group_of(streams)).pending == 1


async def test_what_a_dead_consumer_had_is_claimed_once(streams: Streams) -> None:
    await streams.append([batch(0, 1, 2, 3)])
    await streams.make_group(S, "g", START)
    read = await streams.read(S, "g", "dead", 2, 0)
    assert await streams.claim(S, "g", "b", 60, 10) == []

    async def claimed() -> list[Entry]:
        return await streams.claim(S, "g", "b", 0.2, 1)

    assert await until(claimed, "it is idle for long enough") == read[:1]
    assert (await group_of(streams)).oldest_pending_s < 0.2
    assert await streams.claim(S, "g", "c", 0.2, 10) == read[1:]
    assert (await group_of(streams)).pending == 2


async def test_a_dropped_group_is_gone(streams: Streams) -> None:
    await streams.append([batch(0, 1)])
    await streams.make_group(S, "g", START)
    await streams.drop_group(S, "g")
    assert await streams.groups(S) == []


async def test_reading_waits_for_the_first_entry(streams: Streams, other: Streams) -> None:
    await streams.make_group(S, "g", START)
    loop = asyncio.get_running_loop()
    before_s = loop.time()
    assert await streams.read(S, "g", "a", 9, 0.3) == []
    assert loop.time() - before_s >= 0.25
    reading = asyncio.create_task(streams.read(S, "g", "a", 9, 30))
    done, _ = await asyncio.wait((reading,), timeout=1.5)  # longer than one command may block
    assert not done
    await other.append([batch(0, 1)])
    assert lsns(await asyncio.wait_for(reading, 5)) == [1]


async def test_many_wait_at_once_and_others_are_served(streams: Streams) -> None:
    await streams.make_group(S, "g", START)
    readers = [asyncio.create_task(streams.read(S, "g", f"c{n}", 1, 30)) for n in range(20)]
    await streams.append([batch(0, *range(1, 21))])
    read = await asyncio.wait_for(asyncio.gather(*readers), 10)
    assert sorted(lsns([one for some in read for one in some])) == list(range(1, 21))


async def test_a_reader_learns_that_its_group_is_gone(streams: Streams, other: Streams) -> None:
    await streams.make_group(S, "g", START)
    reading = asyncio.create_task(streams.read(S, "g", "a", 1, 30))
    await asyncio.wait((reading,), timeout=0.1)
    await other.empty([S])
    with pytest.raises(StreamsUnavailable):
        await asyncio.wait_for(reading, 5)


# Trimming -------------------------------------------------------------------------------------------------------------


async def test_trimming_keeps_the_newest(streams: Streams) -> None:
    await streams.append([batch(0, *range(1, 20_001))])
    await streams.trim(S, 1000)
    left = lsns(await all_of(streams))
    assert left == list(range(20_001 - len(left), 20_001))
    assert 1000 <= len(left) <= 1200
    assert await streams.last([S]) == [Position(20_000, 0)]
    await streams.trim(T, 10)


async def test_trimming_leaves_what_a_group_has_still_to_see(streams: Streams) -> None:
    await streams.append([batch(0, *range(1, 3001))])
    await streams.make_group(S, "slow", Position(1500, 0))
    await streams.make_group(S, "fast", Position(2900, 0))
    await streams.trim(S, 100)
    left = lsns(await all_of(streams))
    assert 1300 <= left[0] <= 1501
    assert left[-1] == 3000
    assert len(await streams.read(S, "slow", "a", 5000, 0)) == 1500
    await streams.ack(S, "slow", [Position(lsn, 0) for lsn in range(1501, 3001) if lsn != 2000])
    await streams.trim(S, 100)
    left = lsns(await all_of(streams))
    assert 1800 <= left[0] <= 2000
    await streams.ack(S, "slow", [Position(2000, 0)])
    await streams.trim(S, 500)
    left = lsns(await all_of(streams))
    assert 2300 <= left[0] <= 2501


async def test_adding_leaves_what_a_group_has_still_to_see_up_to_a_bound(streams: Streams) -> None:
    await streams.make_group("s", "g", START)
    for n in range(500):
        await streams.add("s", {b"n": b"%d" % n}, 100)
    (first,) = await streams.read("s", "g", "c", 1, 0)
    assert first.fields[b"n"] == b"0"
    for n in range(500, 1500):
        await streams.add("s", {b"n": b"%d" % n}, 100)
    assert 1000 <= len(await streams.after("s", START, 2000)) <= 1210, "ten times as many, whatever it does not read"


async def test_nothing_is_claimed_twice_of_what_was_trimmed(streams: Streams) -> None:
    for n in range(5):
        await streams.add(S, {b"n": b"%d" % n}, 100_000)
    await streams.make_group(S, "g", START)
    await streams.read(S, "g", "a", 5, 0)
    for n in range(500):
        await streams.add(S, {b"n": b"%d" % n}, 1)
    claimed = await streams.claim(S, "g", "b", 0, 100)
    assert claimed == []
    assert (await group_of(streams)).pending == 0


async def test_an_empty_place_has_no_size(streams: Streams) -> None:
    assert await streams.size_bytes([S, T]) == 0
    for stream in (S, T):
        await streams.append([Batch(stream, START, [Entry(Position(1, n), {b"n": b"x" * 1000}) for n in range(2000)])])
    assert 4_000_000 < await streams.size_bytes([S, T]) < 8_000_000


# Messages and values --------------------------------------------------------------------------------------------------


async def test_a_message_is_heard_by_who_watches(streams: Streams, other: Streams) -> None:
    ear, channels = Ear(), [f"channel-{n}" for n in range(20)]
    async with AsyncExitStack() as closing:
        listener = streams.listen(ear.hear, ear.interrupted)
        closing.push_async_callback(listener.close)
        await listener.watch(channels)
        assert listener.connected
        await other.send([(channel, b"\x00%d" % n) for n, channel in enumerate([*channels, "unwatched"])])
        await until(lambda: len(ear.heard) >= 20, "all is heard")
        assert sorted(ear.heard) == sorted((channel, b"\x00%d" % n) for n, channel in enumerate(channels))
        await listener.unwatch(channels[:19])
        ear.heard.clear()
        await other.send([(channel, b"again") for channel in channels])
        await until(lambda: ear.heard, "one is watched still")
        await listener.watch(channels[:1])
        await other.send([(channels[0], b"third")])
        await until(lambda: len(ear.heard) > 1, "it is watched again")
        assert ear.heard == [(channels[19], b"again"), (channels[0], b"third")]
        assert ear.interruptions == 0
    await other.send([(channels[0], b"late")])
    assert ear.heard[-1][1] == b"third"


async def test_values_expire(streams: Streams, other: Streams) -> None:
    assert await streams.get("key") is None
    assert await streams.put("key", b"\x00one", 0.5)
    assert await other.get("key") == b"\x00one"
    assert not await streams.put("key", b"two", 100, only_new=True)
    assert await streams.get("key") == b"\x00one"

    async def gone() -> bool:
        return await streams.get("key") is None

    await until(gone, "it expires")
    assert await streams.put("key", b"three", 0.1, only_new=True)
    assert await streams.put("key", b"four", 0.1)
    await until(gone, "it expires again")
