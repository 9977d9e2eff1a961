"""A server that this process brings along: one program under the data directory, alive as long as we are.

Promises: one process per data directory (a lock that the kernel frees when we die); the server is asked to stop when we stop,
and by the kernel when we are killed (Linux, PR_SET_PDEATHSIG); what a killed run left running is stopped before a new start;
one that dies is started again, at once or, when it dies soon, after a growing pause. Blocking: runs before the event loop,
except `poll`, which takes no time.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import psutil

from judgify_engine.errors import StartupError
from judgify_engine.machine import unprivileged

log = logging.getLogger(__name__)

STOP_TIMEOUT_S = 20.0
STEADY_S = 2.0
"""A server that died sooner than this after its start will probably do so again: wait before the next one."""
LONGEST_PAUSE_S = 10.0
SOCKET_PATH_LIMIT = 100  # a Unix socket's path has 107 bytes at most
LONGEST_SOCKET_NAME = len(".s.PGSQL.5432")


class ServerProcess(ABC):
    """Base of the embedded servers: a process with a log file, kept alive."""

    name: ClassVar[str]
    lock_name: ClassVar[str]
    """The file under the data directory that only one process may have."""
    instead: ClassVar[str]
    """What to do where this server cannot be had."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.resolve()
        self.log_file = self.data_dir / f"{self.name}.log"
        self._lock_fd: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._user: dict[str, Any] = {}
        """Whom it runs as, where that is not our user."""
        self._log_start = 0
        self._launched_s = 0.0
        self._died_s: float | None = None
        self._pause_s = 0.0
        self._stopping = False

    @abstractmethod
    def _prepare(self) -> None:
        """Make its files, where they are not there."""

    @abstractmethod
    def _command(self) -> list[str | Path]:
        """The program and its arguments."""

    @abstractmethod
    def _wait_until_ready(self) -> None:
        """Raises StartupError when that takes too long, or it ends."""

    @abstractmethod
    def _known_pid(self) -> int | None:
        """Its process id as it wrote that down: of this run, or of one that was killed."""

    @abstractmethod
    def _is_ours(self, process: psutil.Process) -> bool:
        """Whether this is the server on our files (what was written down can outlive it, and ids are used again)."""

    @abstractmethod
    def _tell_death(self, facts: dict[str, Any]) -> None:
        """It died and is started again."""

    def _start(self) -> None:
        """Start the server, making its files on the first run.

        Raises StartupError: another process has the directory, no room, or the server's own reason.
        """
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            self._lock()
            self._prepare()
            self._stop_leftover()
            self._launch()
            self._wait_until_ready()
        except OSError as error:
            self.stop()
            raise StartupError(f"cannot use the data directory {self.data_dir}: {error}") from error
        except BaseException:
            self.stop()
            raise

    def _lock(self) -> None:
        self._lock_fd = os.open(self.data_dir / self.lock_name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
                        f"choose another directory (--data-dir), or {self.instead}"
                    ) from None
                time.sleep(0.05)
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, b"%d\n" % os.getpid(), 0)

    def _stop_leftover(self) -> None:
        """Stop a server that a killed run left running (where the kernel did not do so)."""
        pid = self._known_pid()
        if pid is None:
            return
        deadline = time.monotonic() + STOP_TIMEOUT_S
        asked = False
        while time.monotonic() < deadline:
            if not self._runs(pid):
                return
            if not asked:
                log.info("stopping the server that an earlier run left", extra={"server": self.name, "pid": pid})
                os.kill(pid, signal.SIGINT)
                asked = True
            time.sleep(0.05)
        raise StartupError(f"an embedded server (process {pid}) still runs on {self.data_dir} and does not stop")

    def _runs(self, pid: int) -> bool:
        try:
            process = psutil.Process(pid)
            return process.status() != psutil.STATUS_ZOMBIE and self._is_ours(process)
        except psutil.Error:
            return False

    def _launch(self) -> None:
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        self._launched_s, self._died_s = time.monotonic(), None
        log_fd = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                start_new_session=True,  # Ctrl-C in the terminal is ours to hand on, in the right order
                preexec_fn=unprivileged.die_with_parent(),
                **self._user,
            )
        finally:
            os.close(log_fd)

    def _said(self) -> list[str]:
        """The last lines that it wrote since its start."""
        return self.log_file.read_bytes()[self._log_start :].decode(errors="replace").strip().splitlines()[-8:]

    def stop(self) -> None:
        """Stop the server cleanly and give the directory free. May be called at any moment, also twice."""
        self._stopping = True
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                log.warning("an embedded server did not stop in time and is stopped at once", extra={"server": self.name})
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
            self._tell_death({"exit_code": self._process.returncode, "pause_s": self._pause_s})
        if now_s - self._died_s >= self._pause_s:
            try:
                self._launch()
            except OSError as error:  # no memory, no files, no room just now: what needs it waits, the process stays
                self._died_s, self._pause_s = now_s, min(max(2 * self._pause_s, 0.5), LONGEST_PAUSE_S)
                facts = {"server": self.name, "reason": str(error), "pause_s": self._pause_s}
                log.error("an embedded server cannot be started now", extra=facts)
        return False


def socket_folder(data_dir: Path) -> Path:
    """The data directory itself, or one in the temporary folder where its path is too long for a socket."""
    if len(os.fsencode(data_dir / "socket")) < SOCKET_PATH_LIMIT - LONGEST_SOCKET_NAME:
        return data_dir / "socket"
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"judgify-{os.geteuid()}-{name}"


def pid_in(file: Path) -> int | None:
    """The process id in the first line of a file, or None when there is no such file."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int(file.read_text().split("\n", 1)[0])
    return None
