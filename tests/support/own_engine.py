"""An engine of a test module's own, over a database of its own."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from support.cluster import Cluster
from support.engine import Engine


@contextlib.contextmanager
def own_engine(cluster: Cluster, folder: Path, settings: Mapping[str, str]) -> Iterator[Engine]:
    """Started, and ended well at the end of the module."""
    database = cluster.make()
    engine = Engine(folder, database, settings=dict(settings))
    try:
        yield engine.start()
        assert engine.terminate() == 0
    finally:
        engine.end()
        database.drop()
