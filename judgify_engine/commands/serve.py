"""Serve the API and the page, on the embedded PostgreSQL unless a database is named."""

import argparse

from judgify_engine.commands.options import add_settings, settings
from judgify_engine.observe import logs
from judgify_engine.worker import run_process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser)
    parser.add_argument("--host", metavar="H", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", metavar="P", help="port to listen on (8000; 0: any free one)")


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    config = settings(args)
    logs.configure(config.log.format, config.log.level)
    return run_process(config)
