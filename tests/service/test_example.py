"""The example of a consumer of users' own: killed and started again, it has handled every judgment."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.client import new_tenant
from support.cluster import Database
from support.engine import ROOT, Engine
from support.redis_server import RedisServer
from support.waiting import until


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path / "redis").start()
    yield made
    made.kill()


@pytest.fixture
def start_consumer(tmp_path: Path, redis: RedisServer) -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:
    """Start consumers of one group, which take over from each other after half a second."""
    started = []

    def start() -> "subprocess.Popen[bytes]":
        command = [sys.executable, ROOT / "examples" / "consumer.py", redis.url, "example", tmp_path / "kept.db", "500"]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def kept(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    database = sqlite3.connect(path, timeout=10)
    try:
        return dict(database.execute("SELECT key, verdict FROM verdicts").fetchall())
    except sqlite3.OperationalError:  # it has no table yet
        return {}
    finally:
        database.close()


async def test_every_judgment_is_handled_whoever_is_killed(
    database: Database, start_engine: Callable[..., Engine], redis: RedisServer, tmp_path: Path,
    start_consumer: Callable[[], "subprocess.Popen[bytes]"],
) -> None:  # fmt: skip
    engine = start_engine(database, settings={"JUDGIFY_REDIS_URL": redis.url})
    path = tmp_path / "kept.db"
    async with new_tenant(engine.url, database) as client:
        first = start_consumer()
        made = {answer["judgment_id"] for answer in await asyncio.gather(*[client.judge(value=10.0) for _ in range(300)])}
        await until(lambda: len(kept(path)) > 5, "some are handled")
        first.kill()
        first.wait(10)
        made |= {(await client.judge(value=70.0))["judgment_id"]}
        second, third = start_consumer(), start_consumer()
        await until(lambda: len(kept(path)) >= 301, "all are handled", 30)
        assert kept(path).keys() == made
        assert sorted(kept(path).values()) == ["inspect"] * 300 + ["ok"]
        # A change of a row follows on it.
        await database.do("DELETE FROM judgment_executions WHERE final_result->>'verdict' = 'ok'")
        await until(lambda: None in kept(path).values(), "the deletion is handled")
        with redis.client() as server:
            await until(lambda: not any(_pending(server)), "all is acknowledged")
            # What was in Redis is gone, the groups too.
            server.flushall()
            made.add((await client.judge(value=10.0))["judgment_id"])
            await until(lambda: kept(path).keys() == made, "it goes on after that", 30)
    for process in (second, third):
        process.terminate()
        assert await asyncio.to_thread(process.wait, 10) == 0


def _pending(server) -> list[int]:  # type: ignore[no-untyped-def]
    return [group["pending"] for number in range(8) for group in server.xinfo_groups(f"judgify-stream-{number}")]
