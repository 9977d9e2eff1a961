"""`bench neighbours`: what a tenant at many times its quota does to the latency of another one.

An engine of its own with two tenants. The quiet one posts at a fixed rate (open loop, latency from the intended send time), by
turns alone, beside the noisy one that keeps to its quota, and beside it at a multiple of that, sent from a process of its own
whatever it is answered. That process has the lowest priority, since it stands for clients on other machines: what sending costs
is not to be taken for what its requests cost the engine. (It tells how many it sent. Refusals are held, so over its connections
these are fewer than it wants to send.) Rounds alternate, so that whatever else the machine does meets all; compared are their
medians. What the quota lets through is work like any other; what it promises is that more than that does not count.
"""

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from judgify_engine.config import Config
from judgify_engine.store.pool import Database
from judgify_engine.store.quotas import QuotaStore
from judgify_engine.store.tokens import TokenStore

from . import report
from .client import EXECUTE_PATH, SEED_BODY, SEED_WORKFLOW, Connection, Response, Target, fetch
from .harness import Engine, EngineFailed, data_folder, free_port, running
from .load import figures_of
from .loops import Load
from .recorder import Recorder

TENANTS = ("quiet", "noisy")
WORKFLOW = b'{"rules": [{"when": "input.temperature > 90.0", "result": {"verdict": "inspect"}, "confidence": 0.9}],' \
    b' "default": {"result": {"verdict": "ok"}, "confidence": 0.99}}'  # fmt: skip
SETTLE_S = 1.0
TICK_S = 0.005
CONNECT_TIMEOUT_S = 30.0
GOAL = 1.20
ROOT = Path(__file__).resolve().parent.parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench neighbours`."""
    parser.description = "Latency of one tenant, alone and beside another one at many times its quota."
    parser.add_argument("--rate", type=float, default=500.0, help="requests per second of the quiet tenant (default: 500)")
    parser.add_argument("--quota", type=float, default=500.0, help="requests per second of the noisy one (default: 500)")
    parser.add_argument("--times", type=float, default=10.0, help="how many times that it sends (default: 10)")
    parser.add_argument("--rounds", type=int, default=5, help="of each kind (default: 5)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of a round (default: 6)")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON (-: standard output)")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0 when the quiet tenant's p99 moves by less than a fifth, 1 when not, 2 for wrong usage."""
    if min(args.rate, args.quota, args.rounds, args.seconds) <= 0 or args.times <= 1:
        print("bench neighbours: --times must be over 1, all other numbers positive", file=sys.stderr)
        return 2
    with report.tables_apart(args.json), data_folder(None, "neighbours") as folder:
        engine = Engine(folder, free_port())
        try:
            with running(engine):
                return uvloop.run(_measure(args, engine))
        except EngineFailed as error:
            report.note(f"bench neighbours: {error}")
            return 1


async def _measure(args: argparse.Namespace, engine: Engine) -> int:
    await engine.wait_ready()
    quiet, noisy = await _tenants(engine, args.quota)
    rounds: dict[float, list[dict[str, Any]]] = {0.0: [], 1.0: [], args.times: []}
    floods: list[tuple[float, float]] = []
    await _round(quiet, args)  # warms up, and is not counted
    for _ in range(args.rounds):
        for times, found in rounds.items():
            flood = await _flood(noisy, times * args.quota) if times else None
            if flood is not None:
                await asyncio.sleep(SETTLE_S)
            found.append(await _round(quiet, args))
            if flood is not None:
                ended = await _end(flood)
                if times == args.times:
                    floods.append(ended)
    return _report(args, rounds, floods)


async def _tenants(engine: Engine, quota: float) -> list[Target]:
    database = Database(engine.dsn, Config())
    await database.open()
    try:
        await QuotaStore(database).set("noisy", quota, None, None)
        targets = []
        for tenant in TENANTS:
            _, token = await TokenStore(database).create(tenant, "bench", ["admin", "execute"], None)
            targets.append(engine.target._replace(token=token))
    finally:
        await database.close()
    for target in targets:
        answer = await fetch(target, "PUT", f"/api/v1/workflows/{SEED_WORKFLOW}", WORKFLOW)
        if answer.status != 201:
            raise EngineFailed(f"a workflow was refused: {answer.body[:300]!r}")
    return targets


async def _round(target: Target, args: argparse.Namespace) -> dict[str, Any]:
    recorder = Recorder()
    load = Load(target, recorder, 32, rate_per_s=args.rate)
    await load.run(args.seconds)
    if not recorder.is_clean:
        raise EngineFailed(f"the quiet tenant was not served: {recorder.complaints()}")
    return figures_of(load, recorder)


async def _flood(target: Target, rate: float) -> asyncio.subprocess.Process:
    code = "import sys; from bench.neighbours import flood; flood(*sys.argv[1:])"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, target.url, target.token, str(rate)),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # a session has a priority of its own on Linux
    )
    assert process.stdout is not None
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        if await process.stdout.readline() != b"connected\n":
            raise EngineFailed("the noisy tenant could not connect")
    return process


async def _end(process: asyncio.subprocess.Process) -> tuple[float, float]:
    """Stop a flood; how many requests it sent a second, and how many of them were let through."""
    out, _ = await process.communicate(b"")  # which closes its standard input: that ends it
    sent, served, seconds = map(float, out.split())
    return sent / seconds, served / seconds


def flood(url: str, token: str, rate: str) -> None:
    """The main of the noisy tenant's process: posts at a rate until its standard input ends."""
    asyncio.run(_Flood(Target.parse(url, token), float(rate)).run())


def _give_way() -> None:
    os.nice(19)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("19")


class _Flood:
    """Sends at a fixed rate, over as many connections as that takes; an answer is counted and not heeded."""

    def __init__(self, target: Target, rate_per_s: float) -> None:
        self._target, self._rate_per_s = target, rate_per_s
        self._request = target.encode("POST", EXECUTE_PATH, SEED_BODY)
        self._idle: list[Connection] = []
        self._sent = self._skipped = self._served = 0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        ended = loop.run_in_executor(None, sys.stdin.buffer.read)
        count = int(self._rate_per_s * 0.2) + 16  # a refusal is held for a tenth of a second
        made = [await self._connect(loop) for _ in range(count)]
        print("connected", flush=True)
        _give_way()
        began_s = time.perf_counter()
        while not ended.done():
            due = int((time.perf_counter() - began_s) * self._rate_per_s)
            while self._sent + self._skipped < due and self._idle:
                self._sent += 1
                self._idle.pop().send(self._request)
            skipped = due - int(self._rate_per_s) - self._sent - self._skipped
            self._skipped += max(0, skipped)  # what could not be sent for a second never is
            await asyncio.sleep(TICK_S)
        print(self._sent, self._served, time.perf_counter() - began_s)
        for connection in made:
            connection.abort()

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> Connection:
        connection: Connection

        def answered(response: Response) -> None:
            self._served += response.status == 200
            self._idle.append(connection)

        _, connection = await loop.create_connection(
            lambda: Connection(self._idle.append, answered, lambda _: None), self._target.host, self._target.port
        )
        return connection


def _report(args: argparse.Namespace, rounds: dict[float, list[dict[str, Any]]], floods: list[tuple[float, float]]) -> int:
    names = {0.0: "alone", 1.0: "beside one at its quota", args.times: f"beside one at {args.times:g} times its quota"}
    found: dict[str, Any] = {}
    rows = []
    for times, figures in rounds.items():
        p50, p99 = ([each[key] for each in figures] for key in ("p50_ms", "p99_ms"))
        found[names[times]] = {"p50_ms": p50, "p99_ms": p99}
        rows.append((names[times], report.median(p50), report.median(p99), min(p99), max(p99)))
    print(report.table(("the quiet tenant", "p50 ms", "p99 ms", "least p99", "most p99"), rows))
    ratio = rows[2][2] / rows[1][2]
    sent, let_through = ([each[kind] for each in floods] for kind in (0, 1))
    found |= {"ratio": ratio, "sent_per_s": sent, "let_through_per_s": let_through, "good": ratio < GOAL}
    report.write_json(found, args.json)
    print(
        f"beyond the quota, p99 moved by {100 * (ratio - 1):+.0f} % (medians of {args.rounds} rounds); the noisy tenant sent "
        f"{report.median(sent):,.0f}/s, of which {report.median(let_through):,.0f} were let through; "
        f"{'GOOD' if found['good'] else 'NOT GOOD'}"
    )
    return 0 if found["good"] else 1
