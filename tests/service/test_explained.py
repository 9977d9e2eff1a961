"""One judgment's whole record: its rules asked again, in the version that judged, and its actions."""

import uuid
from typing import Any

from support.client import CHECK, Client
from support.engine import Engine

PATH = "/api/v1/judgments"
THREE = {
    "rules": [
        {"name": "cold", "when": "input.value < 10.0", "result": {"verdict": "cold"}},
        {"when": "input.value > 90.0 && context.shift == 'day'", "result": {"verdict": "hot"}, "confidence": 0.8},
        {"when": "size(input) > 5", "result": {"verdict": "much"}},
    ],
    "default": {"result": {"verdict": "ok"}},
}
INSERT = """
INSERT INTO judgment_executions (id, tenant_id, workflow_id, workflow_version, input_data, final_result, confidence_score,
                                 method_used, execution_time_ms)
VALUES ($1, $2, 'check', $3, $4::text::jsonb, '{"verdict": "ok"}', 1, 'rule', 1)
"""


async def explained(client: Client, judgment_id: str) -> dict[str, Any]:
    answer = await client.get(f"{PATH}/{judgment_id}?explain=true")
    assert answer.status == 200, answer.body
    found: dict[str, Any] = answer.json
    plain = (await client.get(f"{PATH}/{judgment_id}")).json
    assert plain == {name: value for name, value in found.items() if name in plain}
    assert found.keys() - plain.keys() <= {"explained_from", "rules", "agrees", "actions"}
    return found


def asked(record: dict[str, Any]) -> list[tuple[bool, bool, bool | None]]:
    return [(rule["tried"], rule["matched"], rule.get("value")) for rule in record["rules"]]


async def test_rules_are_those_that_judged(tenant: Client) -> None:
    await tenant.put_workflow("three", THREE)
    cold, hot, ok = [await tenant.judge(value, "three", context={"shift": "day"}) for value in (5, 95, 50)]
    failed = (await tenant.execute({"value": "warm"}, workflow_id="three")).json
    await tenant.put_workflow("three", CHECK)
    record = await explained(tenant, cold["judgment_id"])
    assert (record["explained_from"], record["agrees"], record["actions"]) == ("version 1, evaluated again", True, [])
    assert [rule["when"] for rule in record["rules"]] == [rule["when"] for rule in THREE["rules"]]
    assert record["rules"][0]["name"] == "cold"
    assert asked(record) == [(True, True, True), (False, False, None), (False, False, None)]
    record = await explained(tenant, hot["judgment_id"])
    assert asked(record) == [(True, False, False), (True, True, True), (False, False, None)]
    assert record["rules"][1]["uses"] == ["input.value", "context.shift"]
    assert record["rules"][2]["uses"] == ["input"]
    assert record["rules"][1]["result"] == {"verdict": "hot"}
    record = await explained(tenant, ok["judgment_id"])
    assert asked(record) == [(True, False, False)] * 3
    assert record["agrees"] is True
    record = await explained(tenant, failed["judgment_id"])
    assert asked(record) == [(True, False, None), (False, False, None), (False, False, None)]
    assert record["rules"][0]["error"] == record["error"]
    assert record["agrees"] is True


async def test_it_says_where_the_rules_come_to_something_else_or_cannot_be_asked(tenant: Client, engine: Engine) -> None:
    async def insert(version: int, input_data: str) -> dict[str, Any]:
        judgment_id = uuid.uuid4()
        await engine.database.do(INSERT, judgment_id, tenant.tenant_id, version, input_data)
        return await explained(tenant, str(judgment_id))

    record = await insert(1, '{"value": 10}')
    assert (record["agrees"], asked(record)) == (False, [(True, True, True)])
    record = await insert(7, '{"value": 10}')
    assert (record.get("agrees"), record["rules"]) == (None, [])
    assert record["explained_from"].startswith("version 7 of this workflow was never stored")
    record = await insert(1, "[1, 2]")
    assert (record["rules"], record["explained_from"][:27]) == ([], "the input cannot be judged:")
    record = await insert(1, '{"a": ' + "[" * 70 + "]" * 70 + "}")
    assert "nested" in record["explained_from"]


async def test_another_tenants_record_is_not_found(tenant: Client, engine: Engine) -> None:
    made = await tenant.judge()
    async with Client(engine.url, await engine.database.token("somebody-else", "read")) as other:
        (await other.get(f"{PATH}/{made['judgment_id']}?explain=true")).problem(404, "not_found")
    (await tenant.get(f"{PATH}/{made['judgment_id']}?explain=maybe")).problem(422, "invalid_field")
