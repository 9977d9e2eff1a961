"""Show how a running server is doing: ready or not, where its database is, and whether the rollups agree with the table."""

import argparse
import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from judgify_engine.commands.options import add_settings, settings
from judgify_engine.config import Config
from judgify_engine.core.streams import ALERTS, DASHBOARDS, JUDGMENTS, METRICS
from judgify_engine.errors import StreamsUnavailable
from judgify_engine.store.embedded import dsn_of
from judgify_engine.store.pool import AWAY
from judgify_engine.streams.embedded import runs, url_of
from judgify_engine.streams.opening import open_streams
from judgify_engine.units import MIB

TIMEOUT_S = 5.0
_STORED = """
SELECT (SELECT count(*) FROM judgment_executions),
       (SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint FROM pg_replication_slots
         WHERE slot_name = $1)
"""
_ROLLED_UP = """
SELECT (SELECT coalesce(sum(total_executions), 0)::bigint FROM judgment_metrics_total),
       (SELECT commit_lsn::text FROM cdc_positions WHERE slot_name = $1)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument("--url", help="the server's address (http://127.0.0.1:8000)")


def run(args: argparse.Namespace) -> int:
    """Print the state; 0 when the server is ready and the figures agree."""
    config = settings(args)
    url = args.url or f"http://{config.http.host}:{config.http.port}"
    ready = _ready(url)
    print(f"server    {url}  {'ready' if ready.get('ready') else 'not ready'}")
    for name, state in ready.get("checks", {}).items():
        print(f"          {name}: {state}")
    if "log_reader" in ready:
        print(f"          log reader: {ready['log_reader']}")
    return max(0 if ready.get("ready") else 1, asyncio.run(_database(config)), asyncio.run(_streams(config)))


def _ready(url: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=TIMEOUT_S) as response:
            return dict(json.load(response))
    except urllib.error.HTTPError as error:
        try:
            return dict(json.load(error))
        except ValueError:
            return {"checks": {"http": f"answered {error.code}"}}
    except (OSError, ValueError) as error:
        return {"checks": {"http": f"no answer: {error}"}}


async def _database(config: Config) -> int:
    embedded = config.embedded
    dsn = dsn_of(Path(config.data_dir)) if embedded else config.database.url
    print(f"database  {dsn if embedded else 'JUDGIFY_DATABASE_URL'}")
    try:
        stored, lag = await _ask(dsn, _STORED, config.change.slot)
        rolled_up, position = await _ask(config.metrics.database_url or dsn, _ROLLED_UP, config.change.slot)
    except (*AWAY, asyncpg.PostgresError) as error:
        if isinstance(error, asyncpg.UndefinedTableError):
            error = asyncpg.PostgresError("has no tables yet; run `judgify-engine migrate`")
        print(f"          {error or type(error).__name__}")
        return 1
    print(f"judgments {stored} stored, {rolled_up} rolled up")
    print(f"log       rolled up to {position or 'nothing'}, {lag if lag is not None else '?'} bytes to go")
    return 0 if stored == rolled_up else 1


async def _streams(config: Config) -> int:
    """The Redis that is named, or the embedded one where it runs; what is in a server's memory cannot be seen from here."""
    data_dir = Path(config.data_dir)
    if not config.redis.url and not runs(data_dir):
        return 0
    where = "JUDGIFY_REDIS_URL" if config.redis.url else url_of(data_dir)
    print(f"streams   {where}")
    redis = msgspec.structs.replace(config.redis, url=config.redis.url or where)
    streams = open_streams(msgspec.structs.replace(config, redis=redis))
    try:
        size, warnings = await streams.size_bytes((*JUDGMENTS, *DASHBOARDS, ALERTS, METRICS)), await streams.warnings()
    except StreamsUnavailable as error:
        print(f"          {error.detail}")
        return 1
    finally:
        await streams.close()
    print(f"          {size / MIB:.1f} MiB")
    for warning in warnings:
        print(f"          {warning}")
    return 0


async def _ask(dsn: str, sql: str, slot: str) -> Any:
    connection = await asyncpg.connect(dsn, timeout=TIMEOUT_S)
    try:
        return await connection.fetchrow(sql, slot, timeout=60)
    finally:
        await connection.close()
