"""Compare the rollups with the table for a range of time, now. Exit code 0: equal; 1: they differ, or it could not be told."""

import argparse
import asyncio
import time
from datetime import UTC, datetime

from judgify_engine.commands.database import Databases, check_rollups_are_here, with_databases
from judgify_engine.commands.options import add_range, add_settings, from_retained, range_of, settings
from judgify_engine.config import Config
from judgify_engine.core.reconcile import Difference, next_width_s, slice_end, whole_hours
from judgify_engine.core.samples import HOUR_S
from judgify_engine.followers import windows_of
from judgify_engine.observe import logs
from judgify_engine.store.reconcile import Books

TRIES = 5
SETTLE_S = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    add_range(parser)


def run(args: argparse.Namespace) -> int:
    """Compare and print what differs."""
    config = settings(args)
    start_s, end_s = range_of(args)
    logs.configure("console", "warning")
    return with_databases(config, lambda databases: _verify(databases, config, args, start_s, end_s))


async def _verify(databases: Databases, config: Config, args: argparse.Namespace, start_s: int, end_s: int) -> int:
    await check_rollups_are_here(databases, config)
    start_s = await from_retained(databases.judgments, args, start_s, end_s)
    books = Books(*databases, config.change.slot, windows_of(config))
    rows, width_s, found = 0, HOUR_S, list[Difference]()
    place_s = start_s
    while place_s < (ready_s := min(end_s, int(time.time() - SETTLE_S))):
        fine_from_s = books.fine_from_s(time.time())
        next_s = slice_end(place_s, width_s, await books.next_rows_s(place_s), fine_from_s, ready_s)
        if next_s <= place_s:
            break
        seen = await books.compare(place_s, next_s, time.time())
        for _ in range(TRIES):
            if not seen.differences:
                break
            await asyncio.sleep(0.5)  # what changed between the two looks is equal at the next one
            seen = await books.compare(place_s, next_s, time.time())
        rows, width_s, place_s = rows + seen.rows, next_width_s(next_s - place_s, seen.rows), next_s
        found += [whole_hours(one) for one in seen.differences]
    for hour_s in range(max(start_s, books.fine_from_s(time.time())), place_s, HOUR_S):  # what was compared in parts of hours
        found += (await books.compare_fine(hour_s - hour_s % HOUR_S, time.time())).differences
    for one in found:
        start, end = _text(one.start_s), _text(one.end_s)
        print(
            f"DIFFERENT  tenant {one.tenant_id}, {start} to {end}: {one.stored.total} stored, {one.rolled_up.total} rolled up"
        )
        print(f"           mend it: judgify-engine rebuild --from {start} --to {end}")
    print(f"{rows} judgments up to {_text(place_s)} compared: {'equal' if not found else f'{len(found)} differences'}")
    return 1 if found else 0


def _text(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%SZ}"
