"""The embedded Redis of several workers: there when they are, its data kept, gone with them, never shared."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from redis import Redis
from support.cluster import Database
from support.ears import Ear
from support.engine import Engine, processes_of, run
from support.waiting import until, until_now

from judgify_engine.config import RedisConfig
from judgify_engine.errors import StartupError
from judgify_engine.streams import embedded
from judgify_engine.streams.embedded import EmbeddedRedis, runs, url_of
from judgify_engine.streams.redis import RedisStreams
from judgify_engine.units import MIB


def client_of(data_dir: Path) -> Redis:
    return Redis.from_url(url_of(data_dir), socket_timeout=5)


def redis_processes(data_dir: Path) -> list[psutil.Process]:
    return [process for process in processes_of(data_dir) if process.name().startswith("redis-server")]


def test_data_is_kept_between_runs_and_nothing_listens_on_a_port(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    for times in range(3):
        server = EmbeddedRedis(data_dir, 64 * MIB)
        server.start()
        try:
            with client_of(data_dir) as client:
                assert client.incr("runs") == times + 1
                facts = client.info()
            assert facts["maxmemory"] == int(1.25 * 64 * MIB) + 256 * MIB
            assert (facts["maxmemory_policy"], facts["aof_enabled"], facts["tcp_port"]) == ("noeviction", 1, 0)
        finally:
            server.stop()
        assert not runs(data_dir)
        assert redis_processes(data_dir) == []


def test_a_second_one_on_the_directory_is_refused(tmp_path: Path) -> None:
    first = EmbeddedRedis(tmp_path, 64 * MIB)
    first.start()
    try:
        with pytest.raises(StartupError, match="JUDGIFY_REDIS_URL"):
            EmbeddedRedis(tmp_path, 64 * MIB).start()
        assert runs(tmp_path)
    finally:
        first.stop()


def test_one_that_is_killed_is_started_again_with_its_data(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path, 64 * MIB)
    server.start()
    try:
        with client_of(tmp_path) as client:
            client.set("key", "value")
            until_now(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0, "it is handed to the system")
        (process,) = redis_processes(tmp_path)
        process.kill()
        until_now(lambda: server.poll() and runs(tmp_path), "it runs again", 20)
        with client_of(tmp_path) as client:
            assert client.get("key") == b"value"
    finally:
        server.stop()


def test_what_a_killed_run_left_is_stopped_first(tmp_path: Path) -> None:
    first = EmbeddedRedis(tmp_path, 64 * MIB)
    first.start()
    (left,) = redis_processes(tmp_path)
    assert first._lock_fd is not None
    os.close(first._lock_fd)  # as the kernel does when a process dies
    first._lock_fd = None
    second = EmbeddedRedis(tmp_path, 64 * MIB)
    try:
        second.start()
        assert left.pid not in [process.pid for process in redis_processes(tmp_path)]
        assert len(redis_processes(tmp_path)) == 1
    finally:
        second.stop()
        first.stop()


def test_a_long_path_works(tmp_path: Path) -> None:
    data_dir = tmp_path / ("a-rather-long-name-of-a-folder-" * 5) / "with % and ?"
    server = EmbeddedRedis(data_dir, 64 * MIB)
    try:
        server.start()
        with client_of(data_dir) as client:
            assert client.ping()
    finally:
        server.stop()


async def test_streams_are_reached_whatever_the_path_is_called(tmp_path: Path) -> None:
    server = EmbeddedRedis(tmp_path / "50 % of #1?", 64 * MIB)
    ear = Ear()
    try:
        streams = RedisStreams(RedisConfig(url=server.start()))
        listener = streams.listen(ear.hear, ear.interrupted)
        await listener.watch(["channel"])
        await streams.send([("channel", b"message")])
        await until(lambda: ear.heard == [("channel", b"message")], "it is heard")
        assert await streams.warnings() == []
        await listener.close()
        await streams.close()
    finally:
        server.stop()


def test_why_it_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(embedded.SETTINGS, "maxmemory-policy", "sometimes")
    with pytest.raises(StartupError, match="maxmemory-policy"):
        EmbeddedRedis(tmp_path, 64 * MIB).start()


def test_workers_bring_one_and_take_it_along(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(workers=2)
    with client_of(engine.data_dir) as client:
        assert client.ping()
    told = run("status", "--url", engine.url, "--data-dir", engine.data_dir)
    assert f"streams   {url_of(engine.data_dir)}" in told.stdout
    assert " MiB" in told.stdout
    os.kill(redis_processes(engine.data_dir)[0].pid, signal.SIGKILL)
    until_now(lambda: "redis died" in engine.log, "its death is noticed", 20)
    until_now(lambda: runs(engine.data_dir), "it runs again", 20)
    engine.signal(signal.SIGHUP)
    until_now(lambda: "all workers are replaced" in engine.log, "all are replaced", 60)
    assert "need a new start" not in engine.log
    assert engine.terminate() == 0
    assert processes_of(engine.data_dir) == []


def test_it_goes_when_the_engine_is_killed(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(workers=2)
    assert runs(engine.data_dir)
    engine.kill()
    until_now(lambda: not processes_of(engine.data_dir), "nothing is left", 20)


def test_one_worker_needs_none(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine()
    assert redis_processes(engine.data_dir) == []
    assert not (engine.data_dir / "redis").exists()


def test_with_a_database_of_others_its_bounds_are_told(start_engine: Callable[..., Engine], database: Database) -> None:
    engine = start_engine(database, workers=2)
    assert runs(engine.data_dir)
    warnings = [json.loads(line) for line in engine.log.splitlines() if "JUDGIFY_REDIS_URL" in line]
    assert [warning["level"] for warning in warnings] == ["warning"]
    assert engine.terminate() == 0
    assert processes_of(engine.data_dir) == []
