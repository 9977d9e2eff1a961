"""When a slot can be trusted, and what is said where it cannot."""

from datetime import UTC, datetime
from typing import Any

import pytest

from judgify_engine.core.healing import Blocker, Publication, Server, Slot, Stored, diagnose
from judgify_engine.units import Position

MIB = 1024 * 1024
SERVER = Server("7000", 1, 5000)
SLOT = Slot("pgoutput", ours=True, active=False, wal_status="reserved", confirmed_lsn=1000, retained_bytes=10, safe_bytes=None)
PUBLISHED = Publication("16400.700/10:1,2,3", None)
STORED = Stored(Position(1000, 0), "7000", 1, PUBLISHED.fingerprint)


def reason(
    server: Server = SERVER,
    slot: Slot | None = SLOT,
    publication: Publication = PUBLISHED,
    stored: Stored | None = STORED,
    *,
    together: bool = True,
    used: bool = True,
) -> str | None:
    found = diagnose(server, slot, publication, stored, together=together, used=used)
    return found.reason if found else None


def test_what_belongs_together_goes_on() -> None:
    assert reason() is None
    assert reason(slot=SLOT._replace(confirmed_lsn=1)) is None, "the server may have forgotten what was confirmed"
    assert reason(stored=Stored(Position(1000, 0), None, None, None)) is None, "stored by an older version"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"slot": None}, "missing"),
        ({"stored": None}, "missing"),
        ({"slot": None, "stored": None}, "missing"),
        ({"slot": None, "stored": None, "used": False}, "first"),
        ({"slot": SLOT._replace(wal_status="lost")}, "lost"),
        ({"slot": SLOT._replace(wal_status=None)}, "lost"),
        ({"slot": SLOT._replace(plugin="test_decoding")}, "foreign"),
        ({"slot": SLOT._replace(plugin=None)}, "foreign"),
        ({"slot": SLOT._replace(confirmed_lsn=1001)}, "foreign"),
        ({"server": SERVER._replace(system_identifier="7001")}, "restored"),
        ({"server": SERVER._replace(wal_lsn=999)}, "restored"),
        ({"server": SERVER._replace(timeline=2), "together": False}, "restored"),
        ({"publication": PUBLISHED._replace(wrong="it is missing")}, "publication"),
        ({"publication": PUBLISHED._replace(fingerprint="16500.701/10:4,5,6")}, "publication"),
        ({"stored": STORED._replace(counted=False)}, "upgraded"),
        ({"stored": STORED._replace(counted=False), "slot": None}, "missing"),
    ],
)
def test_what_does_not_is_named(changed: dict[str, Any], expected: str) -> None:
    assert reason(**changed) == expected


def test_a_new_timeline_moves_both_where_they_are_in_one_database() -> None:
    assert reason(SERVER._replace(timeline=2)) is None


@pytest.mark.parametrize(
    ("status", "safe_bytes", "retained_bytes", "dangerous"),
    [
        ("reserved", None, 0, False),
        ("extended", None, 10**12, False),
        ("extended", 500 * MIB, 500 * MIB, False),
        ("extended", 50 * MIB, 950 * MIB, True),
        ("unreserved", -1, 900 * MIB, True),
    ],
)
def test_danger_is_told_before_the_slot_is_lost(
    status: str, safe_bytes: int | None, retained_bytes: int, dangerous: bool
) -> None:
    slot = SLOT._replace(wal_status=status, safe_bytes=safe_bytes, retained_bytes=retained_bytes)
    assert bool(slot.danger) is dangerous


@pytest.mark.parametrize(
    ("blocker", "text"),
    [
        (Blocker(7, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)), "the transaction of pid 7, open since 2026-01-02T03:04:05Z,"),
        (Blocker(7, None), "the transaction of pid 7"),
        (Blocker(None, datetime(2026, 1, 2, tzinfo=UTC)), "a prepared transaction, open since 2026-01-02T00:00:00Z,"),
    ],
)
def test_whom_a_slot_waits_for_in_words(blocker: Blocker, text: str) -> None:
    assert str(blocker) == text
