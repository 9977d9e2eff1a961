"""The command `judgify-engine`. Signals first: Ctrl-C is a clean end also while modules are still being imported."""

import os
import signal
import sys
from types import FrameType


def _leave(signum: int, frame: FrameType | None) -> None:
    os._exit(0)  # nothing has begun yet


def main() -> None:
    """Run the command line and exit with its code."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _leave)  # also where a shell's `&` had it ignored: whoever sends it means us
    from judgify_engine.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
