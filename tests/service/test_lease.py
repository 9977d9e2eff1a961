"""The right to do what one process may do at a time: one has it, standing by takes no sessions, and who lets go is followed."""

from collections.abc import AsyncIterator

import pytest
from support.cluster import Database
from support.waiting import until

from judgify_engine.config import Config
from judgify_engine.errors import DatabaseUnavailable
from judgify_engine.store.lease import ALERT_LOCKS, SCALING_LOCKS, Lease
from judgify_engine.store.pool import Database as Pools

NAMES = [f"slot_{number}" for number in range(8)]
"""Of hashes above and below zero."""
SESSIONS = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"


@pytest.fixture
async def pools(database: Database) -> AsyncIterator[Pools]:
    made = Pools(database.dsn, Config())
    await made.open()
    yield made
    await made.close()


@pytest.mark.parametrize("name", NAMES)
async def test_one_has_it_and_whoever_asks_next_when_that_one_lets_go(pools: Pools, name: str) -> None:
    first, second = Lease(pools, ALERT_LOCKS, name, "first"), Lease(pools, ALERT_LOCKS, name, "second")
    assert await first.take()
    assert await first.take()
    assert not await second.take()
    first.let_go()
    await until(second.take, "the second has it")
    assert not await first.take()
    second.let_go()


async def test_what_others_hold_is_nothing_to_it(pools: Pools) -> None:
    held = [Lease(pools, SCALING_LOCKS, NAMES[0], "scaling"), Lease(pools, ALERT_LOCKS, NAMES[1], "of another")]
    for other in held:
        assert await other.take()
    one = Lease(pools, ALERT_LOCKS, NAMES[0], "alerts")
    assert await one.take()
    for each in (one, *held):
        each.let_go()


async def test_standing_by_makes_no_sessions(pools: Pools, database: Database) -> None:
    first, second = Lease(pools, ALERT_LOCKS, NAMES[0], "first"), Lease(pools, ALERT_LOCKS, NAMES[0], "second")
    assert await first.take()
    async with pools.query() as connection:
        assert not await second.take()
        before = await connection.fetchval(SESSIONS)
        for _ in range(20):
            assert not await second.take()
        await connection.execute("SELECT pg_stat_force_next_flush()")
        assert await connection.fetchval(SESSIONS) - before < 5
    first.let_go()


async def test_whatever_postgresql_refuses_is_told_as_unavailable(pools: Pools) -> None:
    """Its owner tries again then; any other error would end the process."""
    with pytest.raises(DatabaseUnavailable):
        await Lease(pools, ALERT_LOCKS, "no\0text", "of a name that is none").take()
