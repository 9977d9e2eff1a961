"""What the conditions of a workflow may cost, in units of about 60 ns. Pure.

CEL has no clock, so cost is bounded before: what can be told from the conditions when they are stored, what depends on the
input when it comes. Three things cost more than the few µs of a rule, and each has a budget of 60 ms for one judgment:

- *loops and patterns*: a macro asks its body once for each value, and a pattern is compiled each time it is asked
  (core/patterns). They are a polynomial in the number of values; from it follows how many an input may hold,
  `MAX_MACRO_VALUES` at most.
- *copies*: naming a field copies what is in it, and functions read texts from end to end.
- *texts in patterns*: what a pattern may have to do for a byte, for each byte of text that it may be asked of.

`+` makes larger what the others see, so all of them count with what it can grow to.
"""

from bisect import bisect_right
from typing import Any

from judgify_engine.core.rule_charges import (
    BUDGET,
    BYTES_A_UNIT,
    EVERYTHING,
    SHORT_BYTES,
    STEPS_A_UNIT,
    Charge,
    Costs,
    Place,
    Refusal,
    add_cost,
    charge,
)
from judgify_engine.core.rule_tokens import tokens_of

MAX_MACRO_VALUES = 1000
MIN_MACRO_VALUES = 10
MAX_ADDED_CHARS = 16_384
"""How much text an input may bring to `+`, `map` and `filter`, which copy it."""
QUICK_BYTES = 256
"""So much text adds less than a budget to what loops and tokens may cost, so it is not weighed."""
MAX_TOKENS = 30_000
"""Of all conditions together, 60 for each of 500: to compile so many takes up to 0.15 s, once for each version and process."""


class Budget:
    """What the conditions of a workflow cost together, added one by one while there is room."""

    def __init__(self) -> None:
        self._loops: Costs = {}
        self._literals = 0
        self._copies: dict[Place, Costs] = {}
        self._texts: Costs = {}
        self._tokens = 0
        self.grows = False

    def read(self, when: str) -> str | None:
        """Before a condition is compiled; why there is no room to."""
        self._tokens += len(tokens_of(when))
        if self._tokens > MAX_TOKENS:
            return f"with it the conditions have {self._tokens} words and signs together, of at most {MAX_TOKENS}"
        return None

    def add(self, more: Charge) -> str | None:
        """Add a condition; or say why there is no room for it, and leave it out."""
        loops = dict(self._loops)
        _add_all(loops, more.loops)
        literals = max(self._literals, more.literals)
        cost = _cost(loops, MIN_MACRO_VALUES + literals)
        if cost > BUDGET:
            own = _cost(more.loops, MIN_MACRO_VALUES + more.literals)
            detail = f"with it the macros and patterns (matches) of the rules cost {cost} units of 60 ns, of at most {BUDGET}"
            advice = r"use fewer, nest or repeat them less, and write [0-9A-Za-z_] for \w, [0-9] for \d"
            return f"{detail}; its own cost {own}: {advice}"
        self._loops, self._literals, self.grows = loops, literals, self.grows or more.grows
        for place, costs in more.copies.items():
            _add_all(self._copies.setdefault(place, {}), costs)
        _add_all(self._texts, more.texts)
        return None

    def most_values(self) -> int | None:
        """How many values an input may hold, None: any number."""
        if not any(self._loops):
            return None

        def cost(values: int) -> int:
            return _cost(self._loops, values + self._literals)

        return bisect_right(range(MAX_MACRO_VALUES + 1), BUDGET, lo=MIN_MACRO_VALUES, key=cost) - 1

    def problem(self, asked_of: dict[str, Any], values: int) -> str | None:
        """Why these values, by `input` and `context`, are too much. `values`: how many the input holds (with macros)."""
        if _is_small(asked_of, bool(self._texts)):
            return None  # nearly all inputs: numbers and short texts cost what a rule costs
        loads = {(root, name): value for root, known in asked_of.items() for name, value in known.items()}
        values += self._literals
        units = size_bytes = 0
        whole: dict[str, int] = {}
        for (root, name), value in loads.items():
            found, found_bytes = weigh(value)
            units += found * _cost(self._copies.get((root, name), {}), values)
            size_bytes += found_bytes
            whole[root] = whole.get(root, 0) + found
        units += sum(found * _cost(self._copies.get((root, ""), {}), values) for root, found in whole.items())
        units += sum(whole.values()) * _cost(self._copies.get(EVERYTHING, {}), values)
        if units > BUDGET:
            return f"texts and lists that these rules name so often are too large: they cost {units} units, of at most {BUDGET}"
        steps = _cost(self._texts, values)
        if steps * size_bytes > BUDGET * STEPS_A_UNIT:
            most = BUDGET * STEPS_A_UNIT // steps
            return f"the patterns (matches) in these rules take at most {most} bytes of text from an input, it has {size_bytes}"
        return None


def macro_cost(when: str, values: int) -> int:
    """What the macros of a condition cost for an input of so many values."""
    found = charge(when)
    return BUDGET if isinstance(found, Refusal) else _cost(found.loops, values + found.literals)


def count_values(value: Any) -> int:
    """How many values a JSON value holds, itself included; stops counting above the limit."""
    count, waiting = 0, [value]
    while waiting and count <= MAX_MACRO_VALUES:
        count += 1
        node = waiting.pop()
        if isinstance(node, dict):
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
    return count + len(waiting)


def is_light(value: Any) -> bool:
    """Whether a JSON value is small enough to be copied a few times."""
    count, chars, waiting = 0, 0, [value]
    while waiting and count <= MAX_MACRO_VALUES and chars <= MAX_ADDED_CHARS:
        count += 1
        node = waiting.pop()
        if isinstance(node, str):
            chars += len(node)
        elif isinstance(node, dict):
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
    return count + len(waiting) <= MAX_MACRO_VALUES and chars <= MAX_ADDED_CHARS


def weigh(value: Any) -> tuple[int, int]:
    """(units to copy a JSON value, bytes of text in it, also of numbers written out); stops above the budget.

    A value of a list takes 20 ns, one of a map up to 250.
    """
    units = size_bytes = 0
    waiting = [value]
    while waiting and units <= BUDGET:
        node = waiting.pop()
        units += 1
        if isinstance(node, str):
            size = len(node) if node.isascii() else 4 * len(node)
            units += size // BYTES_A_UNIT
            size_bytes += size
        elif isinstance(node, dict):
            units += sum(4 + len(key) * 4 // BYTES_A_UNIT for key in node)
            size_bytes += sum(4 * len(key) for key in node)
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
        else:
            size_bytes += _number_bytes(node)
    return units, size_bytes


def _is_small(asked_of: dict[str, Any], patterns: bool) -> bool:
    """Whether values are a few numbers and short texts, which is charged in advance: 0.5 µs, where weighing takes 5."""
    size = 0
    for known in asked_of.values():
        for value in known.values():
            kind = type(value)
            if kind is str:
                size += len(value) if value.isascii() else 4 * len(value)
            elif kind is list or kind is dict:
                return False
            elif patterns:
                size += _number_bytes(value)
    return size <= (SHORT_BYTES if patterns else QUICK_BYTES)


def _number_bytes(value: float | bool | None) -> int:
    """How long a number, or what else is no text, may be when it is written out."""
    return 350 if type(value) is float and value and not 1e-5 < abs(value) < 1e20 else 24


def _cost(costs: Costs, values: int) -> int:
    return sum(factor * values**power for power, factor in costs.items())


def _add_all(costs: Costs, more: Costs) -> None:
    for power, factor in more.items():
        add_cost(costs, power, factor)
