"""What the rules of a version make of a stored judgment: which were tried, and what each gave. Pure.

The record says which rule matched; that is what happened. This is the same question asked again, of the input as it is stored:
`jsonb` writes numbers its own way (1e3 becomes 1000), so it says whether it comes to the same.
"""

import msgspec

from judgify_engine.core.conditions import names_in
from judgify_engine.core.rules import CompiledWorkflow


class ExplainedRule(msgspec.Struct, omit_defaults=True):
    """One rule, as it was asked again."""

    index: int
    """From 0, as `rule_index`."""
    when: str
    tried: bool
    """Rules behind the one that matches are not asked."""
    matched: bool
    uses: list[str]
    """Fields that the condition names, as `input.temperature`; `input` alone: all of it."""
    result: msgspec.Raw
    """What it gives where it matches."""
    confidence: float
    value: bool | None = None
    """What the condition gave; absent: it was not asked, or failed."""
    error: str | None = None
    name: str = ""


class Explanation(msgspec.Struct):
    """All rules of a version, in their order."""

    rules: list[ExplainedRule]
    rule_index: int | None
    """The rule that matches, or fails, now; null: the default."""
    failed: bool
    result: bytes
    """JSON; what it comes to."""


def explain(workflow: CompiledWorkflow, input_json: str, context_json: str) -> Explanation:
    """Ask the rules of a version again. The JSON is that of objects, not nested too deep (core/depth). Raises MsgspecError."""
    input_data = msgspec.json.decode(input_json, type=dict)
    verdict = workflow.judge(input_data, msgspec.json.decode(context_json, type=dict))
    rules = workflow.definition.rules
    last = len(rules) - 1 if verdict.rule_index is None else verdict.rule_index
    explained = []
    for index, rule in enumerate(rules):
        here = index == verdict.rule_index
        error = verdict.error if here else None
        tried = index <= last
        explained.append(
            ExplainedRule(
                index,
                rule.when,
                tried,
                matched=here and error is None,
                uses=names_in(rule.when),
                result=msgspec.Raw(msgspec.json.encode(rule.result)),
                confidence=rule.confidence,
                value=here if tried and error is None else None,
                error=error,
                name=rule.name,
            )
        )
    return Explanation(explained, verdict.rule_index, verdict.error is not None, verdict.result)
