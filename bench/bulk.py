"""`bench bulk`: one INSERT of millions of rows in one transaction, as in psql, on an engine of its own; does it flow through?

PostgreSQL hands a transaction over when it commits, and then all of it at once. So the clock for the engine starts at the
commit. Sampled meanwhile: the engine's resident memory, the log that the slot keeps, and what PostgreSQL wrote to disk to put
the transaction in order. The rows are one tenant's, of 10 workflows and the last 24 hours, in the order of time. In the end
the rollups are compared with the table, hour by hour. Good means: equal, and the engine's memory grew by less than
`MAX_GROWTH_BYTES`.
"""

import argparse
import asyncio
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import uvloop

from judgify_engine.units import MIB

from . import report
from .harness import Engine, EngineFailed, data_folder, free_port, running
from .verify import connect

EVERY_S = 0.5
SHOWN_EVERY_S = 5.0
MAX_GROWTH_BYTES = 96 * MIB
TIMEOUT_S = 3600.0
_IMPORT = """
    insert into judgment_executions (tenant_id, workflow_id, input_data, final_result, confidence_score, method_used, status,
                                     execution_time_ms, created_at)
    select 'bulk', 'workflow-' || n % 10, jsonb_build_object('temperature', 60 + n % 400 / 10.0, 'machine', n % 100),
           jsonb_build_object('verdict', case when n % 10 = 0 then 'inspect' else 'ok' end), (n % 101) / 100.0,
           'rule', case when n % 97 = 0 then 'failed' else 'completed' end,
           (n % 20000) / 1000.0, date_trunc('hour', now()) - interval '24 hours' * (1 - n::double precision / $1)
      from generate_series(1, $1::bigint) n
"""
_SAMPLE = """
    select (select coalesce(sum(total_executions), 0)::bigint from judgment_metrics_total) as rolled_up,
           (select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint from pg_replication_slots
             where slot_name = 'judgify_cdc') as kept_bytes,
           (select coalesce(sum(size), 0)::bigint from pg_ls_replslotdir('judgify_cdc')) as spilled_bytes
"""
_DIFFERENT = """
    select count(*) from (
      select tenant_id, workflow_id, date_trunc('hour', created_at, 'UTC') as hour, count(*) as total,
             count(*) filter (where status = 'completed') as successful,
             sum(round(execution_time_ms * 1000))::bigint as us, sum(round(confidence_score * 1000000))::bigint as ppm
        from judgment_executions group by 1, 2, 3) t
      full join judgment_metrics_hourly m using (tenant_id, workflow_id, hour)
     where (t.total, t.successful, t.us, t.ppm) is distinct from
           (m.total_executions, m.successful_executions, m.execution_time_us_sum, m.confidence_ppm_sum)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench bulk`."""
    parser.description = "A bulk import in one transaction on an engine of its own: bounded memory, exact rollups."
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows in the transaction (default: 5000000)")
    parser.add_argument("--port", type=int, default=0, help="of the engine (default: any free one)")
    parser.add_argument("--data-dir", type=Path, help="kept afterwards (default: a temporary one)")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON (-: standard output)")


def run(args: argparse.Namespace) -> int:
    """Import, sample, compare; 0 when exact and bounded, 1 when not, 2 for wrong usage."""
    if args.rows < 1:
        print("bench bulk: --rows must be positive", file=sys.stderr)
        return 2
    with report.tables_apart(args.json), data_folder(args.data_dir, "bulk") as folder:
        engine = Engine(folder, args.port or free_port())
        try:
            with running(engine):
                return uvloop.run(_bulk(args, engine))
        except EngineFailed as error:
            report.note(f"bench bulk: {error}")
            return 1


async def _bulk(args: argparse.Namespace, engine: Engine) -> int:
    await engine.wait_ready()
    async with connect(engine.dsn) as importer, connect(engine.dsn) as looker:
        await _import(importer, 20_000)  # what grows once: code, plans, buffers
        if not await _rolled_up(looker, 20_000):
            report.note("bench bulk: the first rows were not rolled up")
            return 1
        base_bytes = _memory(engine)
        samples: list[dict[str, float]] = []
        sampling = asyncio.create_task(_sample(engine, looker, args.rows + 20_000, samples), name="bench-sampler")
        began_s = time.perf_counter()
        try:
            await _import(importer, args.rows)
            insert_s = time.perf_counter() - began_s
            done = await sampling
        finally:
            sampling.cancel()
        rollup_s = time.perf_counter() - began_s - insert_s
        different = await importer.fetchval(_DIFFERENT, timeout=TIMEOUT_S)
        database_bytes = await importer.fetchval("select pg_database_size(current_database())")
    figures: dict[str, Any] = {
        "rows": args.rows,
        "insert_s": insert_s,
        "rollup_s": rollup_s,
        "rows_per_s": args.rows / rollup_s if done else 0.0,
        "engine_mib_before": base_bytes / MIB,
        "engine_mib_peak": max(sample["engine_bytes"] for sample in samples) / MIB,
        "wal_kept_mib_peak": max(sample["kept_bytes"] for sample in samples) / MIB,
        "spilled_mib_peak": max(sample["spilled_bytes"] for sample in samples) / MIB,
        "database_mib": database_bytes / MIB,
        "different_hours": different,
    }
    return _report(args, figures, samples, done)


async def _import(connection: Any, rows: int) -> None:
    await connection.execute(_IMPORT, rows, timeout=TIMEOUT_S)


async def _rolled_up(connection: Any, rows: int) -> bool:
    """Wait until so many are rolled up, at most a minute."""
    for _ in range(int(60 / EVERY_S)):
        if (await connection.fetchrow(_SAMPLE))["rolled_up"] >= rows:
            return True
        await asyncio.sleep(EVERY_S)
    return False


def _memory(engine: Engine) -> int:
    """Resident bytes of the engine, without PostgreSQL."""
    total = 0
    for process in engine.processes()[0]:
        with suppress(psutil.Error):
            total += process.memory_info().rss
    return total


_HEADS = ("at s", "rolled up", "engine MiB", "WAL kept MiB", "spilled MiB")


async def _sample(engine: Engine, connection: Any, rows: int, samples: list[dict[str, float]]) -> bool:
    """Until all are rolled up. False: that did not happen within `TIMEOUT_S`."""
    print(report.table(_HEADS, []), flush=True)
    began_s = shown_s = time.perf_counter()
    while (now_s := time.perf_counter()) - began_s < TIMEOUT_S:
        try:
            row = await connection.fetchrow(_SAMPLE)
        except asyncpg.PostgresError as error:  # a file of the slot went away while they were listed
            report.note(f"bench bulk: no sample: {error}")
            await asyncio.sleep(EVERY_S)
            continue
        sample = {"at_s": now_s - began_s, **{name: row[name] or 0 for name in row.keys()}, "engine_bytes": _memory(engine)}  # noqa: SIM118
        samples.append(sample)
        done = row["rolled_up"] >= rows
        if done or now_s - shown_s >= SHOWN_EVERY_S:
            shown_s = now_s
            mib = (sample[name] / MIB for name in ("engine_bytes", "kept_bytes", "spilled_bytes"))
            print(f"{sample['at_s']:>6.0f}  {row['rolled_up']:>12,}  " + "  ".join(f"{one:>10,.0f}" for one in mib), flush=True)
        if done:
            return True
        await asyncio.sleep(EVERY_S)
    return False


def _report(args: argparse.Namespace, figures: dict[str, Any], samples: list[dict[str, float]], done: bool) -> int:
    complaints = []
    if not done:
        complaints.append(f"not all was rolled up within {TIMEOUT_S:.0f} s")
    if figures["different_hours"]:
        complaints.append(f"{figures['different_hours']:,} hours differ from the table")
    growth_mib = figures["engine_mib_peak"] - figures["engine_mib_before"]
    if growth_mib * MIB > MAX_GROWTH_BYTES:
        complaints.append(f"the engine's memory grew by {growth_mib:.0f} MiB")
    print(f"bench bulk: {args.rows:,} rows in one transaction")
    print(report.table(tuple(figures), [list(figures.values())]))
    for complaint in complaints:
        print(f"NOT GOOD: {complaint}")
    print("BOUNDED AND EXACT" if not complaints else "FAILED")
    report.write_json({**figures, "samples": samples, "complaints": complaints, "good": not complaints}, args.json)
    return 1 if complaints else 0
