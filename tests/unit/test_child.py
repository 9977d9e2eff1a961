"""A worker that cannot be started is an error that its supervisor waits out, whatever is missing."""

import asyncio
import errno
import os
import socket

import pytest

from judgify_engine import control
from judgify_engine.child import Child, Hooks
from judgify_engine.config import load
from judgify_engine.errors import StartupError


@pytest.mark.parametrize(
    ("where", "name"), [(socket, "socketpair"), (asyncio, "create_subprocess_exec")], ids=["no descriptors", "no process"]
)
async def test_what_the_system_lacks_ends_no_other_worker(monkeypatch: pytest.MonkeyPatch, where: object, name: str) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(where, name, fails)
    orders = control.Orders(load(environ={}), "", 3, [], "", "", 4)
    with pytest.raises(StartupError, match=r"worker 3 cannot be started: .*Too many open files"):
        await Child.start(orders, Hooks(lambda size: None), lambda: None)
