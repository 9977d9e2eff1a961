"""A PostgreSQL that a test may kill: not the one that the session's other tests live on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, listening on 127.0.0.1."""
    made = Server(tmp_path / "server")
    try:
        yield made.start()
    finally:
        made.stop()
