"""How it stands with every cause, and what is told of it: one evaluation is one transaction, with its deliveries (an outbox).

All of it is written in the session of the right to evaluate (store/lease).
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import msgspec

from judgify_engine.core.alert_changes import Cause, Changes, Known, Told
from judgify_engine.core.alert_state import NEVER, CauseState
from judgify_engine.store.lease import ALERT_LOCKS, Lease
from judgify_engine.store.pool import Database
from judgify_engine.units import parse_lsn
from judgify_engine.wire.pgoutput import MARK

SLICE_ROWS = 1000
_Row = TypeVar("_Row")
STREAM = "stream"
"""The sink, and its kind, that every alert goes to: the stream of alerts and its channels."""

_PROBE = "SELECT pg_current_wal_insert_lsn()::text, extract(epoch FROM clock_timestamp())::float8"
_MARK = f"SELECT pg_logical_emit_message(true, '{MARK}', '')"
_THROUGH = "SELECT extract(epoch FROM through)::float8 FROM alert_evaluations WHERE slot_name = $1"
_KNOWN = "SELECT tenant_id, rule_id, workflow_id, rule_version, state::text, memory::text FROM alert_states"
_EVALUATED = """
INSERT INTO alert_evaluations (slot_name, through) VALUES ($1, $2)
ON CONFLICT (slot_name) DO UPDATE SET through = excluded.through, evaluated_at = clock_timestamp()
"""
_KEEP = """
INSERT INTO alert_states (tenant_id, rule_id, workflow_id, rule_version, state, reason, memory)
VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $7::text::jsonb)
ON CONFLICT (tenant_id, rule_id, workflow_id) DO UPDATE SET rule_version = excluded.rule_version, state = excluded.state,
  reason = excluded.reason, memory = excluded.memory, updated_at = clock_timestamp()
"""
_FORGET = "DELETE FROM alert_states WHERE tenant_id = $1 AND rule_id = $2 AND workflow_id = $3"
SILENCED_BY = """(
  SELECT silence_id FROM alert_silences AS s
   WHERE s.tenant_id = a.tenant_id AND s.starts_at <= clock_timestamp() AND s.ends_at > clock_timestamp()
     AND (s.rule_id IS NULL OR s.rule_id = a.rule_id) AND (s.workflow_id IS NULL OR s.workflow_id = a.workflow_id)
     AND (s.severity IS NULL OR s.severity = a.severity) ORDER BY s.ends_at DESC LIMIT 1)"""
# NULL: whoever is a sink of the tenant now. One that is not there (any more) shows as failed.
_TO_SINKS = f"""
INSERT INTO alert_deliveries (alert_id, tenant_id, sink_id, kind, event, state, last_error)
SELECT a.id, a.tenant_id, '{STREAM}', '{STREAM}', $1, 'waiting', NULL FROM told AS a
UNION ALL
SELECT a.id, a.tenant_id, n.sink_id, coalesce(s.definition ->> 'kind', 'unknown'), $1,
       CASE WHEN s.sink_id IS NULL THEN 'failed' WHEN {{silenced}} THEN 'silenced' ELSE 'waiting' END,
       CASE WHEN s.sink_id IS NULL THEN 'there is no such sink' END
  FROM told AS a CROSS JOIN LATERAL unnest(a.sinks) AS n(sink_id)
  LEFT JOIN alert_sinks AS s ON s.tenant_id = a.tenant_id AND s.sink_id = n.sink_id
"""
_FIRED = f"""
WITH told AS (
  INSERT INTO alerts AS a (tenant_id, rule_id, workflow_id, rule_version, severity, about, summary, reason, numbers, started_at,
                      fired_at, sinks)
  SELECT $2, $3, $4, $5, $6, $7, $8, $9, $10::text::jsonb, $11, $12, coalesce($13::text[], ARRAY(
           SELECT sink_id FROM alert_sinks WHERE tenant_id = $2 ORDER BY sink_id))
  ON CONFLICT (tenant_id, rule_id, workflow_id) WHERE state = 'firing' DO UPDATE SET reason = excluded.reason
  RETURNING *
)
{_TO_SINKS.format(silenced=f"{SILENCED_BY} IS NOT NULL")}
"""
# Who was not told yet that it fires is told once, that it is critical: what still waits (and is not under way) gives way.
_WORSENED = f"""
WITH told AS (
  UPDATE alerts SET severity_was = severity, severity = $5, reason = $6, numbers = $7::text::jsonb, revision = revision + 1,
                    changed_at = clock_timestamp()
   WHERE tenant_id = $2 AND rule_id = $3 AND workflow_id = $4 AND state = 'firing' RETURNING *
), replaced AS (
  DELETE FROM alert_deliveries AS d USING told AS a
   WHERE d.alert_id = a.id AND d.event = 'firing' AND (d.state = 'silenced' OR (d.state = 'waiting' AND d.owner IS NULL))
)
{_TO_SINKS.format(silenced=f"{SILENCED_BY} IS NOT NULL")}
"""
# Who was never told that it fires is not told that it is over; who was, is, whatever is silenced meanwhile.
_RESOLVED = f"""
WITH told AS (
  UPDATE alerts SET state = 'resolved', resolved_at = $5, resolved_reason = $6, resolved_numbers = $7::text::jsonb,
                    revision = revision + 1, changed_at = clock_timestamp()
   WHERE tenant_id = $2 AND rule_id = $3 AND workflow_id = $4 AND state = 'firing' RETURNING *
)
{
    _TO_SINKS.format(
        silenced='''NOT EXISTS (
    SELECT FROM alert_deliveries AS d WHERE d.alert_id = a.id AND d.sink_id = n.sink_id AND d.state <> 'silenced')'''
    )
}
"""
_STOP_REPEATING = """
UPDATE alert_deliveries AS d SET repeats = false FROM alerts AS a
 WHERE d.repeats AND a.id = d.alert_id AND a.state = 'resolved'
"""
_SILENCE = f"""
UPDATE alerts AS a SET silenced_by = {SILENCED_BY}, revision = revision + 1, changed_at = clock_timestamp()
 WHERE a.state = 'firing' AND a.silenced_by IS DISTINCT FROM {SILENCED_BY}
"""
# A silence that ends while it still fires: now it is told.
_SPEAK = """
UPDATE alert_deliveries AS d SET state = 'waiting', due_at = clock_timestamp(), at = clock_timestamp() FROM alerts AS a
 WHERE d.state = 'silenced' AND d.event = 'firing' AND a.id = d.alert_id AND a.state = 'firing' AND a.silenced_by IS NULL
"""
_FIRING = "SELECT severity, count(*) FROM alerts WHERE state = 'firing' GROUP BY 1"
_DELIVERIES = "SELECT state, count(*) FROM alert_deliveries GROUP BY 1"


class Probe(NamedTuple):
    """A moment of the database's clock, and where its log was: all that was committed before lies before it."""

    lsn: int
    at_s: float


class AlertStates:
    """Written by who holds the lease. All raise DatabaseUnavailable."""

    def __init__(self, database: Database, slot: str) -> None:
        self._slot = slot
        self._lease = Lease(database, ALERT_LOCKS, slot, "the lease of alerts")

    async def lease(self) -> bool:
        """Whether we are the one that evaluates; takes the right to it where nobody has it."""
        return await self._lease.take()

    def let_go(self) -> None:
        """Evaluate no more."""
        self._lease.let_go()

    async def probe(self) -> Probe:
        """Now."""
        async with self._lease.held() as connection:
            lsn, at_s = await connection.fetchrow(_PROBE)
        return Probe(parse_lsn(lsn), at_s)

    async def mark(self) -> None:
        """Have the position of an idle database move on."""
        async with self._lease.held() as connection:
            await connection.execute(_MARK)

    async def known(self) -> tuple[float, dict[Cause, Known]]:
        """Up to where all was evaluated (`NEVER`: it was not), and what is known."""
        async with self._lease.held() as connection:
            through_s = await connection.fetchval(_THROUGH, self._slot)
            rows = await connection.fetch(_KNOWN)
        return NEVER if through_s is None else through_s, {Cause(*row[:3]): _known(row) for row in rows}

    async def commit(self, changes: Changes) -> None:
        """Write all of it, or nothing."""
        async with self._lease.held() as connection, connection.transaction():
            for told in changes.events:
                for kind, sql in (("fired", _FIRED), ("worsened", _WORSENED), ("resolved", _RESOLVED)):
                    rows = [_row(each) for each in told if each.event.kind == kind]
                    for part in _slices(rows):
                        await connection.executemany(sql, part)
            if any(each.event.kind == "resolved" for told in changes.events for each in told):
                await connection.execute(_STOP_REPEATING)
            if changes.events:  # so that what is silenced says by whom
                await connection.execute(_SILENCE)
            for states in _slices(changes.states):
                await connection.executemany(_KEEP, [_kept(*each) for each in states])
            for causes in _slices(changes.forgotten):
                await connection.executemany(_FORGET, causes)
            await connection.execute(_EVALUATED, self._slot, _moment(changes.through_s))

    async def silence(self) -> bool:
        """Heed silences that began or ended. True: something is to be told now."""
        async with self._lease.held() as connection, connection.transaction():
            await connection.execute(_SILENCE)
            done: str = await connection.execute(_SPEAK)
        return done != "UPDATE 0"

    async def figures(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """Alerts that fire by severity, and deliveries by state."""
        async with self._lease.held() as connection:
            firing = {row[0]: row[1] for row in await connection.fetch(_FIRING)}
            deliveries = {row[0]: row[1] for row in await connection.fetch(_DELIVERIES)}
        return firing, deliveries


def _slices(rows: list[_Row]) -> Iterator[list[_Row]]:
    """Each has the time that a statement may take for itself."""
    return (rows[first : first + SLICE_ROWS] for first in range(0, len(rows), SLICE_ROWS))


def _known(row: Any) -> Known:
    memory = None if row["memory"] is None else row["memory"].encode()
    try:
        state = msgspec.json.decode(row["state"], type=CauseState)
    except msgspec.MsgspecError:  # written by hand, and wrong
        state = CauseState()
    return Known(state, memory, row["rule_version"])


def _kept(cause: Cause, known: Known, reason: str) -> tuple[Any, ...]:
    state = msgspec.json.encode(known.state).decode()
    return (*cause, known.version, state, reason, None if known.memory is None else known.memory.decode())


def _row(told: Told) -> tuple[Any, ...]:
    cause, event, rule = told
    seen = event.observation
    numbers = msgspec.json.encode(dict(seen.numbers)).decode()
    if event.kind == "resolved":
        return ("resolved", *cause, _moment(seen.at_s), seen.reason, numbers)
    if event.kind == "worsened":
        return ("firing", *cause, event.severity, seen.reason, numbers)
    assert rule is not None  # without a rule nothing fires
    told_as = rule.rule.summary or cause.rule_id
    times = _moment(event.since_s), _moment(seen.at_s)
    return (
        "firing", *cause, rule.version, event.severity, rule.rule.about, told_as, seen.reason, numbers, *times, rule.rule.sinks,
    )  # fmt: skip


def _moment(second: float) -> datetime:
    return datetime.fromtimestamp(second, UTC)
