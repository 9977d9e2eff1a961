"""`bench latency`: the time from a judgment's commit to the dashboard message that first includes it.

Method. One WebSocket watches the dashboard while judgments are posted at a fixed rate (open loop); both are seen by one
process and one clock. Totals on the dashboard only grow, so a message with `total_executions = base + n` covers the
first n commits after the base. The delay of the nth judgment is estimated as (arrival of the first message with a
total of at least base + n) - (arrival of the nth 200).

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
import sys
from array import array
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import uvloop

from . import report
from .client import ProtocolError, Target, fetch
from .dashboard import Dashboard
from .load import figures_of, target_of
from .loops import Load
from .recorder import Recorder

CATCH_UP_S = 10.0
GOAL_MS = 250.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench latency`."""
    parser.description = "Time from commit to the dashboard's message at a fixed rate; nothing else may write meanwhile."
    parser.add_argument("--url", help="the engine (default: JUDGIFY_URL, else http://127.0.0.1:8000)")
    parser.add_argument("--token", help="bearer token (default: JUDGIFY_TOKEN, else test-token)")
    parser.add_argument("--rate", type=float, default=2000.0, help="judgments per second (default: 2000)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long (default: 20)")
    parser.add_argument("--users", type=int, default=64, help="connections (default: 64)")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON (-: standard output)")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0 when every judgment was seen on the dashboard, 1 when not, 2 for wrong usage."""
    try:
        target = target_of(args.url, args.token)
    except ValueError as error:
        print(f"bench latency: {error}", file=sys.stderr)
        return 2
    if not (args.rate > 0 and 0 < args.seconds <= 86_400 and 1 <= args.users <= 50_000):
        print("bench latency: --rate, --seconds and --users must be positive", file=sys.stderr)
        return 2
    with report.tables_apart(args.json):
        return uvloop.run(_measure(args, target))


async def _measure(args: argparse.Namespace, target: Target) -> int:
    try:
        await fetch(target, "GET", "/health", timeout_s=5.0)
    except (OSError, TimeoutError, ProtocolError) as error:
        report.note(f"bench latency: no server at {target.url}: {str(error) or type(error).__name__}")
        return 1
    dashboard, recorder, stop = Dashboard(target), Recorder(), asyncio.Event()
    load = Load(target, recorder, args.users, rate_per_s=args.rate)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(dashboard.watch(stop), name="bench-dashboard")
        try:
            if not await dashboard.wait_for_first():
                report.note(f"bench latency: no dashboard message came ({dashboard.failure or 'silence'})")
                return 1
            await _settle(dashboard)
            base = dashboard.total
            await load.run(args.seconds)
            await _catch_up(dashboard, base + recorder.answered)
        finally:
            stop.set()
    return _report(args, load, recorder, dashboard, base)


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


def _report(args: argparse.Namespace, load: Load, recorder: Recorder, dashboard: Dashboard, base: int) -> int:
    first = bisect.bisect_left(dashboard.arrived_s, load.began_s)
    delays = delays_s(recorder.answered_s, dashboard.arrived_s[first:], dashboard.totals[first:], base)
    seen_all = len(delays) == recorder.answered and recorder.answered > 0
    alone = dashboard.total == base + recorder.answered
    delay = report.spread_ms(delays)
    messages = len(dashboard.arrived_s) - first
    figures: dict[str, Any] = {
        "rate_per_s": args.rate,
        "commit_to_message": delay,
        "judgments": recorder.answered,
        "seen": len(delays),
        "negative": sum(1 for each in delays if each < 0),
        "messages": messages,
        "messages_per_s": messages / max(load.ended_s - load.began_s, 1e-9),
        "longest_gap_s": dashboard.longest_gap_s(),
        "request": figures_of(load, recorder),
        "total_as_expected": alone,
    }
    print(f"bench latency: commit to WebSocket message at {args.rate:g}/s for {args.seconds:g} s")
    columns = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms", "mean_ms")
    request = figures["request"]
    print(
        report.table(
            ("", *columns),
            [
                ["commit to message", *(delay[name] for name in columns)],
                ["HTTP answer (from when it was due)", *(request[name] for name in columns)],
            ],
        )
    )
    shown = ("judgments", "seen", "negative", "messages", "messages_per_s", "longest_gap_s")
    print(report.pairs({name: figures[name] for name in shown}))
    if not recorder.is_clean:
        print(f"not clean: {recorder.complaints()}")
    if not alone:
        print(f"WRONG: the dashboard ended at {dashboard.total:,}, not at {base + recorder.answered:,}")
    print(f"p99 under {GOAL_MS:g} ms: {'yes' if delay['p99_ms'] < GOAL_MS else 'NO'}")
    report.write_json(figures, args.json)
    return 0 if seen_all and alone and recorder.is_clean else 1
