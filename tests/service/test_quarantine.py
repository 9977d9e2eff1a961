"""The quarantine: what was refused is there with its reason, can be replayed exactly once, and a flood of it is bounded."""

import asyncio
import base64
import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.client import EXECUTE, Answer, Client, new_tenant
from support.cluster import Database
from support.engine import Engine
from support.rollups import check_rollups
from support.waiting import until

from judgify_engine import resources
from judgify_engine.config import KeepConfig, load
from judgify_engine.core.quality import KINDS
from judgify_engine.core.quarantine import BODY_BYTES, TENANT_BODIES, Refused
from judgify_engine.store import quarantine, upkeep
from judgify_engine.store.migrate import migrate
from judgify_engine.store.pool import Database as Pools

from .test_partitions import connected

PATH = "/api/v1/quarantine"
WORKFLOW = "test-workflow-0"
BAD = b'{"workflow_id": "check", "input_data": 5}'


async def rows_of(client: Client, count: int, query: str = "") -> list[dict[str, Any]]:
    """The rows of the list, newest first, once there are so many."""

    async def there() -> list[dict[str, Any]] | None:
        answer = await client.get(f"{PATH}?limit=500{query}")
        assert answer.status == 200, answer.body
        found: list[dict[str, Any]] = answer.json["items"]
        return found if len(found) >= count else None

    found = await until(there, f"{count} rows are in quarantine") if count else await there()
    assert found is not None
    assert len(found) == count
    return found


async def replay(client: Client, row: dict[str, Any], body: Any = None) -> Answer:
    return await client.call("POST", f"{PATH}/{row['quarantine_id']}/replay", body=body)


async def judgments(engine: Engine, client: Client) -> int:
    assert engine.database is not None
    found = await engine.database.value("SELECT count(*) FROM judgment_executions WHERE tenant_id = $1", client.tenant_id)
    return int(found)


async def refuse(client: Client, data: bytes, *, headers: dict[str, str] | None = None) -> dict[str, Any]:
    answer = await client.call("POST", EXECUTE, data=data, headers=headers)
    assert 400 <= answer.status < 500, answer.body
    found: dict[str, Any] = answer.json
    return found


# What is kept ---------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[bytes, str, str | None]] = [
    (b"", "bad_json", None),
    (b"\xff not JSON", "bad_json", None),
    (b'{"workflow_id": "check"}', "missing_field", "check"),
    (b'{"input_data": {}}', "missing_field", None),
    (b'{"workflow_id": "check", "input_data": {}, "colour": 1}', "unknown_field", "check"),
    (BAD, "wrong_type", "check"),
    (b'{"workflow_id": "a/b", "input_data": {}}', "invalid_value", None),
    (b'{"workflow_id": "check", "input_data": {"x": 1e400}}', "out_of_range", "check"),
    (b'{"workflow_id": "check", "input_data": {"x": "\\u0000"}}', "unstorable_text", "check"),
    (b'{"workflow_id": "check", "input_data": {"x": ' + b"[" * 70 + b"]" * 70 + b"}}", "nested_too_deep", "check"),
    (b'{"workflow_id": "nothing", "input_data": {"x": 1}}', "unknown_workflow", "nothing"),
]


@pytest.mark.parametrize("way", ["direct", "aiohttp"])
async def test_each_refused_request_is_kept_with_its_kind_and_reason(tenant: Client, way: str) -> None:
    """Whichever way it came in. With a connection of its own for each, a request goes through aiohttp's handler."""
    headers = {"Connection": "close"} if way == "aiohttp" else None
    if way == "direct":
        for _ in range(3):  # heads are learned from good requests
            await tenant.judge()
    told = [await refuse(tenant, body, headers=headers) for body, _, _ in REFUSED]
    rows = (await rows_of(tenant, len(REFUSED)))[::-1]
    for (body, kind, workflow_id), problem, row in zip(REFUSED, told, rows, strict=True):
        assert (row["kind"], row["workflow_id"], row["source"], row["repeated"]) == (kind, workflow_id, "http", 1)
        assert (row["code"], row["reason"], row.get("field")) == (problem["code"], problem["detail"], problem.get("field"))
        assert row["body"] == "whole"
        whole = (await tenant.get(f"{PATH}/{row['quarantine_id']}")).json
        assert {name: whole[name] for name in row} == row
        if kind == "bad_json":
            assert base64.b64decode(whole["body_base64"]) == body
        else:
            assert whole["body_json"] == json.loads(body)
    metrics = (await tenant.get("/metrics")).body.decode()
    for _, kind, _ in REFUSED:
        assert f'judgify_quarantined_total{{kind="{kind}"}}' in metrics


async def test_keys_and_workflows_that_are_wrong_are_kept_too(tenant: Client, engine: Engine) -> None:
    assert engine.database is not None
    await tenant.judge(1, key="k")
    (await tenant.execute({"value": 2}, key="k")).problem(422, "idempotency_mismatch")
    (await tenant.execute({"value": 2}, key="a b")).problem(422, "invalid_field")
    await engine.database.do(
        "INSERT INTO workflows (tenant_id, workflow_id, version, definition) VALUES ($1, 'broken', 1, '{\"rules\": 5}')",
        tenant.tenant_id,
    )
    (await tenant.execute({"value": 2}, "broken")).problem(409, "workflow_broken")
    kinds = [row["kind"] for row in await rows_of(tenant, 3)]
    assert kinds == ["broken_workflow", "invalid_value", "key_reused"]


async def test_what_does_not_speak_of_the_input_is_not_kept(tenant: Client, engine: Engine) -> None:
    assert engine.database is not None
    async with new_tenant(engine.url, engine.database, "read", workflow=False) as reader:
        (await reader.call("POST", EXECUTE, data=BAD)).problem(403, "forbidden")
        (await reader.get("/api/v1/judgments?limit=0")).problem(422, "invalid_field")
        async with Client(engine.url, "jt_unknown") as nobody:
            (await nobody.call("POST", EXECUTE, data=BAD)).problem(401, "unauthorized")
        (await tenant.call("POST", EXECUTE, data=BAD, headers={"Content-Encoding": "gzip"})).problem(
            415, "unsupported_encoding"
        )
        (await tenant.call("PUT", "/api/v1/workflows/check", body={"rules": 5})).problem(422, "invalid_field")
        await refuse(tenant, BAD)  # what comes last is written last
        assert [row["kind"] for row in await rows_of(tenant, 1)] == ["wrong_type"]
        assert await rows_of(reader, 0) == []


async def test_a_long_body_is_cut(tenant: Client) -> None:
    body = b'{"workflow_id": "check", "input_data": "' + b"x" * 100_000 + b'"}'
    await refuse(tenant, body)
    (row,) = await rows_of(tenant, 1)
    assert (row["body"], row["workflow_id"]) == ("cut", "check")
    whole = (await tenant.get(f"{PATH}/{row['quarantine_id']}")).json
    assert base64.b64decode(whole["body_base64"]) == body[:BODY_BYTES]
    (await replay(tenant, row)).problem(409, "not_replayable")
    answer = await replay(tenant, row, {"workflow_id": "check", "input_data": {"value": 70}})
    assert answer.status == 200, answer.body


# Looking at it --------------------------------------------------------------------------------------------------------


async def test_filters_and_pages(tenant: Client) -> None:
    for number in range(6):
        await refuse(tenant, BAD if number % 2 else b'{"workflow_id": "other"}')
    newest_first = await rows_of(tenant, 6)

    async def ids(query: str) -> list[str]:
        answer = await tenant.get(f"{PATH}?{query}")
        assert answer.status == 200, answer.body
        return [item["quarantine_id"] for item in answer.json["items"]]

    every = [row["quarantine_id"] for row in newest_first]
    assert await ids("kind=wrong_type") == await ids("workflow_id=check") == every[::2]
    assert await ids("kind=missing_field&workflow_id=other") == every[1::2]
    assert await ids("kind=bad_json") == []
    middle = newest_first[2]["created_at"]
    assert await ids(f"created_from={middle}") == every[:3]
    assert await ids(f"created_to={middle}") == every[3:]
    await tenant.put_workflow("check")
    assert (await replay(tenant, newest_first[0], {"workflow_id": "check", "input_data": {"value": 1}})).status == 200
    assert await ids("replayed=true") == every[:1]
    assert await ids("replayed=false") == every[1:]
    paged: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await tenant.get(f"{PATH}?limit=2{f'&cursor={cursor}' if cursor else ''}")).json
        paged += [item["quarantine_id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert paged == every
    for query in ("kind=colour", "replayed=maybe", "limit=0", "cursor=abc", "colour=red", "created_from=soon"):
        (await tenant.get(f"{PATH}?{query}")).problem(422, "invalid_field")


async def test_tenants_and_scopes_are_kept_apart(tenant: Client, engine: Engine) -> None:
    assert engine.database is not None
    await refuse(tenant, BAD)
    (row,) = await rows_of(tenant, 1)
    path = f"{PATH}/{row['quarantine_id']}"
    async with new_tenant(engine.url, engine.database) as other:
        assert await rows_of(other, 0) == []
        (await other.get(path)).problem(404, "not_found")
        (await other.call("DELETE", path)).problem(404, "not_found")
        (await replay(other, row, {"workflow_id": "check", "input_data": {"value": 1}})).problem(404, "not_found")
        assert await judgments(engine, other) == 0
    async with Client(engine.url, await engine.database.token(tenant.tenant_id, "read", "execute")) as reader:
        assert (await reader.get(path)).status == 200
        (await reader.call("DELETE", path)).problem(403, "forbidden")
        (await replay(reader, row)).problem(403, "forbidden")
    async with Client(engine.url, await engine.database.token(tenant.tenant_id, "execute", "admin")) as writer:
        (await writer.get(PATH)).problem(403, "forbidden")
    assert (await tenant.call("DELETE", path)).status == 204
    (await tenant.call("DELETE", path)).problem(404, "not_found")
    (await tenant.get(f"{PATH}/{uuid.uuid4()}")).problem(404, "not_found")
    assert await rows_of(tenant, 0) == []


# Replay ---------------------------------------------------------------------------------------------------------------


async def test_replay_after_the_workflow_was_made(tenant: Client, engine: Engine) -> None:
    (await tenant.execute({"value": 99}, "later", context={"shift": "day"})).problem(404, "workflow_not_found")
    (row,) = await rows_of(tenant, 1)
    (await replay(tenant, row)).problem(404, "workflow_not_found")  # still
    assert (await rows_of(tenant, 1))[0].get("replayed_at") is None, "a replay that fails marks nothing"
    await tenant.put_workflow("later")
    answer = await replay(tenant, row)
    assert answer.status == 200, answer.body
    assert answer.json["final_result"] == {"verdict": "inspect"}
    record = (await tenant.get(f"/api/v1/judgments/{answer.json['judgment_id']}")).json
    assert (record["input_data"], record["context"]) == ({"value": 99}, {"shift": "day"})
    (marked,) = await rows_of(tenant, 1)
    assert marked["judgment_id"] == answer.json["judgment_id"]
    assert marked["replayed_at"]
    again = (await replay(tenant, row)).problem(409, "already_replayed")
    assert again["judgment_id"] == answer.json["judgment_id"]
    assert await judgments(engine, tenant) == 1


async def test_replay_of_a_corrected_body(tenant: Client, engine: Engine) -> None:
    await refuse(tenant, BAD)
    (row,) = await rows_of(tenant, 1)
    (await replay(tenant, row)).problem(422, "invalid_field")
    (await replay(tenant, row, {"workflow_id": "check", "input_data": 6})).problem(422, "invalid_field")
    answer = await replay(tenant, row, {"workflow_id": "check", "input_data": {"value": 5}})
    assert answer.status == 200, answer.body
    assert answer.json["final_result"] == {"verdict": "inspect"}
    (await replay(tenant, row, {"workflow_id": "check", "input_data": {"value": 6}})).problem(409, "already_replayed")
    assert await judgments(engine, tenant) == 1
    await refuse(tenant, b"")  # written with or after all that came before it
    assert [row["kind"] for row in await rows_of(tenant, 2)] == ["bad_json", "wrong_type"], "a replay that fails is no new row"


async def test_replays_at_once_are_one_judgment(tenant: Client, engine: Engine) -> None:
    await refuse(tenant, BAD)
    (row,) = await rows_of(tenant, 1)
    answers = await asyncio.gather(
        *(replay(tenant, row, {"workflow_id": "check", "input_data": {"value": number % 2}}) for number in range(40))
    )
    made = {answer.json["judgment_id"] for answer in answers}
    assert len(made) == 1, "all name the same judgment"
    assert {answer.status for answer in answers} <= {200, 409}
    assert any(answer.status == 200 for answer in answers)
    for answer in answers:
        if answer.status != 200:
            answer.problem(409, "already_replayed")
    assert await judgments(engine, tenant) == 1
    assert (await rows_of(tenant, 1))[0]["judgment_id"] in made


async def test_replay_that_was_cut_off_before_its_mark_is_found(tenant: Client, engine: Engine) -> None:
    """As after a crash between the judgment and the mark: a repeat gives the first answer, and so does upkeep's look."""
    assert engine.database is not None
    for _ in range(2):
        await refuse(tenant, b'{"workflow_id": "later", "input_data": {"value": 1}}')
    rows = await rows_of(tenant, 2)
    await tenant.put_workflow("later")
    first = [await replay(tenant, row) for row in rows]
    await engine.database.do(
        "UPDATE judgment_quarantine SET replayed_at = NULL, judgment_id = NULL WHERE tenant_id = $1", tenant.tenant_id
    )
    again = await replay(tenant, rows[0])
    assert (again.status, again.body, again.headers["Idempotent-Replayed"]) == (200, first[0].body, "true")
    other = await replay(tenant, rows[1], {"workflow_id": "later", "input_data": {"value": 2}})
    assert other.problem(409, "already_replayed")["judgment_id"] == first[1].json["judgment_id"]
    pools = Pools(engine.database.dsn, load(environ={}))
    await pools.open()
    try:
        await quarantine.tidy(pools, KeepConfig())
    finally:
        await pools.close()
    found = await rows_of(tenant, 2)
    assert [row["judgment_id"] for row in found] == [answer.json["judgment_id"] for answer in first]
    assert await judgments(engine, tenant) == 2


async def test_replay_survives_kill_9_before_its_mark(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(database)
    async with Client(engine.url, "test-token") as client:
        await refuse(client, BAD)
        (row,) = await rows_of(client, 1)
        blocker = await database.connect()
        transaction = blocker.transaction()
        await transaction.start()
        await blocker.execute("SELECT FROM judgment_quarantine FOR UPDATE")  # the mark has to wait
        corrected = {"workflow_id": WORKFLOW, "input_data": {"temperature": 70}}
        cut_off = asyncio.create_task(replay(client, row, corrected))
        await until(lambda: database.value("SELECT count(*) FROM judgment_executions"), "the judgment is made")
        engine.kill()
        with pytest.raises(aiohttp.ClientError):
            await cut_off
        await transaction.rollback()
        await blocker.close()
    made = await database.value("SELECT id::text FROM judgment_executions")
    engine.start()
    async with Client(engine.url, "test-token") as client:
        assert (await rows_of(client, 1))[0]["judgment_id"] == made, "it is found at the start"
        assert (await replay(client, row, corrected)).problem(409, "already_replayed")["judgment_id"] == made
        await database.do("UPDATE judgment_quarantine SET replayed_at = NULL, judgment_id = NULL")  # and if it were not
        again = await replay(client, row, corrected)
        assert (again.status, again.json["judgment_id"], again.headers["Idempotent-Replayed"]) == (200, made, "true")
        assert (await rows_of(client, 1))[0]["judgment_id"] == made
        assert await check_rollups(database) == 1
    assert engine.terminate() == 0


# A flood --------------------------------------------------------------------------------------------------------------


async def test_flood_is_counted_exactly_and_kept_in_part(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(database)
    sent = 5000
    async with Client(engine.url, "test-token", connections=50) as client:
        began_s = asyncio.get_running_loop().time()
        await asyncio.gather(*(refuse(client, b'{"workflow_id": "test-workflow-0", "input_data": 5}') for _ in range(sent)))
        took_s = asyncio.get_running_loop().time() - began_s
        good = await client.judge(70, WORKFLOW)

        async def counted() -> bool:
            return int(await database.value("SELECT coalesce(sum(repeated), 0) FROM judgment_quarantine")) >= sent

        await until(counted, "all are counted")
        rows = await rows_of(client, await database.value("SELECT count(*) FROM judgment_quarantine"))
        assert sum(row["repeated"] for row in rows) == sent
        assert len(rows) <= (TENANT_BODIES + 1) * (took_s + 3)
        counts = [row for row in rows if row["body"] == "none"]
        assert counts
        assert all((row["kind"], row["workflow_id"]) == ("wrong_type", WORKFLOW) for row in counts)
        (await replay(client, counts[0])).problem(409, "not_replayable")
        (await replay(client, counts[0], {"workflow_id": WORKFLOW, "input_data": {}})).problem(409, "not_replayable")
        assert (await client.get(f"/api/v1/judgments/{good['judgment_id']}")).status == 200
        assert await check_rollups(database) == 1, "changes of the quarantine pass through the log and count nowhere"
    assert engine.terminate() == 0


async def test_sigterm_writes_what_is_left(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(database, prelude="import judgify_engine.pipeline.quarantine_loop as q; q.WRITE_S = 1000.0")
    async with Client(engine.url, "test-token") as client:
        await asyncio.gather(*(refuse(client, BAD) for _ in range(500)))
        assert await database.value("SELECT count(*) FROM judgment_quarantine") == 0
        assert b"judgify_quarantine_buffer_rows 51.0" in (await client.get("/metrics")).body
    assert engine.terminate() == 0
    assert await database.value("SELECT sum(repeated) FROM judgment_quarantine") == 500
    assert await database.value("SELECT count(*) FROM judgment_quarantine WHERE body IS NOT NULL") == TENANT_BODIES


async def test_refusals_while_the_table_is_locked_do_not_wait(database: Database, start_engine: Callable[..., Engine]) -> None:
    """The answer never waits for the quarantine, good requests neither; and later all is there."""
    engine = start_engine(database)
    async with Client(engine.url, "test-token") as client:
        await client.judge(70, WORKFLOW)
        async with connected(database) as blocker, blocker.transaction():
            await blocker.execute("LOCK TABLE judgment_quarantine IN ACCESS EXCLUSIVE MODE")
            for _ in range(300):
                async with asyncio.timeout(10):  # the table is locked for longer
                    await refuse(client, BAD)
                    await client.judge(70, WORKFLOW)

        async def counted() -> bool:
            return int(await database.value("SELECT coalesce(sum(repeated), 0) FROM judgment_quarantine")) == 300

        await until(counted, "all are counted")
    assert engine.terminate() == 0


async def test_replay_of_what_postgres_refused(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(database)
    await database.do("ALTER TABLE judgment_executions ADD CONSTRAINT no_13 CHECK (input_data ->> 'n' <> '13')")
    async with Client(engine.url, "test-token") as client:
        request = {"occurred_at": "2026-01-31T12:00:00Z", "context": {"shift": "day"}}
        for key in (None, "k"):
            (await client.execute({"n": 13}, WORKFLOW, key=key, **request)).problem(422, "row_refused")
        rows = await rows_of(client, 2)
        for row in rows:
            assert (row["kind"], row["source"], row["code"]) == ("refused_by_database", "postgres", "row_refused")
            assert "no_13" in row["reason"]
        (await replay(client, rows[0])).problem(422, "row_refused")
        await database.do("ALTER TABLE judgment_executions DROP CONSTRAINT no_13")
        answer = await replay(client, rows[0])
        assert answer.status == 200, answer.body
        record = (await client.get(f"/api/v1/judgments/{answer.json['judgment_id']}")).json
        assert (record["input_data"], record["context"]) == ({"n": 13}, {"shift": "day"})
        assert record["occurred_at"].startswith("2026-01-31T12:00:00")
        await refuse(client, BAD)  # written with or after all that came before it
        assert (await rows_of(client, 3))[0]["kind"] == "wrong_type", "a replay that is refused is no new row"
    assert engine.terminate() == 0


# The table ------------------------------------------------------------------------------------------------------------


async def test_old_rows_and_surplus_rows_are_forgotten(database: Database, start_engine: Callable[..., Engine]) -> None:
    start_engine(database).terminate()
    await database.do(
        "INSERT INTO judgment_quarantine (id, tenant_id, kind, source, code, reason, created_at)"
        " SELECT judgify_uuid7_floor(at), tenant, 'bad_json', 'http', 'malformed_json', n::text, at"
        " FROM generate_series(1, 50) n, unnest('{a,b}'::text[]) WITH ORDINALITY t(tenant, o),"
        " LATERAL (SELECT now() - n * interval '1 day' + o * interval '1 hour' AS at) moment WHERE tenant = 'a' OR n <= 3"
    )
    pools = Pools(database.dsn, load(environ={}))
    await pools.open()
    try:
        await upkeep.once(pools, KeepConfig(quarantine_days=20, quarantine_rows=10))
    finally:
        await pools.close()
    left = await database.rows(
        "SELECT tenant_id, array_agg(reason::int ORDER BY id DESC) AS n FROM judgment_quarantine GROUP BY 1"
    )
    assert {row["tenant_id"]: row["n"] for row in left} == {"a": list(range(1, 11)), "b": [1, 2, 3]}


async def test_dead_letters_move_into_the_quarantine(database: Database, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(resources.folder("sql"), tmp_path / "sql"))
    later = folder / "0004_quarantine.sql"
    moved = Path(shutil.move(later, tmp_path / later.name))
    connection = await database.connect()
    try:
        await migrate(connection, folder)
        await connection.execute(
            "INSERT INTO judgment_dead_letters (tenant_id, workflow_id, input_data, context, sqlstate, reason) VALUES"
            " ('t', 'w', '{\"a\": 1.50}', '{}', '23514', 'why')"
        )
        shutil.move(moved, later)
        assert await migrate(connection, folder) == [later.name]
        (row,) = await connection.fetch("SELECT * FROM judgment_quarantine")
    finally:
        await connection.close()
    assert row["body"] == b'{"workflow_id":"w","input_data":{"a": 1.50},"context":{}}'
    assert (row["tenant_id"], row["workflow_id"], row["source"], row["reason"]) == (
        "t",
        "w",
        "postgres",
        "why (SQLSTATE 23514)",
    )
    assert row["kind"] in KINDS
    assert await database.value("SELECT to_regclass('judgment_dead_letters')") is None


async def test_rows_written_twice_are_there_once(database: Database, start_engine: Callable[..., Engine]) -> None:
    """As when the connection broke in the commit and the batch is sent again."""
    start_engine(database).terminate()
    rows = [
        Refused(
            id=bytes([number] * 16), tenant_id="t", workflow_id="w", kind="bad_json", source="http", code="malformed_json",
            field=None, reason="why", body=None, body_cut=False, created_at_us=1_700_000_000_000_001, repeated=number,
        )
        for number in (1, 2, 3)
    ]  # fmt: skip
    pools = Pools(database.dsn, load(environ={}))
    await pools.open()
    try:
        for batch in (rows[:2], rows, rows):
            await quarantine.QuarantineStore(pools).add(batch)
    finally:
        await pools.close()
    stored = await database.rows("SELECT repeated, created_at FROM judgment_quarantine ORDER BY id")
    assert [row["repeated"] for row in stored] == [1, 2, 3]
    assert {row["created_at"].isoformat() for row in stored} == {"2023-11-14T22:13:20.000001+00:00"}


async def test_the_log_tells_of_rows_without_their_bodies(database: Database, start_engine: Callable[..., Engine]) -> None:
    start_engine(database).terminate()
    columns = await database.value(
        "SELECT attnames::text[] FROM pg_publication_tables WHERE pubname = 'judgify_cdc' AND tablename = 'judgment_quarantine'"
    )
    assert {"tenant_id", "workflow_id", "kind", "repeated", "created_at"} <= set(columns)
    assert not {"body", "reason"} & set(columns)
