"""What the rules make of a stored judgment says the same as judging it did."""

import json

from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core.conditions import names_in
from judgify_engine.core.explain import explain
from judgify_engine.core.rules import CompiledWorkflow, Outcome, Rule, WorkflowDefinition

CONDITIONS = ("input.a > 3.0", "input.b", "context.c == 'x'", "size(input) > 2", "input.a / 0.0 > 1.0", "true", "false")


@given(
    st.lists(st.sampled_from(CONDITIONS), max_size=5),
    st.dictionaries(st.sampled_from("abc"), st.one_of(st.floats(-9, 9), st.booleans(), st.just("x")), max_size=3),
)
def test_it_comes_to_what_judging_gave(conditions: list[str], values: dict[str, object]) -> None:
    rules = [Rule(when=when, result={"rule": index}) for index, when in enumerate(conditions)]
    workflow = CompiledWorkflow("t", "w", 1, WorkflowDefinition(rules=rules, default=Outcome(result={})))
    verdict = workflow.judge(values, values)
    found = explain(workflow, json.dumps(values), json.dumps(values))
    assert (found.rule_index, found.failed, found.result) == (verdict.rule_index, verdict.error is not None, verdict.result)
    assert [rule.when for rule in found.rules] == conditions
    matched = [rule.index for rule in found.rules if rule.matched]
    assert matched == ([verdict.rule_index] if verdict.error is None and verdict.rule_index is not None else [])
    tried = [rule.index for rule in found.rules if rule.tried]
    assert tried == list(range(len(rules) if verdict.rule_index is None else verdict.rule_index + 1))
    assert [rule.error for rule in found.rules if rule.error] == ([verdict.error] if verdict.error else [])
    assert all(rule.value is None or rule.value == rule.matched for rule in found.rules)


def test_names_are_those_that_the_condition_speaks_of() -> None:
    assert names_in("input.b > 1 && input.a.c < 2 || context.x == 'input.no'") == ["input.a", "input.b", "context.x"]
    assert names_in("size(input) > 2 && input.a > 1") == ["input"]
    assert names_in("true") == []
