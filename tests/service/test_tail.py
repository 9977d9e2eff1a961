"""The live tail: what is committed, of one tenant, in the order of the log, as much as can be read and the rest counted."""

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
import pytest
import redis
from support.client import Client, new_tenant
from support.cluster import Database
from support.engine import Engine
from support.tails import tail
from support.waiting import until

from judgify_engine.core.streams import stream_of
from judgify_engine.live.asyncapi import TAIL
from judgify_engine.wire.tail import TailMessage

UPGRADE = {
    "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip
MANY = """
INSERT INTO judgment_executions (tenant_id, workflow_id, input_data, final_result, confidence_score, method_used,
                                 execution_time_ms)
SELECT $1, 'check', '{}', jsonb_build_object('verdict', 'v' || n % 2), 1, 'llm', 1 FROM generate_series(1, $2::int) AS n
"""


async def test_a_burst_comes_exactly_as_the_table_has_it(tenant: Client, engine: Engine) -> None:
    async with tail(tenant) as opened:
        await asyncio.gather(*(tenant.judge(value) for value in range(40)))
        failed = (await tenant.execute({})).json
        await opened.shows(41)
        assert (opened.skipped, opened.gaps) == (0, 0)
        stored = await engine.database.rows(
            "SELECT id::text AS id FROM judgment_executions WHERE tenant_id = $1", tenant.tenant_id
        )
        assert sorted(opened.ids) == sorted(row["id"] for row in stored)
        for row in opened.rows:
            record = (await tenant.get(f"/api/v1/judgments/{row['judgment_id']}")).json
            result = "failed" if record["status"] == "failed" else record["final_result"]["verdict"]
            assert row == {
                "result": result, "occurred_at": None,
                **{name: record[name] for name in (
                    "judgment_id", "workflow_id", "workflow_version", "status", "method_used", "confidence_score",
                    "execution_time_ms", "created_at",
                )},
            }  # fmt: skip
        assert opened.ids[-1] == failed["judgment_id"]


async def test_messages_are_those_of_the_document(tenant: Client) -> None:
    async with tail(tenant) as opened:
        await tenant.judge(70, occurred_at="2014-02-07T14:55:00Z")
        await opened.shows(1)
        for message in opened.messages:
            msgspec.convert(message, TailMessage)
    document = (await tenant.get("/api/v1/asyncapi.json")).json
    assert document["channels"]["tail"]["address"] == TAIL.address
    assert opened.rows[0]["occurred_at"] == "2014-02-07T14:55:00.000000Z"


async def test_filters(tenant: Client) -> None:
    await tenant.put_workflow("other")
    queries = {
        "?workflow_id=other": lambda row: row["workflow_id"] == "other",
        "?status=failed": lambda row: row["status"] == "failed",
        "?result=inspect": lambda row: row["result"] == "inspect",
        "?result=inspect&workflow_id=check&method_used=rule": lambda row: (row["result"], row["workflow_id"])
        == ("inspect", "check"),
        "?method_used=llm": lambda row: False,
    }  # fmt: skip
    async with tail(tenant) as everything:
        opened = [tail(tenant, query) for query in queries]
        tails = [await one.__aenter__() for one in opened]
        for workflow in ("check", "other"):
            for value in (10, 70, 30):
                await tenant.judge(value, workflow)
            await tenant.execute({}, workflow_id=workflow)
        await everything.shows(8)
        for one, fits in zip(tails, queries.values(), strict=True):
            await one.shows(len([row for row in everything.rows if fits(row)]))
            assert one.rows == [row for row in everything.rows if fits(row)]
        for one in opened:
            await one.__aexit__(None, None, None)


async def test_what_finds_no_room_is_counted(tenant: Client, engine: Engine) -> None:
    async with tail(tenant) as opened, tail(tenant, "?result=v1") as half:
        await engine.database.do(MANY, tenant.tenant_id, 3000)
        await opened.shows(3000)
        await half.shows(1500)
        assert opened.gaps == half.gaps == 0
        assert len(opened.rows) <= 50 * len(opened.messages)
        last = (await tenant.get("/api/v1/judgments?limit=1")).json["items"][0]
        assert opened.ids[-1] == last["judgment_id"]


async def test_another_tenant_of_the_same_stream_is_not_seen(tenant: Client, engine: Engine) -> None:
    async with new_tenant(engine.url, engine.database) as other:
        number = 0
        while stream_of(name := f"neighbour-{number}") != stream_of(tenant.tenant_id):
            number += 1
        async with tail(tenant) as mine, tail(other) as theirs:
            for of, count in ((name, 20), (other.tenant_id, 3), (tenant.tenant_id, 2)):
                await engine.database.do(MANY, of, count)
            await theirs.shows(3)
            await mine.shows(2)
            await tenant.judge()
            await mine.shows(3)
            stored = await engine.database.rows(
                "SELECT id::text AS id FROM judgment_executions WHERE tenant_id = $1", tenant.tenant_id
            )
            assert sorted(mine.ids) == sorted(row["id"] for row in stored)


async def test_updates_and_deletes_are_no_new_judgments(tenant: Client, engine: Engine) -> None:
    async with tail(tenant) as opened:
        await tenant.judge()
        await engine.database.do("UPDATE judgment_executions SET confidence_score = 0.1 WHERE tenant_id = $1", tenant.tenant_id)
        await engine.database.do("DELETE FROM judgment_executions WHERE tenant_id = $1", tenant.tenant_id)
        last = await tenant.judge(10)
        await opened.shows(2)
        assert opened.ids[-1] == last["judgment_id"]


@pytest.mark.parametrize(
    ("query", "field"),
    [("?result=" + "x" * 65, "result"), ("?status=done", "status"), ("?method_used=magic", "method_used"),
     ("?workflow_id=a%20b", "workflow_id"), ("?tenant_id=demo", "tenant_id")],
)  # fmt: skip
async def test_a_wrong_filter_is_refused(tenant: Client, query: str, field: str) -> None:
    assert (await tenant.get(f"/ws/tail{query}")).problem(422, "invalid_field")["field"] == field


async def test_who_may_not_read_sees_nothing(engine: Engine, tenant: Client) -> None:
    async with Client(engine.url, None) as nobody:
        (await nobody.get("/ws/tail")).problem(401, "unauthorized")
    token = await engine.database.token(tenant.tenant_id, "execute")
    async with Client(engine.url, token) as writer:
        (await writer.get("/ws/tail")).problem(403, "forbidden")


async def test_it_ends_with_its_token_and_counts_as_a_socket(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(database, prelude="from judgify_engine.live import session; session.RECHECK_S = 0.3\n")
    async with new_tenant(engine.url, database) as client:
        await database.do("INSERT INTO tenant_quotas (tenant_id, sockets) VALUES ($1, 1)", client.tenant_id)

        async def bounded() -> bool:
            async with tail(client):
                try:
                    async with tail(client):
                        return False
                except aiohttp.WSServerHandshakeError as error:
                    return error.status == 429

        await until(bounded, "one socket and no more", 20)
        async with tail(client) as opened:
            await database.do("UPDATE api_tokens SET revoked_at = now() WHERE tenant_id = $1", client.tenant_id)
            await until(lambda: opened.socket.closed, "the tail ends", 20)
            assert opened.socket.close_code == aiohttp.WSCloseCode.POLICY_VIOLATION
    assert engine.terminate() == 0


async def test_a_tenant_with_all_its_tails_is_told_so_and_others_have_theirs(
    database: Database, start_engine: Callable[..., Engine]
) -> None:
    engine = start_engine(database, settings={"JUDGIFY_LIVE_MAX_TAILS_OF_TENANT": "1"})
    async with new_tenant(engine.url, database) as one, new_tenant(engine.url, database) as another, tail(one):
        problem = (await one.call("GET", "/ws/tail", headers=UPGRADE)).problem(429, "quota_exceeded")
        assert (problem["quota"], problem["limit"]) == ("tails", 1)
        async with tail(another) as opened:
            made = await another.judge()
            await opened.shows(1)
            assert opened.ids == [made["judgment_id"]]
    assert engine.terminate() == 0


async def test_every_process_shows_every_judgment(
    database: Database, redis_url: str, start_engine: Callable[..., Engine]
) -> None:
    """Whoever judged it, and also after Redis was emptied; a stop says goodbye."""
    engines = [start_engine(database, settings={"JUDGIFY_REDIS_URL": redis_url}) for _ in range(2)]
    async with (
        new_tenant(engines[0].url, database) as one,
        Client(engines[1].url, one.token, one.tenant_id) as two,
        tail(one) as first,
        tail(two) as second,
    ):
        made = [(await client.judge())["judgment_id"] for client in (one, two) * 10]
        for opened in (first, second):
            await opened.shows(20)
            assert (sorted(opened.ids), opened.gaps) == (sorted(made), 0)
        with redis.Redis.from_url(redis_url) as connection:
            connection.flushdb()
        more: list[str] = []

        async def goes_on() -> bool:
            more.append((await one.judge())["judgment_id"])
            return all(set(opened.ids) & set(more) for opened in (first, second))

        await until(goes_on, "both go on", 30)
        for opened in (first, second):
            await until(lambda opened=opened: more[-1] in opened.ids, "the last one comes")
            assert len(opened.ids) == len(set(opened.ids)), "a judgment came twice"
            assert set(opened.ids) - set(more) == set(made)
            assert opened.gaps or set(more) <= set(opened.ids), "some are missing, and it did not say so"
        engines[0].terminate()
        await until(lambda: first.socket.closed, "the tail of the process that stopped ends")
        assert first.socket.close_code == aiohttp.WSCloseCode.GOING_AWAY
        last: dict[str, Any] = await two.judge()
        await until(lambda: last["judgment_id"] in second.ids, "the other one goes on", 30)
    assert engines[1].terminate() == 0
