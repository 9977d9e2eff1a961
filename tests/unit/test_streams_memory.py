"""What streams in memory promise beyond the contract (tests/service/test_streams): they stay within their bound and say so."""

import pytest
from support.waiting import until

from judgify_engine.config import Config, RedisConfig, StreamsConfig
from judgify_engine.errors import SettingsError, StreamsUnavailable
from judgify_engine.pipeline.streams import Batch, Entry
from judgify_engine.streams.memory import MemoryStreams
from judgify_engine.streams.opening import open_streams
from judgify_engine.streams.redis import RedisStreams
from judgify_engine.units import KIB, START, Position

BOUND = 256 * KIB


def entries(first: int, count: int) -> list[Entry]:
    return [Entry(Position(lsn, 0), {b"data": b"x" * 600}) for lsn in range(first, first + count)]


async def fill(streams: MemoryStreams, stream: str, last: int = 0) -> int:
    """Append until it is refused; returns the last LSN that is there."""
    for _ in range(10_000):
        try:
            await streams.append([Batch(stream, Position(last, 0) if last else START, entries(last + 1, 10))])
        except StreamsUnavailable:
            return last
        last += 10
    raise AssertionError("it grows without bound")


async def test_what_a_group_has_still_to_see_is_refused_room_and_never_dropped() -> None:
    streams = MemoryStreams(BOUND)
    await streams.make_group("s", "g", START)
    last = await fill(streams, "s")
    assert await streams.size_bytes(["s"]) <= BOUND
    assert last > 100
    assert await streams.last(["s"]) == [Position(last, 0)]
    read = await streams.read("s", "g", "a", 100_000, 0)
    assert [entry.id.lsn for entry in read] == list(range(1, last + 1))
    assert await fill(streams, "s", last) == last, "what is pending is not seen to"
    await streams.ack("s", "g", [entry.id for entry in read[:50]])
    assert await fill(streams, "s", last) == last + 50


async def test_without_groups_the_older_half_leaves_at_the_bound() -> None:
    streams = MemoryStreams(BOUND)
    last = 0
    for _ in range(200):
        await streams.append([Batch("s", Position(last, 0) if last else START, entries(last + 1, 10))])
        last += 10
        assert await streams.size_bytes(["s"]) <= BOUND
    kept = await streams.after("s", START, 100_000)
    assert [entry.id.lsn for entry in kept] == list(range(last + 1 - len(kept), last + 1))
    assert len(kept) > 100


async def test_another_stream_makes_room() -> None:
    streams = MemoryStreams(BOUND)
    for n in range(200):
        await streams.add("seen", {b"data": b"x" * 600}, 1000 + n)
    await streams.make_group("s", "g", START)
    assert await fill(streams, "s") > 200


async def test_values_are_within_the_bound_and_leave_when_they_expire() -> None:
    streams = MemoryStreams(BOUND)
    for n in range(BOUND // KIB):
        assert await streams.put(f"key-{n}", b"x" * 600, 0.2)
    with pytest.raises(StreamsUnavailable, match=r"streams\.max_bytes"):
        await streams.put("key", b"x" * (BOUND - KIB), 100)
    assert await streams.get("key-0") == b"x" * 600

    async def again() -> bool:
        try:
            return await streams.put("key", b"x" * (BOUND - KIB), 100)
        except StreamsUnavailable:
            return False

    await until(again, "the others expire")
    assert await streams.get("key-0") is None


async def test_a_value_that_is_put_again_and_again_takes_its_room_once() -> None:
    streams = MemoryStreams(BOUND)
    for n in range(10_000):
        assert await streams.put("key", b"%d" % n + b"x" * 600, 1000)
    assert (await streams.get("key") or b"").startswith(b"9999")
    assert len(streams._expiries) < 200


async def test_a_refused_batch_is_not_there_in_part() -> None:
    streams = MemoryStreams(BOUND)
    with pytest.raises(StreamsUnavailable):
        await streams.append([Batch("s", START, entries(1, 1000))])
    assert await streams.last(["s"]) == [START]


async def test_which_streams_a_process_has_is_told_by_its_settings() -> None:
    assert isinstance(open_streams(Config(streams=StreamsConfig(max_bytes=BOUND))), MemoryStreams)
    assert isinstance(open_streams(Config(redis=RedisConfig(url="redis://nowhere.invalid/3"))), RedisStreams)


@pytest.mark.parametrize(
    "url",
    ["http://:hunter2@host", "hunter2@host:6379", "redis://:hunter2@host:port/0", "redis://host/0?socket_timeout=hunter2"],
)
def test_a_url_that_is_none_is_refused_without_being_told(url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        open_streams(Config(redis=RedisConfig(url=url)))
    assert "redis.url" in refused.value.detail
    assert "hunter2" not in refused.value.detail
