"""The streams on Redis: every change once, at its position, whatever is killed, emptied or dropped."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.client import Client, Load
from support.cluster import Database
from support.engine import Engine
from support.reading import GroupReader
from support.redis_server import RedisServer
from support.waiting import until

from judgify_engine.core.streams import OWNER, stream_of


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, which keeps nothing when it is killed."""
    server = RedisServer(tmp_path / "redis", appendonly="no").start()
    yield server
    server.kill()


@pytest.fixture
def running(database: Database, redis: RedisServer, start_engine: Callable[..., Engine]) -> Engine:
    return start_engine(database, settings={"JUDGIFY_REDIS_URL": redis.url})


def by_hand(rows: int, tenant: str = "demo") -> str:
    return (
        "INSERT INTO judgment_executions (tenant_id, workflow_id, input_data, final_result, confidence_score, method_used,"
        f" execution_time_ms) SELECT '{tenant}', 'w', '{{}}', '{{}}', 1, 'rule', 1 FROM generate_series(1, {rows})"
    )


async def stored(database: Database) -> set[str]:
    return {row["id"] for row in await database.rows("SELECT id::text FROM judgment_executions")}


async def publishes(client: Client) -> bool:
    return bool((await client.get("/ready")).json.get("publisher") == "this process")


async def has_read_all(reader: GroupReader, database: Database) -> None:
    """Wait until the group has been given every judgment of the table."""
    ids = await stored(database)
    await until(lambda: ids <= set(reader.seen), f"{reader.group} has all {len(ids)} judgments", 60)


def once_each(reader: GroupReader) -> None:
    assert not [key for key, count in reader.seen.items() if count > 1]


async def saved_floor(database: Database, group: str, stream: str) -> str | None:
    sql = "SELECT floor FROM stream_groups WHERE group_name = $1 AND stream = $2"
    found = await database.value(sql, group, stream)
    return found if found is None else str(found)


async def seen_is_saved(database: Database, reader: GroupReader) -> None:
    """Wait until PostgreSQL remembers that the group has seen all that it has seen."""
    newest: dict[str, tuple[int, ...]] = {}
    for entry_id in reader.ids.values():
        place = tuple(map(int, entry_id.split("-")))
        newest["all"] = max(newest.get("all", place), place)

    async def saved() -> bool:
        rows = await database.rows("SELECT floor FROM stream_groups WHERE group_name = $1", reader.group)
        return newest["all"] in {tuple(map(int, row["floor"].split("-"))) for row in rows}

    await until(saved, "what the group has seen is remembered")


async def test_every_change_is_there_once_as_the_row_is(running: Engine, redis: RedisServer) -> None:
    database = running.database
    assert database is not None
    async with Client(running.url, "test-token") as client:
        await until(lambda: publishes(client), "the streams are filled")
        for tenant in ("a", "b", "c", "demo"):
            await database.do(by_hand(50, tenant))
        answer = await client.judge(92.3, "test-workflow-3", context={"operator": 'ü "1"'})
        await database.do("UPDATE judgment_executions SET status = 'failed' WHERE tenant_id = 'a'")
        await database.do("DELETE FROM judgment_executions WHERE tenant_id = 'b'")
    with redis.client(decode_responses=True) as direct:

        def entries(tenant: str) -> list[tuple[str, dict[str, str]]]:
            found = direct.xrange(stream_of(tenant))
            return [(place, fields) for place, fields in found if fields.get("tenant_id") == tenant]  # type: ignore[union-attr]

        await until(lambda: len(entries("b")) == 100, "the deletes are there")
        for tenant, ops in (
            ("a", ["insert"] * 50 + ["update"] * 50),
            ("b", ["insert"] * 50 + ["delete"] * 50),
            ("c", ["insert"] * 50),
        ):
            assert [fields["op"] for _, fields in entries(tenant)] == ops
        places = [tuple(map(int, place.split("-"))) for place, _ in direct.xrange(stream_of("demo"))]  # type: ignore[union-attr]
        assert places == sorted(set(places))
        (entry,) = [fields for _, fields in entries("demo") if fields["key"] == answer["judgment_id"]]
    row = (
        await database.rows(
            "SELECT to_jsonb(j)::text AS row FROM judgment_executions AS j WHERE id = $1::text::uuid", entry["key"]
        )
    )[0]
    data, expected = json.loads(entry["data"]), json.loads(row["row"])
    moments = ("created_at", "occurred_at")
    assert {name: value for name, value in data.items() if name not in moments} == {
        name: value for name, value in expected.items() if name not in moments
    }
    assert data["created_at"][:26] == expected["created_at"][:26]
    assert running.terminate() == 0


async def test_killed_under_load_nothing_is_missing_or_doubled(running: Engine, redis: RedisServer) -> None:
    database = running.database
    assert database is not None
    reader = GroupReader(redis.url, "audit")
    await reader.register()
    reader.start()
    for _ in range(3):
        async with Load(running.url, "test-token", workers=8) as load:
            await until(lambda load=load: len(load.answered) > 500, "there is load")
            running.kill()
        running.start()
    await has_read_all(reader, database)
    once_each(reader)
    await reader.stop()
    assert running.terminate() == 0


async def test_redis_away_stops_nothing_else_and_is_caught_up_with(running: Engine, redis: RedisServer) -> None:
    database = running.database
    assert database is not None
    reader = GroupReader(redis.url, "audit")
    await reader.register()
    reader.start()
    async with Client(running.url, "test-token") as client:
        await until(lambda: publishes(client), "the streams are filled")
        await database.do(by_hand(100))
        await has_read_all(reader, database)
        await seen_is_saved(database, reader)
        redis.kill()
        for _ in range(20):
            await client.judge(70, "test-workflow-0")
        await database.do(by_hand(2000))
        await database.settle()
        assert await database.value("SELECT sum(total_executions) FROM judgment_metrics_total") == 2120
        assert (await client.get("/ready")).status == 200
        redis.start()  # with nothing in it
        await has_read_all(reader, database)
        once_each(reader)
    await reader.stop()
    assert running.terminate() == 0


async def test_emptied_streams_are_filled_again_from_where_each_group_stood(running: Engine, redis: RedisServer) -> None:
    database = running.database
    assert database is not None
    quick, lazy = GroupReader(redis.url, "quick"), GroupReader(redis.url, "lazy")
    for reader in (quick, lazy):
        await reader.register()
    await database.do(by_hand(300))
    quick.start()
    await has_read_all(quick, database)
    await seen_is_saved(database, quick)
    await until(lambda: saved_floor(database, "lazy", stream_of("demo")), "the group that reads nothing is known too")
    with redis.client() as direct:
        async with Load(running.url, "test-token", workers=4) as load:
            await until(lambda: len(load.answered) > 200, "there is load")
            direct.flushall()
            await until(lambda: len(load.answered) > 600, "there is load")
    lazy.start()
    for reader in (quick, lazy):
        await has_read_all(reader, database)
    once_each(lazy)
    assert max(quick.seen.values()) <= 2, "what it had seen since that was last remembered may come twice, no more"
    for reader in (quick, lazy):
        await reader.stop()
    assert "lack entries" in running.log
    assert running.terminate() == 0


async def test_a_slot_dropped_while_nobody_reads_is_made_up_for_from_the_table(running: Engine, redis: RedisServer) -> None:
    database = running.database
    assert database is not None
    reader = GroupReader(redis.url, "audit")
    await reader.register()
    reader.start()
    await database.do(by_hand(500))
    await has_read_all(reader, database)
    await until(
        lambda: database.value(
            "SELECT checkpoint IS NOT NULL FROM stream_states WHERE slot_name = $1", f"{database.slot}_streams"
        ),
        "a snapshot is remembered, all of which is in the streams",
    )
    assert running.terminate() == 0
    await database.do(by_hand(400))
    await database.do("UPDATE judgment_executions SET occurred_at = 'infinity' WHERE id = (SELECT max(id::text) FROM"
                      " judgment_executions)::uuid")  # fmt: skip
    await database.do("UPDATE judgment_executions SET occurred_at = '20000-01-01Z' WHERE id = (SELECT id FROM"
                      " judgment_executions WHERE occurred_at IS NULL ORDER BY id::text DESC LIMIT 1)")  # fmt: skip
    await database.do("SELECT pg_drop_replication_slot($1)", f"{database.slot}_streams")
    await database.do(by_hand(300, "other"))
    running.start()
    await database.do(by_hand(100))
    await has_read_all(reader, database)
    once_each(reader)
    gap = (await until(lambda: database.rows("SELECT reason, refilled FROM stream_gaps"), "the gap is recorded"))[0]
    assert gap["reason"] == "missing"
    assert gap["refilled"] in range(700, 801)
    await reader.stop()
    assert running.terminate() == 0


async def test_streams_of_another_engine_are_left_alone(
    database: Database, cluster: Any, redis: RedisServer, running: Engine, start_engine: Callable[..., Engine]
) -> None:
    async with Client(running.url, "test-token") as client:
        await until(lambda: publishes(client), "the streams are filled")
        await client.judge(70, "test-workflow-0")
    with redis.client() as direct:
        await until(lambda: direct.exists(stream_of("demo")), "an entry is there")
        owner, entries = direct.get(OWNER), direct.xrange(stream_of("demo"))
        stranger = cluster.make()
        try:
            other = start_engine(stranger, settings={"JUDGIFY_REDIS_URL": redis.url})
            async with Client(other.url, "test-token") as client:
                await client.judge(70, "test-workflow-0")

                async def refuses() -> bool:
                    return "another engine" in (await client.get("/ready")).json["publisher"]

                await until(refuses, "it says whose they are")
            assert other.terminate() == 0
        finally:
            stranger.drop()
        assert (direct.get(OWNER), direct.xrange(stream_of("demo"))) == (owner, entries)


async def test_without_redis_there_is_no_slot_unless_something_needs_it(
    database: Database, start_engine: Callable[..., Engine]
) -> None:
    engine = start_engine(database)
    async with Client(engine.url, "test-token") as client:
        assert (await client.get("/ready")).json["publisher"] == "not needed"
        assert not await database.rows("SELECT FROM pg_replication_slots WHERE slot_name = $1", f"{database.slot}_streams")
        await database.do(
            "INSERT INTO workflows (tenant_id, workflow_id, version, definition)"
            """ VALUES ('demo', 'acting', 1, '{"rules": [], "actions": {"page": {}}}')"""
        )
        await until(lambda: publishes(client), "now it is needed")
    assert engine.terminate() == 0


async def test_another_worker_goes_on_filling(
    database: Database, redis: RedisServer, start_engine: Callable[..., Engine]
) -> None:
    engine = start_engine(database, settings={"JUDGIFY_REDIS_URL": redis.url}, workers=2)
    reader = GroupReader(redis.url, "audit")
    await reader.register()
    reader.start()
    pids = engine.worker_pids()
    async with Load(engine.url, "test-token", workers=8) as load:
        await until(lambda: len(load.answered) > 300, "there is load")
        for pid in pids.values():
            before = len(load.answered)
            os.kill(pid, signal.SIGKILL)
            await until(lambda before=before: len(load.answered) > before + 300, "there is load", 30)
    await has_read_all(reader, database)
    once_each(reader)
    await reader.stop()
    assert engine.terminate() == 0


FAR = 1 << 50
"""A place that no log of a test gets to."""


async def test_streams_ahead_of_the_log_lose_nothing(running: Engine, redis: RedisServer) -> None:
    database = running.database
    assert database is not None
    reader, late = GroupReader(redis.url, "audit"), GroupReader(redis.url, "late")
    await reader.register()
    reader.start()
    await database.do(by_hand(100))
    await has_read_all(reader, database)
    await seen_is_saved(database, reader)
    with redis.client() as direct:
        direct.xadd(stream_of("demo"), {"by": "hand"}, id=f"{FAR}-0")  # while it fills
        await database.do(by_hand(100))
        await until(lambda: "somebody else put an entry" in running.log, "it is noticed")
        await reader.stop()
        reader = GroupReader(redis.url, "audit").start()
        await until(lambda: len(reader.seen) >= 100, "what came after it is there")
        await seen_is_saved(database, reader)
        assert running.terminate() == 0
        await late.register("$")  # unknown to PostgreSQL, and must not be lost
        direct.xadd(stream_of("demo"), {"by": "hand"}, id=f"{FAR}-0")  # as if the database had been taken back
    await database.do(by_hand(100, "demo"))
    running.start()
    late.start()
    await until(lambda: len(reader.seen) >= 200 and len(late.seen) >= 100, "what came after it is there", 30)
    once_each(reader)
    assert "the database's log does not" in running.log
    for one in (reader, late):
        await one.stop()
    assert running.terminate() == 0


async def test_from_an_old_dump_groups_get_nothing_twice(running: Engine, redis: RedisServer) -> None:
    database = running.database
    assert database is not None
    reader = GroupReader(redis.url, "audit")
    await reader.register()
    reader.start()
    await database.do(by_hand(100))
    await has_read_all(reader, database)
    await seen_is_saved(database, reader)
    await reader.stop()
    with redis.client() as direct:
        direct.save()
        dump = (redis.folder / "dump.rdb").read_bytes()
    more = GroupReader(redis.url, "audit").start()
    await database.do(by_hand(100))
    await until(lambda: len(more.seen) == 100, "it has read more")
    await seen_is_saved(database, more)
    await more.stop()
    redis.kill()
    (redis.folder / "dump.rdb").write_bytes(dump)
    redis.start()
    again = GroupReader(redis.url, "audit").start()
    await database.do(by_hand(100))
    await until(lambda: len(again.seen) >= 100, "it goes on", 30)
    await again.stop()
    assert not again.seen.keys() & more.seen.keys()
    assert running.terminate() == 0


async def test_a_full_redis_goes_on_once_groups_have_read(
    tmp_path: Path, database: Database, start_engine: Callable[..., Engine]
) -> None:
    redis = RedisServer(tmp_path / "small", maxmemory="8mb", appendonly="no").start()
    settings = {"JUDGIFY_REDIS_URL": redis.url, "JUDGIFY_STREAMS_KEEP_ENTRIES": "100"}
    reader = GroupReader(redis.url, "audit")
    await reader.register()
    engine = start_engine(database, settings=settings)
    await database.do(by_hand(20_000))
    async with Client(engine.url, "test-token") as client:

        async def says_so() -> bool:
            return "maxmemory" in (await client.get("/ready")).json["publisher"]

        with redis.client() as direct:
            await until(lambda: direct.info("memory")["used_memory"] > 8_000_000, "it is full", 60)
            direct.config_set("maxmemory", "4mb")  # it has no room for the smallest value, until it is trimmed
        await until(says_so, "a session has failed", 60)
        reader.start()
        await has_read_all(reader, database)
        once_each(reader)
    assert "nothing on disk" in engine.log, "what endangers the streams is said at the start"
    await reader.stop()
    assert engine.terminate() == 0
    redis.kill()


async def test_a_stop_does_not_wait_for_a_redis_that_hangs(running: Engine, redis: RedisServer) -> None:
    assert redis.process is not None
    async with Client(running.url, "test-token") as client:
        await until(lambda: publishes(client), "the streams are filled")
        redis.process.send_signal(signal.SIGSTOP)
        await client.judge(70, "test-workflow-0")
    started_s = time.monotonic()
    assert running.terminate() == 0
    assert time.monotonic() - started_s < 10
