"""The chain of portions: whatever is lost, doubled or overtakes, a state is true for its position or knows that it is late."""

import contextlib
from collections import Counter
from typing import Any, NamedTuple

import msgspec
import pytest
from builders import T0, change, row
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core import portion as module
from judgify_engine.core.dashboards import BUILT_IN, Defined
from judgify_engine.core.portion import Beat, Chain, Portion
from judgify_engine.core.rollup import Delta, Sums
from judgify_engine.core.view import Snapshot, ViewKey, ViewState
from judgify_engine.errors import Corrupt
from judgify_engine.units import Position
from judgify_engine.wire.portion import decode_beat, decode_portion, encode

BEGAN = Position(1000, -1)
TENANTS = ("demo", "b", "c", "d", "e")
ROW = st.tuples(st.sampled_from(TENANTS), st.sampled_from(["w", "x"]), st.sampled_from(["completed", "failed"]))
DELTAS = st.lists(st.lists(ROW, max_size=3), min_size=1, max_size=12)


class History(NamedTuple):
    """What the rollups went through, and what was told of it to who watches `demo`."""

    positions: list[Position]
    """The position before each delta and after the last one."""
    figures: list[Counter[str]]
    """What was true for the tenant at each of them."""
    told: list[Portion]
    """In the order in which it was told; beats too."""


def rows_of(delta: Delta, rows: list[tuple[str, str, str]], lsn: int) -> None:
    for index, (tenant, workflow, status) in enumerate(rows):
        new = row(tenant_id=tenant, workflow_id=workflow, status=status, created_at=(T0 - 1) * 1_000_000)
        delta.add(change(index, None, new, lsn=lsn))
    if not rows:
        delta.note(change(0, None, None, lsn=lsn, table="mark"))


def history_of(deltas: list[list[tuple[str, str, str]]], beats: set[int]) -> History:
    chain, now = Chain(7, BEGAN), Counter[str]()
    found = History([BEGAN], [Counter()], [])
    for number, rows in enumerate(deltas):
        delta = Delta(found.positions[-1])
        rows_of(delta, rows, 1001 + number)
        now = now + Counter(f"{workflow}/{status}" for tenant, workflow, status in rows if tenant == "demo")
        for tenant, portion in chain.link(delta, float(number)):
            if tenant == "demo":
                found.told.append(decode_portion(encode(portion)))
        found.positions.append(delta.position)
        found.figures.append(now)
        if number in beats or number == len(deltas) - 1:
            beat = decode_beat(encode(chain.beat("server/slot", "host:1", float(number), None)))
            if beat.tells_of("demo") or number == len(deltas) - 1:
                found.told.append(beat.portion("demo"))
    return found


def state_at(history: History, number: int) -> ViewState:
    """As the store reads it there."""
    workflows: dict[str, Sums] = {}
    results: dict[str, int] = {}
    for name, count in history.figures[number].items():
        workflow, status = name.split("/")
        failed = count if status == "failed" else 0
        workflows.setdefault(workflow, Sums(histogram={})).add(Sums(count, failed, rule=count, histogram={}))
        result = "failed" if failed else "ok"
        results[result] = results.get(result, 0) + count
    snapshot = Snapshot(history.positions[number], workflows, results, {}, {})
    return ViewState(ViewKey("demo", "main", None, "1h"), Defined(0, BUILT_IN), snapshot)


def figures(state: ViewState) -> Counter[str]:
    told: dict[str, Any] = msgspec.json.decode(state.full("dashboard_update", float(T0)))
    found: Counter[str] = Counter()
    for one in told["workflows"]:
        found[f"{one['workflow_id']}/completed"] = one["successful_executions"]
        found[f"{one['workflow_id']}/failed"] = one["total_executions"] - one["successful_executions"]
    assert sum(found.values()) == told["summary"]["total_executions"] == sum(told["summary"]["results"].values())
    return +found


def truth_at(history: History, position: Position) -> Counter[str]:
    number = max(n for n, at in enumerate(history.positions) if at <= position)
    return history.figures[number]


def check(deltas: list[list[tuple[str, str, str]]], beats: set[int], data: st.DataObject) -> None:
    history = history_of(deltas, beats)
    last = len(history.positions) - 1
    state = state_at(history, data.draw(st.integers(0, last), "begins at"))
    lost = data.draw(st.sets(st.integers(0, len(history.told))), "lost")
    heard = [portion for number, portion in enumerate(history.told) if number not in lost]
    heard = data.draw(st.permutations(heard * data.draw(st.integers(1, 2)))) if data.draw(st.booleans()) else heard
    for portion in [*heard, history.told[-1]]:
        if not state.add(portion):
            assert figures(state) == truth_at(history, state.position), "what cannot be added leaves no trace"
            state = state_at(history, data.draw(st.integers(history.positions.index(portion.position), last)))
        assert figures(state) == truth_at(history, state.position)
    assert state.position == history.positions[-1]
    assert figures(state) == history.figures[-1]


@given(DELTAS, st.sets(st.integers(0, 11)), st.data())
def test_no_loss_doubling_or_overtaking_shows_a_wrong_figure(
    deltas: list[list[tuple[str, str, str]]], beats: set[int], data: st.DataObject
) -> None:
    check(deltas, beats, data)


@given(DELTAS, st.sets(st.integers(0, 11)), st.data())
def test_the_same_holds_where_tenants_are_forgotten(
    deltas: list[list[tuple[str, str, str]]], beats: set[int], data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "REMEMBERED", 2)
        patch.setattr(module, "LISTED", 1)
        patch.setattr(module, "LISTED_S", 3.0)
        check(deltas, beats, data)


def chain_of(*tenants: str) -> Chain:
    """One delta with one judgment for each, a second apart."""
    chain, base = Chain(7, BEGAN), BEGAN
    for number, tenant in enumerate(tenants):
        delta = Delta(base)
        rows_of(delta, [(tenant, "w", "completed")], 1001 + number)
        assert [name for name, _ in chain.link(delta, float(number))] == [tenant]
        base = delta.position
    return chain


def test_nothing_lost_needs_no_reload() -> None:
    history = history_of([[("demo", "w", "completed")], [("b", "w", "completed")], [("demo", "x", "failed")]], {0, 1})
    state = state_at(history, 0)
    assert all(state.add(portion) for portion in history.told)
    assert figures(state) == history.figures[-1]


def test_a_portion_names_the_one_before_it_of_its_tenant() -> None:
    chain = chain_of("demo", "b", "demo")
    delta = Delta(chain.position)
    rows_of(delta, [("demo", "w", "completed"), ("new", "w", "completed")], 1010)
    assert {tenant: portion.after for tenant, portion in chain.link(delta, 9.0)} == {"demo": Position(1003, 0), "new": BEGAN}


def test_a_beat_moves_a_tenant_on_for_whom_nothing_changed() -> None:
    beat = chain_of("b", "c").beat("o", "s", 2.0, 17)
    assert (beat.position, beat.since, beat.verified_through_s) == (Position(1002, 0), BEGAN, 17)
    assert beat.portion("demo") == Portion(7, BEGAN, Position(1002, 0))
    assert beat.portion("b") == Portion(7, Position(1001, 0), Position(1002, 0))


def test_a_beat_lists_who_changed_of_late_and_says_since_when_the_others_did_not() -> None:
    beat = chain_of("a", "b", *(f"t{number}" for number in range(12))).beat("o", "s", 13.0, None)
    assert list(beat.lasts) == [f"t{number}" for number in range(11, 0, -1)]
    assert beat.since == Position(1003, 0)


def test_a_beat_and_a_chain_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 20)
    monkeypatch.setattr(module, "LISTED", 5)
    monkeypatch.setattr(module, "LISTED_S", 1e9)
    chain = chain_of(*(f"t{number}" for number in range(100)))
    beat = chain.beat("o", "s", 100.0, None)
    assert list(beat.lasts) == ["t99", "t98", "t97", "t96", "t95"]
    assert beat.since == Position(1095, 0)
    assert not beat.tells_of("t0"), "it may have changed since, so nothing follows"
    delta = Delta(chain.position)
    rows_of(delta, [("t0", "w", "completed"), ("t80", "w", "completed")], 1200)
    # Forgotten is not the same as unchanged: who is forgotten changed before all that are remembered.
    assert {name: portion.after for name, portion in chain.link(delta, 101.0)} == {
        "t0": Position(1080, 0), "t80": Position(1081, 0),
    }  # fmt: skip


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"hello",
        b"\x90",
        b"\x93\x01\x02\x03",
        b"\x99\x01\x92\x01\x01\x92\x01\x01\x90\x90" + b"\x91" * 5000 + b"\xc0",
        encode({"type": "beat"}),
        b"\xc1" * 40,
        b"\x91\xa1\xc8",
    ],
)
def test_what_is_neither_is_corrupt_and_nothing_else(message: bytes) -> None:
    with pytest.raises(Corrupt):
        decode_portion(message)
    with pytest.raises(Corrupt):
        decode_beat(message)


@given(st.binary(max_size=60))
def test_any_bytes_decode_or_are_corrupt(message: bytes) -> None:
    for decode in (decode_portion, decode_beat):
        with contextlib.suppress(Corrupt):
            assert isinstance(decode(message), Portion | Beat)
