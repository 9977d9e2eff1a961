"""What the hub needs of other processes: portions that they tell (live/hearing), snapshots that they read (live/cache)."""

from typing import Protocol

from judgify_engine.core.dashboards import Needs
from judgify_engine.core.portion import Portion
from judgify_engine.core.view import Snapshot, ViewKey
from judgify_engine.units import Position


class Cache(Protocol):
    """Snapshots that processes share; see live/cache."""

    async def get(self, key: ViewKey, needs: Needs) -> Snapshot | None: ...
    async def put(self, key: ViewKey, needs: Needs, epoch: int | None, snapshot: Snapshot) -> None: ...


class Feed(Protocol):
    """Where portions come from in a process that does not read the log; see live/hearing."""

    def follows(self, tenant_id: str) -> bool: ...
    async def ready(self, tenant_id: str) -> None: ...
    def leave(self, tenant_id: str) -> None: ...
    async def missed(self, tenant_id: str, position: Position) -> list[Portion]: ...
    def complete(self, tenant_id: str, position: Position) -> bool: ...
    def through(self, tenant_id: str, position: Position) -> Position: ...
    @property
    def epoch(self) -> int | None: ...
    @property
    def cache(self) -> Cache: ...


class NoFeed:
    """Nothing is told by other processes, nothing shared with them."""

    epoch = None

    @property
    def cache(self) -> "NoFeed":
        return self

    async def get(self, key: ViewKey, needs: Needs) -> Snapshot | None:
        return None

    async def put(self, key: ViewKey, needs: Needs, epoch: int | None, snapshot: Snapshot) -> None:
        pass

    def follows(self, tenant_id: str) -> bool:
        return False

    async def ready(self, tenant_id: str) -> None:
        pass

    def leave(self, tenant_id: str) -> None:
        pass

    async def missed(self, tenant_id: str, position: Position) -> list[Portion]:
        return []

    def complete(self, tenant_id: str, position: Position) -> bool:
        return False

    def through(self, tenant_id: str, position: Position) -> Position:
        return position
