"""Headless Chromium by the W3C WebDriver protocol: what is measured, tested or photographed in a browser goes through here.

`chromium` and `chromedriver` are programs of the machine (Debian: the packages chromium and chromium-driver); `missing`
says which are not there. All calls block and have a bound; they are for outside the event loop.
"""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from .harness import free_port

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--window-size=1280,900",
]
START_S, CALL_S, POLL_S = 60.0, 30.0, 0.05


class BrowserFailed(Exception):
    """The driver refused a command, or did not come up; the message holds what it said."""


def missing() -> str | None:
    """What is not on PATH; None: all is there."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not on PATH" if absent else None


class Chromium:
    """One browser window, its profile and the driver's log under `folder`; `end` it whatever happens."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        with (folder / "chromedriver.txt").open("wb") as log:
            self._driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=log, stderr=log, start_new_session=True)
        self._session = ""
        try:
            self._wait_until_it_answers()
            options = {
                "binary": shutil.which("chromium"),
                "args": [*ARGUMENTS, f"--user-data-dir={folder / 'profile'}"],
            }
            capabilities = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}}, within_s=START_S)
            self._session = f"/session/{made['sessionId']}"
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Close the browser and the driver."""
        try:
            if self._session:
                self._call("DELETE", self._session)
        except OSError:
            pass
        finally:
            self._driver.terminate()
            self._driver.wait(20)

    def open(self, url: str) -> None:
        """Go to an address and wait until it is loaded."""
        self.command("POST", "/url", {"url": url})

    @property
    def address(self) -> str:
        """Where the window is."""
        return str(self.command("GET", "/url"))

    def run(self, script: str, *values: Any) -> Any:
        """Run the body of a function in the page; return what it returns."""
        return self.command("POST", "/execute/sync", {"script": script, "args": list(values)})

    def protocol(self, name: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self.command("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def type(self, selector: str, text: str) -> None:
        """Type into the element."""
        self.command("POST", f"/element/{self._element(selector)}/value", {"text": text})

    def click(self, selector: str) -> None:
        """Click the element, as a user does: it must be visible."""
        self.command("POST", f"/element/{self._element(selector)}/click", {})

    def command(self, method: str, path: str, body: Any = None) -> Any:
        """A command of the session. Raises BrowserFailed when it is refused, OSError when the driver is gone."""
        return self._call(method, self._session + path, body)

    def _element(self, selector: str) -> str:
        return str(self.command("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT])

    def _wait_until_it_answers(self) -> None:
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            try:
                if self._call("GET", "/status", within_s=2)["ready"]:
                    return
            except OSError:
                pass
            time.sleep(POLL_S)
        raise BrowserFailed(f"chromedriver did not answer within {START_S:g} s")

    def _call(self, method: str, path: str, body: Any = None, within_s: float = CALL_S) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=within_s) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise BrowserFailed(f"{method} {path}: {error.read().decode()[:600]}") from None
