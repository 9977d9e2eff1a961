"""`bench rollup`: what the way back from the log costs, in this process and on a PostgreSQL of its own.

Another process writes judgments by COPY, as the engine does; this one reads the log with the engine's own parts (receive,
decode, rollup, samples, buckets) and nothing else. Two measurements: at a fixed rate, the CPU time of this process for each
judgment; and, with the log full of work, how many rows per second of its one core it sustains. What of the first is receiving
and decoding is measured apart, at the same rate. In the end the rollups must equal the table.
"""

import argparse
import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import uuid_utils
import uvloop

from judgify_engine.cdc.replication import Replication
from judgify_engine.config import Config
from judgify_engine.core.healing import Finding, Stored
from judgify_engine.core.model import Change, Judgment
from judgify_engine.core.rollup import Delta
from judgify_engine.core.samples import Windows
from judgify_engine.errors import DatabaseUnavailable
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.change_loop import GATHER_S, WANTED, ChangeLoop
from judgify_engine.store import metrics_upkeep, migrate, upkeep
from judgify_engine.store.embedded import EmbeddedPostgres
from judgify_engine.store.pool import Database
from judgify_engine.store.rollup_writer import RollupStore
from judgify_engine.units import Position
from judgify_engine.wire import pgcopy
from judgify_engine.wire.pgoutput import Decoder

from . import report
from .harness import data_folder

ROWS_PER_COPY = 500
TENANT, WORKFLOWS = "bench", 10
WINDOWS = Windows(86_400, 365 * 86_400)
MAX_RATE_COST_US, MIN_ROWS_PER_S = 10.0, 60_000
ROOT = Path(__file__).resolve().parent.parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench rollup`."""
    parser.description = "CPU per judgment of decode and rollup at a fixed rate, and rows/s of a full log."
    parser.add_argument("--rate", type=int, default=10_000, help="judgments per second (default: 10000)")
    parser.add_argument("--seconds", type=float, default=15.0, help="at that rate (default: 15)")
    parser.add_argument("--rows", type=int, default=600_000, help="of the full log (default: 600000)")
    parser.add_argument("--untracked", action="store_true", help="no tracked field (default: one)")
    parser.add_argument("--data-dir", type=Path, help="kept afterwards (default: a temporary one)")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON (-: standard output)")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0 when both goals are met and the rollups are exact, 1 when not, 2 for wrong usage."""
    if args.rate < 1 or args.seconds <= 0 or args.rows < args.rate * args.seconds:
        print("bench rollup: --rate and --seconds must be positive, and --rows at least their product", file=sys.stderr)
        return 2
    with report.tables_apart(args.json), data_folder(args.data_dir, "rollup") as folder:
        postgres = EmbeddedPostgres(folder)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                figures = runner.run(_measure(postgres.start(), args))
        finally:
            postgres.stop()
        return _report(figures, args)


class _Until:
    """Hears of deltas (a `ChangeSink`) until so many judgments were rolled up."""

    def __init__(self, judgments: int) -> None:
        self.left, self.reached = judgments, asyncio.Event()

    def rolled_up(self, delta: Delta, workflows: object) -> None:
        """Count."""
        self.left -= sum(sums.total for sums in delta.sums.values())
        if self.left <= 0:
            self.reached.set()


async def _measure(dsn: str, args: argparse.Namespace) -> dict[str, Any]:
    config = Config()
    database = Database(dsn, config)
    await migrate.prepare(database, database, config.metrics)
    await database.open()
    await upkeep.once(database, config.keep)
    await metrics_upkeep.prepare(database, config)
    track = [] if args.untracked else ["temperature"]
    async with database.query() as connection:
        await connection.execute(
            "INSERT INTO workflows (tenant_id, workflow_id, version, definition)"
            " SELECT $1, 'w' || n, 1, jsonb_build_object('track', $2::text[], 'default', '{}'::jsonb)"
            " FROM generate_series(0, $3 - 1) AS n",
            *(TENANT, track, WORKFLOWS),
        )
    figures: dict[str, Any] = {}
    rate_rows = int(args.rate * args.seconds)
    async with database.session() as session:
        store = RollupStore(database, session, config.change.slot, WINDOWS)
        stream = Replication(dsn)
        await stream.connect()
        lsn, snapshot = await stream.create_slot(config.change.slot)
        position = Position(lsn, -1)
        gap = await store.open_gap(Finding("first", {"judgments": False}))
        await store.rebuild(snapshot, Stored(position, None, None, None), gap)
        await stream.start(config.change.slot, "judgify_cdc")
        figures["decode_us_per_row"] = await _decode_alone(stream, dsn, rate_rows, args.rate)
        stream.close()
        await _written(dsn, args.rows - rate_rows, 0)

        async def following(base: Position, rows: int, rate: int | None) -> tuple[Position, dict[str, Any]]:
            stream, metrics, done = await _reading(dsn, config), Metrics(), _Until(rows)
            loop = ChangeLoop(stream, store, [done], base, await store.tracking(), config.change, metrics, _unmarked)
            try:
                found = await _follow(loop, metrics, done, dsn, rows, rate)
            finally:
                stream.close()
            return loop.applied, found

        position, figures["full_log"] = await following(position, args.rows, None)
        _, figures["at_rate"] = await following(position, rate_rows, args.rate)
    async with database.query(may_be_slow=True) as connection:
        stored = await connection.fetchval("SELECT count(*) FROM judgment_executions", timeout=60)
        summed = await connection.fetchval("SELECT sum(total_executions)::bigint FROM judgment_metrics_hourly")
    figures["stored"], figures["rolled_up"] = stored, summed
    await database.close()
    return figures


async def _unmarked() -> None:
    """Nobody else writes here, so nothing is to be marked."""


async def _reading(dsn: str, config: Config) -> Replication:
    """The stream from what was confirmed last; the session before may still be ending."""
    for _ in range(100):
        stream = Replication(dsn)
        await stream.connect()
        try:
            await stream.start(config.change.slot, "judgify_cdc")
            return stream
        except DatabaseUnavailable:
            stream.close()
            await asyncio.sleep(0.1)
    raise DatabaseUnavailable("the slot stays in use")


async def _follow(loop: ChangeLoop, metrics: Metrics, done: _Until, dsn: str, rows: int, rate: int | None) -> dict[str, Any]:
    """Read the log until `rows` are rolled up; at a rate, somebody writes them meanwhile."""
    following = asyncio.create_task(loop.run())
    writing = asyncio.create_task(_written(dsn, rows, rate)) if rate else None
    cpu_s, wall_s, apply_s = time.process_time(), time.perf_counter(), metrics.rollup.sum
    reached = asyncio.create_task(done.reached.wait())
    await asyncio.wait((following, reached), return_when=asyncio.FIRST_COMPLETED)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    if following.done():
        following.result()
    following.cancel()
    await asyncio.wait((following,))
    if writing is not None:
        await writing
    return {
        "rows": rows,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "apply_s": metrics.rollup.sum - apply_s,
        "cpu_us_per_row": cpu_s / rows * 1e6,
        "rows_per_cpu_s": rows / cpu_s,
    }


async def _decode_alone(stream: Replication, dsn: str, rows: int, rate: int) -> float:
    """CPU per row of receiving and decoding at a rate, in the rhythm of the engine, and of nothing else."""
    decoder, left, writing = Decoder(WANTED), rows, asyncio.create_task(_written(dsn, rows, rate))
    cpu_s = time.process_time()
    while left:
        message = stream.read()
        if message is None:
            await stream.readable(0.05, GATHER_S)
        elif isinstance(decoder.decode(message), Change):
            left -= 1
    cpu_s = time.process_time() - cpu_s
    await writing
    return cpu_s / rows * 1e6


async def _written(dsn: str, rows: int, rate: int | None) -> None:
    """Have another process write rows, at a rate (0: as fast as it can)."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "import sys; from bench.rollup import write; write(*sys.argv[1:])"),
        *(dsn, str(rows), str(rate or 0)),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
    )
    if await process.wait():
        raise RuntimeError(f"the writer ended with {process.returncode}")


def write(dsn: str, rows: str, rate: str) -> None:
    """The writer's main."""
    asyncio.run(_write(dsn, int(rows), int(rate)))


async def _write(dsn: str, rows: int, rate: int) -> None:
    connection = await asyncpg.connect(dsn)
    started_s = time.perf_counter()
    for first in range(0, rows, ROWS_PER_COPY):
        if rate:
            await asyncio.sleep(max(0.0, started_s + first / rate - time.perf_counter()))
        data = pgcopy.encode([_judgment(n) for n in range(first, min(rows, first + ROWS_PER_COPY))])

        async def once(data: bytes = data) -> Any:
            yield data

        await connection.copy_to_table("judgment_executions", source=once(), columns=pgcopy.COLUMNS, format="binary")
    await connection.close()


def _judgment(n: int) -> Judgment:
    data = {
        "temperature": 70 + n % 300 / 10,
        "pressure": 101.2,
        "vibration": 44.1,
        "machine_id": f"MACHINE_{n % 20}",
        "user_id": n,
    }
    return Judgment(
        id=uuid_utils.uuid7().bytes,
        tenant_id=TENANT,
        workflow_id=f"w{n % WORKFLOWS}",
        workflow_version=1,
        input_data=msgspec.json.encode(data),
        context=b'{"shift": "day", "operator": "operator_3"}',
        final_result=b'{"verdict": "inspect"}' if n % 4 == 0 else b'{"verdict": "ok"}',
        confidence_score=0.9 if n % 4 == 0 else 0.99,
        method_used="rule",
        status="completed",
        execution_time_ms=0.02 + (n * 7919) % 1000 / 10_000,
        rule_index=n % 4 or None,
        error=None,
        occurred_at_us=None,
        created_at_us=time.time_ns() // 1000,
    )


def _report(figures: dict[str, Any], args: argparse.Namespace) -> int:
    rate, full = figures["at_rate"], figures["full_log"]
    above_us = rate["cpu_us_per_row"] - figures["decode_us_per_row"]
    rate["rollup_us_per_row"] = above_us
    heads = "measured", "rows", "wall s", "in commits s", "CPU us/row", "decode", "rollup", "rows per CPU s"
    rows = (
        (f"{args.rate}/s", rate["rows"], rate["wall_s"], rate["apply_s"], rate["cpu_us_per_row"],
         figures["decode_us_per_row"], above_us, rate["rows_per_cpu_s"]),
        ("full log", full["rows"], full["wall_s"], full["apply_s"], full["cpu_us_per_row"], "", "", full["rows_per_cpu_s"]),
    )  # fmt: skip
    print(report.table(heads, rows))
    exact = figures["stored"] == figures["rolled_up"]
    good = exact and above_us < MAX_RATE_COST_US and full["rows_per_cpu_s"] >= MIN_ROWS_PER_S
    figures["good"] = good
    report.write_json(figures, args.json)
    print(f"stored {figures['stored']}, rolled up {figures['rolled_up']}; {'GOOD' if good else 'NOT GOOD'}")
    return 0 if good else 1
