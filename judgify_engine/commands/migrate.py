"""Bring the database's tables up to date (serve does so too, at its start)."""

import argparse

from judgify_engine.commands.database import with_database
from judgify_engine.commands.options import add_settings, settings
from judgify_engine.observe import logs
from judgify_engine.store.pool import Database


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Apply what is missing."""
    config = settings(args)
    logs.configure("console", config.log.level)

    async def report(database: Database) -> int:
        async with database.query() as connection:
            rows = await connection.fetch("SELECT name, applied_at FROM schema_migrations ORDER BY number")
        for row in rows:
            print(f"{row['name']}  applied {row['applied_at']:%Y-%m-%d %H:%M:%S} UTC")
        return 0

    return with_database(config, report)
