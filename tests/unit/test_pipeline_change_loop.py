"""From the log to the rollup: nothing is confirmed before it is applied, nothing counted twice, wherever it stops."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import builders as b
import pytest

from judgify_engine.config import ChangeConfig
from judgify_engine.core.model import Change
from judgify_engine.core.rollup import Delta
from judgify_engine.core.tracking import Tracking
from judgify_engine.errors import Corrupt, DatabaseUnavailable
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.change_loop import MARK_BYTES, ChangeLoop
from judgify_engine.units import START, Position

AT_ONCE = ChangeConfig(flush_interval_s=0.000_001)


class EndOfLog(Exception):
    """There is nothing more to read in this test."""


class MemoryLog:
    """A server's log: messages, and where nothing is there right now, None."""

    def __init__(self, messages: Sequence[bytes | None], store: "MemoryStore") -> None:
        self._messages, self._store = list(messages), store
        self.wal_end = 0
        self.confirmed: list[tuple[int, Position]] = []
        """Each confirmed LSN, and the position stored at that moment."""
        self.marks = 0

    def read(self) -> bytes | None:
        return self._messages.pop(0) if self._messages else None

    async def readable(self, timeout_s: float, after_s: float = 0.0) -> None:
        if not self._messages:
            raise EndOfLog

    def confirm(self, lsn: int) -> None:
        self.confirmed.append((lsn, self._store.position))

    async def mark(self) -> None:
        self.marks += 1


class MemoryStore:
    """Rollup tables and their position. `trouble`: at which apply (from 0) to fail, and whether before or after the commit."""

    def __init__(self, position: Position = START) -> None:
        self.position = position
        self.deltas: list[Delta] = []
        self.totals: Counter[tuple[str, str]] = Counter()
        self.trouble: dict[int, str] = {}
        self._calls = 0

    async def apply(self, delta: Delta) -> None:
        call, self._calls = self._calls, self._calls + 1
        if self.trouble.get(call) == "before":
            raise DatabaseUnavailable("away")
        assert delta.base == self.position, "a delta must follow on the stored position"
        assert delta.position > delta.base
        if delta.truncated:
            self.totals.clear()
        for (tenant, _, _, result), count in delta.results.items():
            self.totals[tenant, result] += count
        self.position = delta.position
        self.deltas.append(delta)
        if self.trouble.get(call) == "after":
            raise DatabaseUnavailable("committed, but nobody heard")

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        return {key: count for key, count in self.totals.items() if count}


class Follower:
    """A sink that remembers what it was told, and what was stored then."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.told: list[tuple[Delta, list[Change], Position]] = []

    def rolled_up(self, delta: Delta, workflows: Sequence[Change]) -> None:
        self.told.append((delta, list(workflows), self.store.position))


async def follow(
    messages: Sequence[bytes | None],
    store: MemoryStore,
    *,
    max_rows: int = 20_000,
    config: ChangeConfig | None = None,
    metrics: Metrics | None = None,
    wal_end: int = 0,
) -> tuple[MemoryLog, Follower]:
    """Run a loop from the stored position to the end of the log."""
    source, follower = MemoryLog(messages, store), Follower(store)
    source.wal_end = wal_end
    config = config or ChangeConfig(flush_interval_s=3600.0, max_rows=max_rows)
    with pytest.raises(EndOfLog):
        await ChangeLoop(source, store, [follower], store.position, Tracking(), config, metrics or Metrics(), source.mark).run()
    return source, follower


def inserts(lsn: int, count: int, **fields: Any) -> list[bytes]:
    """A transaction of that many judgments."""
    rows = [b.insert(b.JUDGMENTS_OID, *b.wire_row(b.row(**fields))) for _ in range(count)]
    return [b.begin(lsn), *rows, b.commit(lsn, lsn + 8)]


RELATION = b.judgments_relation()


async def test_changes_reach_the_rollup_and_then_the_followers() -> None:
    store = MemoryStore()
    _, follower = await follow([RELATION, *inserts(100, 3)], store, config=AT_ONCE)
    assert store.counts == {("demo", "ok"): 3}
    assert store.position == Position(107, 0), "just before the end of the transaction"
    assert [told[2] for told in follower.told] == [delta.position for delta in store.deltas]


async def test_nothing_is_confirmed_before_it_is_applied() -> None:
    for max_rows in (1, 2, 3, 5, 100):
        store = MemoryStore()
        log, _ = await follow([RELATION, *inserts(100, 3), *inserts(200, 2), *inserts(300, 4)], store, max_rows=max_rows)
        assert log.confirmed or max_rows == 100
        for lsn, stored in log.confirmed:
            assert lsn <= stored.lsn, "a slot that is confirmed past the stored position counts as moved by somebody else"
        assert [lsn for lsn, _ in log.confirmed] == sorted(lsn for lsn, _ in log.confirmed)


async def test_nothing_has_passed_while_it_is_being_applied() -> None:
    """Whoever reads the rollups then would take what is about to be committed for nothing having come."""
    store = MemoryStore()
    log = MemoryLog([RELATION, *inserts(100, 3), None], store)
    log.wal_end = 108
    seen: list[bool] = []

    class Slow:
        async def apply(self, delta: Delta) -> None:
            seen.append(loop.has_passed(108))
            await store.apply(delta)
            seen.append(loop.has_passed(108))

    loop = ChangeLoop(log, Slow(), [], store.position, Tracking(), AT_ONCE, Metrics(), log.mark)
    with pytest.raises(EndOfLog):
        await loop.run()
    assert seen == [False, False]
    assert loop.has_passed(108)
    assert not loop.has_passed(109)


async def test_a_failed_apply_confirms_nothing_and_tells_nobody() -> None:
    store = MemoryStore()
    store.trouble = {0: "before"}
    log, follower = MemoryLog([RELATION, *inserts(100, 3)], store), Follower(store)
    with pytest.raises(DatabaseUnavailable):
        await ChangeLoop(log, store, [follower], START, Tracking(), ChangeConfig(max_rows=2), Metrics(), log.mark).run()
    assert (log.confirmed, follower.told, store.position) == ([], [], START)


async def test_a_whole_transaction_is_confirmed_to_just_before_its_end() -> None:
    """Not past it: psycopg2 would take it that all is safe and confirm whatever a keepalive names."""
    store = MemoryStore()
    log, _ = await follow([RELATION, *inserts(100, 3), *inserts(200, 1), *inserts(300, 1)], store, max_rows=4)
    assert log.confirmed == [(200, Position(200, 0))], "the end of this one has not come yet"
    store = MemoryStore()
    log, _ = await follow([RELATION, *inserts(100, 3)], store, config=AT_ONCE)
    assert log.confirmed[-1] == (107, Position(107, 0))


async def test_an_idle_log_is_marked_when_others_wrote_much() -> None:
    """What others wrote must not pile up in the server; and what we write for that must not need the same again."""
    behind = Position(10_000_000, 0)
    for written, marks in ((MARK_BYTES, 1), (MARK_BYTES - 1, 0), (0, 0)):
        log, _ = await follow([None, None, None], MemoryStore(behind), wal_end=behind.lsn + written)
        assert log.marks == marks, written
        assert log.confirmed == []


async def test_a_mark_moves_the_position_and_is_confirmed() -> None:
    store = MemoryStore()
    messages = [b.begin(100), b.message("others"), b.message("judgify"), b.commit(100, 108), None]
    log, follower = await follow(messages, store, config=AT_ONCE)
    assert (store.position, store.counts) == (Position(107, 0), {})
    assert log.confirmed == [(107, Position(107, 0))]
    assert len(follower.told) == 1
    await follow([b.message("others"), b.begin(200), b.message("others"), b.commit(200, 208), None], store, config=AT_ONCE)
    assert store.position == Position(107, 0), "messages of others are not ours"


async def test_an_idle_log_is_not_marked_inside_a_transaction_or_with_unapplied_changes() -> None:
    opened = [RELATION, b.begin(100), None, None]
    gathered = [RELATION, *inserts(100, 2), None, None]
    for messages in (opened, gathered):
        log, _ = await follow(messages, MemoryStore(), wal_end=10 * MARK_BYTES)
        assert (log.marks, log.confirmed) == (0, [])


async def test_changes_at_or_before_the_stored_position_are_skipped() -> None:
    store = MemoryStore(Position(200, 0))
    metrics = Metrics()
    await follow([RELATION, *inserts(100, 3), *inserts(200, 2), *inserts(300, 1)], store, config=AT_ONCE, metrics=metrics)
    assert store.counts == {("demo", "ok"): 2}
    assert store.position == Position(307, 0)
    assert (metrics.changes_skipped, metrics.changes_applied) == (4, 2)


async def test_a_delta_may_end_inside_a_transaction_and_the_next_goes_on_there() -> None:
    store = MemoryStore()
    await follow([RELATION, *inserts(100, 5), *inserts(200, 1)], store, max_rows=2)
    assert [(delta.base, delta.position) for delta in store.deltas] == [
        (START, Position(100, 1)),
        (Position(100, 1), Position(100, 3)),
        (Position(100, 3), Position(200, 0)),
    ]


async def test_after_stopping_inside_a_transaction_the_rest_of_it_is_counted_once() -> None:
    store = MemoryStore()
    messages = [RELATION, *inserts(100, 5)]
    await follow(messages, store, max_rows=2)  # ends with one change not applied
    assert store.position == Position(100, 3)
    await follow(messages, store, config=AT_ONCE)
    assert store.counts == {("demo", "ok"): 5}


@pytest.mark.parametrize("when", ["before", "after"])
async def test_what_comes_again_after_a_failure_is_not_doubled(when: str) -> None:
    store = MemoryStore()
    store.trouble = {1: when}
    messages = [RELATION, *inserts(100, 3), *inserts(200, 3)]
    log, follower = MemoryLog(messages, store), Follower(store)
    with pytest.raises(DatabaseUnavailable):
        await ChangeLoop(log, store, [follower], START, Tracking(), ChangeConfig(max_rows=2), Metrics(), log.mark).run()
    await follow(messages, store, config=AT_ONCE)
    assert store.counts == {("demo", "ok"): 6}
    assert store.position >= Position(200, 2)


async def test_updates_deletes_and_truncates_take_back() -> None:
    ok, bad = b.wire_row(b.row()), b.wire_row(b.row(final_result='{"verdict": "inspect"}'))
    oid, store = b.JUDGMENTS_OID, MemoryStore()
    messages = [
        RELATION, *inserts(100, 4), b.begin(200), b.update(oid, ok, bad), b.delete(oid, *ok), b.commit(200, 208),
    ]  # fmt: skip
    await follow(messages, store, config=AT_ONCE)
    assert store.counts == {("demo", "ok"): 2, ("demo", "inspect"): 1}
    for max_rows in (1, 100):
        store = MemoryStore()
        again = [*messages, b.begin(300), b.truncate(oid), b.commit(300, 308), *inserts(400, 1)]
        await follow([*again, *inserts(500, max_rows - 1)], store, max_rows=max_rows)
        if max_rows == 1:
            assert store.counts == {("demo", "ok"): 1}
        else:
            assert store.counts.get(("demo", "inspect"), 0) == 0


async def test_changes_of_workflows_go_to_the_followers_only() -> None:
    columns = [("tenant_id", 25), ("workflow_id", 25), ("version", 23), ("definition", 3802), ("updated_at", 1184)]
    table = b.relation(7, "workflows", columns)
    row: tuple[b.Value, ...] = (b"demo", b"w", b"\0\0\0\x02", b.jsonb('{"default": {}}'), bytes(8))
    store = MemoryStore()
    _, follower = await follow([table, b.begin(100), b.insert(7, *row), b.commit(100, 108)], store, config=AT_ONCE)
    ((delta, workflows, stored),) = follower.told
    assert workflows[0].new == {"tenant_id": "demo", "workflow_id": "w", "version": 2, "definition": '{"default": {}}',
                                "updated_at": b.EPOCH_2000_US}  # fmt: skip
    assert stored == delta.position == Position(107, 0)
    assert store.counts == {}


async def test_changes_of_other_tables_only_move_the_position() -> None:
    store = MemoryStore()
    table = b.relation(8, "action_executions", [("id", 2950)])
    await follow([table, RELATION, b.begin(100), b.insert(8, bytes(16)), *inserts(100, 1)[1:]], store, config=AT_ONCE)
    assert store.position == Position(107, 0)
    assert store.counts == {("demo", "ok"): 1}


@pytest.mark.parametrize(
    "message",
    [
        b.update(b.JUDGMENTS_OID, None, b.wire_row(b.row())),
        b.update(b.JUDGMENTS_OID, (bytes(16), *[None] * 11), b.wire_row(b.row()), b"K"),
        b.delete(b.JUDGMENTS_OID, bytes(16), *[None] * 11, marker=b"K"),
    ],
    ids=["update without old row", "update with key only", "delete with key only"],
)
async def test_a_judgment_changed_without_its_old_row_stops_the_loop_with_the_reason(message: bytes) -> None:
    """What is to be taken back is unknown (a partition without REPLICA IDENTITY FULL): stop rather than count wrongly."""
    store = MemoryStore()
    log = MemoryLog([RELATION, *inserts(100, 1), b.begin(200), message, b.commit(200, 208)], store)
    with pytest.raises(Corrupt, match="REPLICA IDENTITY"):
        await ChangeLoop(log, store, [], START, Tracking(), AT_ONCE, Metrics(), log.mark).run()


async def test_after_a_failure_the_lag_is_told_right() -> None:
    """The process's figures outlive one loop: what comes again must not look like changes that still wait."""
    store, metrics = MemoryStore(), Metrics()
    store.trouble = {0: "before"}
    messages = [RELATION, *inserts(100, 5)]
    log = MemoryLog(messages, store)
    with pytest.raises(DatabaseUnavailable):
        await ChangeLoop(log, store, [], START, Tracking(), ChangeConfig(max_rows=5), metrics, log.mark).run()
    await follow(messages, store, config=AT_ONCE, metrics=metrics)
    metrics.slot_held = 1
    told = {sample.name: sample.value for family in metrics.collect() for sample in family.samples}
    assert told["judgify_wal_lag_seconds"] == 0.0


async def test_a_corrupt_message_stops_the_loop_and_confirms_nothing_of_it() -> None:
    store = MemoryStore()
    log = MemoryLog([RELATION, *inserts(100, 1)[:-1], b"I\0\0", b.commit(100, 108)], store)
    with pytest.raises(Corrupt):
        await ChangeLoop(log, store, [], START, Tracking(), ChangeConfig(flush_interval_s=3600.0), Metrics(), log.mark).run()
    assert log.confirmed == []


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_fails_wherever_it_is_cut_the_sums_are_those_of_the_rows(seed: int) -> None:
    """Random transactions, random sizes of deltas, failures before and after commits: counted exactly once each."""
    rng = random.Random(seed)
    verdicts = {name: b.row(final_result=f'{{"verdict": "{name}"}}') for name in ("ok", "inspect", "reject")}
    oid, rows, messages = b.JUDGMENTS_OID, [], [RELATION]
    for lsn in range(100, 100 + 10 * rng.randrange(1, 12), 10):
        messages.append(b.begin(lsn))
        for _ in range(rng.randrange(0, 6)):
            new = rng.choice(list(verdicts))
            what = rng.choice(["insert", "insert", "insert", "update", "delete", "truncate"]) if rows else "insert"
            if what == "insert":
                rows.append(new)
                messages.append(b.insert(oid, *b.wire_row(verdicts[new])))
            elif what == "update":
                at = rng.randrange(len(rows))
                messages.append(b.update(oid, b.wire_row(verdicts[rows[at]]), b.wire_row(verdicts[new])))
                rows[at] = new
            elif what == "delete":
                messages.append(b.delete(oid, *b.wire_row(verdicts[rows.pop(rng.randrange(len(rows)))])))
            else:
                rows.clear()
                messages.append(b.truncate(oid))
        messages.append(b.commit(lsn, lsn + 8))
        if rng.random() < 0.2:
            messages.append(None)  # type: ignore[arg-type]
    store = MemoryStore()
    store.trouble = {call: rng.choice(["before", "after"]) for call in rng.sample(range(12), 4)}
    for _ in range(6):
        log = MemoryLog(messages, store)
        config = ChangeConfig(flush_interval_s=3600.0, max_rows=rng.randrange(1, 9))
        with pytest.raises((EndOfLog, DatabaseUnavailable)):
            await ChangeLoop(log, store, [], store.position, Tracking(), config, Metrics(), log.mark).run()
    store.trouble = {}
    await follow(messages, store, config=ChangeConfig(max_rows=1))
    assert store.counts == {("demo", name): rows.count(name) for name in set(rows)}
