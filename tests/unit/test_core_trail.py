"""What a client that comes back is sent: with what it has, that is the whole state, or it is told that it is not."""

from typing import Any

import msgspec
import pytest
from builders import change, row
from hypothesis import given
from hypothesis import strategies as st
from test_core_view import KEY, KEYS, NOW_S, ROWS, SHOWN, delta_of, figures, snapshot_of

from judgify_engine.core import trail as module
from judgify_engine.core.trail import Resume, Trail
from judgify_engine.core.view import MAX_WORKFLOWS, Snapshot, ViewKey, ViewState, origin_of
from judgify_engine.units import Position

OURS = origin_of("a", KEY, SHOWN.version)


class Shown:
    """A client's state, as PROTOCOL.md tells it to keep one."""

    def __init__(self) -> None:
        self.message: dict[str, Any] = {}

    def apply(self, payload: bytes) -> None:
        told = msgspec.json.decode(payload)
        whole = told["type"] == "dashboard_update" or (told["type"] == "initial_data" and not told.get("recovered"))
        if not whole:
            for name, chart in self.message["charts"].items():
                changed = told["charts"].setdefault(name, {**chart, "points": []})
                known = {point[0]: point for point in chart["points"]} | {point[0]: point for point in changed["points"]}
                changed["points"] = sorted(known.values(), key=lambda point: str(point[0]))
            known = {point[0]: point for point in self.message["live"]}
            told["live"] = sorted((known | {point[0]: point for point in told["live"]}).values())
            rows = {one["workflow_id"]: one for one in self.message["workflows"]}
            told["workflows"] = list((rows | {one["workflow_id"]: one for one in told["workflows"]}).values())
        self.message = told

    @property
    def resume(self) -> Resume:
        return Resume.parse(self.message["resume"])

    def figures(self) -> dict[str, Any]:
        """What it shows, as `figures` of a whole message."""
        return {name: value for name, value in figures(msgspec.json.encode(self.message)).items() if name not in _HOW}


_HOW = {"type", "recovered", "server_time"}


def state_of(rows: list[dict[str, Any]], position: Position, key: ViewKey = KEY, origin: str = "a") -> ViewState:
    return ViewState(key, SHOWN, snapshot_of(rows, position, key)._replace(origin=origin))


def whole(state: ViewState) -> dict[str, Any]:
    told = figures(state.full("dashboard_update", NOW_S))
    for chart in told["charts"].values():
        chart["points"].sort(key=lambda point: str(point[0]))
    return {name: value for name, value in told.items() if name not in _HOW}


OFTEN = ("change", "leave", "return")
STEPS = st.lists(st.sampled_from([*OFTEN, *OFTEN, "update", "update", "refresh", "move", "repair"]), min_size=12, max_size=40)


@given(KEYS, st.lists(ROWS, max_size=6), STEPS, st.data())
def test_whatever_happens_a_client_shows_what_the_server_does(
    key: ViewKey, rows: list[dict[str, Any]], steps: list[str], data: st.DataObject
) -> None:
    """Two processes follow one log; a client leaves the one and comes back to any of them, or to one that has just begun."""
    at, lsn, origin = Position(50, 0), 100, "a"
    processes = [state_of(rows, at, key), state_of(rows, at, key)]
    place, here, client = 0, True, Shown()
    client.apply(processes[place].full("initial_data", NOW_S))
    for step in steps:
        if step == "change":
            taken = rows.pop(data.draw(st.integers(0, len(rows) - 1))) if rows and data.draw(st.booleans()) else None
            new = data.draw(ROWS)
            rows, lsn = [*rows, new], lsn + 1
            portion = delta_of(change(0, taken, new, lsn=lsn), base=at)
            at = portion.position
            assert all([state.add(portion) for state in processes])
        elif step == "update":
            for number, state in enumerate(processes):
                message = state.update(NOW_S)
                if here and number == place:
                    client.apply(message)
        elif step == "leave":
            here = False
        elif step in ("refresh", "repair"):
            if step == "repair":  # some rows were missing all the time: no delta tells of them
                origin, rows = origin + "r", [*rows, data.draw(ROWS)]
            for number, before in enumerate(processes):
                processes[number] = state_of(rows, at, key, origin)
                processes[number].keep_rate_of(before, 1.0, True)
                if here and number == place:
                    client.apply(processes[number].full("dashboard_update", NOW_S))
                processes[number].settle()
        elif step == "move":
            processes[1] = state_of(rows, at, key, origin)
            here = here and place == 0
        elif not here:
            here, place = True, data.draw(st.integers(0, 1))
            rest = processes[place].rest(client.resume, NOW_S)
            client.apply(processes[place].full("initial_data", NOW_S, False) if rest is None else rest)
            assert client.figures() == whole(processes[place])
    if here:
        client.apply(processes[place].update(NOW_S))
        assert client.figures() == whole(processes[place])


def test_the_rest_is_only_what_changed() -> None:
    old, new = int(NOW_S) - 1000, int(NOW_S) - 2
    rows = [row(created_at=old * 1_000_000, workflow_id="quiet"), row(created_at=new * 1_000_000)]
    state = state_of(rows, Position(50, 0))
    position = Resume(state.position, state.origin)
    assert state.add(delta_of(change(0, None, row(created_at=new * 1_000_000)), base=Position(50, 0)))
    rest = msgspec.json.decode(state.rest(position, NOW_S) or b"{}")
    assert (rest["type"], rest["recovered"]) == ("initial_data", True)
    assert [one["workflow_id"] for one in rest["workflows"]] == ["w"]
    assert [point[:2] for point in rest["live"]] == [[new // 5 * 5, 2]]
    assert [point[0] for point in rest["charts"]["count"]["points"]] == [new // 300 * 300]
    nothing = msgspec.json.decode(state.rest(Resume(state.position, state.origin), NOW_S) or b"{}")
    assert nothing["live"] == nothing["workflows"] == []
    assert "count" not in nothing["charts"]
    assert nothing["summary"]["total_executions"] == 3


@pytest.mark.parametrize(
    "resume",
    [
        Resume(Position(50, 0), origin_of("b", KEY, SHOWN.version)),
        Resume(Position(50, 0), origin_of("a", KEY._replace(timeframe="6h"), SHOWN.version)),
        Resume(Position(50, 0), origin_of("a", KEY._replace(workflow_id="w"), SHOWN.version)),
        Resume(Position(50, 0), OURS, SHOWN.version + 1),
        Resume(Position(50, 0), origin_of("a", KEY, SHOWN.version + 1)),
        Resume(Position(50, 0), None),
        Resume(Position(49, 9), OURS),
        Resume(Position(51, 0), OURS),
    ],
    ids=[
        "of another server",
        "of a time frame",
        "of a workflow",
        "of a definition",
        "of one that is not named",
        "of who knows",
        "too old",
        "ahead",
    ],
)
def test_what_is_not_known_is_not_recovered(resume: Resume) -> None:
    assert state_of([row()], Position(50, 0)).rest(resume, NOW_S) is None
    assert state_of([row()], Position(50, 0)).rest(Resume(Position(50, 0), OURS), NOW_S) is not None


def test_nothing_is_recovered_while_the_rollups_are_computed_anew() -> None:
    snapshot = Snapshot(Position(0, 0), {}, {}, {}, {}, recomputing=True, origin="a")
    state = ViewState(KEY, SHOWN, snapshot)
    assert msgspec.json.decode(state.full("initial_data", NOW_S))["resume"] is None
    assert state.rest(Resume(Position(0, 0), OURS), NOW_S) is None


def test_a_view_of_more_workflows_than_it_lists_is_sent_whole() -> None:
    """Which are the busiest changes with what others do, and what is listed no more is not told of."""
    rows = [row(workflow_id=f"w{number:03}") for number in range(MAX_WORKFLOWS + 1)]
    assert state_of(rows, Position(50, 0)).rest(Resume(Position(50, 0), OURS), NOW_S) is None


def test_a_trail_is_bounded_and_what_it_forgot_it_does_not_claim_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MARKS", 3)
    trail = Trail(Position(1, 0))
    for lsn in range(2, 8):
        trail.note(Position(lsn, 0), "live", [lsn])
    assert trail.after(Position(3, 0)) is None
    assert trail.after(Position(4, 0)) == {"live": {5, 6, 7}}
    assert trail.after(Position(6, 0)) == {"live": {7}}
    assert trail.after(Position(7, 0)) == {}


@pytest.mark.parametrize("text", ["", "0/1A", "0/1A-x", "zz/1-1", "0/1-1@", "0/1-1@a b", "0/1-1@" + "a" * 65, "0/1-1\n"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a position"):
        Resume.parse(text)


@given(st.builds(Position, st.integers(0, 2**64 - 1), st.integers(-1, 2**62)))
def test_a_position_is_read_as_it_was_written(position: Position) -> None:
    assert Resume.parse(f"{position}@0f3c", 4) == Resume(position, "0f3c", 4)
    assert Resume.parse(str(position)) == Resume(position, None)
