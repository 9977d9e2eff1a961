"""The figures of all workers in one answer: each gives its own on a Unix socket, and whoever is scraped asks the others.

Every sample gets the label `worker`. One that does not answer in time is left out; `judgify_worker_up` says so.
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from judgify_engine.observe.metrics import Metrics

ANSWER_TIMEOUT_S = 1.0
LONGEST_ANSWER = 16 * 1024 * 1024
FOLDER = "judgify-workers-"
LONGEST_FOLDER = 60
"""A Unix socket's path has 107 bytes at most."""


class Family(msgspec.Struct, array_like=True):
    """A metric with its samples: (name, labels, value) each."""

    name: str
    documentation: str
    type: str
    samples: list[tuple[str, dict[str, str], float]]


_decode = msgspec.json.Decoder(list[Family]).decode


class Siblings:
    """This worker's place among so many `workers`. `folder`: where each has its socket."""

    def __init__(self, folder: Path, number: int, workers: int, metrics: Metrics) -> None:
        self._folder, self._number, self._metrics = folder, number, metrics
        self.workers = workers
        """How many there are; follows the supervisor's word."""
        self._path = folder / f"{number}-{os.getpid()}.sock"
        self._server: asyncio.Server | None = None

    async def serve(self) -> None:
        """Give our figures to whoever asks, until `leave`."""
        self._folder.mkdir(mode=0o700, exist_ok=True)  # whoever tidies up the temporary folder may have taken it
        self._server = await asyncio.start_unix_server(self._answer, self._path)
        for path in self._folder.glob(f"{self._number}-*.sock"):
            if path != self._path:  # of who was here before; where that one was killed, nobody else removes it
                path.unlink(missing_ok=True)

    def leave(self) -> None:
        """Be no sibling any more; may be called twice."""
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                writer.write(msgspec.json.encode(_families(self._metrics.collect())))
                await writer.drain()
        except (ConnectionError, TimeoutError):
            pass  # who asked has gone; it leaves us out
        finally:
            writer.close()

    async def figures(self) -> bytes:
        """What `/metrics` answers for all of them."""
        latest: dict[int, Path] = {}
        for path in sorted(self._folder.glob("*.sock"), key=_made_s):
            latest[int(path.name.partition("-")[0])] = path
        latest.pop(self._number, None)
        answers = await asyncio.gather(*[self._ask(path) for path in latest.values()])
        found = {self._number: _families(self._metrics.collect())}
        found |= {number: answer for number, answer in zip(latest, answers, strict=True) if answer is not None}
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Merged(found, {number: number in found for number in range(max(self.workers, self._number + 1))}))
        return generate_latest(registry)

    async def _ask(self, path: Path) -> list[Family] | None:
        with contextlib.suppress(OSError, TimeoutError, msgspec.MsgspecError):
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(path)
                try:
                    return _decode(await _read_all(reader))
                finally:
                    writer.close()
        return None


class _Merged(Collector):
    """The families of all workers, each family once."""

    def __init__(self, found: dict[int, list[Family]], up: dict[int, bool]) -> None:
        self._found, self._up = found, up

    def collect(self) -> Iterator[Metric]:
        merged: dict[str, Metric] = {}
        for number, families in sorted(self._found.items()):
            for family in families:
                metric = merged.get(family.name)
                if metric is None:
                    metric = merged[family.name] = Metric(family.name, family.documentation, family.type)
                for name, labels, value in family.samples:
                    metric.add_sample(name, {**labels, "worker": str(number)}, value)
        yield from merged.values()
        up = GaugeMetricFamily("judgify_worker_up", "1 where the worker gave its figures.", labels=["worker"])
        for number, answered in sorted(self._up.items()):
            up.add_metric([str(number)], float(answered))
        yield up


def _families(metrics: Iterable[Metric]) -> list[Family]:
    return [
        Family(one.name, one.documentation, one.type, [(sample.name, sample.labels, sample.value) for sample in one.samples])
        for one in metrics
    ]


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    """To the end. Raises OSError when it is longer than any answer of ours."""
    whole = bytearray()
    while part := await reader.read(1 << 16):
        whole += part
        if len(whole) > LONGEST_ANSWER:
            raise OSError("an answer of another worker is too long")
    return bytes(whole)


def _made_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # it has just gone
        return 0.0


def make_folder() -> tuple[Path, int]:
    """A folder of our own and its lock, to be removed when we stop; those of supervisors that were killed are removed now."""
    base = Path(tempfile.gettempdir())
    if len(str(base)) > LONGEST_FOLDER:
        base = Path("/tmp")
    for one in base.glob(f"{FOLDER}*"):
        with contextlib.suppress(OSError):  # it is another user's, or its supervisor lives
            os.close(_lock(one, os.O_RDWR))
            shutil.rmtree(one, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=FOLDER, dir=base))
    return made, _lock(made, os.O_RDWR | os.O_CREAT)


def _lock(folder: Path, flags: int) -> int:
    """Hold the folder for as long as the descriptor is open. Raises OSError when somebody else does."""
    descriptor = os.open(folder / "lock", flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
