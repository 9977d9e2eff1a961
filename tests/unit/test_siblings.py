"""The figures of all workers in one answer, and what is left of those that died."""

import os
from pathlib import Path

from judgify_engine.observe.metrics import Metrics
from judgify_engine.observe.siblings import Siblings


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_the_socket_of_a_worker_that_was_killed_goes_when_the_next_one_serves(tmp_path: Path) -> None:
    for name in ("0-1.sock", "1-1.sock", "10-1.sock"):
        (tmp_path / name).touch()
    siblings = Siblings(tmp_path, 1, 2, Metrics())
    await siblings.serve()
    assert names(tmp_path) == {"0-1.sock", f"1-{os.getpid()}.sock", "10-1.sock"}
    siblings.leave()
    assert names(tmp_path) == {"0-1.sock", "10-1.sock"}


async def test_each_gives_the_figures_of_all_that_answer(tmp_path: Path) -> None:
    both = [Siblings(tmp_path / "both", number, 3, Metrics()) for number in (0, 1)]
    await both[0].serve()
    both[1]._path = tmp_path / "both" / "1-2.sock"  # a process of its own has another id
    await both[1].serve()
    figures = (await both[0].figures()).decode()
    for number, up in (("0", 1.0), ("1", 1.0), ("2", 0.0)):
        assert f'judgify_worker_up{{worker="{number}"}} {up}' in figures
        assert (f'judgify_stage_duration_seconds_count{{stage="commit",worker="{number}"}} 0.0' in figures) == (up > 0)
    for one in both:
        one.leave()
