"""The list of judgments: filters, and cursors that neither skip nor repeat while new rows come in."""

import asyncio
from typing import Any
from urllib.parse import quote

from support.client import Client

PATH = "/api/v1/judgments"


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
            ids = [item["judgment_id"] for page in await pages(tenant, "", limit) for item in page]
            assert len(ids) == len(set(ids)), "a row came twice"
            assert before <= set(ids), "a row was skipped"
            assert ids == sorted(ids, reverse=True)
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
