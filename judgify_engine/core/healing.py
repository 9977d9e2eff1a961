"""Whether a slot still is what the stored position believes it to be, and if not, why. Pure.

The rule behind it: a process never confirms more to the server than the position that is committed with the rollups. So a slot
that is confirmed past that position was moved by somebody else, and what lies between was never seen here.
"""

from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from judgify_engine.units import Position, format_lsn

Reason = Literal["lost", "missing", "foreign", "restored", "publication", "corrupt", "first", "upgraded"]
PLUGIN = "pgoutput"
MIB = 1024 * 1024
LITTLE_LEFT = 0.1


class Server(NamedTuple):
    """What IDENTIFY_SYSTEM says."""

    system_identifier: str
    timeline: int
    wal_lsn: int


class Slot(NamedTuple):
    """A replication slot as the server shows it."""

    plugin: str | None
    ours: bool
    """It belongs to our database."""
    active: bool
    wal_status: str | None
    confirmed_lsn: int
    retained_bytes: int
    """Log that the server keeps for it."""
    safe_bytes: int | None
    """What may be written before it is in danger of being lost; None: the log kept is not limited."""

    @property
    def is_lost(self) -> bool:
        """The server no longer has the log that it needs."""
        return self.wal_status is None or self.wal_status == "lost"

    @property
    def danger(self) -> str | None:
        """A word on how near it is to being lost; None: it is not."""
        if self.wal_status == "unreserved":
            return "the next checkpoint may remove log that the slot needs"
        if self.wal_status != "extended" or self.safe_bytes is None:
            return None
        left = self.safe_bytes / max(1, self.safe_bytes + self.retained_bytes)
        return f"{self.safe_bytes // MIB} MiB more of log and the slot may be lost" if left < LITTLE_LEFT else None


class Publication(NamedTuple):
    """What is published."""

    fingerprint: str
    """Changes when it is made anew or altered, also when it is altered back."""
    wrong: str | None
    """Why it does not publish what we need; None: it does."""


class Stored(NamedTuple):
    """The position and what it belongs to; None: not known (it was stored by an older version)."""

    position: Position
    system_identifier: str | None
    timeline: int | None
    publication: str | None
    counted: bool = True
    """Whether results and methods are counted up to the position, too; not, where an older version of this moved it."""


class Blocker(NamedTuple):
    """A transaction that has written something and is open; a new slot waits for it."""

    pid: int | None
    """The server process; None: the transaction is prepared, nobody is connected."""
    since: datetime | None
    """When it began; None: we may not see it."""

    def __str__(self) -> str:
        who = "a prepared transaction" if self.pid is None else f"the transaction of pid {self.pid}"
        return who if self.since is None else f"{who}, open since {self.since.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ},"


class Finding(NamedTuple):
    """Changes may be missing: the rollups must be computed anew, together with a new slot."""

    reason: Reason
    details: dict[str, Any]


def diagnose(
    server: Server, slot: Slot | None, publication: Publication, stored: Stored | None, *, together: bool, used: bool
) -> Finding | None:
    """None: the stream goes on from the stored position. `slot` must have been read before `stored`.

    `together`: rollups and judgments are in one database, so that going back to an older state moved both.
    `used`: there are rollups.
    """
    if stored is None:
        if slot is None and not used:
            return Finding("first", {})
        return Finding("missing", {"missing": "slot and position" if slot is None else "position"})
    known = server.system_identifier == (stored.system_identifier or server.system_identifier)
    if not known:
        was = {"was": stored.system_identifier, "is": server.system_identifier}
        return Finding("restored", {"system_identifier": was})
    if stored.position.lsn > server.wal_lsn:
        return Finding("restored", {"position": str(stored.position), "server_at": format_lsn(server.wal_lsn)})
    if not together and stored.timeline not in (None, server.timeline):
        return Finding("restored", {"timeline": {"was": stored.timeline, "is": server.timeline}})
    if slot is None:
        return Finding("missing", {"missing": "slot"})
    if slot.plugin != PLUGIN:
        return Finding("foreign", {"plugin": slot.plugin})
    if slot.is_lost:
        return Finding("lost", {"wal_status": slot.wal_status})
    if slot.confirmed_lsn > stored.position.lsn:
        return Finding("foreign", {"confirmed": format_lsn(slot.confirmed_lsn), "position": str(stored.position)})
    if publication.wrong is not None:
        return Finding("publication", {"publication": publication.wrong})
    if stored.publication not in (None, publication.fingerprint):
        return Finding("publication", {"publication": "made anew or altered meanwhile"})
    if not stored.counted:
        return Finding("upgraded", {"missing": "counts of results and methods"})
    return None
