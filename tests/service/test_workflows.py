"""Workflows over HTTP and by plain SQL: versions count up whoever writes, and what is stored is live within a second."""

import asyncio
import json
import re
from typing import Any

import pytest
from support.client import CHECK, Client
from support.engine import Engine
from support.waiting import until


def always(verdict: str) -> dict[str, Any]:
    return {"default": {"result": {"verdict": verdict}}}


async def test_put_get_list_delete(tenant: Client) -> None:
    first = await tenant.put_workflow("w", always("a"))
    assert first.status == 201
    assert (first.json["workflow_id"], first.json["version"]) == ("w", 1)
    second = await tenant.put_workflow("w", always("b"))
    assert (second.status, second.json["version"]) == (200, 2)
    got = (await tenant.get("/api/v1/workflows/w")).json
    assert got == second.json
    assert got["definition"]["default"]["result"] == {"verdict": "b"}
    assert (await tenant.get("/api/v1/workflows/w?version=1")).json["definition"]["default"]["result"] == {"verdict": "a"}
    assert [item["workflow_id"] for item in (await tenant.get("/api/v1/workflows")).json["items"]] == ["check", "w"]
    gone = await tenant.call("DELETE", "/api/v1/workflows/w")
    assert (gone.status, gone.body) == (204, b"")
    (await tenant.get("/api/v1/workflows/w")).problem(404, "workflow_not_found")
    (await tenant.execute({}, "w")).problem(404, "workflow_not_found")
    (await tenant.call("DELETE", "/api/v1/workflows/w")).problem(404, "workflow_not_found")
    assert [item["workflow_id"] for item in (await tenant.get("/api/v1/workflows")).json["items"]] == ["check"]
    assert (await tenant.get("/api/v1/workflows/w?version=2")).status == 200, "the versions of a deleted workflow are kept"


async def test_workflows_are_found_by_a_part_of_their_ids(tenant: Client) -> None:
    for name in ("press-1", "Press-2", "oven_1", "oven.1"):
        await tenant.put_workflow(name)

    async def ids(query: str) -> list[str]:
        answer = await tenant.get(f"/api/v1/workflows?{query}")
        assert answer.status == 200, answer.body
        return sorted(item["workflow_id"] for item in answer.json["items"])

    assert await ids("contains=PRESS") == ["Press-2", "press-1"]
    assert await ids("contains=n_1") == ["oven_1"], "no pattern"
    assert await ids("contains=%25") == []
    assert len(await ids("contains=")) == 5
    first = (await tenant.get("/api/v1/workflows?contains=press&limit=1")).json
    rest = await ids(f"contains=press&limit=1&cursor={first['next_cursor']}")
    assert sorted([first["items"][0]["workflow_id"], *rest]) == ["Press-2", "press-1"]
    problem = (await tenant.get(f"/api/v1/workflows?contains={'x' * 129}")).problem(422, "invalid_field")
    assert (problem["field"], problem["limit"]) == ("contains", 128)


async def test_versions_go_on_after_a_delete(tenant: Client) -> None:
    for number in (1, 2):
        assert (await tenant.put_workflow("w", always(str(number)))).json["version"] == number
    await tenant.call("DELETE", "/api/v1/workflows/w")
    assert (await tenant.put_workflow("w", always("3"))).json["version"] == 3
    answer = await tenant.judge(1, "w")
    assert (answer["workflow_version"], answer["final_result"]["verdict"]) == (3, "3")


async def test_judgments_record_their_version_at_once(tenant: Client) -> None:
    for number in range(1, 8):
        await tenant.put_workflow("w", always(str(number)))
        answer = await tenant.judge(1, "w")
        assert (answer["workflow_version"], answer["final_result"]["verdict"]) == (number, str(number))


async def test_concurrent_puts_take_different_versions(tenant: Client) -> None:
    puts = await asyncio.gather(*(tenant.put_workflow("w", always(str(number))) for number in range(20)))
    assert sorted(put.json["version"] for put in puts) == list(range(1, 21))
    last = max(puts, key=lambda put: put.json["version"]).json
    assert (await tenant.get("/api/v1/workflows/w")).json["definition"] == last["definition"]
    answer = await tenant.judge(1, "w")
    assert answer["workflow_version"] == 20
    assert answer["final_result"] == last["definition"]["default"]["result"]


async def test_list_in_pages(tenant: Client) -> None:
    names = sorted(f"w{number:02}" for number in range(23))
    await asyncio.gather(*(tenant.put_workflow(name, always("x")) for name in names))
    seen, cursor = [], ""
    while cursor is not None:
        page = (await tenant.get(f"/api/v1/workflows?limit=5{f'&cursor={cursor}' if cursor else ''}")).json
        seen += [item["workflow_id"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert seen == ["check", *names]


@pytest.mark.parametrize(
    ("when", "line", "column"),
    [
        ("input.value <", 1, 14),
        ("input.value > 5 &&\n  colour == 3", 2, 3),
        ("frobnicate(input.value)", 1, 1),
        ("true &&\n\n   other.thing > 2", 3, 4),
    ],
)
async def test_bad_rule_is_refused_with_its_place(tenant: Client, when: str, line: int, column: int) -> None:
    definition = {**CHECK, "rules": [*CHECK["rules"], {"when": when, "result": {"verdict": "x"}}]}
    problem = (await tenant.put_workflow("w", definition)).problem(422, "invalid_workflow")
    assert (problem["rule"], problem["line"]) == (1, line)
    assert abs(problem["column"] - column) <= 1
    assert problem["reason"]
    assert problem["field"] == "rules[1].when"
    (await tenant.get("/api/v1/workflows/w")).problem(404, "workflow_not_found")


@pytest.mark.parametrize(
    "definition",
    [
        {},
        {"default": {}},
        {"default": {"result": "ok"}},
        {"default": {"result": {}, "confidence": 1.5}},
        {"default": {"result": {}}, "rules": [{"result": {}}]},
        {"default": {"result": {}}, "rules": [{"when": "", "result": {}}]},
        {"default": {"result": {}}, "colour": 1},
        {"default": {"result": {}}, "rules": [{"when": "true", "result": {}}] * 501},
        {"default": {"result": {"text": "a\0b"}}},
        {"default": {"result": {"number": 10**30}}},
    ],
    ids=str,
)
async def test_bad_definition_is_refused(tenant: Client, definition: dict[str, Any]) -> None:
    answer = await tenant.put_workflow("w", definition)
    assert answer.status == 422, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    (await tenant.get("/api/v1/workflows/w")).problem(404, "workflow_not_found")


async def test_change_by_plain_sql_is_live_within_a_second(tenant: Client, engine: Engine) -> None:
    """As someone would do it in psql: update, insert, delete, without telling the engine."""
    assert (await tenant.judge(70))["final_result"] == {"verdict": "ok"}
    who = tenant.tenant_id

    async def judged(workflow_id: str, verdict: str) -> bool:
        answer = await tenant.execute({"value": 70}, workflow_id)
        return answer.status == 200 and answer.json["final_result"].get("verdict") == verdict

    await engine.database.do(
        "UPDATE workflows SET definition = $2 WHERE tenant_id = $1 AND workflow_id = 'check'",
        who,
        json.dumps(always("by hand")),
    )
    await until(lambda: judged("check", "by hand"), "the update is live", 1.0)
    assert (await tenant.judge(70))["workflow_version"] == 2
    (await tenant.execute({}, "new")).problem(404, "workflow_not_found")
    await engine.database.do(
        "INSERT INTO workflows (tenant_id, workflow_id, version, definition) VALUES ($1, 'new', 0, $2)",
        who, json.dumps(always("new")),
    )  # fmt: skip
    await until(lambda: judged("new", "new"), "the new one is live", 1.0)
    await engine.database.do("DELETE FROM workflows WHERE tenant_id = $1 AND workflow_id = 'new'", who)

    async def gone() -> bool:
        return (await tenant.execute({}, "new")).status == 404

    await until(gone, "the deleted one is gone", 1.0)
    await engine.database.do(
        "INSERT INTO workflows (tenant_id, workflow_id, version, definition) VALUES ($1, 'new', 0, $2)",
        who, json.dumps(always("again")),
    )  # fmt: skip
    await until(lambda: judged("new", "again"), "the one made again is live", 1.0)
    assert (await tenant.judge(70, "new"))["workflow_version"] == 2


async def test_broken_definition_by_plain_sql_is_said_and_can_be_mended(tenant: Client, engine: Engine) -> None:
    await tenant.judge(70)
    broken = {"default": {"result": {}}, "rules": [{"when": "input. <<", "result": {}}]}
    await engine.database.do(
        "UPDATE workflows SET definition = $2 WHERE tenant_id = $1 AND workflow_id = 'check'",
        tenant.tenant_id,
        json.dumps(broken),
    )

    async def refused() -> bool:
        return (await tenant.execute({"value": 70})).status == 409

    await until(refused, "it cannot be used", 1.0)
    (await tenant.execute({"value": 70})).problem(409, "workflow_broken")
    assert (await tenant.put_workflow("check")).json["version"] == 3
    assert (await tenant.judge(70))["workflow_version"] == 3


async def test_rules_of_great_cost_are_bounded(tenant: Client) -> None:
    """A rule that someone wrote must not stop the others' requests."""
    when = "input.list.map(x, input.list.map(y, x * y)).size() > 0"
    assert (await tenant.put_workflow("costly", {"rules": [{"when": when, "result": {}}], **always("x")})).status == 201
    answer = await tenant.execute({"list": list(range(20_000))}, "costly")
    assert (answer.status, answer.json["status"]) == (200, "failed")
    assert re.search(r"at most \d+ values", answer.json["error"])


async def test_a_field_tracked_twice_is_refused_by_name(tenant: Client, engine: Engine) -> None:
    """One that is stored already, by an older version or by hand, goes on and counts once."""
    twice = {**always("a"), "track": ["heat", "value", "heat"]}
    problem = (await tenant.put_workflow("w", twice)).problem(422, "invalid_workflow")
    assert problem["field"] == "track[2]"
    assert problem["detail"] == "track[2]: 'heat' is tracked twice, it is track[0] already"
    assert engine.database is not None
    await engine.database.do(
        "INSERT INTO workflows (tenant_id, workflow_id, version, definition) VALUES ($1, 'w', 0, $2::jsonb)",
        tenant.tenant_id,
        json.dumps(twice),
    )
    assert (await tenant.judge(1, "w"))["status"] == "completed"
