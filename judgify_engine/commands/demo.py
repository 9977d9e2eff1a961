"""Serve, and run a simulated plant (10 workflows, 20 machines) that posts over real HTTP while you watch."""

import argparse
import asyncio

from judgify_engine.commands.options import add_serving, settings
from judgify_engine.commands.plant import run_plant
from judgify_engine.errors import SettingsError
from judgify_engine.observe import logs
from judgify_engine.serving import run_process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_serving(parser)
    parser.add_argument("--rate", type=_rate, default=50.0, metavar="R", help="judgments per second (50)")


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value <= 10_000:
        raise argparse.ArgumentTypeError(f"must be over 0 and at most 10000, got {text}")
    return value


def run(args: argparse.Namespace) -> int:
    """Serve and simulate until SIGTERM or Ctrl-C."""
    config = settings(args)
    if not config.seed.token or config.seed.workflows < 10:
        raise SettingsError("demo needs a profile that knows a token and 10 workflows, such as --profile embedded")
    logs.configure(config.log.format, config.log.level)

    async def plant(url: str, stop: asyncio.Event) -> None:
        print(f"A simulated plant posts {args.rate:g} judgments per second. Ctrl-C ends it.", flush=True)
        await run_plant(url, config.seed.token, args.rate, stop)

    return run_process(config, lambda: settings(args), plant)
