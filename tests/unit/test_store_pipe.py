"""Rows on their way from one session to another, and sessions that are lost meanwhile."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from judgify_engine.errors import DatabaseUnavailable
from judgify_engine.store.pipe import pipe


class Session:
    """One that gives two chunks, and takes any, or breaks as asyncpg does on uvloop."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.breaks = breaks
        self.got: list[bytes] = []
        self.listeners: list[Any] = []

    def is_closed(self) -> bool:
        return self.breaks

    def add_termination_listener(self, listener: Any) -> None:
        self.listeners.append(listener)

    def remove_termination_listener(self, listener: Any) -> None:
        self.listeners.remove(listener)

    async def copy_from_query(self, _sql: str, *, output: Callable[[bytes], Awaitable[None]], **_: Any) -> None:
        for chunk in (b"one", b"two"):
            await output(chunk)

    async def copy_to_table(self, _table: str, *, source: AsyncIterator[bytes], **_: Any) -> None:
        async for chunk in source:
            if self.breaks:
                raise RuntimeError("unable to perform operation on <UnixTransport closed=True>; the handler is closed")
            self.got.append(chunk)


async def test_all_chunks_arrive_in_order() -> None:
    target = Session()
    await pipe(Session(), "SELECT", target, "table")
    assert target.got == [b"one", b"two"]


async def test_a_lost_session_says_so_whatever_the_driver_met() -> None:
    source, target = Session(), Session(breaks=True)
    with pytest.raises(DatabaseUnavailable, match="lost"):
        await pipe(source, "SELECT", target, "table")
    assert source.listeners == target.listeners == []
