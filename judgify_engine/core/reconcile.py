"""Comparing the table with the rollups: what is compared, and what slice of time comes next. Pure.

Times are Unix seconds. Slices begin and end at whole fine buckets while those are kept, and at whole hours before.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from judgify_engine.core.samples import HOUR_S, LIVE_S

EARLIEST_S = 946_684_800
"""2000-01-01: what the table allows as the earliest `created_at`."""
TARGET_ROWS = 50_000
"""Rows of the table that one slice should read: some 20 ms of PostgreSQL's time."""
SHORTEST_S, LONGEST_S = LIVE_S, 30 * 86_400


class Totals(NamedTuple):
    """What is compared, per tenant and slice."""

    total: int = 0
    completed: int = 0
    execution_time_us: int = 0


class Difference(NamedTuple):
    """A tenant's slice in which table and rollups do not agree."""

    tenant_id: str
    start_s: int
    end_s: int
    stored: Totals
    rolled_up: Totals
    """What the other arm says."""
    arm: str = "rolled_up"
    """Which one that is: `accepted`, `streamed` or `rolled_up`."""


def differences(stored: Mapping[str, Totals], rolled_up: Mapping[str, Totals], start_s: int, end_s: int) -> list[Difference]:
    """Every tenant whose totals differ. A tenant on one side only counts as nothing on the other."""
    nothing = Totals()
    return [
        Difference(tenant, start_s, end_s, stored.get(tenant, nothing), rolled_up.get(tenant, nothing))
        for tenant in sorted(stored.keys() | rolled_up.keys())
        if stored.get(tenant, nothing) != rolled_up.get(tenant, nothing)
    ]


def count_differences(
    stored: Mapping[str, Totals], counts: Mapping[str, Iterable[int | None]], start_s: int, end_s: int
) -> list[Difference]:
    """The same for what only counts. `counts`: by tenant, numbers that must each be the total; None: nothing was counted."""
    found = []
    for tenant in sorted(stored.keys() | counts.keys()):
        totals = stored.get(tenant, Totals())
        wrong = [count or 0 for count in counts.get(tenant, (0,)) if (count or 0) != totals.total]
        if wrong:
            found.append(Difference(tenant, start_s, end_s, totals, Totals(wrong[0])))
    return found


def arm_differences(
    stored: Mapping[str, Totals], arms: Mapping[str, tuple[int, int, int]], start_s: int, end_s: int
) -> list[Difference]:
    """The same for the other arms. `arms`: by tenant, accepted, inserted and deleted as the stream told.

    What was inserted less what was deleted is what is stored; and what was accepted must have come by as inserted.
    """
    found = []
    for tenant in sorted(stored.keys() | arms.keys()):
        accepted, inserted, deleted = arms.get(tenant, (0, 0, 0))
        totals = stored.get(tenant, Totals())
        if inserted - deleted != totals.total:
            found.append(Difference(tenant, start_s, end_s, totals, Totals(inserted - deleted), "streamed"))
        elif accepted > inserted:
            found.append(Difference(tenant, start_s, end_s, totals, Totals(accepted - deleted), "accepted"))
    return found


def slice_end(start_s: int, width_s: int, next_rows_s: int | None, fine_from_s: int, now_s: int) -> int:
    """Where a slice that begins at `start_s` ends: about `width_s` later, never in the middle of a bucket.

    `next_rows_s`: the next hour with rollups (None: there is none); the empty time before it is one slice. `fine_from_s`: since
    when fine buckets are kept. `now_s`: up to where everything may be compared.
    """
    last_s = now_s - now_s % LIVE_S
    unit_s = LIVE_S
    if start_s < fine_from_s:
        last_s, unit_s = min(fine_from_s, last_s - last_s % HOUR_S), HOUR_S
    if next_rows_s is None or next_rows_s >= last_s:
        return last_s
    if next_rows_s > start_s:
        return next_rows_s
    end_s = start_s + max(width_s, unit_s)
    return min(end_s - end_s % unit_s, last_s)


def next_width_s(width_s: int, rows: int) -> int:
    """A wider slice after one that read few rows, a narrower one after many."""
    if rows > 2 * TARGET_ROWS:
        width_s //= 2
    elif rows < TARGET_ROWS // 2:
        width_s *= 2
    return min(max(width_s, SHORTEST_S), LONGEST_S)


def whole_hours(one: Difference) -> Difference:
    """The same, said of the hours that hold it: what one repairs, and what can be compared for ever."""
    start_s, end_s = one.start_s - one.start_s % HOUR_S, one.end_s + -one.end_s % HOUR_S
    return one._replace(start_s=start_s, end_s=end_s)


def hours_of(seconds: Iterable[int], before_s: int) -> set[int]:
    """The hours of those moments that lie before `before_s`."""
    return {second - second % HOUR_S for second in seconds if second < before_s}
