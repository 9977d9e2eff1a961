"""Where the rollups live, for the suite that must hold wherever they do: beside the judgments, apart, on TimescaleDB."""

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
    url = os.environ.get(TIMESCALE_URL)
    if layout.startswith("timescale") and not url:
        pytest.skip(f"{TIMESCALE_URL} names no server with TimescaleDB")
    there = Cluster(urlunsplit(urlsplit(url or "")._replace(query=""))) if url else cluster
    judgments = (there if layout == "timescale-beside" else cluster).make()
    if layout in ("apart", "timescale-apart"):
        judgments.rollups = (there if layout == "timescale-apart" else cluster).make()
    try:
        yield judgments
    finally:
        judgments.drop()
        if judgments.rollups is not None:
            judgments.rollups.drop()
