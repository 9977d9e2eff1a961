"""`bench groups`: two consumer groups on an engine of its own; one reads, the other stands still for minutes. Is anything lost?

Judgments are written straight into the table, in transactions of a tenth of a second's worth, for several tenants: what is
measured is what comes after the commit. Good means: the group that read was never held up, the one that stood still gets every
single judgment afterwards, each was handed out once, and Redis stayed below its bound.
"""

import argparse
import asyncio
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import uvloop
from redis.asyncio import Redis
from redis.exceptions import RedisError

from judgify_engine.core.streams import JUDGMENTS
from judgify_engine.streams.embedded import url_of
from judgify_engine.units import MIB

from . import report
from .harness import Engine, EngineFailed, data_folder, free_port, running
from .verify import connect

TENANTS = 16
SAMPLE_S = 10.0
READ_COUNT, READ_WAIT_MS = 1000, 200
CATCH_UP_S = 900.0
_INSERT = """
INSERT INTO judgment_executions (tenant_id, workflow_id, input_data, final_result, confidence_score, method_used,
                                 execution_time_ms)
SELECT 'tenant-' || n % $2::integer, 'bench', jsonb_build_object('temperature', 60 + n % 50, 'machine_id', 'MACHINE_' || n % 7),
       '{"verdict": "ok"}', 0.99, 'rule', 1.5 FROM generate_series(1, $1::integer) AS n
"""
_KEPT = """
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint FROM pg_replication_slots
 WHERE slot_name = 'judgify_cdc_streams'
"""


class Group:
    """A consumer of a group, on all streams; keeps the ids that it was given."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: set[bytes] = set()
        self.doubled = 0

    async def make(self, client: Redis) -> None:
        """Register it, at the beginning of every stream."""
        for stream in JUDGMENTS:
            await client.xgroup_create(stream, self.name, id="0", mkstream=True)

    async def read(self, client: Redis, stop: asyncio.Event) -> None:
        """Read and acknowledge until `stop`."""
        while not stop.is_set():
            try:
                await self.once(client)
            except (RedisError, OSError):  # it was killed, on purpose
                await asyncio.sleep(0.1)

    async def once(self, client: Redis) -> int:
        """Read what is there, at most `READ_COUNT` of each stream; how many entries."""
        taken = 0
        wanted: dict[Any, Any] = dict.fromkeys(JUDGMENTS, ">")
        found: Any = await client.xreadgroup(self.name, "bench", wanted, READ_COUNT, READ_WAIT_MS)
        for stream, entries in found or ():
            taken += len(entries)
            for _, fields in entries:
                if fields[b"table"] != b"judgment_executions":
                    continue
                key = uuid.UUID(fields[b"key"].decode()).bytes
                self.doubled += key in self.seen
                self.seen.add(key)
            await client.xack(stream, self.name, *[entry_id for entry_id, _ in entries])
        return taken


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench groups`."""
    parser.description = "Two consumer groups, one of which stands still: nothing it has not read is lost."
    parser.add_argument("--rate", type=float, default=5000.0, help="judgments per second (default: 5000)")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long the second group stands still (default: 300)")
    parser.add_argument("--port", type=int, default=0, help="of the engine (default: any free one)")
    parser.add_argument("--data-dir", type=Path, help="kept afterwards (default: a temporary one)")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON (-: standard output)")


def run(args: argparse.Namespace) -> int:
    """Write, read, count; 0 when nothing is lost or doubled, 1 when something is, 2 for wrong usage."""
    if not (args.rate > 0 and args.seconds > 0):
        print("bench groups: --rate and --seconds must be positive", file=sys.stderr)
        return 2
    with report.tables_apart(args.json), data_folder(args.data_dir, "groups") as folder:
        engine = Engine(folder, args.port or free_port(), workers=2)  # two, so that it brings its Redis along
        try:
            with running(engine):
                return uvloop.run(_groups(args, engine))
        except EngineFailed as error:
            report.note(f"bench groups: {error}")
            return 1


async def _groups(args: argparse.Namespace, engine: Engine) -> int:
    await engine.wait_ready()
    reads, stands = Group("reads"), Group("stands-still")
    samples: list[dict[str, float]] = []
    stop = asyncio.Event()
    async with Redis.from_url(url_of(engine.data_dir)) as client:
        for group in (reads, stands):
            await group.make(client)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(reads.read(client, stop), name="bench-reads")
            tasks.create_task(_sample(engine, client, reads, samples, stop), name="bench-sampler")
            written = await _write(engine, args.rate, args.seconds)
            await _until_read(client, reads, len(written), read=False)
            stop.set()
        began_s = time.perf_counter()
        await _until_read(client, stands, len(written), read=True)
        caught_up_s = time.perf_counter() - began_s
    return _report(args, written, (reads, stands), samples, caught_up_s)


async def _write(engine: Engine, rate: float, seconds: float) -> set[bytes]:
    """Rows at that rate; their ids as the table has them in the end."""
    began_s, done = time.perf_counter(), 0
    async with connect(engine.dsn) as connection:
        while (elapsed_s := time.perf_counter() - began_s) < seconds:
            due = int(rate * elapsed_s) - done
            if due:
                await connection.execute(_INSERT, due, TENANTS)
                done += due
            await asyncio.sleep(0.1)
        rows = connection.cursor("SELECT uuid_send(id) FROM judgment_executions", prefetch=10_000)
        async with connection.transaction():
            return {row[0] async for row in rows}


async def _until_read(client: Redis, group: Group, count: int, *, read: bool) -> None:
    until_s = time.perf_counter() + CATCH_UP_S
    while len(group.seen) < count and time.perf_counter() < until_s:
        if read:
            await group.once(client)
        else:
            await asyncio.sleep(0.1)


async def _sample(engine: Engine, client: Redis, reads: Group, samples: list[dict[str, float]], stop: asyncio.Event) -> None:
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), SAMPLE_S)
        try:
            async with connect(engine.dsn) as connection:
                kept_bytes = await connection.fetchval(_KEPT)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            report.note(f"bench groups: no sample: {type(error).__name__}: {error}")
            continue
        memory = await client.info("memory")
        entries = sum([await client.xlen(stream) for stream in JUDGMENTS])
        sample = {
            "entries": entries,
            "redis_mib": memory["used_memory"] / MIB,
            "log_kept_mib": (kept_bytes or 0) / MIB,
            "read": len(reads.seen),
        }
        samples.append(sample)
        print(report.pairs(sample), flush=True)


def _report(
    args: argparse.Namespace,
    written: set[bytes],
    groups: tuple[Group, Group],
    samples: list[dict[str, float]],
    caught_up_s: float,
) -> int:
    figures: dict[str, Any] = {
        "written": len(written),
        "per_s": len(written) / args.seconds,
        "redis_mib": max(sample["redis_mib"] for sample in samples),
        "log_kept_mib": max(sample["log_kept_mib"] for sample in samples),
        "caught_up_s": caught_up_s,
        "caught_up_per_s": len(written) / caught_up_s,
    }
    rows = [[group.name, len(group.seen & written), len(written - group.seen), group.doubled] for group in groups]
    print(f"bench groups: {args.rate:g}/s for {args.seconds:g} s, one group stood still")
    print(report.table(tuple(figures), [list(figures.values())]))
    print(report.table(("group", "read", "missing", "doubled"), rows))
    good = all(not missing and not doubled for _, _, missing, doubled in rows)
    print("NOTHING LOST, NOTHING DOUBLED" if good else "FAILED")
    report.write_json({**figures, "samples": samples, "groups": rows, "good": good}, args.json)
    return 0 if good else 1
