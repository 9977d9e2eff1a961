"""Which causes conditions are asked of: also workflows that have stopped, and those of which something is known."""

import asyncio
import random
from types import SimpleNamespace

import pytest

from judgify_engine.core.alert_bounds import LOOK_COST, MOST_COST_OF_ALL, MOST_WORKFLOWS
from judgify_engine.core.alert_changes import ActiveRule, Cause, Known, Seen, changes
from judgify_engine.core.alert_figures import Need, Read, Sums, Window
from judgify_engine.core.alert_rules import CompiledCondition, Condition
from judgify_engine.core.alert_state import CauseState, Observation
from judgify_engine.errors import Overloaded
from judgify_engine.pipeline import alert_conditions, alert_loop
from judgify_engine.pipeline.alert_conditions import LATE, Conditions
from judgify_engine.pipeline.alert_kinds import Span
from judgify_engine.pipeline.alert_loop import changes_in_turns

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

    async def read(self, need: Need, timeout_s: float) -> Read:
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
    assert len(found.keys() - {""}) == MOST_WORKFLOWS
    assert "" in found  # which says that there are more


def observed(source: Rollups, rules: list[ActiveRule], known: dict[Cause, Known], span: Span = SPAN) -> list[Seen]:
    return list(asyncio.run(Conditions(source).observe(rules, known, span)))


def test_rules_that_ask_for_too_much_are_bounded_and_it_is_told() -> None:
    moments = [NOW_S - 5 * number for number in range(24)][::-1]
    dear = " && ".join(["window.methods.all(a, window.methods[a] >= 0)"] * 6)
    rule = Condition(when=dear, each="workflow", window_s=60)
    greedy = [ActiveRule("acme", f"r{number:02}", 1, rule) for number in range(50)]
    modest = ActiveRule("other", "r", 1, Condition(when="window.count > 1", window_s=60))
    rollups, names = Rollups([f"w{number:04}" for number in range(400)], []), {"acme": 400}
    conditions = Conditions(rollups)
    seen = asyncio.run(conditions.observe([*greedy, modest], {}, Span(NOW_S - 120.0, float(NOW_S), moments, names)))
    cost = LOOK_COST + CompiledCondition(rule).cost
    looks = sum(len(list(each.observations)) for each in seen if each.cause.workflow_id)
    assert 0 < looks * cost <= MOST_COST_OF_ALL
    assert [len(list(each.observations)) for each in seen if each.cause.tenant_id == "other"] == [24]
    assert conditions.bounded == {"acme"}
    told = [each for each in seen if each.cause.tenant_id == "acme" and not each.cause.workflow_id]
    assert {one.cause.rule_id for one in told} == {rule.rule_id for rule in greedy}
    assert all(look.reason and not look.bad and not look.clear for one in told for look in one.observations)


def test_what_fires_and_is_not_looked_at_any_more_goes_on_firing() -> None:
    """A rule became so dear that only some of what fired by it can be looked at."""
    dear = " && ".join(["window.methods.all(a, window.methods[a] >= 0)"] * 6)
    rule = ActiveRule("acme", "r", 2, Condition(when=f"window.count > 1 && {dear}", each="workflow", window_s=60))
    names = [f"w{number:03}" for number in range(300)]
    firing = CauseState("firing", NOW_S - 5.0, NOW_S - 5.0, severity="warning")
    known = {Cause("acme", "r", name): Known(firing, None, 1) for name in names}
    seen = observed(Rollups(names, []), [rule], known)
    assert sum(1 for each in seen if each.observations) < 300
    found = changes([rule], seen, known, float(NOW_S), {"rule": "", "unseen": "", "other": ""})
    assert found.events == []
    assert found.forgotten == []


class Slow(Rollups):
    """The figures of some tenants cannot be read in time."""

    def __init__(self, slow: set[str]) -> None:
        super().__init__(["w"], [])
        self.slow, self.asked = slow, list[str]()

    async def read(self, need: Need, timeout_s: float) -> Read:
        self.asked += need.tenants
        if self.slow & set(need.tenants):
            raise Overloaded("too slow")
        return await super().read(need, timeout_s)


def test_whose_figures_cannot_be_read_in_time_keeps_nobody_else_waiting() -> None:
    much = Condition(when="window.count > 1", each="workflow", window_s=60)
    rules = [ActiveRule(name, "r", 1, much) for name in ("greedy", "vast")]
    rules.append(ActiveRule("acme", "r", 1, Condition(when="window.count > 1", each="workflow", window_s=60)))
    span = Span(NOW_S - 5.0, float(NOW_S), [NOW_S], {"greedy": 10**6, "vast": 10**6, "acme": 1})
    fires = Known(CauseState("firing", NOW_S - 5.0, NOW_S - 5.0), None, 1)
    known = {Cause("greedy", "r", "w"): fires}
    source = Slow({"greedy"})
    conditions = Conditions(source)
    seen = asyncio.run(conditions.observe(rules, known, span))
    assert [look.bad for each in seen if each.cause == Cause("acme", "r", "w") for look in each.observations] == [True]
    assert conditions.bounded == {"greedy"}
    found = changes(rules, seen, known, float(NOW_S), {"rule": "", "unseen": "", "other": ""})
    assert [told.cause.tenant_id for row in found.events for told in row] == ["acme"]
    assert Cause("greedy", "r", "w") not in found.forgotten
    assert [reason for cause, _, reason in found.states if cause == Cause("greedy", "r", "")] == [LATE]
    assert source.asked[0] == "acme"  # those who ask for little come first


def test_who_waited_longest_is_read_first_where_there_is_no_time_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_conditions, "REST_TIMES", 0.0)
    now_s = 1000.0
    monkeypatch.setattr(alert_conditions, "time", SimpleNamespace(monotonic=lambda: now_s, perf_counter=lambda: now_s))
    much = Condition(when="window.count > 1", each="workflow", window_s=60)
    names = ("a", "b", "c")
    rules = [ActiveRule(name, "r", 1, much) for name in names]
    span = Span(NOW_S - 5.0, float(NOW_S), [NOW_S], dict.fromkeys(names, 10**6))

    asked: list[str] = []

    class TakesAll(Rollups):
        async def read(self, need: Need, timeout_s: float) -> Read:
            nonlocal now_s
            asked.extend(need.tenants)
            now_s += timeout_s
            raise Overloaded("too slow")

    conditions = Conditions(TakesAll([], []))
    for _ in range(6):
        asyncio.run(conditions.observe(rules, {}, span))
    assert asked == ["a", "b", "c"] * 2


def test_who_takes_long_to_be_read_rests_and_what_fires_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [ActiveRule(name, "r", 1, Condition(when="window.count > 1", each="workflow", window_s=60)) for name in "ab"]
    span = Span(NOW_S - 5.0, float(NOW_S), [NOW_S], {"a": 10**6})
    known = {Cause("a", "r", "w"): Known(CauseState("firing", NOW_S - 5.0, NOW_S - 5.0), None, 1)}
    asked: list[str] = []
    now_s = 1000.0
    monkeypatch.setattr(alert_conditions, "time", SimpleNamespace(monotonic=lambda: now_s, perf_counter=lambda: now_s))

    class Slow(Rollups):
        async def read(self, need: Need, timeout_s: float) -> Read:
            nonlocal now_s
            asked.extend(need.tenants)
            if need.tenants == ["a"]:
                now_s += 2.0
            return await super().read(need, timeout_s)

    conditions = Conditions(Slow([], []))
    for _ in range(2):
        asyncio.run(conditions.observe(rules, known, span))
    now_s += alert_conditions.REST_TIMES * 2.0 - 0.1
    seen = asyncio.run(conditions.observe(rules, known, span))
    assert asked == ["b", "a", "b", "b"]
    now_s += 0.2
    asyncio.run(conditions.observe(rules, known, span))
    assert asked[-2:] == ["b", "a"]
    found = changes(rules, seen, known, float(NOW_S), alert_loop.GONE)
    assert (found.events, found.forgotten) == ([], [])


def test_what_follows_is_the_same_for_one_tenant_after_the_other() -> None:
    chance = random.Random(5)
    rules = [ActiveRule(f"t{number % 9}", f"r{number}", 1, Condition(when="true", for_s=5)) for number in range(60)]
    known = {
        Cause(one.tenant_id, one.rule_id, ""): Known(CauseState("firing", NOW_S - 9.0, NOW_S - 9.0), None, 1)
        for one in rules
        if chance.random() < 0.5
    }
    seen = [
        Seen(Cause(one.tenant_id, one.rule_id, ""), [Observation(NOW_S - 1.0, bad=bad, clear=not bad, reason="x")])
        for one in rules
        if chance.random() < 0.8 and (bad := chance.random() < 0.5) in (True, False)
    ]
    found = asyncio.run(changes_in_turns(rules, seen, known, float(NOW_S)))
    whole = changes(rules, seen, known, float(NOW_S), alert_loop.GONE)
    assert [sorted(row, key=str) for row in found.events] == [sorted(row, key=str) for row in whole.events]
    assert sorted(found.states, key=str) == sorted(whole.states, key=str)
    assert sorted(found.forgotten) == sorted(whole.forgotten)
    assert found.through_s == whole.through_s


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
