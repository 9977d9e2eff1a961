"""`bench compare`: the engine and its peer (`peers/`) side by side, in turns, in one run; medians and their ratio.

One server is alive at a time: it is started on its own data, warmed up, measured at each number of connections, and
stopped; then it is the other's turn. The engine has one dashboard open; its table must equal its rollup after each
turn, and either table must hold every answered request. Load comes from wrk where it is installed.
"""

import argparse
import asyncio
import contextlib
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import uvloop

from judgify_engine.errors import StartupError
from judgify_engine.store.embedded import EmbeddedPostgres

from . import report
from .client import ProtocolError, Target, fetch
from .dashboard import Dashboard
from .harness import Engine, EngineFailed, data_folder, free_port, running
from .load import figures_of
from .loops import Load
from .recorder import Recorder
from .verify import connect, verify_in_database
from .wrk import WrkFailed, find_wrk, run_wrk

WARM_UP_S = 2.0
PEER_START_S = 60.0
PEER_STOP_S = 20.0
EXTRA = ("fastapi", "uvicorn", "httptools")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench compare`."""
    parser.description = "The engine and the FastAPI peer in turns, each on its own embedded PostgreSQL."
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (default: 3)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement (default: 20)")
    parser.add_argument("--connections", type=int, nargs="+", default=[64, 1000], help="default: 64 1000")
    parser.add_argument("--tool", choices=("wrk", "own"), help="load generator (default: wrk where installed)")
    parser.add_argument("--port", type=int, default=0, help="of the servers (default: any free one)")
    parser.add_argument("--data-dir", type=Path, help="kept afterwards (default: a temporary one)")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON (-: standard output)")


def run(args: argparse.Namespace) -> int:
    """Compare and print; 0 when every measurement was clean, 1 when not, 2 for wrong usage."""
    if args.rounds < 1 or args.seconds <= 0 or min(args.connections) < 1:
        print("bench compare: --rounds, --seconds and --connections must be positive", file=sys.stderr)
        return 2
    if missing := [name for name in EXTRA if importlib.util.find_spec(name) is None]:
        print(f"bench compare: the peer needs {', '.join(missing)}: pip install judgify-engine[bench]", file=sys.stderr)
        return 2
    tool = args.tool or ("wrk" if find_wrk() else "own")
    results: list[dict[str, Any]] = []
    with report.tables_apart(args.json), data_folder(args.data_dir, "compare") as folder:
        try:
            for number in range(1, args.rounds + 1):
                for server in (_EngineTurn(folder / "engine", args.port), _PeerTurn(folder / "peer", args.port)):
                    results += _take_turn(server, number, args, tool)
        except (EngineFailed, WrkFailed, StartupError) as error:
            report.note(f"bench compare: {error}")
            return 1
        return _report(args, tool, results)


class _Turn(Protocol):
    """A server for one turn: `alive` runs it, `check` looks at its table."""

    name: str
    has_dashboard: bool

    def alive(self) -> "contextlib.AbstractContextManager[Target]": ...

    async def count(self) -> int: ...

    async def complaint(self) -> str: ...


class _EngineTurn:
    name, has_dashboard = "engine", True

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._engine = Engine(folder, port or free_port())

    @contextlib.contextmanager
    def alive(self) -> Iterator[Target]:
        with running(self._engine):
            uvloop.run(self._wait())
            yield self._engine.target

    async def _wait(self) -> None:
        await self._engine.wait_ready()

    async def count(self) -> int:
        async with connect(self._engine.dsn) as connection:
            return int(await connection.fetchval("select count(*) from judgment_executions"))

    async def complaint(self) -> str:
        verdict = await verify_in_database(self._engine.dsn, b"")
        return "" if verdict.is_good else verdict.line()


class _PeerTurn:
    name, has_dashboard = "peer", False

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._target = Target("127.0.0.1", port or free_port(), "test-token")
        self._dsn = ""

    @contextlib.contextmanager
    def alive(self) -> Iterator[Target]:
        postgres = EmbeddedPostgres(self._folder)
        process: subprocess.Popen[bytes] | None = None
        try:
            self._dsn = postgres.start()
            process = self._start()
            uvloop.run(self._wait(process))
            yield self._target
        finally:
            if process is not None:
                process.terminate()
                try:
                    process.wait(PEER_STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            postgres.stop()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "fastapi_peer:app",
            "--app-dir",
            str(Path(__file__).parent / "peers"),
        ]
        command += ["--host", self._target.host, "--port", str(self._target.port), "--loop", "uvloop"]
        command += ["--http", "httptools", "--no-access-log", "--log-level", "warning", "--backlog", "4096"]
        with (self._folder / "peer.log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PEER_DSN": self._dsn},
                start_new_session=True,
            )

    async def _wait(self, process: "subprocess.Popen[bytes]") -> None:
        began_s = time.perf_counter()
        while time.perf_counter() - began_s < PEER_START_S and process.poll() is None:
            with contextlib.suppress(OSError, TimeoutError, ProtocolError):
                if (await fetch(self._target, "GET", "/ready", timeout_s=5.0)).status == 200:
                    return
            await asyncio.sleep(0.05)
        tail = (self._folder / "peer.log").read_bytes()[-2000:].decode(errors="replace")
        raise EngineFailed(f"the peer did not start\n{tail}")

    async def count(self) -> int:
        async with connect(self._dsn) as connection:
            return int(await connection.fetchval("select count(*) from peer_judgments"))

    async def complaint(self) -> str:
        return ""


def _take_turn(server: _Turn, number: int, args: argparse.Namespace, tool: str) -> list[dict[str, Any]]:
    results = []
    with server.alive() as target:
        uvloop.run(_load(server, target, "own", min(args.connections), WARM_UP_S))
        for connections in args.connections:
            figures = uvloop.run(_load(server, target, tool, connections, args.seconds))
            figures |= {"server": server.name, "round": number, "connections": connections}
            results.append(figures)
            bad = f", {figures['errors']:,} ERRORS ({_kinds(figures)})" if figures["errors"] else ""
            bad += f", {figures['complaint']}" if figures["complaint"] else ""
            print(
                f"round {number}, {server.name:<6} {connections:>5} connections: {figures['per_s']:,.0f}/s, "
                f"p50 {figures['p50_ms']:.1f} ms, p99 {figures['p99_ms']:.1f} ms{bad}",
                flush=True,
            )
    return results


ERROR_KINDS = (
    *("connect_errors", "read_errors", "write_errors", "status_errors", "timeouts"),  # of wrk
    *("refused", "wrong", "cut", "connect_failures"),  # of our own generator
)


def _kinds(figures: dict[str, Any]) -> str:
    return ", ".join(f"{figures[kind]:,} {kind}" for kind in ERROR_KINDS if figures.get(kind))


async def _load(server: _Turn, target: Target, tool: str, connections: int, seconds: float) -> dict[str, Any]:
    """Measure once; `errors` counts everything but good answers, `complaint` says what the table shows."""
    dashboard, stop = Dashboard(target), asyncio.Event()
    before = await server.count()
    async with asyncio.TaskGroup() as tasks:
        if server.has_dashboard:
            tasks.create_task(dashboard.watch(stop), name="bench-dashboard")
            await dashboard.wait_for_first()
        try:
            if tool == "wrk":
                figures = await run_wrk(target, connections, seconds)
                answered = figures["requests"] - figures["status_errors"]
            else:
                recorder = Recorder()
                load = Load(target, recorder, connections)
                await load.run(seconds)
                figures = figures_of(load, recorder)
                kinds = ("refused", "wrong", "cut", "timeouts", "connect_failures")
                figures["errors"] = sum(figures[kind] for kind in kinds)
                answered = recorder.answered
        finally:
            stop.set()
    complaint = await server.complaint()
    stored = await server.count() - before
    if stored < answered:
        complaint = f"LOST {answered - stored:,} of {answered:,} answered {complaint}"
    return {**figures, "stored": stored, "complaint": complaint, "dashboard_messages": dashboard.messages}


def _report(args: argparse.Namespace, tool: str, results: list[dict[str, Any]]) -> int:
    medians: list[dict[str, Any]] = []
    for connections in args.connections:
        row: dict[str, Any] = {"connections": connections}
        for name in ("engine", "peer"):
            own = [each for each in results if each["server"] == name and each["connections"] == connections]
            for figure in ("per_s", "p50_ms", "p99_ms"):
                row[f"{name}_{figure}"] = report.median([each[figure] for each in own])
            row[f"{name}_errors"] = sum(each["errors"] for each in own)
        row["ratio_per_s"] = row["engine_per_s"] / row["peer_per_s"] if row["peer_per_s"] else float("nan")
        medians.append(row)
    print(f"medians of {args.rounds} rounds of {args.seconds:g} s each, load by {tool}")
    heads = ("connections", "server", "per_s", "p50_ms", "p99_ms", "errors", "ratio")
    rows = []
    for row in medians:
        for name in ("engine", "peer"):
            figures = [row[f"{name}_{figure}"] for figure in ("per_s", "p50_ms", "p99_ms", "errors")]
            rows.append([row["connections"], name, *figures, f"{row['ratio_per_s']:.2f}x" if name == "engine" else ""])
    print(report.table(heads, rows))
    good = not any(each["errors"] or each["complaint"] for each in results)
    print("every measurement was clean" if good else "NOT CLEAN: see the rounds above")
    report.write_json({"tool": tool, "medians": medians, "rounds": results, "good": good}, args.json)
    return 0 if good else 1
