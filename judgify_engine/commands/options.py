"""The flags that several commands share."""

import argparse
import time
from datetime import UTC, datetime
from typing import Any

from judgify_engine import config
from judgify_engine.core.reconcile import EARLIEST_S
from judgify_engine.core.samples import HOUR_S
from judgify_engine.errors import SettingsError
from judgify_engine.store import retention
from judgify_engine.store.pool import Database


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The flags that name settings."""
    parser.add_argument("--profile", metavar="NAME", help="a profile's name, or the path of a .toml file")
    parser.add_argument("--data-dir", metavar="DIR", help="where the embedded PostgreSQL keeps its files (judgify-data)")


def add_serving(parser: argparse.ArgumentParser) -> None:
    """The flags of what serves."""
    add_settings(parser)
    parser.add_argument("--host", metavar="H", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", metavar="P", help="port to listen on (8000; 0: any free one)")
    parser.add_argument("--workers", metavar="N", help="processes that serve (1; 0: one for each core)")


def add_range(parser: argparse.ArgumentParser) -> None:
    """The flags that name a range of time."""
    parser.add_argument("--from", dest="start", metavar="TIME", help="RFC 3339, or a date (the beginning of time)")
    parser.add_argument("--to", dest="end", metavar="TIME", help="RFC 3339, or a date; not included (now)")


def check_tenant(name: str, tenant_id: str) -> None:
    """Raises SettingsError, naming the argument, for what is no tenant's id."""
    if not 1 <= len(tenant_id) <= 128 or not tenant_id.isprintable():
        raise SettingsError(f"{name} must be 1 to 128 printable characters, got {len(tenant_id)}")


def range_of(args: argparse.Namespace) -> tuple[int, int]:
    """The range in Unix seconds, in whole hours around it. Raises SettingsError."""
    start_s = EARLIEST_S if args.start is None else _seconds("--from", args.start)
    end_s = int(time.time()) if args.end is None else _seconds("--to", args.end)
    if start_s >= end_s:
        raise SettingsError(f"--from must be before --to, got {args.start} and {args.end or 'now'}")
    return max(EARLIEST_S, start_s - start_s % HOUR_S), end_s + -end_s % HOUR_S


async def from_retained(database: Database, args: argparse.Namespace, start_s: int, end_s: int) -> int:
    """Where the range may begin: not before what retention dropped. Raises SettingsError when it was asked to."""
    async with database.query() as connection:
        boundary = await retention.retained_from(connection)
    if boundary is None or boundary.timestamp() <= start_s:
        return start_s
    gone = f"judgments created before {boundary:%Y-%m-%dT%H:%M:%SZ} were dropped (keep.judgments_days), their rollups stay"
    if args.start is not None:
        raise SettingsError(f"{gone}: --from must not be before that, got {args.start}")
    if boundary.timestamp() >= end_s:
        raise SettingsError(f"{gone}: --to must be after that, got {args.end or 'now'}")
    return int(boundary.timestamp())


def _seconds(flag: str, text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"{flag} must be an RFC 3339 time such as 2026-01-31T15:00:00Z, got {text[:40]!r}") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def settings(args: argparse.Namespace) -> config.Config:
    """The settings from profile, environment and the flags given."""
    flags: dict[tuple[str, ...], Any] = {}
    named = {"host": ("http", "host"), "port": ("http", "port"), "data_dir": ("data_dir",), "workers": ("workers",)}
    for flag, path in named.items():
        value = getattr(args, flag, None)
        if value is not None:
            flags[path] = value
    return config.load(getattr(args, "profile", None), flags)
