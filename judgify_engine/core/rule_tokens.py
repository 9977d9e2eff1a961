"""A condition's text as tokens: enough to tell what it names, how deep it nests and what it calls, before CEL sees it. Pure."""

import re
from functools import lru_cache
from typing import NamedTuple

MACROS = frozenset(["all", "exists", "exists_one", "existsOne", "map", "filter"])
COSTLY_MACROS = frozenset(("map", "filter"))

MAX_MACRO_DEPTH = 2
MAX_ADDITIONS = 16
"""`+` copies texts and lists."""
MAX_COSTLY_MACROS = 2
MAX_COSTLY_NAMES = 16
"""How often the body of `map` or `filter` may name something: each may be a copy in the result."""
MAX_PARENTHESES = 40  # the parser gives up at some depth between 50 and 100, with an unreadable message

_TOKEN = re.compile(
    r"""(?P<string>(?:[bB]?[rR][bB]?)(?:\"\"\"[\s\S]*?\"\"\"|'''[\s\S]*?'''|"[^"]*"|'[^']*')
        | [bB]?(?:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'))
      | (?P<comment>//[^\n]*) | (?P<name>[A-Za-z_]\w*) | (?P<space>\s+) | (?P<number>\d\w*(?:\.\d\w*)?) | (?P<sign>.)""",
    re.VERBOSE | re.DOTALL,
)


class Token(NamedTuple):
    """`text` of a string is `''`, so that nothing takes its text for code; `written`: as it stands there."""

    kind: str
    text: str
    written: str
    start: int


@lru_cache(maxsize=4)  # each condition is looked at five times in a row, which took a third of the time to compile it
def tokens_of(when: str) -> list[Token]:
    """The tokens that matter: no spaces, no comments. Not to be changed: it is kept for whoever asks next."""
    found = []
    for match in _TOKEN.finditer(when):
        kind = match.lastgroup or "sign"
        if kind not in ("space", "comment"):
            found.append(Token(kind, "''" if kind == "string" else match[0], match[0], match.start()))
    return found


def field_named(tokens: list[Token], i: int) -> str:
    """Which member the name at `i` is asked for, as `temperature` in `input.temperature`; "": it is used as a whole."""
    after = [token.text for token in tokens[i + 1 : i + 4]] + ["", "", ""]
    return after[1] if after[0] == "." and after[1].isidentifier() and after[2] != "(" else ""


def note_fields(tokens: list[Token], fields: dict[str, set[str] | None]) -> None:
    """Add to `fields` which members of its names a condition uses; None: all of them, it uses the whole."""
    for i, token in enumerate(tokens):
        if token.kind != "name" or token.text not in fields or (i > 0 and tokens[i - 1].text == "."):
            continue
        field, known = field_named(tokens, i), fields[token.text]
        if not field:
            fields[token.text] = None
        elif known is not None:
            known.add(field)


def place_of(when: str, start: int) -> tuple[int, int]:
    """Line and column, from 1, of a character."""
    return when.count("\n", 0, start) + 1, start - when.rfind("\n", 0, start)


def check_shape(when: str) -> str | None:
    """Bound what the parser and the evaluation may cost, before either sees the text."""
    depth = additions = costly = names = 0
    macros: list[int] = []  # at which depth each macro that is still open was opened
    before = ""
    for kind, text, _, _ in tokens_of(when):
        additions += text == "+"
        costly += text == "(" and before in COSTLY_MACROS
        names += kind == "name" and costly > 0 and bool(macros)
        if text in "([{":
            depth += 1
            if depth > MAX_PARENTHESES:
                return f"parentheses are nested more than {MAX_PARENTHESES} deep"
            if text == "(" and before in MACROS:
                macros.append(depth)
                if len(macros) > MAX_MACRO_DEPTH:
                    return f"macros are nested more than {MAX_MACRO_DEPTH} deep"
        elif text in ")]}":
            if macros and macros[-1] == depth:
                macros.pop()
            depth -= 1
        before = text
    if additions > MAX_ADDITIONS:
        return f"more than {MAX_ADDITIONS} additions"
    if costly > MAX_COSTLY_MACROS:
        return f"more than {MAX_COSTLY_MACROS} of map and filter"
    if names > MAX_COSTLY_NAMES:
        return f"the bodies of map and filter name more than {MAX_COSTLY_NAMES} things"
    return None
