"""Set, list and remove quotas of tenants; servers follow within 5 seconds."""

import argparse
import math
import sys

from judgify_engine.commands.database import with_database
from judgify_engine.commands.options import add_settings, check_tenant, settings
from judgify_engine.errors import SettingsError
from judgify_engine.observe import logs
from judgify_engine.store.quotas import QuotaStore

BOUNDS: tuple[tuple[str, type, str, float], ...] = (
    ("requests_per_s", float, "requests a second", 1e6),
    ("bytes_per_s", float, "bytes of bodies a second", 1e12),
    ("sockets", int, "dashboards open at once", 1e6),
)
"""Each with its type, what it is, and the most that it may be."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION", dest="action")
    put = actions.add_parser("set", help="bound what a tenant may use, in all processes together; 0: no bound")
    put.add_argument("tenant")
    for name, kind, text, _ in BOUNDS:
        put.add_argument(_flag(name), type=kind, metavar="N", help=text)
    listing = actions.add_parser("list", help="show all that are set")
    remove = actions.add_parser("remove", help="let the settings hold for a tenant again")
    remove.add_argument("tenant")
    for action in (put, listing, remove):
        add_settings(action)


def run(args: argparse.Namespace) -> int:
    """Do the action."""
    config = settings(args)
    logs.configure("console", "warning")
    if args.action == "set":
        _check(args)
    work = {"set": _set, "list": _list, "remove": _remove}[args.action]
    return with_database(config, lambda database: work(QuotaStore(database), args))


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check(args: argparse.Namespace) -> None:
    check_tenant("tenant", args.tenant)
    given = {name: getattr(args, name) for name, *_ in BOUNDS}
    if all(value is None for value in given.values()):
        raise SettingsError(f"give at least one of {', '.join(map(_flag, given))}")
    for name, _, _, most in BOUNDS:
        value = given[name]
        if value is not None and not (math.isfinite(value) and 0 <= value <= most):
            raise SettingsError(f"{_flag(name)} must be 0 to {most:g}, got {value}")


async def _set(store: QuotaStore, args: argparse.Namespace) -> int:
    await store.set(args.tenant, args.requests_per_s, args.bytes_per_s, args.sockets)
    return 0


async def _list(store: QuotaStore, args: argparse.Namespace) -> int:
    for row in await store.list():
        values = [f"{name}={_shown(row[name])}" for name, *_ in BOUNDS]
        print(f"{row['tenant_id']:20}  {'  '.join(values)}")
    return 0


def _shown(value: float | None) -> str:
    return "as the settings say" if value is None else f"{value:g}" if value else "unbounded"


async def _remove(store: QuotaStore, args: argparse.Namespace) -> int:
    if not await store.remove(args.tenant):
        print(f"judgify-engine: tenant {args.tenant!r} has no quota of its own", file=sys.stderr)
        return 1
    return 0
