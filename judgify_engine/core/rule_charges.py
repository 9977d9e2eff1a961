"""What one condition costs, read from its text, in units of about 60 ns. Pure.

See core/rule_costs for what is bounded and why; here is how it is counted.
"""

from typing import NamedTuple

import cel

from judgify_engine.core.patterns import PatternRefused, PatternSize, measure
from judgify_engine.core.rule_tokens import COSTLY_MACROS, MACROS, Token, field_named, tokens_of

BUDGET = 1_000_000
"""What each of the three kinds of cost may come to for one judgment: 60 ms."""
BYTES_A_UNIT = 48
"""`contains` reads a text with 1.3 ns a byte where it is made to be slow; nothing else but `duration` takes longer."""
DURATION_UNITS = 12
"""`duration` takes that many times as long."""
STEPS_A_UNIT = 6
SHORT_BYTES = 64
"""Of so much text each pattern is asked in any case."""

Costs = dict[int, int]
"""A polynomial in the number of values n: power of n -> factor."""
Place = tuple[str, str]
"""A field, as ("input", "temperature"); ("input", ""): all of it; EVERYTHING: all that is handed over."""
EVERYTHING: Place = ("", "")


class PatternCall(NamedTuple):
    """`matches` with a pattern that is written out. `own`: asked of a macro's own variable, each text once."""

    size: PatternSize
    power: int
    own: bool
    path: bool
    """Of a field or a variable as it is, so its text is in the input."""


class Refusal(NamedTuple):
    """Why a condition is not taken, and at which character."""

    reason: str
    start: int


class Charge(NamedTuple):
    """What one condition costs. `literals`: how many values it has written out itself, for its macros to go over."""

    loops: Costs
    literals: int
    copies: dict[Place, Costs]
    texts: Costs
    """Steps for each byte of text."""
    grows: bool
    """It has `+`, `map` or `filter`."""


def charge(when: str) -> Charge | Refusal:
    """What a condition that was compiled costs; a refusal: a pattern of it cannot be bounded."""
    tokens = tokens_of(when)
    powers = _powers(tokens)
    calls: list[PatternCall] = []
    for i, token in enumerate(tokens):
        if token.text == "matches" and tokens[i + 1 : i + 2] and tokens[i + 1].text == "(":
            found = _pattern_call(tokens, powers, i)
            if isinstance(found, Refusal):
                return found
            calls.append(found)
    grown = _grown(tokens)
    loops = _loops(tokens, powers, grown)
    written = sum(_bytes(token.written) for token in tokens if token.kind == "string")
    texts: Costs = {}
    for size, power, own, path in calls:
        add_cost(loops, power, size.cost + size.steps * (SHORT_BYTES + (0 if path else written * grown)) // STEPS_A_UNIT)
        add_cost(texts, max(power - own, 0), size.steps * grown)
    copies = _copies(tokens, powers, grown)
    for place, named in copies.items():
        if grown > 1 or place == EVERYTHING:  # what a macro goes over, or `duration` reads, may be written out
            for power, factor in named.items():
                add_cost(loops, power, factor * written // BYTES_A_UNIT)
    literals = _literals(tokens) if any(powers) else 0
    grows = any(token.text == "+" or token.text in COSTLY_MACROS for token in tokens)
    return Charge(loops, literals * grown, copies, texts, grows)


def _powers(tokens: list[Token]) -> list[int]:
    """How often each token is asked, as a power of the number of values.

    A macro asks its body once for each value. In this library `map` and `filter` copy their result each time, which costs
    another power.
    """
    depth = power = 0
    open_macros: list[tuple[int, int]] = []  # depth of its parenthesis, powers it adds
    powers, before = [], ""
    for token in tokens:
        if token.text in "([{":
            depth += 1
            if token.text == "(" and before in MACROS:
                adds = 2 if before in COSTLY_MACROS else 1
                open_macros.append((depth, adds))
                power += adds
        elif token.text in ")]}":
            if open_macros and open_macros[-1][0] == depth:
                power -= open_macros.pop()[1]
            depth -= 1
        powers.append(power)
        before = token.text
    return powers


def _loops(tokens: list[Token], powers: list[int], grown: int) -> Costs:
    """What macros cost: naming `input` or `context` copies what is named; a step of a macro costs 8 times a copied value.

    What their bodies write out is made, and read, each time.
    """
    costs: Costs = {}
    for i, (token, power) in enumerate(zip(tokens, powers, strict=True)):
        opens = token.text == "(" and i > 0 and tokens[i - 1].text in MACROS
        if opens or (power and token.kind == "name"):
            copied = not opens and token.text in ("input", "context")
            add_cost(costs, power + copied, (1 if copied else 8) * grown ** (power + copied))
        elif power and (token.kind in ("string", "number") or _opens_literal(token, tokens[i - 1])):
            add_cost(costs, power, (1 + _bytes(token.written) // BYTES_A_UNIT) * grown**power)
    return costs


def _literals(tokens: list[Token]) -> int:
    """How many values stand in lists and maps that the condition writes out for its macros to go over."""
    found, before = 0, Token("sign", "", "", 0)
    holds: list[int] = []  # of each parenthesis that is open: values so far in the list or map that it opened; 0: it is neither
    sought: list[bool] = []
    for token, after in zip(tokens, [*tokens[1:], before], strict=True):
        if token.text in "([{":
            holds.append(_opens_literal(token, before))
            sought.append(before.text == "in")
        elif token.text in ")]}" and holds:
            values = holds.pop()
            # What comes of `x in [1, 2]` is true or false.
            found += 0 if sought.pop() and after.text not in (".", "[") else values
        elif token.text == "," and holds and holds[-1]:
            holds[-1] += 1
        before = token
    return found


def _opens_literal(token: Token, before: Token) -> bool:
    """Whether a list or a map is written out from here; else it is a call, an index, or no parenthesis."""
    index = before.text != "in" and (before.kind in ("name", "string") or before.text in (")", "]", "}"))
    return token.text == "{" or (token.text == "[" and not index)


def _copies(tokens: list[Token], powers: list[int], grown: int) -> dict[Place, Costs]:
    """How often each field is copied or read."""
    copies: dict[Place, Costs] = {}
    for i, (token, power) in enumerate(zip(tokens, powers, strict=True)):
        called = tokens[i + 1 : i + 2] and tokens[i + 1].text == "("
        member = i > 0 and tokens[i - 1].text == "."
        if token.text in ("input", "context") and token.kind == "name" and not member:
            add_cost(copies.setdefault((token.text, field_named(tokens, i) or _field_indexed(tokens, i)), {}), power, grown)
        elif token.text == "+":
            add_cost(copies.setdefault(EVERYTHING, {}), power, grown)
        elif token.text == "duration" and called:
            add_cost(copies.setdefault(EVERYTHING, {}), power, grown * DURATION_UNITS)
        elif power and token.kind == "name" and not member and not called:
            # A macro's own variable: over all of its values that is what was gone over, once.
            add_cost(copies.setdefault(EVERYTHING, {}), power - 1, grown)
    return copies


def _field_indexed(tokens: list[Token], i: int) -> str:
    """The same for `input["odd-key"]`, with a plain text; "": anything else."""
    near = tokens[i + 1 : i + 4]
    if [token.text for token in near] != ["[", "''", "]"]:
        return ""
    text = near[1].written
    plain = text[0] in "\"'" and text[:3] not in ('"""', "'''") and "\\" not in text
    return text[1:-1] if plain else ""


def _grown(tokens: list[Token]) -> int:
    """How many times as large as the input a value can become by `+`, which macros can bind and add again."""
    additions = macros = counted = 0
    for i, token in enumerate(tokens):
        macros += token.text == "(" and i > 0 and tokens[i - 1].text in MACROS
        if token.text != "+":
            continue
        # A text or number that is written out doubles nothing; each excuses the one `+` before it, or behind.
        beside = [near for near in (i - 1, i + 1) if counted < near < len(tokens) and tokens[near].kind in ("string", "number")]
        additions += not beside
        counted = beside[0] if beside else counted
    rounds = min(additions, macros + 1)
    return int((1 + additions / rounds) ** rounds) + 1 if rounds > 1 else 1 + additions


def _pattern_call(tokens: list[Token], powers: list[int], i: int) -> PatternCall | Refusal:
    """The call `text.matches('pattern')` at `i`."""
    literal, closing = (tokens[i + 2 : i + 4] + [tokens[i]] * 2)[:2]
    if literal.kind != "string" or closing.text != ")" or i == 0 or tokens[i - 1].text != ".":
        return Refusal("the pattern of matches must be written out, as in text.matches('pattern')", tokens[i].start)
    size = _size_of(literal.written)
    if isinstance(size, str):
        return Refusal(f"the pattern {literal.written[:80]} of matches: {size}", literal.start)
    first = i
    while first >= 2 and tokens[first - 1].text == "." and tokens[first - 2].kind == "name":
        first -= 2
    path = first < i and (first == 0 or tokens[first - 1].text != ".")
    own = path and tokens[first].text not in ("input", "context")
    return PatternCall(size, powers[i], own, path)


def _size_of(literal: str) -> PatternSize | str:
    """The size of a pattern as it is written in CEL, or why it is none. The library is asked only of what is small enough."""
    pattern = cel.compile(literal).execute({})
    if not isinstance(pattern, str):
        return "it must be a text"
    try:
        size = measure(pattern)
    except PatternRefused as error:
        return str(error)
    if size.cost <= BUDGET:
        try:
            _IS_PATTERN.execute({"pattern": pattern})
        except Exception as error:
            lines = [line.strip() for line in str(error).split("\n") if line.strip()]
            found = next((line for line in lines if line.startswith("error:")), lines[-1] if lines else "error")
            return f"not a regular expression: {found.removeprefix('error:').split('. Check ')[0].strip()[:200]}"
    return size


_IS_PATTERN = cel.compile("''.matches(pattern)")


def _bytes(written: str) -> int:
    return len(written) if written.isascii() else 4 * len(written)


def add_cost(costs: Costs, power: int, factor: int) -> None:
    costs[power] = costs.get(power, 0) + factor
