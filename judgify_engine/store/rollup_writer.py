"""Deltas to the rollup tables, each exactly once: the position moves in the same transaction.

The transaction does nothing unless the stored position is the one that the delta starts from. So a delta that was committed
unseen (the connection broke) or that a process applies after another took over changes nothing a second time. The rollups may
live in another database than the judgments; the position lives with them.
"""

import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg

from judgify_engine.core.counts import counts_by_bucket
from judgify_engine.core.healing import Finding, Publication, Server, Stored
from judgify_engine.core.rollup import Delta
from judgify_engine.core.samples import HOUR_S, Windows, buckets_of, kept
from judgify_engine.core.tracking import Tracking
from judgify_engine.errors import DatabaseUnavailable, Unavailable
from judgify_engine.store import counts, gaps, recompute
from judgify_engine.store.pool import AWAY, Database
from judgify_engine.store.retention import boundary_of, retained_from
from judgify_engine.store.tracking import read_tracking
from judgify_engine.units import Position, format_lsn, parse_lsn
from judgify_engine.wire.pgtext import SAMPLE_COLUMNS, SampleTexts, array_literal, encode_samples, real

log = logging.getLogger(__name__)

SWAP_LOCK = 0x6A756467_00000004
"""Held by who moves or replaces samples, so that none is counted twice or lost between two of them."""
APPLY_TIMEOUT_S = 300.0
"""A delta of a bulk import may touch a hundred thousand buckets."""
RETAKE_AFTER_S = 60
"""Hours of which values were taken back are computed anew after so long, together with what else is taken back meanwhile."""

_TYPES = {"t": "text", "n": "bigint", "f": "double precision"}


def _arrays(first: int, types: str) -> str:
    """The rows of arrays that come as texts, in the parameters from `first` on."""
    # As texts: asyncpg looks at each element of an array by itself, which took a third of a flush.
    return "unnest(" + ", ".join(f"${first + n}::text::{_TYPES[one]}[]" for n, one in enumerate(types)) + ")"


# The order of columns: _hourly_columns, _result_columns, _bucket_columns, …, _count_columns.
_APPLY = """
WITH moved AS (
  UPDATE cdc_positions SET commit_lsn = $2::text::pg_lsn, change_index = $3, updated_at = now(),
         counted_lsn = $2::text::pg_lsn, counted_index = $3
   WHERE slot_name = $1 AND commit_lsn = $4::text::pg_lsn AND change_index = $5 RETURNING 1
), d AS (
  SELECT * FROM {hourly}
      AS d(tenant, workflow, hour, total, failed, rule, llm, hybrid, us, ppm) WHERE EXISTS (SELECT FROM moved)
), r AS (
  SELECT * FROM {results}
      AS r(tenant, workflow, hour, result, total) WHERE EXISTS (SELECT FROM moved)
), hourly AS (
  INSERT INTO judgment_metrics_hourly AS m (tenant_id, workflow_id, hour, total_executions, successful_executions,
    rule_executions, llm_executions, hybrid_executions, execution_time_us_sum, confidence_ppm_sum)
  SELECT tenant, workflow, to_timestamp(hour), total, total - failed, rule, llm, hybrid, us, ppm FROM d
  ON CONFLICT (tenant_id, workflow_id, hour) DO UPDATE SET {add_sums}
), total AS (
  INSERT INTO judgment_metrics_total AS m (tenant_id, workflow_id, total_executions, successful_executions,
    rule_executions, llm_executions, hybrid_executions, execution_time_us_sum, confidence_ppm_sum)
  SELECT tenant, workflow, sum(total), sum(total - failed), sum(rule), sum(llm), sum(hybrid), sum(us), sum(ppm)
    FROM d GROUP BY tenant, workflow
  ON CONFLICT (tenant_id, workflow_id) DO UPDATE SET {add_sums}
), results AS (
  INSERT INTO judgment_results_hourly AS m (tenant_id, workflow_id, hour, result, total_executions)
  SELECT tenant, workflow, to_timestamp(hour), result, total FROM r
  ON CONFLICT (tenant_id, workflow_id, hour, result) DO UPDATE SET
    total_executions = m.total_executions + excluded.total_executions
), results_total AS (
  INSERT INTO judgment_results_total AS m (tenant_id, workflow_id, result, total_executions)
  SELECT tenant, workflow, result, sum(total) FROM r GROUP BY tenant, workflow, result
  ON CONFLICT (tenant_id, workflow_id, result) DO UPDATE SET
    total_executions = m.total_executions + excluded.total_executions
), buckets AS (
  INSERT INTO judgment_metrics_buckets AS m (tenant_id, workflow_id, metric_name, width_s, bucket, count, failed, sum, minimum,
    maximum, slots, counts)
  SELECT tenant, workflow, metric, width, to_timestamp(bucket), count, failed, sum::numeric, low, high, slots::integer[],
         counts::bigint[]
    FROM {buckets}
      AS b(tenant, workflow, metric, width, bucket, count, failed, sum, low, high, slots, counts)
   WHERE EXISTS (SELECT FROM moved)
  ON CONFLICT (tenant_id, workflow_id, metric_name, width_s, bucket) DO UPDATE SET
    count = m.count + excluded.count, failed = m.failed + excluded.failed, sum = m.sum + excluded.sum,
    minimum = least(m.minimum, excluded.minimum), maximum = greatest(m.maximum, excluded.maximum),
    (slots, counts) = (
      SELECT coalesce(array_agg(slot ORDER BY slot), '{{}}'), coalesce(array_agg(n ORDER BY slot), '{{}}')
        FROM (SELECT slot, sum(n)::bigint AS n
                FROM (SELECT * FROM unnest(m.slots, m.counts) UNION ALL SELECT * FROM unnest(excluded.slots, excluded.counts))
                  AS both_of_them(slot, n)
               GROUP BY slot HAVING sum(n) <> 0) AS added)
), counted AS (
  INSERT INTO judgment_metrics_buckets AS m (tenant_id, workflow_id, metric_name, width_s, bucket, count, failed, sum, slots,
    counts)
  SELECT tenant, workflow, metric, width, to_timestamp(bucket), count, 0, 0, '{{}}', '{{}}'
    FROM {counted} AS c(tenant, workflow, metric, width, bucket, count) WHERE EXISTS (SELECT FROM moved)
  ON CONFLICT (tenant_id, workflow_id, metric_name, width_s, bucket) DO UPDATE SET count = m.count + excluded.count
), retaken AS (
  INSERT INTO rollup_repairs (slot_name, range_from, range_to, reason, not_before)
  SELECT $1, to_timestamp(low), to_timestamp(high), 'taken_back', now() + make_interval(secs => {retake_after_s})
    FROM {taken_back} AS t(low, high)
   WHERE EXISTS (SELECT FROM moved)
     AND NOT EXISTS (SELECT FROM rollup_repairs WHERE slot_name = $1 AND finished_at IS NULL AND not_before > now()
                        AND range_from <= to_timestamp(low) AND range_to >= to_timestamp(high))
), quality AS (
  INSERT INTO judgment_quality_hourly AS m (tenant_id, workflow_id, hour, source, kind, count)
  SELECT tenant, workflow, to_timestamp(hour), source, kind, count
    FROM {quality}
      AS q(tenant, workflow, hour, source, kind, count) WHERE EXISTS (SELECT FROM moved)
  ON CONFLICT (tenant_id, hour, workflow_id, source, kind) DO UPDATE SET count = m.count + excluded.count
), streamed AS (
  INSERT INTO judgments_streamed AS m (tenant_id, hour, inserted, deleted)
  SELECT tenant, to_timestamp(hour), inserted, deleted
    FROM {streamed} AS s(tenant, hour, inserted, deleted)
   WHERE EXISTS (SELECT FROM moved)
  ON CONFLICT (hour, tenant_id) DO UPDATE SET inserted = m.inserted + excluded.inserted, deleted = m.deleted + excluded.deleted
)
SELECT count(*) FROM moved
""".format(
    hourly=_arrays(6, "ttnnnnnnnn"),
    results=_arrays(16, "ttntn"),
    buckets=_arrays(21, "tttnnnntfftt"),
    taken_back=_arrays(33, "nn"),
    quality=_arrays(35, "ttnttn"),
    streamed=_arrays(41, "tnnn"),
    counted=_arrays(45, "tttnnn"),
    add_sums="""
    total_executions = m.total_executions + excluded.total_executions,
    successful_executions = m.successful_executions + excluded.successful_executions,
    rule_executions = m.rule_executions + excluded.rule_executions,
    llm_executions = m.llm_executions + excluded.llm_executions,
    hybrid_executions = m.hybrid_executions + excluded.hybrid_executions,
    execution_time_us_sum = m.execution_time_us_sum + excluded.execution_time_us_sum,
    confidence_ppm_sum = m.confidence_ppm_sum + excluded.confidence_ppm_sum""",
    retake_after_s=RETAKE_AFTER_S,
)


class Fenced(Unavailable):
    """The stored position is not where this process left it: another one reads the log now."""

    code, title = "fenced", "Another process reads the log"


class RollupStore:
    """Writes the rollups over one connection of its own, which belongs to the holder of the slot."""

    def __init__(self, judgments: Database, connection: "asyncpg.Connection[Any]", slot: str, windows: Windows) -> None:
        self._judgments, self._connection, self._slot, self._windows = judgments, connection, slot, windows

    async def stored(self) -> Stored | None:
        """Up to where the rollups are computed, and what that belongs to; None: never, or they are not whole."""
        row = await self._connection.fetchrow(
            "SELECT commit_lsn::text AS lsn, change_index, system_identifier, timeline, publication,"
            f" {counts.ARE_COUNTED} AS counted FROM cdc_positions WHERE slot_name = $1",
            self._slot,
        )
        if row is None:
            return None
        position = Position(parse_lsn(row["lsn"]), row["change_index"])
        return Stored(position, row["system_identifier"], row["timeline"], row["publication"], row["counted"])

    async def used(self) -> bool:
        """Whether there are rollups."""
        return bool(await self._connection.fetchval("SELECT EXISTS (SELECT FROM judgment_metrics_total)"))

    async def apply(self, delta: Delta) -> None:
        """Commit a delta with its position. Raises Fenced, or DatabaseUnavailable (then it may or may not be committed)."""
        try:
            async with self._connection.transaction():
                if delta.truncated:
                    await self._connection.execute("SELECT pg_advisory_xact_lock($1)", SWAP_LOCK, timeout=recompute.TIMEOUT_S)
                    await recompute.empty(self._connection, await self._kept_span())
                await add(self._connection, self._slot, delta, self._windows)
        except AWAY as error:
            raise DatabaseUnavailable("PostgreSQL is away; the rollup goes on when it is back") from error

    async def belongs_to(self, server: Server, publication: Publication) -> None:
        """Keep what the position belongs to, where it is not known or may rightly be another."""
        await self._connection.execute(
            "UPDATE cdc_positions SET system_identifier = $2, timeline = $3, publication = $4 WHERE slot_name = $1"
            " AND (system_identifier, timeline, publication) IS DISTINCT FROM ($2, $3, $4)",
            self._slot,
            server.system_identifier,
            server.timeline,
            publication.fingerprint,
        )

    async def open_gap(self, finding: Finding) -> gaps.OpenGap:
        """Before a new slot is made: until the rollups are computed, there is no position, so a crash starts over."""
        return await gaps.begin(self._connection, self._slot, finding)

    async def gap_failed(self, rollups: Database, gap: gaps.OpenGap, reason: str) -> None:
        """Keep why it could not be closed. Raises DatabaseUnavailable or Overloaded."""
        await gaps.failed(rollups, gap, reason)

    async def rebuild(self, snapshot: str, new: Stored, gap: gaps.OpenGap) -> None:
        """Compute all rollups from the table, as of an exported snapshot, and set the position to where a new slot starts.

        In one transaction, which also closes the gap: a crash leaves what was there before.
        """
        target = self._connection
        async with self._judgments.session(snapshot) as source:
            boundary = await boundary_of(source)
            # What is there now stays until it is read; what was dropped before keeps its rollups; tracked values are kept.
            await source.execute("LOCK TABLE judgment_executions, judgment_leaving IN ACCESS SHARE MODE")
            async with self._judgments.query() as connection:
                if await boundary_of(connection) != boundary:  # by then the snapshot was older than the table
                    raise Unavailable("old judgments were dropped meanwhile")
            span = recompute.Span(boundary.retained_from or recompute.ALL.start, recompute.ALL.end, boundary.values_from)
            await recompute.prepare(source, target, span, self._windows)
            source_rows = await source.fetch(recompute.REFUSED, timeout=recompute.TIMEOUT_S)
        async with target.transaction():
            await target.execute("SELECT pg_advisory_xact_lock($1)", SWAP_LOCK, timeout=recompute.TIMEOUT_S)
            await gaps.count_before(target, gap)
            await target.execute("DELETE FROM reconciliation WHERE slot_name = $1", self._slot)
            await recompute.empty(target, span)
            await recompute.swap(target, span)
            await counts.derive_before(target, span.start)
            await recompute.count_refused(source_rows, target)
            await gaps.close(target, gap, format_lsn(new.position.lsn))
            await target.execute(
                "INSERT INTO cdc_positions (slot_name, commit_lsn, change_index, counted_lsn, counted_index,"
                " system_identifier, timeline, publication)"
                " VALUES ($1, $2::text::pg_lsn, $3, $2::text::pg_lsn, $3, $4, $5, $6)",
                self._slot,
                format_lsn(new.position.lsn),
                new.position.index,
                *(new.system_identifier, new.timeline, new.publication),
            )
        await target.execute("DISCARD TEMP")

    async def _kept_span(self) -> recompute.Span:
        """From when on all judgments are there."""
        async with self._judgments.query() as connection:
            start = await retained_from(connection) or recompute.ALL.start
        return recompute.Span(start, recompute.ALL.end, start)

    async def tracking(self) -> Tracking:
        """What workflows track, as far back as there are versions. Raises DatabaseUnavailable or Overloaded."""
        return await read_tracking(self._judgments)


async def add(connection: Any, slot: str, delta: Delta, windows: Windows) -> None:
    """Add a delta and move the position, in the connection's transaction.

    Raises Fenced when the position is not the delta's base; then nothing was done.
    """
    bounds = (format_lsn(delta.position.lsn), delta.position.index, format_lsn(delta.base.lsn), delta.base.index)
    now_s = delta.last_commit_us // 1_000_000
    texts = SampleTexts()
    buckets = _bucket_columns(delta, now_s, windows, texts)
    streamed = _columns([(*key, *counts) for key, counts in delta.streamed.items()], 4)
    wrong = _columns([(*key, count) for key, count in delta.quality.items() if count], 6)
    others = *_ranges(delta.taken_back), *wrong, *streamed, *_count_columns(delta, now_s, windows)
    columns = *_hourly_columns(delta), *_result_columns(delta), *buckets, *others
    arrays = [array_literal(column) for column in columns]
    if not await connection.fetchval(_APPLY, slot, *bounds, *arrays, timeout=APPLY_TIMEOUT_S):
        raise Fenced("the rollups were moved by another process")
    samples = kept(delta.samples, now_s, windows)
    if samples:
        times = {second: time_text(second) for second in {key[3] for key, _ in samples}}
        data = encode_samples(samples, times, texts)
        await connection.copy_to_table(
            "judgment_metrics_timeseries", source=_once(data), columns=SAMPLE_COLUMNS, timeout=APPLY_TIMEOUT_S
        )


async def stored_position(connection: Any, slot: str) -> Position | None:
    """Up to where the rollups are computed, as this connection's transaction sees it; None: they are not whole."""
    row = await connection.fetchrow(
        f"SELECT commit_lsn::text AS lsn, change_index FROM cdc_positions WHERE slot_name = $1 AND {counts.ARE_COUNTED}", slot
    )
    return Position(parse_lsn(row["lsn"]), row["change_index"]) if row else None


def time_text(second: int) -> str:
    """A Unix second as a text that PostgreSQL reads."""
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S+00}"


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _hourly_columns(delta: Delta) -> list[list[Any]]:
    rows = [
        (*key, s.total, s.failed, s.rule, s.llm, s.hybrid, s.execution_time_us, s.confidence_ppm)
        for key, s in delta.by(HOUR_S).items()
    ]
    return _columns(rows, 10)


def _result_columns(delta: Delta) -> list[list[Any]]:
    return _columns([(*key, total) for key, total in delta.results.items() if total], 5)


def _bucket_columns(delta: Delta, now_s: int, windows: Windows, texts: SampleTexts) -> list[list[Any]]:
    rows = []
    for key, s in buckets_of(delta.samples, now_s, windows).items():
        total, *arrays = texts.of(s)
        rows.append((*key, s.count, s.failed, total, real(s.minimum), real(s.maximum), *arrays))
    return _columns(rows, 12)


def _count_columns(delta: Delta, now_s: int, windows: Windows) -> list[list[Any]]:
    return _columns([(*key, count) for key, count in counts_by_bucket(delta.counts, now_s, windows).items()], 6)


def _ranges(hours: set[int]) -> tuple[list[int], list[int]]:
    """The hours as ranges of neighbours."""
    starts = [hour for hour in sorted(hours) if hour - HOUR_S not in hours]
    return starts, [hour + HOUR_S for hour in sorted(hours) if hour + HOUR_S not in hours]


def _columns(rows: list[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """Rows to columns, as `unnest` takes them."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
