"""Depth is told exactly, by Python; that SQL says the same is a test of the service."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core import depth
from judgify_engine.core.depth import MAX_DEPTH, is_deep


def nested(levels: int, inner: str = "1") -> str:
    return '{"a": [' * (levels // 2) + "[" * (levels % 2) + inner + "]" * (levels % 2) + "]}" * (levels // 2)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@pytest.mark.parametrize(
    ("inner", "adds"),
    [("1", 0), ("[]", 1), ("{}", 1), ('"[[{{"', 0), (r'"\\\"[[[["', 0), ("[[], [], 5]", 2)],
)
def test_the_deepest_that_is_read(inner: str, adds: int) -> None:
    levels = MAX_DEPTH - adds
    assert not is_deep(nested(levels, inner))
    assert is_deep(nested(levels + 1, inner))
    assert is_deep(nested(5000, inner))


def test_wide_is_not_deep() -> None:
    assert not is_deep(json.dumps([{"a": [n]} for n in range(1000)]))


@given(
    st.recursive(
        st.text('[]{}\\"a', max_size=4) | st.integers(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('[]{}\\"a', max_size=3), inner, max_size=3),
    )
)
def test_any_json_is_as_deep_as_its_values_say(value: Any) -> None:
    limit = depth.MAX_DEPTH
    try:
        for depth.MAX_DEPTH in (1, 2, 3, 4):
            assert is_deep(json.dumps(value)) == (depth_of(value) > depth.MAX_DEPTH)
    finally:
        depth.MAX_DEPTH = limit
