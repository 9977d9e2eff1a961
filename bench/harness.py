"""Starts and stops the engine as a process of its own, as a user would, in a data directory made for the purpose.

Only processes started here are ever signalled, by their id: the engine, and the PostgreSQL that it runs under the
data directory (its id from `postmaster.pid`, checked against the directory). Blocking calls are for outside the event
loop; the waiting ones are coroutines with a bound. The engine's own log goes to `engine.log` in its data directory.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from judgify_engine.store.embedded import dsn_of

from .client import ProtocolError, Target, fetch

START_TIMEOUT_S = 120.0
_READER = re.compile(r'^judgify_slot_held(?:\{worker="(\d+)"\})? 1\.0$', re.MULTILINE)
STOP_TIMEOUT_S = 60.0
POLL_S = 0.05


class EngineFailed(Exception):
    """The engine did not start, or is gone; the message holds the end of its log."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def data_folder(given: Path | None, name: str) -> Iterator[Path]:
    """The folder that was asked for, or a temporary one that is removed at the end."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    folder = Path(tempfile.mkdtemp(prefix=f"judgify-{name}-"))
    folder.chmod(0o711)  # PostgreSQL runs as another user when we are root
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Engine:
    """One `judgify-engine serve` with its embedded PostgreSQL under `data_dir`; may be started and killed again."""

    def __init__(
        self, data_dir: Path, port: int, token: str = "test-token", workers: int = 1, settings: Mapping[str, str] | None = None
    ) -> None:
        """`settings`: variables of the environment (`JUDGIFY_…`) for it."""
        self.data_dir, self.workers, self._settings = data_dir, workers, dict(settings or {})
        self.target = Target("127.0.0.1", port, token)
        self.dsn = dsn_of(data_dir)
        self.log_file = data_dir / "engine.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, without the settings in our environment; `wait_ready` tells when it serves."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("JUDGIFY_")}
        environment |= self._settings
        package = Path(__file__).resolve().parent.parent
        if (package / "judgify_engine").is_dir():  # a checkout that is not installed
            environment["PYTHONPATH"] = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "judgify_engine", "serve", "--port", str(self.target.port)]
        command += ["--workers", str(self.workers)]
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--data-dir", str(self.data_dir)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the bench, which then stops the engine in order
            )

    async def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> float:
        """Wait until `/ready` answers 200; how long that took, in seconds. Raises EngineFailed."""
        began_s = time.perf_counter()
        while time.perf_counter() - began_s < timeout_s:
            if self._process is None or self._process.poll() is not None:
                raise EngineFailed(f"the engine ended before it was ready\n{self.log_tail()}")
            with contextlib.suppress(OSError, TimeoutError, ProtocolError):
                if (await fetch(self.target, "GET", "/ready", timeout_s=5.0)).status == 200:
                    return time.perf_counter() - began_s
            await asyncio.sleep(POLL_S)
        raise EngineFailed(f"the engine was not ready after {timeout_s:.0f} s\n{self.log_tail()}")

    @property
    def pid(self) -> int:
        """The engine's process id; raises EngineFailed when it is not running."""
        if self._process is None:
            raise EngineFailed("the engine was not started")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the engine's process lives."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL to the engine and to workers it started; its PostgreSQL is left to its own fate."""
        if self._process is None or self._process.poll() is not None:
            raise EngineFailed(f"the engine was already gone\n{self.log_tail()}")
        workers = [child for child in psutil.Process(self._process.pid).children(recursive=True) if not _is_server(child)]
        self._process.kill()
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        self._process.wait(STOP_TIMEOUT_S)

    async def reader(self, timeout_s: float = 30.0) -> int:
        """The number of the worker that reads the log (0 where there is one process). Raises EngineFailed."""
        deadline_s = time.perf_counter() + timeout_s
        while time.perf_counter() < deadline_s:
            with contextlib.suppress(OSError, TimeoutError, ProtocolError):
                figures = (await fetch(self.target, "GET", "/metrics", timeout_s=5.0)).body.decode()
                if (found := _READER.search(figures)) is not None:
                    return int(found[1] or 0)
            await asyncio.sleep(POLL_S)
        raise EngineFailed(f"nobody reads the log after {timeout_s:.0f} s\n{self.log_tail()}")

    def kill_worker(self, number: int) -> None:
        """SIGKILL to one worker; its id is in the supervisor's log. Raises EngineFailed when that has no such worker."""
        pids = re.findall(rf"a worker serves\s.*worker=\"?{number}\b.*pid=(\d+)", self.log_file.read_text(errors="replace"))
        if not pids:
            raise EngineFailed(f"worker {number} is not in the log\n{self.log_tail()}")
        os.kill(int(pids[-1]), signal.SIGKILL)

    def kill_postgres(self) -> int:
        """SIGKILL to the postmaster; gives its process id. Raises EngineFailed when it does not run."""
        pid = self.postmaster_pid()
        if pid is None:
            raise EngineFailed("PostgreSQL does not run")
        os.kill(pid, signal.SIGKILL)
        return pid

    def postmaster_pid(self) -> int | None:
        """The id of the PostgreSQL that runs on our data directory, None when none does."""
        try:
            pid = int((self.data_dir / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])
            process = psutil.Process(pid)
            ours = str((self.data_dir / "postgres").resolve()) in process.cmdline()
            return pid if ours and process.status() != psutil.STATUS_ZOMBIE else None
        except (OSError, ValueError, psutil.Error):
            return None

    def stop(self) -> int | None:
        """SIGTERM, wait, SIGKILL if that takes too long; then see that no PostgreSQL is left. Gives the exit code."""
        code = None
        if self._process is not None:
            if self._process.poll() is None:
                self._process.terminate()
            try:
                code = self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        deadline_s = time.monotonic() + 15.0
        asked = False
        while (pid := self.postmaster_pid()) is not None and time.monotonic() < deadline_s:
            if not asked and time.monotonic() > deadline_s - 10.0:  # it was given time to end by itself
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGINT)
                asked = True
            time.sleep(POLL_S)
        return code

    def processes(self) -> tuple[list[psutil.Process], list[psutil.Process]]:
        """(the engine's, PostgreSQL's) processes as they are now."""
        engine: list[psutil.Process] = []
        postgres: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            engine.append(psutil.Process(self.pid))
            engine += [child for child in engine[0].children(recursive=True) if not _is_server(child)]
        if (postmaster := self.postmaster_pid()) is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                postgres.append(psutil.Process(postmaster))
                postgres += postgres[0].children(recursive=True)
        return engine, postgres

    def redis(self) -> list[psutil.Process]:
        """The Redis in its data directory, if one runs there."""
        with contextlib.suppress(OSError, ValueError, psutil.NoSuchProcess):
            return [psutil.Process(int((self.data_dir / "redis" / "redis.pid").read_text()))]
        return []

    def log_tail(self, size_bytes: int = 3000) -> str:
        """The end of the engine's log."""
        try:
            return self.log_file.read_bytes()[-size_bytes:].decode(errors="replace")
        except OSError:
            return "(no log)"


def _is_server(process: psutil.Process) -> bool:
    """Whether it is PostgreSQL or Redis."""
    try:
        return str(process.name()).startswith(("postgres", "redis-server"))
    except psutil.Error:
        return False


@contextlib.contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    """Start `engine` and see to its end, whatever happens in between (also Ctrl-C and SIGTERM). Main thread only."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()
        signal.signal(signal.SIGTERM, before)
