"""PostgreSQL refuses to run as root: whom embedded servers run as there, what that user must reach, how they die with us."""

import ctypes
import logging
import os
import pwd
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from judgify_engine.errors import StartupError

log = logging.getLogger(__name__)

NAME = "nobody"


def user() -> dict[str, Any]:
    """The user, as keywords of `subprocess.Popen`. Raises StartupError."""
    try:
        entry = pwd.getpwnam(NAME)
    except KeyError:
        raise StartupError(f"PostgreSQL refuses to run as root, and there is no user {NAME!r}") from None
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def give(owner: dict[str, Any], *paths: Path) -> None:
    """Make these files its own, where they exist and are not."""
    for path in paths:
        if path.exists() and path.stat().st_uid != owner["user"]:
            os.chown(path, owner["user"], owner["group"])


def let_pass(path: Path) -> None:
    """Add the search bit for others on `path` and the folders above it, and say so where one lacked it."""
    for folder in [path, *path.parents]:
        mode = folder.stat().st_mode
        if folder.is_dir() and not mode & 0o001:
            log.warning("letting the postgres user pass through a folder", extra={"path": str(folder)})
            folder.chmod(mode | 0o001)


def let_read(folder: Path) -> None:
    """Make programs readable; they are, but for wheels that were installed under a strict umask."""
    for path in folder.rglob("*"):
        mode = path.stat().st_mode
        if mode & 0o044 != 0o044:
            path.chmod(mode | 0o044 | (mode & 0o100) >> 6 | (mode & 0o100) >> 3)


def die_with_parent() -> Callable[[], None] | None:
    """A hook for the child that makes the kernel send it SIGINT (fast shutdown) when we die. Linux only."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def hook() -> None:
        libc.prctl(1, signal.SIGINT, 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return hook
