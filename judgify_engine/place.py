"""A worker's place: what stays there while processes come and go (see supervisor)."""

import asyncio
import socket

from judgify_engine.child import Child


class Place:
    """One of the workers, whichever process it is just now, and the sockets that outlive it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.child: Child | None = None
        self.sockets: list[socket.socket] = []
        self.changing = asyncio.Lock()
        """Held by whoever starts a process for this place."""
        self.changed = asyncio.Event()
        """Another process is here than before."""
        self.pause_s = 0.0
        self.keeper: asyncio.Task[None] | None = None
        """Sees that a process is here."""

    @property
    def listens(self) -> bool:
        """Whether the kernel gives connections to its sockets."""
        return any(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for one in self.sockets)

    def close(self) -> None:
        """Take no more connections."""
        for one in self.sockets:
            one.close()
        self.sockets = []

    async def ended(self, child: Child) -> bool:
        """Wait for the process's end (True), or for another one in its place."""
        watching = asyncio.create_task(child.watch(), name="worker-watch")
        changing = asyncio.create_task(self.changed.wait(), name="worker-changed")
        try:
            await asyncio.wait((watching, changing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            watching.cancel()
            changing.cancel()
        return child.exit.done()
