"""A simulated plant: machines whose readings are judged, and the client that posts them at a steady rate.

`Plant` is pure: a `random.Random` and a time in, request bodies out, the same for the same seed. `run_plant` posts them
open-loop over real HTTP; it is polite by construction: bounded concurrency, nothing is queued for later (a reading
whose turn comes while no connection is free, or while the server is away, is skipped and counted), and it backs off.
"""

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import dataclass

import aiohttp
import msgspec

WORKFLOWS, MACHINES, OPERATORS, USERS = 10, 20, 10, 100
RANGES = {"temperature": (70.0, 100.0), "pressure": (80.0, 120.0), "vibration": (30.0, 60.0)}
"""Lowest and highest value of each sensor: °C, kPa and Hz, say."""

SHIFTS = ("night", "day", "evening")
"""Eight hours each, from midnight UTC."""

EXCURSION_CHANCE = 1 / 400
"""Chance per reading that the machine begins to misbehave."""

EXCURSION_READINGS = (15, 60)
CONCURRENCY = 64
REQUEST_TIMEOUT_S = 10.0
TICK_S = 0.02
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.25, 5.0
STOP_GRACE_S = 3.0
MAX_RETRY_AFTER_S = 30.0

_encoder = msgspec.json.Encoder()


class _Sensor:
    """One value that wanders around its own middle, in shares of its range (0 to 1)."""

    __slots__ = ("high", "low", "middle", "pull", "share")

    def __init__(self, rng: random.Random, low: float, high: float) -> None:
        self.low, self.high = low, high
        self.middle = rng.uniform(0.3, 0.6)
        self.share = self.middle
        self.pull = self.middle

    def read(self, rng: random.Random) -> float:
        """Move one step towards `pull` and give the value, always within the range, to two decimals."""
        self.middle = min(max(self.middle + rng.gauss(0.0, 0.0015), 0.25), 0.7)  # the slow drift
        self.share += 0.12 * (self.pull - self.share) + rng.gauss(0.0, 0.035)
        if not 0.0 <= self.share <= 1.0:  # bounce off the end of the range instead of sticking to it
            self.share = min(max(-self.share if self.share < 0.0 else 2.0 - self.share, 0.0), 1.0)
        return round(self.low + self.share * (self.high - self.low), 2)


class _Machine:
    """A few sensors, the workflow that judges them, and now and then an excursion of some readings."""

    __slots__ = ("left", "name", "number", "sensors")

    def __init__(self, rng: random.Random, number: int) -> None:
        self.name = f"MACHINE_{number}"
        self.number = number
        self.sensors = {name: _Sensor(rng, low, high) for name, (low, high) in RANGES.items()}
        self.left = 0

    def read(self, rng: random.Random) -> dict[str, float]:
        if self.left > 0:
            self.left -= 1
        elif rng.random() < EXCURSION_CHANCE:
            self.left = rng.randint(*EXCURSION_READINGS)
            # Overheating is what mostly happens; sometimes another sensor runs away, or drops.
            runaway = rng.choices(list(self.sensors), weights=(6, 2, 2))[0]
            self.sensors[runaway].pull = rng.choices((0.97, 0.05), weights=(4, 1))[0]
        if self.left == 0:
            for sensor in self.sensors.values():
                sensor.pull = sensor.middle
        return {name: sensor.read(rng) for name, sensor in self.sensors.items()}


class Plant:
    """20 machines judged by 10 workflows; `next_body` gives one reading as the body of a request."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._machines = [_Machine(rng, number) for number in range(MACHINES)]
        # Machines do not report equally often, so that workflows differ on the page.
        self._weights = [rng.uniform(0.5, 2.0) for _ in self._machines]

    def next_request(self, now_s: float) -> dict[str, object]:
        """One reading of one machine; `now_s` (Unix seconds) decides the shift and who operates."""
        rng = self._rng
        machine = rng.choices(self._machines, self._weights)[0]
        shift = int(now_s // 28_800) % len(SHIFTS)
        # A machine has its workflow; one reading in ten goes to another (an audit, say).
        workflow = machine.number % WORKFLOWS if rng.random() < 0.9 else rng.randrange(WORKFLOWS)
        return {
            "workflow_id": f"test-workflow-{workflow}",
            "input_data": {**machine.read(rng), "machine_id": machine.name, "user_id": rng.randrange(USERS)},
            "context": {"shift": SHIFTS[shift], "operator": f"operator_{(machine.number * 3 + shift) % OPERATORS}"},
        }

    def next_body(self, now_s: float) -> bytes:
        """`next_request` as JSON."""
        return _encoder.encode(self.next_request(now_s))


@dataclass
class PlantReport:
    """What came of the readings whose turn came; `due` is the sum of the others once the plant has stopped."""

    due: int = 0
    ok: int = 0
    refused: int = 0
    """Answered, but not with 200."""
    broken: int = 0
    """No answer: the connection failed or the wait was too long."""
    skipped: int = 0
    """Never sent: the server was away, had asked to wait, or was too slow for the rate."""


async def run_plant(url: str, token: str, rate_per_s: float, stop: asyncio.Event) -> PlantReport:
    """Post readings to `url` at `rate_per_s` until `stop` is set; then let those under way end (3 s at most)."""
    client = _Client(url, token)
    plant = Plant(random.Random())
    connector = aiohttp.TCPConnector(limit=CONCURRENCY)
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout, headers=client.headers) as session,
        asyncio.TaskGroup() as tasks,
    ):
        senders = [tasks.create_task(client.send_readings(session), name=f"plant-{number}") for number in range(CONCURRENCY)]
        try:
            await _offer_readings(client, plant, rate_per_s, stop)
        finally:
            await client.finish(senders)
    return client.report


async def _offer_readings(client: "_Client", plant: Plant, rate_per_s: float, stop: asyncio.Event) -> None:
    """Hand each reading over at its turn; a late wake-up hands over all that is due, at most one second's worth."""
    last_s = time.monotonic()
    owed = 0.0
    while not stop.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(TICK_S):
                await stop.wait()
        now_s = time.monotonic()
        owed += min(now_s - last_s, 1.0) * rate_per_s
        last_s = now_s
        for _ in range(int(owed)):
            client.offer(plant.next_body(time.time()), now_s)
        owed -= int(owed)


class _Client:
    """A few senders behind a queue that holds no more than they can take at once."""

    def __init__(self, url: str, token: str) -> None:
        self.report = PlantReport()
        self.headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._url = url.rstrip("/") + "/api/v1/judgments/execute"
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(CONCURRENCY)
        self._quiet_until_s = 0.0
        self._backoff_s = FIRST_BACKOFF_S

    def offer(self, body: bytes, now_s: float) -> None:
        """Take one reading, or count it as skipped. Never waits."""
        self.report.due += 1
        if now_s < self._quiet_until_s or self._queue.full():
            self.report.skipped += 1
        else:
            self._queue.put_nowait(body)

    async def finish(self, senders: "list[asyncio.Task[None]]") -> None:
        """Let the readings under way be answered, drop those that still wait, and end the senders."""
        while not self._queue.empty():
            self._queue.get_nowait()
            self._queue.task_done()
            self.report.skipped += 1
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_GRACE_S):
                    await self._queue.join()
        finally:
            for sender in senders:
                sender.cancel()

    async def send_readings(self, session: aiohttp.ClientSession) -> None:
        """Post what is offered, one at a time, until cancelled."""
        while True:
            body = await self._queue.get()
            try:
                await self._send(session, body)
            finally:
                self._queue.task_done()

    async def _send(self, session: aiohttp.ClientSession, body: bytes) -> None:
        if time.monotonic() < self._quiet_until_s:
            self.report.skipped += 1
            return
        try:
            async with session.post(self._url, data=body, allow_redirects=False) as response:
                await response.read()
                status, retry_after = response.status, response.headers.get("Retry-After", "")
        except (aiohttp.ClientError, TimeoutError):
            self.report.broken += 1
            self._back_off(self._backoff_s)
            return
        except asyncio.CancelledError:
            self.report.broken += 1
            raise
        if status == 200:
            self.report.ok += 1
            self._backoff_s = FIRST_BACKOFF_S
            return
        self.report.refused += 1
        if status in (429, 502, 503, 504):
            self._back_off(min(float(retry_after), MAX_RETRY_AFTER_S) if retry_after.isdigit() else self._backoff_s)
        elif status in (401, 403):
            self._back_off(MAX_BACKOFF_S)

    def _back_off(self, wait_s: float) -> None:
        now_s = time.monotonic()
        if now_s >= self._quiet_until_s:  # those that failed together count as one failure
            self._quiet_until_s = now_s + wait_s * random.uniform(0.8, 1.2)
            self._backoff_s = min(self._backoff_s * 2, MAX_BACKOFF_S)
