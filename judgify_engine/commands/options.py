"""The flags that several commands share."""

import argparse
from typing import Any

from judgify_engine import config


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The flags that name settings."""
    parser.add_argument("--profile", metavar="NAME", help="a profile's name, or the path of a .toml file")
    parser.add_argument("--data-dir", metavar="DIR", help="where the embedded PostgreSQL keeps its files (judgify-data)")


def settings(args: argparse.Namespace) -> config.Config:
    """The settings from profile, environment and the flags given."""
    flags: dict[tuple[str, ...], Any] = {}
    for flag, path in {"host": ("http", "host"), "port": ("http", "port"), "data_dir": ("data_dir",)}.items():
        value = getattr(args, flag, None)
        if value is not None:
            flags[path] = value
    return config.load(getattr(args, "profile", None), flags)
