"""A dashboard that is connected anywhere sees everything, and a process is told only what its own clients watch."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.client import Client, Load, new_tenant
from support.cluster import Database
from support.dashboards import Dashboard, watch
from support.engine import Engine
from support.redis_server import RedisCluster, RedisServer
from support.waiting import until

from .test_dashboards import BY_HAND, PLANT, TRACKING
from .test_dashboards import check as check_charts
from .test_rebuild import command
from .test_workers import database_of, figures, holder

TOTAL = "SELECT count(*) FROM judgment_executions WHERE tenant_id = $1"
BASE = "websocket_notifications"
FORGETFUL = "from judgify_engine.live import hub; hub.KEEP_S = 1.0\n"
"""A view that nobody watches is forgotten soon."""
PATIENT = "from judgify_engine.live import hearing; hearing.SILENCE_S = 15.0\n"
PATIENT += "from judgify_engine.cdc import holder; holder.BEHIND_S = 15.0\n"
"""On a busy machine a beat or the log may be late, and views are read anew meanwhile; that is for other tests."""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture
def start(database: Database, redis: RedisServer, start_engine: Callable[..., Engine]) -> Callable[..., Engine]:
    """Start a process on the test's database and Redis; what a dashboard shows comes live or not at all for an hour."""
    return lambda: start_engine(database, settings=_live_only(redis), prelude=FORGETFUL)


@pytest.fixture
def start_patient(database: Database, redis: RedisServer, start_engine: Callable[..., Engine]) -> Callable[..., Engine]:
    """The same where all must come live."""
    return lambda: start_engine(database, settings=_live_only(redis), prelude=FORGETFUL + PATIENT)


def _live_only(redis: RedisServer) -> dict[str, str]:
    return {"JUDGIFY_REDIS_URL": redis.url, "JUDGIFY_LIVE_REFRESH_INTERVAL_S": "3600"}


async def figure(client: Client, name: str, **labels: str) -> float:
    """A figure of `/metrics`, summed over the labels that are not named."""
    found = 0.0
    for family in text_string_to_metric_families((await client.get("/metrics")).body.decode()):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                found += sample.value
    return found


async def reads_log(client: Client) -> bool:
    return bool((await client.get("/ready")).json["log_reader"] == "this process")


@contextlib.asynccontextmanager
async def processes(start: Callable[..., Engine], count: int) -> AsyncIterator[tuple[list[Engine], list[Client]]]:
    """So many processes; the first one reads the log."""
    async with contextlib.AsyncExitStack() as stack:
        engines: list[Engine] = []
        clients: list[Client] = []
        for _ in range(count):
            engines.append(start())
            clients.append(await stack.enter_async_context(Client(engines[-1].url, "test-token", "demo")))
            await until(lambda: reads_log(clients[0]), "the first one reads the log")
        for engine in engines[1:]:
            await hears(engine)
        yield engines, clients


async def hears(engine: Engine, times: int = 1) -> None:
    """It hears whoever reads the log, or has come to hear another one."""
    await until(lambda: engine.log.count("hearing live changes") == times, f"it hears the reader of the log ({times})")


def channels(redis: RedisServer) -> dict[str, int]:
    """Channels that somebody hears, and how many do."""
    with redis.client(decode_responses=True) as client:
        found = client.pubsub_channels(f"{BASE}*")
        return dict(client.pubsub_numsub(*found)) if found else {}


async def heard_by(redis: RedisServer, count: int) -> None:
    await until(lambda: channels(redis).get(BASE) == count, f"{count} processes listen")


def live_only(dashboard: Dashboard, since: int = 1) -> None:
    """All that it was sent were changes: nothing was read from the tables again."""
    kinds = [message["type"] for message in dashboard.messages[since:]]
    assert kinds
    assert set(kinds) == {"real_time_update"}


async def same_everywhere(database: Database, dashboards: list[Dashboard], tenant_id: str = "demo") -> None:
    """Each shows what the table holds, and all the same."""
    total = await database.value(TOTAL, tenant_id)
    for dashboard in dashboards:
        await dashboard.shows(total)
    for dashboard in dashboards[1:]:
        assert dashboard.summary == dashboards[0].summary
        assert dashboard.workflows == dashboards[0].workflows
        assert dashboard.live == dashboards[0].live


async def more(load: Load, count: int = 200) -> None:
    before = len(load.answered)
    await until(lambda: len(load.answered) > before + count, "the load goes on", 30)


async def test_every_process_shows_every_change_at_once(
    database: Database, redis: RedisServer, start_patient: Callable[..., Engine]
) -> None:
    async with processes(start_patient, 3) as (engines, clients):
        dashboards = [await watch(client) for client in clients]
        await asyncio.gather(*(dashboard.shows(0) for dashboard in dashboards))
        async with Load(engines[1].url, "test-token", workers=8) as one, Load(engines[2].url, "test-token", workers=8) as two:
            await more(one, 300)
            await more(two, 300)
        await same_everywhere(database, dashboards)
        for dashboard in dashboards:
            live_only(dashboard)
            await dashboard.close()
        assert await figure(clients[0], "judgify_relay_messages_total") > 0
        assert await figure(clients[0], "judgify_relay_dropped_total") == 0
        assert await figure(clients[1], "judgify_relay_gaps_total", mended="tables") == 0
        with redis.client(decode_responses=True) as connection:
            (cached,) = connection.keys("dashboard_cache:demo:main*")
            assert 0 < connection.ttl(cached) <= 300
    for engine in engines:
        assert engine.terminate() == 0


async def test_a_process_is_told_what_its_clients_watch_and_no_more(
    database: Database, redis: RedisServer, start_patient: Callable[..., Engine]
) -> None:
    async with processes(start_patient, 3) as (engines, _), contextlib.AsyncExitStack() as stack:
        tenants = [await stack.enter_async_context(new_tenant(engines[0].url, database)) for _ in range(3)]
        # Who watches: the first tenant the reader of the log and the second process, the next one the second and the third.
        mine, shared, nobodys = tenants
        opened: list[tuple[Client, Dashboard]] = []
        for tenant, engine in ((mine, 0), (mine, 1), (shared, 1), (shared, 2)):
            client = await stack.enter_async_context(Client(engines[engine].url, tenant.token, tenant.tenant_id))
            opened.append((tenant, await watch(client)))
        expected = {BASE: 3, f"{BASE}:{mine.tenant_id}": 1, f"{BASE}:{shared.tenant_id}": 2}
        assert channels(redis) == expected
        counts = {mine: 3, shared: 5, nobodys: 7}
        for tenant, count in counts.items():
            for _ in range(count):
                await tenant.judge(70)
        for tenant, dashboard in opened:
            await dashboard.shows(counts[tenant])
            assert dashboard.messages[-1]["tenant_id"] == tenant.tenant_id
            assert all(message["summary"]["total_executions"] <= counts[tenant] for message in dashboard.messages)
            live_only(dashboard)
        assert channels(redis) == expected
        for _, dashboard in opened:
            await dashboard.close()
        await until(lambda: channels(redis) == {BASE: 3}, "what nobody watches any more is not heard", 20)


async def test_dashboards_of_other_processes_survive_the_reader_of_the_log(
    database: Database, redis: RedisServer, start: Callable[..., Engine]
) -> None:
    async with processes(start, 3) as (engines, clients):
        dashboards = [await watch(client) for client in clients[1:]]
        async with Load(engines[1].url, "test-token", workers=8) as load:
            await more(load)
            engines[0].kill()

            async def taken_over() -> bool:
                return any([await reads_log(client) for client in clients[1:]])

            await until(taken_over, "another one reads the log")
            await more(load)
        await same_everywhere(database, dashboards)
        reader, hearer = (clients[1], engines[2]) if await reads_log(clients[1]) else (clients[2], engines[1])
        await hears(hearer, 2)
        await until(lambda: channels(redis) == {BASE: 2, f"{BASE}:demo": 1}, "the one that reads the log is told nothing")
        await reader.judge(70, "test-workflow-0")
        await same_everywhere(database, dashboards)
        seen = [len(dashboard.messages) for dashboard in dashboards]
        for _ in range(5):
            await reader.judge(70, "test-workflow-0")
        await same_everywhere(database, dashboards)
        for dashboard, since in zip(dashboards, seen, strict=True):
            live_only(dashboard, since)
            await dashboard.close()
        await load.check(database)


async def test_dashboards_survive_redis(database: Database, redis: RedisServer, start: Callable[..., Engine]) -> None:
    """It is emptied, killed, away for a while, silent for a while: each dashboard shows the truth, soon or at once."""
    async with processes(start, 2) as (engines, clients):
        dashboards = [await watch(client) for client in clients]
        async with Load(engines[0].url, "test-token", workers=8) as load:
            await more(load)
            with redis.client() as connection:
                connection.flushall()
            await more(load)
            redis.kill()
            await more(load)
            total = len(load.answered)
            await until(lambda: min(dashboard.total for dashboard in dashboards) >= total, "shown without Redis", 5)
            redis.start()
            await heard_by(redis, 2)
            await more(load)
            redis.pause()
            total = len(load.answered)
            await more(load)
            await until(lambda: min(dashboard.total for dashboard in dashboards) >= total, "shown beside it", 6)
            redis.resume()
            await more(load)
            await heard_by(redis, 2)
            with redis.client() as connection:
                connection.client_kill_filter(_type="pubsub")
            await more(load)
        await same_everywhere(database, dashboards)
        await heard_by(redis, 2)
        before = await figure(clients[0], "judgify_relay_messages_total")

        async def beats() -> bool:
            return await figure(clients[0], "judgify_relay_messages_total") > before + 4

        await until(beats, "live changes are told again")
        seen = [len(dashboard.messages) for dashboard in dashboards]
        for _ in range(5):
            await clients[0].judge(70, "test-workflow-0")
        await same_everywhere(database, dashboards)
        for dashboard, since in zip(dashboards, seen, strict=True):
            live_only(dashboard, since)
            await dashboard.close()
        await load.check(database)


async def test_what_no_delta_made_shows_everywhere(database: Database, start: Callable[..., Engine]) -> None:
    """The table is emptied, then rollups that were made wrong are mended: who only hears of deltas must hear of that, too."""
    async with processes(start, 2) as (engines, clients):
        dashboards = [await watch(client) for client in clients]
        for _ in range(4):
            await clients[0].judge(70, "test-workflow-0")
        await same_everywhere(database, dashboards)
        await database.do("TRUNCATE judgment_executions")
        await asyncio.gather(*(dashboard.shows(0) for dashboard in dashboards))
        await hears(engines[1], 2)
        await clients[1].judge(70, "test-workflow-0")
        await same_everywhere(database, dashboards)
        await database.settle()
        await database.do("UPDATE judgment_metrics_total SET total_executions = total_executions + 5")
        dashboards.append(await watch(clients[1], "wrong"))
        await dashboards[-1].shows(6)
        assert (await command(database, "rebuild", "--from", "2026-01-01")).returncode == 0
        await hears(engines[1], 3)
        await clients[1].judge(70, "test-workflow-0")
        await same_everywhere(database, dashboards)
        for dashboard in dashboards:
            await dashboard.close()


async def test_a_cluster_carries_it_too(database: Database, start_engine: Callable[..., Engine], tmp_path: Path) -> None:
    """Channels and streams are on different servers there, so beats and portions may overtake each other."""
    cluster = RedisCluster(tmp_path / "cluster")
    try:
        settings = {"JUDGIFY_REDIS_URL": cluster.start().url, "JUDGIFY_LIVE_REFRESH_INTERVAL_S": "3600"}
        async with processes(lambda: start_engine(database, settings=settings, prelude=PATIENT), 2) as (engines, clients):
            dashboards = [await watch(client) for client in clients]
            async with Load(engines[0].url, "test-token", workers=8) as load:
                await more(load, 500)
            await same_everywhere(database, dashboards)
            for dashboard in dashboards:
                live_only(dashboard)
                await dashboard.close()
            assert await figure(clients[1], "judgify_relay_gaps_total", mended="tables") == 0
    finally:
        cluster.kill()


async def test_workers_behind_one_port_show_the_same(start_engine: Callable[..., Engine]) -> None:
    """The embedded Redis is enough; the worker that reads the log dies in the middle."""
    engine = start_engine(workers=3)
    async with Client(engine.url, "test-token") as client, contextlib.AsyncExitStack() as stack:

        async def hear() -> bool:
            return engine.log.count("hearing live changes") == 2

        await until(hear, "two workers hear the third")
        dashboards: list[Dashboard] = []
        while min((await figures(client, "judgify_dashboards")).values()) == 0:
            assert len(dashboards) < 100, "the kernel spreads connections"
            session = await stack.enter_async_context(Client(engine.url, "test-token"))
            dashboards.append(await watch(session))
        async with Load(engine.url, "test-token", workers=16) as load:
            await more(load)
            reader = await holder(client)
            assert reader is not None
            os.kill(engine.worker_pids()[int(reader)], signal.SIGKILL)
            await more(load)

            async def taken_over() -> bool:
                return await holder(client) not in (None, reader)

            await until(taken_over, "another worker reads the log")
            await more(load)
        living = [dashboard for dashboard in dashboards if not dashboard.socket.closed]
        assert len(living) >= 2
        await same_everywhere(database_of(engine), living)
        for dashboard in dashboards:
            await dashboard.close()
    assert engine.terminate() == 0


async def test_a_definition_and_all_its_charts_show_where_another_process_reads_the_log(
    database: Database, start_patient: Callable[..., Engine]
) -> None:
    async with processes(start_patient, 2) as (engines, clients):
        for workflow in ("check", "check", "other", "other"):
            await clients[0].put_workflow(workflow, TRACKING)
        dashboard = await watch(clients[1], "plant", "?timeframe=6h")
        await dashboard.shows(0)
        for version, ids in ((1, ["check", "other"]), (2, [])):
            await clients[0].call("PUT", "/api/v1/dashboards/plant", body={**PLANT, "workflow_ids": ids})
            await until(lambda version=version: dashboard.version == version, "the new definition shows", 5)
        await database.do(BY_HAND, "demo", 1, 400)
        await dashboard.shows(400)
        await check_charts(dashboard, engines[0], clients[0], [])
        assert await figure(clients[1], "judgify_relay_gaps_total", mended="tables") == 0, "all of it was told"
        await dashboard.close()
