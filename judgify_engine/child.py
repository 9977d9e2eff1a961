"""One worker process, as its supervisor sees it: started, told what to do, waited for."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from judgify_engine import control
from judgify_engine.errors import StartupError

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
STEADY_S = 2.0
"""A worker that died sooner than this after its start will probably do so again: wait before the next one."""
PING_S, PONG_TIMEOUT_S = 5.0, 20.0
"""How often a worker is asked whether its event loop turns, and how long it may take to answer before it is killed."""
# The package that we run, before others of its name, and nothing of the folder that we happen to be in.
_BOOT = """
import sys
parent = sys.argv.pop(1)
places = [at for at, path in enumerate(sys.path) if path.endswith(("site-packages", "dist-packages"))]
sys.path.insert(min(places, default=len(sys.path)), parent)
from judgify_engine.__main__ import main
main()
"""
_PARENT = str(Path(__file__).resolve().parent.parent)


class Hooks:
    """What a supervisor wants to hear of its workers, and their taking turns to listen."""

    def __init__(self, asked_for: Callable[[int], None]) -> None:
        """`asked_for`: a worker asks for so many."""
        self.asked_for = asked_for
        self.turn = asyncio.Lock()


class Child:
    """One worker process and the line to it."""

    def __init__(self, process: asyncio.subprocess.Process, line: control.Line, hooks: Hooks) -> None:
        self._process, self._line, self._hooks = process, line, hooks
        self._ready_s: float | None = None
        self._pong, self._deaf = asyncio.Event(), asyncio.Event()
        self._hearing: asyncio.Task[None] | None = None
        self.exit = asyncio.create_task(process.wait(), name="worker-exit")
        """Done when the process has ended; the exit code."""

    @classmethod
    async def start(cls, orders: control.Orders, hooks: Hooks, listens: Callable[[], None]) -> "Child":
        """Start the process and wait until it serves. Raises StartupError; then nothing of it is left.

        `listens`: called when it may have begun to listen, in the order in which workers do.
        """
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:  # no file descriptors left
            raise StartupError(f"worker {orders.number} cannot be started: {error}") from error
        line = await control.Line.open(ours)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-c", _BOOT, _PARENT, "worker", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *orders.sockets),
                start_new_session=True,  # Ctrl-C in the terminal is ours to hand on
            )
        except OSError as error:
            line.close()
            raise StartupError(f"worker {orders.number} cannot be started: {error}") from error
        finally:
            theirs.close()
        child = cls(process, line, hooks)
        try:
            await child._become_ready(orders, listens)
        except BaseException:
            await child.kill()
            raise
        return child

    async def _become_ready(self, orders: control.Orders, listens: Callable[[], None]) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._line.say(control.encode(orders))
                heard = await self._line.hear()
                if heard == control.BOUND:
                    async with self._hooks.turn:
                        try:
                            await self._line.say(control.LISTEN)
                            heard = await self._line.hear()
                        finally:
                            listens()
                if heard != control.READY:
                    raise StartupError(f"worker {orders.number} ended with code {await self.exit} before it served")
        except TimeoutError:
            raise StartupError(f"worker {orders.number} did not serve within {START_TIMEOUT_S:.0f} s") from None
        self._ready_s = asyncio.get_running_loop().time()
        self._hearing = asyncio.create_task(self._hear(), name="worker-hear")

    async def _hear(self) -> None:
        """What it says, to its end."""
        while line := await self._line.hear():
            if line == control.PONG:
                self._pong.set()
            elif line == control.DEAF:
                self._deaf.set()
            elif (size := control.asked_for(line)) is not None:
                self._hooks.asked_for(size)
        self._line.close()

    def tell_size(self, size: int, sharing: int) -> None:
        """How many workers there are; see control.py."""
        self._line.tell(control.tell_size(size, sharing))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def was_steady(self) -> bool:
        return self._ready_s is not None and asyncio.get_running_loop().time() - self._ready_s >= STEADY_S

    async def watch(self) -> None:
        """Wait for its end. One whose event loop does not turn, or whose end does not come, is killed."""
        while not self.exit.done():
            await asyncio.wait((self.exit,), timeout=PING_S)
            if not (self.exit.done() or await self._reacts() or self.exit.done()):
                log.error("a worker does not react and is killed", extra={"pid": self.pid})
                await self.kill()

    async def _reacts(self) -> bool:
        assert self._hearing is not None
        self._pong.clear()
        await self._line.say(control.PING)
        answer = asyncio.create_task(self._pong.wait(), name="worker-pong")
        try:
            waits = (self.exit, self._hearing, answer)
            await asyncio.wait(waits, timeout=PONG_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and self._hearing.done():  # it has closed its side, so it is about to end
                await asyncio.wait((self.exit,), timeout=PONG_TIMEOUT_S)
            return answer.done()
        finally:
            answer.cancel()

    async def stop_listening(self, within_s: float) -> None:
        """Have it retire, and wait until it accepts no connections any more, or is at its end."""
        await self._line.say(control.RETIRE)
        deaf = asyncio.create_task(self._deaf.wait(), name="worker-deaf")
        try:
            await asyncio.wait((self.exit, deaf), timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            deaf.cancel()

    async def retire(self, within_s: float) -> None:
        """Have it end when its clients have gone elsewhere."""
        await self._line.say(control.RETIRE)
        await self._end(within_s)

    async def stop(self, within_s: float) -> None:
        """Have it answer what it accepted, and end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        await self._end(within_s)

    async def _end(self, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s):
                await asyncio.shield(self.exit)
        except TimeoutError:
            log.error("a worker did not end in time and is killed", extra={"pid": self.pid})
            await self.kill()
        self._close()

    async def kill(self) -> None:
        """Now, and wait for it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await asyncio.shield(self.exit)
        self._close()

    def _close(self) -> None:
        self._line.close()
        if self._hearing is not None:
            self._hearing.cancel()
