"""Actions of a workflow: what a judgment's row has, and what a definition may say."""

import json
from typing import Any

import msgspec
import pytest
from builders import definition

from judgify_engine.core import rules
from judgify_engine.core.actions import Action, Alert, Webhook, destination_of, plan_of
from judgify_engine.errors import InvalidWorkflow

HOOK = {"type": "webhook", "url": "https://receiver.example/hook"}


def planned(**members: Any) -> Any:
    return plan_of(json.dumps({"default": {"result": {}}, **members}))


def names(plan: Any, status: str, rule_index: int | None) -> list[str]:
    return [named.name for named in plan.of(status, rule_index)]


def test_the_row_alone_tells_the_actions() -> None:
    plan = planned(
        rules=[{"when": "true", "result": {}, "actions": ["a", "b"]}, {"when": "true", "result": {}}],
        default={"result": {}, "actions": ["b"]},
        on_failure=["c"],
        actions={"a": HOOK, "b": HOOK, "c": {"type": "alert", "message": "m"}},
    )
    assert names(plan, "completed", 0) == ["a", "b"]
    assert names(plan, "completed", 1) == []
    assert names(plan, "completed", None) == ["b"]
    assert names(plan, "failed", 0) == ["c"]
    assert names(plan, "failed", None) == ["c"]
    assert plan.of("completed", 0)[0].action == Webhook("https://receiver.example/hook")


@pytest.mark.parametrize("rule_index", [2, 500, -1])
def test_a_rule_that_is_not_there_has_none(rule_index: int) -> None:
    plan = planned(rules=[{"actions": ["a"]}], actions={"a": HOOK})
    assert names(plan, "completed", rule_index) == []


@pytest.mark.parametrize("members", [{}, {"actions": {"a": HOOK}}, {"actions": {"a": 5}}, {"rules": [{"actions": []}]}])
def test_without_names_there_is_no_plan(members: dict[str, Any]) -> None:
    assert planned(**members) is None


@pytest.mark.parametrize(
    ("action", "said"),
    [(5, "definition is wrong"), ({"type": "mail"}, "definition is wrong"), ({**HOOK, "url": "x"}, "definition is wrong"),
     ({**HOOK, "url": "http://h:0/"}, "no port 0"), (None, "defines no such action")],
)  # fmt: skip
def test_what_is_wrong_is_kept_with_the_reason(action: Any, said: str) -> None:
    plan = planned(default={"actions": ["a", "good"]}, actions={"good": HOOK, **({} if action is None else {"a": action})})
    bad, good = plan.of("completed", None)
    assert (bad.name, bad.action) == ("a", None)
    assert said in bad.problem
    assert good.action is not None


@pytest.mark.parametrize("text", ["5", "{", '{"rules": 5, "actions": {}}', '{"default": {"actions": {}}}', "[" * 100_000])
def test_what_is_no_definition_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        plan_of(text)


@pytest.mark.parametrize(
    ("url", "destination"),
    [
        ("https://Receiver.example/hook", "receiver.example:443"),
        ("https://receiver.example:443", "receiver.example:443"),
        ("http://receiver.example?x=1", "receiver.example:80"),
        ("http://127.0.0.1:8080/", "127.0.0.1:8080"),
        ("http://[2001:DB8::1]:81/x", "[2001:db8::1]:81"),
    ],
)
def test_destination_is_host_and_port(url: str, destination: str) -> None:
    assert destination_of(Webhook(url)) == destination


@pytest.mark.parametrize(
    "url",
    ["", "ftp://h/", "//h", "http://", "http:///x", "http://u@h/", "http://u:p@h/", "http://h/#x", "http://h/ x", "http://h/\n",
     "http://h\n", "http://h:/", "http://h:123456/", "http://h/\u00e4", "HTTP://h/", "http://h\\x/"],
)  # fmt: skip
def test_what_is_no_url_to_call_is_refused(url: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"type": "webhook", "url": url}, Action)


def test_alerts_fail_together() -> None:
    assert destination_of(Alert("m")) == "alert-stream"


def check(actions: dict[str, Action], default: list[str], on_failure: list[str] | None = None) -> None:
    plain = definition("true")
    default_ = msgspec.structs.replace(plain.default, actions=default)
    rules.check_actions(msgspec.structs.replace(plain, actions=actions, default=default_, on_failure=on_failure or []))


def test_what_is_defined_and_named_is_taken() -> None:
    check({"a": Alert("m"), "b": Webhook("https://h/")}, ["a"], ["a", "b"])
    check({}, [])


@pytest.mark.parametrize(
    ("actions", "default", "on_failure", "field"),
    [
        ({}, ["a"], [], "default.actions[0]"),
        ({"a": Alert("m")}, ["a", "b"], [], "default.actions[1]"),
        ({"a": Alert("m")}, ["a", "a"], [], "default.actions[1]"),
        ({"a": Alert("m")}, ["a"], ["x"], "on_failure[0]"),
        ({"a": Alert("m"), "b": Alert("m")}, ["a"], [], "actions.b"),
        ({"a": Webhook("https://h:65536/")}, ["a"], [], "actions.a.url"),
    ],
)
def test_what_could_never_be_done_is_refused(
    actions: dict[str, Action], default: list[str], on_failure: list[str], field: str
) -> None:
    with pytest.raises(InvalidWorkflow) as error:
        check(actions, default, on_failure)
    assert error.value.extra["field"] == field
    assert error.value.detail.startswith(field)
