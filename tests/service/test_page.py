"""The page: who may see it, how one signs in and out, and what keeps others from using that."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from support.client import Answer, Client
from support.cluster import Database
from support.engine import Engine, run
from support.waiting import until

COOKIE = "judgify_session"


@pytest.fixture
async def visitor(engine: Engine) -> AsyncIterator[Client]:
    """A browser without a token; its cookies are kept by hand."""
    async with Client(engine.url, None) as client:
        client.session.cookie_jar.clear()
        yield client


def cookie_of(answer: Answer) -> dict[str, str]:
    """The session's cookie as a header, after a look at its attributes."""
    text = answer.headers["Set-Cookie"]
    attributes = {part.strip().lower() for part in text.split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= attributes, text
    assert any(part.startswith("max-age=") for part in attributes)
    return {"Cookie": text.split(";")[0]}


def check_security(answer: Answer) -> None:
    policy = answer.headers["Content-Security-Policy"]
    for part in ("default-src 'self'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert part in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"


async def test_one_time_code_signs_in_once(database: Database, start_engine: Callable[..., Engine]) -> None:
    engine = start_engine(database)
    async with Client(engine.url, None) as visitor:
        first = await visitor.get(f"/?code={engine.code}")
        assert first.status == 303
        assert first.headers["Location"] == "/"
        assert first.headers["Cache-Control"] == "no-store"
        check_security(first)
        cookie = cookie_of(first)
        visitor.session.cookie_jar.clear()
        second = await visitor.get(f"/?code={engine.code}")
        assert (second.status, second.headers["Location"]) == (303, "/login")
        assert "Set-Cookie" not in second.headers
        page = await visitor.call("GET", "/", headers=cookie)
        assert page.status == 200
        assert page.headers["Content-Type"].startswith("text/html")
        check_security(page)
        who = await visitor.call("GET", "/session", headers=cookie)
        assert who.json == {"tenant_id": "demo", "scopes": ["admin", "read"]}
        (await visitor.call("POST", "/api/v1/judgments/execute", headers=cookie, body={})).problem(401, "unauthorized")
        assert engine.code not in engine.log
        assert cookie["Cookie"].split("=")[1] not in engine.log
    assert engine.terminate() == 0


async def test_a_start_makes_earlier_codes_useless_and_keeps_sessions(
    database: Database, start_engine: Callable[..., Engine]
) -> None:
    engine = start_engine(database)
    async with Client(engine.url, None) as visitor:
        cookie = cookie_of(await visitor.call("POST", "/session", body={"token": "test-token"}))
    code = engine.code
    assert engine.terminate() == 0
    engine.start()
    assert engine.code != code
    async with Client(engine.url, None) as visitor:
        assert (await visitor.get(f"/?code={code}")).headers["Location"] == "/login"
        assert (await visitor.call("GET", "/", headers=cookie)).status == 200
    assert engine.terminate() == 0


async def test_head_does_not_use_the_code_up(database: Database, start_engine: Callable[..., Engine]) -> None:
    """Programs that show previews of links ask with HEAD first."""
    engine = start_engine(database)
    async with Client(engine.url, None) as visitor:
        await visitor.call("HEAD", f"/?code={engine.code}")
        assert (await visitor.get(f"/?code={engine.code}")).headers["Location"] == "/"
    assert engine.terminate() == 0


async def test_nobody_is_sent_to_the_form(visitor: Client) -> None:
    for path in ("/", "/?code=wrong", "/?code="):
        answer = await visitor.get(path)
        assert (answer.status, answer.headers["Location"]) == (303, "/login")
        assert "Set-Cookie" not in answer.headers
    for headers in ({"Cookie": f"{COOKIE}=wrong"}, {"Cookie": f"{COOKIE}="}, {"Cookie": f"{COOKIE}={'x' * 4000}"}):
        assert (await visitor.call("GET", "/", headers=headers)).status == 303
    form = await visitor.get("/login")
    assert form.status == 200
    check_security(form)
    assert 'action="/session"' in form.body.decode()
    (await visitor.get("/session")).problem(401, "unauthorized")


async def test_sign_in_and_out(visitor: Client, tenant: Client) -> None:
    signed_in = await visitor.call("POST", "/session", body={"token": f" {tenant.token}\n"}, headers={"Origin": visitor.url})
    assert signed_in.status == 204
    cookie = cookie_of(signed_in)
    assert tenant.token not in str(signed_in.headers)
    assert (await visitor.call("GET", "/", headers=cookie)).status == 200
    assert (await visitor.call("GET", "/session", headers=cookie)).json["tenant_id"] == tenant.tenant_id
    out = await visitor.call("DELETE", "/session", headers=cookie)
    assert out.status == 204
    assert re.search(rf'{COOKIE}=(""|;)', out.headers["Set-Cookie"])
    (await visitor.call("GET", "/session", headers=cookie)).problem(401, "unauthorized")


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b'{"token": "wrong"}', 401, "unauthorized"),
        (b'{"token": ""}', 401, "unauthorized"),
        (b"{}", 422, "invalid_field"),
        (b'{"token": 5}', 422, "invalid_field"),
        (b'{"token": "a", "b": 1}', 422, "invalid_field"),
        (b'{"token": "a\\u0000"}', 422, "unstorable_text"),
        (b"token=test-token", 400, "malformed_json"),
        (b"", 400, "malformed_json"),
        (b'{"token": "' + b"x" * 300_000 + b'"}', 413, "body_too_large"),
    ],
    ids=lambda value: value[:20] if isinstance(value, bytes) else None,
)
async def test_wrong_sign_in(visitor: Client, data: bytes, status: int, code: str) -> None:
    answer = await visitor.call("POST", "/session", data=data)
    answer.problem(status, code)
    assert "Set-Cookie" not in answer.headers


async def test_token_without_read_does_not_sign_in(engine: Engine, visitor: Client) -> None:
    token = await engine.database.token("someone", "execute")
    (await visitor.call("POST", "/session", body={"token": token})).problem(403, "forbidden")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1.evil.example"])
async def test_other_sites_cannot_sign_in_or_out(visitor: Client, tenant: Client, origin: str) -> None:
    (await visitor.call("POST", "/session", body={"token": tenant.token}, headers={"Origin": origin})).problem(403, "forbidden")
    cookie = cookie_of(await visitor.call("POST", "/session", body={"token": tenant.token}))
    (await visitor.call("DELETE", "/session", headers={**cookie, "Origin": origin})).problem(403, "forbidden")
    assert (await visitor.call("GET", "/session", headers=cookie)).status == 200


async def test_cookie_is_secure_behind_tls(visitor: Client, tenant: Client) -> None:
    answer = await visitor.call("POST", "/session", body={"token": tenant.token}, headers={"X-Forwarded-Proto": "https"})
    assert "secure" in {part.strip().lower() for part in answer.headers["Set-Cookie"].split(";")}


async def test_revoked_token_ends_its_sessions(engine: Engine, visitor: Client, tenant: Client) -> None:
    cookie = cookie_of(await visitor.call("POST", "/session", body={"token": tenant.token}))
    token_id = await engine.database.value("SELECT token_id FROM api_tokens WHERE tenant_id = $1", tenant.tenant_id)
    done = run("tokens", "revoke", token_id, settings={"JUDGIFY_DATABASE_URL": engine.database.dsn})
    assert done.returncode == 0, done.stderr

    async def signed_out() -> bool:
        return (await visitor.call("GET", "/session", headers=cookie)).status == 401

    await until(signed_out, "the session has ended", 6)


async def test_page_names_only_files_that_are_there(visitor: Client, tenant: Client) -> None:
    cookie = cookie_of(await visitor.call("POST", "/session", body={"token": tenant.token}))
    named: set[Any] = set()
    for path in ("/", "/login", "/docs"):
        page = await visitor.call("GET", path, headers=cookie)
        assert page.status == 200
        text = page.body.decode()
        assert not re.search(r'(src|href)="(https?:)?//', text), "everything comes from this server"
        assert not re.search(r"<script(?![^>]*\bsrc=)", text), "no script inside the page: the policy forbids it"
        named |= set(re.findall(r'(?:src|href)="(/assets/[^"]+)"', text))
    assert len(named) >= 5
    for path in named:
        asset = await visitor.get(path)
        assert asset.status == 200, path
        assert "immutable" in asset.headers["Cache-Control"]
        assert asset.headers["X-Content-Type-Options"] == "nosniff"
    (await visitor.get("/assets/nothing.js")).problem(404, "not_found")


async def test_signing_in_is_bounded_before_it_is_known_who_it_is(
    database: Database, start_engine: Callable[..., Engine]
) -> None:
    engine = start_engine(
        database, prelude="from judgify_engine.live import page; page.SIGN_IN_S = 0.5; page.SIGN_INS_AT_ONCE = 3"
    )
    async with Client(engine.url, None) as client:
        (await client.call("POST", "/session", data=b"x" * 5000)).problem(413, "body_too_large")
        head = b"POST /session HTTP/1.1\r\nHost: judgify\r\nContent-Length: 4000\r\n\r\n{"
        slow = [await asyncio.open_connection("127.0.0.1", engine.listening_port) for _ in range(3)]
        for _, writer in slow:
            writer.write(head)

        async def refused() -> bool:
            return (await client.call("POST", "/session", data=b"{}")).status == 503

        await until(refused, "no more than three at once")
        for reader, writer in slow:
            assert b"invalid_field" in await asyncio.wait_for(reader.readuntil(b"within"), 10)
            writer.close()
        (await client.call("POST", "/session", data=b"{}")).problem(422, "invalid_field")
    assert engine.terminate() == 0


async def test_the_cookie_reads_the_api_and_changes_only_what_the_page_changes(
    engine: Engine, visitor: Client, tenant: Client
) -> None:
    token = await engine.database.token(tenant.tenant_id, "execute", "read", "admin")
    cookie = cookie_of(await visitor.call("POST", "/session", body={"token": token}))
    who = await visitor.call("GET", "/session", headers=cookie)
    assert who.json["scopes"] == ["admin", "read"], "it never judges"
    assert (await visitor.call("GET", "/api/v1/judgments", headers=cookie)).status == 200
    dashboard = {"name": "Mine", "charts": []}
    assert (await visitor.call("PUT", "/api/v1/dashboards/mine", headers=cookie, body=dashboard)).status == 201
    (await visitor.call("POST", "/api/v1/judgments/execute", headers=cookie, body={})).problem(401, "unauthorized")
    (await visitor.call("PUT", "/api/v1/workflows/mine", headers=cookie, body={})).problem(401, "unauthorized")
    evil = {**cookie, "Origin": "http://evil.example"}
    (await visitor.call("DELETE", "/api/v1/dashboards/mine", headers=evil)).problem(403, "forbidden")
    wrong = {**cookie, "Authorization": "Bearer wrong"}
    (await visitor.call("GET", "/api/v1/dashboards/mine", headers=wrong)).problem(401, "unauthorized")
    assert (await visitor.call("GET", "/api/v1/dashboards/mine", headers=cookie)).json["definition"]["name"] == "Mine"


async def test_a_reader_changes_nothing(engine: Engine, visitor: Client, tenant: Client) -> None:
    token = await engine.database.token(tenant.tenant_id, "read")
    cookie = cookie_of(await visitor.call("POST", "/session", body={"token": token}))
    dashboard = {"name": "Mine", "charts": []}
    (await visitor.call("PUT", "/api/v1/dashboards/mine", headers=cookie, body=dashboard)).problem(403, "forbidden")
    assert (await visitor.call("GET", "/api/v1/dashboards/main", headers=cookie)).status == 200
    (await visitor.call("GET", "/api/v1/dashboards/main")).problem(401, "unauthorized")
