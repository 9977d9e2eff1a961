"""Patterns: what they cost is told from their text, from above, and what cannot be told is refused."""

import random
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.rules import COSTLY, UNIT_S, random_pattern
from judgify_engine.core.patterns import BASE_COST, PatternRefused, measure
from judgify_engine.core.rule_charges import BUDGET


@pytest.mark.parametrize("pattern", COSTLY, ids=[pattern[:30] for pattern in COSTLY])
def test_no_less_is_told_than_compiling_was_found_to_cost(pattern: str) -> None:
    """What it costs on this machine, and at this moment, is for `bench rules`."""
    assert measure(pattern).cost * UNIT_S * 1000 >= COSTLY[pattern]


@given(st.integers(0))
def test_a_pattern_in_another_costs_no_more_than_the_whole(seed: int) -> None:
    pattern = random_pattern(random.Random(seed))
    own = measure(pattern)
    for whole in (f"(?:{pattern}){{9}}", f"a|{pattern}", f"{pattern}|a", f"({pattern})?b", f"(?i:{pattern})"):
        assert measure(whole).cost > own.cost, whole
        assert measure(whole).steps >= own.steps, whole


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
