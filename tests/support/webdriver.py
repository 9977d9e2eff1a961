"""The browser of the tests: `bench/chromium.py`, and ways to look at the page."""

import base64
import re
from pathlib import Path
from typing import Any

from bench.chromium import Chromium, missing

__all__ = ["UNREACHED", "Browser", "missing"]

UNREACHED = re.compile(
    r"WebSocket connection to|net::ERR_(CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE|SOCKET_NOT_CONNECTED)"
)
"""What the browser itself says of each attempt that found no server, or was cut off with it."""


class Browser(Chromium):
    """One browser window. Everything it logs is kept in `console`."""

    def __init__(self, folder: Path) -> None:
        self.console: list[dict[str, Any]] = []
        super().__init__(folder)

    def width(self, pixels: int) -> None:
        """Look at the page as on a screen of this width."""
        self.protocol("Emulation.setDeviceMetricsOverride", width=pixels, height=800, deviceScaleFactor=1, mobile=pixels < 600)

    def value(self, test_id: str, attribute: str = "data-value") -> str | None:
        found = self.run(
            "const e = document.querySelector(`[data-testid=\"${arguments[0]}\"]`); return e && e.getAttribute(arguments[1])",
            test_id, attribute,
        )  # fmt: skip
        return None if found is None else str(found)

    def complaints(self) -> list[str]:
        """Warnings and errors of the console since the last call, those about the content security policy too."""
        entries = self.command("POST", "/se/log", {"type": "browser"})
        self.console += entries
        return [f"{entry['level']}: {entry['message']}" for entry in entries if entry["level"] in ("SEVERE", "WARNING")]

    def picture(self, path: Path) -> None:
        """A screenshot, for whoever looks into a failure."""
        path.write_bytes(base64.b64decode(self.command("GET", "/screenshot")))
