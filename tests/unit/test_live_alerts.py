"""Open dashboards hear of each change of an alert once, also when the database fails in the middle of a look."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from judgify_engine.errors import DatabaseUnavailable
from judgify_engine.live.alerts import AlertPush

NOW = datetime(2026, 11, 26, tzinfo=UTC)
ROW: dict[str, Any] = dict.fromkeys(
    ("resolved_at", "resolved_reason", "acknowledged_at", "acknowledged_by", "comment", "silenced_by")
) | {
    "id": UUID(int=1), "tenant_id": "acme", "rule_id": "r", "rule_version": 1, "workflow_id": "", "severity": "info",
    "state": "firing", "summary": "s", "reason": "because", "numbers": "{}", "started_at": NOW, "fired_at": NOW,
    "recorded_at": NOW, "revision": 1,
}  # fmt: skip


class Stored:
    """One alert that changed; `fails`: looks that break in the middle."""

    fails = 1

    async def changed(self, back_s: float, tenants: Any, limit: int) -> list[Any]:
        return [ROW]

    async def firing(self, tenants: Any, limit: int) -> tuple[list[Any], dict[str, int]]:
        if self.fails:
            self.fails -= 1
            raise DatabaseUnavailable("gone")
        return [ROW], {"acme": 1}

    async def deliveries(self, rows: Any) -> list[Any]:
        return []


def test_what_changed_is_told_once_though_a_look_failed() -> None:
    told: list[Any] = []
    outlet = SimpleNamespace(paused=False, send=lambda message: told.append(message))
    push = AlertPush(Stored(), [SimpleNamespace(tenant_id="acme", alerts_due=False, socket=outlet)])  # type: ignore[list-item]
    with pytest.raises(DatabaseUnavailable):
        asyncio.run(push.look())
    for _ in range(3):
        asyncio.run(push.look())
    assert len(told) == 1
