"""A receiver of webhooks: answers each path as the test says, and remembers what came."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from aiohttp import web
from standardwebhooks import Webhook


class Call(NamedTuple):
    """What came."""

    path: str
    headers: dict[str, str]
    body: bytes
    at_s: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def check(self, secret: str) -> Any:
        """Verify the signature with the library; return the event."""
        return Webhook(secret).verify(self.body, self.headers)


class Receiver:
    """Answers 200, unless `answers` has something for the path: statuses, `hang`, or handlers, in turn, the last for ever."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.answers: dict[str, list[Any]] = {}
        self.hanging = asyncio.Event()
        """Set to let go what hangs."""
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.calls.append(Call(request.path, headers, await request.read(), time.monotonic()))
        planned = self.answers.get(request.path, [200])
        answer = planned.pop(0) if len(planned) > 1 else planned[0]
        if answer == "hang":
            await self.hanging.wait()
            return web.Response(status=200)
        if callable(answer):
            made: web.StreamResponse = await answer(request)
            return made
        return web.Response(status=answer, text=f"status {answer}")

    def of(self, path: str) -> list[Call]:
        return [call for call in self.calls if call.path == path]


@contextlib.asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """One that listens on 127.0.0.1."""
    made = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        made.hanging.set()
        await runner.cleanup()
