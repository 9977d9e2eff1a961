"""`make screenshots`: the page with data as the README shows it: light, dark, and as wide as a phone.

Starts an engine of its own in a temporary folder, posts some minutes' worth of judgments, and writes PNGs of less than
`MOST_BYTES` each into the folder that is named. Needs chromium and chromedriver on PATH.
"""

import asyncio
import base64
import random
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.client import Client  # noqa: E402
from support.engine import Engine  # noqa: E402
from support.waiting import until_now  # noqa: E402

from bench.chromium import Chromium, missing  # noqa: E402 - the checkout is not a package

MOST_BYTES = 150_000
JUDGMENTS, SECONDS = 1500, 25.0
WORKFLOW = {
    "rules": [{"when": "input.temperature > 90.0", "result": {"verdict": "inspect"}, "confidence": 0.9}],
    "default": {"result": {"verdict": "ok"}, "confidence": 0.99},
    "track": ["temperature"],
}
DASHBOARD = {
    "name": "Plant",
    "charts": [
        {"id": "count", "type": "execution_count_chart"},
        {"id": "results", "type": "results_chart"},
        {"id": "heat", "type": "tracked_inputs_chart", "field": "temperature", "width": "full",
         "lines": [{"value": 90, "label": "too hot", "severity": "critical"}]},
    ],
}  # fmt: skip
PICTURES = (("light", "light", 1280, 1000), ("dark", "dark", 1280, 1000), ("phone", "light", 360, 780))
READY = "return document.querySelector('[data-testid=\"connection\"]')?.dataset.state === 'live'"
TOTAL = "return Number(document.querySelector('[data-testid=\"total-executions\"]')?.dataset.value || 0)"


async def fill(engine: Engine) -> None:
    """Judgments of five machines over `SECONDS`, so that the live charts have a shape."""
    chance = random.Random(7)
    async with Client(engine.url, "test-token", "demo") as client:
        for machine in range(5):
            await client.call("PUT", f"/api/v1/workflows/machine-{machine}", body=WORKFLOW)
        await client.call("PUT", "/api/v1/dashboards/main", body=DASHBOARD)
        for number in range(JUDGMENTS):
            heat = round(chance.gauss(82, 6), 2)
            await client.execute({"temperature": heat}, f"machine-{min(chance.randrange(7), 4)}")
            if number % 10 == 0:
                await asyncio.sleep(SECONDS * 10 / JUDGMENTS)  # spread over time is what the picture is of


def take(browser: Chromium, engine: Engine, folder: Path) -> None:
    """Write every picture of `PICTURES`."""
    browser.open(f"{engine.url}/?code={engine.code}")
    for name, scheme, width, height in PICTURES:
        browser.protocol(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        browser.protocol("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.open(engine.url)
        until_now(lambda: browser.run(READY) and browser.run(TOTAL) >= JUDGMENTS, "the page has the figures", 30)
        until_now(lambda: browser.run("return document.querySelectorAll('#charts canvas').length") >= 3, "charts are drawn")
        time.sleep(1)  # transitions end
        shot = browser.protocol("Page.captureScreenshot", format="png", optimizeForSpeed=False)
        picture = base64.b64decode(shot["data"])
        if len(picture) > MOST_BYTES:
            raise SystemExit(f"{name}.png has {len(picture):,} bytes, more than {MOST_BYTES:,}")
        (folder / f"{name}.png").write_bytes(picture)
        print(f"{folder / name}.png: {len(picture):,} bytes")


def main() -> int:
    """Take them; 2 when there is no browser."""
    if (why := missing()) is not None:
        print(f"screenshots: {why}", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="judgify-screenshots-", ignore_cleanup_errors=True) as made:
        place = Path(made)
        place.chmod(0o711)  # PostgreSQL runs as another user when we are root
        engine = Engine(place / "engine")
        try:
            engine.start()
            asyncio.run(fill(engine))
            browser = Chromium(place)
            try:
                take(browser, engine, folder)
            finally:
                browser.end()
            return engine.terminate()
        finally:
            engine.end()


if __name__ == "__main__":
    raise SystemExit(main())
