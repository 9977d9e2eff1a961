"""A process that stands by costs next to nothing: while another one holds the log, it makes no connection to stream."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from judgify_engine.cdc import holder as module
from judgify_engine.cdc.holder import Holder
from judgify_engine.cdc.replication import HOLDER_LOCK
from judgify_engine.config import ChangeConfig
from judgify_engine.core.samples import Windows
from judgify_engine.errors import DatabaseUnavailable
from judgify_engine.observe.metrics import Metrics


class Judgments:
    """A database where somebody has the lock, or nobody."""

    dsn = ""

    def __init__(self, held: bool) -> None:
        self.held, self.asked = held, []  # type: list[tuple[int, int]]

    @asynccontextmanager
    async def query(self) -> AsyncIterator["Judgments"]:
        yield self

    async def fetchval(self, sql: str, high: int, low: int) -> bool:
        self.asked.append((high, low))
        return self.held


def holder(judgments: Judgments) -> Holder:
    database: Any = judgments
    return Holder(database, database, Any, [], ChangeConfig(), Windows(1, 1), Metrics(), lambda healed: None)  # type: ignore[arg-type]


class NoStream:
    """A connection that cannot be made."""

    def __init__(self, dsn: str) -> None:
        self.closed = False

    async def connect(self) -> None:
        raise DatabaseUnavailable("no connection to stream")

    def close(self) -> None:
        self.closed = True


async def test_while_another_holds_the_log_no_connection_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Replication", NoStream)
    judgments = Judgments(held=True)
    await holder(judgments)._session()
    assert judgments.asked == [(HOLDER_LOCK >> 32, HOLDER_LOCK & 0xFFFF_FFFF)]


async def test_when_nobody_holds_it_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Replication", NoStream)
    with pytest.raises(DatabaseUnavailable, match="no connection to stream"):
        await holder(Judgments(held=False))._session()
