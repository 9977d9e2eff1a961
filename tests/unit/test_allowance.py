"""What a process may use of its machine, as control groups of both versions say it."""

from pathlib import Path

import psutil
import pytest

from judgify_engine.observe.allowance import Allowance, machine_cores

MIB = 1024 * 1024


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def allowance(tmp_path: Path, own: str) -> Allowance:
    (tmp_path / "own").write_text(own)
    return Allowance(tmp_path / "cgroup", tmp_path / "own")


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """The root of version 2, without limits."""
    root = tmp_path / "cgroup"
    group(root, cgroup__controllers="cpu memory")
    return root


def test_version_2_counts_what_cannot_be_had_back(tmp_path: Path, second: Path) -> None:
    group(second / "a", memory__max=100 * MIB, memory__current=80 * MIB, memory__stat=f"anon 1\ninactive_file {30 * MIB}",
          cpu__max="50000 100000")  # fmt: skip
    granted = allowance(tmp_path, "0::/a\n")
    assert granted.memory() == pytest.approx(0.5)
    assert granted.cores(1) == 0.5
    assert granted.cores(2) == 0.25


def test_the_tightest_of_the_groups_around_it_counts(tmp_path: Path, second: Path) -> None:
    group(second / "a", memory__max=100 * MIB, memory__current=90 * MIB, memory__stat="anon 1", cpu__max="100000 100000")
    group(second / "a/b", memory__max="max", memory__current=10 * MIB, memory__stat="anon 1", cpu__max="max 100000")
    granted = allowance(tmp_path, "0::/a/b\n")
    assert granted.memory() == pytest.approx(0.9)
    assert granted.cores(4) == 0.25


def test_in_a_container_ours_is_the_root(tmp_path: Path, second: Path) -> None:
    group(second, memory__max=100 * MIB, memory__current=70 * MIB, memory__stat="anon 1", cpu__max="200000 100000")
    granted = allowance(tmp_path, "0::/kubepods/pod1234\n")
    assert granted.memory() == pytest.approx(0.7)
    assert granted.cores(1) == 1.0


def test_version_1(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    group(root / "memory/x", **{"memory__limit_in_bytes": 100 * MIB, "memory__usage_in_bytes": 60 * MIB,
                                "memory__stat": f"total_inactive_file {20 * MIB}"})  # fmt: skip
    group(root / "cpu/x", **{"cpu__cfs_quota_us": 50000, "cpu__cfs_period_us": 100000})
    granted = allowance(tmp_path, "4:memory:/x\n1:cpu:/x\n9:name=systemd:/\n0::/\n")
    assert granted.memory() == pytest.approx(0.4)
    assert granted.cores(1) == 0.5


@pytest.mark.parametrize("limit", ["9223372036854771712", "max"])
def test_without_a_limit_it_is_the_machines(tmp_path: Path, limit: str) -> None:
    root = tmp_path / "cgroup"
    group(root / "memory/x", **{"memory__limit_in_bytes": limit, "memory__usage_in_bytes": MIB, "memory__stat": "cache 1"})
    group(root / "cpu/x", **{"cpu__cfs_quota_us": -1, "cpu__cfs_period_us": 100000})
    granted, machine = allowance(tmp_path, "4:memory:/x\n1:cpu:/x\n"), psutil.virtual_memory()
    assert granted.memory() == pytest.approx(1 - machine.available / machine.total, abs=0.1)
    assert granted.cores(3 * machine_cores()) == pytest.approx(1 / 3), "more than the machine has cannot be used"


def test_where_there_are_no_groups_it_is_the_machines(tmp_path: Path) -> None:
    granted = Allowance(tmp_path / "none", tmp_path / "nothing")
    assert 0 < granted.memory() < 1
    assert granted.cores(1) == 1.0
