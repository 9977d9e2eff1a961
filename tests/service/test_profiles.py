"""What Prometheus and Grafana are given: rules that promtool takes, metrics and tables that are really there."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.client import Client
from support.engine import ROOT, Engine
from support.waiting import until

PROMETHEUS = ROOT / "profiles" / "prometheus"
GRAFANA = ROOT / "profiles" / "grafana"
PROMTOOL = shutil.which("promtool")
METRIC = re.compile(r"\b(?:judgify|process)_[a-z0-9_]+\b")
SOMETIMES = {"judgify_slot_safe_wal_bytes", "judgify_publish_lag_bytes"}
"""There where PostgreSQL has a `max_slot_wal_keep_size`, and while somebody wants the streams: looked for in the source."""


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not on PATH (Debian: the package prometheus)")
@pytest.mark.parametrize(
    "arguments", [("check", "rules", "alerts.yml"), ("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")]
)
def test_promtool_takes_it(arguments: tuple[str, ...]) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def panels() -> list[dict[str, Any]]:
    return [
        panel
        for path in sorted((GRAFANA / "dashboards").glob("*.json"))
        for panel in json.loads(path.read_text())["panels"]
        if panel["type"] != "row"
    ]


def queries(of: str) -> list[str]:
    """The queries of all panels to the data source of that type."""
    return [
        target["rawSql" if of == "postgres" else "expr"]
        for panel in panels()
        for target in panel["targets"]
        if target["datasource"]["type"] == of
    ]


def expressions(path: Path) -> list[str]:
    """What follows `expr:` in a file of rules, also folded over lines."""
    found = re.findall(r"^\s+expr: (?:>\n((?:\s{10,}.*\n)+)|(.*)\n)", path.read_text(), re.MULTILINE)
    return [folded or plain for folded, plain in found]


async def test_every_metric_is_one_that_the_engine_has(engine: Engine, tenant: Client) -> None:
    await tenant.judge(70)
    await tenant.execute({}, "no such workflow")
    texts = [*expressions(PROMETHEUS / "alerts.yml"), *queries("prometheus")]
    wanted = {name for text in texts for name in METRIC.findall(text)}
    assert len(wanted) > 15
    source = "".join(path.read_text() for path in (ROOT / "judgify_engine").rglob("*.py"))
    assert all(f'"{name}"' in source for name in SOMETIMES)
    there: set[str] = set()

    async def all_there() -> bool:
        there.update(re.findall(r"^([a-z0-9_]+)[ {]", (await tenant.get("/metrics")).body.decode(), re.MULTILINE))
        return wanted - SOMETIMES <= there

    try:
        await until(all_there, "all metrics are there", 60)
    except AssertionError:
        pytest.fail(f"no such metrics: {sorted(wanted - SOMETIMES - there)}")


async def test_every_query_runs_as_the_role_that_may_only_read(engine: Engine, tenant: Client) -> None:
    """The statements of role.sql make the role; it sees figures and can change nothing."""
    assert engine.database is not None
    await tenant.judge(70)
    await engine.database.settle()
    role = f"grafana_{engine.database.name}"
    statements = (GRAFANA / "role.sql").read_text().replace("judgify_grafana", role)
    statements = statements.replace("DATABASE judgify", f"DATABASE {engine.database.name}")
    connection = await engine.database.connect()
    try:
        await connection.execute(statements)
        await connection.execute(f"SET ROLE {role}")
        await connection.execute("SET default_transaction_read_only = off")
        found = 0
        for sql in queries("postgres"):
            rows = await connection.fetch(plain(sql, tenant.tenant_id), timeout=30)
            assert rows, sql
            found += 1
        assert found >= 3
        for forbidden in (
            "UPDATE judgment_metrics_hourly SET total_executions = 0",
            "SELECT token_hash FROM api_tokens",
            "SELECT input_data FROM judgment_executions",
        ):
            with pytest.raises(Exception, match="permission denied"):
                await connection.execute(forbidden)
    finally:
        await connection.execute("RESET ROLE")
        await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await connection.close()


def plain(sql: str, tenant_id: str) -> str:
    """Put in what Grafana puts in: its macros of time and the dashboard's variable."""
    sql = re.sub(r"\$__timeFilter\((.*?)\)", r"\1 > now() - interval '1 day'", sql)
    sql = sql.replace("${tenant:sqlstring}", f"'{tenant_id}'")
    assert "$" not in sql, sql
    return sql
