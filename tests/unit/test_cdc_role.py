"""A role that is tried again and again."""

import asyncio

import pytest

from judgify_engine.cdc.role import Role
from judgify_engine.errors import StreamsUnavailable


async def test_a_reason_that_stays_is_told_once_and_a_new_one_at_once(caplog: pytest.LogCaptureFixture) -> None:
    stop, tries = asyncio.Event(), 0

    async def fail() -> None:
        nonlocal tries
        tries += 1
        if tries == 100:
            stop.set()
        raise StreamsUnavailable("full" if tries < 50 else "away")

    await Role("filling", fail, lambda: True, lambda: 0.0, ()).run(stop)
    assert [(getattr(one, "reason", ""), getattr(one, "failures", 0)) for one in caplog.records] == [("full", 1), ("away", 49)]


async def test_whoever_is_cancelled_leaves_no_session_behind() -> None:
    """As when another part of the process fails, where nobody says stop before."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def session() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # it has connections to close
            ended.set()

    let_go: list[bool] = []
    role = Role("filling", session, lambda: let_go.append(ended.is_set()), lambda: 0.0, ())
    running = asyncio.create_task(role.run(asyncio.Event()))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert let_go == [True]
