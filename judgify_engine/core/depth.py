"""How deep JSON may be nested. Pure.

Requests that are nested deeper are refused. Rows written by others may be, and then no decoder of ours is to be asked: where it
gives up depends on how deep Python's stack is just then. So of such a document nothing is read, neither here nor in SQL: it has
no tracked values and names no result, whichever way the rollups are computed.
"""

import re

MAX_DEPTH = 64
"""Arrays and objects around each other."""
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(set(range(256)) - set(b'[]{}"'))
_escape = re.compile(r"\\.", re.DOTALL)
_string = re.compile(b'"[^"]*"')


def is_deep(json: str) -> bool:
    """Whether valid JSON is nested deeper than `MAX_DEPTH`. Linear in its length."""
    if len(json) <= 2 * MAX_DEPTH or json.count("{") + json.count("[") <= MAX_DEPTH:
        return False  # nearly always, and for the example body in 0.1 µs
    if "\\" in json:
        json = _escape.sub("", json)
    # Two quotes side by side are an empty string or the border of two: without them, what is in a string stays in one.
    brackets = json.encode().translate(_ONE_KIND, _OTHERS).replace(b'""', b"")
    if b'"' in brackets:
        brackets = _string.sub(b"", brackets)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")  # the innermost ones
        if not brackets:
            return False
    return True


def is_deep_sql(value: str) -> str:
    """The same of a jsonb value, as an expression in SQL."""
    return f"""jsonb_path_exists({value}, 'strict $.**{{{MAX_DEPTH}}} ? (@.type() == "array" || @.type() == "object")')"""
