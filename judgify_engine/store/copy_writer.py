"""Copy and commit: many judgments, one COPY, one fsync.

What can happen to a commit, and what follows:

- PostgreSQL says yes: committed.
- PostgreSQL refuses a row: nothing of the COPY is stored; the batch is split until the bad row stands alone. It goes to the
  quarantine, its sender gets the reason, the others are committed.
- PostgreSQL could not be reached: nothing was sent, the senders may come back.
- The connection broke in between: unknown. The same rows are sent again until there is an answer: their keys are unique,
  so "duplicate key" means that the first attempt landed, and success that it had not. PostgreSQL itself waits for a
  transaction of the lost connection that still holds such a key. Only when all time is used up: CommitUnknown.

Idempotency keys are inserted in the same transaction; who finds a key taken gets the stored answer instead.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import asyncpg

from judgify_engine.core.model import Judgment
from judgify_engine.errors import CommitUnknown, DatabaseUnavailable, RowRefused
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.ports import Outcome, Replayed
from judgify_engine.pipeline.quarantine_loop import Quarantine
from judgify_engine.store.pool import AWAY, Database
from judgify_engine.wire import pgcopy

log = logging.getLogger(__name__)

TABLE = "judgment_executions"
RESOLVE_PAUSE_S = (0.05, 0.1, 0.25, 0.5)

_INSERT_KEYS = """
INSERT INTO idempotency_keys (tenant_id, key, fingerprint, judgment_id, answer)
SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[], $4::uuid[], $5::bytea[])
ON CONFLICT DO NOTHING RETURNING judgment_id
"""
_FIND_KEYS = """
SELECT tenant_id, key, fingerprint, judgment_id, answer
  FROM unnest($1::text[], $2::text[]) AS asked(tenant_id, key) JOIN idempotency_keys USING (tenant_id, key)
"""


class _Unknown(Exception):
    """The connection broke while a commit may have been under way."""


class CopyWriter:
    """Commits judgments. `resolve_for_s`: how long an unknown outcome is looked into."""

    def __init__(self, database: Database, metrics: Metrics, resolve_for_s: float, quarantine: Quarantine) -> None:
        self._database, self._metrics, self._resolve_for_s = database, metrics, resolve_for_s
        self._quarantine = quarantine

    async def commit(self, judgments: Sequence[Judgment]) -> list[Outcome]:
        """See `JudgmentWriter.commit`."""
        try:
            return await self._attempt(judgments)
        except DatabaseUnavailable as error:
            return [error] * len(judgments)
        except _Unknown:
            return await self._resolve(judgments)
        except asyncpg.PostgresError as error:
            return await self._split(judgments, error)

    async def _attempt(self, judgments: Sequence[Judgment]) -> list[Outcome]:
        """One transaction. Raises _Unknown, DatabaseUnavailable (nothing was stored), or what PostgreSQL objects to."""
        async with self._database.commit_connection() as connection:
            try:
                if any(j.idempotency_key is not None for j in judgments):
                    return await self._with_keys(connection, judgments)
                await _copy(connection, judgments)
                return [None] * len(judgments)
            except asyncpg.PostgresError as error:
                if not _is_away(error):
                    raise
                self._database.trouble(error)
                if _was_rolled_back(error):
                    raise DatabaseUnavailable(f"PostgreSQL cannot commit now: {error}") from error
                raise _Unknown from error
            except AWAY as error:
                self._database.trouble(error)
                with contextlib.suppress(asyncpg.InterfaceError):  # it may be closed and given back already
                    connection.terminate()
                raise _Unknown from error

    async def _with_keys(self, connection: Any, judgments: Sequence[Judgment]) -> list[Outcome]:
        """All is found out before the COMMIT: after it, a broken connection could hide who lost its key."""
        keyed = sorted((j for j in judgments if j.idempotency_key is not None), key=_key)  # one order: no deadlocks
        async with connection.transaction():
            rows = await connection.fetch(
                _INSERT_KEYS,
                [j.tenant_id for j in keyed],
                [j.idempotency_key for j in keyed],
                [j.fingerprint for j in keyed],
                [j.id.hex() for j in keyed],
                [j.answer for j in keyed],
            )
            won = {row["judgment_id"].bytes for row in rows}
            lost = [j for j in keyed if j.id not in won]
            stored, ours = await _stored_answers(connection, lost) if lost else ({}, 0)
            if len(stored) + ours < len(lost):
                raise DatabaseUnavailable("an idempotency key was forgotten just now; send this again")
            if not ours:  # else this very batch was committed before, unseen
                await _copy(connection, [j for j in judgments if j.id not in stored])
        return [stored.get(j.id) for j in judgments]

    async def _resolve(self, judgments: Sequence[Judgment]) -> list[Outcome]:
        """Send the same rows again until PostgreSQL says whether they are there."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._resolve_for_s
        attempt = 0
        while loop.time() < deadline_s:
            await asyncio.sleep(RESOLVE_PAUSE_S[min(attempt, len(RESOLVE_PAUSE_S) - 1)])
            attempt += 1
            try:
                outcomes = await self._attempt(judgments)
            except (DatabaseUnavailable, _Unknown):
                continue
            except asyncpg.UniqueViolationError:  # our ids are there: the first attempt was committed
                try:
                    outcomes = await self._landed(judgments)
                except (DatabaseUnavailable, asyncpg.PostgresError):
                    continue
            except asyncpg.PostgresError as error:
                outcomes = await self._split(judgments, error)
            self._metrics.commits_resolved += 1
            log.info("the outcome of a commit was found out", extra={"rows": len(judgments), "attempts": attempt})
            return outcomes
        log.error("the outcome of a commit stays unknown", extra={"rows": len(judgments), "attempts": attempt})
        detail = "the connection broke while this was being committed and PostgreSQL stayed away; look it up by its id"
        return [CommitUnknown(detail, retry_after_s=5.0) for _ in judgments]

    async def _landed(self, judgments: Sequence[Judgment]) -> list[Outcome]:
        """The outcomes of a batch that was committed unseen: those that had lost their key then get the stored answer."""
        keyed = [j for j in judgments if j.idempotency_key is not None]
        async with self._database.query() as connection:
            stored, _ours = await _stored_answers(connection, keyed) if keyed else ({}, 0)
        return [stored.get(j.id) for j in judgments]

    async def _split(self, judgments: Sequence[Judgment], error: asyncpg.PostgresError) -> list[Outcome]:
        """PostgreSQL refused the batch as a whole, so nothing of it is stored: find the row it means."""
        if len(judgments) > 1:
            middle = len(judgments) // 2
            return [*await self.commit(judgments[:middle]), *await self.commit(judgments[middle:])]
        judgment = judgments[0]
        log.warning("postgres refused a judgment", extra={"sqlstate": error.sqlstate, "workflow_id": judgment.workflow_id})
        refused = RowRefused(f"PostgreSQL refused this judgment: {error}", sqlstate=error.sqlstate)
        self._quarantine.refused_by_postgres(judgment, refused, str(error.sqlstate))
        return [refused]


async def _copy(connection: Any, judgments: Sequence[Judgment]) -> None:
    if judgments:
        data = memoryview(pgcopy.encode(judgments))  # bytes would be taken for the name of a file
        await connection.copy_to_table(TABLE, source=data, columns=pgcopy.COLUMNS, format="binary")


async def _stored_answers(connection: Any, judgments: Sequence[Judgment]) -> tuple[dict[bytes, Outcome], int]:
    """By the id of a judgment: the answer that its key stands for, where that is another's; and how many keys are their own."""
    columns = [j.tenant_id for j in judgments], [j.idempotency_key for j in judgments]
    found = {(row["tenant_id"], row["key"]): row for row in await connection.fetch(_FIND_KEYS, *columns)}
    stored: dict[bytes, Outcome] = {}
    ours = 0
    for judgment in judgments:
        row = found.get(_key(judgment))
        if row is not None and row["judgment_id"].bytes != judgment.id:
            stored[judgment.id] = Replayed(row["fingerprint"], row["answer"])
        elif row is not None:
            ours += 1
    return stored, ours


def _key(judgment: Judgment) -> tuple[str, str]:
    return judgment.tenant_id, judgment.idempotency_key or ""


def _is_away(error: asyncpg.PostgresError) -> bool:
    """Whether an error speaks of the server's state, not of our rows: classes 08, 53, 57, 58 and read-only."""
    state = error.sqlstate or ""
    return state[:2] in ("08", "53", "57", "58") or isinstance(error, asyncpg.ReadOnlySQLTransactionError)


def _was_rolled_back(error: asyncpg.PostgresError) -> bool:
    """Whether it certainly left nothing behind: an ERROR, not the FATAL or PANIC of a session that ends."""
    return getattr(error, "severity_en", None) == "ERROR" and not (error.sqlstate or "").startswith("08")
