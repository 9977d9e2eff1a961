"""Headless Chromium by the W3C WebDriver protocol: what the browser tests need, and no more."""

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from support.ports import free_port
from support.waiting import until_now

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--window-size=1280,900",
]


def missing() -> str | None:
    """What is not on PATH; None: all is there."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not on PATH" if absent else None


class Browser:
    """One browser window. Everything it logs is kept in `console`."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        with (folder / "chromedriver.txt").open("wb") as log:
            self._driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=log, stderr=log, start_new_session=True)
        self.console: list[dict[str, Any]] = []
        self._session = ""
        try:
            until_now(self._answers, "chromedriver answers", 30)
            options = {
                "binary": shutil.which("chromium"),
                "args": [*ARGUMENTS, f"--user-data-dir={folder / 'profile'}"],
            }
            capabilities = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}}, within_s=60)
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
        self._call("POST", f"{self._session}/url", {"url": url})

    @property
    def address(self) -> str:
        return str(self._call("GET", f"{self._session}/url"))

    def run(self, script: str, *values: Any) -> Any:
        """Run the body of a function in the page; return what it returns."""
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": list(values)})

    def protocol(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._call("POST", f"{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def width(self, pixels: int) -> None:
        """Look at the page as on a screen of this width."""
        self.protocol("Emulation.setDeviceMetricsOverride", width=pixels, height=800, deviceScaleFactor=1, mobile=pixels < 600)

    def value(self, test_id: str, attribute: str = "data-value") -> str | None:
        found = self.run(
            "const e = document.querySelector(`[data-testid=\"${arguments[0]}\"]`); return e && e.getAttribute(arguments[1])",
            test_id, attribute,
        )  # fmt: skip
        return None if found is None else str(found)

    def type(self, selector: str, text: str) -> None:
        found = self._call("POST", f"{self._session}/element", {"using": "css selector", "value": selector})
        self._call("POST", f"{self._session}/element/{found[ELEMENT]}/value", {"text": text})

    def click(self, selector: str) -> None:
        found = self._call("POST", f"{self._session}/element", {"using": "css selector", "value": selector})
        self._call("POST", f"{self._session}/element/{found[ELEMENT]}/click", {})

    def complaints(self) -> list[str]:
        """Warnings and errors of the console since the last call, those about the content security policy too."""
        entries = self._call("POST", f"{self._session}/se/log", {"type": "browser"})
        self.console += entries
        return [f"{entry['level']}: {entry['message']}" for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def picture(self, path: Path) -> None:
        """A screenshot, for whoever looks into a failure."""
        import base64

        path.write_bytes(base64.b64decode(self._call("GET", f"{self._session}/screenshot")))

    def _answers(self) -> bool:
        try:
            return bool(self._call("GET", "/status", within_s=2)["ready"])
        except OSError:
            return False

    def _call(self, method: str, path: str, body: Any = None, within_s: float = 30) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=within_s) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{method} {path}: {error.read().decode()[:600]}") from None
