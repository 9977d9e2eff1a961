"""Redis and clusters of it that die, stall, forget, fill up and change hands: nothing is lost unseen, all goes on by itself."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from redis.exceptions import ResponseError
from support.ears import Ear
from support.redis_server import RedisCluster, RedisServer, binaries
from support.waiting import until

from judgify_engine.config import RedisConfig
from judgify_engine.core.streams import JUDGMENTS
from judgify_engine.errors import StreamCut, StreamsUnavailable
from judgify_engine.pipeline.streams import Batch, Entry
from judgify_engine.streams.redis import RedisStreams
from judgify_engine.units import START, Position

TIMEOUT_S = 0.5
BOTH = pytest.mark.parametrize("binary", binaries().values(), ids=binaries())


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own."""
    made = RedisServer(tmp_path / "redis")
    yield made.start()
    made.kill()


@contextlib.contextmanager
def cluster_of(folder: Path, binary: Path, replicas: bool = False) -> Iterator[RedisCluster]:
    made = RedisCluster(folder, binary, replicas)
    try:
        yield made.start()
    finally:
        made.kill()


@contextlib.asynccontextmanager
async def opened(url: str, timeout_s: float = TIMEOUT_S) -> AsyncIterator[RedisStreams]:
    streams = RedisStreams(RedisConfig(url=url, timeout_s=timeout_s))
    try:
        yield streams
    finally:
        await streams.close()


@contextlib.asynccontextmanager
async def listening(streams: RedisStreams, *channels: str) -> AsyncIterator[Ear]:
    ear = Ear()
    listener = ear.listener = streams.listen(ear.hear, ear.interrupted)
    try:
        await listener.watch(channels)
        await until(lambda: listener.connected, "it hears")
        yield ear
    finally:
        await listener.close()


def entries(*lsns: int, size: int = 10) -> list[Entry]:
    return [Entry(Position(lsn, 0), {b"data": b"x" * size}) for lsn in lsns]


def at(lsn: int) -> Position:
    return Position(lsn, 0) if lsn else START


async def lsns(streams: RedisStreams, stream: str) -> list[int]:
    return [entry.id.lsn for entry in await streams.after(stream, START, 100_000)]


async def works(what: Callable[[], Awaitable[object]]) -> bool:
    try:
        await what()
    except StreamsUnavailable:
        return False
    return True


async def fails_in_time(what: Awaitable[object], within_s: float = 4 * TIMEOUT_S) -> str:
    before_s = time.monotonic()
    with pytest.raises(StreamsUnavailable) as failure:
        await what
    assert time.monotonic() - before_s < within_s
    return failure.value.detail


class Publisher:
    """Goes on appending to all streams, one LSN after the other, sending anew what failed."""

    def __init__(self, streams: RedisStreams) -> None:
        self._streams = streams
        self.lsn = 0

    async def publish(self) -> None:
        """All streams have one more when it returns."""
        lsn = self.lsn + 1
        await self._streams.append([Batch(stream, at(self.lsn), entries(lsn)) for stream in JUDGMENTS])
        self.lsn = lsn

    async def published(self) -> bool:
        return await works(self.publish)

    async def check(self) -> None:
        for stream in JUDGMENTS:
            assert await lsns(self._streams, stream) == list(range(1, self.lsn + 1))


async def test_a_server_that_is_killed_and_comes_back(redis: RedisServer) -> None:
    async with opened(redis.url) as streams, listening(streams, "c") as ear:
        publisher = Publisher(streams)
        await publisher.publish()
        await streams.make_group(JUDGMENTS[0], "g", START)
        reading = asyncio.create_task(streams.read(JUDGMENTS[1], "none", "a", 1, 30))
        redis.kill()
        with pytest.raises(StreamsUnavailable):
            await reading
        said = await fails_in_time(publisher.publish())
        assert f"127.0.0.1:{redis.port}" in said
        await until(lambda: not ear.listener.connected, "it is noticed")
        redis.start()
        await until(publisher.published, "it goes on")
        await until(lambda: ear.interruptions, "the listener is told that it missed something")
        assert ear.listener.connected
        await streams.send([("c", b"again")])
        await until(lambda: ear.heard == [("c", b"again")], "it hears again")
        await publisher.check()


async def test_a_server_that_was_emptied_is_a_cut_in_each_stream(redis: RedisServer) -> None:
    async with opened(redis.url) as streams:
        await Publisher(streams).publish()
        with redis.client() as client:
            client.flushall()
            client.script_flush()
        for stream in JUDGMENTS:
            with pytest.raises(StreamCut) as cut:
                await streams.append([Batch(stream, at(1), entries(2))])
            assert cut.value.stream == stream
            assert await streams.last([stream]) == [START]
        await streams.append([Batch(JUDGMENTS[0], START, entries(*range(1, 2000)))])


async def test_forgotten_scripts_are_told_again(redis: RedisServer) -> None:
    async with opened(redis.url) as streams:
        publisher = Publisher(streams)
        for _ in range(3):
            await publisher.publish()
            with redis.client() as client:
                client.script_flush()
            await streams.append([Batch("long", at(publisher.lsn - 1) if publisher.lsn > 1 else START, entries(publisher.lsn))])
        await publisher.check()


@BOTH
async def test_a_full_server_refuses_as_a_whole_and_says_why(tmp_path: Path, binary: Path) -> None:
    redis = RedisServer(tmp_path / "redis", binary, maxmemory="4mb")
    try:
        async with opened(redis.start().url) as streams:
            last, refusal = 0, ""
            while not refusal:
                lsn = last + 1
                try:
                    await streams.append([Batch("s", at(last), entries(*range(lsn, lsn + 50), size=1000))])
                    last += 50
                except StreamsUnavailable as error:
                    refusal = error.detail
            assert "maxmemory" in refusal
            assert "streams.max_bytes" in refusal
            assert await streams.last(["s"]) == [at(last)]
            with pytest.raises(StreamsUnavailable):
                await streams.put("key", b"x" * 4_000_000, 100)
            await streams.trim("s", 100)

            async def appended() -> bool:
                return await works(lambda: streams.append([Batch("s", at(last), entries(last + 1))]))

            await until(appended, "there is room again, when its buffers are small again")
    finally:
        redis.kill()


async def test_a_server_that_stalls_is_noticed_in_time(redis: RedisServer) -> None:
    async with opened(redis.url) as streams, listening(streams, "c") as ear:
        publisher = Publisher(streams)
        await publisher.publish()
        await streams.make_group(JUDGMENTS[0], "g", at(1))
        reading = asyncio.create_task(streams.read(JUDGMENTS[0], "g", "a", 1, 30))
        redis.pause()
        await fails_in_time(streams.get("key"))
        await fails_in_time(publisher.publish())
        await fails_in_time(streams.send([("c", b"lost")]))
        await fails_in_time(reading)
        await until(lambda: not ear.listener.connected, "the listener notices", 4 * TIMEOUT_S)
        redis.resume()
        await until(publisher.published, "it goes on")
        await until(lambda: ear.interruptions and ear.listener.connected, "it hears again")
        await publisher.check()


async def test_a_replica_is_named_as_such(redis: RedisServer, tmp_path: Path) -> None:
    replica = RedisServer(tmp_path / "replica")
    try:
        replica.start()
        with replica.client() as client:
            client.replicaof("127.0.0.1", redis.port)
        async with opened(replica.url) as streams:
            with pytest.raises(StreamsUnavailable, match="replica"):
                await Publisher(streams).publish()
            with replica.client() as client:
                client.replicaof("NO", "ONE")
            await Publisher(streams).publish()
    finally:
        replica.kill()


async def test_a_password_is_used_and_never_told(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path / "redis")
    redis.start()
    with redis.client() as client:
        client.config_set("requirepass", "hunter2")
    try:
        async with opened(f"redis://:hunter2@127.0.0.1:{redis.port}/0") as streams, listening(streams, "c"):
            await Publisher(streams).publish()
            redis.kill()
            assert "hunter2" not in await fails_in_time(Publisher(streams).publish())
            redis.start()
        async with opened(f"redis://me:hunter3@127.0.0.1:{redis.port}/0") as streams:
            redis.kill()
            assert "hunter3" not in await fails_in_time(Publisher(streams).publish())
    finally:
        redis.kill()


async def test_a_wrong_password_is_named_as_such(redis: RedisServer) -> None:
    with redis.client() as client:
        client.config_set("requirepass", "hunter2")
    for url in (f"redis://:wrong@127.0.0.1:{redis.port}", redis.url):
        async with opened(url) as streams:
            said = await fails_in_time(Publisher(streams).publish())
            assert "password" in said
            assert "wrong@" not in said


async def test_what_endangers_the_streams_is_told(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path / "redis", appendonly="no", maxmemory_policy="allkeys-lru")
    try:
        async with opened(redis.start().url) as streams:
            eviction, forgetting = await streams.warnings()
            assert "allkeys-lru" in eviction
            assert "nothing on disk" in forgetting
            with redis.client() as client:
                client.config_set("maxmemory-policy", "noeviction")
                client.config_set("save", "900 1")
            assert await streams.warnings() == []
            with redis.client() as client:
                client.execute_command("ACL", "SETUSER", "hosted", "on", ">pw", "~*", "&*", "+@all", "-config")
        async with opened(f"redis://hosted:pw@127.0.0.1:{redis.port}") as streams:
            (unknown,) = await streams.warnings()
            assert "could not be checked" in unknown
    finally:
        redis.kill()


@BOTH
async def test_a_node_of_a_cluster_dies_and_comes_back(tmp_path: Path, binary: Path) -> None:
    with cluster_of(tmp_path, binary) as cluster:
        async with opened(cluster.url) as streams, listening(streams, "a", "b", "c", "d", "e", "f") as ear:
            assert await streams.warnings() == []
            publisher = Publisher(streams)
            await publisher.publish()
            victim = cluster.owner_of(JUDGMENTS[0])
            others = [stream for stream in JUDGMENTS if cluster.owner_of(stream) is not victim]
            victim.kill()
            await fails_in_time(publisher.publish())

            async def others_work() -> bool:
                return await works(lambda: streams.append([Batch(others[0], at(1), entries(2))]))

            await until(others_work, "those that live take entries")
            victim.start()
            await until(publisher.published, "it goes on", 20)
            await publisher.check()
            await until(lambda: ear.listener.connected, "it listens again")
            await heard_by_all(streams, ear)


async def heard_by_all(streams: RedisStreams, ear: Ear) -> None:
    """Each channel hears what is sent from now on."""
    channels = {"a", "b", "c", "d", "e", "f"}

    tries: list[str] = []

    async def heard() -> bool:
        ear.heard.clear()
        try:
            await streams.send([(channel, b"x") for channel in sorted(channels)])
            await until(lambda: {channel for channel, _ in ear.heard} == channels, "all hear", 1)
        except (StreamsUnavailable, AssertionError) as error:
            tries.append(f"{error}; heard {sorted(ear.heard)}, connected: {ear.listener.connected}")
            return False
        return True

    try:
        await until(heard, "every channel hears")
    except AssertionError as error:
        raise AssertionError("\n".join(tries)) from error


@BOTH
async def test_slots_move_while_entries_come(tmp_path: Path, binary: Path) -> None:
    with cluster_of(tmp_path, binary) as cluster:
        async with opened(cluster.url) as streams, opened(cluster.url) as others, listening(others, *"abcdef") as ear:
            publisher = Publisher(streams)
            await publisher.publish()
            for stream in JUDGMENTS:
                await streams.make_group(stream, "g", START)
            done = asyncio.Event()

            async def go_on() -> None:
                while not done.is_set():
                    await until(publisher.published, "it goes on")

            reading = [asyncio.create_task(read_all(others, stream, done)) for stream in JUDGMENTS]
            publishing = asyncio.create_task(go_on())
            for key in (*JUDGMENTS, "a", "b"):
                source = cluster.owner_of(key)
                to = cluster.servers[(cluster.servers.index(source) + 1) % 3]
                await asyncio.to_thread(cluster.move_slot, key, to)
                before = publisher.lsn
                await until(lambda before=before: publisher.lsn > before + 2, "entries come")
            done.set()
            await publishing
            await publisher.check()
            for read in await asyncio.gather(*reading):
                assert sorted(read) == list(range(1, publisher.lsn + 1))
            await heard_by_all(streams, ear)


async def read_all(others: RedisStreams, stream: str, done: asyncio.Event) -> set[int]:
    """What a group gets until `done` and nothing is left, also what an answer that was lost had."""
    found: set[int] = set()
    while True:
        ending = done.is_set()
        try:
            some = await others.read(stream, "g", "a", 100, 0.1) or await others.claim(stream, "g", "a", 1, 100)
            found |= {entry.id.lsn for entry in some}
            await others.ack(stream, "g", [entry.id for entry in some])
            if ending and not some and not (await others.groups(stream))[0].pending:
                return found
        except StreamsUnavailable:
            continue


@BOTH
async def test_replicas_take_over(tmp_path: Path, binary: Path) -> None:
    with cluster_of(tmp_path, binary, replicas=True) as cluster:
        async with opened(cluster.url) as streams, listening(streams, *"abcdef") as ear:
            publisher = Publisher(streams)
            await publisher.publish()
            for index, primary in enumerate(cluster.servers[:3]):
                replica = cluster.servers[3 + index]
                with primary.client() as client:
                    assert client.execute_command("WAIT", 1, 2000) == 1  # what it was told, its replica knows
                primary.kill()
                with replica.client() as client, contextlib.suppress(ResponseError):
                    client.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
                await until(publisher.published, "the replica takes entries", 20)
                primary.start()
            await publisher.check()
            await heard_by_all(streams, ear)


async def test_a_cluster_that_stalls_is_noticed_in_time(tmp_path: Path) -> None:
    with cluster_of(tmp_path, next(iter(binaries().values()))) as cluster:
        async with opened(cluster.url) as streams:
            publisher = Publisher(streams)
            await publisher.publish()
            victim = cluster.owner_of(JUDGMENTS[0])
            victim.pause()
            for _ in range(3):
                await fails_in_time(publisher.publish())
                await fails_in_time(streams.last(JUDGMENTS))
            victim.resume()
            await until(publisher.published, "it goes on")
            await publisher.check()


async def test_nobody_there_is_told_in_time() -> None:
    async with opened("redis://127.0.0.1:1") as streams:
        await fails_in_time(Publisher(streams).publish())
        listener = streams.listen(lambda *_: None, lambda: None)
        await listener.watch(["c"])
        assert not listener.connected
        await listener.close()
