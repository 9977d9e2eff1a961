"""Alert rules as data: what one may say, what every tenant has without saying it, and conditions compiled. Pure.

A rule of kind `condition` is a CEL expression over figures of the last `window_s` seconds. What it may cost is bounded as for
the rules of workflows (core/rules), but tighter, as it is asked for each workflow every few seconds; and so are the figures:
they are a few dozen numbers. A figure that does not exist (the mean of nothing) is absent, and a condition that needs it does
not hold.

A further kind is a further struct in `AlertRule`, and somebody who evaluates it (pipeline/alert_kinds).
"""

import re
from typing import Annotated, Any, Literal

import cel
import msgspec
from msgspec import Meta

from judgify_engine.core.actions import NAME
from judgify_engine.core.conditions import compile_condition, members_named
from judgify_engine.core.rule_costs import macro_cost
from judgify_engine.core.samples import LIVE_S, TRACKED_PREFIX
from judgify_engine.core.tracking import MAX_NAME_CHARS, NAME_PATTERN
from judgify_engine.errors import InvalidAlertRule

MAX_RULES = 100
"""Of a tenant."""
MAX_WHEN_CHARS = 4096
MAX_WORKFLOWS, MAX_SINKS, MAX_TRACKED = 100, 20, 16
MIN_WINDOW_S, MAX_WINDOW_S, MAX_WAIT_S = 10, 86_400, 604_800
METRIC = "^" + re.escape(TRACKED_PREFIX) + NAME_PATTERN.removeprefix("^")
MOST_FIGURES = 200
"""What a condition is asked of holds no more values than this, so macros cost no more than for as many."""
MACRO_BUDGET = 50_000
"""What the macros of one condition may cost, in the units of core/rule_costs: some 3 ms."""

Severity = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
Id = Annotated[str, Meta(pattern=NAME)]
When = Annotated[str, Meta(min_length=1, max_length=MAX_WHEN_CHARS)]
Wait = Annotated[float, Meta(ge=0, le=MAX_WAIT_S)]
Workflow = Annotated[str, Meta(min_length=1, max_length=128)]

MEMBERS = {
    "window": frozenset(
        [
            "count",
            "failed",
            "success_rate",
            "mean_execution_time_ms",
            "p95_execution_time_ms",
            "max_execution_time_ms",
            "mean_confidence",
            "rate_per_s",
            "results",
            "methods",
        ]
    ),
    "usual": frozenset(["count"]),
    "quality": frozenset(["valid_share", "count"]),
}
TRACKED_MEMBERS = ("count", "mean", "min", "max")
NAMES = frozenset([*MEMBERS, "tracked", "int", "uint", "double", "bool", "string", "type", "list", "map", "null_type"])
SPEAKS_OF = "a condition speaks of `window`, `usual`, `quality` and `tracked`"


class RuleBase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What rules of all kinds have in common."""

    severity: Severity = "warning"
    about: Literal["decision", "performance"] = "decision"
    """`performance`: it is sent to `performance_alerts`, too."""
    summary: Annotated[str, Meta(max_length=500)] = ""
    """For people; absent: the rule's id."""
    for_s: Wait = 0.0
    """How long it must hold before it fires."""
    clear_for_s: Wait = 60.0
    """How long it must be over before it is resolved: what comes and goes faster is one alert."""
    sinks: Annotated[list[Id], Meta(max_length=MAX_SINKS)] | None = None
    """Who is told besides the page and the streams; absent: all sinks of the tenant."""
    enabled: bool = True


class Condition(RuleBase, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="condition"):
    """Fires when a CEL condition over the figures of a window is true."""

    when: When
    clear_when: When | None = None
    """What must be true for it to be over; absent: that `when` is not. Between the two nothing changes."""
    critical_when: When | None = None
    """An alert for which this is true, too, becomes `critical`, and stays so."""
    window_s: Annotated[int, Meta(ge=MIN_WINDOW_S, le=MAX_WINDOW_S, multiple_of=LIVE_S)] = 300
    each: Literal["tenant", "workflow"] = "tenant"
    """One alert for all workflows together, or one for each."""
    workflow_ids: Annotated[list[Workflow], Meta(max_length=MAX_WORKFLOWS)] = []
    """With `each` = `workflow`: of these only; empty: of all."""


class Anomaly(RuleBase, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="anomaly"):
    """Fires when a tracked metric leaves its usual band (core/anomaly)."""

    metric: Annotated[str, Meta(pattern=METRIC, max_length=len(TRACKED_PREFIX) + MAX_NAME_CHARS)]
    """`input.FIELD`, of a field that the workflow tracks."""
    workflow_id: Workflow | None = None
    """Absent: all workflows of the tenant together."""
    sensitivity: Annotated[float, Meta(ge=1, le=20)] = 4.0
    """Spreads from the middle to each end of the band: less finds more."""
    for_s: Wait = 1800.0
    clear_for_s: Wait = 3600.0
    season: Literal["hour", "none"] = "hour"
    """Whether hours of the day are told apart, where they differ."""
    history_days: Annotated[int, Meta(ge=7, le=90)] = 28
    """How far back the band looks: four weeks have each day of the week four times."""


AlertRule = Condition | Anomaly
"""All kinds."""

BUILT_IN: dict[str, AlertRule] = {
    "high_response_time": Condition(
        when="window.mean_execution_time_ms > 5000.0",
        window_s=300,
        severity="critical",
        about="performance",
        summary="Judgments take more than 5 s, on average over 5 minutes",
    ),
    # Of who usually has between 10 and 20 chance alone leaves fewer than 10 in many a minute, so that has to be far fewer;
    # and all of it has to last: without, that would be some 300 alerts a day where 12 come in a minute, now and then.
    "low_throughput": Condition(
        when="window.count < 10 && usual.count >= 10.0 && (usual.count >= 20.0 || double(window.count) * 3.0 < usual.count)",
        window_s=60,
        for_s=60,
        severity="warning",
        about="performance",
        summary="Fewer than 10 judgments in a minute, where there are usually more",
    ),
    # Not of the first few records: one wrong request of somebody who tries it out is no alert.
    "data_quality_alert": Condition(
        when="quality.valid_share < 0.95 && quality.count >= 20",
        critical_when="quality.valid_share < 0.90 && quality.count >= 20",
        window_s=300,
        severity="warning",
        summary="Less than 95 % of the records are valid",
    ),
}
"""What every tenant has, until it stores another one by the same name."""

_TRACKED = re.compile(r"\btracked\s*\[\s*(?:\"([^\"\\]{1,200})\"|'([^'\\]{1,200})')\s*\]\s*\.\s*([A-Za-z_]\w*)")
_TRACKED_NAME = re.compile(NAME_PATTERN)


class CompiledCondition:
    """A rule's conditions, ready to be asked. `tracked`: the fields of `input_data` that they name; `names`: what else."""

    def __init__(self, rule: Condition) -> None:
        """Raises InvalidAlertRule, which names the field, the line and the column."""
        self.rule = rule
        self.tracked: set[str] = set()
        self.cost = 0
        """What its macros cost, in the units of `MACRO_BUDGET`."""
        self.names: set[str] = set()
        """Such as `window.count`; `usual` where all of it is used."""
        self._when = self._compile("when", rule.when)
        self._clear = None if rule.clear_when is None else self._compile("clear_when", rule.clear_when)
        self._critical = None if rule.critical_when is None else self._compile("critical_when", rule.critical_when)
        if len(self.tracked) > MAX_TRACKED:
            detail = f"when: at most {MAX_TRACKED} tracked fields, got {len(self.tracked)}"
            raise InvalidAlertRule(detail, field="when", limit=MAX_TRACKED)
        if rule.workflow_ids and rule.each != "workflow":
            raise InvalidAlertRule("workflow_ids: needs each = workflow, got each = tenant", field="workflow_ids")

    def ask(self, figures: dict[str, Any]) -> "Answer":
        """Ask all of them of the figures of one window. Never raises for figures."""
        bad, absent, problem = _ask(self._when, figures)
        clear = not bad
        if self._clear is not None and not absent:
            clear, lacking, wrong = _ask(self._clear, figures)
            # What cannot be told because there is nothing to tell is over; where it is both, it is not over.
            clear, problem = (clear or lacking) and not bad, problem or wrong
        if problem:
            return Answer(bad=False, clear=False, severe=False, absent=False, problem=problem)
        severe = bad and self._critical is not None and _ask(self._critical, figures)[0]
        return Answer(bad=bad, clear=clear, severe=severe, absent=absent, problem="")

    def _compile(self, field: str, when: str) -> cel.Program:
        def refuse(reason: str, line: int, column: int) -> InvalidAlertRule:
            detail = f"{field}, line {line}, column {column}: {reason}"
            return InvalidAlertRule(detail, field=field, line=line, column=column, reason=reason)

        program = compile_condition(when, NAMES, SPEAKS_OF, refuse)
        if "matches" in program.functions():  # compiled each time it is asked: 30 of them held up all of the engine for seconds
            raise refuse("regular expressions are not for alerts: use startsWith, endsWith or contains", 1, 1)
        cost = macro_cost(when, MOST_FIGURES)
        if cost > MACRO_BUDGET:
            raise refuse("its macros cost too much: use fewer, or nest them less", 1, 1)
        self.cost += cost
        for name, members in members_named(when, MEMBERS).items():
            for member in sorted(members or ()):
                if member not in MEMBERS[name]:
                    known = ", ".join(sorted(MEMBERS[name]))
                    raise refuse(f"`{name}` has no {member!r}; it has {known}", 1, 1)
                self.names.add(f"{name}.{member}")
            if members is None:
                self.names.add(name)
        self._note_tracked(when, program, refuse)
        return program

    def _note_tracked(self, when: str, program: cel.Program, refuse: Any) -> None:
        if "tracked" not in program.variables():
            return
        found = list(_TRACKED.finditer(when))
        # Which fields are to be read must be known before: none is computed.
        if len(found) != len(re.findall(r"\btracked\b", when)):
            raise refuse('write tracked["FIELD"].count, .mean, .min or .max, with the field\'s name written out', 1, 1)
        for match in found:
            field = match[1] or match[2]
            if len(field) > MAX_NAME_CHARS or not _TRACKED_NAME.match(field):
                raise refuse(f"{field[:80]!r} is no name of a tracked field", 1, 1)
            if match[3] not in TRACKED_MEMBERS:
                raise refuse(f"a tracked field has {', '.join(TRACKED_MEMBERS)}, not {match[3][:80]!r}", 1, 1)
            self.tracked.add(field)

    def uses(self, name: str) -> bool:
        """Whether a figure such as `window.p95_execution_time_ms` is asked for."""
        return name in self.names or name.partition(".")[0] in self.names


class Answer(msgspec.Struct, frozen=True):
    """What a rule's conditions say."""

    bad: bool
    clear: bool
    """It is over. Neither: nothing changes."""
    severe: bool
    absent: bool
    """A figure that is needed does not exist."""
    problem: str
    """Why they cannot be asked."""


def _ask(program: cel.Program, figures: dict[str, Any]) -> tuple[bool, bool, str]:
    """(true, a figure is absent, why it cannot be asked)."""
    try:
        found = program.execute(cel.Context(figures))
    except KeyError:
        return False, True, ""
    except BaseException as error:
        # A panic in Rust arrives as a BaseException of its own.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        # It may quote the condition, and what is told of one rule must be such as PostgreSQL takes: all are written at once.
        return False, False, str(error).split("\n", 1)[0].replace("\0", "\\0")[:300] or type(error).__name__
    if found is True or found is False:
        return found, False, ""
    return False, False, f"a condition must be true or false, it gave {type(found).__name__}"
