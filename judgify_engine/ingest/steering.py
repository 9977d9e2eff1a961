"""Which of several sockets on one address the kernel gives a new connection to (SO_REUSEPORT), on Linux.

A listening socket that is closed takes with it whoever has connected and was not accepted yet. So before one is closed, new
connections are steered away from it: a short program, attached to the group of sockets, chooses one of the others at random.

The program names sockets by their place in the kernel's group: in the order in which they began to listen; where one is closed,
the last one takes its place (net/core/sock_reuseport.c). `Group` keeps that order.
"""

import ctypes
import logging
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

ATTACH, DETACH = 51, 68
"""SO_ATTACH_REUSEPORT_CBPF, SO_DETACH_REUSEPORT_BPF (asm-generic/socket.h); Python does not name them."""
RANDOM = 0xFFFFF000 + 56
"""SKF_AD_OFF + SKF_AD_RANDOM (linux/filter.h): where a program finds a random number."""
LOAD, MODULO, SKIP_IF_BELOW, ADD, RETURN = 0x20, 0x94, 0x35, 0x04, 0x16

Member = TypeVar("Member")


class Group(Generic[Member]):
    """Those who listen on one address, in the kernel's order."""

    def __init__(self) -> None:
        self._order: list[Member] = []

    def listens(self, member: Member) -> None:
        """It began to, unless it did before."""
        if member not in self._order:
            self._order.append(member)

    def closed(self, member: Member) -> None:
        """It does so no more."""
        if member in self._order:
            last = self._order.pop()
            if last is not member:
                self._order[self._order.index(member)] = last

    def steer_away(self, member: Member, sockets: Sequence[socket.socket]) -> None:
        """No new connections for this one, until `steer_freely`. `sockets`: those of any other member."""
        if len(self._order) > 1 and member in self._order:
            for one in sockets:
                _set(one, ATTACH, _all_but(self._order.index(member), len(self._order)))

    def steer_freely(self, sockets: Sequence[socket.socket]) -> None:
        """For all of them again. `sockets`: those of any member."""
        for one in sockets:
            _set(one, DETACH, None)


def _all_but(place: int, count: int) -> list[tuple[int, int, int, int]]:
    """(code, jump if true, jump if false, operand): a random number below `count`, but not `place`."""
    return [
        (LOAD, 0, 0, RANDOM),
        (MODULO, 0, 0, count - 1),
        (SKIP_IF_BELOW, 0, 1, place),  # not at or beyond it: skip one
        (ADD, 0, 0, 1),
        (RETURN, 0, 0, 0),
    ]


def _set(on: socket.socket, option: int, program: list[tuple[int, int, int, int]] | None) -> None:
    """Where the kernel knows no such thing, who connects in the moment of the close is refused: say so."""
    if not sys.platform.startswith("linux"):
        return
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program or ())
    held = ctypes.create_string_buffer(code, len(code))
    value = struct.pack("i", 0) if program is None else struct.pack("HP", len(program), ctypes.addressof(held))
    try:
        on.setsockopt(socket.SOL_SOCKET, option, value)
    except OSError as error:
        if program is not None:  # nothing may be attached
            log.warning("connections cannot be steered away from a socket", extra={"reason": str(error)})
