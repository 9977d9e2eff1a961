"""`bench crash`: kill -9 under load, again and again, and see whether anything that was answered is ever missing.

Runs its own engine in a data directory of its own, under a closed loop whose requests each carry an `Idempotency-Key`
and are repeated over broken connections until they are answered. After each kill and recovery it checks: every id ever
answered is stored; the rollup equals the table; and, because every request has its key, the table holds exactly one row
per request, so nothing was stored twice either. `--target engine` kills the engine (its PostgreSQL follows as it
will), `--target postgres` kills the postmaster and leaves the engine alone to get it back, `--target reader` kills the worker
that reads the log and waits until another one does.

Dashboards are open all the time, several for each worker, and come back when theirs is killed: after each recovery every one of
them must show exactly what the table holds, and none may ever show less than before. With several workers a consumer group
follows the streams too: in the end it must have been given each judgment once.
"""

import argparse
import asyncio
import contextlib
import math
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import uvloop
from redis.asyncio import Redis

from judgify_engine.streams.embedded import url_of

from . import report
from .client import ProtocolError, fetch
from .dashboard import Dashboard
from .groups import Group
from .harness import Engine, EngineFailed, data_folder, free_port, running
from .load import report_dashboard
from .loops import Load
from .recorder import Recorder
from .verify import Verdict, verify_in_database

RECOVERY_TIMEOUT_S = 120.0
AFTER_S = 0.5
"""How long the load goes on after the recovery, before the check."""

POLL_S = 0.05
TAKEOVER_S = 3.0
"""Another worker reads the log within this time."""
DASHBOARDS_OF_WORKER = 3
SHOWN_WITHIN_S = 15.0
READ_WITHIN_S = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench crash`."""
    parser.description = "Kill -9 of an engine of its own, or of its PostgreSQL, under load; checks after each recovery."
    parser.add_argument("--target", choices=tuple(KILLS), default="engine", help="what is killed")
    parser.add_argument("--workers", type=int, help="processes that serve (default: 1; of --target reader: 2)")
    parser.add_argument("--kills", type=int, default=20, help="how often (default: 20)")
    parser.add_argument("--users", type=int, default=64, help="connections (default: 64)")
    parser.add_argument("--min-seconds", type=float, default=0.3, help="shortest load before a kill (default: 0.3)")
    parser.add_argument("--max-seconds", type=float, default=3.0, help="longest load before a kill (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the random times (default: 0)")
    parser.add_argument("--port", type=int, default=0, help="of the engine (default: any free one)")
    parser.add_argument("--data-dir", type=Path, help="kept afterwards (default: a temporary one)")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON (-: standard output)")


def run(args: argparse.Namespace) -> int:
    """Kill, recover, check; 0 when every check passed, 1 when not, 2 for wrong usage."""
    if not (args.kills > 0 and args.users > 0 and 0 <= args.min_seconds <= args.max_seconds):
        print("bench crash: --kills and --users must be positive, --min-seconds at most --max-seconds", file=sys.stderr)
        return 2
    with report.tables_apart(args.json), data_folder(args.data_dir, "crash") as folder:
        workers = args.workers or (2 if args.target == "reader" else 1)
        engine = Engine(folder, args.port or free_port(), workers=workers)
        try:
            with running(engine):
                return uvloop.run(_crash(args, engine))
        except EngineFailed as error:
            report.note(f"bench crash: {error}")
            return 1


async def _crash(args: argparse.Namespace, engine: Engine) -> int:
    await engine.wait_ready()
    before = await verify_in_database(engine.dsn, b"")
    if before.stored is None or not before.is_good:
        report.note(f"bench crash: the database is not in order to begin with: {before.line()}")
        return 1
    chance = random.Random(args.seed)
    recorder, stop = Recorder(), asyncio.Event()
    dashboards = [Dashboard(engine.target) for _ in range(DASHBOARDS_OF_WORKER * engine.workers)]
    rounds: list[dict[str, Any]] = []
    async with asyncio.TaskGroup() as tasks, _follower(engine, tasks, stop) as group:
        for dashboard in dashboards:
            tasks.create_task(dashboard.watch(stop), name="bench-dashboard")
        try:
            for number in range(1, args.kills + 1):
                load_s = chance.uniform(args.min_seconds, args.max_seconds)
                rounds.append(await _round(args, engine, recorder, dashboards, before.stored, load_s))
                print(_line(number, args.target, rounds[-1]), flush=True)
                if rounds[-1]["failure"]:
                    break
            lacking = await _lacking(group, recorder)
        finally:
            stop.set()
    bad = sum(1 for each in rounds if not each["good"])
    ready_s = [each["recovered_after_s"] for each in rounds if not each["failure"]] or [math.nan]
    went_back = sum(dashboard.went_back for dashboard in dashboards)
    print(
        f"dashboard: {report_dashboard(dashboards[0])}; {len(dashboards)} of them, {went_back} messages showed less than before"
    )
    if group is not None:
        print(f"streams: {len(group.seen):,} judgments read, {lacking:,} missing, {group.doubled:,} doubled")
    if complaints := recorder.complaints():
        print(f"seen by the clients meanwhile: {complaints}")
    for sample in recorder.samples:
        print(f"  e.g. {sample}")
    late = args.target == "reader" and max(ready_s) > TAKEOVER_S
    good = not (bad or recorder.wrong or went_back or lacking or late or (group is not None and group.doubled))
    print(
        f"{'GOOD' if good else 'FAILED'}: {len(rounds)} kills of {args.target}, "
        f"{recorder.answered:,} judgments answered, {bad} checks failed, {sum(recorder.wrong.values())} wrong answers; "
        f"recovered after {report.median(ready_s):.1f} s (median), {max(ready_s):.1f} s (longest)"
    )
    report.write_json({"target": args.target, "answered": recorder.answered, "good": good, "rounds": rounds}, args.json)
    return 0 if good else 1


@contextlib.asynccontextmanager
async def _follower(engine: Engine, tasks: asyncio.TaskGroup, stop: asyncio.Event) -> AsyncIterator[Group | None]:
    """A consumer group on all streams, where the engine has a Redis."""
    if engine.workers == 1:
        yield None
        return
    group = Group("crash")
    async with Redis.from_url(url_of(engine.data_dir)) as client:
        await group.make(client)
        reading = tasks.create_task(group.read(client, stop), name="bench-group")
        yield group
        await asyncio.wait((reading,))


async def _lacking(group: Group | None, recorder: Recorder) -> int:
    """How many of the answered judgments the group was not given, in good time."""
    if group is None:
        return 0
    ids = recorder.ids
    answered = {bytes(ids[at : at + 16]) for at in range(0, len(ids), 16)}
    until_s = time.perf_counter() + READ_WITHIN_S
    while not answered <= group.seen and time.perf_counter() < until_s:  # noqa: ASYNC110 - read by another task
        await asyncio.sleep(POLL_S)
    return len(answered - group.seen)


async def _shown(dashboards: list[Dashboard], total: int) -> int:
    """How many dashboards do not show that total, in good time."""
    until_s = time.perf_counter() + SHOWN_WITHIN_S
    while time.perf_counter() < until_s:
        if all(dashboard.total == total for dashboard in dashboards):
            return 0
        await asyncio.sleep(POLL_S)
    return sum(dashboard.total != total for dashboard in dashboards)


async def _round(
    args: argparse.Namespace, engine: Engine, recorder: Recorder, dashboards: list[Dashboard], base: int, load_s: float
) -> dict[str, Any]:
    answered_before, verdict = recorder.answered, Verdict("database")
    load = Load(engine.target, recorder, args.users, keyed=True, grace_s=RECOVERY_TIMEOUT_S)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load.run(RECOVERY_TIMEOUT_S * 2), name="bench-load")
        await asyncio.sleep(load_s)
        outstanding, before_kill = load.outstanding, recorder.answered
        try:
            recovered_s = await KILLS[args.target](engine)
            await asyncio.sleep(AFTER_S)
        except EngineFailed as error:  # that is a result too
            recovered_s, verdict.failure = math.nan, str(error)
            load.abort()
        load.stop()
    if not verdict.failure:
        verdict = await verify_in_database(engine.dsn, recorder.ids)
    exact = not load.outstanding and verdict.stored == base + recorder.answered
    wrong = 0 if verdict.failure or verdict.stored is None else await _shown(dashboards, verdict.stored)
    return {
        "load_s": load_s,
        "answered": recorder.answered - answered_before,
        "answered_after_kill": recorder.answered - before_kill,
        "outstanding_at_kill": outstanding,
        "unanswered": load.outstanding,
        "recovered_after_s": recovered_s,
        "exactly_once": exact,
        "wrong_dashboards": wrong,
        "expected_rows": base + recorder.answered,
        **_figures(verdict),
        "verdict": verdict.line(),
        "good": verdict.is_good and exact and not wrong,
    }


def _figures(verdict: Verdict) -> dict[str, Any]:
    names = ("checked", "missing", "doubled", "stored", "rolled_up", "waited_s", "failure")
    return {name: getattr(verdict, name) for name in names}


async def _kill_engine(engine: Engine) -> float:
    began_s = time.perf_counter()
    await asyncio.to_thread(engine.kill)
    engine.start()
    await engine.wait_ready(RECOVERY_TIMEOUT_S)
    return time.perf_counter() - began_s


async def _kill_postgres(engine: Engine) -> float:
    """Kill the postmaster; wait until there is another one and the engine can commit again."""
    began_s = time.perf_counter()
    killed = engine.kill_postgres()
    while time.perf_counter() - began_s < RECOVERY_TIMEOUT_S:
        if not engine.is_running:
            raise EngineFailed(f"the engine ended after its PostgreSQL was killed\n{engine.log_tail()}")
        if engine.postmaster_pid() not in (None, killed):
            with suppress(OSError, TimeoutError, ProtocolError):
                if (await fetch(engine.target, "GET", "/ready", timeout_s=5.0)).status == 200:
                    return time.perf_counter() - began_s
        await asyncio.sleep(POLL_S)
    raise EngineFailed(f"no PostgreSQL again after {RECOVERY_TIMEOUT_S:.0f} s\n{engine.log_tail()}")


async def _kill_reader(engine: Engine) -> float:
    """Kill the worker that reads the log; wait until another one does, as PostgreSQL sees it."""
    connection = await asyncpg.connect(engine.dsn)
    try:
        before = await _reading(connection, engine, None)
        reader = await engine.reader()
        began_s = time.perf_counter()
        engine.kill_worker(reader)
        await _reading(connection, engine, before)
        return time.perf_counter() - began_s
    finally:
        await connection.close()


async def _reading(connection: Any, engine: Engine, other_than: int | None) -> int:
    """The server's process that sends the log to a worker."""
    deadline_s = time.perf_counter() + RECOVERY_TIMEOUT_S
    while time.perf_counter() < deadline_s:
        pid = await connection.fetchval("SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'judgify_cdc'")
        if pid not in (None, other_than):
            return int(pid)
        await asyncio.sleep(0.01)
    raise EngineFailed(f"nobody reads the log after {RECOVERY_TIMEOUT_S:.0f} s\n{engine.log_tail()}")


KILLS = {"engine": _kill_engine, "postgres": _kill_postgres, "reader": _kill_reader}


def _line(number: int, target: str, figures: dict[str, Any]) -> str:
    text = (
        f"kill {number:>2} of {target}: {figures['answered']:,} answered, {figures['outstanding_at_kill']} under way, "
        f"back after {figures['recovered_after_s']:.2f} s; {figures['verdict']}"
    )
    if figures["wrong_dashboards"]:
        text += f"; {figures['wrong_dashboards']} DASHBOARDS SHOW SOMETHING ELSE"
    if figures["unanswered"]:
        text += f"; {figures['unanswered']} requests never got an answer"
    elif not figures["exactly_once"]:
        text += f"; NOT EXACTLY ONCE: {figures['stored']} rows for {figures['expected_rows']} requests"
    return text
