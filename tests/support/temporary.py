"""Where tests keep their files as root: not beside those of other sessions of pytest.

pytest has one folder for all sessions of a user, and shuts it to others whenever one begins. As root, the embedded servers run
as another user: they would not reach their files any more in the midst of the tests of a session that began earlier.
"""

import os
import secrets
import shutil
import tempfile
from pathlib import Path

import psutil

PREFIX = "judgify-tests-"
KEEP = 2
"""Folders of sessions that have ended, to look into."""


def own_folder() -> Path:
    """A name for this session's folder, which pytest makes. Removes those of earlier ones but the last few."""
    parent = Path(tempfile.gettempdir())
    for old in sorted(filter(_is_left, parent.glob(f"{PREFIX}*")), key=_made_s)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return parent / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"


def _is_left(folder: Path) -> bool:
    """Whether the process that made it has ended."""
    pid = folder.name.removeprefix(PREFIX).partition("-")[0]
    return pid.isdecimal() and not psutil.pid_exists(int(pid))


def _made_s(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # another session removes it as well
        return 0.0
