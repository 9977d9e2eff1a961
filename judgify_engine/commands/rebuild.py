"""Compute the rollups of a range of hours anew from the table, while the engine runs; nothing is counted twice."""

import argparse
import asyncio
import time
from datetime import UTC, datetime

from judgify_engine.commands.database import Databases, check_rollups_are_here, with_databases
from judgify_engine.commands.options import add_range, add_settings, from_retained, range_of, settings
from judgify_engine.config import Config
from judgify_engine.errors import JudgifyError
from judgify_engine.observe import logs
from judgify_engine.store.repair import RepairRequests

POLL_S = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add_range(parser)
    parser.add_argument("--timeout", type=float, default=3600.0, metavar="S", help="longest wait, seconds (3600)")


def run(args: argparse.Namespace) -> int:
    """Ask the engine that reads the log, and wait for it."""
    config = settings(args)
    start_s, end_s = range_of(args)
    logs.configure("console", "warning")
    return with_databases(config, lambda databases: _rebuild(databases, config, args, start_s, end_s))


async def _rebuild(databases: Databases, config: Config, args: argparse.Namespace, start_s: int, end_s: int) -> int:
    await check_rollups_are_here(databases, config)
    start_s = await from_retained(databases.judgments, args, start_s, end_s)
    start, end = (datetime.fromtimestamp(second, UTC) for second in (start_s, end_s))
    async with databases.judgments.query() as connection:
        active = await connection.fetchval(
            "SELECT active FROM pg_replication_slots WHERE slot_name = $1 AND database = current_database()", config.change.slot
        )
    if not active:
        raise JudgifyError("no engine reads the log of this database; start one, it does the work")
    store = RepairRequests(databases.rollups, config.change.slot)
    number = await store.ask(start, end)
    deadline_s = time.monotonic() + args.timeout
    while time.monotonic() < deadline_s:
        row = await store.state(number)
        if row["finished_at"] is not None:
            if row["error"]:
                raise JudgifyError(f"it could not be done: {row['error']}")
            print(f"computed anew from {start:%Y-%m-%dT%H:%MZ} to {end:%Y-%m-%dT%H:%MZ}: {row['judgments']} judgments")
            return 0
        await asyncio.sleep(POLL_S)
    raise JudgifyError(f"it was not done within {args.timeout:g} s; it stays asked for (number {number})")
