"""`bench load`: put load on a running engine, check every answer, and prove afterwards that nothing was lost.

Closed loop by default (`--users`), open loop with `--rate` (latency from the time each request was due). One dashboard
is held open meanwhile. In the end every answered id must be in the table, and the rollup must equal it. Exit code 1
when any answer was wrong, refused, cut or missing; late and unsent requests of an open loop are reported.
"""

import argparse
import asyncio
import math
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

from . import report
from .client import ProtocolError, Target, fetch
from .dashboard import Dashboard
from .loops import Load
from .recorder import Recorder
from .verify import Verdict, verify_in_database, verify_over_api
from .wrk import WrkFailed, run_wrk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench load`."""
    parser.description = "Load a running engine, check each answer, verify in the end that nothing was lost."
    parser.add_argument("--url", help="the engine (default: JUDGIFY_URL, else http://127.0.0.1:8000)")
    parser.add_argument("--token", help="bearer token (default: JUDGIFY_TOKEN, else test-token)")
    parser.add_argument("--users", type=int, default=64, help="connections (default: 64)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long (default: 20)")
    parser.add_argument("--rate", type=float, default=0.0, metavar="R", help="open loop at R requests/s")
    parser.add_argument("--timeout", type=float, default=30.0, help="longest wait for one answer, seconds (default: 30)")
    parser.add_argument("--tool", choices=("own", "wrk"), default="own", help="load generator (default: own)")
    parser.add_argument(
        "--dashboard",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="hold one dashboard open (default: yes)",
    )
    parser.add_argument("--database-url", help="where to verify (default: JUDGIFY_DATABASE_URL, else over the API)")
    parser.add_argument("--data-dir", type=Path, help="verify in the embedded database of this data directory")
    parser.add_argument("--verify-timeout", type=float, default=60.0, help="longest wait for the rollup, seconds")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON (-: standard output)")


def run(args: argparse.Namespace) -> int:
    """Load, verify, print; 0 when all was good, 1 when not, 2 for wrong usage."""
    try:
        target = target_of(args.url, args.token)
    except ValueError as error:
        print(f"bench load: {error}", file=sys.stderr)
        return 2
    if not (1 <= args.users <= 50_000 and 0 < args.seconds <= 86_400 and args.rate >= 0 and args.timeout > 0):
        print("bench load: --users, --seconds, --timeout must be positive, --rate not negative", file=sys.stderr)
        return 2
    if args.tool == "wrk" and args.rate:
        print("bench load: wrk has no open loop; leave --rate or --tool wrk away", file=sys.stderr)
        return 2
    with report.tables_apart(args.json):
        return uvloop.run(_load(args, target))


def target_of(url: str | None, token: str | None) -> Target:
    """The server meant by the options or the environment. Raises ValueError for an address of another kind."""
    return Target.parse(
        url or os.environ.get("JUDGIFY_URL") or "http://127.0.0.1:8000",
        token or os.environ.get("JUDGIFY_TOKEN") or "test-token",
    )


def is_named(url: str | None) -> bool:
    """Whether the options or the environment mean a server."""
    return bool(url or os.environ.get("JUDGIFY_URL"))


def database_of(database_url: str | None, data_dir: Path | None) -> str | None:
    """The database to verify in, None where none was named."""
    if database_url is None and data_dir is not None:
        from judgify_engine.store.embedded import dsn_of

        return dsn_of(data_dir)
    return database_url or os.environ.get("JUDGIFY_DATABASE_URL") or None


async def _load(args: argparse.Namespace, target: Target) -> int:
    try:
        await fetch(target, "GET", "/health", timeout_s=5.0)
    except (OSError, TimeoutError, ProtocolError) as error:
        report.note(f"bench load: no server at {target.url}: {str(error) or type(error).__name__}")
        return 1
    dashboard = Dashboard(target) if args.dashboard else None
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        if dashboard is not None:
            tasks.create_task(dashboard.watch(stop), name="bench-dashboard")
            if not await dashboard.wait_for_first():
                report.note(f"bench load: no dashboard message came ({dashboard.failure or 'silence'})")
        try:
            run_tool = _run_wrk if args.tool == "wrk" else _run_own
            code = await run_tool(args, target, dashboard)
        finally:
            stop.set()
    return code


async def _run_own(args: argparse.Namespace, target: Target, dashboard: Dashboard | None) -> int:
    recorder = Recorder()
    load = Load(target, recorder, args.users, rate_per_s=args.rate, timeout_s=args.timeout, grace_s=args.timeout)
    cpu_s = time.process_time()
    await load.run(args.seconds)
    cpu_s = time.process_time() - cpu_s
    database = database_of(args.database_url, args.data_dir)
    if database:
        verdict = await verify_in_database(database, recorder.ids, args.verify_timeout)
    else:
        verdict = await verify_over_api(target, recorder.ids)
    await _await_dashboard(dashboard, verdict)
    figures = figures_of(load, recorder)
    figures["generator_cpu_share"] = cpu_s / max(load.ended_s - load.began_s, 1e-9)
    loop = f"open loop, {args.rate:g}/s over {args.users} connections" if args.rate else f"{args.users} users, closed loop"
    _print(loop, figures, recorder, verdict, dashboard)
    good = recorder.is_clean and verdict.is_good and recorder.answered > 0
    report.write_json(
        {
            "loop": loop,
            **figures,
            "verified": _verdict_figures(verdict),
            "dashboard": _dashboard_figures(dashboard),
            "samples": recorder.samples,
            "good": good,
        },
        args.json,
    )
    return 0 if good else 1


async def _await_dashboard(dashboard: Dashboard | None, verdict: Verdict) -> None:
    """Give the dashboard 2 s to show the total that was verified."""
    if dashboard is None or verdict.stored is None:
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(2.0):
            while dashboard.total < verdict.stored:  # noqa: ASYNC110 - the messages come in by another task
                await asyncio.sleep(0.02)


def figures_of(load: Load, recorder: Recorder) -> dict[str, Any]:
    """What a load showed: throughput by the wall clock, latencies in milliseconds, what went wrong."""
    took_s = load.ended_s - load.began_s
    return {
        "answered": recorder.answered,
        "seconds": took_s,
        "per_s": recorder.answered / took_s if took_s > 0 else math.nan,
        **report.spread_ms(recorder.latencies_s),
        "refused": sum(recorder.refused.values()),
        "wrong": sum(recorder.wrong.values()),
        "cut": recorder.cut,
        "timeouts": recorder.timeouts,
        "connect_failures": recorder.connect_failures,
        "late": recorder.late,
        "max_late_ms": recorder.max_late_s * 1000,
        "unsent": recorder.unsent,
    }


def _print(loop: str, figures: dict[str, Any], recorder: Recorder, verdict: Verdict, dashboard: Dashboard | None) -> None:
    print(f"bench load: {loop}")
    latency = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms", "mean_ms")
    heads = ("answered", "seconds", "per_s", *latency)
    print(report.table(heads, [[figures[name] for name in heads]]))
    bad = ("refused", "wrong", "cut", "timeouts", "connect_failures", "late", "max_late_ms", "unsent")
    print(report.table(bad, [[figures[name] for name in bad]]))
    print(f"generator: {figures['generator_cpu_share']:.0%} of one core")
    for kind, rows in (recorder.refused + recorder.wrong).most_common():
        print(f"  {rows:,} x {kind}")
    for sample in recorder.samples:
        print(f"  e.g. {sample}")
    for version, result in recorder.results.items():
        print(f"decision: version {version} answered {result}")
    print(f"verified: {verdict.line()}")
    if dashboard is not None:
        print(f"dashboard: {report_dashboard(dashboard)}")


def report_dashboard(dashboard: Dashboard) -> str:
    """What the dashboard saw, in one line."""
    if not dashboard.messages:
        return f"no message came ({dashboard.failure or 'silence'})"
    return (
        f"{dashboard.messages:,} messages, {dashboard.bytes_received:,} bytes, longest gap "
        f"{dashboard.longest_gap_s():.2f} s, last total {dashboard.total:,}"
        + (f", went back {dashboard.went_back} times" if dashboard.went_back else "")
        + (f", {dashboard.connections} connections" if dashboard.connections != 1 else "")
    )


def _dashboard_figures(dashboard: Dashboard | None) -> dict[str, Any] | None:
    if dashboard is None:
        return None
    return {
        "messages": dashboard.messages,
        "bytes": dashboard.bytes_received,
        "connections": dashboard.connections,
        "longest_gap_s": dashboard.longest_gap_s(),
        "went_back": dashboard.went_back,
        "last_total": dashboard.total,
    }


def _verdict_figures(verdict: Verdict) -> dict[str, Any]:
    return {**vars(verdict), "good": verdict.is_good}


async def _run_wrk(args: argparse.Namespace, target: Target, dashboard: Dashboard | None) -> int:
    try:
        figures = await run_wrk(target, args.users, args.seconds)
    except WrkFailed as error:
        report.note(f"bench load: {error}")
        return 1
    print(f"bench load: wrk, {args.users} connections")
    heads = ("requests", "seconds", "per_s", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms")
    print(report.table(heads, [[figures[name] for name in heads]]))
    bad = ("connect_errors", "read_errors", "write_errors", "status_errors", "timeouts")
    print(report.table(bad, [[figures[name] for name in bad]]))
    verdict = None
    if database := database_of(args.database_url, args.data_dir):  # wrk remembers no ids: the totals only
        verdict = await verify_in_database(database, b"", args.verify_timeout)
        await _await_dashboard(dashboard, verdict)
        print(f"verified: {verdict.line()}")
    if dashboard is not None:
        print(f"dashboard: {report_dashboard(dashboard)}")
    good = not figures["errors"] and figures["requests"] > 0 and (verdict is None or verdict.is_good)
    report.write_json(
        {
            "loop": f"wrk, {args.users} connections",
            **figures,
            "verified": None if verdict is None else _verdict_figures(verdict),
            "dashboard": _dashboard_figures(dashboard),
            "good": good,
        },
        args.json,
    )
    return 0 if good else 1
