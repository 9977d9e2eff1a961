"""A workflow's rules: checked and compiled once per version, then asked for each judgment. Pure.

A rule is a CEL condition over `input` and `context` (https://cel.dev); the first that is true gives the result. What they may
cost is bounded by core/rule_costs. A stored version may be older than a bound: then the rules before the first that is too
costly are asked, and where none of them is true the verdict is a failed one that says why. So nothing that is stored stops the
engine, holds it up, or decides otherwise than it did.
"""

from copy import copy
from typing import Annotated, Any

import cel
import msgspec
from msgspec import Meta

from judgify_engine.core import actions
from judgify_engine.core.actions import MAX_ACTIONS, Action, ActionName, ActionNames
from judgify_engine.core.conditions import compile_condition
from judgify_engine.core.model import Verdict
from judgify_engine.core.rule_charges import BUDGET, Refusal, charge
from judgify_engine.core.rule_costs import MAX_ADDED_CHARS, MAX_MACRO_VALUES, MAX_TOKENS, Budget, count_values, is_light
from judgify_engine.core.rule_tokens import note_fields, place_of, tokens_of
from judgify_engine.core.tracking import MAX_FIELDS, MAX_NAME_CHARS, NAME_PATTERN
from judgify_engine.errors import InvalidWorkflow

MAX_RULES = 500
MAX_WHEN_CHARS = 4096

Confidence = Annotated[float, Meta(ge=0, le=1)]
Tracked = Annotated[str, Meta(max_length=MAX_NAME_CHARS, pattern=NAME_PATTERN)]


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a rule, or the default, gives."""

    result: dict[str, Any]
    """Any JSON object; its `verdict`, where it is a string, names the result on dashboards."""
    confidence: Confidence = 1.0
    actions: ActionNames = []
    """What is to be done then; defined in `actions` of the workflow."""


_WHEN = (
    "A CEL expression over `input` and `context`. `matches` takes a pattern written out: `input.id.matches('^M[0-9]+$')`."
    f" What the patterns and macros of all rules cost is bounded ({BUDGET} units of 60 ns for one judgment), and so is how long"
    f" the conditions are together ({MAX_TOKENS} words and signs); the 422 names the first rule for which there is no room, the"
    " limit, and what came."
)


class Rule(Outcome, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule: when the condition is true, this is the result."""

    when: Annotated[str, Meta(min_length=1, max_length=MAX_WHEN_CHARS, description=_WHEN)]
    """What it may cost: see core/rule_costs."""
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


KNOWN_NAMES = frozenset(
    ["input", "context", "int", "uint", "double", "bool", "string", "bytes", "list", "map", "null_type", "type", "optional"]
)


class CompiledWorkflow:
    """One version of a workflow, ready to judge."""

    def __init__(
        self, tenant_id: str, workflow_id: str, version: int, definition: WorkflowDefinition, *, stored: bool = False
    ) -> None:
        """Compile all rules. Raises InvalidWorkflow with `rule` (index), `line`, `column` and the reason.

        `stored`: it was accepted before, so rules that cost too much are no error; see the head of this module.
        """
        self.tenant_id, self.workflow_id, self.version = tenant_id, workflow_id, version
        self.definition = definition
        self._rules = []
        self._cut: tuple[int, str] | None = None
        self._budget = Budget()
        fields: dict[str, set[str] | None] = {"input": set(), "context": set()}
        for index, rule in enumerate(definition.rules):
            program = _take(index, rule.when, self._budget)
            if isinstance(program, InvalidWorkflow):
                if not stored:
                    raise program
                self._cut = index, program.extra["reason"]
                break
            note_fields(tokens_of(rule.when), fields)
            self._rules.append((index, program.execute, msgspec.json.encode(rule.result), rule.confidence))
        self._default = Verdict(msgspec.json.encode(definition.default.result), definition.default.confidence, None, None)
        self._max_values = self._budget.most_values()
        # Most of a decision's cost is handing values to CEL (2 µs each), so only the fields that rules name are handed over.
        self._input_fields = _sorted(fields["input"])
        self._context_fields = _sorted(fields["context"])

    def as_version(self, version: int) -> "CompiledWorkflow":
        """The same, now that its version is known: compiling is the dear part of storing one."""
        known = copy(self)
        known.version = version
        return known

    @property
    def cut(self) -> str | None:
        """Why not all rules of a stored version are asked; None: all are."""
        return None if self._cut is None else f"rules[{self._cut[0]}]: {self._cut[1]}"

    def judge(self, input_data: dict[str, Any], context: dict[str, Any]) -> Verdict:
        """Ask the rules in order. Never raises for an input: a rule that fails gives a failed verdict with the reason."""
        if not self._rules:
            return self._otherwise()
        index = 0
        asked_of = self._ask_of(input_data, context)
        problem = self._problem(asked_of, input_data, context)
        if problem:
            return _failed(0, problem)
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
        return self._otherwise()

    def _otherwise(self) -> Verdict:
        """What holds where no rule is true."""
        return self._default if self._cut is None else _failed(*self._cut)

    def _problem(self, asked_of: dict[str, Any], input_data: dict[str, Any], context: dict[str, Any]) -> str | None:
        """Why an input is too large for these rules."""
        values = 0
        if self._max_values is not None:
            values = count_values(input_data) + count_values(context)
            if values > self._max_values:
                return f"the macros in these rules take inputs of at most {self._max_values} values"
        if self._budget.grows and not is_light(asked_of):
            limits = f"{MAX_MACRO_VALUES} values and {MAX_ADDED_CHARS} characters"
            return f"rules with +, map or filter take inputs of at most {limits}"
        return self._budget.problem(asked_of, values)

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


def _refused(index: int, reason: str, line: int, column: int) -> InvalidWorkflow:
    detail = f"rules[{index}].when, line {line}, column {column}: {reason}"
    return InvalidWorkflow(detail, field=f"rules[{index}].when", rule=index, line=line, column=column, reason=reason)


def _compile(index: int, when: str) -> cel.Program:
    def refuse(reason: str, line: int, column: int) -> InvalidWorkflow:
        return _refused(index, reason, line, column)

    return compile_condition(when, KNOWN_NAMES, "a condition speaks of `input` and `context`", refuse)


def _take(index: int, when: str, budget: Budget) -> cel.Program | InvalidWorkflow:
    """A condition, compiled and charged to the budget of its workflow; or what is too costly. Raises for what is wrong."""
    # The parser takes 6 µs for a token, so it is not asked of more than there is room for.
    problem = budget.read(when)
    if problem:
        return _refused(index, problem, 1, 1)
    program = _compile(index, when)
    found = charge(when)
    if isinstance(found, Refusal):
        return _refused(index, found.reason, *place_of(when, found.start))
    if "matches" in program.functions() and not found.texts:
        return _refused(index, "matches is called in a way that cannot be read: write text.matches('pattern')", 1, 1)
    problem = budget.add(found)
    return _refused(index, problem, 1, 1) if problem else program


def _sorted(names: set[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(sorted(names))


def _pick(values: dict[str, Any], names: tuple[str, ...] | None) -> dict[str, Any]:
    if names is None:
        return values
    return {name: values[name] for name in names if name in values}


def _kind(value: Any) -> str:
    names = {int: "an integer", float: "a float", str: "a string", list: "a list", dict: "a map", type(None): "null"}
    names[bool] = "a boolean"
    return names.get(type(value), type(value).__name__)


def _failed(index: int, reason: str) -> Verdict:
    # A reason may quote a name from the input or the rule; what PostgreSQL cannot store is spelt out.
    reason = reason.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
    result = msgspec.json.encode({"error": {"rule": index, "reason": reason}})
    return Verdict(result, 0.0, index, f"rules[{index}]: {reason}")
