"""The loops beside the judging: whatever fails in them, they go on, and nothing of it reaches the engine's TaskGroup."""

import asyncio
from typing import Any

import pytest

from judgify_engine.config import ReconcileConfig
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.reconcile_loop import ReconcileLoop
from judgify_engine.pipeline.repair_loop import RepairLoop


class Failing:
    """Books, and requests for repairs, that fail twice with what nobody foresaw; then they end the test."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop, self.calls = stop, 0

    async def _fail(self) -> Any:
        self.calls += 1
        if self.calls > 2:
            self._stop.set()
        raise ValueError("not foreseen")

    verified_through_s = next = _fail


async def test_the_comparison_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    stop = asyncio.Event()
    books: Any = Failing(stop)
    loop = ReconcileLoop(books, lambda: True, ReconcileConfig(interval_s=0.001), Metrics())
    await asyncio.wait_for(loop.run(stop), 10)
    assert books.calls == 3
    assert "comparing failed and is tried again" in caplog.text


async def test_repairs_go_on(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("judgify_engine.pipeline.repair_loop.LOOK_S", 0.001)
    stop = asyncio.Event()
    repairs: Any = Failing(stop)
    changes: Any = object()
    await asyncio.wait_for(RepairLoop(repairs, lambda: changes, lambda start_s, end_s: None).run(stop), 10)
    assert repairs.calls == 3
    assert "serving a repair failed and is tried again" in caplog.text
