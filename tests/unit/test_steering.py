"""New connections go where the supervisor wants them, whatever the order in which sockets came and went."""

import itertools
import random
import socket
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.ingest.listen import open_sockets, port_of
from judgify_engine.ingest.steering import Group

BACKLOG = 512
CONNECTIONS = 60
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's choice can be made on Linux only")


class Members:
    """Sockets on one port that listen, by name."""

    def __init__(self) -> None:
        self.group: Group[str] = Group()
        self.port = 0
        self.of: dict[str, list[socket.socket]] = {}

    def add(self, name: str) -> None:
        self.of[name] = open_sockets("127.0.0.1", self.port, BACKLOG, shared=True)
        self.port = port_of(self.of[name])
        for one in self.of[name]:
            one.listen(BACKLOG)
        self.group.listens(name)

    def close(self, name: str) -> None:
        for one in self.of.pop(name):
            one.close()
        self.group.closed(name)

    def spread(self) -> dict[str, int]:
        """Who gets how many of some new connections."""
        clients = [socket.create_connection(("127.0.0.1", self.port)) for _ in range(CONNECTIONS)]
        found = {}
        for name, (listening,) in self.of.items():
            found[name] = 0
            while True:
                try:
                    listening.accept()[0].close()
                except BlockingIOError:
                    break
                found[name] += 1
        for client in clients:
            client.close()
        assert sum(found.values()) == CONNECTIONS
        return found


@pytest.fixture
def members() -> Iterator[Members]:
    made = Members()
    yield made
    for name in list(made.of):
        made.close(name)


def test_nobody_new_comes_to_who_is_to_go(members: Members) -> None:
    names = ["a", "b", "c", "d"]
    for name in names:
        members.add(name)
    for name in names:
        members.group.steer_away(name, members.of["a"])
        found = members.spread()
        assert found.pop(name) == 0
        assert min(found.values()) > 0, "all others take part"
    members.group.steer_freely(members.of["b"])
    assert min(members.spread().values()) > 0


def test_the_order_is_the_kernels_after_many_changes(members: Members) -> None:
    chance, names = random.Random(7), itertools.count()
    for _ in range(5):
        members.add(str(next(names)))
    for _ in range(30):
        if len(members.of) > 2 and chance.random() < 0.5:
            members.close(chance.choice(list(members.of)))
        else:
            members.add(str(next(names)))
        name = chance.choice(list(members.of))
        any_other = chance.choice(list(members.of))
        members.group.steer_away(name, members.of[any_other])
        assert members.spread()[name] == 0
        members.group.steer_freely(members.of[any_other])


def test_the_only_one_keeps_all(members: Members) -> None:
    members.add("a")
    members.group.steer_away("a", members.of["a"])
    assert members.spread() == {"a": CONNECTIONS}


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4))))
def test_a_member_is_there_once_or_not_at_all(steps: list[tuple[bool, int]]) -> None:
    group: Group[int] = Group()
    there: set[int] = set()
    for comes, member in steps:
        (group.listens if comes else group.closed)(member)
        (there.add if comes else there.discard)(member)
        assert sorted(group._order) == sorted(there)
