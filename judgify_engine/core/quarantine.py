"""What of a flood of refused requests is kept, and what only counted. Pure; one event loop owns a buffer.

Between two writes a tenant has room for `TENANT_BODIES` requests with their bodies. The rest is counted: one row without a
body for each (tenant, workflow, kind), whose `repeated` says how many it stands for. Where a sender makes up workflows, the
count goes to no workflow in particular; and with more tenants than there is room for, to none of them. Nothing is left out:
the sum of `repeated` is exact.
"""

from collections import Counter

import msgspec

from judgify_engine.units import KIB, MIB

BODY_BYTES = 64 * KIB
"""Longer bodies are cut here: one can look at them, but not replay them as they are."""
TENANT_BODIES = 50
TENANT_BYTES = 1 * MIB
MAX_BODIES = 1000
MAX_BYTES = 8 * MIB
TENANT_COUNTS = 50
MAX_COUNTS = 5000
REASON_CHARS = 1000
FIELD_CHARS = 200


class Refused(msgspec.Struct):
    """One row of the quarantine, not yet written."""

    id: bytes
    """16 bytes, a UUIDv7: a row that is written twice is there once."""
    tenant_id: str
    workflow_id: str
    kind: str
    source: str
    code: str
    field: str | None
    reason: str
    body: bytes | None
    body_cut: bool
    created_at_us: int
    repeated: int = 1


class Buffer:
    """Refused requests between two writes, bounded in rows and bytes."""

    def __init__(self) -> None:
        self._empty()

    def _empty(self) -> None:
        self.bytes = 0
        self._kept: list[Refused] = []
        self._counts: dict[tuple[str, str, str], Refused] = {}
        self._tenant_bodies: Counter[str] = Counter()
        self._tenant_bytes: Counter[str] = Counter()
        self._tenant_counts: Counter[str] = Counter()

    @property
    def rows(self) -> int:
        return len(self._kept) + len(self._counts)

    def add(self, row: Refused) -> None:
        """Keep it whole where there is room, else count it."""
        tenant, size = row.tenant_id, len(row.body or b"")
        if (
            row.body is None
            or self._tenant_bodies[tenant] >= TENANT_BODIES
            or self._tenant_bytes[tenant] + size > TENANT_BYTES
            or len(self._kept) >= MAX_BODIES
            or self.bytes + size > MAX_BYTES
        ):
            self._count(row)
            return
        self._kept.append(row)
        self._tenant_bodies[tenant] += 1
        self._tenant_bytes[tenant] += size
        self.bytes += size

    def take(self) -> list[Refused]:
        """All that is here, to be written; the buffer is empty then."""
        rows = [*self._kept, *self._counts.values()]
        self._empty()
        return rows

    def _count(self, row: Refused) -> None:
        tenant, kind = row.tenant_id, row.kind
        has_room = len(self._counts) < MAX_COUNTS
        for key, may_be_new in (
            ((tenant, row.workflow_id, kind), has_room and self._tenant_counts[tenant] < TENANT_COUNTS),
            ((tenant, "", kind), has_room),
            (("", "", kind), True),  # as many as there are kinds
        ):
            known = self._counts.get(key)
            if known is not None:
                known.repeated += row.repeated
                return
            if may_be_new:
                self._counts[key] = row
                self._tenant_counts[key[0]] += 1
                row.tenant_id, row.workflow_id, row.body, row.body_cut = key[0], key[1], None, False
                return
