"""Signals that ask for the end, before the event loop takes them: remembered, because an exception may be swallowed.

From just before the loop is made they are only remembered: an exception in the midst of its own code leaves it neither running
nor closed. Whoever is run on it looks, once its own handlers are there.
"""

import signal
import sys
from types import FrameType
from typing import Any

_requested = False
_held = False


def handle() -> None:
    """Take them, until the event loop does."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _interrupt)
    sys.unraisablehook = _unraisable


def hold() -> None:
    """Only remember them from now on."""
    global _held
    _held = True


def requested() -> bool:
    """Whether an end was asked for."""
    return _requested


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Remember, and leave what is under way."""
    global _requested
    _requested = True
    if not _held:
        raise KeyboardInterrupt


def _unraisable(error: Any) -> None:
    """In a finaliser or a fork hook Python prints the exception and goes on. It is remembered: nothing to tell."""
    if not (_requested and issubclass(error.exc_type, KeyboardInterrupt)):
        sys.__unraisablehook__(error)
