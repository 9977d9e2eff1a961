"""`bench soak`: a steady load for a long time on an engine of its own; is it flat, and is it exact in the end?

Every 5 s it takes: the engine's resident memory, PostgreSQL's (proportional: shared pages count once), the WAL
that slot `judgify_cdc` has still to confirm, and how many answered judgments the rollup is behind. Flat means: over the
second half of the run, a line through the engine's memory rises by less than `MAX_GROWTH` of its mean (and of 16
MiB at least), and the WAL behind the slot neither rises steadily nor exceeds `MAX_WAL_BYTES`. PostgreSQL's memory is
shown, not judged: its cache fills until it is full.
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
from .dashboard import Dashboard
from .harness import Engine, EngineFailed, data_folder, free_port, running
from .load import figures_of, report_dashboard
from .loops import Load
from .recorder import Recorder
from .verify import Verdict, connect, verify_in_database

EVERY_S = 5.0
MAX_GROWTH = 0.05
MAX_GROWTH_BYTES = 16 * MIB
MAX_WAL_BYTES = 256 * MIB

_SAMPLE = """
    select (select coalesce(sum(total_executions), 0)::bigint from judgment_metrics_hourly) as rolled_up,
           pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint as unconfirmed_bytes,
           pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint as kept_bytes
    from (values (1)) one left join pg_replication_slots on slot_name = 'judgify_cdc'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench soak`."""
    parser.description = "A steady load on an engine of its own: memory flat, WAL not piling up, totals exact."
    parser.add_argument("--rate", type=float, default=5000.0, help="judgments per second (default: 5000)")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long (default: 600)")
    parser.add_argument("--users", type=int, default=128, help="connections (default: 128)")
    parser.add_argument("--port", type=int, default=0, help="of the engine (default: any free one)")
    parser.add_argument("--data-dir", type=Path, help="kept afterwards (default: a temporary one)")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON (-: standard output)")


def run(args: argparse.Namespace) -> int:
    """Load, sample, judge; 0 when flat and exact, 1 when not, 2 for wrong usage."""
    if not (args.rate > 0 and args.seconds > 0 and args.users > 0):
        print("bench soak: --rate, --seconds and --users must be positive", file=sys.stderr)
        return 2
    with report.tables_apart(args.json), data_folder(args.data_dir, "soak") as folder:
        engine = Engine(folder, args.port or free_port())
        try:
            with running(engine):
                return uvloop.run(_soak(args, engine))
        except EngineFailed as error:
            report.note(f"bench soak: {error}")
            return 1


async def _soak(args: argparse.Namespace, engine: Engine) -> int:
    await engine.wait_ready()
    before = await verify_in_database(engine.dsn, b"")
    if before.stored is None or not before.is_good:
        report.note(f"bench soak: the database is not in order to begin with: {before.line()}")
        return 1
    recorder, dashboard, stop = Recorder(), Dashboard(engine.target), asyncio.Event()
    load = Load(engine.target, recorder, args.users, rate_per_s=args.rate)
    samples: list[dict[str, float]] = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(dashboard.watch(stop), name="bench-dashboard")
        tasks.create_task(_sample(engine, recorder, before.stored, samples, stop), name="bench-sampler")
        try:
            await load.run(args.seconds)
        finally:
            stop.set()
    verdict = await verify_in_database(engine.dsn, recorder.ids)
    return _report(args, load, recorder, dashboard, samples, verdict, before.stored)


async def _sample(engine: Engine, recorder: Recorder, base: int, samples: list[dict[str, float]], stop: asyncio.Event) -> None:
    print(report.table(_HEADS, [_WIDE]).splitlines()[0], flush=True)
    began_s = time.perf_counter()
    while not stop.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(EVERY_S):
                await stop.wait()
        if stop.is_set():
            return
        answered = recorder.answered
        try:
            async with connect(engine.dsn) as connection:
                row = await connection.fetchrow(_SAMPLE)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            report.note(f"bench soak: no sample: {type(error).__name__}: {error}")
            continue
        engine_bytes, postgres_bytes = await asyncio.to_thread(_memory, engine)
        samples.append(
            {
                "at_s": time.perf_counter() - began_s,
                "answered": answered,
                "engine_bytes": engine_bytes,
                "postgres_bytes": postgres_bytes,
                "wal_unconfirmed_bytes": row["unconfirmed_bytes"] or 0,
                "wal_kept_bytes": row["kept_bytes"] or 0,
                # Answers read before the rollup was: a lag of 0 can show as slightly negative, never the other way.
                "rollup_behind": base + answered - row["rolled_up"],
            }
        )
        print(_line(samples[-1]), flush=True)


def _memory(engine: Engine) -> tuple[int, int]:
    """(resident bytes of the engine, proportional ones of PostgreSQL)."""
    engine_bytes = postgres_bytes = 0
    own, postgres = engine.processes()
    for process in own:
        with suppress(psutil.Error):
            engine_bytes += process.memory_info().rss
    for process in postgres:
        with suppress(psutil.Error):
            full = process.memory_full_info()
            postgres_bytes += getattr(full, "pss", full.rss)
    return engine_bytes, postgres_bytes


_HEADS = ("at s", "answered", "engine MiB", "postgres MiB", "WAL unconfirmed MiB", "WAL kept MiB", "rollup behind")
_WIDE = ("-" * 7, *("-" * len(head) for head in _HEADS[1:]))


def _line(sample: dict[str, float]) -> str:
    cells = [
        f"{sample['at_s']:.0f}",
        f"{sample['answered']:,}",
        *(
            f"{sample[name] / MIB:,.1f}"
            for name in ("engine_bytes", "postgres_bytes", "wal_unconfirmed_bytes", "wal_kept_bytes")
        ),
        f"{sample['rollup_behind']:,}",
    ]
    widths = [len(wide) for wide in _WIDE]
    return "  ".join(
        cell.ljust(width) if n == 0 else cell.rjust(width) for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )


def judge_flatness(samples: list[dict[str, float]]) -> list[str]:
    """What is not flat over the second half of `samples`; empty when all is."""
    half = samples[len(samples) // 2 :]
    if len(half) < 3:
        return ["too short to tell: fewer than 3 samples in the second half"]
    times_s = [sample["at_s"] for sample in half]
    span_s = times_s[-1] - times_s[0]
    complaints = []
    memory = [sample["engine_bytes"] for sample in half]
    growth_bytes = report.slope_per_s(times_s, memory) * span_s
    allowed_bytes = max(MAX_GROWTH * sum(memory) / len(memory), MAX_GROWTH_BYTES)
    if growth_bytes > allowed_bytes:
        complaints.append(f"the engine's memory grew by {growth_bytes / MIB:.1f} MiB in {span_s:.0f} s")
    wal = [sample["wal_unconfirmed_bytes"] for sample in half]
    rise_bytes = report.slope_per_s(times_s, wal) * span_s
    # What grows steadily from the start rises by two thirds of its mean over the second half.
    if rise_bytes > max(sum(wal) / len(wal) / 2, MAX_GROWTH_BYTES):
        complaints.append(f"the WAL behind the slot rose by {rise_bytes / MIB:.1f} MiB in {span_s:.0f} s")
    if max(wal) > MAX_WAL_BYTES:
        complaints.append(f"the WAL behind the slot reached {max(wal) / MIB:.0f} MiB")
    return complaints


def _report(
    args: argparse.Namespace,
    load: Load,
    recorder: Recorder,
    dashboard: Dashboard,
    samples: list[dict[str, float]],
    verdict: Verdict,
    base: int,
) -> int:
    figures: dict[str, Any] = figures_of(load, recorder)
    complaints = judge_flatness(samples)
    if not verdict.is_good:
        complaints.append("not every answered judgment is stored and rolled up")
    elif verdict.stored != base + recorder.answered and not (recorder.cut or recorder.timeouts):
        complaints.append(f"{verdict.stored:,} rows for {base + recorder.answered:,} answers")
    if not recorder.is_clean:
        complaints.append(f"not every answer was good: {recorder.complaints()}")
    print(f"bench soak: {args.rate:g}/s for {args.seconds:g} s over {args.users} connections")
    heads = ("answered", "per_s", "p50_ms", "p95_ms", "p99_ms", "max_ms", "late", "unsent")
    print(report.table(heads, [[figures[name] for name in heads]]))
    print(f"verified: {verdict.line()}")
    print(f"dashboard: {report_dashboard(dashboard)}")
    for complaint in complaints:
        print(f"NOT GOOD: {complaint}")
    print("FLAT AND EXACT" if not complaints else "FAILED")
    report.write_json(
        {**figures, "samples": samples, "verified": vars(verdict), "complaints": complaints, "good": not complaints},
        args.json,
    )
    return 1 if complaints else 0
