"""Refused requests are written soon, once, and to the last; and while they cannot be, they are bounded and not lost."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from builders import judgment, settle

from judgify_engine.core.quarantine import BODY_BYTES, MAX_BODIES, TENANT_BODIES, Refused
from judgify_engine.errors import (
    BodyTooLarge,
    DatabaseUnavailable,
    Forbidden,
    InvalidField,
    MalformedJson,
    Rejected,
    RowRefused,
    WorkflowNotFound,
)
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline import quarantine_loop
from judgify_engine.pipeline.quarantine_loop import Quarantine

BODY = b'{"workflow_id": "w", "input_data": {}}'


class Table:
    """Rows by id, as the table has them. `trouble`: what the next writes raise; `unseen`: after they were committed."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Refused] = {}
        self.trouble: Exception | None = None
        self.unseen = False
        self.calls = 0
        self.gate: asyncio.Event | None = None
        self._called = asyncio.Event()

    async def when(self, fact: Callable[[], bool]) -> None:
        """Wait until it is so; looked at after each write."""
        async with asyncio.timeout(10):
            while not fact():
                self._called.clear()
                await self._called.wait()

    async def add(self, rows: Sequence[Refused]) -> None:
        self.calls += 1
        self._called.set()  # who waits looks when this has ended, or stands at the gate
        if self.gate is not None:
            await self.gate.wait()
        if self.trouble is None or self.unseen:
            for row in rows:
                self.rows.setdefault(row.id, msgspec.structs.replace(row))
        if self.trouble is not None:
            raise self.trouble

    @property
    def requests(self) -> int:
        return sum(row.repeated for row in self.rows.values())


class Setting:
    """A quarantine that runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *feeders: "asyncio.Task[Any]") -> None:
        monkeypatch.setattr(quarantine_loop, "WRITE_S", 0.001)
        monkeypatch.setattr(quarantine_loop, "RETRY_S", 0.001)
        self.table, self.metrics, self.stop = Table(), Metrics(), asyncio.Event()
        self.quarantine = Quarantine(self.table, self.metrics)
        self.task = asyncio.create_task(self.quarantine.run(self.stop, feeders))

    async def written(self, requests: int) -> None:
        await self.table.when(lambda: self.table.requests >= requests)

    async def calls(self, more: int) -> None:
        wanted = self.table.calls + more
        await self.table.when(lambda: self.table.calls >= wanted)

    async def end(self) -> None:
        self.stop.set()
        await asyncio.wait_for(self.task, 10)


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return monkeypatch


async def test_a_refused_request_is_written_with_its_reason(patch: pytest.MonkeyPatch) -> None:
    s = Setting(patch)
    s.quarantine.refused("demo", BODY, InvalidField("x is wrong", kind="wrong_type", field="input_data.x"))
    await s.written(1)
    await s.end()
    (row,) = s.table.rows.values()
    assert (row.tenant_id, row.workflow_id, row.kind, row.source) == ("demo", "w", "wrong_type", "http")
    assert (row.code, row.field, row.reason, row.body) == ("invalid_field", "input_data.x", "x is wrong", BODY)
    assert (row.body_cut, row.repeated) == (False, 1)
    assert s.metrics.quarantined == {"wrong_type": 1}


@pytest.mark.parametrize(
    ("body", "workflow_id"),
    [
        (b'{"workflow_id": "w", "input_data": 5, "more": [1]}', "w"),
        (b'{"workflow_id": 5}', ""),
        (b'{"workflow_id": "a/b"}', ""),
        (b'{"workflow_id": "' + b"a" * 200 + b'"}', ""),
        (b'{"workflow_id": "a\\u0000"}', ""),
        (b"[]", ""),
        (b'{"workflow_id": "w"', ""),
        (b'{"workflow_id": "w", "x": ' + b"[" * 5000 + b"]" * 5000 + b"}", ""),
    ],
)
async def test_the_workflow_is_read_where_it_can_be(patch: pytest.MonkeyPatch, body: bytes, workflow_id: str) -> None:
    s = Setting(patch)
    s.quarantine.refused("demo", body, InvalidField("x"))
    await s.end()
    (row,) = s.table.rows.values()
    assert row.workflow_id == workflow_id


async def test_a_long_body_is_cut_and_says_so(patch: pytest.MonkeyPatch) -> None:
    s = Setting(patch)
    s.quarantine.refused("demo", b"x" * BODY_BYTES, MalformedJson("x"))
    s.quarantine.refused("demo", b"x" * (BODY_BYTES + 1), MalformedJson("x"))
    await s.end()
    assert [(len(row.body or b""), row.body_cut) for row in s.table.rows.values()] == [(BODY_BYTES, False), (BODY_BYTES, True)]


async def test_a_reason_that_postgres_cannot_store_is_written_otherwise(patch: pytest.MonkeyPatch) -> None:
    s = Setting(patch)
    s.quarantine.refused("demo", BODY, InvalidField("a\0b\ud800" + "x" * 5000, field="\0\udc00"))
    await s.end()
    (row,) = s.table.rows.values()
    assert row.reason.startswith("a\\0b\\ud800xxx")
    assert len(row.reason) < 1100
    assert row.field == "\\0\\udc00"


async def test_what_does_not_speak_of_the_input_is_not_kept(patch: pytest.MonkeyPatch) -> None:
    s = Setting(patch)
    not_input: list[Rejected] = [Forbidden("x"), BodyTooLarge("x"), RowRefused("told by the writer")]
    for error in not_input:
        s.quarantine.refused("demo", BODY, error)
    await s.end()
    assert (s.table.calls, s.metrics.quarantined) == (0, {})


async def test_a_row_that_postgres_refused_is_the_request_again(patch: pytest.MonkeyPatch) -> None:
    s = Setting(patch)
    refused = judgment(1, input_data=b'{"a": 1.50}', context=b'{"b":2}', occurred_at_us=1_700_000_000_000_000)
    s.quarantine.refused_by_postgres(refused, RowRefused("no"), "23514")
    s.quarantine.refused_by_postgres(
        judgment(2, idempotency_key="quarantine 1"), RowRefused("a replay's row is there"), "23514"
    )
    await s.end()
    (row,) = s.table.rows.values()
    assert (row.kind, row.source, row.reason) == ("refused_by_database", "postgres", "no (SQLSTATE 23514)")
    assert b'"input_data":{"a": 1.50},"context":{"b":2}' in (row.body or b"")
    assert msgspec.json.decode(row.body or b"")["occurred_at"] == "2023-11-14T22:13:20.000000Z"


async def test_a_flood_is_bounded_and_counted_exactly(patch: pytest.MonkeyPatch) -> None:
    s = Setting(patch)
    s.table.gate = asyncio.Event()  # nothing gets away
    s.quarantine.refused("demo", BODY, MalformedJson("x"))
    await s.calls(1)
    for number in range(50_000):
        s.quarantine.refused(f"t{number % 100}", BODY, WorkflowNotFound("x"))
    gauges = {name: value for name, _, _, value in s.quarantine.gauges()}
    assert gauges["judgify_quarantine_buffer_rows"] <= MAX_BODIES + 200
    assert gauges["judgify_quarantine_buffer_bytes"] <= (MAX_BODIES + 1) * len(BODY)
    s.table.gate.set()
    await s.written(50_001)
    await s.end()
    assert s.table.requests == sum(s.metrics.quarantined.values()) == 50_001
    bodies = sum(row.body is not None for row in s.table.rows.values())
    assert bodies <= MAX_BODIES + 1


@pytest.mark.parametrize("unseen", [False, True], ids=["not committed", "committed unseen"])
async def test_nothing_is_lost_or_doubled_while_postgres_is_away(
    patch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, unseen: bool
) -> None:
    s = Setting(patch)
    s.table.trouble, s.table.unseen = DatabaseUnavailable("away"), unseen
    for _ in range(1000):
        s.quarantine.refused("demo", BODY, MalformedJson("x"))
    await s.calls(3)
    for _ in range(1000):
        s.quarantine.refused("demo", BODY, MalformedJson("x"))
    await s.calls(3)
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 1, "an outage is told once"
    s.table.trouble = None
    await s.written(2000)
    await s.end()
    assert s.table.requests == 2000
    assert sum(row.body is not None for row in s.table.rows.values()) == 2 * TENANT_BODIES


async def test_the_stop_waits_for_who_may_still_have_something_refused(patch: pytest.MonkeyPatch) -> None:
    last = asyncio.Event()
    feeder = asyncio.create_task(last.wait())
    s = Setting(patch, feeder)
    s.stop.set()
    await settle()
    assert not s.task.done()
    s.quarantine.refused_by_postgres(judgment(1), RowRefused("no"), "23514")
    last.set()
    await asyncio.wait_for(s.task, 10)
    assert s.table.requests == 1


async def test_the_rest_is_written_when_another_part_fails(patch: pytest.MonkeyPatch) -> None:
    s = Setting(patch)
    patch.setattr(quarantine_loop, "WRITE_S", 1000.0)
    await settle()
    s.quarantine.refused("demo", BODY, MalformedJson("x"))
    s.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await s.task
    assert s.table.requests == 1


async def test_a_stop_without_postgres_ends_and_says_what_is_lost(
    patch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    patch.setattr(quarantine_loop, "LAST_S", 0.05)
    s = Setting(patch)
    s.table.trouble = DatabaseUnavailable("away")
    for _ in range(300):
        s.quarantine.refused("demo", BODY, MalformedJson("x"))
    await s.calls(1)
    s.quarantine.refused("demo", BODY, MalformedJson("x"))
    await s.end()
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert vars(record)["requests"] == 301
