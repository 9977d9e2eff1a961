"""Tracked values of judgments that retention drops (`judgment_kept_values`).

All else that is rolled up has the time of its judgment's creation, so before the boundary of retention the rollups stay as they
are. Tracked values have the time at which they occurred, which may be any: a judgment that stays may have values of before the
boundary, and one that leaves values of after it. So what leaves is kept here, in buckets, and with it and the table the whole
past of a metric can be computed anew (store/recompute).

A partition may take hours. So it is detached first (`judgment_leaving`): nothing in it changes any more, and each slice of its
keys is a short transaction that also moves `kept_before`. A value is either kept, or of a key from there on: at any moment, in
any snapshot, exactly once. A stop, a crash or a drop that has to wait loses a slice at most.
"""

from datetime import datetime
from typing import Any

import msgspec

from judgify_engine.core.samples import FINE_S, HOUR_S
from judgify_engine.core.tracking import ranges
from judgify_engine.store.recompute import SAMPLE_NAMES, TIMEOUT_S, grouped, tracked
from judgify_engine.store.tracking import read_versions

SLICE_ROWS = 10_000
"""Judgments whose values are kept in one transaction: 0.1 s for small ones of which one field is tracked."""
_NEXT = """
SELECT kept_before AS start, (SELECT id FROM {table} WHERE id >= kept_before ORDER BY id OFFSET $1 LIMIT 1) AS stop
  FROM judgment_retention
"""
_MERGE = f"""
WITH taken AS (
  DELETE FROM judgment_kept_values WHERE width_s = {FINE_S} AND bucket < $1 RETURNING *
), wide AS (
  SELECT date_trunc('hour', bucket, 'UTC') AS hour, * FROM taken
), histograms AS (
  SELECT tenant_id, workflow_id, metric_name, hour, method, status, array_agg(slot ORDER BY slot) AS slots,
         array_agg(n ORDER BY slot) AS counts
    FROM (SELECT tenant_id, workflow_id, metric_name, hour, method, status, slot, sum(n)::bigint AS n
            FROM wide CROSS JOIN LATERAL unnest(slots, counts) AS u(slot, n) GROUP BY 1, 2, 3, 4, 5, 6, 7) AS by_slot
   GROUP BY 1, 2, 3, 4, 5, 6
)
INSERT INTO judgment_kept_values (width_s, {SAMPLE_NAMES})
SELECT {HOUR_S}, tenant_id, workflow_id, metric_name, hour, method, status, sum(count), sum(sum), min(low), max(high),
       h.slots, h.counts
  FROM wide JOIN histograms AS h USING (tenant_id, workflow_id, metric_name, hour, method, status)
 GROUP BY tenant_id, workflow_id, metric_name, hour, method, status, h.slots, h.counts
"""


def keeping(table: str) -> str:
    """A statement that keeps the values of all judgments in `table`; its parameter `$1` is what `tracks` gives."""
    return (
        f"INSERT INTO judgment_kept_values (width_s, {SAMPLE_NAMES})"
        f" SELECT {FINE_S}, * FROM ({grouped(tracked(table), FINE_S)}) AS g({SAMPLE_NAMES})"
    )


async def tracks(connection: Any) -> str:
    """What workflows track, as JSON."""
    return msgspec.json.encode(ranges(await read_versions(connection))).decode()


async def keep_slice(connection: Any, table: str, which: str) -> bool:
    """Keep the next slice of the detached `table`, in the connection's transaction. False: it is the last, and not kept yet."""
    if which == "[]":
        return False
    start, stop = await connection.fetchrow(_NEXT.format(table=table), SLICE_ROWS)
    if stop is None:
        return False
    await connection.execute(keeping(f"{table} WHERE id >= $2 AND id < $3"), which, start, stop, timeout=TIMEOUT_S)
    await connection.execute("UPDATE judgment_retention SET kept_before = $1", stop)
    return True


async def keep_last(connection: Any, table: str, which: str) -> None:
    """Keep the last slice, in the transaction that drops the table. Before the next one leaves, nothing of it is kept."""
    if which != "[]":
        last = f"{table} WHERE id >= (SELECT kept_before FROM judgment_retention)"
        await connection.execute(keeping(last), which, timeout=TIMEOUT_S)
    # Who has read the mark, but not yet the table, has to start over: the boundary counts as moved.
    await connection.execute("UPDATE judgment_retention SET kept_before = DEFAULT, updated_at = now()")


async def merge(connection: Any, before: datetime) -> None:
    """Merge the buckets of hours that are over by then into one: the narrow ones are in no chart any more."""
    await connection.execute(_MERGE, before.replace(minute=0, second=0, microsecond=0), timeout=TIMEOUT_S)
