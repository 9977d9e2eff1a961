"""The command line: which command, which settings. Exit codes: 0 done, 1 failed, 2 wrong usage or settings."""

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from judgify_engine import __version__, interrupts, resources
from judgify_engine.commands import demo, feed, migrate, quotas, rebuild, serve, status, tokens, verify, webhooks, worker
from judgify_engine.errors import JudgifyError, SettingsError

COMMANDS: dict[str, tuple[Any, str]] = {
    "serve": (serve, "serve the API and the page"),
    "demo": (demo, "serve, and run a simulated plant that posts over real HTTP"),
    "feed": (feed, "post a CSV or NDJSON file to a running server"),
    "migrate": (migrate, "bring the database's tables up to date"),
    "tokens": (tokens, "create, list and revoke tokens"),
    "quotas": (quotas, "bound what tenants may use"),
    "webhooks": (webhooks, "show or replace the secret that a tenant's webhooks are signed with"),
    "verify": (verify, "compare the rollups with the table, now"),
    "rebuild": (rebuild, "compute the rollups of some hours anew, while the engine runs"),
    "status": (status, "show how a running server is doing"),
}


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code."""
    interrupts.handle()
    try:
        parser = _parser()
        known = parser.parse_args(arguments)
        return int(known.run(known))
    except SettingsError as error:
        print(f"judgify-engine: {error.detail}", file=sys.stderr)
        return 2
    except JudgifyError as error:
        print(f"judgify-engine: {error.detail}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0 if arguments[:1] in (["serve"], ["demo"], ["worker"]) else 1
    except BrokenPipeError:
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="judgify-engine", description="Automated judgments: decide, commit, then answer.")
    parser.add_argument("--version", action="version", version=f"judgify-engine {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    inner = commands.add_parser("worker")  # without a help text it is not listed
    worker.add_arguments(inner)
    inner.set_defaults(run=worker.run)
    bench = commands.add_parser("bench", help="measure: load, latency, crash, soak, compare, and more")
    benches = bench.add_subparsers(title="benches", required=True, metavar="NAME")
    for path in sorted(resources.folder("bench").glob("*.py")):
        if path.stem in BENCHES:
            command = benches.add_parser(path.stem, help=BENCHES[path.stem])
            command.set_defaults(run=lambda args, path=path: _load_bench(path).run(args))
            _BenchArguments.attach(command, path)
    return parser


BENCHES = {
    "anomaly": "readings through the anomaly rule: what fires, and how much that depends on settings",
    "groups": "two consumer groups, one stands still for minutes; nothing is lost",
    "bulk": "millions of rows in one transaction; memory bounded, rollups exact",
    "compare": "the engine beside its peer, in one run",
    "crash": "kill -9 again and again; nothing may be missing",
    "day": "a day's load on simulated processes: what scaling decides",
    "latency": "from the commit to the dashboard's message",
    "load": "throughput and latency, closed or open loop",
    "neighbours": "what a tenant at ten times its quota does to the latency of others",
    "partitions": "insert, look up and list with 20 million judgments in the table",
    "pixel": "from the HTTP request to the figure drawn in a browser",
    "queries": "charts and summaries with a year of data",
    "rollup": "what reading the log and rolling up costs",
    "rules": "what rules cost, against what is told of them; and a usual decision",
    "soak": "minutes at a fixed rate; memory and log must stay flat",
    "sockets": "thousands of dashboards on one process; memory, delay, stalled ones",
    "workers": "CPU per judgment with 1, 2 and 4 workers",
}


class _BenchArguments:
    """Adds a bench's own arguments when its parser is used, so that no bench is imported by other commands."""

    @staticmethod
    def attach(parser: argparse.ArgumentParser, path: Path) -> None:
        original = parser.parse_known_args

        def parse_known_args(*args: Any, **kwargs: Any) -> Any:
            _load_bench(path).add_arguments(parser)
            parser.parse_known_args = original  # type: ignore[method-assign]
            return original(*args, **kwargs)

        parser.parse_known_args = parse_known_args  # type: ignore[method-assign]


def _load_bench(path: Path) -> ModuleType:
    """Import `bench/NAME.py`, which lies beside the package in a checkout and inside it in a wheel."""
    folder = str(path.parent.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(f"{path.parent.name}.{path.stem}")
