"""What a delta means for one tenant, and the chain that shows whether one was missed. Pure.

The rollups move from position to position by deltas. A tenant's portions say the same of its figures alone, each with the
position of the one before (`after`), so whoever got some of them knows whether all are there, in whatever order and however
often they come: a state at position P passes over what ends at P or before, takes what begins at P or before, and has missed
something when one begins after P. That holds because every position is one where a delta ended: none lies within another one.

A chain ends when the rollups change otherwise than by a delta, or when another process goes on with it: its `epoch` is over
then, and states are read anew.
"""

from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from judgify_engine.core.rollup import Delta, Details, ResultCount, SecondSums
from judgify_engine.units import START, Position

REMEMBERED = 50_000
"""Tenants whose last portion is remembered; of others it is known that they had none after a certain position."""
LISTED = 1000
LISTED_S = 10.0
"""A beat lists the tenants which had a portion within so many seconds, this many at most."""


class Portion(msgspec.Struct, array_like=True, frozen=True):
    """All that changed for one tenant after the position `after`, up to `position`. Without figures: nothing changed."""

    epoch: int
    after: Position
    position: Position
    sums: list[SecondSums] = []
    results: list[ResultCount] = []
    details: Details | None = None
    """None, where something changed: an older version of this program told it."""


class Beat(msgspec.Struct, array_like=True, frozen=True, tag="beat"):
    """How far a chain has come, told a few times a second: so it shows, too, when a tenant's last portion was lost."""

    origin: str
    """Whose rollups these are: the database server and the slot."""
    sender: str
    epoch: int
    position: Position
    since: Position
    """Tenants that are not listed had no portion after it."""
    lasts: dict[str, Position]
    """Tenant to the position of its last portion."""
    verified_through_s: int | None = None

    def after(self, tenant_id: str) -> Position:
        """Up to where a state of a tenant must be, at least, to have missed nothing."""
        return self.lasts.get(tenant_id, self.since)

    def tells_of(self, tenant_id: str) -> bool:
        """Whether a state of a tenant that is not as far as `after` has missed something: not, where the list is cut short."""
        return tenant_id in self.lasts or len(self.lasts) < LISTED

    def portion(self, tenant_id: str) -> Portion:
        """What this says of one tenant."""
        return Portion(self.epoch, self.after(tenant_id), self.position)


class Chain:
    """Links the portions of deltas, from `position` on. Bounded, however many tenants there are."""

    def __init__(self, epoch: int, position: Position = START) -> None:
        self.epoch, self.position = epoch, position
        self._floor = position
        """Tenants of which nothing is remembered had no portion after it."""
        self._lasts: OrderedDict[str, tuple[Position, float]] = OrderedDict()
        """By tenant: its last portion and when that was; those that come first were longest without one."""

    def link(self, delta: Delta, now_s: float) -> Iterator[tuple[str, Portion]]:
        """The portions of the next delta by tenant, which was not truncated. To be taken to the end."""
        self.position = delta.position
        for tenant_id, share in delta.shares.items():
            last = self._lasts.get(tenant_id)
            self._lasts[tenant_id] = (delta.position, now_s)
            self._lasts.move_to_end(tenant_id)
            yield tenant_id, Portion(self.epoch, last[0] if last else self._floor, delta.position, *share)
        while len(self._lasts) > REMEMBERED:
            self._floor = max(self._floor, self._lasts.popitem(last=False)[1][0])

    def beat(self, origin: str, sender: str, now_s: float, verified_through_s: int | None) -> Beat:
        """How far it has come."""
        lasts: dict[str, Position] = {}
        since = self._floor
        for tenant_id in reversed(self._lasts):
            last, at_s = self._lasts[tenant_id]
            if now_s - at_s > LISTED_S or len(lasts) >= LISTED:
                since = max(since, last)  # the newest of those that are not listed
                break
            lasts[tenant_id] = last
        return Beat(origin, sender, self.epoch, self.position, since, lasts, verified_through_s)
