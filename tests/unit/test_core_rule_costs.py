"""What rules may cost: what is refused when stored, which inputs are too large, and that nothing accepted takes long."""

from typing import Any

import pytest
from builders import HANGS_S, compiled, cpu_s, definition

from bench.rules import ATTACKS, crowded
from judgify_engine.core import rule_charges
from judgify_engine.core.rule_charges import BUDGET
from judgify_engine.core.rule_costs import MAX_TOKENS, macro_cost
from judgify_engine.core.rules import MAX_RULES, CompiledWorkflow
from judgify_engine.errors import InvalidWorkflow


def refused(*whens: str) -> InvalidWorkflow:
    with pytest.raises(InvalidWorkflow) as caught:
        compiled(*whens)
    return caught.value


def judge(when: str, input_data: dict[str, Any]) -> bool:
    verdict = compiled(when).judge(input_data, {})
    assert verdict.error is None, verdict.error
    return verdict.rule_index == 0


# Patterns -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "input_data", "expected"),
    [
        (r"input.s.matches('^[A-Z]{2}\\d{4}$')", {"s": "AB1234"}, True),
        (r"input.s.matches(r'^\d+$')", {"s": "12a"}, False),
        (r'input.s.matches("(?i)urgent|asap")', {"s": "very URGENT"}, True),
        ("input.l.exists(x, x.matches('^w-'))", {"l": ["a", "w-1"]}, True),
        ("input.l.filter(x, x.matches('a')).size() == 1", {"l": ["a", "b"]}, True),
        ("(input.s + '-' + input.t).matches('^a-b$')", {"s": "a", "t": "b"}, True),
        ("string(input.n).matches('^4')", {"n": 42}, True),
        ("input.matches == 'x'", {"matches": "x"}, True),
        ("input.s.matches('''it's''')", {"s": "it's"}, True),
    ],
)
def test_patterns_are_useful(when: str, input_data: dict[str, Any], expected: bool) -> None:
    assert judge(when, input_data) is expected


@pytest.mark.parametrize(
    "when",
    [
        "input.s.matches(input.p)", "input.s.matches('a' + input.p)", "matches(input.s, input.p)", "input.s.matches(('a'))",
        "input.s.matches(true ? 'a' : 'b')", "input.l.exists(p, 'text'.matches(p))", "input.s.matches(['a'][0])",
        "input.s.matches(string('a'))", "input.s.matches()", "matches(input.s, 'a')",
    ],
)  # fmt: skip
def test_a_pattern_must_be_written_out(when: str) -> None:
    error = refused("true", f"input.v > 1 ||\n  {when}")
    assert "pattern of matches must be written out" in error.detail
    assert (error.extra["field"], error.extra["rule"], error.extra["line"]) == ("rules[1].when", 1, 2)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("[a", "not closed"), ("(?=a)", "unknown kind"), ("a{5,2}", "not a regular expression"), ("(?x) a", "flag `x`"),
        (r"\\y", "not a regular expression: unrecognized escape"), (r"\\p{Nonsense}", "not a regular expression"),
        ("a**{", "not a regular expression"),
    ],
)  # fmt: skip
def test_what_is_no_pattern_is_refused_when_it_is_stored(pattern: str, reason: str) -> None:
    error = refused(f"input.s.matches('{pattern}')")
    assert reason in error.detail
    assert pattern in error.detail
    assert error.extra["column"] == len("input.s.matches(") + 1


@pytest.mark.parametrize(
    "pattern",
    [r"(\w{1,50}){1,50}", r"\pL{300}", "((a{0,90}){0,90}){0,90}", r"(?i)\w{200}", "((((a{50}){50}){50}){50}){50}"],
)
def test_a_pattern_that_becomes_too_large_is_refused_untried(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rule_charges, "_IS_PATTERN", None)  # what would ask the library
    error = refused(f"input.s.matches(r'{pattern}')")
    assert f"of at most {BUDGET}" in error.detail
    assert error.extra["field"] == "rules[0].when"


def test_patterns_of_all_rules_share_one_budget() -> None:
    when = r"input.s.matches(r'^\w+@\w+$')"
    compiled(*[when] * 20)
    error = refused(*[when] * MAX_RULES)
    assert 20 < error.extra["rule"] < MAX_RULES
    compiled(*[when] * error.extra["rule"])  # up to there is room, as the message says


def test_every_rule_may_have_a_simple_pattern() -> None:
    workflow = compiled(*[f"input.id.matches('^M{i}-.*')" for i in range(MAX_RULES // 2)])
    assert workflow.judge({"id": "M77-x"}, {}).rule_index == 77


def test_patterns_in_macros_count_for_each_value() -> None:
    when = r"input.l.exists(x, x.matches(r'\w'))"
    workflow = compiled(when)
    few, many = ["?"] * 20, ["?"] * 900
    assert workflow.judge({"l": few}, {}).error is None
    error = workflow.judge({"l": many}, {}).error
    assert error is not None
    assert "values" in error


def test_patterns_take_a_bounded_text() -> None:
    workflow = compiled("input.s.matches('[01]*1[01]{10}2')")
    assert workflow.judge({"s": "01" * 100}, {}).error is None
    error = workflow.judge({"s": "01" * 100_000}, {}).error
    assert error is not None
    assert "200000" in error


def test_words_are_looked_for_in_long_texts() -> None:
    workflow = compiled(*[f"input.s.matches('(?i)failed{i}x|broken{i}x')" for i in range(20)])
    verdict = workflow.judge({"s": "all is well " * 10_000 + "BROKEN19X"}, {})
    assert (verdict.error, verdict.rule_index) == (None, 19)


# Copies ---------------------------------------------------------------------------------------------------------------


def test_what_is_named_often_may_not_be_large() -> None:
    workflow = compiled(*["1 in input.l || size(input.l) < 0"] * 100)
    assert workflow.judge({"l": [0] * 1000}, {}).error is None
    error = workflow.judge({"l": [0] * 100_000}, {}).error
    assert error is not None
    assert f"of at most {BUDGET}" in error


def test_what_is_named_once_may_be_large() -> None:
    assert judge("size(input.l) == 100000", {"l": [0] * 100_000})
    assert judge("input.s.contains('b')", {"s": "a" * 200_000 + "b"})


def test_large_fields_that_rules_do_not_name_are_free() -> None:
    workflow = compiled(*["input.v < 0"] * MAX_RULES, "input['odd-key'] == 1")
    assert workflow.judge({"v": 1, "odd-key": 1, "l": [0] * 50_000}, {}).rule_index == MAX_RULES


def test_values_that_hide_in_a_short_list_count() -> None:
    workflow = compiled(*["size(input.l) < 0 || size(input.m) < 0"] * 100)
    assert workflow.judge({"l": [[0] * 50_000], "m": {}}, {}).error is not None
    assert workflow.judge({"l": [], "m": {"k": {"k": ["x" * 100_000] * 30}}}, {}).error is not None


@pytest.mark.parametrize(
    "when",
    [
        "[" + ",".join("1" * 300) + "].all(x, [" + ",".join("1" * 300) + "].all(y, true))",
        "(" + "+".join(["input.l"] * 9) + ").all(x, (" + "+".join(["input.l"] * 8) + ").all(y, true))",
    ],
    ids=["lists of its own", "lists that grow"],
)
def test_macros_over_lists_that_the_condition_makes_count(when: str) -> None:
    assert "cost" in refused(when).detail


def test_values_that_a_condition_picks_are_not_taken_for_lists_that_it_makes() -> None:
    picks = "input.l.all(x, input.m[x] > 0 && x in input.k)"
    assert macro_cost(picks, 100) == macro_cost(picks.replace("input.m[x]", "input.m.x"), 100)
    assert macro_cost(picks, 100) < macro_cost(picks.replace("input.k", "[input.k, 1, 2]"), 100)


def test_conditions_are_of_a_bounded_size_together() -> None:
    error = refused(*["input.v in [" + ",".join(["1"] * 1900) + "]"] * 64)
    assert f"of at most {MAX_TOKENS}" in error.detail


# The promise ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("when", "inputs"), ATTACKS, ids=[when[:40] for when, _ in ATTACKS])
def test_whatever_is_accepted_is_judged_in_no_time(when: str, inputs: list[dict[str, Any]]) -> None:
    """As many such rules as are taken, and inputs from small to large: each is judged, or refused, fast."""
    workflow = crowded(when)
    assert workflow.definition.rules
    for input_data in inputs:
        assert cpu_s(workflow.judge, input_data, {}) < HANGS_S, {name: len(value) for name, value in input_data.items()}


# Versions that are older than a bound ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "costly", [r"input.s.matches(r'(\w{1,50}){1,50}')", "input.s.matches(input.p)", "input.s.matches('[a')"]
)
def test_a_stored_version_is_judged_up_to_the_rule_that_costs_too_much(costly: str) -> None:
    found = definition("input.v == 1", costly, "input.v == 2")
    workflow = CompiledWorkflow("demo", "w", 1, found, stored=True)
    data = {"s": "a" * 1000, "p": "a"}
    assert workflow.judge(data | {"v": 1}, {}).rule_index == 0
    for v in (2, 3):  # that rule might have been true: neither a later one nor the default may hold in its place
        verdict = workflow.judge(data | {"v": v}, {})
        assert verdict.error == workflow.cut  # why it was not taken, so it was not asked
        assert verdict.rule_index == 1
    assert workflow.cut is not None
    assert workflow.cut.startswith("rules[1]: ")


def test_a_stored_version_that_begins_with_such_a_rule_fails_each_input() -> None:
    workflow = CompiledWorkflow("demo", "w", 1, definition("input.s.matches(input.p)"), stored=True)
    assert workflow.judge({"s": "a", "p": "a"}, {}).error is not None


def test_a_stored_version_that_is_wrong_otherwise_is_refused_still() -> None:
    with pytest.raises(InvalidWorkflow):
        CompiledWorkflow("demo", "w", 1, definition("input.v >"), stored=True)
