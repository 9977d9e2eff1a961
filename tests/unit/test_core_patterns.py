"""Patterns: what they cost is told from their text, from above, and what cannot be told is refused."""

import time
from contextlib import suppress

import cel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judgify_engine.core.patterns import BASE_COST, PatternRefused, measure
from judgify_engine.core.rule_charges import BUDGET

IS_MATCH = cel.compile("text.matches(pattern)")
UNIT_S = 60e-9


def cpu_s(pattern: str, text: str) -> float:
    """CPU time to compile a pattern and ask it of a text, the least of three."""
    asked = cel.Context({"text": text, "pattern": pattern})
    took = []
    for _ in range(3):
        started_s = time.thread_time()
        IS_MATCH.execute(asked)
        took.append(time.thread_time() - started_s)
    return min(took)


COSTLY = [
    r"\w{50}", r"\pL{100}", r"\PL{50}", r"(?i)\pL{50}", r"[\w--\d]{50}", r"[\pL&&[^a-z]]{50}", r"(\d{1,30}){1,10}", r".{1000}",
    r"[^a]{1000}", r"((a{0,30}){0,30}){0,30}", r"a{ 100 }{ 10 }", "|".join(f"w{i}" for i in range(700)), r"(?i)kkkkkkkkkk+",
    "(?i)" + "|".join(f"word{i}" for i in range(400)), r"\p{Han}{100}", r"\pN\pS\pP\pZ\pC\pM\pL\p{Lu}\p{Ll}" * 5, "()" * 1000,
    r"\b" * 1000, "x*" * 1000, r"(?i)\u017f|aa?a\u017f?\u03b81", "[" + "".join(chr(0x4E00 + 2 * i) for i in range(1000)) + "]",
    "a" * 4000,
    r"(?P<year>\d{4})-(?<month>\d{2})", r"(?-u:\w){1000}", r"[[:alpha:]]{500}", "한국어" * 300, r"\x{AC00}{100}",
]  # fmt: skip


@pytest.mark.parametrize("pattern", COSTLY, ids=[pattern[:30] for pattern in COSTLY])
def test_compiling_costs_no_more_than_is_told(pattern: str) -> None:
    cost = measure(pattern).cost
    assert cpu_s(pattern, "") < 2 * cost * UNIT_S  # twice: other work shares the caches


ATOMS = st.sampled_from(
    [*"abkS01é한", ".", r"\d", r"\D", r"\s", r"\S", "^", "$", r"\b", r"\w", r"\W", r"\pL", r"\p{Greek}", r"\P{Lu}", "[a-z]",
     "[^a]", "[가-힣]", r"[\w-]", r"[^\w]", r"[\w--\d]", "[[:alpha:]]", r"[\pL&&[^a-z]]", r"\x{AC00}", r"\.", r"\x41"]
)  # fmt: skip
REPEATS = st.sampled_from(["", "", "", "*", "+", "?", "*?", "{2}", "{5,}", "{0,20}", "{ 3 , 30 }", "{2}{3}"])
PATTERNS = st.recursive(
    st.builds("{}{}".format, ATOMS, REPEATS),
    lambda inner: (
        st.builds("{}{}".format, inner, inner)
        | st.builds("{}|{}".format, inner, inner)
        | st.builds("({}){}".format, inner, REPEATS)
        | st.builds("(?i:{}){}".format, inner, REPEATS)
        | st.builds("(?:{})(?i){}".format, inner, inner)
    ),
    max_leaves=10,
)
TEXTS = ["01" * 200, "가나다a" * 100, "a" * 400, "abkKé한 01" * 50]


@settings(max_examples=150, deadline=None)
@given(PATTERNS)
def test_random_patterns_cost_no_more_than_is_told(pattern: str) -> None:
    size = measure(pattern)
    if size.cost > BUDGET // 4:
        return
    for text in TEXTS:
        steps_s = size.steps * len(text.encode()) * 10e-9
        assert cpu_s(pattern, text) < 3 * size.cost * UNIT_S + 2 * steps_s + 1e-3


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("a{2,5}", "a{2,50}"), ("(a{9}){9}", "((a{9}){9}){9}"), (r"\d", r"\w"), ("abc", "(?i)abc"), ("a{5}", "a{5,500}"),
        ("a{5}", "a{500,}"), ("a{5}", "a{ 500 }"), ("a{5}", "a{0,500}"), ("a{5}", "a{,500}"), (r"[a-z]{9}", r"[a-z\pL]{9}"),
        ("(?:ab){5}", "(?:ab){5}{100}"), (r"\x{41}", r"\x{41}{500}"), (r"\b{start}", r"\b{500}"), ("(?P<n>a)", "(?P<n>a{500})"),
        (r"\{500}", r"\\{500}"), ("[{]500}", "[{]{500}"), ("[]]", "[]]{500}"), ("[^]a]", "[^]a]{500}"),
        ("[^^]a{9}", "[^^]a{500}"), ("[a-]a{9}", "[a-]a{500}"), ("[-]]", "[-]]{500}"), (r"[\]]", r"[\]]{500}"),
    ],
)  # fmt: skip
def test_what_is_repeated_more_costs_more(small: str, large: str) -> None:
    assert measure(large).cost > measure(small).cost
    assert measure(large).cost - BASE_COST > (measure(small).cost - BASE_COST) * 1.05


@pytest.mark.parametrize("pattern", [r"(\w{1,50}){1,50}", "((((a{50}){50}){50}){50}){50}", r"\w{1000}", "(?i)[\\w]{500}"])
def test_what_would_take_long_to_try_is_told_without_trying(pattern: str) -> None:
    assert measure(pattern).cost > BUDGET


@pytest.mark.parametrize("pattern", ["error|warning", ".*failed.*", "(?i)urgent", "^ab", "a.*b.*c"])
def test_words_are_looked_up_in_one_step_whatever_their_number(pattern: str) -> None:
    assert measure(pattern).steps == 1


def test_no_table_of_states_is_counted_on_where_words_end_beyond_ascii() -> None:
    assert measure(r"(?-u:\b)a.*(?-u:\b)").steps == 1
    for end in (r"\b", r"\B", r"\b{start}", r"\<", r"\>"):
        assert measure(f".*{end}.*x").steps > 12


@pytest.mark.parametrize("pattern", ["[01]*1[01]{9}", ".*a.*b.*c.*d.*e.*f", "(a|b){2,9}", r"\d+", "(.*a)*", "a{20}", "[ab]"])
def test_what_has_many_states_at_once_is_not_taken_for_words(pattern: str) -> None:
    assert measure(pattern).steps > 1


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"(?x)\w {50}", "flag `x`"), (r"(?ix:a)", "flag `x`"), ("(?=a)", "unknown kind"), ("(?<!a)b", "unknown kind"),
        ("a)", "without"), ("(a", "not closed"), ("[a", "not closed"), ("[]", "not closed"), ("[[]", "not closed"),
        ("(" * 41 + ")" * 41, "nested"), ("[" * 41 + "a" + "]" * 41, "nested"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(PatternRefused, match=reason):
        measure(pattern)


@given(st.text(alphabet="a\\dwpL{}[]()|*+?^$.-&~:<>P=!xi,0159 é", max_size=40))
def test_no_text_is_too_odd_to_be_measured(pattern: str) -> None:
    with suppress(PatternRefused):
        assert measure(pattern).cost >= BASE_COST
