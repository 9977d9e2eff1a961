"""The streams on a real Redis Cluster: nodes die and come back, slots move, replicas take over; nothing is lost or doubled."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.client import Client, Load
from support.cluster import Database
from support.engine import Engine
from support.reading import GroupReader
from support.redis_server import RedisCluster, RedisServer
from support.waiting import until

from judgify_engine.core.streams import JUDGMENTS, stream_of

pytestmark = pytest.mark.timeout(240)
TENANTS = tuple(f"tenant-{number}" for number in range(24))
"""Enough for every stream."""


@pytest.fixture(params=[False, True], ids=["3-nodes", "3-nodes-and-replicas"])
def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisCluster]:
    cluster = RedisCluster(tmp_path / "redis", replicas=request.param).start()
    yield cluster
    cluster.kill()


def by_hand() -> str:
    """A judgment of each tenant."""
    return (
        "INSERT INTO judgment_executions (tenant_id, workflow_id, input_data, final_result, confidence_score, method_used,"
        " execution_time_ms) SELECT 'tenant-' || n, 'w', '{}', '{}', 1, 'rule', 1 FROM generate_series(0, 23) AS n"
    )


def take_over(nodes: RedisCluster, replica: RedisServer) -> None:
    """As an operator does it where the primary is dead."""
    with replica.client() as client:
        client.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")


async def test_a_killed_node_a_moved_slot_and_a_failover(
    database: Database, nodes: RedisCluster, start_engine: Callable[..., Engine]
) -> None:
    assert {stream_of(tenant) for tenant in TENANTS} == set(JUDGMENTS)
    engine = start_engine(database, settings={"JUDGIFY_REDIS_URL": nodes.url}, workers=2)
    readers = [GroupReader(nodes.url, name, cluster=True) for name in ("audit", "bill")]
    for reader in readers:
        await reader.register()
        reader.start()

    async def more(load: Load) -> None:
        """Load goes on, and every stream gets something."""
        before = len(load.answered)
        await database.do(by_hand())
        await until(lambda: len(load.answered) > before + 150, "judgments are answered", 30)

    stream = stream_of("demo")  # what the load goes to
    async with Load(engine.url, "test-token", workers=4) as load:
        await more(load)
        victim = nodes.owner_of(stream)
        victim.kill()
        await more(load)
        if len(nodes.servers) > 3:
            take_over(nodes, nodes.servers[3 + nodes.servers.index(victim)])
            await more(load)
        victim.start()  # as a replica, where another has taken over
        await more(load)
        await until(lambda: nodes.is_whole, "the node is back")
        nodes.move_slot(
            stream, next(one for one in nodes.servers[:3] if one is not nodes.owner_of(stream) and one is not victim)
        )
        await more(load)
    ids = {row["id"] for row in await database.rows("SELECT id::text FROM judgment_executions")}
    for reader in readers:
        await until(lambda reader=reader: ids <= set(reader.seen), f"{reader.group} has all {len(ids)} judgments", 60)
        assert not [key for key, count in reader.seen.items() if count > 1]
        await reader.stop()
    async with Client(engine.url, "test-token") as client:
        assert (await client.get("/ready")).status == 200
    await load.check(database)
    assert engine.terminate() == 0
