"""`bench queries`: how long charts and summaries take with a year of data of 50 workflows, on an engine of its own.

The data is made right in the rollup tables (see `year`), so the engine rightly says that they differ from the empty table. Then
it is asked over HTTP: every time frame, one workflow and all, one metric and all, JSON and CSV, now and at a random time of the
year, and for the summary; one request at a time, and eight at once. Dashboards are opened over WebSocket, each one new, until
their first message. `cpu` is what engine and PostgreSQL together spend on one request, which depends less on what else the
machine does. Good means: every answer is a 200, and p99 of each kind is under `LIMIT_MS`, one at a time.
"""

import argparse
import asyncio
import contextlib
import functools
import itertools
import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import psutil
import uvloop

from . import report, year
from .client import Connection, Response, Target
from .harness import Engine, EngineFailed, data_folder, free_port, running
from .verify import connect

LIMIT_MS = 50.0
TENANT = "demo"
AT_ONCE = 8
TIMEOUT_S = 30.0
FRAMES = ("1h", "6h", "24h", "7d")
WARM_UP = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench queries`."""
    parser.description = "A year of 50 workflows on an engine of its own: charts and summaries under 50 ms at p99?"
    parser.add_argument("--requests", type=int, default=400, help="of each kind (default: 400)")
    parser.add_argument("--full", action="store_true", help="buckets of 5 minutes for the whole year: 21 million rows")
    parser.add_argument("--seed", type=int, default=1, help="of what is asked at random (default: 1)")
    parser.add_argument("--data-dir", type=Path, help="kept afterwards, and used again (default: a temporary one)")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON (-: standard output)")


def run(args: argparse.Namespace) -> int:
    """Make the data, ask, judge; 0 when good, 1 when not, 2 for wrong usage."""
    if args.requests < 1:
        print("bench queries: --requests must be positive", file=sys.stderr)
        return 2
    with report.tables_apart(args.json), data_folder(args.data_dir, "queries") as folder:
        engine = Engine(folder, free_port())
        try:
            with running(engine):
                return uvloop.run(_queries(args, engine))
        except EngineFailed as error:
            report.note(f"bench queries: {error}")
            return 1


async def _queries(args: argparse.Namespace, engine: Engine) -> int:
    await engine.wait_ready()
    async with connect(engine.dsn) as connection:
        made = await year.make(connection, TENANT, full=args.full)
    print(f"{made['rows']:,.0f} rows, {made['bytes'] / 2**30:.1f} GiB with the index, made in {made['took_s']:.0f} s")
    chance = random.Random(args.seed)
    alone: dict[str, list[float]] = {}
    at_once: dict[str, list[float]] = {}
    cpu_s: dict[str, float] = {}
    for kind, ask in kinds(chance, year.DAYS if args.full else year.FINE_DAYS).items():
        await _ask(engine.target, ask, WARM_UP, 1)
        before_s = _cpu_s(engine)
        alone[kind] = await _ask(engine.target, ask, args.requests, 1)
        cpu_s[kind] = (_cpu_s(engine) - before_s) / args.requests
        at_once[kind] = await _ask(engine.target, ask, args.requests, AT_ONCE)
    for frame in FRAMES:
        before_s, times = _cpu_s(engine), min(args.requests, 100)
        alone[f"dashboard {frame}"] = await _open_dashboards(engine.target, frame, times)
        cpu_s[f"dashboard {frame}"] = (_cpu_s(engine) - before_s) / times
    return _report(args, made, alone, at_once, cpu_s)


def _cpu_s(engine: Engine) -> float:
    """What all its processes have spent so far."""
    spent_s = 0.0
    for process in itertools.chain(*engine.processes()):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            spent_s += times.user + times.system
    return spent_s


def kinds(chance: random.Random, fine_days: int) -> dict[str, Callable[[], str]]:
    """What is asked: a name, and what gives the path of one request of that kind."""

    def workflow() -> str:
        return f"&workflow_id=plant-{chance.randint(1, year.WORKFLOWS)}"

    def once(days: int) -> str:
        moment = datetime.now(UTC) - timedelta(days=8) - chance.random() * timedelta(days=days - 9)
        return f"&until={quote(moment.isoformat())}"

    def path(frame: str, more: str, *parts: Callable[[], str], api: str = "metrics") -> Callable[[], str]:
        return lambda: f"/api/v1/{api}?timeframe={frame}{more}" + "".join(part() for part in parts)

    found: dict[str, Callable[[], str]] = {}
    for frame in FRAMES:
        days = fine_days if frame in ("1h", "6h") else year.DAYS - 7
        found |= {
            f"{frame} all, one metric": path(frame, "&metric=execution_time_ms"),
            f"{frame} all, *": path(frame, "&metric=*"),
            f"{frame} workflow, *": path(frame, "&metric=*", workflow),
            f"{frame} workflow, *, csv": path(frame, "&metric=*&format=csv", workflow),
            f"{frame} workflow, *, once": path(frame, "&metric=*", workflow, functools.partial(once, days)),
            f"{frame} chart": path(frame, "&chart=response_time_chart", workflow),
            f"{frame} summary": path(frame, "", workflow, api="summary"),
        }
    return found


async def _ask(target: Target, ask: Callable[[], str], requests: int, at_once: int) -> list[float]:
    """How long each of so many requests took, in seconds, `at_once` under way at any time."""
    paths = iter([ask() for _ in range(requests)])
    took_s: list[float] = []
    async with asyncio.TaskGroup() as tasks:
        for number in range(at_once):
            tasks.create_task(_caller(target, paths, took_s), name=f"bench-caller-{number}")
    return took_s


async def _caller(target: Target, paths: Iterator[str], took_s: list[float]) -> None:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Response] = loop.create_future()

    def lost(error: Exception | None) -> None:
        if not answer.done():
            answer.set_exception(error or ConnectionResetError("the connection was closed before the answer"))

    _, connection = await loop.create_connection(
        lambda: Connection(lambda _: None, lambda response: answer.set_result(response), lost), target.host, target.port
    )
    try:
        for path in paths:
            request = target.encode("GET", path)
            answer = loop.create_future()
            began_s = time.perf_counter()
            connection.send(request)
            async with asyncio.timeout(TIMEOUT_S):
                response = await answer
            took_s.append(time.perf_counter() - began_s)
            if response.status != 200:
                raise EngineFailed(f"GET {path}: {response.status} {response.body[:300]!r}")
    finally:
        answer.cancel()
        connection.close()


_number = itertools.count()


async def _open_dashboards(target: Target, frame: str, times: int) -> list[float]:
    """From the request to the first message, in seconds; every dashboard is a new one, so each is read from the tables."""
    took_s: list[float] = []
    headers = {"Authorization": f"Bearer {target.token}"}
    async with aiohttp.ClientSession() as session:
        for _ in range(times):
            url = f"{target.url}/ws/dashboards/bench-{next(_number)}?timeframe={frame}"
            began_s = time.perf_counter()
            async with session.ws_connect(url, headers=headers, max_msg_size=64 * 1024 * 1024) as socket:
                await socket.receive_str(timeout=TIMEOUT_S)
                took_s.append(time.perf_counter() - began_s)
    return took_s


def _report(
    args: argparse.Namespace,
    made: dict[str, float],
    alone: dict[str, list[float]],
    at_once: dict[str, list[float]],
    cpu_s: dict[str, float],
) -> int:
    figures: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, measured in (("alone", alone), ("at_once", at_once)):
        for kind, took_s in measured.items():
            figures[kind] |= {name: report.spread_ms(took_s), "cpu_ms": cpu_s[kind] * 1000}
    nothing = report.spread_ms(())
    rows = [
        [
            kind,
            found["cpu_ms"],
            *(found.get(which, nothing)[p] for which in ("alone", "at_once") for p in ("p50_ms", "p99_ms", "max_ms")),
        ]
        for kind, found in figures.items()
    ]
    heads = ("ms", "cpu", "p50", "p99", "max", f"p50 of {AT_ONCE} at once", "p99", "max")
    print(report.table(heads, rows))
    slow = [kind for kind, found in figures.items() if not found["alone"]["p99_ms"] < LIMIT_MS]
    for kind in slow:
        print(f"NOT GOOD: {kind}: p99 {figures[kind]['alone']['p99_ms']:.1f} ms of less than {LIMIT_MS:g} ms")
    print("FAST ENOUGH" if not slow else "FAILED")
    report.write_json({"data": made, "requests": args.requests, "kinds": figures, "slow": slow, "good": not slow}, args.json)
    return 1 if slow else 0
