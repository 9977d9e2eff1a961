"""`bench partitions`: is the table of judgments as fast with years of data in it as when it is empty?

On a PostgreSQL of its own, without an engine: fills the partitions of the past months evenly and, at each size, measures
the engine's own statements (`store/copy_writer`, `store/judgments`): commits of `BATCH_ROWS` rows and of one, look-ups by id
among the newest ids and among all that are there, the first page of a tenant's list. What is measured is written at the end
of the present partition, as a live engine does. Before each measurement the table is vacuumed and analyzed, as the server does
in time.

Beside the full table there is an empty one, of the same partitions, in another database of the same server. They take turns,
statement by statement, so that whatever else the machine does meets both.

Filling writes the very same rows by the same COPY, in bigger batches, over several connections, without waiting for the disk.
"""

import argparse
import asyncio
import random
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import uuid_utils
import uvloop

from judgify_engine.config import Config, load
from judgify_engine.core.model import Judgment
from judgify_engine.core.periods import Period, after, floor
from judgify_engine.errors import JudgifyError
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.quarantine_loop import Quarantine
from judgify_engine.store import migrate, partitions
from judgify_engine.store.copy_writer import CopyWriter
from judgify_engine.store.embedded import EmbeddedPostgres
from judgify_engine.store.judgments import JudgmentReader, ListFilter
from judgify_engine.store.pool import Database
from judgify_engine.store.quarantine import QuarantineStore
from judgify_engine.wire import pgcopy

from . import report
from .harness import data_folder

SIZES = (0, 1_000_000, 5_000_000, 20_000_000)
BATCH_ROWS = 1000
FILL_ROWS = 10_000
FILL_CONNECTIONS = 2
BATCHES, SINGLES, LOOKUPS, PAGES = 200, 500, 5000, 300
PAGE_ROWS = 50
TENANTS, WORKFLOWS = 8, 50
BYTES_PER_ROW = 700
"""Table, indexes and log while it is filled, generously."""
KEPT_IDS, RECENT = 200_000, 500
GIB = 1024**3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench partitions`."""
    parser.description = "Insert, look up and list with up to 20 million judgments in the table, on a PostgreSQL of its own."
    parser.add_argument("--rows", type=int, default=SIZES[-1], help=f"the largest size (default: {SIZES[-1]:,})")
    parser.add_argument("--months", type=int, default=12, help="over how many months they spread (default: 12)")
    parser.add_argument("--data-dir", type=Path, help="kept afterwards (default: a temporary one)")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON (-: standard output)")


def run(args: argparse.Namespace) -> int:
    """Fill and measure; 0 when done, 1 when it could not be, 2 for wrong usage."""
    if args.rows < 0 or not 1 <= args.months <= 120:
        print("bench partitions: --rows must not be negative, --months between 1 and 120", file=sys.stderr)
        return 2
    with report.tables_apart(args.json), data_folder(args.data_dir, "partitions") as folder:
        free, needed = shutil.disk_usage(folder).free, args.rows * BYTES_PER_ROW + 4 * GIB
        report.note(f"bench partitions: needs up to {needed / GIB:.0f} GiB in {folder}, {free / GIB:.0f} GiB are free")
        if free < needed:
            return 1
        postgres = EmbeddedPostgres(folder)
        try:
            return uvloop.run(_bench(args, postgres.start()))
        except (JudgifyError, asyncpg.PostgresError) as error:
            report.note(f"bench partitions: {error}")
            return 1
        finally:
            postgres.stop()


async def _bench(args: argparse.Namespace, dsn: str) -> int:
    config = load("embedded", None, {})
    beside = dsn.replace("/postgres?", "/beside?")
    connection = await asyncpg.connect(dsn)
    await connection.execute("CREATE DATABASE beside")
    await connection.close()
    now = datetime.now(UTC)
    full, empty = Table(dsn, now, args.months, config), Table(beside, now, args.months, config)
    lines: list[dict[str, Any]] = []
    try:
        for table in (full, empty):
            await table.open()
        for size in [*(size for size in SIZES if size < args.rows), args.rows]:
            await full.fill(size)
            await empty.clear()
            figures, reference = await _measure(full, empty)
            ratios: dict[str, Any] = {name: figures[name] / reference[name] for name in figures if name not in ("rows", "gib")}
            lines += [figures, {**reference, "rows": "empty, beside"}, {"rows": "ratio", "gib": "", **ratios}]
            report.note(f"{size:,}: " + "  ".join(f"{name} {report.show(value)}" for name, value in ratios.items()))
    finally:
        for table in (full, empty):
            await table.close()
    counts = f"{BATCHES} batches of {BATCH_ROWS}, {SINGLES} single rows, {LOOKUPS} look-ups, {PAGES} pages of {PAGE_ROWS}"
    print(f"bench partitions: {args.months} months, {counts}")
    print(report.table(list(lines[0]), [list(line.values()) for line in lines]))
    report.write_json({"months": args.months, "batch_rows": BATCH_ROWS, "lines": lines}, args.json)
    return 0


async def _measure(*tables: "Table") -> list[dict[str, float]]:
    """One line for each, all at the same time."""
    lines: list[dict[str, float]] = [{"rows": table.rows, "gib": await table.settle() / GIB} for table in tables]
    batches = await _turns([table.commit(BATCH_ROWS) for table in tables], BATCHES)
    singles = await _turns([table.commit(1) for table in tables], SINGLES)
    newest = await _turns([table.look_up(RECENT) for table in tables], LOOKUPS)
    lookups = await _turns([table.look_up(KEPT_IDS) for table in tables], LOOKUPS)
    pages = await _turns([table.first_page for table in tables], PAGES)
    for number, line in enumerate(lines):
        line["insert_per_s"] = BATCH_ROWS / report.median(batches[number])
        line["commit_1_p50_ms"] = report.median(singles[number]) * 1000
        for name, times_s in (("get_new", newest[number]), ("get", lookups[number]), ("list", pages[number])):
            line[f"{name}_p50_ms"] = report.median(times_s) * 1000
            line[f"{name}_p99_ms"] = report.percentile(sorted(times_s), 99) * 1000
    return lines


async def _turns(works: Sequence[Callable[[], Awaitable[None]]], count: int) -> list[list[float]]:
    """How long each took, each time; a tenth more goes before, for connections, plans and caches."""
    times_s: list[list[float]] = [[] for _ in works]
    for turn in range(-count // 10, count):
        for number, work in enumerate(works):
            began_s = time.perf_counter()
            await work()
            if turn >= 0:
                times_s[number].append(time.perf_counter() - began_s)
    return times_s


class Table:
    """The table under test, and the ids of some of its rows, taken evenly from all of it."""

    def __init__(self, dsn: str, now: datetime, months: int, config: Config) -> None:
        self._dsn, self._now, self._config = dsn, now, config
        start = floor(now, "month")
        for _ in range(months - 1):
            start = floor(start - timedelta(days=1), "month")
        self._start, self._database = start, Database(dsn, config)
        self._writer = CopyWriter(
            self._database, Metrics(), config.http.request_timeout_s, Quarantine(QuarantineStore(self._database), Metrics())
        )
        self._reader = JudgmentReader(self._database)
        self._random = random.Random(1)
        self._ids: list[tuple[str, UUID]] = []
        self.rows = 0

    async def open(self) -> None:
        connection = await self._database.connect()
        try:
            await migrate.migrate(connection)
            await partitions.make_ahead(connection, self._now)
            start = self._start
            while start < floor(self._now, "month"):
                period = Period(start, after(start, "month"))
                await partitions.make(connection, f"{partitions.TABLE}_{period.suffix}", period, False)
                start = period.end
        finally:
            await connection.close()
        await self._database.open()

    async def close(self) -> None:
        await self._database.close()

    async def fill(self, rows: int) -> None:
        """Add rows, evenly over the time from the first month to now and in its order, until there are as many."""
        missing = rows - self.rows
        if missing <= 0:
            return
        began_s = time.perf_counter()
        starts = iter(range(0, missing, FILL_ROWS))
        span = self._now - self._start

        async def work() -> None:
            connection = await asyncpg.connect(self._dsn, server_settings={"synchronous_commit": "off"})
            try:
                for first in starts:
                    count = min(FILL_ROWS, missing - first)
                    times = [self._start + span * ((first + n) / missing) for n in range(count)]
                    batch = [self._judgment(moment) for moment in times]
                    self._remember(batch)
                    data = pgcopy.encode(batch)
                    await connection.copy_to_table(
                        partitions.TABLE, source=_once(data), columns=pgcopy.COLUMNS, format="binary", timeout=120
                    )
                    if first // FILL_ROWS % 100 == 99:
                        rate = (first + count) / (time.perf_counter() - began_s)
                        report.note(f"  {self.rows + first + count:,} of {rows:,} rows, {rate:,.0f}/s")
            finally:
                await connection.close()

        async with asyncio.TaskGroup() as tasks:
            for number in range(FILL_CONNECTIONS):
                tasks.create_task(work(), name=f"fill-{number}")
        self.rows = rows

    async def clear(self) -> None:
        """Empty it."""
        connection = await asyncpg.connect(self._dsn)
        try:
            await connection.execute(f"TRUNCATE {partitions.TABLE}")
        finally:
            await connection.close()
        self.rows = 0
        self._ids.clear()

    async def settle(self) -> int:
        """Do what the server does after much was written; how large the table is, in bytes."""
        connection = await asyncpg.connect(self._dsn)
        try:
            await connection.execute(f"VACUUM (ANALYZE) {partitions.TABLE}", timeout=3600)
            await connection.execute("CHECKPOINT", timeout=600)
            size = await connection.fetchval(
                "SELECT sum(pg_total_relation_size(relid))::bigint FROM pg_partition_tree($1::regclass)", partitions.TABLE
            )
        finally:
            await connection.close()
        return int(size)

    def commit(self, rows: int) -> Callable[[], Awaitable[None]]:
        async def commit() -> None:
            moment = datetime.now(UTC)
            batch = [self._judgment(moment) for _ in range(rows)]
            self._remember(batch)
            outcomes: list[Any] = list(await self._writer.commit(batch))
            if any(outcomes):
                raise JudgifyError(f"a row was not committed: {next(filter(None, outcomes))}")
            self.rows += rows

        return commit

    def look_up(self, among: int) -> Callable[[], Awaitable[None]]:
        """Look for one of as many ids, the newest."""

        async def look_up() -> None:
            tenant_id, judgment_id = self._ids[-1 - self._random.randrange(min(among, len(self._ids)))]
            if await self._reader.get(tenant_id, judgment_id) is None:
                raise JudgifyError(f"{judgment_id} was committed and is not there")

        return look_up

    async def first_page(self) -> None:
        rows, _more = await self._reader.page(f"tenant-{self._random.randrange(TENANTS)}", ListFilter(), None, PAGE_ROWS)
        if len(rows) != PAGE_ROWS:
            raise JudgifyError(f"a page of {PAGE_ROWS} has {len(rows)} rows")

    def _remember(self, batch: list[Judgment]) -> None:
        """Every hundredth row: the same share of each month."""
        one = self._random.choice(batch)
        sample = batch[:: max(1, len(batch) // 100)] if len(batch) > BATCH_ROWS else [one]
        self._ids += [(each.tenant_id, UUID(bytes=each.id)) for each in sample]
        del self._ids[: max(0, len(self._ids) - KEPT_IDS)]

    def _judgment(self, moment: datetime) -> Judgment:
        chance = self._random.random
        us = int(moment.timestamp() * 1_000_000)
        number = int(chance() * 1000)
        temperature = 60 + chance() * 40
        return Judgment(
            id=uuid_utils.uuid7(nanoseconds=us * 1000).bytes,
            tenant_id=f"tenant-{number % TENANTS}",
            workflow_id=f"test-workflow-{number % WORKFLOWS}",
            workflow_version=1,
            input_data=b'{"temperature": %.1f, "pressure": %.1f, "vibration": %.1f, "machine_id": "MACHINE_%d", "user_id": %d}'
            % (temperature, 95 + chance() * 10, 40 + chance() * 10, number % 20, number),
            context=b'{"shift": "day", "operator": "operator_%d"}' % (number % 10),
            final_result=b'{"verdict": "%s"}' % (b"inspect" if temperature > 90 else b"ok"),
            confidence_score=0.9,
            method_used="rule",
            status="completed",
            execution_time_ms=0.05 + chance() / 10,
            rule_index=0,
            error=None,
            occurred_at_us=None,
            created_at_us=us,
        )


async def _once(data: bytes) -> Any:
    yield data
