"""Where the rollups live, for the suite that must hold wherever they do: beside the judgments, apart, on TimescaleDB.

All of them are possible on a server that has TimescaleDB; on another one the two that need it take the server that
JUDGIFY_TEST_TIMESCALE_URL names.
"""

import contextlib
import os
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import pytest

from support.cluster import Cluster, Database

TIMESCALE_URL = "JUDGIFY_TEST_TIMESCALE_URL"
LAYOUTS = ("beside", "apart", "timescale-beside", "timescale-apart")


@contextlib.contextmanager
def laid_out(layout: str, cluster: Cluster) -> Iterator[Database]:
    """A database for the judgments whose rollups are laid out so; both are removed in the end."""
    on_timescale = layout.startswith("timescale")
    url = os.environ.get(TIMESCALE_URL)
    there = Cluster(urlunsplit(urlsplit(url)._replace(query=""))) if url else cluster
    if on_timescale and not url and not cluster.timescale():
        pytest.skip(f"the server has no TimescaleDB, and {TIMESCALE_URL} names none that has")
    judgments = (there if layout == "timescale-beside" else cluster).make()
    judgments.plain = not on_timescale
    if layout in ("apart", "timescale-apart"):
        judgments.rollups = (there if layout == "timescale-apart" else cluster).make()
    try:
        yield judgments
    finally:
        judgments.drop()
        if judgments.rollups is not None:
            judgments.rollups.drop()
