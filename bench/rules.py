"""`bench rules`: whether rules cost no more than is told of them when they are stored, and what a usual decision costs.

Patterns, hand-made and random (`--seed`): what is told from their text (core/patterns) against the CPU time that the library
takes to compile them and to ask them of texts. Attacks: a condition that is made to be slow, as many rules of it as a workflow
may have, and inputs from small to large; each is judged, or refused. All times are CPU times of this thread, the least of a
few, so other work on the machine hardly counts. Nothing is started.

Good means: no pattern takes longer than is told, no judgment longer than the three budgets that core/rule_costs gives it
together, and a decision of the example workflow takes less than `USUAL_US`.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import cel

from judgify_engine import seed
from judgify_engine.core.patterns import PatternSize, measure
from judgify_engine.core.rule_charges import BUDGET, STEPS_A_UNIT
from judgify_engine.core.rules import MAX_RULES, MAX_WHEN_CHARS, CompiledWorkflow, Outcome, Rule, WorkflowDefinition
from judgify_engine.errors import InvalidWorkflow

from . import report

UNIT_S = 60e-9
MOST_RATIO = 1.0
MOST_S = 3 * BUDGET * UNIT_S
"""Of one judgment: loops and patterns, copies, and texts in patterns have a budget each."""
USUAL_US = 20.0
SHOWN = 8

COSTLY: dict[str, float] = {
    r"\w{50}": 12.6, r"\pL{100}": 22.3, r"\PL{50}": 8.9, r"(?i)\pL{50}": 9.1, r"[\w--\d]{50}": 11.9,
    r"[\pL&&[^a-z]]{50}": 9.0, r"(\d{1,30}){1,10}": 5.2, r".{1000}": 3.1, r"[^a]{1000}": 2.8, r"((a{0,30}){0,30}){0,30}": 4.6,
    r"a{ 100 }{ 10 }": 0.07, "|".join(f"w{i}" for i in range(700)): 0.75, r"(?i)kkkkkkkkkk+": 0.18,
    "(?i)" + "|".join(f"word{i}" for i in range(400)): 1.1, r"\p{Han}{100}": 1.3,
    r"\pN\pS\pP\pZ\pC\pM\pL\p{Lu}\p{Ll}" * 5: 4.3, "()" * 1000: 0.61, r"\b" * 1000: 0.57, "x*" * 1000: 0.99,
    r"(?i)\u017f|aa?a\u017f?\u03b81": 1.96, "[" + "".join(chr(0x4E00 + 2 * i) for i in range(1000)) + "]": 0.30,
    "a" * 4000: 0.49, r"(?P<year>\d{4})-(?<month>\d{2})": 0.24, r"(?-u:\w){1000}": 0.21, r"[[:alpha:]]{500}": 0.12,
    "한국어" * 300: 0.19, r"(\D?){600}": 30.2, r"\x{AC00}{100}": 0.02,
}  # fmt: skip
"""Patterns that are dear, each in another way, and the ms of CPU that compiling one took (Intel Xeon, 2026-11-26)."""

ATOMS: tuple[str, ...] = (
    *"abkS01é한", ".", r"\d", r"\D", r"\s", r"\S", "^", "$", r"\b", r"\w", r"\W", r"\pL", r"\p{Greek}", r"\P{Lu}", "[a-z]",
    "[^a]", "[가-힣]", r"[\w-]", r"[^\w]", r"[\w--\d]", "[[:alpha:]]", r"[\pL&&[^a-z]]", r"\x{AC00}", r"\.", r"\x41",
)  # fmt: skip
REPEATS = ("", "", "", "*", "+", "?", "*?", "{2}", "{5,}", "{0,20}", "{ 3 , 30 }", "{2}{3}")
FORMS = ("{0}{1}", "{0}|{1}", "({0}){2}", "(?i:{0}){2}", "(?:{0})(?i){1}")
TEXTS = ("", "01" * 200, "가나다a" * 100, "a" * 400, "abkKé한 01" * 50)


def many(part: str) -> str:
    """A condition as long as one may be, of the same part again and again."""
    return " || ".join([part] * ((MAX_WHEN_CHARS - 96) // (len(part) + 4)))


SLOW_NEEDLE = "a" * 150 + "b" + "a" * 150
BITS = "0110100110010110"
ATTACKS: list[tuple[str, list[dict[str, Any]]]] = [
    ("size(input.l) < 0", [{"l": [0] * n} for n in (100, 900, 9000, 120_000)]),
    (many("input.l!=input.l"), [{"l": [0] * n} for n in (10, 30, 300, 3000, 120_000)]),
    (many("'x' in input.l"), [{"l": {str(i): {"a": "x"} for i in range(n)}} for n in (5, 10, 100, 12_000)]),
    (many(f"input.s.contains('{SLOW_NEEDLE}')"), [{"s": "a" * n} for n in (1000, 30_000, 240_000)]),
    (many("duration(input.s)==duration('1s')"), [{"s": "1h" * n} for n in (100, 1000, 120_000)]),
    ("input.l.all(x, !input.s.contains('ab'))", [{"l": [0] * n, "s": "a" * m} for n in (9, 99, 900) for m in (99, 99_999)]),
    (
        "input.l.exists(x, input.l.exists(y, x.contains(y+'c')))",
        [{"l": ["ab" * m] * n} for n in (5, 30, 300) for m in (5, 500)],
    ),
    ("[input.s].map(a, a+a)[0] + input.s + 'y' == 'x'", [{"s": "a" * n} for n in (100, 1000, 16_000)]),
    (r"input.s.matches(r'\w{40}!')", [{"s": "가나다k" * n} for n in (3, 100, 10_000)]),
    ("input.s.matches('[01]*1[01]{10}2')", [{"s": BITS * n} for n in (4, 20, 100, 10_000)]),
    ("input.s.matches('1[01]{400}2')", [{"s": BITS * n} for n in (4, 100, 10_000)]),
    ("input.s.matches('.*01.*10.*01.*1011x')", [{"s": BITS * n} for n in (100, 1000, 15_000)]),
    ("input.s.matches('" + "|".join(f"w{i}" for i in range(700)) + "')", [{"s": "a" * 250_000}]),
    ("input.s.matches('(?i)" + "|".join(f"word{i}" for i in range(400)) + "')", [{"s": "\u017fk" * n} for n in (10, 50_000)]),
    (r"input.s.matches('((a{0,30}){0,30}){0,5}x')", [{"s": "a" * n} for n in (10, 300, 100_000)]),
    ("input.l.exists(x, x.matches('^b'))", [{"l": ["ab" * m] * n} for n in (5, 50, 900) for m in (5, 500)]),
    ("input.l.exists(x, input.s.matches('a{0,50}b'))", [{"l": [0] * n, "s": "a" * m} for n in (5, 90) for m in (100, 9999)]),
    ("(input.s+input.s+input.s+input.s).matches('1[01]{50}2')", [{"s": BITS * n} for n in (4, 50, 1000)]),
]
"""A condition, and inputs that are to make it slow."""

READING = {"temperature": 71.0, "pressure": 101.2, "vibration": 44.1, "machine_id": "MACHINE_3", "user_id": 3}
USUAL = {
    "example": seed.example(0).rules,
    "20 limits": [Rule(when=f"input.temperature > {90 + i}.0", result={"verdict": "inspect"}) for i in range(20)],
    "5 patterns": [Rule(when=f"input.machine_id.matches('^M{i}-.*')", result={"verdict": "inspect"}) for i in range(5)],
}
"""Rules that `READING` is asked of; none is true."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `bench rules`."""
    parser.description = "What rules cost, against what is told of them when they are stored; and a usual decision's µs."
    parser.add_argument("--patterns", type=int, default=500, help="random ones (default: 500)")
    parser.add_argument("--seed", type=int, default=1, help="of the random ones (default: 1)")
    parser.add_argument("--times", type=int, default=5, help="each is measured so often, and the least counts (default: 5)")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON (-: standard output)")


def run(args: argparse.Namespace) -> int:
    """Measure, print, judge; 0 when good, 1 when not, 2 for wrong usage."""
    if args.patterns < 0 or args.times < 1:
        print("bench rules: --times must be positive, and --patterns not negative", file=sys.stderr)
        return 2
    with report.tables_apart(args.json):
        figures = {
            "costly": [asked(pattern, [""], args.times)._asdict() for pattern in COSTLY],
            "random": [asked(pattern, TEXTS, args.times)._asdict() for pattern in random_patterns(args.seed, args.patterns)],
            "attacks": [_attack(when, inputs, args.times) for when, inputs in ATTACKS],
            "usual": {name: _decision_us(rules, args.times) for name, rules in USUAL.items()},
        }
        _show(figures)
        wrong = list(_wrong(figures))
        for one in wrong:
            print(f"NOT GOOD: {one}")
        print("NOT GOOD" if wrong else "GOOD")
    report.write_json(figures | {"wrong": wrong, "good": not wrong}, args.json)
    return 1 if wrong else 0


class Asked(NamedTuple):
    """A pattern, asked of that text of several of which what it took is closest to what is told, or most above."""

    pattern: str
    text: str
    told_ms: float
    took_ms: float
    ratio: float


def told_s(size: PatternSize, text: str) -> float:
    """What a pattern may take to be compiled and asked of a text."""
    return (size.cost + size.steps * len(text.encode()) / STEPS_A_UNIT) * UNIT_S


def asked(pattern: str, texts: Sequence[str], times: int) -> Asked:
    """Measure one pattern, with each of the texts."""
    size, found = measure(pattern), []
    for text in texts:
        context = cel.Context({"text": text, "pattern": pattern})
        told, took = told_s(size, text), _cpu_s(_ask, times, context)
        if took > told * MOST_RATIO:  # what others do to the caches only adds, so what seems too long is measured again
            took = min(took, _cpu_s(_ask, 10 * times, context))
        found.append(Asked(pattern, text, told * 1000, took * 1000, took / told))
    return max(found, key=lambda one: one.ratio)


def _ask(context: cel.Context) -> None:
    try:
        _IS_MATCH.execute(context)
    except RuntimeError as error:
        # What becomes larger than 10 MB is refused by the library, and so when it is stored; trying has its price, too.
        if "exceeds size limit" not in str(error):
            raise


_IS_MATCH = cel.compile("text.matches(pattern)")


def random_patterns(seed: int, count: int) -> Iterator[str]:
    """Of those that a rule may have."""
    chance = random.Random(seed)
    while count > 0:
        pattern = random_pattern(chance)
        if measure(pattern).cost <= BUDGET:
            count -= 1
            yield pattern


def random_pattern(chance: random.Random, parts: int = 10) -> str:
    """A pattern of up to so many parts, in groups, repetitions and alternatives."""
    if parts < 2 or chance.random() < 0.2:
        return chance.choice(ATOMS) + chance.choice(REPEATS)
    first = chance.randint(1, parts - 1)
    inner = random_pattern(chance, first), random_pattern(chance, parts - first)
    return chance.choice(FORMS).format(*inner, chance.choice(REPEATS))


def crowded(when: str) -> CompiledWorkflow:
    """A workflow with as many rules of this condition as are taken."""
    rules = [Rule(when=when, result={"verdict": "found"})] * min(MAX_RULES, 250_000 // len(when))
    try:
        return _workflow(rules)
    except InvalidWorkflow as error:
        return _workflow(rules[: int(error.extra["rule"])])


def _workflow(rules: list[Rule]) -> CompiledWorkflow:
    return CompiledWorkflow("bench", "rules", 1, WorkflowDefinition(rules=rules, default=Outcome(result={"verdict": "ok"})))


def _attack(when: str, inputs: Sequence[dict[str, Any]], times: int) -> dict[str, Any]:
    workflow = crowded(when)
    rules = workflow.definition.rules
    took = [_cpu_s(workflow.judge, times, data, {}) for data in inputs]
    worst_s, of = max(zip(took, inputs, strict=True), key=lambda pair: pair[0])
    return {
        "when": when,
        "rules": len(rules),
        "compile_ms": _cpu_s(_workflow, 1, rules) * 1000,
        "inputs": len(inputs),
        "refused": sum(workflow.judge(data, {}).error is not None for data in inputs),
        "worst_ms": worst_s * 1000,
        "worst_of": ", ".join(f"{name}: {len(value):,}" for name, value in of.items()),
    }


def _decision_us(rules: list[Rule], times: int, decisions: int = 1000) -> float:
    workflow = _workflow(rules)

    def decide() -> None:
        for _ in range(decisions):
            workflow.judge(READING, {})

    return _cpu_s(decide, times) / decisions * 1e6


def _cpu_s(call: Callable[..., object], times: int, *args: object) -> float:
    """CPU time of this thread for a call, the least of several."""
    took = []
    for _ in range(times):
        started_s = time.thread_time()
        call(*args)
        took.append(time.thread_time() - started_s)
    return min(took)


def _show(figures: dict[str, Any]) -> None:
    for kind in ("costly", "random"):
        worst = sorted(figures[kind], key=lambda one: -one["ratio"])[:SHOWN]
        rows = [(_short(one["pattern"]), len(one["text"]), one["told_ms"], one["took_ms"], one["ratio"]) for one in worst]
        print(report.table((f"{kind}: worst of {len(figures[kind])}", "of text", "told ms", "took ms", "ratio"), rows), "\n")
    heads = ("attacks", "rules", "compile ms", "inputs", "refused", "worst ms", "with")
    print(report.table(heads, [(_short(one["when"]), *list(one.values())[1:]) for one in figures["attacks"]]), "\n")
    print(report.table(("a usual decision", "us"), list(figures["usual"].items())))


def _wrong(figures: dict[str, Any]) -> Iterator[str]:
    """What does not meet the goals."""
    for one in (*figures["costly"], *figures["random"]):
        if not one["ratio"] <= MOST_RATIO:
            yield f"pattern {one['pattern'][:200]!r}: took {one['took_ms']:.2f} ms, {one['told_ms']:.2f} are told"
    for one in figures["attacks"]:
        if not one["worst_ms"] <= MOST_S * 1000:
            yield f"attack {one['when'][:200]!r}: {one['worst_ms']:.0f} ms of at most {MOST_S * 1000:g}"
    if not figures["usual"]["example"] <= USUAL_US:
        yield f"the example: {figures['usual']['example']:.1f} us of at most {USUAL_US:g}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
