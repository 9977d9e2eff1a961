"""Several processes behind one address: together they promise what one does, whatever becomes of any of them."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable

import aiohttp
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support.client import Client, Load
from support.cluster import Cluster, Database
from support.dashboards import watch
from support.engine import Engine, processes_of
from support.rollups import check_rollups
from support.waiting import until

from judgify_engine.store.embedded import dsn_of

WORKFLOW = "test-workflow-0"


def database_of(engine: Engine) -> Database:
    dsn = dsn_of(engine.data_dir)
    database = Database(Cluster(dsn), "postgres", "judgify_cdc")
    database.dsn = dsn
    return database


async def figures(client: Client, name: str) -> dict[str, float]:
    """A figure of each worker, summed over its other labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families((await client.get("/metrics")).body.decode()):
        for sample in family.samples:
            if sample.name == name:
                worker = sample.labels["worker"]
                found[worker] = found.get(worker, 0.0) + sample.value
    return found


async def holder(client: Client) -> str | None:
    """The number of the worker that reads the log."""
    return next((worker for worker, held in (await figures(client, "judgify_slot_held")).items() if held), None)


def living(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@contextlib.asynccontextmanager
async def loaded(engine: Engine) -> AsyncIterator[tuple[Load, Client]]:
    """Under load, and everything is right in the end."""
    async with Client(engine.url, "test-token") as client:
        async with Load(engine.url, "test-token", workers=32, keyed=0.1) as load:
            await until(lambda: len(load.answered) > 300, "the load runs", 20)
            yield load, client
            before = len(load.answered)
            await until(lambda: len(load.answered) > before + 300, "the load goes on", 20)
        await load.check(database_of(engine))
        assert await check_rollups(database_of(engine)) >= len(load.answered)


async def test_all_workers_take_part_and_add_up(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(workers=3)
    async with loaded(engine) as (load, client):
        judged = await figures(client, "judgify_judgments_total")
        assert judged.keys() == {"0", "1", "2"}
        assert min(judged.values()) > 0, "the kernel spreads the connections"

        async def all_are_up() -> bool:
            return await figures(client, "judgify_worker_up") == {"0": 1, "1": 1, "2": 1}

        async def one_reads() -> bool:
            return sum((await figures(client, "judgify_slot_held")).values()) == 1

        await until(all_are_up, "all are up")
        await until(one_reads, "one of them reads the log")
    assert not load.unknown
    assert not load.refused
    assert engine.terminate() == 0
    assert processes_of(engine.data_dir) == []


async def test_each_worker_that_is_killed_comes_back(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(workers=2)
    async with loaded(engine) as (load, client):
        for number in (0, 1):
            pid = engine.worker_pids()[number]
            os.kill(pid, signal.SIGKILL)
            await until(lambda number=number, pid=pid: engine.worker_pids()[number] != pid, "it is started again", 30)
            assert (await client.get("/health")).status == 200
    assert not load.refused
    assert engine.terminate() == 0


async def test_another_worker_reads_on_when_the_one_that_reads_the_log_dies(start_engine: Callable[..., Engine]) -> None:
    """A dashboard sees every judgment, wherever it is connected."""
    engine = start_engine(workers=2)
    async with loaded(engine) as (_, client):
        first = await until(lambda: holder(client), "one reads the log")
        os.kill(engine.worker_pids()[int(first)], signal.SIGKILL)

        async def taken_over() -> bool:
            return await holder(client) not in (None, first)

        await until(taken_over, "the other one reads the log", 10)
    total = await database_of(engine).value("SELECT count(*) FROM judgment_executions")
    async with Client(engine.url, "test-token") as client:
        for _ in range(4):  # connections go to both
            dashboard = await watch(client)
            await dashboard.shows(total)
            await dashboard.close()
    assert engine.terminate() == 0


async def test_no_request_is_refused_while_all_workers_are_replaced(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(workers=2)
    before = engine.worker_pids()
    async with loaded(engine) as (load, _):
        for times in (1, 2):
            engine.signal(signal.SIGHUP)
            await until(lambda times=times: engine.log.count("all workers are replaced") == times, "they are replaced", 60)
    assert (dict(load.unknown), load.refused, load.strange) == ({}, {}, [])
    assert set(engine.worker_pids().values()).isdisjoint(before.values())
    assert not any(living(pid) for pid in before.values())
    assert engine.terminate() == 0


async def test_a_retiring_worker_serves_slow_bodies_and_closes_idle_connections(start_engine: Callable[..., Engine]) -> None:
    """Nobody with a connection is told to go elsewhere: he is answered, or finds it closed between two requests."""
    engine = start_engine(workers=2)
    body = b'{"workflow_id": "test-workflow-0", "input_data": {"value": 1}}'
    head = (
        b"POST /api/v1/judgments/execute HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test-token\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    slow = [await asyncio.open_connection("127.0.0.1", engine.listening_port) for _ in range(8)]
    idle = [await asyncio.open_connection("127.0.0.1", engine.listening_port) for _ in range(8)]
    for _, writer in slow:
        writer.write(head + body[:10])
    for reader, writer in idle:
        writer.write(head + body)
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    engine.signal(signal.SIGHUP)
    closed = [asyncio.create_task(reader.read()) for reader, _ in idle]
    await asyncio.wait(closed, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    for reader, writer in slow:
        writer.write(body[10:])
        assert b"200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    await asyncio.wait(closed, timeout=60)
    await until(lambda: "all workers are replaced" in engine.log, "they are replaced", 60)
    for _, writer in slow + idle:
        writer.close()
    assert engine.terminate() == 0


async def test_a_worker_that_hangs_is_replaced(start_engine: Callable[..., Engine]) -> None:
    quick = "import judgify_engine.child as child; child.PING_S, child.PONG_TIMEOUT_S = 0.2, 3.0"
    engine = start_engine(workers=2, prelude=quick)
    async with loaded(engine):
        pid = engine.worker_pids()[0]
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: engine.worker_pids()[0] != pid, "another one is in its place", 30)
    assert engine.terminate() == 0


async def test_what_is_found_in_the_current_folder_is_not_run(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(workers=2, start=False)
    for name in ("token.py", "queue.py", "judgify_engine.py"):
        (engine.folder / name).write_text("raise SystemExit('not ours')")
    engine.prelude = "import sys; sys.path.remove('')"
    engine.start()
    assert engine.terminate() == 0


async def test_a_dead_worker_is_shown_as_down(start_engine: Callable[..., Engine]) -> None:
    """While it is not started again, so long that its sockets are closed and the other one serves all."""
    engine = start_engine(workers=2, prelude="import judgify_engine.supervisor as s; s.SHORTEST_PAUSE_S = 15")
    os.kill(engine.worker_pids()[0], signal.SIGTERM)

    async def shown() -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            async with Client(engine.url, "test-token") as client:
                return await figures(client, "judgify_worker_up") == {"0": 0, "1": 1}
        return False

    await until(shown, "it is shown as down", 12)
    assert engine.terminate() == 0


async def test_a_worker_that_does_not_come_to_its_end_takes_nobody_with_it(start_engine: Callable[..., Engine]) -> None:
    slow = "import judgify_engine.child as c; c.PING_S, c.PONG_TIMEOUT_S = 0.2, 1.0"
    slow += "; c._BOOT = 'import atexit, time; atexit.register(time.sleep, 60)\\n' + c._BOOT"
    engine = start_engine(workers=2, prelude=slow, settings={"JUDGIFY_HTTP_DRAIN_TIMEOUT_S": "2"})
    first, second = engine.worker_pids()[0], engine.worker_pids()[1]
    os.kill(first, signal.SIGTERM)
    await until(lambda: engine.worker_pids()[0] != first, "there is another one", 30)
    assert "does not react" in engine.log
    assert living(second)
    assert engine.worker_pids()[1] == second
    engine.signal(signal.SIGTERM)
    assert await asyncio.to_thread(engine.wait, 60) == 0
    engine.check_log()


async def test_a_hangup_during_the_start_ends_nothing(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(workers=2, start=False)
    engine.launch()
    await until(lambda: "migration applied" in engine.log, "it starts", 60)
    engine.signal(signal.SIGHUP)
    await until(lambda: "ready:" in engine.output or "Open" in engine.output, "it serves", 60)
    await until(lambda: "all workers are replaced" in engine.log, "they are replaced", 60)
    assert engine.terminate() == 0


async def test_settings_that_are_wrong_replace_nobody(start_engine: Callable[..., Engine]) -> None:
    profile = "[seed]\ntoken = 'test-token'\nworkflows = 1\n"
    engine = start_engine(workers=2, start=False)
    path = engine.folder / "own.toml"
    path.write_text(profile)
    engine.profile = str(path)
    engine.start()
    before = engine.worker_pids()
    path.write_text(profile + "[http]\nmax_requests = -1\n")
    engine.signal(signal.SIGHUP)
    await until(lambda: "the settings are not taken over" in engine.log, "it says so")
    assert "max_requests" in engine.log
    assert engine.worker_pids() == before
    path.write_text(profile + "[http]\nmax_body_bytes = 1024\n")
    engine.signal(signal.SIGHUP)
    await until(lambda: "all workers are replaced" in engine.log, "they are replaced", 60)
    async with Client(engine.url, "test-token") as client:
        assert (await client.execute({"value": "x" * 2000}, WORKFLOW)).status == 413
    assert engine.terminate() == 0


async def test_workers_end_with_their_supervisor(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(workers=2)
    pids = engine.worker_pids().values()
    engine.kill()
    await until(lambda: not any(living(pid) for pid in pids), "none is left", 40)
    engine.start()
    assert engine.terminate() == 0


def test_a_taken_port_is_told_at_once(start_engine: Callable[..., Engine]) -> None:
    """Also one that another supervisor shares among its workers."""
    engine = start_engine(workers=2)
    second = start_engine(workers=2, port=engine.listening_port, start=False)
    second.launch()
    assert second.wait(60) == 1
    assert f"cannot listen on 127.0.0.1:{engine.listening_port}" in second.log
    assert processes_of(second.data_dir) == []
    assert engine.terminate() == 0


def test_workers_that_cannot_start_end_it_with_their_reason(start_engine: Callable[..., Engine]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        engine = start_engine(workers=2, start=False, prelude="import sys; sys.executable = '/bin/false'")
        engine.launch()
        assert engine.wait(60) == 1
    assert "ended with code 1 before it served" in engine.log
    assert processes_of(engine.data_dir) == []


@pytest.mark.parametrize("moment", ["a worker serves", "migration applied"])
async def test_ctrl_c_while_workers_start(start_engine: Callable[..., Engine], moment: str) -> None:
    engine = start_engine(workers=2, start=False)
    engine.launch()
    await until(lambda: moment in engine.log, "it starts", 60)
    engine.signal(signal.SIGINT)
    assert await asyncio.to_thread(engine.wait, 60) == 0
    engine.check_log()
    assert processes_of(engine.data_dir) == []
