"""Stopping: at any moment of start-up or load, nothing accepted is lost and nothing is left running."""

import asyncio
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.client import Client, Load
from support.cluster import Cluster, Database
from support.engine import Engine, processes_of
from support.rollups import check_rollups
from support.waiting import until, until_now

from judgify_engine.store.embedded import dsn_of

WORKFLOW = "test-workflow-0"


async def test_sigterm_under_load_stores_all_that_was_answered(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine()
    async with Load(engine.url, "test-token", workers=64) as load:
        await until(lambda: len(load.answered) > 500, "the load runs", 20)
        engine.signal(signal.SIGTERM)
        assert await asyncio.to_thread(engine.wait) == 0
        await load.stop()
    engine.check_log()
    assert processes_of(engine.data_dir) == []
    engine.start()
    async with Client(engine.url, "test-token") as client:
        stored: dict[int, list[str]] = {}
        cursor = ""
        while cursor is not None:
            page = (await client.get(f"/api/v1/judgments?limit=500{f'&cursor={cursor}' if cursor else ''}")).json
            for item in page["items"]:
                stored.setdefault(item["input_data"]["n"], []).append(item["judgment_id"])
            cursor = page["next_cursor"]
    load.check_rows(stored)
    assert engine.terminate() == 0


async def test_requests_under_way_are_answered_before_the_end(start_engine: Callable[..., Engine]) -> None:
    """A stop while the table is locked waits for the commit; who comes later is turned away."""
    engine = start_engine()
    database = Database(Cluster(dsn_of(engine.data_dir)), "postgres", "judgify_cdc")
    database.dsn = dsn_of(engine.data_dir)
    async with Client(engine.url, "test-token") as client:
        await client.judge(70, WORKFLOW)
        blocker = await database.connect()
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("LOCK TABLE judgment_executions IN ACCESS EXCLUSIVE MODE")
        waiting = [asyncio.create_task(client.execute({"temperature": 70}, WORKFLOW)) for _ in range(20)]

        async def queued() -> bool:
            text = (await client.get("/metrics")).body.decode()
            return "judgify_requests_under_way 20.0" in text

        await until(queued, "they are under way")
        engine.signal(signal.SIGTERM)
        await until(lambda: "stopping" in engine.log, "it stops")
        assert engine.running
        await transaction.rollback()
        await blocker.close()
        answers = await asyncio.gather(*waiting)
        assert {answer.status for answer in answers} == {200}
    assert await asyncio.to_thread(engine.wait) == 0
    engine.check_log()


@pytest.fixture(params=[False, True], ids=["foreground", "background"])
def as_shells_start_it(request: pytest.FixtureRequest) -> Iterator[None]:
    """The `&` of a script has SIGINT ignored in what it starts; whoever sends one nevertheless means it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if request.param else signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def listens(engine: Engine) -> bool:
    """Whether it takes SIGTERM, which comes last of what our first lines do."""
    caught = next(line for line in Path(f"/proc/{engine.pid}/status").read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(sys.platform != "linux", reason="what signals a process takes is asked of /proc")
@pytest.mark.parametrize("fresh", [True, False], ids=["first start", "later start"])
@pytest.mark.usefixtures("as_shells_start_it")
def test_ctrl_c_at_any_moment_of_the_start(start_engine: Callable[..., Engine], fresh: bool) -> None:
    chance = random.Random(f"ctrl-c {fresh}")
    kept = None if fresh else start_engine()
    if kept is not None:
        assert kept.terminate() == 0
    for number in range(7):
        engine = kept or start_engine(start=False)
        engine.launch()
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # which Python itself leaves as it is
            until_now(lambda engine=engine: listens(engine), "it takes signals", 30)
        delay_s = chance.uniform(0.0, 1.5)
        deadline_s = time.monotonic() + delay_s
        while time.monotonic() < deadline_s:
            time.sleep(0.005)
        begun = listens(engine)
        engine.signal(signal.SIGINT if number % 3 else signal.SIGTERM)
        code = engine.wait(30)
        said = f"after {delay_s:.3f} s: exit code {code}\n{engine.log}"
        if begun or code == 0:
            assert (code, "Traceback" in engine.log) == (0, False), said
        else:  # Python had not read the first lines of ours: the signal's own default, or Python's, holds
            assert code in (-signal.SIGINT, -signal.SIGTERM), said
        until_now(lambda engine=engine: not processes_of(engine.data_dir), "no process is left", 10)
    if kept is not None:
        kept.start()
        assert kept.terminate() == 0


def test_ctrl_c_twice_is_still_clean(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine()
    engine.signal(signal.SIGINT)
    engine.signal(signal.SIGINT)
    assert engine.wait(30) == 0
    engine.check_log()
    assert processes_of(engine.data_dir) == []


async def test_stop_with_idle_connections_and_a_half_sent_request(start_engine: Callable[..., Engine]) -> None:
    """Neither keep-alive connections nor a sender that never finishes may hold the stop up for long."""
    engine = start_engine()
    async with Client(engine.url, "test-token") as client:
        await asyncio.gather(*(client.get("/health") for _ in range(20)))
        reader, writer = await asyncio.open_connection("127.0.0.1", engine.listening_port)
        writer.write(
            b"POST /api/v1/judgments/execute HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test-token\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        await writer.drain()

        async def is_read() -> bool:
            return b"judgify_requests_under_way 1.0" in (await client.get("/metrics")).body

        await until(is_read, "its body is waited for")
        began_s = time.monotonic()
        engine.signal(signal.SIGTERM)
        assert await asyncio.to_thread(engine.wait, 20) == 0
        assert time.monotonic() - began_s < 10
        assert b"draining" in await reader.read()
        writer.close()
    assert "Traceback" not in engine.log
    assert "cut off" not in engine.log


async def test_stop_while_a_slot_is_being_made(database: Database, start_engine: Callable[..., Engine]) -> None:
    """PostgreSQL makes a slot when every transaction that writes has ended; the stop does not wait for that."""
    engine = start_engine(database)
    assert engine.terminate() == 0
    await database.do(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", database.slot
    )
    writer = await database.connect()
    transaction = writer.transaction()
    await transaction.start()
    await writer.fetchval("SELECT pg_current_xact_id()")
    engine.start()
    await until(lambda: "making a new slot" in engine.log, "the slot is being made")
    engine.signal(signal.SIGTERM)
    assert await asyncio.to_thread(engine.wait, 15) == 0
    assert "Traceback" not in engine.log
    await transaction.rollback()
    await writer.close()
    engine.start()
    async with Client(engine.url, "test-token") as client:
        await client.judge(70, "test-workflow-0")
    assert await check_rollups(database) == 1
    assert engine.terminate() == 0


def test_a_signal_as_the_event_loop_begins(start_engine: Callable[..., Engine]) -> None:
    """An exception in its own first steps would leave it neither running nor closed."""
    early = """
import os, signal, socket
pair = socket.socketpair
def signalled(*arguments):
    made = pair(*arguments)
    os.kill(os.getpid(), signal.SIGINT)
    return made
socket.socketpair = signalled"""
    engine = start_engine(start=False, prelude=early).launch()
    assert engine.wait(60) == 0
    engine.check_log()
    assert "serving" not in engine.log, engine.log


def test_a_signal_that_python_swallows(start_engine: Callable[..., Engine]) -> None:
    """An exception in a fork hook, as in a finaliser, goes nowhere: the signal counts nevertheless, and nothing is printed."""
    swallowed = "import os, signal\nos.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGINT))"
    engine = start_engine(start=False, prelude=swallowed)
    engine.launch()
    assert engine.wait(60) == 0
    assert "Traceback" not in engine.log, engine.log
    assert "listening" not in engine.log, engine.log
