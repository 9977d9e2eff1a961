"""Bring the database's tables up to date (serve does so too, at its start)."""

import argparse

from judgify_engine.commands.database import Databases, with_databases
from judgify_engine.commands.options import add_settings, settings
from judgify_engine.observe import logs
from judgify_engine.store.migrate import FOLDERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Apply what is missing."""
    config = settings(args)
    logs.configure("console", config.log.level)

    return with_databases(config, _report)


async def _report(databases: Databases) -> int:
    """Print what is applied where; a name is the file's below the folder of all migrations."""
    for database, (folder, table) in zip(databases, FOLDERS, strict=True):
        async with database.query() as connection:
            rows = await connection.fetch(f"SELECT name, applied_at FROM {table} ORDER BY number")
        for row in rows:
            print(f"{folder}/{row['name']}  applied {row['applied_at']:%Y-%m-%d %H:%M:%S} UTC")
    return 0
