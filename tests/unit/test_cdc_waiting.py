"""Ending tasks whose cancellation may get lost: nothing that they use is given back before they have ended."""

import asyncio
from contextlib import suppress

import pytest

from judgify_engine.cdc import waiting
from judgify_engine.cdc.waiting import ended


async def deaf(times: int) -> None:
    """Loses so many cancellations."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if not times:
                raise
            times -= 1


async def test_a_lost_cancellation_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "CANCEL_AGAIN_S", 0.001)
    tasks = [asyncio.create_task(deaf(times)) for times in (0, 3)]
    await asyncio.sleep(0)
    await ended(tasks)
    assert all(task.cancelled() for task in tasks)


async def test_who_waits_is_cancelled_only_when_they_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "CANCEL_AGAIN_S", 0.001)
    task = asyncio.create_task(deaf(20))
    await asyncio.sleep(0)
    ending = asyncio.create_task(ended([task]))
    await asyncio.sleep(0)
    for _ in range(3):
        ending.cancel()
        await asyncio.sleep(0)
    assert not ending.done()
    with suppress(asyncio.CancelledError):
        await ending
    assert ending.cancelled()
    assert task.cancelled()


async def test_what_they_raise_on_the_way_out_is_heard() -> None:
    async def fails() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            raise ValueError("on the way out")

    task = asyncio.create_task(fails())
    await asyncio.sleep(0)
    await ended([task])
    assert isinstance(task.exception(), ValueError)
