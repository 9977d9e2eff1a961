"""Scaling from the figures of all processes to what becomes of a decision, on real servers."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import aiohttp
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.client import PubSub
from support import cluster
from support.client import EXECUTE, Client, Load
from support.cluster import Database
from support.engine import Engine
from support.redis_server import RedisServer
from support.waiting import until
from unit.builders import figures

from judgify_engine.config import load
from judgify_engine.core.scaling import Decision, Last
from judgify_engine.errors import DatabaseUnavailable
from judgify_engine.store import pool, upkeep
from judgify_engine.store.scaling import ScalingStore

OUT = Decision("out", "scaling", "cpu", "CPU 90 % > 80 %", 2, 3)
QUICK = {
    "JUDGIFY_SCALING_REPORT_INTERVAL_S": "0.1",
    "JUDGIFY_SCALING_INTERVAL_S": "0.3",
    "JUDGIFY_SCALING_WINDOW_S": "1",
    "JUDGIFY_SCALING_IN_EVALUATIONS": "3",
    "JUDGIFY_SCALING_COOLDOWN_OUT_S": "1",
    "JUDGIFY_SCALING_COOLDOWN_IN_S": "2",
}
ALWAYS_OUT = {f"JUDGIFY_SCALING_{name}_MEMORY": "0.001" for name in ("IN", "TARGET", "OUT")}
"""Whatever the memory: there should be more."""
NEVER_BY_MEMORY = {f"JUDGIFY_SCALING_{name}_MEMORY": "1" for name in ("IN", "TARGET", "OUT")}
WORKFLOW = "test-workflow-0"


# --- what is stored, and who may write it ---


@pytest.fixture
async def store(database: cluster.Database, start_engine: Callable[..., Engine]) -> AsyncIterator[pool.Database]:
    """Pools on a database with our tables."""
    start_engine(database).terminate()
    opened = pool.Database(database.dsn, load(environ={}))
    await opened.open()
    yield opened
    await opened.close()


async def test_one_at_a_time_decides_about_one_thing(store: pool.Database) -> None:
    one, other, elsewhere = ScalingStore(store, "a"), ScalingStore(store, "a"), ScalingStore(store, "b")
    assert await one.lease()
    assert await one.lease(), "it stays so"
    assert not await other.lease()
    assert await elsewhere.lease()
    one.let_go()
    await until(other.lease, "another one takes over")
    assert not await one.lease()
    for each in (one, other, elsewhere):
        each.let_go()


async def test_who_lost_the_lease_can_write_nothing(store: pool.Database, database: Database) -> None:
    one, other = ScalingStore(store, "a"), ScalingStore(store, "a")
    assert await one.lease()
    number = await one.record(OUT, figures(), 1000.0, 33, "hands", "pending")
    assert number is not None
    await database.do("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2")
    await until(other.lease, "the other one takes over")
    with pytest.raises(DatabaseUnavailable):
        await one.finish(number, "done", None)
    with pytest.raises(DatabaseUnavailable):
        await one.record(OUT, figures(), 1030.0, 34, "hands", "pending")
    assert [(row["id"], row["outcome"]) for row in await database.rows("SELECT * FROM scaling_decisions")] == [
        (number, "unknown")
    ]
    assert not await one.lease()
    other.let_go()


async def test_an_interval_has_one_decision(store: pool.Database) -> None:
    one = ScalingStore(store, "a")
    assert await one.lease()
    assert await one.record(OUT, figures(), 1000.0, 33, "hands", "done") is not None
    assert await one.record(OUT, figures(), 1001.0, 33, "hands", "done") is None
    one.let_go()


async def test_what_was_decided_last_is_known_to_all(store: pool.Database) -> None:
    one = ScalingStore(store, "a")
    assert await one.last() == (None, "")
    assert await one.lease()
    number = await one.record(OUT, figures(), 1000.5, 33, "hands", "done")
    await one.record(Decision("stay", "limited", "cpu", "8 already", 8, 8), figures(), 1060.0, 35, "hands", "told")
    one.let_go()
    other = ScalingStore(store, "a")
    assert await other.last() == (Last("out", 1000.5), "limited")
    assert await ScalingStore(store, "b").last() == (None, "")
    newest, oldest = await other.list(10)
    assert (newest.action, newest.state, oldest.id) == ("stay", "limited", number)
    assert json.loads(bytes(oldest.figures or b""))["cpu"] == figures().cpu


async def test_each_decision_is_to_be_told_until_it_was(store: pool.Database) -> None:
    one = ScalingStore(store, "a")
    assert await one.lease()
    for slot in range(3):
        await one.record(OUT, figures(), 1000.0 + slot, slot, "hands", "done")
    waiting = [record.id for record in await one.unpublished()]
    assert waiting == sorted(waiting)
    await one.published(waiting[:2])
    assert [record.id for record in await one.unpublished()] == waiting[2:]
    one.let_go()


async def test_old_decisions_are_forgotten(store: pool.Database, database: Database) -> None:
    one = ScalingStore(store, "a")
    assert await one.lease()
    await one.record(OUT, figures(), 1000.0, 33, "hands", "done")
    await one.record(OUT, figures(), (await database.value("SELECT extract(epoch FROM now())::float8")), 34, "hands", "done")
    await upkeep.once(store, load(environ={}).keep)
    assert await database.value("SELECT array_agg(slot) FROM scaling_decisions") == [34]
    one.let_go()


# --- whole engines ---


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis").start()
    yield server
    server.kill()


@pytest.fixture
def listener(redis: RedisServer) -> Iterator[PubSub]:
    """Hears `scaling_events` as another program would."""
    with redis.client() as client, client.pubsub(ignore_subscribe_messages=True) as made:
        made.subscribe("scaling_events")
        yield made


async def heard(listener: PubSub) -> dict[str, object]:
    """The next event."""
    message = await until(lambda: listener.get_message(), "an event is heard", 20)
    event: dict[str, object] = json.loads(message["data"])
    return event


async def gauge(client: Client, name: str) -> float:
    """A figure, summed over workers and labels."""
    text = (await client.get("/metrics")).body.decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == name)


async def test_a_decision_is_heard_stored_and_shown(
    database: Database, redis: RedisServer, listener: PubSub, start_engine: Callable[..., Engine]
) -> None:
    engine = start_engine(database, settings={"JUDGIFY_REDIS_URL": redis.url, **QUICK, **ALWAYS_OUT})
    event = await heard(listener)
    assert (event["action"], event["from"], event["to"], event["rule"]) == ("out", 1, 5, "memory")
    assert (event["executor"], event["outcome"], event["scope"]) == ("dry_run", "told", "processes")
    assert "memory" in str(event["reason"])
    row = (await database.rows("SELECT * FROM scaling_decisions ORDER BY id LIMIT 1"))[0]
    assert (row["id"], row["action"], row["to_count"], row["reason"]) == (event["id"], "out", 5, event["reason"])
    async with Client(engine.url, "test-token") as client:
        answer = (await client.get("/api/v1/scaling?limit=1")).json
        assert (answer["executor"], answer["current"], answer["figures"]["processes"]) == ("dry_run", 1, 1)
        assert len(answer["decisions"]) == len(answer["processes"]) == 1
        assert answer["next"]["reason"]
        assert await gauge(client, "judgify_scaling_leader") == 1
        assert await gauge(client, "judgify_scaling_decisions_total") >= 1
        assert await gauge(client, "judgify_scaling_current_processes") == 1
    again = await heard(listener)
    assert again["at"] > event["at"], "after the cool-down it is told again"  # type: ignore[operator]
    assert engine.terminate() == 0


async def test_only_administrators_see_it(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(database)
    async with Client(engine.url, await database.token("demo", "read")) as client:
        (await client.get("/api/v1/scaling")).problem(403, "forbidden")
    async with Client(engine.url, "test-token") as client:
        answer = (await client.get("/api/v1/scaling")).json
        assert (answer["next"]["action"], answer["next"]["state"], answer["current"]) == ("stay", "settling", 1)
        assert answer["desired"] == 1
    assert engine.terminate() == 0


async def test_another_process_decides_when_the_one_that_did_dies(
    database: Database, redis: RedisServer, listener: PubSub, start_engine: Callable[..., Engine]
) -> None:
    """And it sees the figures of all."""
    settings = {"JUDGIFY_REDIS_URL": redis.url, **QUICK, **ALWAYS_OUT}
    engines = [start_engine(database, settings=settings) for _ in range(2)]
    while (await heard(listener))["from"] != 2:
        pass
    async with contextlib.AsyncExitStack() as opened:
        clients = [await opened.enter_async_context(Client(engine.url, "test-token")) for engine in engines]

        async def all_see_both() -> bool:
            answers = [(await client.get("/api/v1/scaling")).json for client in clients]
            return [answer["figures"]["processes"] for answer in answers] == [2, 2]

        await until(all_see_both, "whichever is asked sees both")
        leading = [await gauge(client, "judgify_scaling_leader") for client in clients]
        assert sorted(leading) == [0, 1]
        first = leading.index(1)
        engines[first].kill()

        async def the_other_leads() -> bool:
            return await gauge(clients[1 - first], "judgify_scaling_leader") == 1

        await until(the_other_leads, "the other one decides")
        while (await heard(listener))["from"] != 1:
            pass
    slots = [row["slot"] for row in await database.rows("SELECT slot FROM scaling_decisions ORDER BY id")]
    assert slots == sorted(set(slots)), "one for each interval, in their order"
    assert engines[1 - first].terminate() == 0


# --- workers of a supervisor ---


class Visitors:
    """Each comes over a connection of its own, one after the other; what went wrong is kept."""

    def __init__(self, engine: Engine, pause_s: float = 0.01, at_once: int = 2) -> None:
        self._url, self._pause_s, self._at_once = engine.url + EXECUTE, pause_s, at_once
        self.served, self.failed = 0, []  # type: int, list[str]
        self._stop = asyncio.Event()

    async def __aenter__(self) -> "Visitors":
        self._tasks = [asyncio.create_task(self._visit()) for _ in range(self._at_once)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _visit(self) -> None:
        body, headers = {"workflow_id": WORKFLOW, "input_data": {"temperature": 70}}, {"Authorization": "Bearer test-token"}
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=20)) as session:
            while not self._stop.is_set():
                try:
                    async with session.post(self._url, json=body, headers=headers) as response:
                        if response.status != 200:
                            self.failed.append(f"{response.status} {await response.text()}")
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    self.failed.append(repr(error))
                self.served += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), self._pause_s)


async def workers(client: Client) -> int:
    """How many there are to be."""
    return int((await client.get("/api/v1/scaling")).json["current"])


async def up(engine: Engine) -> set[str]:
    """The workers that give their figures."""
    async with Client(engine.url, "test-token") as client:
        text = (await client.get("/metrics")).body.decode()
    return {
        sample.labels["worker"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "judgify_worker_up" and sample.value
    }


def local(redis: RedisServer | None = None, **more: str) -> dict[str, str]:
    """Settings; without a Redis the engine brings its own."""
    named = {f"JUDGIFY_SCALING_{name}".upper(): value for name, value in more.items()}
    place = {} if redis is None else {"JUDGIFY_REDIS_URL": redis.url}
    return {**place, "JUDGIFY_SCALING_EXECUTOR": "local", **QUICK, **NEVER_BY_MEMORY, **named}


async def test_workers_are_added_under_load_and_leave_after_it(
    redis: RedisServer, listener: PubSub, start_engine: Callable[..., Engine]
) -> None:
    """And meanwhile nobody is refused, neither who stays connected nor who comes anew."""
    by_queue = {"in_cpu": "1", "target_cpu": "1", "out_cpu": "1", "out_queue_rows": "1"}  # on a busy machine CPU says little
    engine = start_engine(settings=local(redis, max_workers="2", **by_queue))
    async with Visitors(engine, pause_s=0.05) as visitors:
        async with Load(engine.url, "test-token", workers=64) as pressing:
            event = await heard(listener)
            assert (event["action"], event["from"], event["to"], event["rule"]) == ("out", 1, 2, "queue")
            assert event["outcome"] == "done"

            async def both_serve() -> bool:
                return await up(engine) == {"0", "1"}

            await until(both_serve, "there are two", 30)
        event = await heard(listener)
        while event["action"] == "stay":  # two were not enough for this load, and more are not allowed
            event = await heard(listener)
        assert (event["action"], event["from"], event["to"], event["rule"]) == ("in", 2, 1, "idle")
        first = engine.worker_pids()[0]
        await until(lambda: '"a worker retires"' in engine.log, "one retires")

        async def one_serves() -> bool:
            return await up(engine) == {"0"}

        await until(one_serves, "there is one", 30)
        await until(lambda: visitors.served > 50, "many came anew", 30)
    assert visitors.failed == []
    assert (dict(pressing.unknown), pressing.refused, pressing.strange) == ({}, {}, [])
    assert engine.worker_pids()[0] == first, "that one was never away"
    assert engine.terminate() == 0


async def test_nobody_is_refused_while_workers_leave(redis: RedisServer, start_engine: Callable[..., Engine]) -> None:
    """Many come anew in every moment, also in that in which sockets are closed."""
    engine = start_engine(workers=4, settings=local(redis, max_workers="2", cooldown_in_s="1000"))
    async with Visitors(engine, pause_s=0.0, at_once=8) as visitors, Load(engine.url, "test-token", workers=8) as staying:
        await until(lambda: engine.log.count('"a worker retires"') == 2, "two retire", 30)
        gone = [pid for number, pid in engine.worker_pids().items() if number > 1]

        async def two_serve() -> bool:
            return await up(engine) == {"0", "1"} and engine.log.count('"stopped"') == 2

        await until(two_serve, "they are gone", 60)
        before = visitors.served
        await until(lambda: visitors.served > before + 200, "it goes on")
    assert visitors.failed == []
    assert (dict(staying.unknown), staying.refused, staying.strange) == ({}, {}, [])
    assert gone
    assert engine.terminate() == 0


async def test_who_is_to_leave_gets_no_new_connections_before_it_closes(start_engine: Callable[..., Engine]) -> None:
    slow = "import judgify_engine.departures as s; s.STEERED_S = 8.0"
    engine = start_engine(workers=2, prelude=slow, settings=local(max_workers="1"))
    leaving = psutil.Process(engine.worker_pids()[1])
    await until(lambda: '"a worker retires"' in engine.log, "one retires", 30)

    async def none_goes_there() -> bool:
        opened = [await asyncio.open_connection("127.0.0.1", engine.listening_port) for _ in range(20)]
        for reader, writer in opened:
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        ours = {writer.get_extra_info("sockname")[1] for _, writer in opened}
        theirs = {one.raddr.port for one in leaving.net_connections("tcp") if one.raddr}
        for _, writer in opened:
            writer.close()
        return not ours & theirs

    await until(none_goes_there, "all go to the other one", 6)
    listening = [one for one in leaving.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    assert listening, "who was connecting is still accepted"
    await until(lambda: not leaving.is_running() or leaving.status() == psutil.STATUS_ZOMBIE, "it has gone", 40)
    assert engine.terminate() == 0


async def test_the_number_stays_when_workers_are_replaced_or_die(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(settings=local(min_workers="2", max_workers="2"))

    async def two_serve() -> bool:
        return await up(engine) == {"0", "1"}

    await until(two_serve, "the second one is added", 30)
    before = dict(engine.worker_pids())
    engine.signal(signal.SIGHUP)
    await until(lambda: "all workers are replaced" in engine.log, "they are replaced", 60)
    after = engine.worker_pids()
    assert after.keys() == {0, 1}
    assert set(after.values()).isdisjoint(before.values())
    await until(two_serve, "there are two")
    os.kill(after[1], signal.SIGKILL)
    await until(lambda: engine.worker_pids()[1] != after[1], "the one that died is started again", 30)
    await until(two_serve, "there are two again")
    async with Client(engine.url, "test-token") as client:
        assert await workers(client) == 2
    assert engine.terminate() == 0


async def test_what_a_tenant_may_use_does_not_grow_with_the_workers(
    redis: RedisServer, start_engine: Callable[..., Engine]
) -> None:
    """Each grants its share; the living ones are told the new number."""
    settings = {**local(redis, min_workers="2", max_workers="2"), "JUDGIFY_QUOTA_REQUESTS_PER_S": "100"}
    engine = start_engine(settings=settings)

    async def both_serve() -> bool:
        return await up(engine) == {"0", "1"}

    async def policies() -> set[str]:
        found = set()
        for _ in range(20):  # so many that both take part
            async with Client(engine.url, "test-token") as client:
                found.add((await client.execute({"value": 1}, WORKFLOW)).headers["RateLimit-Policy"])
        return found

    async def shared() -> bool:
        return await policies() == {'"requests";q=50;w=1'}

    await until(both_serve, "the second one is added", 30)
    await until(shared, "both grant half")
    assert engine.terminate() == 0


async def test_a_stop_while_a_worker_leaves_ends_all(start_engine: Callable[..., Engine]) -> None:
    slow = "import judgify_engine.departures as s; s.STEERED_S = 30.0"
    engine = start_engine(workers=3, prelude=slow, settings=local(max_workers="1"))
    await until(lambda: engine.log.count('"a worker retires"') == 2, "two retire", 30)
    pids = engine.worker_pids().values()
    assert engine.terminate(20) == 0
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
