"""A Prometheus Alertmanager of the tests' own, where the machine has its program."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from judgify_engine.machine.unprivileged import die_with_parent
from support.ports import free_port
from support.waiting import until_now

PROGRAM = shutil.which("alertmanager") or shutil.which("prometheus-alertmanager")
CONFIG = """
global:
  resolve_timeout: {resolve_timeout}
route:
  receiver: hook
  group_by: [alertname]
  group_wait: 0s
  group_interval: 1s
  repeat_interval: 1h
receivers:
  - name: hook
    webhook_configs:
      - url: {receiver}
        send_resolved: true
"""
PASSWORD = "basic_auth_users:\n  ops: $2b$04$i0cyCpqd9F5ht4a5nnF4..TMq3.baC9KjH9OGaYm2eBdVS9fGRz6.\n"


class Alertmanager:
    """One on a free port of 127.0.0.1, its files in `folder`; what it tells goes to `receiver`, a URL.

    `resolve_timeout`: after so long it takes an alert for resolved of which nobody said when it ends.
    """

    def __init__(self, folder: Path, receiver: str, resolve_timeout: str = "1s", *, password: bool = False) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._password = password
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yml").write_text(CONFIG.format(receiver=receiver, resolve_timeout=resolve_timeout))
        (folder / "web.yml").write_text(PASSWORD if password else "")

    def start(self) -> "Alertmanager":
        """Only from the main thread, as a RedisServer."""
        assert PROGRAM is not None
        command = [
            PROGRAM,
            f"--config.file={self.folder / 'config.yml'}",
            f"--web.config.file={self.folder / 'web.yml'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            f"--storage.path={self.folder / 'data'}",
            "--cluster.listen-address=",
        ]
        with (self.folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent()
            )
        until_now(self._ready, f"alertmanager answers; see {self.folder / 'log.txt'}", 30)
        return self

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log.txt").read_text()[-2000:]
        try:
            with urlopen(f"{self.url}/-/ready", timeout=5):
                return True
        except URLError as error:
            return getattr(error, "code", None) == 401

    def kill(self) -> None:
        """As by `kill -9`: what it knows of alerts is in its memory only."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def alerts(self, query: str = "") -> list[Any]:
        """What fires, by what it says itself."""
        with urlopen(f"{self.url}/api/v2/alerts{query}", timeout=5) as answer:
            found: list[Any] = json.load(answer)
        return found
