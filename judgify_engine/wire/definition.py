"""A workflow's definition from the body of a request. Pure."""

import msgspec

from judgify_engine.core.actions import MAX_ACTIONS, decode_action
from judgify_engine.core.rules import WorkflowDefinition, check_actions, check_tracked
from judgify_engine.errors import InvalidField
from judgify_engine.wire.request import decode_body, explain

_IN_A_MAP = "actions[...]"


class _Actions(msgspec.Struct):
    actions: dict[str, msgspec.Raw]


def decode_definition(body: bytes) -> WorkflowDefinition:
    """Decode and check what needs no compiling. Raises as `decode_body` does, and InvalidWorkflow."""
    try:
        definition: WorkflowDefinition = decode_body(body, WorkflowDefinition)
    except InvalidField as error:
        raise _with_its_name(error, body) from error
    check_tracked(definition)
    check_actions(definition)
    return definition


def _with_its_name(error: InvalidField, body: bytes) -> InvalidField:
    """The decoder does not say which member of a map is wrong."""
    if not str(error.extra.get("field")).startswith(_IN_A_MAP):
        return error
    for name, raw in list(msgspec.json.decode(body, type=_Actions).actions.items())[:MAX_ACTIONS]:
        try:
            decode_action(bytes(raw))
        except msgspec.ValidationError as wrong:
            told = explain(wrong, bytes(raw))
            if isinstance(told, InvalidField):
                field = f"actions.{name[:80]}.{told.extra['field']}".removesuffix(".body")
                reason = told.detail.partition(": ")[2]
                return InvalidField(f"{field}: {reason}", kind=told.kind, field=field)
    return error
