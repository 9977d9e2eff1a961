"""Names of receivers to addresses. A name server that does not answer holds up the tenant who named it, and nobody else.

`getaddrinfo` blocks its thread, for many seconds where nothing answers, and cannot be ended. The threads of the event loop are
few, and what connects to PostgreSQL and Redis needs them, too; so each look-up has a thread of its own. A tenant has an eighth
of them at most, and keeps each until its look-up is really over, whether or not anybody still waits for it.
"""

import asyncio
import contextlib
import socket
import threading
from collections import OrderedDict
from contextvars import ContextVar
from typing import Any
from weakref import WeakValueDictionary

from aiohttp.abc import AbstractResolver, ResolveResult

from judgify_engine.core.addresses import is_public

asking: ContextVar[str] = ContextVar("asking")
"""The tenant whose attempt the running task makes."""
KNOWN, KNOWN_S = 1000, 10.0
"""Names that are remembered, and for how long."""


class AddressRefused(OSError):
    """The address is of a private network, or of this machine."""


def refusal(host: str, address: str) -> AddressRefused:
    return AddressRefused(f"{host} is {address}, which is not public; actions.private_networks would let it be called")


class Names(AbstractResolver):
    """Resolves for the tenant in `asking`. What it gives is what is connected to: nobody asks a second time."""

    def __init__(self, at_once: int, *, only_public: bool) -> None:
        self._only_public = only_public
        self._room = asyncio.Semaphore(at_once)
        self._of_tenant = max(1, at_once // 8)
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._known: OrderedDict[tuple[str, int, int], tuple[float, list[ResolveResult]]] = OrderedDict()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """Raises AddressRefused where a name has no public address, OSError where it has none."""
        key, now_s = (host, port, int(family)), asyncio.get_running_loop().time()
        until_s, found = self._known.get(key, (0.0, []))
        if now_s >= until_s:
            found = [_result(host, port, info) for info in await self._look_up(host, port, family)]
            self._known[key] = now_s + KNOWN_S, found
            self._known.move_to_end(key)
            if len(self._known) > KNOWN:
                self._known.popitem(last=False)
        if not found:
            raise OSError(f"{host} has no address")
        allowed = [one for one in found if not self._only_public or is_public(one["host"])]
        if not allowed:
            raise refusal(host, found[0]["host"])
        return allowed

    async def _look_up(self, host: str, port: int, family: int) -> list[Any]:
        turn = self._turns.setdefault(asking.get(), asyncio.Semaphore(self._of_tenant))
        await turn.acquire()
        try:
            await self._room.acquire()
        except BaseException:
            turn.release()
            raise
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Any]] = loop.create_future()

        def over(found: list[Any], error: OSError | None) -> None:
            turn.release()
            self._room.release()
            if answer.done():  # nobody waits any more
                return
            if error is None:
                answer.set_result(found)
            else:
                answer.set_exception(error)

        def look() -> None:
            found: list[Any] = []
            error: OSError | None = None
            try:
                found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
            except (OSError, UnicodeError) as raised:
                error = OSError(str(raised))
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(over, found, error)

        threading.Thread(target=look, name="look-up", daemon=True).start()
        return await answer

    async def close(self) -> None:
        """Nothing to give back; threads under way end by themselves, and a stop does not wait for them."""


def _result(host: str, port: int, info: Any) -> ResolveResult:
    family, _, proto, _, address = info
    scope = f"%{address[3]}" if family == socket.AF_INET6 and address[3] else ""
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=f"{address[0]}{scope}", port=port, family=family, proto=proto, flags=flags)
