"""Quotas of tenants: from the request to the socket, told with every answer, and nobody else's concern."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from support import engine as engines
from support.client import Answer, Client, new_tenant
from support.cluster import Database
from support.dashboards import watch
from support.engine import Engine
from support.waiting import until


async def limited(database: Database, client: Client, **bounds: float) -> None:
    names = ", ".join(bounds)
    values = ", ".join(map(str, bounds.values()))
    await database.do(f"INSERT INTO tenant_quotas (tenant_id, {names}) VALUES ('{client.tenant_id}', {values})")


@contextlib.asynccontextmanager
async def bounded_tenant(engine: Engine, **bounds: float) -> AsyncIterator[Client]:
    assert engine.database is not None
    async with new_tenant(engine.url, engine.database) as client:
        await limited(engine.database, client, **bounds)
        token = await engine.database.token(client.tenant_id)  # one that no server has looked up before
        async with Client(engine.url, token, client.tenant_id) as fresh:
            yield fresh


@pytest.fixture
async def bounded(engine: Engine) -> AsyncIterator[Client]:
    """A tenant with 5 requests a second and 2 dashboards."""
    async with bounded_tenant(engine, requests_per_s=5, sockets=2) as client:
        yield client


@pytest.fixture
async def thin(engine: Engine) -> AsyncIterator[Client]:
    """A tenant with 20,000 bytes a second."""
    async with bounded_tenant(engine, bytes_per_s=20_000) as client:
        yield client


async def many(client: Client, count: int, **more: object) -> list[Answer]:
    return list(await asyncio.gather(*[client.execute({"value": 70, **more}) for _ in range(count)]))


@pytest.mark.parametrize("key", [None, "key"], ids=["short way", "ordinary way"])
async def test_more_than_the_quota_is_a_429_that_says_when(bounded: Client, key: str | None) -> None:
    began_s = asyncio.get_running_loop().time()
    answers = await asyncio.gather(*[bounded.execute({"value": 70}, key=key and f"{key}-{n}") for n in range(30)])
    took_s = asyncio.get_running_loop().time() - began_s
    accepted = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status == 429]
    assert len(accepted) + len(refused) == 30
    assert 5 <= len(accepted) <= 6 + 5 * took_s, "a burst of a second, and what became free meanwhile"
    assert refused
    for answer in refused:
        problem = answer.json
        assert (problem["code"], problem["quota"], problem["limit"]) == ("quota_exceeded", "requests", 5)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.headers["RateLimit-Policy"] == '"requests";q=5;w=1'
        assert answer.headers["RateLimit"].startswith('"requests";r=0;t=')
        assert int(answer.headers["Retry-After"]) >= 1
    for answer in accepted:
        assert answer.headers["RateLimit-Policy"] == '"requests";q=5;w=1'
        assert answer.headers["RateLimit"].startswith('"requests";r=')

    async def free_again() -> bool:
        return (await bounded.execute({"value": 70})).status == 200

    await until(free_again, "it is free again")
    stored = (await bounded.get("/api/v1/judgments?limit=500")).json["items"]
    assert len(stored) == len(accepted) + 1, "what was refused is not stored"


async def test_reading_counts_too(bounded: Client) -> None:
    answers = await asyncio.gather(*[bounded.get("/api/v1/summary") for _ in range(50)])
    assert {answer.status for answer in answers} == {200, 429}
    assert {answer.json["code"] for answer in answers if answer.status == 429} == {"quota_exceeded"}


async def test_bytes_count_too(thin: Client) -> None:
    answers = await many(thin, 20, padding="x" * 9000)
    assert {answer.status for answer in answers} == {200, 429}
    refused = [answer for answer in answers if answer.status == 429]
    assert {(answer.json["quota"], answer.headers["RateLimit-Policy"]) for answer in refused} == {
        ("bytes", '"bytes";q=20000;w=1')
    }


async def test_bytes_count_also_when_their_number_is_not_told(thin: Client) -> None:
    async def chunks(size: int) -> AsyncIterator[bytes]:
        yield b'{"workflow_id": "check", "input_data": {"value": 70, "padding": "%b"}}' % (b"x" * size)

    async def post(size: int) -> int:
        return (await thin.call("POST", "/api/v1/judgments/execute", data=chunks(size))).status

    assert await post(200_000) == 200, "nothing was owed"
    assert await post(10) == 429


async def test_a_body_that_is_too_large_is_not_owed(thin: Client) -> None:
    for _ in range(3):
        assert (await thin.execute({"value": 70, "padding": "x" * 300_000})).status == 413
    assert (await thin.execute({"value": 70})).status == 200


async def test_a_stop_answers_what_is_held(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(settings={"JUDGIFY_QUOTA_REQUESTS_PER_S": "5"})
    async with Client(engine.url, "test-token", connections=100) as client:
        await client.execute({"value": 70}, "test-workflow-0")
        sent = [asyncio.create_task(client.execute({"value": 70}, "test-workflow-0")) for _ in range(60)]
        await asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED)
        assert await asyncio.to_thread(engine.terminate) == 0
        assert {answer.status for answer in await asyncio.gather(*sent)} <= {200, 429, 503}


async def test_others_are_not_concerned(engine: Engine, bounded: Client) -> None:
    assert engine.database is not None
    async with new_tenant(engine.url, engine.database) as other:
        noisy = asyncio.create_task(many(bounded, 200))
        answers = await many(other, 50)
        assert {answer.status for answer in answers} == {200}
        assert not any("RateLimit" in answer.headers for answer in answers)
        await noisy


async def test_dashboards_are_bounded_while_they_are_open(bounded: Client) -> None:
    first, second = await watch(bounded), await watch(bounded)
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await watch(bounded)
    assert caught.value.status == 429
    await first.close()

    async def one_more() -> bool:
        try:
            third = await watch(bounded)
        except aiohttp.WSServerHandshakeError:
            return False
        await third.close()
        return True

    await until(one_more, "there is room again")
    await second.close()


async def test_the_command_sets_and_lifts_them(start_engine: Callable[..., Engine]) -> None:
    """On a running server, also of the tenant whose token is in the profile."""
    engine = start_engine()
    settings = {"JUDGIFY_DATABASE_URL": ""}

    def quotas(*arguments: str) -> str:
        done = engines.run("quotas", *arguments, "--data-dir", engine.data_dir, settings=settings)
        assert done.returncode == 0, done.stderr
        return done.stdout

    async with Client(engine.url, "test-token") as client:
        await client.judge(70, "test-workflow-0")
        await asyncio.to_thread(quotas, "set", "demo", "--requests-per-s", "2")

        async def refused() -> bool:
            return 429 in [(await client.execute({"temperature": 1}, "test-workflow-0")).status for _ in range(4)]

        await until(refused, "it holds", 15)
        await asyncio.to_thread(quotas, "set", "demo", "--sockets", "3")
        assert "demo" in await asyncio.to_thread(quotas, "list")
        assert "requests_per_s=2" in await asyncio.to_thread(quotas, "list")
        assert "sockets=3" in await asyncio.to_thread(quotas, "list")
        await asyncio.to_thread(quotas, "remove", "demo")

        async def lifted() -> bool:
            return not await refused()

        await until(lifted, "it is lifted", 15)
    for wrong in (["set", "demo"], ["set", "demo", "--sockets", "-1"], ["set", "demo", "--bytes-per-s", "nan"]):
        assert (await asyncio.to_thread(engines.run, "quotas", *wrong, settings=settings)).returncode == 2
    assert engine.terminate() == 0


async def test_workers_share_a_quota(start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(workers=2, settings={"JUDGIFY_QUOTA_REQUESTS_PER_S": "40"})
    async with Client(engine.url, "test-token") as client:
        answers: list[Answer] = []
        for _ in range(4):  # new connections, so that both take part
            async with Client(engine.url, "test-token") as one:
                answers += await asyncio.gather(*[one.execute({"value": 1}, "test-workflow-0") for _ in range(60)])
        assert {answer.status for answer in answers} == {200, 429}
        assert {answer.json["limit"] for answer in answers if answer.status == 429} == {20}
        assert (await client.get("/health")).status == 200
    assert engine.terminate() == 0
