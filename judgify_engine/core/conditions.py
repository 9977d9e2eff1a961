"""One condition in CEL: compiled where its form is sound and it names what there is, and read for what it names. Pure.

The rules of workflows (core/rules) and of alerts (core/alert_rules) are made of these; what they may cost is core/rule_costs.
"""

import re
from collections.abc import Callable, Collection, Iterable

import cel

from judgify_engine.core.rule_tokens import MACROS, check_shape, note_fields, place_of, tokens_of

KNOWN_FUNCTIONS = frozenset(
    ["size", "int", "uint", "double", "string", "bytes", "timestamp", "duration", "type", "dyn", "contains", "startsWith",
     "endsWith", "matches", "of", "none", "hasValue", "value", "orValue", "or", "getFullYear", "getMonth", "getDate",
     "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getHours", "getMinutes", "getSeconds", "getMilliseconds"]
)  # fmt: skip
_PLACE = re.compile(r"<input>:(\d+):(\d+): (.*)")


def compile_condition(
    when: str, names: Collection[str], speaks_of: str, refuse: Callable[[str, int, int], Exception]
) -> cel.Program:
    """A condition over `names`, with its form and its cost to parse bounded. `speaks_of`: said where another name is used.

    Raises what `refuse` makes of a reason, a line and a column (from 1).
    """
    problem = check_shape(when)
    if problem:
        raise refuse(problem, 1, 1)
    try:
        program = cel.compile(when)
    except Exception as error:
        places = list(_PLACE.finditer(str(error)))
        place = next((found for found in places if "Syntax error" in found[3]), places[0] if places else None)
        if place is None:
            raise refuse("not a CEL expression", 1, 1) from error
        raise refuse(place[3][:300], int(place[1]), int(place[2])) from error
    tokens = tokens_of(when)
    bound = {tokens[i + 2].text for i in range(len(tokens) - 2) if tokens[i].text in MACROS and tokens[i + 1].text == "("}
    for name in program.variables():
        if name not in names and name not in bound:
            raise refuse(f"unknown name {name!r}; {speaks_of}", *_find(when, name))
    for name in program.functions():
        if name.isidentifier() and name[0].isalpha() and name not in KNOWN_FUNCTIONS:
            raise refuse(f"unknown function {name!r}", *_find(when, name))
    return program


def members_named(when: str, names: Iterable[str]) -> dict[str, set[str] | None]:
    """Which members of each of `names` a condition names; None: it uses the whole."""
    fields: dict[str, set[str] | None] = {name: set() for name in names}
    note_fields(tokens_of(when), fields)
    return fields


def names_in(when: str) -> list[str]:
    """The fields that a condition names, as `input.temperature`; `input` alone where it uses the whole."""
    fields: dict[str, set[str] | None] = {"input": set(), "context": set()}
    note_fields(tokens_of(when), fields)
    return [name for whole, known in fields.items() for name in _paths(whole, known)]


def _paths(whole: str, names: set[str] | None) -> list[str]:
    return [whole] if names is None else [f"{whole}.{name}" for name in sorted(names)]


def _find(when: str, name: str) -> tuple[int, int]:
    """Line and column, from 1, of a name."""
    match = re.search(rf"\b{re.escape(name)}\b", when)
    start = match.start() if match else 0
    return place_of(when, start)
