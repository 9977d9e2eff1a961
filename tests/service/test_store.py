"""The store's own promises, on a real server: what is slow is not away, and a commit looked into again says the same."""

import asyncio
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest
from support import cluster
from support.engine import Engine
from unit.builders import judgment

from judgify_engine.config import load
from judgify_engine.core.model import Judgment
from judgify_engine.errors import Overloaded
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.ports import Replayed
from judgify_engine.pipeline.quarantine_loop import Quarantine
from judgify_engine.store.copy_writer import CopyWriter
from judgify_engine.store.pool import Database
from judgify_engine.store.quarantine import QuarantineStore


@pytest.fixture
async def store(database: cluster.Database, start_engine: Callable[..., Engine]) -> AsyncIterator[Database]:
    """Pools on a database with our tables; one connection for reads, and little patience."""
    start_engine(database).terminate()
    config = load(environ={"JUDGIFY_DATABASE_READ_CONNECTIONS": "1", "JUDGIFY_DATABASE_CONNECT_TIMEOUT_S": "0.3"})
    opened = Database(database.dsn, config)
    await opened.open()
    yield opened
    await opened.close()


async def test_busy_connections_are_overload_not_absence(store: Database) -> None:
    async with store.query(may_be_slow=True):
        with pytest.raises(Overloaded):
            async with store.query(may_be_slow=True):
                pass
        async with store.query() as connection:  # look-ups are not held up by lists
            assert await connection.fetchval("SELECT 1") == 1
    assert store.available
    with pytest.raises(Overloaded):
        async with store.query() as connection:
            await connection.execute("SELECT pg_sleep(60)", timeout=0.2)
    assert store.available


def keyed(number: int, key: str, answer: bytes) -> Judgment:
    return judgment(number, idempotency_key=key, fingerprint=b"f" * 16, answer=answer)


async def test_resolving_a_batch_that_had_landed_gives_its_outcomes_again(store: Database) -> None:
    """Among them a judgment that had lost its key to an earlier one, and some without keys."""
    writer = CopyWriter(store, Metrics(), 5.0, Quarantine(QuarantineStore(store), Metrics()))
    assert await writer.commit([keyed(1, "taken", b"first")]) == [None]
    batch = [keyed(2, "taken", b"second"), keyed(3, "free", b"third"), judgment(4)]
    outcomes = await writer.commit(batch)
    again = await writer._resolve(batch)  # as after a connection that broke in the COMMIT
    for found in (outcomes, again):
        assert isinstance(found[0], Replayed)
        assert found[0].answer == b"first"
        assert found[1:] == [None, None]
    async with store.query() as connection:
        assert await connection.fetchval("SELECT count(*) FROM judgment_executions") == 3


async def test_resolving_a_batch_that_had_not_landed_commits_it(store: Database) -> None:
    writer = CopyWriter(store, Metrics(), 5.0, Quarantine(QuarantineStore(store), Metrics()))
    batch = [keyed(1, "free", b"first"), judgment(2)]
    assert await asyncio.wait_for(writer._resolve(batch), 10) == [None, None]
    async with store.query() as connection:
        assert await connection.fetchval("SELECT count(*) FROM judgment_executions") == 2


async def _commit_pid(store: Database) -> int:
    async with store.commit_connection() as connection:
        return int(await connection.fetchval("SELECT pg_backend_pid()"))


async def test_a_commits_connection_stays_at_hand_for_the_next(store: Database) -> None:
    first = await _commit_pid(store)
    assert [await _commit_pid(store) for _ in range(3)] == [first] * 3
    async with store.commit_connection() as connection:  # while it is in use there is another
        assert await connection.fetchval("SELECT pg_backend_pid()") == first
        assert await _commit_pid(store) != first
    assert store._commits is not None
    assert store._commits.get_idle_size() == 0
    await store._put_away(0.0)
    assert store._commits.get_idle_size() == 2, "what is not needed goes back to the pool, which closes it in time"
    assert await _commit_pid(store) > 0


async def test_no_more_are_open_than_may_be_and_nobody_waits_in_vain(store: Database) -> None:
    pids: list[int] = []

    async def commit() -> None:
        async with store.commit_connection() as connection:
            pids.append(await connection.fetchval("SELECT pg_backend_pid() FROM pg_sleep(0.01)"))

    store._config = load(environ={})  # its patience
    await asyncio.wait_for(asyncio.gather(*[commit() for _ in range(60)]), 30)
    assert len(pids) == 60
    assert len(set(pids)) <= 8


async def test_a_connection_that_ended_at_hand_is_not_used_again(store: Database, database: cluster.Database) -> None:
    first = await _commit_pid(store)
    connection = store._at_hand[-1][0]
    ended = asyncio.Event()
    connection.add_termination_listener(lambda _: ended.set())
    await database.do(f"SELECT pg_terminate_backend({first})")
    await asyncio.wait_for(ended.wait(), 10)
    assert await _commit_pid(store) != first


async def test_a_connection_with_an_error_does_not_stay_at_hand(store: Database) -> None:
    with pytest.raises(asyncpg.PostgresError):
        async with store.commit_connection() as connection:
            await connection.execute("SELECT 1/0")
    assert store._at_hand == []
    assert await _commit_pid(store) > 0
