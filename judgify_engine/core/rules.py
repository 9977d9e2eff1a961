"""A workflow's rules: checked and compiled once per version, then asked for each judgment. Pure.

A rule is a CEL condition over `input` and `context` (https://cel.dev); the first that is true gives the result. What macros
cost is bounded here, because CEL has no clock: from the conditions follows how many values an input may hold so that a decision
stays under `MACRO_BUDGET`, `MAX_MACRO_VALUES` at most.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable
from typing import Annotated, Any

import cel
import msgspec
from msgspec import Meta

from judgify_engine.core import actions
from judgify_engine.core.actions import MAX_ACTIONS, Action, ActionName, ActionNames
from judgify_engine.core.model import Verdict
from judgify_engine.core.tracking import MAX_FIELDS, MAX_NAME_CHARS, NAME_PATTERN
from judgify_engine.errors import InvalidWorkflow

MAX_RULES = 500
MAX_WHEN_CHARS = 4096
MAX_MACRO_DEPTH = 2
MAX_MACRO_VALUES = 1000
MIN_MACRO_VALUES = 10
MACRO_BUDGET = 1_000_000
"""What all macros of a workflow may cost for one input, in units of about 60 ns."""
MAX_ADDITIONS = 16
MAX_ADDED_CHARS = 16_384
"""`+` copies texts and lists: how many of them one condition may have, and how much text an input may bring to them."""
MAX_COSTLY_MACROS = 2
MAX_COSTLY_NAMES = 16
"""How often the body of `map` or `filter` may name something: each may be a copy in the result."""
MAX_PARENTHESES = 40  # the parser gives up at some depth between 50 and 100, with an unreadable message

Confidence = Annotated[float, Meta(ge=0, le=1)]
Tracked = Annotated[str, Meta(max_length=MAX_NAME_CHARS, pattern=NAME_PATTERN)]


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a rule, or the default, gives."""

    result: dict[str, Any]
    """Any JSON object; its `verdict`, where it is a string, names the result on dashboards."""
    confidence: Confidence = 1.0
    actions: ActionNames = []
    """What is to be done then; defined in `actions` of the workflow."""


class Rule(Outcome, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule: when the condition is true, this is the result."""

    when: Annotated[str, Meta(min_length=1, max_length=MAX_WHEN_CHARS)]
    """A CEL expression over `input` and `context`."""
    name: Annotated[str, Meta(max_length=200)] = ""
    """For people."""


class WorkflowDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An ordered list of rules, first match wins, and what holds when none does."""

    rules: Annotated[list[Rule], Meta(max_length=MAX_RULES)] = []
    default: Outcome
    description: Annotated[str, Meta(max_length=2000)] = ""
    track: Annotated[list[Tracked], Meta(max_length=MAX_FIELDS, extra_json_schema={"uniqueItems": True})] = []
    """Numeric fields of `input_data` to chart, each once; dots lead into nested objects."""
    actions: Annotated[dict[ActionName, Action], Meta(max_length=MAX_ACTIONS)] = {}
    """By name: what rules, the default and `on_failure` may have done."""
    on_failure: ActionNames = []
    """What is to be done when judging fails."""


def check_tracked(definition: WorkflowDefinition) -> None:
    """Refuse a field that is tracked twice: raises InvalidWorkflow. Only for new ones; in a stored one it counts once."""
    seen: dict[str, int] = {}
    for index, name in enumerate(definition.track):
        first = seen.setdefault(name, index)
        if first != index:
            detail = f"track[{index}]: {name!r} is tracked twice, it is track[{first}] already"
            raise InvalidWorkflow(detail, field=f"track[{index}]")


def check_actions(definition: WorkflowDefinition) -> None:
    """Refuse names of actions that are not defined, and actions that nobody names: raises InvalidWorkflow."""
    named = [(f"rules[{index}].actions", rule.actions) for index, rule in enumerate(definition.rules)]
    named += [("default.actions", definition.default.actions), ("on_failure", definition.on_failure)]
    actions.check_actions(definition.actions, named)


KNOWN_FUNCTIONS = frozenset(
    [
        "size",
        "int",
        "uint",
        "double",
        "string",
        "bytes",
        "timestamp",
        "duration",
        "type",
        "dyn",
        "contains",
        "startsWith",
        "endsWith",
        "matches",
        "of",
        "none",
        "hasValue",
        "value",
        "orValue",
        "or",
        "getFullYear",
        "getMonth",
        "getDate",
        "getDayOfMonth",
        "getDayOfWeek",
        "getDayOfYear",
        "getHours",
        "getMinutes",
        "getSeconds",
        "getMilliseconds",
    ]
)
KNOWN_NAMES = frozenset(
    ["input", "context", "int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type", "optional"]
)
MACROS = frozenset(["all", "exists", "exists_one", "existsOne", "map", "filter"])

COSTLY_MACROS = frozenset(("map", "filter"))

_TOKEN = re.compile(
    r"""(?P<string>(?:[bB]?[rR][bB]?)(?:\"\"\"[\s\S]*?\"\"\"|'''[\s\S]*?'''|"[^"]*"|'[^']*')
        | [bB]?(?:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'))
      | (?P<comment>//[^\n]*) | (?P<name>[A-Za-z_]\w*) | (?P<space>\s+) | (?P<number>\d[\w.]*) | (?P<sign>.)""",
    re.VERBOSE | re.DOTALL,
)
_PLACE = re.compile(r"<input>:(\d+):(\d+): (.*)")


class CompiledWorkflow:
    """One version of a workflow, ready to judge."""

    def __init__(self, tenant_id: str, workflow_id: str, version: int, definition: WorkflowDefinition) -> None:
        """Compile all rules. Raises InvalidWorkflow with `rule` (index), `line`, `column` and the reason."""
        self.tenant_id, self.workflow_id, self.version = tenant_id, workflow_id, version
        self.definition = definition
        self._rules = []
        fields: dict[str, set[str] | None] = {"input": set(), "context": set()}
        costs: dict[int, int] = {}
        for index, rule in enumerate(definition.rules):
            program = _compile(index, rule.when, fields)
            _add_cost(rule.when, costs)
            self._rules.append((index, program.execute, msgspec.json.encode(rule.result), rule.confidence))
        self._default = Verdict(msgspec.json.encode(definition.default.result), definition.default.confidence, None, None)
        self._max_values = _values_limit(costs)
        self._copies = any(text == "+" or text in COSTLY_MACROS for rule in definition.rules for _, text in _tokens(rule.when))
        # Most of a decision's cost is handing values to CEL (2 µs each), so only the fields that rules name are handed over.
        self._input_fields = _sorted(fields["input"])
        self._context_fields = _sorted(fields["context"])

    def judge(self, input_data: dict[str, Any], context: dict[str, Any]) -> Verdict:
        """Ask the rules in order. Never raises for an input: a rule that fails gives a failed verdict with the reason."""
        if not self._rules:
            return self._default
        if self._max_values and _count_values(input_data) + _count_values(context) > self._max_values:
            return _failed(0, f"the macros in these rules take inputs of at most {self._max_values} values")
        index = 0
        asked_of = self._ask_of(input_data, context)
        if self._copies and not _is_light(asked_of):
            limits = f"{MAX_MACRO_VALUES} values and {MAX_ADDED_CHARS} characters"
            return _failed(0, f"rules with +, map or filter take inputs of at most {limits}")
        try:
            asked = cel.Context(asked_of)
            for index, execute, result, confidence in self._rules:
                matched = execute(asked)
                if matched is True:
                    return Verdict(result, confidence, index, None)
                if matched is not False:
                    return _failed(index, f"the condition must be true or false, it gave {_kind(matched)}")
        except KeyError as error:
            return _failed(index, f"no such field: {error.args[0] if error.args else '?'}")
        except BaseException as error:
            # A panic in Rust arrives as a BaseException of its own; it concerns this input only.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            return _failed(index, self._explain(error, input_data, context))
        return self._default

    def _ask_of(self, input_data: dict[str, Any], context: dict[str, Any]) -> dict[str, Any]:
        """What is handed to CEL: only what the rules name; an empty `context` alone would cost 5 µs."""
        asked: dict[str, Any] = {}
        if self._input_fields != ():
            asked["input"] = _pick(input_data, self._input_fields)
        if self._context_fields != ():
            asked["context"] = _pick(context, self._context_fields)
        return asked

    def _explain(self, error: BaseException, input_data: dict[str, Any], context: dict[str, Any]) -> str:
        """The library's first sentence and, for a wrong type, what the named fields are."""
        reason = str(error).split("\n", 1)[0].split(". ", 1)[0][:300] or type(error).__name__
        if isinstance(error, TypeError):
            kinds = [f"input.{name} is {_kind(input_data[name])}" for name in self._input_fields or () if name in input_data]
            kinds += [f"context.{name} is {_kind(context[name])}" for name in self._context_fields or () if name in context]
            reason = "; ".join([reason, *kinds[:8]])
        return reason


def _compile(index: int, when: str, fields: dict[str, set[str] | None]) -> cel.Program:
    def refuse(reason: str, line: int, column: int) -> InvalidWorkflow:
        detail = f"rules[{index}].when, line {line}, column {column}: {reason}"
        return InvalidWorkflow(detail, field=f"rules[{index}].when", rule=index, line=line, column=column, reason=reason)

    program = compile_condition(when, KNOWN_NAMES, "a condition speaks of `input` and `context`", refuse)
    _note_fields(_tokens(when), fields)
    return program


def compile_condition(
    when: str, names: Collection[str], speaks_of: str, refuse: Callable[[str, int, int], Exception]
) -> cel.Program:
    """A condition over `names`, with its form and its cost to parse bounded. `speaks_of`: said where another name is used.

    Raises what `refuse` makes of a reason, a line and a column (from 1).
    """
    problem = _check_shape(when)
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
    tokens = list(_tokens(when))
    bound = {tokens[i + 2][1] for i in range(len(tokens) - 2) if tokens[i][1] in MACROS and tokens[i + 1][1] == "("}
    for name in program.variables():
        if name not in names and name not in bound:
            raise refuse(f"unknown name {name!r}; {speaks_of}", *_find(when, name))
    for name in program.functions():
        if name.isidentifier() and name[0].isalpha() and name not in KNOWN_FUNCTIONS:
            raise refuse(f"unknown function {name!r}", *_find(when, name))
    return program


def macro_cost(when: str, values: int) -> int:
    """What the macros of a condition cost for an input of so many values, in the units of `MACRO_BUDGET`."""
    costs: dict[int, int] = {}
    _add_cost(when, costs)
    return sum(factor * values**power for power, factor in costs.items())


def members_named(when: str, names: Iterable[str]) -> dict[str, set[str] | None]:
    """Which members of each of `names` a condition names; None: it uses the whole."""
    fields: dict[str, set[str] | None] = {name: set() for name in names}
    _note_fields(_tokens(when), fields)
    return fields


def _check_shape(when: str) -> str | None:
    """Bound what the parser and the evaluation may cost, before either sees the text."""
    depth = additions = costly = names = 0
    macros: list[int] = []  # at which depth each macro that is still open was opened
    before = ""
    for kind, text in _tokens(when):
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


def _add_cost(when: str, costs: dict[int, int]) -> None:
    """Add what a condition's macros cost, as a polynomial in the number of values n: power of n -> factor.

    A macro asks its body once for each value. In this library `map` and `filter` copy their result each time, and naming
    `input` or `context` copies what is named, so both cost another power; a step of a macro costs 8 times a copied value.
    """
    depth, power = 0, 0
    open_macros: list[tuple[int, int]] = []  # depth of its parenthesis, powers it adds
    before = ""
    for kind, text in _tokens(when):
        if text in "([{":
            depth += 1
            if text == "(" and before in MACROS:
                adds = 2 if before in COSTLY_MACROS else 1
                open_macros.append((depth, adds))
                power += adds
                costs[power] = costs.get(power, 0) + 8
        elif text in ")]}":
            if open_macros and open_macros[-1][0] == depth:
                power -= open_macros.pop()[1]
            depth -= 1
        elif kind == "name" and open_macros:
            place, factor = (power + 1, 1) if text in ("input", "context") else (power, 8)
            costs[place] = costs.get(place, 0) + factor
        before = text


def _values_limit(costs: dict[int, int]) -> int | None:
    """How many values an input may hold, None: any number. Raises InvalidWorkflow when that would be next to nothing."""
    if not costs:
        return None

    def cost(values: int) -> int:
        return sum(factor * values**power for power, factor in costs.items())

    if cost(MIN_MACRO_VALUES) > MACRO_BUDGET:
        raise InvalidWorkflow("the macros in these rules cost too much: use fewer, or nest them less", field="rules")
    return bisect_right(range(MAX_MACRO_VALUES + 1), MACRO_BUDGET, lo=MIN_MACRO_VALUES, key=cost) - 1


def _tokens(when: str) -> list[tuple[str, str]]:
    """(kind, text) of each token that matters; strings come without their text."""
    found = []
    for match in _TOKEN.finditer(when):
        kind = match.lastgroup or "sign"
        if kind not in ("space", "comment"):
            found.append((kind, "''" if kind == "string" else match[0]))
    return found


def _note_fields(tokens: list[tuple[str, str]], fields: dict[str, set[str] | None]) -> None:
    """Add to `fields` which members of `input` and `context` a condition names; None: all of them, it uses the whole."""
    for i, (kind, text) in enumerate(tokens):
        if kind != "name" or text not in fields or (i > 0 and tokens[i - 1][1] == "."):
            continue
        after = [token for _, token in tokens[i + 1 : i + 4]] + ["", "", ""]
        named = after[0] == "." and after[1].isidentifier() and after[2] != "("
        known = fields[text]
        if not named:
            fields[text] = None
        elif known is not None:
            known.add(after[1])


def names_in(when: str) -> list[str]:
    """The fields that a condition names, as `input.temperature`; `input` alone where it uses the whole."""
    fields: dict[str, set[str] | None] = {"input": set(), "context": set()}
    _note_fields(_tokens(when), fields)
    return [name for whole, known in fields.items() for name in _paths(whole, known)]


def _paths(whole: str, names: set[str] | None) -> list[str]:
    return [whole] if names is None else [f"{whole}.{name}" for name in sorted(names)]


def _sorted(names: set[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(sorted(names))


def _pick(values: dict[str, Any], names: tuple[str, ...] | None) -> dict[str, Any]:
    if names is None:
        return values
    return {name: values[name] for name in names if name in values}


def _find(when: str, name: str) -> tuple[int, int]:
    """Line and column, from 1, of a name."""
    match = re.search(rf"\b{re.escape(name)}\b", when)
    start = match.start() if match else 0
    return when.count("\n", 0, start) + 1, start - when.rfind("\n", 0, start)


def _count_values(value: Any) -> int:
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


def _is_light(value: Any) -> bool:
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


def _kind(value: Any) -> str:
    names = {int: "an integer", float: "a float", str: "a string", list: "a list", dict: "a map", type(None): "null"}
    names[bool] = "a boolean"
    return names.get(type(value), type(value).__name__)


def _failed(index: int, reason: str) -> Verdict:
    # A reason may quote a name from the input or the rule; what PostgreSQL cannot store is spelt out.
    reason = reason.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    result = msgspec.json.encode({"error": {"rule": index, "reason": reason}})
    return Verdict(result, 0.0, index, f"rules[{index}]: {reason}")
