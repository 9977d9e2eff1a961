"""`bench pixel`: the whole way of a judgment, from its HTTP request to its count drawn on the page of a real browser.

Method. An engine of its own, as users have it (one process, its PostgreSQL embedded, at most 10 messages a second), and
headless Chromium that shows the page. Judgments are posted at a fixed rate (open loop). In the page a MutationObserver sees
each new count of executions, which the page writes in a frame; it notes when the frame after that one began, so layout and
painting were over. Counts only grow, so a count of `base + n` shows the first n judgments after the base. The delay of the
nth is (the first frame whose count is at least base + n) - (when the request that got the nth 200 was due): accepting,
deciding, the commit, the log, the rollup, the message, the page, painting.

Clocks. The page's is compared with ours in 25 calls before and after; the shortest says how far apart they are, and half of
its duration how well that is known (`clock_error_ms`).

Bias. Ranks are compared, not identities: single delays are off where answers come in another order than commits, their mean is
not. Up to 1/60 s of waiting for the next frame is in each delay; what a screen adds is not. Load, engine, PostgreSQL and
browser (drawing in software) share the machine, so its load is in the delays. Nothing else may write judgments meanwhile: the
page must show exactly as many as were answered in the end.
"""

import argparse
import sys
import time
from array import array
from contextlib import closing
from typing import Any, NamedTuple

import uvloop

from . import report
from .chromium import BrowserFailed, Chromium, missing
from .harness import Engine, EngineFailed, data_folder, free_port, running
from .latency import delays_s
from .loops import Load
from .recorder import Recorder

CATCH_UP_S, READY_S, PAUSE_S, WARM_S = 15.0, 30.0, 0.1, 3.0
CLOCK_CALLS = 25
FIGURE = '[data-testid="total-executions"]'
SHOWN = f"return document.querySelector('{FIGURE}')?.dataset.value || '0'"
LIVE = "return document.querySelector('[data-testid=\"connection\"]')?.dataset.state === 'live'"
NOW = "return performance.timeOrigin + performance.now()"
OBSERVE = f"""
window.drawn = [];
window.observer?.disconnect();
const figure = document.querySelector('{FIGURE}');
const now = () => performance.timeOrigin + performance.now();
window.observer = new MutationObserver(() => {{
  const count = Number(figure.dataset.value);
  requestAnimationFrame(() => {{ window.drawn.push([count, now()]); }});
}});
window.observer.observe(figure, {{ attributes: true, attributeFilter: ['data-value'] }});
"""


class Clock(NamedTuple):
    """`time.perf_counter` minus the page's clock, in seconds, and how far from true that may be."""

    offset_s: float
    error_s: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench pixel`."""
    parser.description = "From the HTTP request of a judgment to its count drawn in headless Chromium."
    parser.add_argument("--rates", default="7,500", help="judgments per second, with commas between (default: 7,500)")
    parser.add_argument("--seconds", type=float, default=30.0, help="at each rate (default: 30)")
    parser.add_argument("--users", type=int, default=16, help="connections (default: 16)")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON (-: standard output)")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0 when every judgment was seen on the page, 1 when not, 2 for wrong usage."""
    try:
        rates = [float(rate) for rate in args.rates.split(",")]
    except ValueError:
        rates = []
    if not rates or min(rates) <= 0 or not 0 < args.seconds <= 3600 or not 1 <= args.users <= 10_000:
        print("bench pixel: --rates, --seconds and --users must be positive numbers", file=sys.stderr)
        return 2
    if (why := missing()) is not None:
        print(f"bench pixel: {why}", file=sys.stderr)
        return 2
    with (
        report.tables_apart(args.json),
        data_folder(None, "pixel") as folder,
        running(Engine(folder, free_port())) as engine,
    ):
        try:
            uvloop.run(_warm(engine))
            with closing(_Page(Chromium(folder), engine)) as page:
                return _measure(args, rates, engine, page)
        except (EngineFailed, BrowserFailed, OSError) as error:
            report.note(f"bench pixel: {error}")
            return 1


class _Page:
    """The page in the browser, signed in and live."""

    def __init__(self, browser: Chromium, engine: Engine) -> None:
        self._browser = browser
        try:
            browser.open(f"{engine.target.url}/login")
            browser.type("#token", engine.target.token)
            browser.click("button[type=submit]")
            self._wait(LIVE, True, READY_S)
        except BaseException:
            browser.end()
            raise

    def close(self) -> None:
        self._browser.end()

    @property
    def total(self) -> int:
        """The count that it shows."""
        return int(self._browser.run(SHOWN))

    def observe(self) -> None:
        """Note each new count from now on, those of before are forgotten."""
        self._browser.run(OBSERVE)

    def drawn(self, total: int) -> list[list[float]]:
        """Wait for that count; all that were drawn: [count, ms of the page's clock]."""
        self._wait(SHOWN, str(total), CATCH_UP_S)
        time.sleep(PAUSE_S)  # it is noted a frame later
        found: list[list[float]] = self._browser.run("return window.drawn")
        return found

    def clock(self) -> Clock:
        """Compare the clocks; blocks for a few hundred milliseconds."""
        found = []
        for _ in range(CLOCK_CALLS):
            before_s = time.perf_counter()
            there_s = self._browser.run(NOW) / 1000
            after_s = time.perf_counter()
            found.append(Clock((before_s + after_s) / 2 - there_s, (after_s - before_s) / 2))
        return min(found, key=lambda one: one.error_s)

    def _wait(self, script: str, wanted: object, within_s: float) -> None:
        deadline_s = time.monotonic() + within_s
        while (found := self._browser.run(script)) != wanted:
            if time.monotonic() > deadline_s:
                raise BrowserFailed(f"the page shows {found!r} and not {wanted!r} after {within_s:g} s")
            time.sleep(PAUSE_S)


def _measure(args: argparse.Namespace, rates: list[float], engine: Engine, page: _Page) -> int:
    rows, everything, is_good = [], [], True
    for rate in rates:
        figures = _one_rate(args, rate, engine, page)
        is_good = is_good and not figures["complaints"] and figures["seen"] == figures["judgments"] > 0
        everything.append(figures)
        for name in ("answer", "drawn"):
            spread = figures[name]
            rows.append(
                [f"{rate:g}/s {name}", figures["judgments"], *(spread[f"{key}_ms"] for key in ("p50", "p95", "p99", "max"))]
            )
    print(report.table(["request to", "judgments", "p50 ms", "p95 ms", "p99 ms", "max ms"], rows))
    for figures in everything:
        told = f"; {figures['complaints']}" if figures["complaints"] else ""
        print(f"{figures['rate_per_s']:g}/s: {figures['frames']:,} frames with a new count, clocks within"
              f" {figures['clock_error_ms']:.2f} ms{told}")  # fmt: skip
    report.write_json({"bench": "pixel", "rates": everything}, args.json)
    return 0 if is_good else 1


async def _warm(engine: Engine) -> None:
    """Wait until it serves and reads its log; then some judgments, so that nothing is done for the first time."""
    await engine.wait_ready()
    await engine.reader()
    await Load(engine.target, Recorder(), 4, rate_per_s=50).run(WARM_S)


def _one_rate(args: argparse.Namespace, rate: float, engine: Engine, page: _Page) -> dict[str, Any]:
    before = page.clock()
    page.observe()
    base = page.total
    recorder = Recorder()
    uvloop.run(Load(engine.target, recorder, args.users, rate_per_s=rate).run(args.seconds))
    drawn = page.drawn(base + recorder.answered)
    clock = min(before, page.clock(), key=lambda one: one.error_s)
    due_s = array("d", (at - took for at, took in zip(recorder.answered_s, recorder.latencies_s, strict=True)))
    totals = [int(entry[0]) for entry in drawn]
    delays = delays_s(due_s, [entry[1] / 1000 + clock.offset_s for entry in drawn], totals, base)
    return {
        "rate_per_s": rate, "judgments": recorder.answered, "seen": len(delays), "frames": len(drawn),
        "clock_error_ms": clock.error_s * 1000, "complaints": recorder.complaints(),
        "answer": report.spread_ms(recorder.latencies_s),
        "drawn": report.spread_ms(delays),
    }  # fmt: skip
