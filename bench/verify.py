"""Looks afterwards whether what was answered is true: every answered id is stored once, and the rollup has caught up.

Where the database can be reached it is asked itself (`judgment_executions` and `judgment_metrics_hourly`), otherwise
the API, with a sample of ids. Every wait is bounded.
"""

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import msgspec

from .client import ProtocolError, Target, fetch

CHUNK_IDS = 10_000
POLL_S = 0.2
SHOWN_IDS = 5

_MISSING = "select x.id from unnest($1::uuid[]) x (id) left join judgment_executions e on e.id = x.id where e.id is null"
# One statement, so that both figures are of one moment.
_TOTALS = """
    select (select count(*) from judgment_executions) as stored,
           (select coalesce(sum(total_executions), 0)::bigint from judgment_metrics_hourly) as rolled_up
"""


@dataclass
class Verdict:
    """What the check found; counts are of judgments."""

    how: str
    checked: int = 0
    missing: int = 0
    """Answered, but not stored."""
    doubled: int = 0
    """Ids that were answered more than once."""
    stored: int | None = None
    """All judgments in the table; None when nobody could count them."""
    rolled_up: int | None = None
    """Sum of the rollup's totals."""
    waited_s: float = 0.0
    """How long after the load the rollup took to be equal to the table."""
    missing_ids: list[str] = field(default_factory=list)
    failure: str = ""
    """Why the check itself could not be made."""

    @property
    def is_good(self) -> bool:
        """Nothing missing, nothing doubled, the rollup equal to the table (where that could be seen)."""
        return not self.failure and not self.missing and not self.doubled and self.stored == self.rolled_up

    def line(self) -> str:
        """The verdict in one line."""
        if self.failure:
            return f"NOT CHECKED ({self.how}): {self.failure}"
        text = f"{self.checked:,} answered ids checked ({self.how}): {self.missing:,} missing, {self.doubled:,} doubled"
        if self.missing_ids:
            text += f" (missing: {', '.join(self.missing_ids)})"
        if self.stored is not None:
            equal = "=" if self.stored == self.rolled_up else "DIFFERS FROM"
            text += f"; rollup {self.rolled_up:,} {equal} table {self.stored:,}, after {self.waited_s:.1f} s"
        return text + (" - good" if self.is_good else " - WRONG")


@contextlib.asynccontextmanager
async def connect(dsn: str, timeout_s: float = 10.0) -> AsyncIterator[Any]:
    """One connection to PostgreSQL (an `asyncpg.Connection`), closed at the end."""
    connection = await asyncpg.connect(dsn, timeout=timeout_s, command_timeout=120.0, statement_cache_size=0)
    try:
        yield connection
    finally:
        with contextlib.suppress(TimeoutError, OSError, asyncpg.PostgresError):
            await connection.close(timeout=5.0)


async def read_totals(connection: Any) -> tuple[int, int]:
    """(judgments in the table, judgments in the rollup), of one moment. Reads the whole table."""
    row = await connection.fetchrow(_TOTALS)
    return int(row["stored"]), int(row["rolled_up"])


async def verify_in_database(dsn: str, ids: bytes | bytearray, timeout_s: float = 60.0) -> Verdict:
    """Look every answered id up (16 bytes each in `ids`), then wait until the rollup equals the table."""
    verdict = Verdict("database", checked=len(ids) // 16)
    verdict.doubled = verdict.checked - len({bytes(ids[at : at + 16]) for at in range(0, len(ids), 16)})
    try:
        async with connect(dsn) as connection:
            for at in range(0, len(ids), CHUNK_IDS * 16):
                chunk = ids[at : at + CHUNK_IDS * 16]
                asked = [uuid.UUID(bytes=bytes(chunk[i : i + 16])) for i in range(0, len(chunk), 16)]
                missing = await connection.fetch(_MISSING, asked)
                verdict.missing += len(missing)
                verdict.missing_ids += [str(row["id"]) for row in missing[: SHOWN_IDS - len(verdict.missing_ids)]]
            began_s = time.perf_counter()
            while True:
                verdict.stored, verdict.rolled_up = await read_totals(connection)
                verdict.waited_s = time.perf_counter() - began_s
                if verdict.stored == verdict.rolled_up or verdict.waited_s > timeout_s:
                    return verdict
                await asyncio.sleep(POLL_S)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        verdict.failure = f"{type(error).__name__}: {error}"
        return verdict


class _Stored(msgspec.Struct):
    """What is compared of a stored judgment."""

    judgment_id: str = ""


async def verify_over_api(target: Target, ids: bytes | bytearray, sample: int = 200) -> Verdict:
    """Ask the server for `sample` of the answered ids; the rollup cannot be seen this way."""
    verdict = Verdict(f"API, a sample of {min(sample, len(ids) // 16)} of {len(ids) // 16:,}; no database was named")
    places = random.Random(0).sample(range(len(ids) // 16), min(sample, len(ids) // 16))
    verdict.doubled = len(ids) // 16 - len({bytes(ids[at : at + 16]) for at in range(0, len(ids), 16)})
    for place in places:
        judgment_id = str(uuid.UUID(bytes=bytes(ids[place * 16 : place * 16 + 16])))
        try:
            response = await fetch(target, "GET", f"/api/v1/judgments/{judgment_id}")
            found = response.status == 200 and _same_id(response.body, judgment_id)
        except (OSError, TimeoutError, ProtocolError) as error:
            verdict.failure = f"{type(error).__name__}: {error}"
            return verdict
        verdict.checked += 1
        if not found:
            verdict.missing += 1
            if len(verdict.missing_ids) < SHOWN_IDS:
                verdict.missing_ids.append(f"{judgment_id} (status {response.status})")
    return verdict


def _same_id(body: bytes, judgment_id: str) -> bool:
    try:
        return msgspec.json.decode(body, type=_Stored).judgment_id == judgment_id
    except (ValueError, msgspec.DecodeError):
        return False
