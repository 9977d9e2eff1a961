"""Serve the API and the page, on the embedded PostgreSQL unless a database is named."""

import argparse

from judgify_engine.commands.options import add_serving, settings
from judgify_engine.observe import logs
from judgify_engine.serving import run_process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_serving(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    config = settings(args)
    logs.configure(config.log.format, config.log.level)
    return run_process(config, lambda: settings(args))
