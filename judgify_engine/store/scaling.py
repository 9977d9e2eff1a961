"""Scaling decisions (`scaling_decisions`), written in the session of the right to make them (store/lease)."""

from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec

from judgify_engine.core.figures import Figures
from judgify_engine.core.scaling import Decision, Last
from judgify_engine.errors import DatabaseUnavailable
from judgify_engine.store.lease import SCALING_LOCKS, Lease
from judgify_engine.store.pool import Database
from judgify_engine.wire.answer import format_time
from judgify_engine.wire.scaling import DecisionRecord

FORGET = (
    "DELETE FROM scaling_decisions WHERE ctid = ANY(ARRAY("
    "SELECT ctid FROM scaling_decisions WHERE decided_at < now() - make_interval(days => $1) LIMIT $2))"
)
EVENTS_AT_ONCE = 100

_COLUMNS = (
    "id, scope, decided_at, action, state, rule, reason, from_count, to_count, executor, outcome, error, "
    "figures::text AS figures"
)
_LIST = f"SELECT {_COLUMNS} FROM scaling_decisions WHERE scope = $1 ORDER BY id DESC LIMIT $2"
_LAST = """
SELECT action, decided_at FROM scaling_decisions WHERE scope = $1 AND action IN ('out', 'in') ORDER BY id DESC LIMIT 1
"""
_STATE = "SELECT state FROM scaling_decisions WHERE scope = $1 ORDER BY id DESC LIMIT 1"
_RECORD = """
INSERT INTO scaling_decisions (scope, slot, decided_at, action, state, rule, reason, from_count, to_count, figures, executor,
  outcome)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::jsonb, $11, $12) ON CONFLICT (scope, slot) DO NOTHING RETURNING id
"""
_FINISH = "UPDATE scaling_decisions SET outcome = $2, error = $3 WHERE id = $1"
_ORPHANED = "UPDATE scaling_decisions SET outcome = 'unknown' WHERE scope = $1 AND outcome = 'pending'"
_UNPUBLISHED = f"""
SELECT {_COLUMNS} FROM scaling_decisions WHERE scope = $1 AND published_at IS NULL ORDER BY id LIMIT {EVENTS_AT_ONCE}
"""
_PUBLISHED = "UPDATE scaling_decisions SET published_at = now() WHERE id = ANY($1)"


class ScalingStore:
    """The decisions about one `scope`. Whoever holds the lease writes them. All raise DatabaseUnavailable or Overloaded."""

    def __init__(self, database: Database, scope: str) -> None:
        self._database, self._scope = database, scope
        self._lease = Lease(database, SCALING_LOCKS, scope, "the scaling lease", self._forget_pending)

    async def _forget_pending(self, connection: Any) -> None:
        """What a holder that died was at."""
        await connection.execute(_ORPHANED, self._scope)

    async def lease(self) -> bool:
        """Whether we are the one that decides; takes the right to it where nobody has it."""
        return await self._lease.take()

    def let_go(self) -> None:
        """Decide no more."""
        self._lease.let_go()

    async def record(
        self, decision: Decision, figures: Figures, at_s: float, slot: int, executor: str, outcome: str
    ) -> int | None:
        """Write a decision; its id. None: there is one for this interval."""
        values = (decision.action, decision.state, decision.rule, decision.reason, decision.current, decision.target)
        written = msgspec.json.encode(figures).decode()
        async with self._lease.held() as connection:
            number: int | None = await connection.fetchval(
                _RECORD, self._scope, slot, datetime.fromtimestamp(at_s, UTC), *values, written, executor, outcome
            )
        return number

    async def finish(self, number: int, outcome: str, error: str | None) -> None:
        """What became of it."""
        async with self._lease.held() as connection:
            await connection.execute(_FINISH, number, outcome, error)

    async def unpublished(self) -> list[DecisionRecord]:
        """What is still to be sent to listeners, the oldest first."""
        async with self._lease.held() as connection:
            return [_record(row) for row in await connection.fetch(_UNPUBLISHED, self._scope)]

    async def published(self, numbers: list[int]) -> None:
        """They were sent."""
        async with self._lease.held() as connection:
            await connection.execute(_PUBLISHED, numbers)

    async def last(self) -> tuple[Last | None, str]:
        """The last decision to have more or fewer, and the state that was written last; empty: none was."""
        try:
            async with self._database.query() as connection:
                row = await connection.fetchrow(_LAST, self._scope)
                state = await connection.fetchval(_STATE, self._scope)
        except asyncpg.PostgresError as error:
            raise DatabaseUnavailable(f"scaling decisions cannot be read: {error}") from error
        return None if row is None else Last(row["action"], row["decided_at"].timestamp()), state or ""

    async def list(self, limit: int) -> list[DecisionRecord]:
        """The newest first."""
        async with self._database.query(may_be_slow=True) as connection:
            return [_record(row) for row in await connection.fetch(_LIST, self._scope, limit)]


def _record(row: Any) -> DecisionRecord:
    return DecisionRecord(
        id=row["id"],
        scope=row["scope"],
        at=format_time(row["decided_at"]),
        action=row["action"],
        state=row["state"],
        rule=row["rule"],
        reason=row["reason"],
        from_count=row["from_count"],
        to_count=row["to_count"],
        executor=row["executor"],
        outcome=row["outcome"],
        error=row["error"],
        figures=msgspec.Raw(row["figures"].encode()),
    )
