"""What workflows track: which names are taken, which values count, and which version holds for a judgment."""

import msgspec
import pytest
from builders import definition
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.core.rules import WorkflowDefinition
from judgify_engine.core.tracking import Tracking, ranges, tracked_fields, tracked_names
from judgify_engine.errors import InvalidWorkflow


@pytest.mark.parametrize("name", ["heat\n", 'a"b', "a\\b", "", "9x", "a.", ".a", "a..b", "a b", "x" * 201, "new\nline"])
def test_a_name_that_no_field_can_have_is_refused_and_passed_over(name: str) -> None:
    body = msgspec.json.encode({"track": [name], "default": {"result": {}}})
    with pytest.raises((msgspec.ValidationError, InvalidWorkflow)):
        msgspec.json.decode(body, type=WorkflowDefinition)
    assert tracked_names(body.decode()) == ()


@pytest.mark.parametrize("track", ['"heat"', "null", "5", '{"a": 1}', "[5, null, []]"])
def test_what_is_no_list_of_names_tracks_nothing(track: str) -> None:
    assert tracked_names(f'{{"track": {track}}}') == ()


def test_a_name_given_twice_counts_once() -> None:
    assert tracked_names('{"track": ["heat", "heat", "온도"]}') == ("heat", "온도")
    assert definition("true").track == []


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"heat": 92.3, "a": {"b": -7}}', [("input.heat", 92_300_000), ("input.a.b", -7_000_000)]),
        ('{"heat": true, "a": {"b": "7"}}', []),
        ('{"heat": 1e13, "a": [1]}', []),
        ('{"a": {"b": 9000000000000}}', [("input.a.b", 9 * 10**18)]),
        ("[1]", []),
        ("null", []),
        ('{"heat": 1e5000, "a": {"b": 5}}', [("input.a.b", 5_000_000)]),
    ],
)
def test_numbers_within_the_limit_count_and_nothing_else(text: str, values: list[tuple[str, int]]) -> None:
    fields = tracked_fields(("heat", "a.b"))
    assert fields is not None
    assert fields.values(text) == values


@pytest.mark.parametrize(("levels", "values"), [(62, [("input.heat", 5_000_000)]), (63, [("input.heat", 5_000_000)]), (64, [])])
def test_of_what_is_nested_too_deep_nothing_counts(levels: int, values: list[tuple[str, int]]) -> None:
    fields = tracked_fields(("heat",))
    assert fields is not None
    assert fields.values(f'{{"heat": 5, "deep": {"[" * levels}{"]" * levels}}}') == values


@given(
    st.lists(st.sampled_from([(), ("a",), ("a", "b")]), max_size=6),
    st.integers(0, 8),
    st.integers(0, 80),
)
def test_sql_decides_by_ranges_what_python_decides_by_search(
    versions: list[tuple[str, ...]], version: int, created_us: int
) -> None:
    known = [("t", "w", n, n * 10, fields) for n, fields in enumerate(versions, 1)]
    tracked = Tracking(known).of("t", "w", version, created_us)
    by_range = [
        one["fields"]
        for one in ranges(known)
        if (one["from_version"] <= version < one["to_version"] if version > 0 else one["from_us"] <= created_us < one["to_us"])
    ]
    assert by_range == ([tracked.fields] if tracked is not None else [])
