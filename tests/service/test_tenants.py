"""Who may do what: tokens, scopes, and tenants that cannot see each other."""

import time
from typing import Any

import pytest
from support.client import EXECUTE, Client, new_tenant
from support.engine import Engine, run
from support.waiting import until

from judgify_engine.store.tokens import hash_of

JUDGMENT = {"workflow_id": "check", "input_data": {"value": 1}}
CALLS = [
    ("POST", EXECUTE, JUDGMENT, "execute"),
    ("GET", "/api/v1/judgments", None, "read"),
    ("GET", "/api/v1/judgments/00000000-0000-0000-0000-000000000000", None, "read"),
    ("GET", "/api/v1/workflows", None, "read"),
    ("GET", "/api/v1/workflows/check", None, "read"),
    ("PUT", "/api/v1/workflows/new", {"default": {"result": {}}}, "admin"),
    ("DELETE", "/api/v1/workflows/nothing", None, "admin"),
    ("GET", "/ws/dashboards/main", None, "read"),
]


@pytest.mark.parametrize(("method", "path", "body", "scope"), CALLS)
async def test_wrong_and_missing_token(tenant: Client, method: str, path: str, body: Any, scope: str) -> None:
    for header in (
        None,
        "Bearer nonsense",
        "Bearer ",
        "bearer",
        "Basic dXNlcjpwYXNz",
        f"Token {tenant.token}",
        "Bearer " + "x" * 5000,
    ):
        async with Client(tenant.url, None) as nobody:
            answer = await nobody.call(method, path, body=body, headers={} if header is None else {"Authorization": header})
        answer.problem(401, "unauthorized")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        if tenant.token in (header or ""):
            assert tenant.token not in answer.body.decode()


@pytest.mark.parametrize(("method", "path", "body", "scope"), CALLS)
async def test_scope_is_needed_and_enough(
    engine: Engine, tenant: Client, method: str, path: str, body: Any, scope: str
) -> None:
    others = [name for name in ("execute", "read", "admin") if name != scope]
    async with Client(engine.url, await engine.database.token(tenant.tenant_id, *others)) as lacking:
        problem = (await lacking.call(method, path, body=body)).problem(403, "forbidden")
        assert problem["scope"] == scope
    async with Client(engine.url, await engine.database.token(tenant.tenant_id, scope)) as having:
        assert (await having.call(method, path, body=body)).status in (200, 201, 204, 404, 422)


async def test_tenants_do_not_see_each_other(engine: Engine, tenant: Client) -> None:
    await tenant.put_workflow("mine")
    mine = await tenant.judge(70, "mine")
    async with new_tenant(engine.url, engine.database) as other:
        (await other.get(f"/api/v1/judgments/{mine['judgment_id']}")).problem(404, "not_found")
        (await other.get("/api/v1/workflows/mine")).problem(404, "workflow_not_found")
        (await other.get("/api/v1/workflows/mine?version=1")).problem(404, "workflow_not_found")
        (await other.execute({"value": 1}, "mine")).problem(404, "workflow_not_found")
        (await other.call("DELETE", "/api/v1/workflows/mine")).problem(404, "workflow_not_found")
        assert (await other.get("/api/v1/judgments")).json == {"items": [], "next_cursor": None}
        assert [item["workflow_id"] for item in (await other.get("/api/v1/workflows")).json["items"]] == ["check"]
        assert (await other.put_workflow("mine")).json["version"] == 1
        # The same key of two tenants is two keys.
        first = await tenant.execute({"value": 1}, key="same")
        second = await other.execute({"value": 2}, key="same")
        assert (first.status, second.status) == (200, 200)
        assert first.json["judgment_id"] != second.json["judgment_id"]
        assert "Idempotent-Replayed" not in second.headers


async def test_strange_tenant_names_stay_apart(engine: Engine) -> None:
    """Names that a careless key or query would mix up."""
    names = ["a", "a b", "a'; DROP TABLE workflows; --", "ä", "A", "a%", "a_", "a\nb"]
    for name in names:
        async with Client(engine.url, await engine.database.token(name), name) as client:
            await client.put_workflow("w", {"default": {"result": {"verdict": name}}})
    for name in names:
        async with Client(engine.url, await engine.database.token(name), name) as client:
            assert (await client.judge(1, "w"))["final_result"]["verdict"] == name
            assert len((await client.get("/api/v1/judgments")).json["items"]) == 1


def tokens(engine: Engine, *arguments: str) -> Any:
    return run("tokens", *arguments, settings={"JUDGIFY_DATABASE_URL": engine.database.dsn})


async def test_tokens_command_creates_lists_and_revokes(engine: Engine, tenant: Client) -> None:
    made = tokens(engine, "create", "--tenant", tenant.tenant_id, "--name", "line 4", "--scope", "execute", "--scope", "read")
    assert made.returncode == 0, made.stderr
    token = made.stdout.strip()
    assert token.startswith("jt_")
    assert len(token) > 40
    token_id = made.stderr.split()[1]
    stored = await engine.database.rows("SELECT * FROM api_tokens WHERE token_id = $1", token_id)
    assert token not in str(dict(stored[0])), "only the hash is kept"
    async with Client(engine.url, token) as client:
        await client.judge(70)
        (await client.put_workflow("w")).problem(403, "forbidden")
        listed = tokens(engine, "list")
        line = next(line for line in listed.stdout.splitlines() if line.startswith(token_id))
        assert all(part in line for part in ("active", tenant.tenant_id, "execute,read", "line 4"))
        assert token not in listed.stdout
        revoked = tokens(engine, "revoke", token_id)
        assert revoked.returncode == 0, revoked.stderr
        began_s = time.monotonic()

        async def refused() -> bool:
            return (await client.execute({"value": 70})).status == 401

        await until(refused, "the revoked token is refused", 6.0)
        assert time.monotonic() - began_s < 6.0
        (await client.execute({"value": 70})).problem(401, "unauthorized")
    again = tokens(engine, "revoke", token_id)
    assert again.returncode == 1
    assert token_id in again.stderr
    assert "revoked" in next(line for line in tokens(engine, "list").stdout.splitlines() if line.startswith(token_id))


async def test_expired_token_is_refused(engine: Engine, tenant: Client) -> None:
    token = await engine.database.token(tenant.tenant_id)
    await engine.database.do(
        "UPDATE api_tokens SET expires_at = now() - interval '1 second' WHERE token_hash = $1", hash_of(token)
    )
    async with Client(engine.url, token) as client:
        (await client.execute({"value": 1})).problem(401, "unauthorized")


def test_tokens_command_refuses_nonsense(engine: Engine) -> None:
    for arguments in (
        ("create", "--tenant", ""),
        ("create", "--tenant", "a\nb"),
        ("create", "--tenant", "t", "--expires-days", "0"),
    ):
        assert tokens(engine, *arguments).returncode == 2
    assert run("tokens", "create", "--tenant", "t", "--scope", "everything").returncode == 2


async def test_test_token_is_unknown_without_its_profile(engine: Engine, start_engine: Any) -> None:
    """Only the embedded profile knows it: here the standard one, on the same database."""
    standard = start_engine(engine.database, profile="standard")
    assert standard.code == ""
    async with Client(standard.url, "test-token") as client:
        (await client.execute({"value": 1}, "test-workflow-0")).problem(401, "unauthorized")
    assert standard.terminate() == 0
