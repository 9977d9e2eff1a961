"""The hub's bounds: one tenant's dashboards leave room for the others'."""

import pytest

from judgify_engine.config import load
from judgify_engine.core.view import Snapshot, ViewKey
from judgify_engine.errors import Overloaded
from judgify_engine.live import hub as module
from judgify_engine.live.feed import NoFeed
from judgify_engine.live.hub import Hub
from judgify_engine.observe.metrics import Metrics
from judgify_engine.units import Position


class Empty:
    """Rollups without anything."""

    async def snapshot(self, key: ViewKey) -> Snapshot:
        return Snapshot(Position(1, 0), {}, {}, {}, {})


def key(tenant_id: str, number: int) -> ViewKey:
    return ViewKey(tenant_id, f"d{number}", None, "1h")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr(module, "MAX_VIEWS_OF_TENANT", 3)
    monkeypatch.setattr(module, "MAX_VIEWS", 5)
    return Hub(Empty(), lambda: True, load(environ={}).live, Metrics(), NoFeed())


async def test_different_dashboards_of_a_tenant_are_bounded(hub: Hub) -> None:
    clients = [await hub.join(key("acme", number)) for number in range(3)]
    with pytest.raises(Overloaded, match="a tenant may watch 3"):
        await hub.join(key("acme", 3))
    await hub.join(key("acme", 0))  # one more socket on a view that is there
    others = [await hub.join(key("other", number)) for number in range(2)]
    with pytest.raises(Overloaded, match="serves 5 different"):
        await hub.join(key("third", 0))
    assert hub.sockets == 6
    hub.leave(clients.pop())
    await hub.join(key("acme", 3))
    for client in (*clients, *others):
        hub.leave(client)
    assert hub.sockets == 2
