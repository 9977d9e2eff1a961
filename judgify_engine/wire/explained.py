"""One judgment's whole record with what its rules gave and what was done for it. Pure."""

from collections.abc import Sequence
from typing import Any

from judgify_engine.core.explain import ExplainedRule
from judgify_engine.wire.actions import ActionRecord, action_of
from judgify_engine.wire.answer import JudgmentRecord, record_of


class ExplainedRecord(JudgmentRecord, kw_only=True, omit_defaults=True):
    """The whole record; with `?explain=true` also why it came out so."""

    explained_from: str | None = None
    """`version N, evaluated again`; or why nothing could be explained."""
    rules: list[ExplainedRule] | None = None
    """All rules of that version, in their order."""
    agrees: bool | None = None
    """Whether the rules, asked again of the stored input, come to what is recorded; absent: they could not be asked."""
    actions: list[ActionRecord] | None = None
    """What was, or will be, done for it, newest first; 100 at most."""


def explained_of(
    row: Any, source: str, rules: list[ExplainedRule], agrees: bool | None, actions: Sequence[Any]
) -> ExplainedRecord:
    """From the stored row, what is explained (pipeline/explaining), and the rows of its actions."""
    record = record_of(row)
    members = {name: getattr(record, name) for name in record.__struct_fields__}
    done = [action_of(action) for action in actions]
    return ExplainedRecord(**members, explained_from=source, rules=rules, agrees=agrees, actions=done)
