"""Which causes conditions are asked of: also workflows that have stopped, and those of which something is known."""

import asyncio

import pytest

from judgify_engine.core.alert_changes import ActiveRule, Cause, Known
from judgify_engine.core.alert_figures import Need, Read, Sums, Window
from judgify_engine.core.alert_rules import Condition
from judgify_engine.core.alert_state import CauseState
from judgify_engine.pipeline import alert_conditions
from judgify_engine.pipeline.alert_conditions import MOST_WORKFLOWS, Conditions
from judgify_engine.pipeline.alert_kinds import Span

NOW_S = 1_800_000_000
WINDOW = Window(NOW_S - 60, NOW_S)
SPAN = Span(NOW_S - 5.0, float(NOW_S), [NOW_S])
DAY = [100] * 288


class Rollups:
    """Workflows with figures in the window, and those with a past."""

    def __init__(self, active: list[str], past: list[str]) -> None:
        self.sums = {(WINDOW, "acme", name): Sums(5, 0, 1.0, 1.0, 1.0) for name in active}
        self.fine: dict[tuple[Window, str, str], dict[str, Sums]] = {}
        self.past = {("acme", name): (NOW_S - 86_400, DAY) for name in past}

    async def read(self, need: Need) -> Read:
        return Read(self.sums, {}, self.fine, self.past if need.usual_by_workflow else {}, NOW_S, {})


def looked_at(rollups: Rollups, rule: Condition, known: dict[Cause, Known] | None = None) -> dict[str, bool]:
    """Workflow to whether it is bad."""
    active = [ActiveRule("acme", "r", 1, rule)]
    seen = asyncio.run(Conditions(rollups).observe(active, known or {}, SPAN))
    return {each.cause.workflow_id: any(look.bad for look in each.observations) for each in seen}


def test_a_workflow_that_stopped_is_asked_for_where_it_is_asked_what_is_usual() -> None:
    rule = Condition(when="window.count < 1 && usual.count > 10.0", each="workflow", window_s=60)
    assert looked_at(Rollups(["goes"], ["goes", "stopped", ""]), rule) == {"goes": False, "stopped": True}


def test_what_fires_is_looked_at_however_many_workflows_there_are() -> None:
    many = [f"a{number:04}" for number in range(MOST_WORKFLOWS + 10)]
    known = {Cause("acme", "r", "zzz"): Known(CauseState("firing", NOW_S - 5.0), None, 1)}
    found = looked_at(Rollups(many, []), Condition(when="window.count > 9", each="workflow", window_s=60), known)
    assert "zzz" in found
    assert len(found) == MOST_WORKFLOWS


def test_others_have_their_turn_while_costly_rules_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert alert_conditions.TURN_S <= 0.01
    monkeypatch.setattr(alert_conditions, "TURN_S", -1.0)  # as if each took longer than that, whatever it takes here
    when = " && ".join(["window.results.all(a, window.results[a] >= 0)"] * 6)
    rules = [ActiveRule("acme", f"r{number}", 1, Condition(when=when)) for number in range(40)]
    rollups = Rollups([], [])
    results = {f"result.{number}": Sums(1, 0, 0.0, None, None) for number in range(50)}
    rollups.fine = {(Window(NOW_S - 300, NOW_S), "acme", ""): results}
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def both() -> None:
        conditions, task = Conditions(rollups), asyncio.create_task(others())
        await conditions.observe(rules, {}, SPAN)
        task.cancel()

    asyncio.run(both())
    assert turns >= len(rules) - 1  # between any two
