"""`bench sockets`: thousands of dashboards on one process, while judgments are posted; then some of them read nothing.

Method. An engine of its own (one process, its PostgreSQL embedded) and two processes of dashboards on raw sockets, spread
over the four time frames, without compression (with it, this machine would be busy inflating). Memory per idle socket is what
the engine's resident memory grew by when all were open and nothing came, over their number; buffers of the kernel are not in
it. Then judgments are posted at a fixed rate (open loop), first with all dashboards reading, then again with stalled ones
beside them, which read nothing after the upgrade. Some sockets are sampled: the delay of a judgment on one of them is the time
from its commit (its answer, as `bench latency` has it) to the first message whose total includes it.

Bias. Dashboards, load, engine and PostgreSQL share the machine; where it is busy, all of it is in the delays.
"""

import argparse
import asyncio
import contextlib
import itertools
import sys
import time
from array import array
from collections.abc import Sequence
from typing import Any

import psutil
import uvloop

from . import report
from .harness import Engine, EngineFailed, data_folder, free_port, running
from .latency import delays_s
from .load import figures_of
from .loops import Load
from .recorder import Recorder
from .watchers import Order, Seen, Watchers, shares

PROCESSES = 2
IDLE_S = 5.0
CATCH_UP_S = 5.0
SAMPLE_S = 1.0
GOAL_MS, GOAL_KB = 500.0, 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench sockets`."""
    parser.description = "Thousands of dashboards on one process: memory of each, delay of messages, and stalled ones beside."
    parser.add_argument("--sockets", type=int, default=5000, help="dashboards, the stalled ones among them (default: 5000)")
    parser.add_argument("--stalled", type=int, default=200, help="that read nothing, in the second part (default: 200)")
    parser.add_argument("--sampled", type=int, default=50, help="whose messages are looked into (default: 50)")
    parser.add_argument("--rate", type=float, default=2000.0, help="judgments per second (default: 2000)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each part (default: 20)")
    parser.add_argument("--users", type=int, default=64, help="connections that post (default: 64)")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON (-: standard output)")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0 when the goals are met and nothing was lost, 1 when not, 2 for wrong usage."""
    if min(args.rate, args.seconds, args.users, args.sampled) <= 0 or not 0 <= args.stalled < args.sockets:
        print("bench sockets: numbers must be positive, and fewer sockets stalled than open", file=sys.stderr)
        return 2
    settings = {"JUDGIFY_LIVE_MAX_SOCKETS": str(args.sockets + 10)}
    with (
        report.tables_apart(args.json),
        data_folder(None, "sockets") as folder,
        running(Engine(folder, free_port(), settings=settings)) as engine,
        contextlib.ExitStack() as stack,
    ):
        watchers = [stack.enter_context(Watchers(engine.target)) for _ in range(PROCESSES)]
        try:
            return uvloop.run(_measure(args, engine, watchers))
        except (EngineFailed, ConnectionError) as error:
            report.note(f"bench sockets: {error}")
            return 1


class _Memory:
    """The engine's resident memory over time, in MB."""

    def __init__(self, engine: Engine) -> None:
        self._process = psutil.Process(engine.pid)
        self.samples: list[tuple[float, float]] = []

    def now_mb(self) -> float:
        return float(self._process.memory_info().rss) / 1e6

    def cpu_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    async def sample(self) -> None:
        while True:
            self.samples.append((time.perf_counter(), self.now_mb()))
            await asyncio.sleep(SAMPLE_S)


async def _measure(args: argparse.Namespace, engine: Engine, watchers: Sequence[Watchers]) -> int:
    await engine.wait_ready()
    await engine.reader()
    memory = _Memory(engine)
    await _load(args, engine, memory, 2.0)  # warms up, and is not counted
    for one in watchers:  # what the first of them costs is no socket's
        await one.open(Order(1, 1))
    await asyncio.sleep(IDLE_S)
    before_mb, reading = memory.now_mb(), args.sockets - args.stalled - PROCESSES
    every = max(1, reading // args.sampled)
    await asyncio.gather(*(one.open(Order(n, every)) for one, n in zip(watchers, shares(reading, PROCESSES), strict=True)))
    await asyncio.sleep(IDLE_S)
    idle_kb = (memory.now_mb() - before_mb) * 1000 / reading
    print(f"{reading + PROCESSES:,} dashboards: {before_mb:.0f} MB before, {memory.now_mb():.0f} MB with them", flush=True)
    sampling = asyncio.create_task(memory.sample(), name="bench-memory")
    try:
        alone = await _load(args, engine, memory, args.seconds)
        await asyncio.gather(*(one.open(Order(n, 0)) for one, n in zip(watchers, shares(args.stalled, PROCESSES), strict=True)))
        beside = await _load(args, engine, memory, args.seconds)
    finally:
        sampling.cancel()
    seen = [await one.seen() for one in watchers]
    return _report(args, idle_kb, memory, {"all read": alone, f"{args.stalled} stalled": beside}, seen)


class _Part:
    """One load and what the engine took meanwhile."""

    def __init__(self, load: Load, recorder: Recorder, cpu_share: float, rss_mb: float) -> None:
        self.load, self.recorder, self.cpu_share, self.rss_mb = load, recorder, cpu_share, rss_mb


async def _load(args: argparse.Namespace, engine: Engine, memory: _Memory, seconds: float) -> _Part:
    recorder = Recorder()
    load = Load(engine.target, recorder, args.users, rate_per_s=args.rate)
    before_s = memory.cpu_s()
    await load.run(seconds)
    share = (memory.cpu_s() - before_s) / max(load.ended_s - load.began_s, 1e-9)
    await asyncio.sleep(CATCH_UP_S)
    return _Part(load, recorder, share, memory.now_mb())


def _report(args: argparse.Namespace, idle_kb: float, memory: _Memory, parts: dict[str, _Part], seen: Sequence[Seen]) -> int:
    sockets = list(itertools.chain.from_iterable(one.sockets for one in seen))
    figures: dict[str, Any] = {
        "sockets": args.sockets,
        "idle_kb": idle_kb,
        "parts": {name: _figures(part, sockets) for name, part in parts.items()},
        "rss_mb": [(at_s - memory.samples[0][0], mb) for at_s, mb in memory.samples],
        "received_mb": sum(one.received_bytes for one in seen) / 1e6,
        "lost": sum(one.lost for one in seen),
    }
    columns = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms")
    print(f"bench sockets: {args.sockets:,} dashboards on one process, {args.rate:g} judgments/s for {args.seconds:g} s, twice")
    rows = [[f"message, {name}", *(part["message"][c] for c in columns)] for name, part in figures["parts"].items()]
    rows += [[f"HTTP answer, {name}", *(part["request"][c] for c in columns)] for name, part in figures["parts"].items()]
    print(report.table(("", *columns), rows))
    shown = ("messages_per_s", "missing", "cpu_share", "rss_mb")
    print(report.table(("", *shown), [[name, *(part[c] for c in shown)] for name, part in figures["parts"].items()]))
    steps = memory.samples[:: max(1, len(memory.samples) // 10)]
    print("resident memory over time (s: MB): " + ", ".join(f"{at - steps[0][0]:.0f}: {mb:.0f}" for at, mb in steps))
    worst_ms = max(part["message"]["p99_ms"] for part in figures["parts"].values())
    print(f"memory per idle socket {idle_kb:.1f} KB, under {GOAL_KB:g}: {'yes' if idle_kb < GOAL_KB else 'NO'}")
    print(f"p99 {worst_ms:.0f} ms, under {GOAL_MS:g}: {'yes' if worst_ms < GOAL_MS else 'NO'}; sockets lost: {figures['lost']}")
    report.write_json(figures, args.json)
    complete = not figures["lost"] and not any(part["missing"] for part in figures["parts"].values())
    return 0 if complete and worst_ms < GOAL_MS and idle_kb < GOAL_KB else 1


def _figures(part: _Part, sockets: Sequence[tuple["array[float]", "array[int]"]]) -> dict[str, Any]:
    """What the sampled sockets saw of one load. `missing`: judgments that one of them never showed."""
    began_s, ended_s = part.load.began_s, part.load.ended_s + CATCH_UP_S
    delays, missing, messages = array("d"), 0, 0
    for arrived_s, totals in sockets:
        first = next((n for n, at_s in enumerate(arrived_s) if at_s >= began_s), len(arrived_s))
        last = next((n for n, at_s in enumerate(arrived_s) if at_s >= ended_s), len(arrived_s))
        base = totals[first - 1] if first else 0
        found = delays_s(part.recorder.answered_s, arrived_s[first:last], totals[first:last], base)
        delays.extend(found)
        missing += part.recorder.answered - len(found)
        messages += sum(1 for at_s in arrived_s[first:last] if at_s < part.load.ended_s)
    return {
        "message": report.spread_ms(delays),
        "request": figures_of(part.load, part.recorder),
        "messages_per_s": messages / len(sockets) / max(part.load.ended_s - began_s, 1e-9),
        "missing": missing,
        "cpu_share": part.cpu_share,
        "rss_mb": part.rss_mb,
        "clean": part.recorder.is_clean,
    }
