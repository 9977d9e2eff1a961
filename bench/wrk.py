"""Runs `wrk`, where it is installed, with the seed request, and reads its figures through its Lua interface."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from .client import EXECUTE_PATH, SEED_BODY, Target

MARK = "judgify-figures:"
_SCRIPT = """
wrk.method = "POST"
wrk.body = [==[%(body)s]==]
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = os.getenv("JUDGIFY_BENCH_AUTHORIZATION")
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '%(mark)s{"requests": %%d, "seconds": %%.6f, "p50_ms": %%.3f, "p90_ms": %%.3f, "p95_ms": %%.3f, ' ..
    '"p99_ms": %%.3f, "max_ms": %%.3f, "mean_ms": %%.3f, "connect_errors": %%d, "read_errors": %%d, ' ..
    '"write_errors": %%d, "status_errors": %%d, "timeouts": %%d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(90) / 1e3,
    latency:percentile(95) / 1e3, latency:percentile(99) / 1e3, latency.max / 1e3, latency.mean / 1e3,
    e.connect, e.read, e.write, e.status, e.timeout))
end
"""


class WrkFailed(Exception):
    """wrk is not there, or did not give its figures."""


def find_wrk() -> str | None:
    """The path of wrk, None where it is not installed."""
    return shutil.which("wrk")


async def run_wrk(target: Target, connections: int, seconds: float, threads: int = 2) -> dict[str, Any]:
    """Run wrk once; its figures and `errors`, the sum of all kinds of errors and timeouts. Raises WrkFailed.

    An answer that takes longer than 2 s (wrk's default) is a timeout. `requests` counts all answers; those with a
    status of 400 or more are among `errors`. The rate is by wrk's own wall clock. The token goes by the environment,
    so that no file and no command line holds it.
    """
    program = find_wrk()
    if program is None:
        raise WrkFailed("wrk is not installed; use the built-in load generator (--tool own)")
    async with _script() as script:
        command = [program, f"-t{min(threads, connections)}", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        command += ["--latency", "--timeout", "2s", "-s", str(script), target.url + EXECUTE_PATH]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"PATH": "/usr/bin:/bin", "JUDGIFY_BENCH_AUTHORIZATION": f"Bearer {target.token}"},
        )
        try:
            async with asyncio.timeout(seconds + 60):
                output = (await process.communicate())[0].decode(errors="replace")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    line = next((line for line in output.splitlines() if line.startswith(MARK)), None)
    if line is None:
        raise WrkFailed(f"wrk gave no figures: {output.strip()[-400:]}")
    figures: dict[str, Any] = json.loads(line.removeprefix(MARK))
    figures["errors"] = sum(figures[f"{kind}_errors"] for kind in ("connect", "read", "write", "status"))
    figures["errors"] += figures["timeouts"]
    figures["per_s"] = figures["requests"] / max(figures["seconds"], 1e-9)
    return figures


@asynccontextmanager
async def _script() -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory(prefix="judgify-wrk-") as folder:
        path = Path(folder) / "seed.lua"
        path.write_text(_SCRIPT % {"body": SEED_BODY.decode(), "mark": MARK}, encoding="utf-8")
        yield path
