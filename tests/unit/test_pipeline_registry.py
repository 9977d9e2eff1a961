"""Workflows in memory: the current version, at once where changes are followed, soon where they are not, never an older one."""

import asyncio
from typing import Any, NamedTuple

import msgspec
import pytest
from builders import change, definition, settle

from judgify_engine.core.model import Change
from judgify_engine.core.rollup import Delta
from judgify_engine.core.rules import CompiledWorkflow
from judgify_engine.errors import DatabaseUnavailable, WorkflowBroken, WorkflowNotFound
from judgify_engine.pipeline import registry as module
from judgify_engine.pipeline.registry import WorkflowRegistry


class Stored(NamedTuple):
    version: int
    definition: str


def text(default: str) -> str:
    return msgspec.json.encode(definition(default=default)).decode()


class MemoryWorkflows:
    """The table. `gate`: look-ups wait for it."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Stored] = {}
        self.asked = 0
        self.gate: asyncio.Event | None = None
        self.trouble: Exception | None = None

    async def get(self, tenant_id: str, workflow_id: str, version: int | None = None) -> Stored | None:
        self.asked += 1
        found = self.rows.get((tenant_id, workflow_id))
        if self.gate is not None:
            await self.gate.wait()
        if self.trouble is not None:
            raise self.trouble
        return found


class Setting:
    """A registry over a table, and time that the test moves."""

    def __init__(self, *, follows: bool = True) -> None:
        self.table, self.follows = MemoryWorkflows(), follows
        self.registry = WorkflowRegistry(self.table, lambda: self.follows)

    def put(self, version: int, default: str = "", workflow_id: str = "w") -> None:
        self.table.rows["demo", workflow_id] = Stored(version, text(default or f"v{version}"))

    async def verdict(self, workflow_id: str = "w") -> str:
        found = (await self.registry.get("demo", workflow_id)).judge({}, {})
        return str(msgspec.json.decode(found.result)["verdict"])

    def hear(self, version: int | None, default: str = "", *, old: int | None = None, workflow_id: str = "w") -> None:
        """The change stream tells of a version, or of a deletion (None)."""

        def row(number: int) -> dict[str, Any]:
            return {
                "tenant_id": "demo",
                "workflow_id": workflow_id,
                "version": number,
                "definition": text(default or f"v{number}"),
            }

        before = None if old is None else row(old)
        after = None if version is None else row(version)
        self.registry.rolled_up(Delta(), [change(0, before, after, table="workflows")])


class Clock:
    """Stands in for the loop's time."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def time(self) -> float:
        return self.now_s


async def test_a_workflow_is_asked_for_once_and_then_remembered() -> None:
    s = Setting()
    s.put(1)
    assert s.registry.recall("demo", "w") is None
    assert await s.verdict() == "v1"
    assert await s.verdict() == "v1"
    assert s.registry.recall("demo", "w") is not None
    assert s.table.asked == 1


async def test_tenants_do_not_see_each_others_workflows() -> None:
    s = Setting()
    s.put(1)
    await s.verdict()
    assert s.registry.recall("other", "w") is None
    with pytest.raises(WorkflowNotFound):
        await s.registry.get("other", "w")


async def test_many_who_ask_at_once_ask_once() -> None:
    s = Setting()
    s.put(1)
    found = await asyncio.gather(*(s.verdict() for _ in range(20)))
    assert found == ["v1"] * 20
    assert s.table.asked == 1


async def test_what_does_not_exist_is_asked_for_each_time() -> None:
    s = Setting()
    for _ in range(2):
        with pytest.raises(WorkflowNotFound):
            await s.registry.get("demo", "w")
    s.put(1)
    assert await s.verdict() == "v1"


async def test_a_new_version_in_the_change_stream_is_used_at_once() -> None:
    s = Setting()
    s.put(1)
    await s.verdict()
    s.hear(2, old=1)
    assert await s.verdict() == "v2"
    assert s.table.asked == 1


async def test_an_older_version_in_the_change_stream_changes_nothing() -> None:
    s = Setting()
    s.put(3)
    await s.verdict()
    s.hear(2, old=1)
    s.hear(3, "redelivered")
    assert await s.verdict() == "v3"


async def test_a_deletion_in_the_change_stream_is_heard() -> None:
    s = Setting()
    s.put(1)
    await s.verdict()
    s.table.rows.clear()
    s.hear(None, old=1)
    with pytest.raises(WorkflowNotFound):
        await s.registry.get("demo", "w")


async def test_a_truncate_in_the_change_stream_forgets_all() -> None:
    s = Setting()
    s.put(1)
    await s.verdict()
    s.table.rows.clear()
    s.registry.rolled_up(Delta(), [change(0, None, None, table="workflows")])
    assert s.registry.recall("demo", "w") is None


async def test_a_change_of_one_workflow_leaves_the_others() -> None:
    s = Setting()
    s.put(1)
    s.put(1, "x1", "x")
    await s.verdict()
    await s.verdict("x")
    s.hear(2, old=1)
    assert (await s.verdict(), await s.verdict("x"), s.table.asked) == ("v2", "x1", 2)


async def test_a_change_without_its_old_row_breaks_nothing() -> None:
    s = Setting()
    s.registry.rolled_up(Delta(), [Change(change(0, None, None).position, 0, "workflows", {}, None)])


async def test_who_does_not_follow_the_stream_asks_again_when_it_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    s, clock = Setting(follows=False), Clock()
    monkeypatch.setattr(s.registry, "_loop", clock)
    s.put(1)
    assert await s.verdict() == "v1"
    s.put(2)
    clock.now_s += module.STALE_S / 2
    assert await s.verdict() == "v1"
    clock.now_s += module.STALE_S
    assert await s.verdict() == "v2"
    assert s.table.asked == 2
    assert module.STALE_S < 1.0  # live everywhere within a second


async def test_one_in_use_is_asked_for_before_it_is_stale_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    s, clock = Setting(follows=False), Clock()
    monkeypatch.setattr(s.registry, "_loop", clock)
    s.put(1)
    await s.verdict()
    s.put(2)
    s.table.gate = asyncio.Event()
    clock.now_s += module.STALE_S * 0.99
    for _ in range(20):
        assert s.registry.recall("demo", "w") is not None
        await settle()
    assert s.table.asked == 2, "together"
    clock.now_s += module.STALE_S * 0.02
    assert s.registry.recall("demo", "w") is None, "the answer is late, and it is stale now"
    s.table.gate.set()
    await settle()
    assert s.registry.recall("demo", "w") is not None
    assert await s.verdict() == "v2"
    assert s.table.asked == 2


async def test_one_that_cannot_be_asked_for_is_used_until_it_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    s, clock = Setting(follows=False), Clock()
    monkeypatch.setattr(s.registry, "_loop", clock)
    s.put(1)
    await s.verdict()
    s.table.trouble = DatabaseUnavailable("away")
    clock.now_s += module.STALE_S * 0.99
    assert s.registry.recall("demo", "w") is not None
    await settle()
    assert s.registry.recall("demo", "w") is not None
    clock.now_s += module.STALE_S * 0.02
    assert s.registry.recall("demo", "w") is None


async def test_who_follows_the_stream_never_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    s, clock = Setting(), Clock()
    monkeypatch.setattr(s.registry, "_loop", clock)
    s.put(1)
    await s.verdict()
    clock.now_s += 3600
    assert await s.verdict() == "v1"
    assert s.table.asked == 1
    s.follows = False  # another process has the slot now
    s.put(2)
    clock.now_s += module.STALE_S * 1.01
    assert await s.verdict() == "v2"


async def test_an_answer_that_a_change_overtook_is_asked_for_again() -> None:
    s = Setting()
    s.put(1)
    s.table.gate = asyncio.Event()
    asking = asyncio.create_task(s.verdict())
    await settle()
    s.put(2)
    s.hear(2, old=1)  # while the answer with version 1 is on its way
    s.table.gate.set()
    assert await asking == "v2"
    assert await s.verdict() == "v2"


@pytest.mark.parametrize("what", ["stored", "deleted", "forget"])
async def test_an_answer_that_our_own_change_overtook_is_asked_for_again(what: str) -> None:
    s = Setting()
    s.put(1)
    s.table.gate = asyncio.Event()
    asking = asyncio.create_task(s.verdict())
    await settle()
    s.put(2)
    if what == "stored":
        s.registry.stored(CompiledWorkflow("demo", "w", 2, definition(default="v2")))
    elif what == "deleted":
        s.registry.deleted("demo", "w")
    else:
        s.registry.forget()
    s.table.gate.set()
    assert await asking == "v2"
    assert await s.verdict() == "v2"


async def test_a_version_stored_here_is_used_at_once_and_never_an_older_one() -> None:
    s = Setting()
    s.registry.stored(CompiledWorkflow("demo", "w", 2, definition(default="v2")))
    s.registry.stored(CompiledWorkflow("demo", "w", 1, definition(default="v1")))
    assert await s.verdict() == "v2"
    s.hear(1, old=None)
    assert await s.verdict() == "v2"
    assert s.table.asked == 0


async def test_what_was_deleted_here_is_gone_at_once() -> None:
    s = Setting()
    s.put(1)
    await s.verdict()
    s.table.rows.clear()
    s.registry.deleted("demo", "w")
    with pytest.raises(WorkflowNotFound):
        await s.registry.get("demo", "w")


async def test_beginning_to_follow_asks_for_everything_again() -> None:
    s = Setting()
    s.put(1)
    await s.verdict()
    s.put(2)
    s.registry.forget()
    assert await s.verdict() == "v2"


@pytest.mark.parametrize(
    "stored",
    ["{}", "5", '{"default": {"result": {}}, "rules": [{"when": "1 +", "result": {}}]}', '{"default": {"result": {}}, "x": 1}'],
)
async def test_a_stored_definition_that_cannot_be_used_says_so(stored: str) -> None:
    s = Setting()
    s.table.rows["demo", "w"] = Stored(4, stored)
    for _ in range(2):
        with pytest.raises(WorkflowBroken, match="version 4") as caught:
            await s.registry.get("demo", "w")
        assert caught.value.status == 409
    s.put(5)
    s.hear(5, old=4)
    assert await s.verdict() == "v5"


async def test_a_stored_version_older_than_a_bound_is_judged_and_told_of(caplog: pytest.LogCaptureFixture) -> None:
    s = Setting()
    rules = '[{"when": "input.v == 1", "result": {}}, {"when": "input.s.matches(input.p)", "result": {}}]'
    s.table.rows["demo", "w"] = Stored(4, f'{{"default": {{"result": {{}}}}, "rules": {rules}}}')
    workflow = await s.registry.get("demo", "w")
    assert workflow.judge({"v": 1}, {}).rule_index == 0
    assert workflow.judge({"v": 2, "s": "a", "p": "a"}, {}).error is not None
    told = [record for record in caplog.records if "not asked" in record.message]
    assert len(told) == 1
    assert "rules[1]" in told[0].__dict__["reason"]


async def test_a_broken_version_in_the_stream_replaces_the_good_one() -> None:
    s = Setting()
    s.put(1)
    await s.verdict()
    s.table.rows["demo", "w"] = Stored(2, "{}")
    broken = {"tenant_id": "demo", "workflow_id": "w", "version": 2, "definition": "{}"}
    s.registry.rolled_up(Delta(), [change(0, None, broken, table="workflows")])
    with pytest.raises(WorkflowBroken):
        await s.registry.get("demo", "w")


async def test_a_database_that_is_away_is_said_and_not_remembered() -> None:
    s = Setting()
    s.put(1)
    s.table.trouble = DatabaseUnavailable("away")
    with pytest.raises(DatabaseUnavailable):
        await s.registry.get("demo", "w")
    s.table.trouble = None
    assert await s.verdict() == "v1"


async def test_one_who_stops_waiting_takes_nothing_from_the_others() -> None:
    s = Setting()
    s.put(1)
    s.table.gate = asyncio.Event()
    first, second = asyncio.create_task(s.verdict()), asyncio.create_task(s.verdict())
    await settle()
    first.cancel()
    await settle()
    s.table.gate.set()
    assert await second == "v1"
    assert s.table.asked == 1


async def test_it_remembers_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 3)
    s = Setting()
    for number in range(6):
        s.put(1, f"x{number}", f"w{number}")
        await s.verdict(f"w{number}")
    assert [s.registry.recall("demo", f"w{number}") is not None for number in range(6)] == [False] * 3 + [True] * 3
