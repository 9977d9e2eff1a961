"""Ports for the servers that tests start: nobody else is given one, however many tests run at once, until this process ends.

A port that was only looked at is free again: before its server listens on it, or while that is stopped, the kernel may give it
to any connection or server of another process. So each is bound here and stays so. Servers bind it all the same (SO_REUSEADDR),
and connections to it are refused until they listen.
"""

import contextlib
import socket
import sys

_kept = contextlib.ExitStack()


def free_port(*beside: int) -> int:
    """A port of 127.0.0.1 that is ours, and those this much above it as well."""
    while True:
        with contextlib.ExitStack() as taken:
            port = _bind(taken, 0)
            try:
                for above in beside:
                    _bind(taken, port + above)
            except (OSError, OverflowError):  # in use, or out of range
                continue
            if sys.platform == "linux":  # elsewhere a port that is bound is in use
                _kept.enter_context(taken.pop_all())
            return port


def _bind(taken: contextlib.ExitStack, port: int) -> int:
    bound = taken.enter_context(socket.socket())
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return int(bound.getsockname()[1])
