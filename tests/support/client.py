"""A tenant's view of the engine over HTTP, and the load that adversity tests run while things break."""

import asyncio
import contextlib
import json
import uuid
from collections import Counter
from typing import Any, NamedTuple

import aiohttp

from support.cluster import Database

EXECUTE = "/api/v1/judgments/execute"
CHECK = {
    "rules": [{"when": "input.value < 50.0 || input.value > 95.0", "result": {"verdict": "inspect"}, "confidence": 0.9}],
    "default": {"result": {"verdict": "ok"}, "confidence": 0.99},
}
"""The workflow `check` that every tenant of the tests has."""


class Answer(NamedTuple):
    """One HTTP answer."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def problem(self, status: int, code: str) -> dict[str, Any]:
        """Check that this is that problem, whole and well-formed; return it."""
        assert (self.status, self.json.get("code")) == (status, code), self.body[:500]
        assert self.headers["Content-Type"] == "application/problem+json"
        problem: dict[str, Any] = self.json
        assert problem["status"] == status
        assert problem["type"] == f"urn:judgify:problem:{code}"
        assert problem["title"]
        assert problem["detail"]
        if status == 503:
            assert int(self.headers["Retry-After"]) >= 1
        return problem


class Client:
    """Calls one engine with one token."""

    def __init__(
        self, url: str, token: str | None, tenant_id: str = "", *, connections: int = 100, timeout_s: float = 60
    ) -> None:
        self.url, self.token, self.tenant_id = url, token, tenant_id
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections), timeout=aiohttp.ClientTimeout(total=timeout_s)
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    async def call(
        self, method: str, path: str, *, body: Any = None, data: Any = None, headers: dict[str, str] | None = None,
        redirects: bool = False,
    ) -> Answer:  # fmt: skip
        """`body` goes as JSON, `data` as it is."""
        sent = dict(headers or {})
        if self.token is not None:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        if body is not None:
            data = json.dumps(body).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        async with self.session.request(
            method, self.url + path, data=data, headers=sent, allow_redirects=redirects
        ) as response:
            return Answer(response.status, response.headers.copy(), await response.read())

    async def get(self, path: str) -> Answer:
        return await self.call("GET", path)

    async def put_workflow(self, workflow_id: str, definition: dict[str, Any] = CHECK) -> Answer:
        return await self.call("PUT", f"/api/v1/workflows/{workflow_id}", body=definition)

    async def execute(
        self, input_data: dict[str, Any], workflow_id: str = "check", *, key: str | None = None, **more: Any
    ) -> Answer:
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.call(
            "POST", EXECUTE, body={"workflow_id": workflow_id, "input_data": input_data, **more}, headers=headers
        )

    async def judge(self, value: float = 70.0, workflow_id: str = "check", **more: Any) -> dict[str, Any]:
        """Execute, expecting success; return the answer."""
        answer = await self.execute({"value": value}, workflow_id, **more)
        assert answer.status == 200, answer.body[:500]
        found: dict[str, Any] = answer.json
        return found


@contextlib.asynccontextmanager
async def new_tenant(url: str, database: Database, *scopes: str, workflow: bool = True):
    """A client of a tenant that nobody else uses, with the workflow `check`."""
    tenant_id = f"tenant-{uuid.uuid4().hex[:12]}"
    async with Client(url, await database.token(tenant_id, *scopes), tenant_id) as client:
        if workflow:
            assert (await client.put_workflow("check")).status == 201
        yield client


class Load:
    """Posts judgments over and over; remembers what came of each.

    Every judgment has a number of its own in `input_data.n`, so that each can be found in the table whatever was answered.
    """

    def __init__(
        self, url: str, token: str, *, workers: int = 16, workflow_id: str = "test-workflow-0", keyed: float = 0.0
    ) -> None:
        self.url, self.token, self.workers, self.workflow_id, self.keyed = url, token, workers, workflow_id, keyed
        self.answered: dict[int, str] = {}
        """Number to judgment id."""
        self.refused: dict[int, str] = {}
        """Number to the problem's code: not stored, says the answer."""
        self.unknown: Counter[str] = Counter()
        """No answer, or one that says that the outcome is not known."""
        self.strange: list[str] = []
        """Answers that should never be."""
        self.longest_s = 0.0
        self._next = 0
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Load":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.workers), timeout=aiohttp.ClientTimeout(total=60)
        )
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self.workers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """No new requests; wait for the answers of those under way."""
        self._stop.set()
        if self._session is not None:
            try:
                await asyncio.gather(*self._tasks)
            finally:
                await self._session.close()
                self._session = None

    async def _work(self) -> None:
        while not self._stop.is_set():
            number, self._next = self._next, self._next + 1
            if await self._post(number):
                continue
            with contextlib.suppress(TimeoutError):  # refused: a moment of rest, as a decent sender takes
                await asyncio.wait_for(self._stop.wait(), 0.05)

    async def _post(self, number: int) -> bool:
        assert self._session is not None
        headers = {"Authorization": f"Bearer {self.token}"}
        if self.keyed and number % 100 < self.keyed * 100:
            headers["Idempotency-Key"] = f"load-{number}"
        body = {"workflow_id": self.workflow_id, "input_data": {"temperature": 70 + number % 30, "n": number}}
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            async with self._session.post(self.url + EXECUTE, json=body, headers=headers) as response:
                status, raw = response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.unknown[type(error).__name__] += 1
            return False
        finally:
            self.longest_s = max(self.longest_s, loop.time() - began_s)
        answer = json.loads(raw)
        if status == 200:
            self.answered[number] = answer["judgment_id"]
            return True
        if status == 503 and answer["code"] == "commit_unknown":
            self.unknown["commit_unknown"] += 1
        elif status == 503 and response.headers.get("Retry-After", "").isdigit():
            self.refused[number] = answer["code"]
        else:
            self.strange.append(f"{status} {raw[:300]!r}")
        return False

    async def check(self, database: Database) -> None:
        """Every answered judgment is stored exactly once and every refused one is not."""
        stored = await database.rows(
            "SELECT (input_data ->> 'n')::bigint AS n, array_agg(id::text) AS ids FROM judgment_executions"
            " WHERE input_data ? 'n' GROUP BY 1"
        )
        self.check_rows({row["n"]: row["ids"] for row in stored})

    def check_rows(self, stored: dict[int, list[str]]) -> None:
        assert not self.strange, self.strange[:5]
        missing = [n for n, judgment_id in self.answered.items() if judgment_id not in stored.get(n, ())]
        doubled = {n: ids for n, ids in stored.items() if len(ids) > 1}
        not_refused = {n: code for n, code in self.refused.items() if n in stored}
        assert not missing, f"{len(missing)} of {len(self.answered)} answered judgments are missing: {missing[:10]}"
        assert not doubled, f"{len(doubled)} judgments are stored more than once: {list(doubled.items())[:5]}"
        assert not not_refused, f"{len(not_refused)} were refused and are stored: {list(not_refused.items())[:5]}"
        assert self.answered, "nothing was answered at all"
