"""The engine as its users run it: a process of its own, whose address is read from what it prints.

Nothing that a test starts outlives it: `end` is called by the fixture, also when the test failed. A log with a traceback in
it fails the test that looks at it with `check_log`, which `terminate` does by itself.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from support.cluster import Database
from support.waiting import until_now

ROOT = Path(__file__).resolve().parents[2]
START_WITHIN_S = 60.0
_READY = re.compile(r"(?:Open|ready:)\s+(http://[^\s/]+)(?:/\?code=(\S+))?")
_BAD_IN_LOG = ("Traceback", "never retrieved", "was destroyed", "never awaited", "Unclosed")


def environment(settings: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment without any setting of the engine, then `settings`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("JUDGIFY_")}
    return {**inherited, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(settings or {})}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "judgify_engine", *map(str, arguments)]


class Engine:
    """One `judgify-engine serve`. Without a database it runs the embedded one, its files under `folder`/data."""

    def __init__(
        self, folder: Path, database: Database | None = None, *, dsn: str | None = None, profile: str = "embedded",
        settings: dict[str, str] | None = None, port: int = 0, prelude: str = "", workers: int = 1,
    ) -> None:  # fmt: skip
        """`prelude`: Python that runs in the process first, to shorten what no setting shortens."""
        self.workers = workers
        self.folder, self.database = folder, database
        self.data_dir = folder / "data"
        self.port = port
        self.profile, self.prelude = profile, prelude
        self.settings = {"JUDGIFY_LOG_FORMAT": "json", **(settings or {})}
        if database is not None:
            self.settings |= {"JUDGIFY_DATABASE_URL": dsn or database.dsn, "JUDGIFY_CHANGE_SLOT": database.slot}
            if database.rollups is not None:
                self.settings["JUDGIFY_METRICS_DATABASE_URL"] = database.rollups.dsn
            if database.plain:
                self.settings["JUDGIFY_METRICS_TIMESCALE"] = "off"
        self.url = ""
        self.code = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        folder.mkdir(parents=True, exist_ok=True)

    def launch(self) -> "Engine":
        """Start the process and return at once."""
        assert self.process is None
        self._starts += 1
        line = command("serve", "--profile", self.profile, "--port", str(self.port), "--data-dir", self.data_dir)
        if self.workers != 1:
            line += ["--workers", str(self.workers)]
        if self.prelude:
            line[1:3] = ["-c", f"{self.prelude}\nfrom judgify_engine.__main__ import main; main()"]
        with (
            open(self.folder / f"out-{self._starts}.txt", "wb") as out,
            open(self.folder / f"log-{self._starts}.txt", "wb") as log,
        ):
            self.process = subprocess.Popen(
                line, cwd=self.folder, env=environment(self.settings), stdin=subprocess.DEVNULL, stdout=out,
                stderr=log,
            )  # fmt: skip
        return self

    def start(self, within_s: float = START_WITHIN_S) -> "Engine":
        """Start and wait for the printed address."""
        self.launch()

        def ready() -> re.Match[str] | None:
            assert self.process is not None
            found = _READY.search(self.output)
            if found is None and self.process.poll() is not None:
                raise AssertionError(f"the engine ended with {self.process.returncode}:\n{self.log[-4000:]}")
            return found

        found = until_now(ready, "the engine prints its address", within_s)
        self.url, self.code = found[1], found[2] or ""
        return self

    @property
    def output(self) -> str:
        """What the last process wrote to stdout."""
        path = self.folder / f"out-{self._starts}.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def log(self) -> str:
        """What the last process wrote to stderr."""
        path = self.folder / f"log-{self._starts}.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def worker_pids(self) -> dict[int, int]:
        """The worker processes by their number, as the log tells it."""
        events = [json.loads(line) for line in self.log.splitlines() if '"a worker serves"' in line]
        return {event["worker"]: event["pid"] for event in events}

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def listening_port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def postgres_pid(self) -> int:
        """The embedded postmaster."""
        return int((self.data_dir / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0])

    def signal(self, signum: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(signum)

    def wait(self, within_s: float = 60.0) -> int:
        """Wait for the end; return the exit code."""
        assert self.process is not None
        try:
            code = self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the engine did not end within {within_s:g} s:\n{self.log[-3000:]}") from None
        self.process = None
        return code

    def terminate(self, within_s: float = 60.0) -> int:
        """SIGTERM, wait, look at the log; return the exit code."""
        self.signal(signal.SIGTERM)
        code = self.wait(within_s)
        self.check_log()
        return code

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
            self.process = None

    def check_log(self) -> None:
        """Fail if something in the log should never be there."""
        for bad in _BAD_IN_LOG:
            assert bad not in self.log, f"{bad!r} in the log:\n{self.log[-6000:]}"

    def end(self) -> None:
        """Whatever state it is in: no process is left."""
        self.kill()
        deadline_s = time.monotonic() + 20
        while leftover := processes_of(self.data_dir):
            if time.monotonic() > deadline_s:
                for process in leftover:
                    with contextlib.suppress(psutil.Error):
                        process.kill()
            time.sleep(0.05)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Living processes that name a path under `folder` or work in one: an engine's postgres and its children."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                continue
            if any(str(folder) in part for part in process.cmdline()) or process.cwd().startswith(str(folder)):
                found.append(process)
    return found


def run(*arguments: str | Path, settings: dict[str, str] | None = None, within_s: float = 60.0, cwd: Path | None = None):
    """Run one command to its end; returns the finished process with its texts."""
    return subprocess.run(
        command(*arguments), env=environment(settings), capture_output=True, text=True, timeout=within_s, check=False, cwd=cwd
    )
