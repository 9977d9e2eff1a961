"""The way to Redis, beside what tests/service and tests/adversity try on servers."""

import pytest

from judgify_engine.config import RedisConfig
from judgify_engine.errors import StreamsUnavailable
from judgify_engine.streams.server import Server


async def test_a_connection_that_uvloop_found_closed_is_the_server_being_away() -> None:
    async def write(said: str) -> None:
        raise RuntimeError(said)

    server = Server(RedisConfig(url="redis://nowhere.invalid"))
    with pytest.raises(StreamsUnavailable, match=r"nowhere\.invalid: the connection was closed"):
        await server.bounded(write("unable to perform operation on <TCPTransport closed=True>; the handler is closed"))
    with pytest.raises(RuntimeError):
        await server.bounded(write("a fault of ours"))
