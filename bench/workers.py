"""`bench workers`: what a judgment costs in CPU with 1, 2 and 4 workers, at the same offered rate, in all or for each worker.

The same rate in all tells what it costs to have more processes than are needed: each is woken for fewer requests at a time. The
same rate for each (`--each`) tells what it costs to have more because more comes in.

An engine of its own for each number, with its own PostgreSQL; all run all the time, and one after the other gets its share of
load (open loop), round after round, so that whatever else the machine does meets all. All publish to a Redis. Counted is the
CPU time, user and system, of the engine's processes (supervisor, workers), and apart from it that of PostgreSQL and Redis, from
the first request until the log is read and rolled up, over the judgments answered: so all that a process does beside serving is
in it. What the engines take with nothing to do is told apart.
"""

import argparse
import asyncio
import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import uvloop

from judgify_engine.config import StreamsConfig
from judgify_engine.streams.embedded import EmbeddedRedis

from . import report
from .client import fetch
from .harness import Engine, EngineFailed, data_folder, free_port, running
from .load import figures_of
from .loops import Load
from .recorder import Recorder

GOAL = 1.10
IDLE_S = 5.0
SETTLE_S = 0.3
"""What was answered last is rolled up by then."""
_ROWS = re.compile(r"^judgify_batch_rows_(sum|count)(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench workers`."""
    parser.description = "CPU per judgment with several numbers of workers, at the same rate."
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="the first is compared with (default: 1 2 4)")
    parser.add_argument("--rate", type=float, default=4000.0, help="requests per second (default: 4000)")
    parser.add_argument("--each", action="store_true", help="the rate, and the connections, are those of each worker")
    parser.add_argument("--users", type=int, default=64, help="connections (default: 64)")
    parser.add_argument("--rounds", type=int, default=7, help="of each number (default: 7)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a round (default: 5)")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON (-: standard output)")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0 when every ratio of the engine's CPU is under the goal, 1 when not, 2 for wrong usage."""
    if min(args.rate, args.users, args.rounds, args.seconds, *args.workers) <= 0 or len(set(args.workers)) < len(args.workers):
        print("bench workers: all numbers must be positive, and each number of workers named once", file=sys.stderr)
        return 2
    with report.tables_apart(args.json), _engines(args.workers) as engines:
        try:
            return uvloop.run(_measure(args, engines))
        except EngineFailed as error:
            report.note(f"bench workers: {error}")
            return 1


@contextlib.contextmanager
def _engines(numbers: list[int]) -> Iterator[dict[int, Engine]]:
    with contextlib.ExitStack() as stack:
        engines = {}
        for workers in numbers:
            folder: Path = stack.enter_context(data_folder(None, f"workers-{workers}"))
            settings = {}
            if workers == 1:  # several bring theirs along: all are to do the same work
                redis = EmbeddedRedis(folder, StreamsConfig().max_bytes)
                stack.callback(redis.stop)
                settings = {"JUDGIFY_REDIS_URL": redis.start()}
            engines[workers] = stack.enter_context(running(Engine(folder, free_port(), workers=workers, settings=settings)))
        yield engines


async def _measure(args: argparse.Namespace, engines: dict[int, Engine]) -> int:
    for engine in engines.values():
        await engine.wait_ready()
        await engine.reader()
        await _round(engine, args)  # warms up, and is not counted
    idle = await _idle(engines)
    rounds: dict[int, list[dict[str, float]]] = {workers: [] for workers in engines}
    for number in range(args.rounds):
        for workers in sorted(engines, reverse=bool(number % 2)):
            rounds[workers].append(await _round(engines[workers], args))
    return _report(args, rounds, idle)


async def _idle(engines: dict[int, Engine]) -> dict[int, float]:
    """CPU seconds per second of each engine, servers not counted, with nothing to do."""
    before = {workers: _cpu_s(engine)[0] for workers, engine in engines.items()}
    await asyncio.sleep(IDLE_S)
    return {workers: (_cpu_s(engine)[0] - before[workers]) / IDLE_S for workers, engine in engines.items()}


async def _round(engine: Engine, args: argparse.Namespace) -> dict[str, float]:
    recorder, times = Recorder(), engine.workers if args.each else 1
    load = Load(engine.target, recorder, args.users * times, rate_per_s=args.rate * times)
    rows_before, commits_before = await _commits(engine)
    engine_before_s, postgres_before_s = _cpu_s(engine)
    await load.run(args.seconds)
    await asyncio.sleep(SETTLE_S)
    engine_s, postgres_s = _cpu_s(engine)
    rows, commits = await _commits(engine)
    figures = figures_of(load, recorder)
    recorder.unsent = 0  # a machine that is busy otherwise; what was not sent cost nothing
    if not recorder.is_clean:
        raise EngineFailed(f"{engine.workers} workers did not answer all: {recorder.complaints()}")
    spent_s = engine_s - engine_before_s
    return {
        **figures,
        "engine_us": spent_s / recorder.answered * 1e6,
        "both_us": (spent_s + postgres_s - postgres_before_s) / recorder.answered * 1e6,
        "commits_per_s": (commits - commits_before) / args.seconds,
        "rows_per_commit": (rows - rows_before) / max(1.0, commits - commits_before),
    }


async def _commits(engine: Engine) -> tuple[float, float]:
    """(rows, commits) of all workers so far."""
    figures = (await fetch(engine.target, "GET", "/metrics", timeout_s=5.0)).body.decode()
    found = {"sum": 0.0, "count": 0.0}
    for kind, value in _ROWS.findall(figures):
        found[kind] += float(value)
    return found["sum"], found["count"]


def _cpu_s(engine: Engine) -> tuple[float, float]:
    """(the engine's, its servers') CPU seconds; those of backends that have ended are in the postmaster's."""
    ours, postgres = engine.processes()
    total = [0.0, 0.0]
    for kind, processes in enumerate((ours, [*postgres, *engine.redis()])):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                cpu = process.cpu_times()
                total[kind] += cpu.user + cpu.system
    if postgres:
        cpu = postgres[0].cpu_times()
        total[1] += cpu.children_user + cpu.children_system
    return total[0], total[1]


def _report(args: argparse.Namespace, rounds: dict[int, list[dict[str, float]]], idle: dict[int, float]) -> int:
    shown = ("engine_us", "both_us", "rows_per_commit", "commits_per_s", "p50_ms", "p99_ms")
    medians = {
        workers: {key: report.median([each[key] for each in found]) for key in shown} for workers, found in rounds.items()
    }
    first = medians[args.workers[0]]
    ratios = {workers: found["engine_us"] / first["engine_us"] for workers, found in medians.items()}
    heads = (
        "workers",
        "engine µs",
        "ratio",
        "with servers µs",
        "ratio",
        "rows/commit",
        "commits/s",
        "p50 ms",
        "p99 ms",
        "idle %",
    )
    rows = [
        (
            str(workers), found["engine_us"], ratios[workers], found["both_us"], found["both_us"] / first["both_us"],
            *(found[key] for key in shown[2:]), 100 * idle[workers],
        )
        for workers, found in medians.items()
    ]  # fmt: skip
    of = " for each worker" if args.each else ""
    print(f"CPU per judgment at {args.rate:g}/s over {args.users} connections{of}, medians of {args.rounds} rounds")
    print(report.table(heads, rows))
    good = max(ratios.values()) < GOAL
    report.write_json({"medians": medians, "rounds": rounds, "ratios": ratios, "idle": idle, "good": good}, args.json)
    print(f"CPU of the engine per judgment, at most {max(ratios.values()):.2f} times: {'GOOD' if good else 'NOT GOOD'}")
    return 0 if good else 1
