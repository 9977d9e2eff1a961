"""The way to Redis: what breaks on it is told as "Redis is away", and what is a fault of ours is not hidden."""

import pytest

from judgify_engine.config import RedisConfig
from judgify_engine.errors import StreamsUnavailable
from judgify_engine.streams.server import Server


async def fails(error: Exception) -> None:
    raise error


async def test_a_write_to_a_connection_that_has_just_ended_means_away() -> None:
    server = Server(RedisConfig(url="redis://127.0.0.1:1"))
    closed = RuntimeError("unable to perform operation on <TCPTransport closed=True reading=False 0x5>; the handler is closed")
    with pytest.raises(StreamsUnavailable, match="the connection was closed"):
        await server.bounded(fails(closed))


@pytest.mark.parametrize("error", [RuntimeError("ours"), KeyError("ours"), AttributeError("ours", name="x", obj=None)])
async def test_a_fault_of_ours_stays_one(error: Exception) -> None:
    server = Server(RedisConfig(url="redis://127.0.0.1:1"))
    with pytest.raises(type(error), match="ours"):
        await server.bounded(fails(error))
