"""SIGINT and SIGTERM before the event loop takes them: remembered, because an exception may be raised where it is swallowed."""

from types import FrameType

_requested = False


def interrupt(signum: int, frame: FrameType | None) -> None:
    """The signal handler: remember, and leave what is under way. In a finaliser or a fork hook Python ignores the exception."""
    global _requested
    _requested = True
    raise KeyboardInterrupt


def requested() -> bool:
    """Whether an end was asked for."""
    return _requested
