"""Actions of a workflow: what may be defined, and which of them a judgment has. Pure.

Each rule, the default, and `on_failure` name actions of the workflow. So a judgment's row tells its actions: by its version,
its status and the rule that matched.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from judgify_engine.errors import InvalidWorkflow

MAX_ACTIONS = 20
MAX_TIMEOUT_S, MAX_ATTEMPTS = 60.0, 30
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$(?!\n)"
URL = r"^https?://(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(:[0-9]{1,5})?([/?][!$-~]*)?$(?!\n)"
"""No user and password, which would be shown in records, and no fragment, which is never sent."""
_url = re.compile(URL)
PORTS = {"http": 80, "https": 443}

ActionName = Annotated[str, Meta(pattern=NAME)]
ActionNames = Annotated[list[ActionName], Meta(max_length=MAX_ACTIONS, extra_json_schema={"uniqueItems": True})]


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="webhook"):
    """An HTTP call, signed after Standard Webhooks."""

    url: Annotated[str, Meta(max_length=2000, pattern=URL)]
    """`https://` or `http://`; redirects are not followed."""
    timeout_s: Annotated[float, Meta(ge=0.1, le=MAX_TIMEOUT_S)] = 10.0
    """Of one attempt."""
    max_attempts: Annotated[int, Meta(ge=1, le=MAX_ATTEMPTS)] = 12
    """After so many it is a dead letter, which can be replayed."""


class Alert(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="alert"):
    """An entry in `alert-stream`, and a message to who listens on `alert_channel`."""

    message: Annotated[str, Meta(min_length=1, max_length=1000)]
    severity: Literal["info", "warning", "critical"] = "warning"
    about: Literal["decision", "performance"] = "decision"
    """`performance`: it is sent to `performance_alerts`, too."""
    max_attempts: Annotated[int, Meta(ge=1, le=MAX_ATTEMPTS)] = 12

    timeout_s = 10.0


Action = Webhook | Alert
ALERTS_DESTINATION = "alert-stream"


def destination_of(action: Action) -> str:
    """What fails together: `host:port` in small letters. Raises ValueError for a URL that is none."""
    if isinstance(action, Alert):
        return ALERTS_DESTINATION
    found = _url.match(action.url)
    if found is None:
        raise ValueError("the URL is not one of http or https without a user")
    port = int(found[2][1:]) if found[2] else PORTS[action.url.partition(":")[0]]
    if not 1 <= port <= 65_535:
        raise ValueError(f"there is no port {port}")
    return f"{found[1].lower()}:{port}"


def check_actions(actions: Mapping[str, Action], named: Iterable[tuple[str, Sequence[str]]]) -> None:
    """Refuse what could never be done. `named`: (field, names of actions). Raises InvalidWorkflow, which names the field."""

    def refuse(field: str, reason: str) -> InvalidWorkflow:
        return InvalidWorkflow(f"{field}: {reason}", field=field)

    used: set[str] = set()
    for field, names in named:
        for index, name in enumerate(names):
            if name not in actions:
                known = ", ".join(sorted(actions)) or "none"
                raise refuse(f"{field}[{index}]", f"there is no action {name!r}; defined: {known}")
            if name in names[:index]:
                raise refuse(f"{field}[{index}]", f"{name!r} is named twice")
        used.update(names)
    for name, action in actions.items():
        if name not in used:
            raise refuse(f"actions.{name}", "no rule names it, nor the default, nor on_failure")
        try:
            destination_of(action)
        except ValueError as error:
            raise refuse(f"actions.{name}.url", str(error)) from error


class Named(NamedTuple):
    """An action that a judgment has. `action`: None where its definition is wrong; then `problem` says how."""

    name: str
    action: Action | None
    problem: str = ""


class Plan:
    """The actions of one version of a workflow."""

    def __init__(self, rules: Sequence[Sequence[Named]], default: Sequence[Named], on_failure: Sequence[Named]) -> None:
        self._rules, self._default, self._on_failure = rules, default, on_failure

    def of(self, status: str, rule_index: int | None) -> Sequence[Named]:
        """What a judgment has; rows written by hand may name rules that are not there."""
        if status == "failed":
            return self._on_failure
        if rule_index is None:
            return self._default
        return self._rules[rule_index] if 0 <= rule_index < len(self._rules) else ()


class _Part(msgspec.Struct):
    actions: list[str] = []


class _Stored(msgspec.Struct):
    """Of a stored definition, what speaks of actions."""

    rules: list[_Part] = []
    default: _Part | None = None
    actions: dict[str, msgspec.Raw] = {}
    on_failure: list[str] = []


def plan_of(definition: str) -> Plan | None:
    """What a stored version plans; None: no actions. An action that is wrong (written by hand) is kept with the reason.

    Raises ValueError where what speaks of actions has not even their form.
    """
    try:
        stored = msgspec.json.decode(definition, type=_Stored)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"the workflow's actions cannot be read: {error}") from error
    known = {name: _named(name, raw) for name, raw in stored.actions.items()}

    def named(names: Iterable[str]) -> tuple[Named, ...]:
        each = dict.fromkeys(name.replace("\0", "")[:64] for name in names)
        return tuple(known.get(name) or Named(name, None, "the workflow defines no such action") for name in each)

    rules = [named(part.actions) for part in stored.rules]
    default = named(stored.default.actions) if stored.default else ()
    on_failure = named(stored.on_failure)
    return Plan(rules, default, on_failure) if on_failure or default or any(rules) else None


def _named(name: str, raw: msgspec.Raw) -> Named:
    try:
        action = decode_action(bytes(raw))
        destination_of(action)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return Named(name[:64], None, f"its definition is wrong: {error}")
    return Named(name[:64], action)


_decode = msgspec.json.Decoder(Action)


def decode_action(definition: bytes | str) -> Action:
    """An action from its JSON. Raises MsgspecError."""
    found: Any = _decode.decode(definition)
    return found  # type: ignore[no-any-return]
