"""Dashboards over WebSocket: the figures of the table at a position, for every client, fast or slow."""

import asyncio
import contextlib
import re
import socket
import time
from collections.abc import Callable
from typing import Any, Union

import aiohttp
import msgspec
import pytest
from support.client import Client, Load, new_tenant
from support.cluster import Database
from support.dashboards import Dashboard, position_of, watch
from support.engine import Engine
from support.waiting import until

from judgify_engine.live.session import PARAMETERS
from judgify_engine.wire.live import DASHBOARD_MESSAGES

FIELDS = {
    "type", "dashboard_id", "definition_version", "resume",
    "tenant_id", "workflow_id", "position", "recomputing", "verified_through", "server_time",
    "rate_per_s", "summary",
    "timeframe", "bucket_s", "charts", "live_bucket_s", "live_window_s", "live", "workflows",
}  # fmt: skip
EXECUTIONS = """
INSERT INTO judgment_executions (tenant_id, workflow_id, input_data, final_result, confidence_score, method_used,
                                 execution_time_ms)
SELECT $1, 'w' || n % 40, '{}', jsonb_build_object('verdict', 'verdict-' || n % 400 || repeat('x', 40)), 1, 'rule', 1
  FROM generate_series(1, $2::int) AS n
"""


async def test_initial_data_then_updates(tenant: Client) -> None:
    await tenant.judge(10)
    await tenant.judge(70)
    await tenant.execute({})
    dashboard = await watch(tenant)
    await dashboard.shows(3)
    first = dashboard.messages[0]
    assert set(first) == FIELDS
    assert (first["type"], first["dashboard_id"], first["tenant_id"]) == ("initial_data", "main", tenant.tenant_id)
    assert (first["timeframe"], first["bucket_s"], first["live_bucket_s"], first["live_window_s"]) == ("1h", 300, 5, 600)
    assert abs(first["server_time"] - time.time()) < 30
    for value in range(20):
        await tenant.judge(value)
    await dashboard.shows(23)
    summary = dashboard.summary
    assert (summary["successful_executions"], summary["failed_executions"]) == (22, 1)
    assert summary["success_rate"] == pytest.approx(22 / 23, abs=1e-6)
    assert summary["methods"] == {"rule": 23, "llm": 0, "hybrid": 0}
    assert summary["results"] == {"failed": 1, "inspect": 21, "ok": 1}
    assert summary["mean_confidence"] == pytest.approx((21 * 0.9 + 0.99) / 23, abs=1e-6)
    update = dashboard.messages[-1]
    assert set(update) == FIELDS
    assert position_of(update["position"]) > position_of(first["position"])
    assert update["workflows"] == [
        {"workflow_id": "check", "total_executions": 23, "successful_executions": 22,
         "mean_execution_time_ms": summary["mean_execution_time_ms"]}
    ]  # fmt: skip
    await dashboard.close()


async def test_figures_are_those_of_the_table(tenant: Client, engine: Engine) -> None:
    dashboard = await watch(tenant)
    for value in range(60):
        await tenant.judge(value)
    await dashboard.shows(60)
    times = [
        row["ms"] for row in await engine.database.rows(
            "SELECT execution_time_ms AS ms FROM judgment_executions WHERE tenant_id = $1 ORDER BY 1", tenant.tenant_id
        )
    ]  # fmt: skip
    assert dashboard.summary["mean_execution_time_ms"] == pytest.approx(sum(times) / 60, abs=0.0002)
    p95 = dashboard.summary["p95_execution_time_ms"]
    assert any(abs(p95 - ms) <= 0.06 * ms + 0.001 for ms in times[55:59]), (p95, times[54:])
    counted = sum(point[1] for point in dashboard.charts["count"].values())
    assert counted == sum(point[1] for point in dashboard.live.values()) == 60
    assert all(point[1] == 1 for point in dashboard.charts["success"].values())
    await dashboard.close()


async def test_rate_rises_and_falls(tenant: Client) -> None:
    dashboard = await watch(tenant)

    async def rises() -> bool:
        await tenant.judge(70)
        return bool(dashboard.messages[-1]["rate_per_s"] > 0)

    await until(rises, "the seconds that are over show as a rate", 10)
    await until(lambda: dashboard.messages[-1]["rate_per_s"] == 0, "the rate falls to 0 when nothing comes", 12)
    await dashboard.close()


async def test_one_workflow_and_each_time_frame(tenant: Client) -> None:
    await tenant.put_workflow("other")
    for value in range(5):
        await tenant.judge(value)
    await tenant.judge(1, "other")
    for frame, width in (("1h", 300), ("6h", 1800), ("24h", 3600), ("7d", 21600)):
        dashboard = await watch(tenant, "d", f"?timeframe={frame}&workflow_id=other")
        await dashboard.shows(1)
        assert dashboard.messages[0]["bucket_s"] == width
        assert dashboard.messages[0]["workflow_id"] == "other"
        assert list(dashboard.workflows) == ["other"]
        points = dashboard.charts["count"]
        assert [point[1] for point in points.values()] == [1]
        assert all(start % width == 0 for start in points)
        await dashboard.close()


async def test_change_by_plain_sql_is_seen(tenant: Client, engine: Engine) -> None:
    dashboard = await watch(tenant)
    await dashboard.shows(0)
    await engine.database.do(EXECUTIONS, tenant.tenant_id, 1000)
    await dashboard.shows(1000, 5)
    await dashboard.close()


async def test_another_tenants_judgments_are_not_seen(tenant: Client, engine: Engine) -> None:
    mine = await watch(tenant)
    async with new_tenant(engine.url, engine.database) as other:
        theirs = await watch(other)
        for _ in range(7):
            await other.judge(70)
        await theirs.shows(7)
        await tenant.judge(70)
        await mine.shows(1)
        assert mine.summary["total_executions"] == 1
        assert theirs.summary["total_executions"] == 7
        await theirs.close()
    await mine.close()


async def test_three_ways_to_say_who_you_are(tenant: Client) -> None:
    await tenant.judge(70)
    by_header = await watch(tenant)
    by_protocol = await watch(tenant, headers={}, protocols=("judgify.v1", f"bearer.{tenant.token}"))
    assert by_protocol.socket.protocol == "judgify.v1"
    signed_in = await tenant.call("POST", "/session", body={"token": tenant.token})
    assert signed_in.status == 204
    cookie = signed_in.headers["Set-Cookie"].split(";")[0]
    by_cookie = await watch(tenant, headers={"Cookie": cookie}, protocols=("judgify.v1",))
    for dashboard in (by_header, by_protocol, by_cookie):
        await dashboard.shows(1)
        await dashboard.close()


@pytest.mark.parametrize(
    ("headers", "protocols", "status", "code"),
    [
        ({}, (), 401, "unauthorized"),
        ({"Authorization": "Bearer wrong"}, (), 401, "unauthorized"),
        ({"Authorization": "Basic abc"}, (), 401, "unauthorized"),
        ({}, ("judgify.v1",), 401, "unauthorized"),
        ({}, ("judgify.v1", "bearer.wrong"), 401, "unauthorized"),
        ({"Cookie": "judgify_session=wrong"}, ("judgify.v1",), 401, "unauthorized"),
    ],
)
async def test_refusal_comes_before_the_upgrade(
    tenant: Client, headers: dict[str, str], protocols: tuple[str, ...], status: int, code: str
) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", **headers}  # fmt: skip
    if protocols:
        upgrade["Sec-WebSocket-Protocol"] = ", ".join(protocols)
    async with Client(tenant.url, None) as nobody:
        answer = await nobody.call("GET", "/ws/dashboards/main", headers=upgrade)
    answer.problem(status, code)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_token_in_the_query_string_is_not_taken(tenant: Client) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await watch(tenant, query=f"?token={tenant.token}", headers={})
    assert refused.value.status == 401


async def test_cookie_from_another_sites_page_is_refused(tenant: Client) -> None:
    cookie = (await tenant.call("POST", "/session", body={"token": tenant.token})).headers["Set-Cookie"].split(";")[0]
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await watch(tenant, headers={"Cookie": cookie, "Origin": "http://evil.example"}, protocols=("judgify.v1",))
    assert refused.value.status == 403


@pytest.mark.parametrize("query", ["?timeframe=2h", "?colour=red", "?workflow_id=a%2Fb"])
async def test_wrong_query_is_422(tenant: Client, query: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await watch(tenant, query=query)
    assert refused.value.status == 422


async def test_what_a_client_sends_is_ignored(tenant: Client) -> None:
    dashboard = await watch(tenant)
    await dashboard.shows(0)
    await dashboard.socket.send_str("hello")
    await dashboard.socket.send_bytes(b"\x00\xff")
    await dashboard.socket.ping()
    await tenant.judge(70)
    await dashboard.shows(1)
    await dashboard.close()


async def test_state_built_from_updates_is_that_of_a_new_snapshot(
    database: Database, start_engine: Callable[..., Engine]
) -> None:
    """Dashboards that come and go while load runs: in the end each shows what one that begins anew shows."""
    engine = start_engine(database, settings={"JUDGIFY_LIVE_REFRESH_INTERVAL_S": "1"})
    async with Client(engine.url, "test-token") as client, contextlib.AsyncExitStack() as stack:
        load = await stack.enter_async_context(Load(engine.url, "test-token", workers=8))
        dashboards: list[Dashboard] = []
        for number in range(12):
            dashboards.append(await watch(client, f"d{number % 3}", f"?timeframe={('1h', '24h')[number % 2]}"))
            seen = len(load.answered)
            await until(lambda seen=seen: len(load.answered) > seen + 150, "the load goes on", 20)
        await load.stop()
        total = await database.value("SELECT count(*) FROM judgment_executions")
        assert total == len(load.answered)
        for number, dashboard in enumerate(dashboards):
            await dashboard.shows(total)
            fresh = await watch(client, f"fresh{number}", f"?timeframe={('1h', '24h')[number % 2]}")
            await fresh.shows(total)
            assert dashboard.summary == fresh.summary
            assert dashboard.workflows == fresh.workflows
            assert {name: list(points.values()) for name, points in dashboard.charts.items()} == {
                name: list(points.values()) for name, points in fresh.charts.items()
            }
            assert dashboard.live == fresh.live
            assert any(message["type"] == "real_time_update" for message in dashboard.messages)
            await fresh.close()
            await dashboard.close()
        await load.check(database)
    assert engine.terminate() == 0


async def skipped(client: Client) -> float:
    """Messages that a slow dashboard missed so far."""
    found = re.search(r"^judgify_push_skipped_total (\S+)", (await client.get("/metrics")).body.decode(), re.MULTILINE)
    return float(found[1]) if found else 0.0


async def test_slow_client_disturbs_nobody_and_gets_the_latest_state(
    database: Database, start_engine: Callable[..., Engine]
) -> None:
    engine = start_engine(
        database,
        settings={
            "JUDGIFY_LIVE_PUSH_INTERVAL_S": "0.02",
            "JUDGIFY_CHANGE_FLUSH_INTERVAL_S": "0.01",
            "JUDGIFY_LIVE_REFRESH_INTERVAL_S": "3600",
        },
    )

    def narrow(address: Any) -> socket.socket:
        made = socket.socket(address[0], address[1], address[2])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        return made

    async with Client(engine.url, "test-token") as client:
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=narrow))
        try:
            slow = Dashboard(
                await session.ws_connect(
                    f"{engine.url}/ws/dashboards/main", headers={"Authorization": "Bearer test-token"}, max_msg_size=0
                ),
                read=False,
            )
            fast = await watch(client)
            connection = await database.connect()
            total = 0
            while await skipped(client) < 5:  # large messages, so the slow one's buffers are full after some 4 MB
                for _ in range(10):
                    await connection.execute(EXECUTIONS, "demo", 400)
                    total += 400
                await fast.shows(total)
                assert total < 2_000_000, "the slow client never fell behind"
            loop = asyncio.get_running_loop()
            for _ in range(5):
                await connection.execute(EXECUTIONS, "demo", 400)
                total += 400
                began_s = loop.time()
                await fast.shows(total)
                assert loop.time() - began_s < 1
            await connection.close()
            assert not slow.socket.closed
            slow.read()
            await slow.shows(total)
            assert slow.messages[-1]["type"] == "dashboard_update"
            assert len(slow.messages) < len(fast.messages), "it missed some in between"
            assert slow.summary == fast.summary
            assert slow.workflows.keys() == fast.workflows.keys()
            await database.do(EXECUTIONS, "demo", 400)
            await asyncio.gather(slow.shows(total + 400), fast.shows(total + 400))
            assert slow.messages[-1]["type"] == "real_time_update"
            await slow.close()
            await fast.close()
        finally:
            await session.close()
    assert engine.terminate() == 0


async def test_server_that_stops_says_so(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(database)
    async with Client(engine.url, "test-token") as client:
        dashboards = [await watch(client) for _ in range(5)]
        await dashboards[0].shows(0)
        engine.signal(15)
        for dashboard in dashboards:
            await until(lambda dashboard=dashboard: dashboard.socket.closed, "it is closed")
            assert dashboard.socket.close_code == 1001
    assert await asyncio.to_thread(engine.wait) == 0
    engine.check_log()


async def test_dashboard_of_a_process_that_does_not_read_the_log(
    database: Database, start_engine: Callable[..., Engine]
) -> None:
    """Any process may serve any dashboard; one that does not follow the log looks into the tables every second."""
    holder = start_engine(database)
    async with Client(holder.url, "test-token") as client:

        async def holds() -> bool:
            return bool((await client.get("/ready")).json["log_reader"] == "this process")

        await until(holds, "the first one reads the log")
        standby = start_engine(database)
        async with Client(standby.url, "test-token") as other:
            dashboard = await watch(other)
            await dashboard.shows(0)
            for _ in range(30):
                await client.judge(70, "test-workflow-0")
            await dashboard.shows(30, 5)
            rates = [message["rate_per_s"] for message in dashboard.messages]
            assert max(rates) > 1, "it shows a rate too, from one look to the next"
            await until(lambda: dashboard.messages[-1]["rate_per_s"] == 0, "the rate falls again", 10)
            holder.kill()
            await other.judge(70, "test-workflow-0")
            await dashboard.shows(31, 15)
            await dashboard.close()
    assert standby.terminate() == 0


async def test_too_many_dashboards_are_refused(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(database, settings={"JUDGIFY_LIVE_MAX_SOCKETS": "3"})
    async with Client(engine.url, "test-token") as client:
        dashboards = [await watch(client) for _ in range(3)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await watch(client)
        assert refused.value.status == 503
        assert refused.value.headers is not None
        assert int(refused.value.headers["Retry-After"]) >= 1
        await dashboards.pop().close()

        async def room() -> Dashboard | None:
            with contextlib.suppress(aiohttp.WSServerHandshakeError):
                return await watch(client)
            return None

        dashboards.append(await until(room, "there is room again"))
        for dashboard in dashboards:
            await dashboard.close()
    assert engine.terminate() == 0


async def test_revoked_token_ends_the_dashboard(database: Database, start_engine: Callable[..., Engine]) -> None:
    """It is looked up again every 30 s, and an answer is remembered for 5; both are shorter here."""
    prelude = "from judgify_engine.live import session; session.RECHECK_S = 0.3\n"
    prelude += "from judgify_engine.pipeline import access; access.FRESH_S = 0.3"
    engine = start_engine(database, prelude=prelude)
    async with new_tenant(engine.url, database) as tenant:
        dashboard = await watch(tenant)
        await dashboard.shows(0)
        await database.do("UPDATE api_tokens SET revoked_at = now() WHERE tenant_id = $1", tenant.tenant_id)
        await until(lambda: dashboard.socket.closed, "the dashboard is closed", 10)
        assert dashboard.socket.close_code == 1008
        await dashboard.close()
    assert engine.terminate() == 0


async def test_a_client_that_comes_back_gets_the_rest_or_is_told_that_it_is_everything(tenant: Client) -> None:
    await tenant.put_workflow("other")
    await tenant.judge(70, "other")
    dashboard, witness = await watch(tenant), await watch(tenant)
    await tenant.judge(70)
    await dashboard.shows(2)
    resume = dashboard.messages[-1]["resume"]
    await dashboard.close()
    await tenant.judge(70)
    await witness.shows(3)
    await witness.close()
    again = await watch(tenant, query=f"?position={resume}")
    await again.shows(3)
    first = again.messages[0]
    assert (first["type"], first["recovered"]) == ("initial_data", True)
    assert [row["workflow_id"] for row in first["workflows"]] == ["check"]
    for unknown in (resume.partition("@")[0], resume.partition("@")[0] + "@other", "0/1-1@" + resume.partition("@")[2]):
        whole = await watch(tenant, query=f"?position={unknown}")
        await whole.shows(3)
        assert whole.messages[0]["recovered"] is False
        assert sorted(row["workflow_id"] for row in whole.messages[0]["workflows"]) == ["check", "other"]
        await whole.close()
    await again.close()


async def test_no_client_that_loses_its_connection_all_the_time_shows_a_wrong_figure(
    database: Database, start_engine: Callable[..., Engine]
) -> None:
    """It goes on with what it has, at the process that it happens to come to, which is killed in between."""
    engine = start_engine(database)
    recovered = {True: 0, False: 0}
    shown: Dashboard | None = None
    async with Client(engine.url, "test-token") as client:

        async def come_back() -> None:
            nonlocal shown
            resume = None if shown is None else shown.messages[-1]["resume"]
            dashboard = await watch(client, query=f"?position={resume}" if resume else "", compress=15)
            await until(lambda: dashboard.messages, "the first message")
            if shown is not None:
                assert resume, "nothing is computed anew here"
                await shown.close()
                recovered[dashboard.messages[0]["recovered"]] += 1
                dashboard.take_over(shown)
            shown = dashboard

        await come_back()
        await until(
            lambda: shown is not None and shown.messages[-1]["resume"], "the log is read: there is something to resume", 60
        )
        async with Load(engine.url, "test-token", workers=4) as load:
            for _ in range(15):
                await come_back()
                seen = len(load.answered)
                await until(lambda seen=seen: len(load.answered) > seen + 20, "the load goes on", 20)
            await load.stop()
        total = await database.value("SELECT count(*) FROM judgment_executions")
        assert shown is not None
        await shown.shows(total)
        engine.kill()
        engine.start()
        client.url = engine.url
        await client.judge(70, "test-workflow-0")
        await come_back()
        await shown.shows(total + 1)
        assert recovered[True] >= 10
        fresh = await watch(client)
        await fresh.shows(total + 1)
        assert (shown.summary, shown.charts, shown.live) == (fresh.summary, fresh.charts, fresh.live)
        assert shown.workflows == fresh.workflows
        await fresh.close()
        await shown.close()
    assert engine.terminate() == 0


async def test_messages_are_compressed_for_who_can_read_it(tenant: Client) -> None:
    plain, compressed = await watch(tenant), await watch(tenant, compress=15)
    assert (plain.socket.compress, compressed.socket.compress) == (0, 15)
    for count in range(1, 4):
        await tenant.judge(70)
        await asyncio.gather(plain.shows(count), compressed.shows(count))
    assert plain.messages[-1] == compressed.messages[-1]
    await plain.close()
    await compressed.close()


async def test_a_ping_is_answered_and_a_frame_that_no_client_may_send_ends_the_socket(tenant: Client) -> None:
    reader, writer = await asyncio.open_connection(*tenant.url.removeprefix("http://").split(":"))
    head = "GET /ws/dashboards/main HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    head += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    head += f"Authorization: Bearer {tenant.token}\r\n\r\n"
    writer.write(head.encode())
    async with asyncio.timeout(10):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x89\x82\0\0\0\0hi")
        await reader.readuntil(b"\x8a\x02hi")
        writer.write(b"\x81\x01x")
        assert b"\x88" in (ending := await reader.read())
        assert b"\x03\xea" in ending  # 1002, a protocol error
    writer.close()


@pytest.mark.parametrize("query", ["?position=here", "?position=0/1-1&definition_version=x", "?position="])
async def test_a_position_that_is_none_is_refused_by_name(tenant: Client, query: str) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
    answer = await tenant.call("GET", f"/ws/dashboards/main{query}", headers=upgrade)
    assert answer.problem(422, "invalid_field")["field"] == query.split("&")[-1].strip("?").partition("=")[0]


async def test_the_document_holds_for_real_messages(tenant: Client) -> None:
    """Every message decodes as one of the types that the document is made of, which know no other fields."""
    document = (await tenant.get("/api/v1/asyncapi.json")).json
    assert document["asyncapi"] == "3.0.0"
    channel = document["channels"]["dashboard"]
    assert set(channel["bindings"]["ws"]["query"]["properties"]) == set(PARAMETERS)
    dashboard = await watch(tenant)
    await dashboard.shows(0)
    resume = dashboard.messages[-1]["resume"]
    await tenant.judge(70)
    await dashboard.shows(1)
    again = await watch(tenant, query=f"?position={resume}")
    await again.shows(1)
    for message in (*dashboard.messages, *again.messages):
        msgspec.convert(message, Union[DASHBOARD_MESSAGES])  # noqa: UP007 - made of a tuple
        assert message["type"] in channel["messages"]
        schema = document["components"]["schemas"][
            document["components"]["messages"][message["type"]]["payload"]["$ref"].rpartition("/")[2]
        ]
        assert set(schema["required"]) <= set(message) <= set(schema["properties"])
    await dashboard.close()
    await again.close()
