"""Rules: what is refused when stored, what fails for one input only, and that shortcuts never change a verdict."""

from contextlib import suppress
from typing import Any

import cel
import msgspec
import pytest
from builders import HANGS_S, compiled, cpu_s, definition
from hypothesis import given, settings
from hypothesis import strategies as st

from judgify_engine.core.model import Verdict
from judgify_engine.core.rule_costs import MAX_MACRO_VALUES
from judgify_engine.core.rule_tokens import MAX_PARENTHESES
from judgify_engine.core.rules import (
    MAX_RULES,
    MAX_WHEN_CHARS,
    CompiledWorkflow,
    Outcome,
    WorkflowDefinition,
)
from judgify_engine.errors import InvalidWorkflow


def judge(when: str, input_data: dict[str, Any], context: dict[str, Any] | None = None) -> Verdict:
    return compiled(when).judge(input_data, context or {})


def matches(when: str, input_data: dict[str, Any], context: dict[str, Any] | None = None) -> bool:
    verdict = judge(when, input_data, context)
    assert verdict.error is None, verdict.error
    return verdict.rule_index == 0


def refused(*whens: str) -> InvalidWorkflow:
    with pytest.raises(InvalidWorkflow) as caught:
        compiled(*whens)
    return caught.value


# Deciding -------------------------------------------------------------------------------------------------------------


def test_the_first_rule_that_is_true_gives_the_result() -> None:
    workflow = compiled("input.v > 10", "input.v > 5", "input.v > 0")
    found = [workflow.judge({"v": v}, {}) for v in (20, 7, 1)]
    assert [verdict.rule_index for verdict in found] == [0, 1, 2]
    assert [msgspec.json.decode(verdict.result) for verdict in found] == [{"verdict": "0"}, {"verdict": "1"}, {"verdict": "2"}]
    assert {verdict.confidence for verdict in found} == {0.9}


def test_the_default_holds_when_no_rule_is_true() -> None:
    assert compiled("input.v > 10").judge({"v": 1}, {}) == Verdict(b'{"verdict":"default"}', 0.99, None, None)


def test_without_rules_the_default_holds() -> None:
    assert compiled().judge({"anything": [1, {"x": None}]}, {}).rule_index is None


def test_a_rule_after_the_match_is_never_asked() -> None:
    assert compiled("input.v > 0", "input.missing > 0").judge({"v": 1}, {}).error is None


def test_conditions_see_the_context_too() -> None:
    assert matches("context.shift == 'night' && input.v > 1", {"v": 2}, {"shift": "night"})


def test_the_example_of_the_issue() -> None:
    workflow = compiled("input.value < 50.0 || input.value > 95.0")
    found = [workflow.judge({"value": value}, {}).rule_index for value in (49.9, 50.0, 95.0, 95.1, 49, 50, 96)]
    assert found == [0, None, None, 0, 0, None, 0]


@pytest.mark.parametrize(
    "condition", ["input.v == 50", "input.v == 50.0", "input.v >= 50", "input.v >= 50.0", "input.v < 50.5"]
)
@pytest.mark.parametrize("value", [50, 50.0])
def test_whole_numbers_and_floats_compare_as_numbers(condition: str, value: float) -> None:
    assert matches(condition, {"v": value})


@pytest.mark.parametrize("value", [2**64 - 1, 2**63, 2**63 - 1, -(2**63), 0, 1.7976931348623157e308, 5e-324])
def test_every_number_that_requests_may_hold_can_be_judged(value: float) -> None:
    assert matches("input.v == input.v && (input.v > 1 || input.v <= 1)", {"v": value})


@pytest.mark.parametrize(
    ("condition", "text"),
    [("input['ä'] == 'ö😀'", "ö😀"), ("input['ä'].startsWith('ö')", "ö😀"), ("input['ä'] == ''", "")],
)
def test_unicode_is_compared_as_characters(condition: str, text: str) -> None:
    assert matches(condition, {"ä": text})


@pytest.mark.parametrize("key", ["", " ", "a-b", "a.b", 'quo"te', "in", "ä", "😀", "__class__", "input", "0", "\x7f", "\n"])
def test_odd_keys_are_just_keys(key: str) -> None:
    condition = f"input[{msgspec.json.encode(key).decode()}] == 1"
    assert matches(condition, {key: 1})
    assert judge(condition, {"other": 1}).error is not None


def test_every_kind_of_json_value_is_a_value() -> None:
    data = {"n": None, "t": True, "i": 1, "f": 1.5, "s": "x", "l": [1, "x", None], "m": {"a": {"b": []}}}
    for condition in (
        "input.n == null", "input.t", "type(input.i) == int", "type(input.f) == double", "input.s == 'x'", "input.l[1] == 'x'",
        "size(input.m.a.b) == 0", "has(input.m.a) && !has(input.m.c)", "'n' in input", "size(input) == 7",
    ):  # fmt: skip
        assert matches(condition, data), condition


# Failing for one input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "data", "reason"),
    [
        ("input.v > 1", {}, "no such field: v"),
        ("input.a.b > 1", {"a": {}}, "no such field: b"),
        ("input['k'] > 1", {}, "no such field: k"),
        ("input.v > 1", {"v": "x"}, "input.v is a string"),
        ("input.v > 1", {"v": None}, "input.v is null"),
        ("context.v > 1", {}, "no such field: v"),
        ("input.v", {"v": 1}, "must be true or false, it gave an integer"),
        ("input.v", {"v": "x"}, "must be true or false, it gave a string"),
        ("input.v", {"v": None}, "must be true or false, it gave null"),
        ("input.v", {"v": [1]}, "must be true or false, it gave a list"),
        ("input.v", {"v": {}}, "must be true or false, it gave a map"),
        ("input.v / 0 > 1", {"v": 1}, "division by zero"),
        ("int(input.v) > 1", {"v": "many"}, "int"),
        ("input.v[3] > 1", {"v": [1]}, "3"),
        ("input.v + 1 > 1", {"v": 2**63 - 1}, "overflow"),
    ],
)
def test_a_rule_that_fails_on_an_input_gives_a_failed_verdict_with_the_reason(
    condition: str, data: dict[str, Any], reason: str
) -> None:
    verdict = compiled("false", condition).judge(data, {})
    assert verdict.error is not None
    assert verdict.error.startswith("rules[1]: ")
    assert reason in verdict.error
    assert (verdict.confidence, verdict.rule_index) == (0.0, 1)
    told = msgspec.json.decode(verdict.result)["error"]
    assert told["rule"] == 1
    assert reason in told["reason"]


def test_a_failed_verdict_can_be_stored() -> None:
    """PostgreSQL takes no NUL; a reason that quotes the rule must not bring one along."""
    verdict = judge(r"input['\x00'] == 1", {})
    assert verdict.error is not None
    assert "\0" not in verdict.error
    assert b"\\u0000" not in verdict.result


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), JSON_VALUES, max_size=4)
WORKFLOW = compiled(
    "input.a > 1",
    "input.b.c == 'x'",
    "size(input.c) > 1",
    "input.d.matches('x')",
    "input.a.exists(x, x > 2)",
    "int(input.b) == 3",
)


@given(FIELDS, FIELDS)
def test_judging_never_raises_for_an_input(input_data: dict[str, Any], context: dict[str, Any]) -> None:
    verdict = WORKFLOW.judge(input_data, context)
    assert (verdict.error is None) == (b'"error"' not in verdict.result)
    msgspec.json.decode(verdict.result, type=dict)


# Field pruning --------------------------------------------------------------------------------------------------------


SIMPLE = st.one_of(
    st.booleans(), st.integers(-5, 5), st.floats(-5, 5).map(lambda x: round(x, 1)), st.sampled_from(["x", "yy", "input.b", ""]),
    st.lists(st.integers(0, 5), max_size=3),
    st.dictionaries(st.sampled_from(["a", "b", "input"]), st.integers(0, 5), max_size=3),
)  # fmt: skip
DATA = st.dictionaries(st.sampled_from(["a", "b", "c", "input", "context", "map", "x"]), SIMPLE, max_size=6)
ROOTS = st.sampled_from(["input", "context"])
NAMES = st.sampled_from(["a", "b", "c", "input", "context", "map", "x"])
PLACES = st.one_of(
    st.builds("{}.{}".format, ROOTS, NAMES),
    st.builds("{} . {}".format, ROOTS, NAMES),
    st.builds("{}.{}.{}".format, ROOTS, NAMES, NAMES),
    st.builds("{}['{}']".format, ROOTS, NAMES),
    st.builds("{}[input.{}]".format, ROOTS, NAMES),
    st.builds('"in" + "put.b" + {}.{}'.format, ROOTS, NAMES),
    st.builds("({}).{}".format, ROOTS, NAMES),
    st.builds("[{}, {{}}][0].{}".format, ROOTS, NAMES),
    st.builds("{{'k': {}}}.k.{}".format, ROOTS, NAMES),
    st.builds("(true ? {} : context).{}".format, ROOTS, NAMES),
    st.builds("[1].map(input, {}.{})[0]".format, ROOTS, NAMES),
    st.builds(r"r'\' + {}.{} + 'z'".format, ROOTS, NAMES),
    st.builds(r'R"\" + {}.{} + "z"'.format, ROOTS, NAMES),
    st.builds("'\\'' + {}.{} + '\\\\'".format, ROOTS, NAMES),
    st.builds("'''it's''' + {}.{}".format, ROOTS, NAMES),
    st.builds("{}.{} // input.a '\n".format, ROOTS, NAMES),
)
LITERALS = st.sampled_from(["1", "1.0", "'x'", "'input.b'", "true", "null", "2u", "[1, 2]", "r'\\'"])
CONDITIONS = st.recursive(
    st.one_of(
        st.builds("{} {} {}".format, PLACES, st.sampled_from(["==", "!=", "<", ">=", "in"]), LITERALS | PLACES),
        st.builds("has({}.{})".format, ROOTS, NAMES),
        st.builds("'{}' in {}".format, NAMES, ROOTS),
        st.builds("size({}) > {}".format, PLACES | ROOTS, st.integers(0, 4)),
        st.builds("{}.size() > {}".format, PLACES | ROOTS, st.integers(0, 4)),
        st.builds("{}.exists(k, k == {})".format, PLACES | ROOTS, LITERALS),
        st.builds("{}.all(input, input != {}.{})".format, ROOTS, ROOTS, NAMES),
        st.builds("{} == {}".format, ROOTS, ROOTS),
    ),
    lambda inner: (
        st.builds("({}) && ({})".format, inner, inner)
        | st.builds("({}) || ({})".format, inner, inner)
        | st.builds("!({})".format, inner)
    ),
    max_leaves=3,
)


def directly(condition: str, input_data: dict[str, Any], context: dict[str, Any]) -> object:
    """What CEL says with the whole input before it: a boolean, or "failed"."""
    try:
        found = cel.compile(condition).execute(cel.Context({"input": input_data, "context": context}))
    except Exception:
        return "failed"
    return found if isinstance(found, bool) else "failed"


@settings(max_examples=150)
@given(CONDITIONS, DATA, DATA)
def test_handing_over_only_the_named_fields_never_changes_a_verdict(
    condition: str, input_data: dict[str, Any], context: dict[str, Any]
) -> None:
    try:
        workflow = compiled(condition)
    except InvalidWorkflow:
        return
    verdict = workflow.judge(input_data, context)
    found: object = "failed" if verdict.error is not None else verdict.rule_index == 0
    assert found == directly(condition, input_data, context)


@pytest.mark.parametrize(
    "condition",
    [
        r'r"\" + input.a + "x" == "\\qx"',
        r"r'\' + input.a + 'x' == '\\qx'",
        r"R'\'+input.a+R'\' == '\\q\\'",
        r"br'\' == b'\\' && input.a == 'q'",
    ],
)
def test_a_backslash_ends_nothing_in_a_raw_string(condition: str) -> None:
    assert directly(condition, {"a": "q"}, {}) is True
    assert matches(condition, {"a": "q"})


# Refusing a workflow --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "line", "column"),
    [
        ("input.v >", 1, 10),
        ("input.v > 1 &&\n  )", 2, 3),
        ("", 1, 1),
        ("input.v > 1 1", 1, 13),
        ("'open", 1, 1),
        ("input.v\n\n  == == 1", 3, 6),
    ],
)
def test_a_syntax_error_names_rule_line_and_column(condition: str, line: int, column: int) -> None:
    error = refused("true", condition)
    assert error.extra["rule"] == 1
    assert error.extra["line"] == line
    assert abs(error.extra["column"] - column) <= 1
    assert error.extra["field"] == "rules[1].when"
    assert error.extra["reason"] in error.detail
    assert f"rules[1].when, line {line}, column {error.extra['column']}" in error.detail


@pytest.mark.parametrize(
    ("condition", "name", "line", "column"),
    [
        ("foo > 1", "foo", 1, 1),
        ("input.v > 1 ||\n  inputs.v > 1", "inputs", 2, 3),
        ("ctx.shift == 'day'", "ctx", 1, 1),
        ("lower(input.v) == 'x'", "lower", 1, 1),
        ("input.v.lower() == 'x'", "lower", 1, 9),
        ("true && now() > 1", "now", 1, 9),
        ("input.l.exists(i, v, v > 2)", "v", 1, 19),
    ],
)
def test_unknown_names_and_functions_are_refused_where_they_stand(condition: str, name: str, line: int, column: int) -> None:
    error = refused(condition)
    assert repr(name) in error.detail
    assert (error.extra["rule"], error.extra["line"], error.extra["column"]) == (0, line, column)


@pytest.mark.parametrize(
    "condition",
    [
        "size(input.l) > 0 && input.l.size() > 0",
        "input.s.contains('a') || input.s.startsWith('a') || input.s.endsWith('a') || input.s.matches('a.*')",
        "int(input.a) > 0 || double(input.a) > 0.0 || string(input.a) == '1' || uint(input.a) > 0u",
        "timestamp(input.t) > timestamp('2026-01-01T00:00:00Z') && timestamp(input.t).getFullYear() > 2000",
        "duration('1h') > duration('60s')",
        "type(input.a) == string",
        "input.l.all(x, x > 0) && input.l.exists(x, x > 1) && input.l.exists_one(x, x == 2)",
        "size(input.l.map(x, x * 2)) == size(input.l.filter(x, x > 0))",
        "input.l.map(x, input.l.filter(y, y > x).size())[0] == 1",
        "has(input.a) && !has(input.b) ? true : false",
    ],
)
def test_the_functions_of_cel_are_known(condition: str) -> None:
    data = {"l": [1, 2], "s": "abc", "a": "1", "t": "2026-06-01T00:00:00Z"}
    assert matches(condition, data)


def test_the_error_of_one_bad_rule_of_many_names_that_one() -> None:
    assert refused(*["true"] * 7, "fals", "true").extra["rule"] == 7


@pytest.mark.parametrize(
    ("condition", "ok"),
    [
        ("input.l.all(x, x.all(y, y > 0))", True),
        ("input.l.all(x, x.all(y, y.all(z, z > 0)))", False),
        ("input.l.all(x, x > 0) && input.l.all(x, x > 0) && input.l.all(x, x > 0)", True),
        ("input.l.map(x, input.l.exists(y, [1].filter(z, z > y).size() > x))[0]", False),
        ("input.l.all(x, (x.all(y, (y > 0))))", True),
        ("size(input.l.map(x, size(input.l.map(y, size(input.l.map(z, z))))))> 0", False),
    ],
)
def test_macros_are_nested_two_deep_at_most(condition: str, ok: bool) -> None:
    if ok:
        compiled(condition)
    else:
        assert "nested" in refused(condition).detail


@pytest.mark.parametrize("count", [MAX_MACRO_VALUES - 3, MAX_MACRO_VALUES - 2, MAX_MACRO_VALUES * 3])
def test_macros_take_a_bounded_number_of_values(count: int) -> None:
    verdict = judge("input.l.all(x, x >= 0)", {"l": [0] * count})  # the map, the list, its values and the empty context
    assert (verdict.error is None) == (count + 3 <= MAX_MACRO_VALUES)
    if verdict.error is not None:
        assert str(MAX_MACRO_VALUES) in verdict.error


def test_nested_values_count_towards_the_limit() -> None:
    assert judge("input.l.all(x, true)", {"l": [[0] * 100] * 20}).error is not None
    assert judge("input.l.all(x, true)", {"l": []}, {"big": {str(i): i for i in range(2000)}}).error is not None


def test_without_macros_large_inputs_are_judged() -> None:
    assert matches("input.v > 1", {"v": 2, "l": [0] * 5000})


@pytest.mark.parametrize(
    "condition",
    [
        "size(input.l.map(x, size(input.l.map(y, y)))) > 0",
        "input.l.all(x, size(input.l.filter(y, true)) > 0)",
        "size(input.l.map(x, input.l)) > 0",
        "input.l.all(x, input.l.all(y, y == 0))",
        " || ".join(["size(input.l.map(x, size(input.l.map(y, y)))) < 0"] * 60),
        "input.l.all(x, " + " && ".join(["!(1 in input.l)"] * 100) + ")",
    ],
    ids=["map in map", "filter in all", "map", "all in all", "map in map 60 times", "list 100 times in all"],
)
def test_the_most_that_macros_may_cost_does_not_stop_the_event_loop(condition: str) -> None:
    """Whatever size of input is not refused is judged soon (CEL has no clock to stop it)."""
    try:
        workflow = compiled(condition)
    except InvalidWorkflow:
        return  # refused for its cost
    for count in (30, 60, 95, 120, 240, 480, 990):
        data = {"l": [0] * count}
        assert cpu_s(workflow.judge, data, {}) < HANGS_S, f"{count} values"
        if workflow.judge(data, {}).error is not None:
            return


@pytest.mark.parametrize("opening", ["(", "[", "{1: "])
def test_parentheses_are_nested_a_bounded_depth(opening: str) -> None:
    closing = {"(": ")", "[": "]", "{1: ": "}"}[opening]
    depth = MAX_PARENTHESES + 1
    assert "nested" in refused(opening * depth + "1" + closing * depth).detail
    if opening == "(":
        assert matches("(" * MAX_PARENTHESES + "true" + ")" * MAX_PARENTHESES, {})


def test_brackets_in_strings_and_comments_do_not_count() -> None:
    assert matches(f"input.v == '{'(' * 100}' // {'(' * 100}", {"v": "(" * 100})


def decode(text: str) -> WorkflowDefinition:
    return msgspec.json.decode(text, type=WorkflowDefinition)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"default": {"result": {}}, "rule": []}',
        '{"default": {"result": []}}',
        '{"default": {"result": "ok"}}',
        '{"default": {"result": {}, "confidence": 1.01}}',
        '{"default": {"result": {}, "confidence": -0.1}}',
        '{"default": {"result": {}}, "rules": [{"when": "", "result": {}}]}',
        '{"default": {"result": {}}, "rules": [{"when": "true"}]}',
        '{"default": {"result": {}}, "rules": [{"result": {}}]}',
        '{"default": {"result": {}}, "rules": [{"when": "true", "result": {}, "wen": 1}]}',
        '{"default": {"result": {}, "when": "true"}}',
        '{"default": {"result": {}}, "rules": {}}',
        '{"default": {"result": {}}, "rules": [{"when": "%s", "result": {}}]}' % ("t" * (MAX_WHEN_CHARS + 1)),
        '{"default": {"result": {}}, "rules": [' + ",".join(['{"when": "true", "result": {}}'] * (MAX_RULES + 1)) + "]}",
    ],
)
def test_a_definition_of_the_wrong_shape_is_refused(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(text)


def test_the_definition_of_the_design_is_accepted() -> None:
    found = decode(
        '{"rules": [{"when": "input.value < 50.0 || input.value > 95.0", "result": {"verdict": "inspect"}, "confidence": 0.9}],'
        ' "default": {"result": {"verdict": "ok"}, "confidence": 0.99}}'
    )
    workflow = CompiledWorkflow("demo", "w", 3, found)
    assert workflow.judge({"value": 96}, {}) == Verdict(b'{"verdict":"inspect"}', 0.9, 0, None)
    assert workflow.judge({"value": 60}, {}) == Verdict(b'{"verdict":"ok"}', 0.99, None, None)
    assert workflow.version == 3


def test_a_definition_reads_back_as_it_was_written() -> None:
    before = definition("input.a > 1", "context.b == 'x'")
    assert decode(msgspec.json.encode(before).decode()) == before


def test_confidence_is_certain_where_none_is_given() -> None:
    assert Outcome(result={}).confidence == 1.0


@pytest.mark.parametrize(
    "condition",
    ["!" * 4000 + "true", "-" * 4000 + "1 > 0", "1" + "+1" * 2000 + " > 0", "true" + "&&true" * 680,
     "input" + ".a" * 2000 + " == 1",
     "true?" * 600 + "true" + ":true" * 150, "[" * 39 + "]" * 39 + " == 1", "'" * 4000, "`" * 4000, "\\" * 4000, "\0",
     "\U0001d518" * 1000],
)  # fmt: skip
def test_no_text_is_too_odd_to_be_answered(condition: str) -> None:
    with suppress(InvalidWorkflow):
        compiled(condition).judge({}, {})


@given(st.text(alphabet="input.v><=&|!()[]{}?:+-*/%'\"\\ \n10axrR,`#", max_size=40))
def test_random_text_compiles_or_is_refused(condition: str) -> None:
    with suppress(InvalidWorkflow):
        compiled(condition or "x").judge({"v": 1, "a": [1]}, {})
