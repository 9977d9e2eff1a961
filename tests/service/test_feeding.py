"""`feed`: a file goes in over HTTP, and answers, table and rollup agree to the last row."""

import csv
import json
import re
from pathlib import Path

import pytest
from support.client import CHECK, Client
from support.engine import ROOT, Engine, run
from support.rollups import check_rollups

MACHINE = ROOT.parent / "shared" / "data" / "machine_temperature.csv"


async def counts(engine: Engine, client: Client, workflow_id: str) -> tuple[dict[str, int], dict[str, int]]:
    """Verdicts in the table and in the rollup."""
    await check_rollups(engine.database)
    table = await engine.database.rows(
        "SELECT final_result ->> 'verdict' AS verdict, count(*) AS n FROM judgment_executions"
        " WHERE tenant_id = $1 AND workflow_id = $2 GROUP BY 1", client.tenant_id, workflow_id,
    )  # fmt: skip
    rollup = await engine.database.rows(
        "SELECT result AS verdict, sum(total_executions)::int AS n FROM judgment_results_hourly"
        " WHERE tenant_id = $1 AND workflow_id = $2 GROUP BY 1", client.tenant_id, workflow_id,
    )  # fmt: skip
    return {row["verdict"]: row["n"] for row in table}, {row["verdict"]: row["n"] for row in rollup}


async def test_csv(tenant: Client, engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["timestamp", "value", "name"])
        for number in range(300):
            writer.writerow([f"2013-12-02 {number // 60:02}:{number % 60:02}:00", number % 120, f'a "quoted", ü {number}'])
    done = run("feed", path, "--url", tenant.url, "--token", tenant.token, "--workflow", "check")
    assert done.returncode == 0, done.stdout + done.stderr
    expected = {"inspect": sum(n % 120 < 50 or n % 120 > 95 for n in range(300))}
    expected["ok"] = 300 - expected["inspect"]
    assert await counts(engine, tenant, "check") == (expected, expected)
    for verdict, number in expected.items():
        assert re.search(rf"{verdict}\D+{number}\b", done.stdout), done.stdout
    row = (await engine.database.rows(
        "SELECT input_data::text AS input, occurred_at::text AS at FROM judgment_executions WHERE tenant_id = $1"
        " AND input_data ->> 'name' LIKE '% 61'", tenant.tenant_id,
    ))[0]  # fmt: skip
    assert json.loads(row["input"]) == {"value": 61, "name": 'a "quoted", ü 61'}
    assert row["at"].startswith("2013-12-02 01:01:00")
    assert tenant.token not in done.stdout + done.stderr


async def test_ndjson(tenant: Client, engine: Engine, tmp_path: Path) -> None:
    await tenant.put_workflow("other")
    path = tmp_path / "rows.ndjson"
    lines = [
        {"workflow_id": "other" if n % 4 == 0 else "check", "input_data": {"value": n}, "context": {"n": n}} for n in range(200)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run("feed", path, "--url", tenant.url, "--token", tenant.token)
    assert done.returncode == 0, done.stdout + done.stderr
    for workflow, numbers in (("other", range(0, 200, 4)), ("check", [n for n in range(200) if n % 4])):
        inspect = sum(n < 50 or n > 95 for n in numbers)
        expected = {"inspect": inspect, "ok": len(numbers) - inspect}
        assert await counts(engine, tenant, workflow) == (expected, expected)


async def test_bad_rows_are_named_and_the_others_stored(tenant: Client, engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "rows.ndjson"
    path.write_text(
        '{"workflow_id": "check", "input_data": {"value": 1}}\nnonsense\n{"workflow_id": "nothing", "input_data": {}}\n'
        '{"workflow_id": "check", "input_data": {"value": "\\u0000"}}\n{"workflow_id": "check", "input_data": {"value": 70}}\n'
    )
    done = run("feed", path, "--url", tenant.url, "--token", tenant.token)
    assert done.returncode == 1
    assert "workflow_not_found" in done.stdout
    assert "unstorable_text" in done.stdout
    assert await counts(engine, tenant, "check") == ({"inspect": 1, "ok": 1}, {"inspect": 1, "ok": 1})


def test_wrong_token_ends_the_run(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("value\n" + "1\n" * 1000)
    done = run("feed", path, "--url", engine.url, "--token", "wrong", "--workflow", "check")
    assert done.returncode == 1
    assert "401" in done.stdout


@pytest.mark.skipif(not MACHINE.exists(), reason="../shared/data/machine_temperature.csv is not beside the repository")
async def test_machine_temperature_in_full(tenant: Client, engine: Engine) -> None:
    await tenant.put_workflow("machine", CHECK)
    done = run("feed", MACHINE, "--url", tenant.url, "--token", tenant.token, "--workflow", "machine", within_s=110)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = {"inspect": 5581, "ok": 17114}
    assert await counts(engine, tenant, "machine") == (expected, expected)
    numbers = done.stdout.replace(",", "")
    for number in (22695, 5581, 17114):
        assert re.search(rf"\b{number}\b", numbers), done.stdout
