"""`bench latency`: the time from a judgment's commit to the dashboard message that first includes it, for every worker.

Method. One WebSocket on each worker watches the dashboard while judgments are posted at a fixed rate (open loop); all are seen
by one process and one clock. (The kernel chooses the worker: sockets are opened one after the other until each worker has one,
and `judgify_dashboards` of `/metrics` tells where one came to be.) Totals on the dashboard only grow, so a message with
`total_executions = base + n` covers the first n commits after the base. The delay of the nth judgment is estimated as (arrival
of the first message with a total of at least base + n) - (arrival of the nth 200).

Pace. Dashboards get at most 10 messages a second by default, so a judgment that comes right after a message waits up to 100 ms
for the next one, whatever the rest takes. What the rest takes is what this bench is for: an engine of its own pushes every
`--push-interval` seconds (0.04 by default: as often as rollups come). With `--url` an engine that runs is measured as it is.

Bias. A 200 arrives a little after its commit (answer written, read by this process), so each delay is too short by
that path, typically well under a millisecond to a few under load; a delay may even come out negative when a message
overtakes an answer (counted, not hidden). Ranks are compared, not identities: where answers arrive in another order
than commits, single delays are off by the difference, their mean is not. The event loop of this process is in both
measurements; when it is busy, messages are seen late and delays come out too long. Nothing else may write judgments
meanwhile: the total in the end is checked against the number of answers.
"""

import argparse
import asyncio
import bisect
import re
import sys
from array import array
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import uvloop

from . import report
from .client import ProtocolError, Target, fetch
from .dashboard import Dashboard
from .harness import Engine, EngineFailed, data_folder, free_port, running
from .load import figures_of, is_named, target_of
from .loops import Load
from .recorder import Recorder

CATCH_UP_S = 10.0
GOAL_MS = 100.0
PUSH_INTERVAL_S = 0.04
TRIES = 20
"""Sockets opened for each worker, at most: the kernel has no turns."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench latency`."""
    parser.description = "Time from commit to the dashboard's message at a fixed rate; nothing else may write meanwhile."
    parser.add_argument("--url", help="an engine that runs (default: JUDGIFY_URL, else one of its own is started)")
    parser.add_argument("--push-interval", type=float, help="of its own engine, in seconds (default: 0.04; users have 0.1)")
    parser.add_argument("--workers", type=int, default=1, help="of its own engine (default: 1)")
    parser.add_argument("--token", help="bearer token (default: JUDGIFY_TOKEN, else test-token)")
    parser.add_argument("--rate", type=float, default=2000.0, help="judgments per second (default: 2000)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long (default: 20)")
    parser.add_argument("--users", type=int, default=64, help="connections (default: 64)")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON (-: standard output)")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0 when every judgment was seen on the dashboard, 1 when not, 2 for wrong usage."""
    own = not is_named(args.url)
    if args.push_interval is not None and not (own and 0.02 <= args.push_interval <= 10):
        print("bench latency: --push-interval is for an engine of its own, and 0.02 to 10 s", file=sys.stderr)
        return 2
    try:
        target = target_of(args.url, args.token)
    except ValueError as error:
        print(f"bench latency: {error}", file=sys.stderr)
        return 2
    if not (args.rate > 0 and 0 < args.seconds <= 86_400 and 1 <= args.users <= 50_000):
        print("bench latency: --rate, --seconds and --users must be positive", file=sys.stderr)
        return 2
    with report.tables_apart(args.json):
        return _on_its_own(args) if own else uvloop.run(_measure(args, target))


def _on_its_own(args: argparse.Namespace) -> int:
    """Start an engine, and measure it."""
    interval_s = PUSH_INTERVAL_S if args.push_interval is None else args.push_interval
    print(f"an engine of its own, {args.workers} worker(s), pushing every {interval_s:g} s at most: the pace of users, 0.1,")
    print("is a wait of up to 100 ms by itself, which would hide what all else takes", flush=True)
    settings = {"JUDGIFY_LIVE_PUSH_INTERVAL_S": str(interval_s)}
    with (
        data_folder(None, "latency") as folder,
        running(Engine(folder, free_port(), workers=args.workers, settings=settings)) as engine,
    ):

        async def measure() -> int:
            await engine.wait_ready()
            await engine.reader()
            return await _measure(args, engine.target)

        try:
            return uvloop.run(measure())
        except EngineFailed as error:
            report.note(f"bench latency: {error}")
            return 1


async def _measure(args: argparse.Namespace, target: Target) -> int:
    try:
        await fetch(target, "GET", "/health", timeout_s=5.0)
    except (OSError, TimeoutError, ProtocolError) as error:
        report.note(f"bench latency: no server at {target.url}: {str(error) or type(error).__name__}")
        return 1
    recorder, stop = Recorder(), asyncio.Event()
    load = Load(target, recorder, args.users, rate_per_s=args.rate)
    async with asyncio.TaskGroup() as tasks:
        try:
            dashboards = await _one_on_each(target, tasks, stop)
            for dashboard in dashboards.values():
                await _settle(dashboard)
            base = max(dashboard.total for dashboard in dashboards.values())
            cpu_s = await _cpu_s(target)
            await load.run(args.seconds)
            used_s = {worker: after - cpu_s.get(worker, 0.0) for worker, after in (await _cpu_s(target)).items()}
            for dashboard in dashboards.values():
                await _catch_up(dashboard, base + recorder.answered)
        except _NoDashboard as error:
            report.note(f"bench latency: {error}")
            return 1
        finally:
            stop.set()
    return _report(args, load, recorder, dashboards, base, used_s)


class _NoDashboard(Exception):
    """A worker has no dashboard, and why."""


async def _figures(target: Target, name: str) -> dict[str, float]:
    """A gauge or counter by worker (`0` where there is one process)."""
    body = (await fetch(target, "GET", "/metrics", timeout_s=5.0)).body.decode()
    found = re.findall(rf'^{name}(?:\{{worker="(\d+)"\}})? (\S+)$', body, re.MULTILINE)
    return {worker or "0": float(value) for worker, value in found}


async def _cpu_s(target: Target) -> dict[str, float]:
    return await _figures(target, "process_cpu_seconds_total")


async def _one_on_each(target: Target, tasks: asyncio.TaskGroup, stop: asyncio.Event) -> dict[str, Dashboard]:
    """A dashboard on each worker, that of the reader of the log first. Raises _NoDashboard."""
    before = await _figures(target, "judgify_dashboards")
    found: dict[str, Dashboard] = {}
    for _ in range(TRIES * len(before)):
        dashboard, given_up = Dashboard(target), asyncio.Event()
        task = tasks.create_task(dashboard.watch(given_up), name="bench-dashboard")
        tasks.create_task(_hand_on(stop, given_up), name="bench-stop")
        if not await dashboard.wait_for_first():
            raise _NoDashboard(f"no dashboard message came ({dashboard.failure or 'silence'})")
        after = await _figures(target, "judgify_dashboards")
        worker = next((one for one, count in after.items() if count > before.get(one, 0)), None)
        if worker is not None and worker not in found:
            found[worker], before = dashboard, after
        else:
            given_up.set()
            await task
        if len(found) == len(before):
            reader = await _figures(target, "judgify_slot_held")
            return dict(sorted(found.items(), key=lambda one: -reader.get(one[0], 0.0)))
    raise _NoDashboard(f"only {len(found)} of {len(before)} workers took a dashboard")


async def _hand_on(stop: asyncio.Event, to: asyncio.Event) -> None:
    await stop.wait()
    to.set()


async def _settle(dashboard: Dashboard) -> None:
    """Wait for one second without a change, 5 s at most: what was written before must not count."""
    for _ in range(5):
        before = dashboard.total
        await asyncio.sleep(1.0)
        if dashboard.total == before:
            return


async def _catch_up(dashboard: Dashboard, total: int) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(CATCH_UP_S):
            while dashboard.total < total:  # noqa: ASYNC110 - the messages come in by another task
                await asyncio.sleep(0.02)


def delays_s(answered_s: Sequence[float], arrived_s: Sequence[float], totals: Sequence[int], base: int) -> "array[float]":
    """The delay of each judgment that a message covers, in seconds, in the order of the answers.

    `answered_s` and `arrived_s` ascend; `totals` belongs to `arrived_s`. O(answers + messages).
    """
    found = array("d")
    for arrived, total in zip(arrived_s, totals, strict=True):
        covered = min(total - base, len(answered_s))
        found.extend(arrived - answered_s[n] for n in range(len(found), covered))
    return found


def _report(
    args: argparse.Namespace,
    load: Load,
    recorder: Recorder,
    dashboards: dict[str, Dashboard],
    base: int,
    used_s: dict[str, float],
) -> int:
    expected = base + recorder.answered
    workers = {worker: _seen(load, recorder, dashboard, base) for worker, dashboard in dashboards.items()}
    for worker, seen in workers.items():
        seen["cpu_share"] = used_s.get(worker, 0.0) / max(load.ended_s - load.began_s, 1e-9)
    figures: dict[str, Any] = {
        "rate_per_s": args.rate,
        "judgments": recorder.answered,
        "workers": workers,
        "request": figures_of(load, recorder),
    }
    print(f"bench latency: commit to WebSocket message at {args.rate:g}/s for {args.seconds:g} s")
    columns = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms", "mean_ms")
    rows = [
        [f"worker {worker}{' (reads the log)' if not number else ''}", *(seen["commit_to_message"][name] for name in columns)]
        for number, (worker, seen) in enumerate(workers.items())
    ]
    rows.append(["HTTP answer (from when it was due)", *(figures["request"][name] for name in columns)])
    print(report.table(("", *columns), rows))
    shown = ("seen", "negative", "messages_per_s", "longest_gap_s", "connections", "cpu_share")
    print(
        report.table(("", *shown), [[f"worker {worker}", *(seen[name] for name in shown)] for worker, seen in workers.items()])
    )
    if not recorder.is_clean:
        print(f"not clean: {recorder.complaints()}")
    for worker, dashboard in dashboards.items():
        if dashboard.total != expected:
            print(f"WRONG: the dashboard of worker {worker} ended at {dashboard.total:,}, not at {expected:,}")
    worst_ms = max(seen["commit_to_message"]["p99_ms"] for seen in workers.values())
    print(f"p99 under {GOAL_MS:g} ms: {'yes' if worst_ms < GOAL_MS else 'NO'}")
    report.write_json(figures, args.json)
    right = all(dashboard.total == expected and not dashboard.went_back for dashboard in dashboards.values())
    seen_all = all(seen["seen"] == recorder.answered > 0 for seen in workers.values())
    return 0 if seen_all and right and recorder.is_clean else 1


def _seen(load: Load, recorder: Recorder, dashboard: Dashboard, base: int) -> dict[str, Any]:
    """What one dashboard saw of the load."""
    first = bisect.bisect_left(dashboard.arrived_s, load.began_s)
    delays = delays_s(recorder.answered_s, dashboard.arrived_s[first:], dashboard.totals[first:], base)
    messages = len(dashboard.arrived_s) - first
    return {
        "commit_to_message": report.spread_ms(delays),
        "seen": len(delays),
        "negative": sum(1 for each in delays if each < 0),
        "messages": messages,
        "messages_per_s": messages / max(load.ended_s - load.began_s, 1e-9),
        "longest_gap_s": dashboard.longest_gap_s(),
        "connections": dashboard.connections,
    }
