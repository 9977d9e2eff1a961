"""Accepting: who has connected is not refused because the socket is closed just then."""

import asyncio
import socket

from support.waiting import until

from judgify_engine.ingest.listen import Listener, Room, open_sockets, port_of

CONNECTIONS = 150
"""More than are accepted at once."""


class Greeting(asyncio.Protocol):
    """Says hello."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


async def test_a_close_takes_over_all_who_wait() -> None:
    (listening,) = open_sockets("127.0.0.1", 0, 1000)
    port, room = port_of([listening]), Room(0)
    listener = Listener(listening, room, Greeting)
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]  # the loop does not turn meanwhile
    listener.close()
    await until(lambda: room.taken == 0, "all are served")
    for client in clients:
        assert client.recv(10) == b"hello"
        client.close()
    listener.close()


async def test_a_close_accepts_no_more_than_there_is_room_for() -> None:
    (listening,) = open_sockets("127.0.0.1", 0, 1000)
    port, room = port_of([listening]), Room(10)
    listener = Listener(listening, room, asyncio.Protocol)
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(30)]
    listener.close()
    assert room.taken == 10
    await until(lambda: room.taken == 0, "they are handed over")
    for client in clients:
        client.close()
