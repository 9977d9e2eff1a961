"""The list of judgments: filters, and cursors that neither skip nor repeat while new rows come in."""

import asyncio
import base64
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from support.client import Client, new_tenant
from support.cluster import Database
from support.engine import Engine

from judgify_engine.store.judgments import ListFilter, Search

PATH = "/api/v1/judgments"
ODD = """
INSERT INTO judgment_executions (tenant_id, workflow_id, input_data, final_result, confidence_score, method_used,
                                 execution_time_ms, created_at)
SELECT $1, 'check', '{}', result::jsonb, 1, 'llm', 1, created::timestamptz
  FROM (VALUES ('{}', '2026-01-01Z'), ('{"verdict": 3}', '2026-01-02Z'), ('{"verdict": "ok"}', '2020-01-01Z'),
               (jsonb_build_object('verdict', repeat('x', 70))::text, '2026-01-03Z')) AS v(result, created)
"""
RESULTS = """
SELECT result, sum(total_executions)::int AS n FROM judgment_results_hourly WHERE tenant_id = $1 GROUP BY 1
"""


async def pages(client: Client, query: str, limit: int) -> list[list[dict[str, Any]]]:
    """All pages of a list, in their order."""
    found, cursor = [], ""
    while cursor is not None:
        answer = await client.get(f"{PATH}?limit={limit}{query}{f'&cursor={quote(cursor)}' if cursor else ''}")
        assert answer.status == 200, answer.body
        found.append(answer.json["items"])
        cursor = answer.json["next_cursor"]
        assert len(found) < 500
    return found


async def test_filters(tenant: Client) -> None:
    await tenant.put_workflow("other")
    made = [await tenant.judge(value, workflow) for workflow in ("check", "other") for value in (10, 70)]
    failed = (await tenant.execute({})).json
    newest_first = [answer["judgment_id"] for answer in [*made, failed]][::-1]

    async def ids(query: str) -> list[str]:
        answer = await tenant.get(f"{PATH}?{query}")
        assert answer.status == 200, answer.body
        assert answer.json["next_cursor"] is None
        return [item["judgment_id"] for item in answer.json["items"]]

    assert await ids("") == newest_first
    assert await ids("workflow_id=other") == [made[3]["judgment_id"], made[2]["judgment_id"]]
    assert await ids("status=failed") == [failed["judgment_id"]]
    assert await ids("status=completed&workflow_id=check") == [made[1]["judgment_id"], made[0]["judgment_id"]]
    assert await ids("method_used=llm") == []
    assert await ids("method_used=rule") == newest_first
    assert await ids("workflow_id=nothing") == []
    assert await ids("workflow_id=check,other") == newest_first
    assert await ids("workflow_id=nothing&workflow_id=other") == [made[3]["judgment_id"], made[2]["judgment_id"]]
    for bad in ("check,", ",".join(f"w{n}" for n in range(21))):
        assert (await tenant.get(f"{PATH}?workflow_id={bad}")).problem(422, "invalid_field")["field"] == "workflow_id"
    middle = made[2]["created_at"]
    assert await ids(f"created_from={middle}") == newest_first[:3]
    assert await ids(f"created_to={middle}") == newest_first[3:]
    assert await ids(f"created_from={quote(middle.replace('Z', '+00:00'))}&created_to={middle}") == []
    assert await ids("created_from=1900-01-01T00:00:00Z&created_to=2500-01-01T00:00:00Z") == newest_first


async def test_page_holds_whole_records(tenant: Client) -> None:
    answer = await tenant.judge(10, context={"shift": "day"})
    listed = (await tenant.get(PATH)).json["items"]
    assert listed == [(await tenant.get(f"{PATH}/{answer['judgment_id']}")).json]
    assert listed[0]["context"] == {"shift": "day"}


async def test_page_of_exactly_the_limit_is_the_last(tenant: Client) -> None:
    for _ in range(4):
        await tenant.judge()
    assert [len(page) for page in await pages(tenant, "", 2)] == [2, 2]
    assert [len(page) for page in await pages(tenant, "", 3)] == [3, 1]
    assert [len(page) for page in await pages(tenant, "&workflow_id=nothing", 3)] == [0]


async def test_no_gap_and_no_double_while_rows_come_in(tenant: Client) -> None:
    before = {(await answer)["judgment_id"] for answer in asyncio.as_completed([tenant.judge() for _ in range(300)])}
    stop = asyncio.Event()
    added: set[str] = set()

    async def add() -> None:
        while not stop.is_set():
            added.add((await tenant.judge())["judgment_id"])

    adders = [asyncio.create_task(add()) for _ in range(4)]
    try:
        for limit in (7, 50):
            items = [item for page in await pages(tenant, "", limit) for item in page]
            ids, times = [item["judgment_id"] for item in items], [item["created_at"] for item in items]
            assert len(ids) == len(set(ids)), "a row came twice"
            assert before <= set(ids), "a row was skipped"
            assert times == sorted(times, reverse=True)
    finally:
        stop.set()
        await asyncio.gather(*adders)
    everything = {item["judgment_id"] for page in await pages(tenant, "", 500) for item in page}
    assert everything == before | added


async def test_page_of_large_records_is_bounded_in_bytes(tenant: Client) -> None:
    made = [(await tenant.execute({"value": n, "text": "x" * 250_000})).json["judgment_id"] for n in range(80)]
    found = await pages(tenant, "", 500)
    assert [item["judgment_id"] for page in found for item in page] == made[::-1]
    assert all(sum(len(item["input_data"]["text"]) for item in page) < 9 * 1024 * 1024 for page in found)
    assert len(found) == 3


async def test_result_filter_gives_what_the_figures_count(tenant: Client, engine: Engine) -> None:
    """Also of rows that others wrote: without a verdict, with one that is no text, with a long one, with an older time."""
    ok, inspect = await tenant.judge(70), await tenant.judge(10)
    failed = (await tenant.execute({})).json
    await engine.database.do(ODD, tenant.tenant_id)

    async def ids(query: str) -> list[str]:
        return [item["judgment_id"] for page in await pages(tenant, f"&{query}", 50) for item in page]

    await engine.database.settle()
    counted = {row["result"]: row["n"] for row in await engine.database.rows(RESULTS, tenant.tenant_id)}
    assert counted == {"ok": 2, "inspect": 1, "failed": 1, "": 2, "x" * 64: 1}
    for result, count in counted.items():
        assert len(await ids(f"result={result}")) == count
    assert await ids("result=inspect") == [inspect["judgment_id"]]
    assert await ids("result=failed&status=failed") == [failed["judgment_id"]]
    assert (await ids("result=ok"))[0] == ok["judgment_id"]
    assert len(await ids("result=ok&created_to=2020-01-02T00:00:00Z")) == 1
    assert await ids("result=nothing") == []
    problem = (await tenant.get(f"{PATH}?result={'x' * 65}")).problem(422, "invalid_field")
    assert problem["field"] == "result"


async def test_what_is_rare_is_found_without_a_long_search(database: Database, start_engine: Callable[..., Engine]) -> None:
    """Each request looks through a slice only and says where to go on; all of them together skip and repeat nothing."""
    slices = "from judgify_engine.store import judgments; judgments.SLICE_ROWS, judgments.SEARCH_S = 7, 0.0"
    engine = start_engine(database, prelude=slices)
    async with new_tenant(engine.url, database) as client:
        made = [(await client.judge(10 if number in (3, 30) else 70))["judgment_id"] for number in range(40)]
        found = await pages(client, "&result=inspect", 50)
        assert [item["judgment_id"] for page in found for item in page] == [made[30], made[3]]
        assert len(found) == 6
        assert max(map(len, found)) == 1
        everything = [item["judgment_id"] for page in await pages(client, "&result=ok", 3) for item in page]
        assert everything == [id for id in made[::-1] if id not in (made[3], made[30])]


async def test_an_hour_is_found_by_its_index(tenant: Client, engine: Engine) -> None:
    """Nothing that came after it is read, nor anything sorted."""
    start_us = 1_577_836_800_000_000
    search = Search(tenant.tenant_id, ListFilter(created_from_us=start_us, created_to_us=start_us + 1, result="ok"), None, 51)
    connection = await engine.database.connect()
    try:
        await connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off")
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {search.sql}", *search.values))
    finally:
        await connection.close()
    scans = plan.count("Scan Backward using")
    assert scans == plan.count(" on judgment_executions_") > 1
    assert len(re.findall(r"Index Cond: .*tenant_id = .*created_at >= .*created_at < ", plan)) == scans
    assert not re.search(r"->  (Incremental )?Sort", plan)


async def test_cursor_of_something_else_is_refused(tenant: Client) -> None:
    for cursor in ("x", "AZ_Qn", "A" * 22, "é", "A" * 33):
        problem = (await tenant.get(f"{PATH}?cursor={quote(cursor)}")).problem(422, "invalid_field")
        assert problem["field"] == "cursor"
    far = base64.urlsafe_b64encode(b"\xff" * 24).decode()
    assert (await tenant.get(f"{PATH}?cursor={far}")).status == 200
