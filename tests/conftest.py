"""What all tests that need a real PostgreSQL share: one server for the session, one engine on it, tenants without number."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.client import Client, new_tenant
from support.cluster import Cluster, Database, Server
from support.engine import Engine
from support.redis_server import RedisServer
from support.temporary import own_folder

FOREIGN_URL = "JUDGIFY_TEST_DATABASE_URL"


def pytest_configure(config: pytest.Config) -> None:
    """Choose where the files of tests are, before pytest does. Processes of `--numprocesses` are told by the one above them."""
    if os.geteuid() == 0 and config.option.basetemp is None:
        config.option.basetemp = str(own_folder())


def pytest_report_header() -> str:
    """What a green run is a proof of."""
    url = os.environ.get(FOREIGN_URL)
    return f"server: {Cluster(url).server()}" if url else "server: the embedded PostgreSQL"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The server that tests make their databases on."""
    url = os.environ.get(FOREIGN_URL)
    if url:
        yield Cluster(url)
        return
    server = Server(tmp_path_factory.mktemp("cluster"))
    try:
        yield server.start().cluster
    finally:
        server.stop()


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Database]:
    """An empty database of the test's own, removed after it."""
    made = cluster.make()
    yield made
    made.drop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for all tests that only need a place of their own in it: `redis_url`."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), databases=1000)
    try:
        yield server.start()
    finally:
        server.kill()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty database of the test's own. Channels are those of the whole server."""
    return redis_server.fresh_url()


@pytest.fixture(scope="session")
def engine(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One engine for all tests that only need a tenant of their own."""
    database = cluster.make()
    shared = Engine(tmp_path_factory.mktemp("engine"), database)
    try:
        yield shared.start()
        assert shared.running, f"the shared engine died:\n{shared.log[-4000:]}"
        shared.signal(signal.SIGTERM)
        assert shared.wait() == 0
    finally:
        shared.end()
        database.drop()


@pytest.fixture
async def tenant(engine: Engine) -> AsyncIterator[Client]:
    """A tenant of the shared engine that nobody else uses; it has the workflow `check` and a token with all scopes."""
    assert engine.database is not None
    async with new_tenant(engine.url, engine.database) as client:
        yield client


@pytest.fixture
def start_engine(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Start engines of the test's own; all of them are ended after it. With `start=False` they are only prepared."""
    engines: list[Engine] = []

    def make(database: Database | None = None, *, start: bool = True, **more: Any) -> Engine:
        made = Engine(tmp_path / f"engine-{len(engines)}", database, **more)
        engines.append(made)
        return made.start() if start else made

    yield make
    for made in engines:
        made.end()
