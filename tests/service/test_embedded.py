"""The embedded PostgreSQL: alive as long as the engine, its data kept, never left half-made, never shared."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.client import Client
from support.engine import Engine, processes_of, run
from support.waiting import until, until_now

from judgify_engine.store.embedded import EmbeddedPostgres

WORKFLOW = "test-workflow-0"


async def test_data_is_kept_between_runs(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine()
    async with Client(engine.url, "test-token") as client:
        answer = await client.judge(70, WORKFLOW)
    assert engine.terminate() == 0
    assert processes_of(engine.data_dir) == []
    engine.start()
    async with Client(engine.url, "test-token") as client:
        kept = await client.get(f"/api/v1/judgments/{answer['judgment_id']}")
        assert kept.status == 200
        assert kept.json["created_at"] == answer["created_at"]
    assert engine.terminate() == 0
    assert processes_of(engine.data_dir) == []


async def test_second_process_on_the_directory_is_refused_and_harms_nothing(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine()
    second = run("serve", "--port", "0", "--data-dir", engine.data_dir)
    assert second.returncode == 1
    assert second.stdout == ""
    assert "Traceback" not in second.stderr
    for clear in (str(engine.data_dir), str(engine.pid), "--data-dir", "JUDGIFY_DATABASE_URL"):
        assert clear in second.stderr
    async with Client(engine.url, "test-token") as client:
        await client.judge(70, WORKFLOW)
    assert engine.terminate() == 0


async def test_start_after_kill_9(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine()
    async with Client(engine.url, "test-token") as client:
        answer = await client.judge(70, WORKFLOW)
    engine.kill()
    engine.start()
    async with Client(engine.url, "test-token") as client:
        assert (await client.get(f"/api/v1/judgments/{answer['judgment_id']}")).status == 200
        await client.judge(70, WORKFLOW)
    assert engine.terminate() == 0


async def test_kill_9_of_engine_and_postgres_at_once(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine()
    async with Client(engine.url, "test-token") as client:
        answer = await client.judge(70, WORKFLOW)
    postgres = engine.postgres_pid
    engine.process.kill()
    os.kill(postgres, signal.SIGKILL)
    engine.kill()
    engine.start()
    async with Client(engine.url, "test-token") as client:
        assert (await client.get(f"/api/v1/judgments/{answer['judgment_id']}")).status == 200
    assert engine.terminate() == 0


def test_postgres_goes_when_the_engine_is_killed(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine()
    assert processes_of(engine.data_dir)
    engine.kill()
    until_now(lambda: not processes_of(engine.data_dir), "no postgres is left", 20)


@pytest.mark.parametrize("moment", ["postgres.new", "postgres.new/base/1", "postgres"])
async def test_interrupted_initdb_leaves_nothing_half_made(start_engine: Callable[..., Engine], moment: str) -> None:
    """Killed as soon as a certain path exists: at the beginning of initdb, in it, and right after the rename."""
    engine = start_engine(start=False).launch()
    until_now((engine.data_dir / moment).exists, f"{moment} exists", 60)
    engine.kill()
    until_now(lambda: not processes_of(engine.data_dir), "no process is left", 20)
    engine.start()
    async with Client(engine.url, "test-token") as client:
        await client.judge(70, WORKFLOW)
    assert engine.terminate() == 0


async def test_long_path_works(tmp_path: Path) -> None:
    engine = Engine(tmp_path / ("a-rather-long-name-of-a-folder-" * 5) / "and-one-more")
    try:
        engine.start()
        async with Client(engine.url, "test-token") as client:
            await client.judge(70, WORKFLOW)
        listed = run("tokens", "list", "--data-dir", engine.data_dir)
        assert listed.returncode == 0, listed.stderr
        assert engine.terminate() == 0
    finally:
        engine.end()


def test_a_folder_with_other_files_is_not_touched(tmp_path: Path) -> None:
    alien = tmp_path / "data" / "postgres" / "thesis.txt"
    alien.parent.mkdir(parents=True)
    alien.write_text("years of work")
    done = run("serve", "--port", "0", "--data-dir", tmp_path / "data")
    assert done.returncode == 1
    assert "holds files but no PostgreSQL cluster" in done.stderr
    assert alien.read_text() == "years of work"


async def test_postgres_that_dies_is_started_again(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine()
    async with Client(engine.url, "test-token") as client:
        answer = await client.judge(70, WORKFLOW)
        os.kill(engine.postgres_pid, signal.SIGINT)

        async def judged() -> bool:
            return (await client.execute({"temperature": 70}, WORKFLOW)).status == 200

        await until(lambda: "postgres died" in engine.log, "its death is noticed", 20)
        await until(judged, "judgments are stored again", 20)
        assert (await client.get(f"/api/v1/judgments/{answer['judgment_id']}")).status == 200
    assert engine.terminate() == 0


def test_commands_start_postgres_for_a_moment(tmp_path: Path) -> None:
    for arguments in (("tokens", "create", "--tenant", "t"), ("tokens", "list")):
        done = run(*arguments, "--data-dir", tmp_path / "data")
        assert done.returncode == 0, done.stderr
    assert "execute,read" in done.stdout
    assert processes_of(tmp_path / "data") == []


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"JUDGIFY_PORT": "99999"}, "http.port"),
        ({"JUDGIFY_PROT": "1"}, "JUDGIFY_PROT"),
        ({"JUDGIFY_PROFILE": "nowhere"}, "nowhere"),
        ({"JUDGIFY_BATCH_MIN_ROWS": "2000"}, "batch.min_rows"),
        ({"JUDGIFY_QUEUE_MAX_ROWS": "many"}, "queue.max_rows"),
    ],
)
def test_wrong_setting_is_exit_code_2_and_named(tmp_path: Path, settings: dict[str, str], names: str) -> None:
    done = run("serve", "--data-dir", tmp_path / "data", settings=settings)
    assert done.returncode == 2
    assert names in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()


def test_port_in_use_is_exit_code_1(start_engine: Callable[..., Engine], engine: Engine) -> None:
    second = start_engine(start=False, port=engine.listening_port).launch()
    assert second.wait() == 1
    assert "cannot listen on" in second.log
    assert "Traceback" not in second.log
    assert processes_of(second.data_dir) == []


def test_a_restart_that_fails_is_tried_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory, no open files, no room: the engine stays up and answers 503 meanwhile."""
    server = EmbeddedPostgres(tmp_path / "data")
    server.start()
    try:
        launch = server._launch

        def fails() -> None:
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(server, "_launch", fails)
        assert server._process is not None
        server._process.kill()
        server._process.wait()
        assert not server.poll()
        assert server._pause_s > 0
        monkeypatch.setattr(server, "_launch", launch)
        until_now(server.poll, "it runs again", 20)
    finally:
        server.stop()
