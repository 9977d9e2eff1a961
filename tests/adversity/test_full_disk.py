"""A full disk: judgments are refused, nothing answered is lost, and with room again everything goes on by itself."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.client import Client, Load
from support.engine import Engine
from support.rollups import check_rollups
from support.waiting import until

from .test_kills import database_of, more_answers

SIZE_MIB = 250


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "engine-0" / "data"
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m,mode=0755", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_full_disk(small_disk: Path, start_engine: Callable[..., Engine]) -> None:
    engine = start_engine()
    assert engine.data_dir == small_disk
    database = database_of(engine)
    filler = small_disk / "filler"
    async with Load(engine.url, "test-token", workers=16) as load, Client(engine.url, "test-token") as client:
        await more_answers(load, 100)
        with filler.open("wb") as file:
            while True:
                try:
                    os.write(file.fileno(), b"\0" * 65536)
                except OSError:
                    break

        async def refused() -> bool:
            answer = await client.execute({"temperature": 70, "text": "x" * 200_000}, "test-workflow-0")
            return answer.status == 503 and int(answer.headers["Retry-After"]) >= 1

        await until(refused, "judgments are refused", 60)
        assert (await client.get("/health")).status == 200
        filler.unlink()
        await more_answers(load, 200, 60)
        await load.stop()
        assert (await client.get("/ready")).status == 200
    await load.check(database)
    await check_rollups(database)
    assert engine.terminate() == 0
