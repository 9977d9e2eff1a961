"""What an evaluation changes: events, states worth keeping, and causes that nobody looks at any more."""

from judgify_engine.core.alert_changes import ActiveRule, Cause, Changes, Known, Seen, changes
from judgify_engine.core.alert_rules import Condition
from judgify_engine.core.alert_state import Observation

CAUSE = Cause("acme", "r", "")
GONE = {"rule": "deleted", "unseen": "not looked at"}


def rule(version: int = 1, for_s: float = 0.0) -> ActiveRule:
    return ActiveRule("acme", "r", version, Condition(when="window.count > 1", for_s=for_s, clear_for_s=0.0))


def look(at_s: float, *, bad: bool, clear: bool | None = None) -> Observation:
    return Observation(at_s, bad, not bad if clear is None else clear, "because")


def evaluate(
    known: dict[Cause, Known], *looks: Observation, of: ActiveRule | None = None, memory: bytes | None = None
) -> Changes:
    return changes([of or rule()], [Seen(CAUSE, looks, memory)], known, looks[-1].at_s, GONE)


def told(found: Changes) -> list[list[str]]:
    return [[each.event.kind for each in row] for row in found.events]


def known_after(found: Changes) -> dict[Cause, Known]:
    return {cause: known for cause, known, _ in found.states}


def test_what_is_well_leaves_no_trace() -> None:
    found = evaluate({}, look(10.0, bad=False))
    assert (found.events, found.states, found.forgotten) == ([], [], [])


def test_a_firing_is_told_and_kept_then_written_no_more_while_nothing_changes() -> None:
    found = evaluate({}, look(10.0, bad=True))
    assert told(found) == [["fired"]]
    again = evaluate(known_after(found), look(15.0, bad=True))
    assert (again.events, again.states, again.forgotten) == ([], [], [])
    over = evaluate(known_after(found), look(20.0, bad=False))
    assert (told(over), over.forgotten) == ([["resolved"]], [CAUSE])


def test_a_pair_between_two_evaluations_is_told_in_order() -> None:
    found = evaluate({}, look(10.0, bad=True), look(15.0, bad=False), look(20.0, bad=True))
    assert told(found) == [["fired"], ["resolved"], ["fired"]]


def test_a_rule_that_is_gone_or_looks_elsewhere_ends_what_fires() -> None:
    known = known_after(evaluate({}, look(10.0, bad=True)))
    for rules, why in (([], "deleted"), ([rule()], "not looked at")):
        found = changes(rules, [], known, 20.0, GONE)
        assert (told(found), found.forgotten) == ([["resolved"]], [CAUSE])
        assert found.events[0][0].event.observation.reason == why


def test_a_new_version_goes_on_with_the_alert_of_the_old_one() -> None:
    known = known_after(evaluate({}, look(10.0, bad=True)))
    found = evaluate(known, look(20.0, bad=True), of=rule(version=2))
    assert found.events == []
    assert [each.version for _, each, _ in found.states] == [2]


def test_what_cannot_be_told_is_kept_with_the_reason() -> None:
    found = evaluate({}, look(10.0, bad=False, clear=False))
    assert [reason for _, _, reason in found.states] == ["because"]


def test_an_evaluator_that_keeps_something_has_its_time_written() -> None:
    found = evaluate({}, look(10.0, bad=False), memory=b'{"n": 1}')
    assert len(found.states) == 1
    later = evaluate(known_after(found), look(15.0, bad=False), memory=b'{"n": 1}')
    assert [each.state.through_s for _, each, _ in later.states] == [15.0]
