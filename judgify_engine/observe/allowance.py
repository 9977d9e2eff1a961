"""How much of its machine this process may use, and how much of the memory is taken.

In a container, or under systemd, that is what the control groups say (version 2 or 1): the tightest of those that it is in.
Where these set no limit it is the machine's. Memory is counted for the whole group, not for this process alone, because that is
what the kernel counts before it kills; files that are only cached are not counted.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
UNLIMITED = 1 << 60
"""Version 1 says "no limit" by a very large number."""


def machine_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Allowance:
    """What is granted; the groups are looked up once, their figures each time."""

    def __init__(self, root: Path = ROOT, own: Path = OWN) -> None:
        """`root`: where control groups are mounted; `own`: the file that names ours."""
        self._groups = list(_groups(root, own))

    def memory(self) -> float:
        """The share of the memory that is taken, 0 to 1."""
        shares = [used / limit for used, limit in map(_memory, self._groups) if 0 < limit < UNLIMITED]
        machine = psutil.virtual_memory()
        return min(1.0, max(shares, default=1 - machine.available / machine.total))

    def cores(self, processes: int) -> float:
        """What each of so many alike processes may use at once: one core, or less."""
        quotas = [quota for quota in map(_quota, self._groups) if quota]
        return min(1.0, min([machine_cores(), *quotas]) / processes)


def _groups(root: Path, own: Path) -> Iterator[Path]:
    """The folders of the groups that this process is in, and of those around them."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base = root if (root / "cgroup.controllers").exists() else root / "unified"
        elif {"memory", "cpu"} & set(controllers.split(",")):
            base = root / controllers
        else:
            continue
        inner = base / path.lstrip("/")
        if not inner.is_dir():  # in a container: the file names the path outside, but ours is mounted as the root
            inner = base
        while inner.is_relative_to(base):
            yield inner
            inner = inner.parent


def _memory(group: Path) -> tuple[int, int]:
    """Bytes that are taken and cannot be had back at once, and their limit; a limit of 0: none."""
    for current, limit, inactive in (
        ("memory.current", "memory.max", "inactive_file"),
        ("memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):  # not of this version, or "max"
            most, used = int((group / limit).read_text()), int((group / current).read_text())
            cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            return max(0, used - int(cached.get(inactive, 0))), most
    return 0, 0


def _quota(group: Path) -> float:
    """Cores that the group may use at once; 0: as many as there are."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota_us, period_us = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return max(0, quota_us) / period_us
    return 0.0
