"""Tokens: what they grant, how long that is remembered, and that neither memory nor look-ups grow without bound."""

import asyncio

import pytest
from builders import settle

from judgify_engine.core.quota import UNBOUNDED, Quota
from judgify_engine.errors import DatabaseUnavailable, Forbidden, Overloaded, Unauthorized
from judgify_engine.pipeline import access as module
from judgify_engine.pipeline.access import Access, Grant

ALL = Grant("demo", frozenset(["execute", "read", "admin"]), "t1")
READER = Grant("acme", frozenset(["read"]), "t2")


class MemoryTokens:
    """The tables of tokens and sessions. `gate`: look-ups wait for it."""

    def __init__(self) -> None:
        self.tokens: dict[str, Grant] = {"good": ALL, "reader": READER}
        self.sessions: dict[str, Grant] = {"cookie": READER}
        self.asked: list[str] = []
        self.gate: asyncio.Event | None = None
        self.at_once = self.most_at_once = 0
        self.trouble: Exception | None = None
        self.quotas: dict[str, Quota] = {}

    async def _find(self, table: dict[str, Grant], secret: str) -> Grant | None:
        self.asked.append(secret)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.trouble is not None:
                raise self.trouble
            return table.get(secret)
        finally:
            self.at_once -= 1

    async def find(self, secret: str) -> Grant | None:
        return await self._find(self.tokens, secret)

    async def find_session(self, secret: str) -> Grant | None:
        return await self._find(self.sessions, secret)

    async def quota_of(self, tenant_id: str) -> Quota:
        if self.trouble is not None:
            raise self.trouble
        return self.quotas.get(tenant_id, UNBOUNDED)


class Clock:
    """Stands in for the loop's time."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def time(self) -> float:
        return self.now_s


class Setting:
    """Access over tables in memory, at a time that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch | None = None) -> None:
        self.tokens, self.clock = MemoryTokens(), Clock()
        self.access = Access(self.tokens, {"test-token": ALL})
        if monkeypatch is not None:
            monkeypatch.setattr(self.access, "_loop", self.clock)


async def test_a_token_names_its_tenant() -> None:
    s = Setting()
    assert await s.access.check("Bearer good", "execute") == ALL
    assert await s.access.check("Bearer reader", "read") == READER


async def test_the_profiles_token_needs_no_table() -> None:
    s = Setting()
    assert await s.access.check("Bearer test-token", "admin") == ALL
    assert s.access.recall("Bearer test-token", "execute") == ALL
    assert s.tokens.asked == []


async def test_the_profiles_token_has_its_tenants_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    s = Setting(monkeypatch)
    assert (await s.access.check("Bearer test-token", "read")).quota == UNBOUNDED
    s.tokens.quotas[ALL.tenant_id] = Quota(5.0)
    s.clock.now_s += module.FRESH_S + 0.001
    assert (await s.access.check("Bearer test-token", "read")).quota == Quota(5.0)
    s.tokens.trouble = DatabaseUnavailable("away")
    s.clock.now_s += module.FRESH_S + 0.001
    assert await s.access.check("Bearer test-token", "read") == ALL


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer", "Bearer "])
async def test_the_scheme_is_read_in_any_case(scheme: str) -> None:
    assert await Setting().access.check(f"{scheme} good", "read") == ALL


@pytest.mark.parametrize(
    "header", [None, "", "good", "Basic good", "Bearer", "Bearer ", "Bearer  ", "Bearergood", "Bearer unknown", "Bearer good x"]
)
async def test_without_a_valid_token_it_is_401(header: str | None) -> None:
    s = Setting()
    with pytest.raises(Unauthorized):
        await s.access.check(header, "read")
    assert s.access.recall(header, "read") is None


async def test_a_token_longer_than_any_is_not_even_asked_for() -> None:
    s = Setting()
    with pytest.raises(Unauthorized):
        await s.access.check("Bearer " + "x" * 513, "read")
    assert s.tokens.asked == []


async def test_without_the_scope_it_is_403_and_says_which() -> None:
    s = Setting()
    for _ in range(2):
        with pytest.raises(Forbidden) as caught:
            await s.access.check("Bearer reader", "execute")
        assert caught.value.extra["scope"] == "execute"
        assert "read" in caught.value.detail
        with pytest.raises(Forbidden):
            s.access.recall("Bearer reader", "execute")


async def test_a_grant_is_remembered_while_it_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    s = Setting(monkeypatch)
    assert s.access.recall("Bearer good", "read") is None
    await s.access.check("Bearer good", "read")
    s.clock.now_s += module.FRESH_S
    assert s.access.recall("Bearer good", "read") == ALL
    assert await s.access.check("Bearer good", "read") == ALL
    assert s.tokens.asked == ["good"]


async def test_a_revoked_token_is_refused_within_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    s = Setting(monkeypatch)
    await s.access.check("Bearer good", "read")
    s.tokens.tokens.clear()
    s.clock.now_s += module.FRESH_S + 0.001
    assert module.FRESH_S <= 5.0
    assert s.access.recall("Bearer good", "read") is None
    with pytest.raises(Unauthorized):
        await s.access.check("Bearer good", "read")


async def test_using_a_token_does_not_make_it_fresh_again(monkeypatch: pytest.MonkeyPatch) -> None:
    s = Setting(monkeypatch)
    await s.access.check("Bearer good", "read")
    for _ in range(10):
        s.clock.now_s += module.FRESH_S / 5
        await s.access.check("Bearer good", "read")
    assert len(s.tokens.asked) == 2


async def test_an_unknown_token_is_remembered_as_unknown_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    s = Setting(monkeypatch)
    for _ in range(3):
        with pytest.raises(Unauthorized):
            await s.access.check("Bearer new", "read")
    assert s.tokens.asked == ["new"]
    s.tokens.tokens["new"] = ALL
    s.clock.now_s += module.FRESH_S + 0.001
    assert await s.access.check("Bearer new", "read") == ALL


async def test_a_database_that_is_away_is_not_remembered_as_unknown() -> None:
    s = Setting()
    s.tokens.trouble = DatabaseUnavailable("away")
    with pytest.raises(DatabaseUnavailable):
        await s.access.check("Bearer good", "read")
    s.tokens.trouble = None
    assert await s.access.check("Bearer good", "read") == ALL


async def test_a_session_is_found_by_its_cookie_and_forgotten_when_closed() -> None:
    s = Setting()
    assert await s.access.check_session("cookie", "read") == READER
    s.tokens.sessions.clear()
    assert await s.access.check_session("cookie", "read") == READER
    s.access.forget_session("cookie")
    with pytest.raises(Unauthorized):
        await s.access.check_session("cookie", "read")


async def test_a_token_is_no_session_and_a_session_no_token() -> None:
    s = Setting()
    with pytest.raises(Unauthorized):
        await s.access.check_session("good", "read")
    with pytest.raises(Unauthorized):
        await s.access.check("Bearer cookie", "read")


async def test_a_remembered_session_cannot_be_used_as_a_token() -> None:
    s = Setting()
    await s.access.check_session("cookie", "read")
    assert s.access.recall("Bearer session cookie", "read") is None
    with pytest.raises(Unauthorized):
        await s.access.check("Bearer session cookie", "read")


async def test_an_unknown_token_does_not_close_a_session() -> None:
    s = Setting()
    with pytest.raises(Unauthorized):
        await s.access.check("Bearer session cookie", "read")
    assert await s.access.check_session("cookie", "read") == READER


@pytest.mark.parametrize("session", [False, True], ids=["tokens", "sessions"])
async def test_it_remembers_a_bounded_number(monkeypatch: pytest.MonkeyPatch, session: bool) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 3)
    s = Setting(monkeypatch)
    check = s.access.check_session if session else s.access.check_token
    for name in ("a", "b", "c", "d", "e", "e", "d", "c", "a"):
        with pytest.raises(Unauthorized):
            await check(name, "read")
    assert s.tokens.asked == ["a", "b", "c", "d", "e", "a"]  # the three newest were known, the oldest no more


async def test_few_look_ups_run_at_once_and_a_flood_is_refused() -> None:
    s = Setting()
    s.tokens.gate = asyncio.Event()
    flood = [asyncio.create_task(s.access.check(f"Bearer wrong-{i}", "read")) for i in range(module.LOOKUPS_WAITING)]
    await settle()
    with pytest.raises(Overloaded):
        await s.access.check("Bearer good", "read")
    assert await s.access.check("Bearer test-token", "read") == ALL
    s.tokens.gate.set()
    outcomes = await asyncio.gather(*flood, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Unauthorized}
    assert s.tokens.most_at_once == module.LOOKUPS_AT_ONCE
    assert await s.access.check("Bearer good", "read") == ALL
