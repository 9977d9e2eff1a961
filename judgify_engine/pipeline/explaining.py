"""Why a judgment came out as it did: the rules of the version that judged, asked again of the stored input."""

from collections import OrderedDict
from typing import Any, NamedTuple, Protocol

import msgspec

from judgify_engine.core.depth import MAX_DEPTH, is_deep
from judgify_engine.core.explain import ExplainedRule, explain
from judgify_engine.core.rules import CompiledWorkflow, WorkflowDefinition
from judgify_engine.errors import InvalidWorkflow

REMEMBERED = 32
"""Versions that were asked for lately: to compile one takes up to some 10 ms."""


class Versions(Protocol):
    """Where every version of a workflow is kept; see store/workflows."""

    async def get(self, tenant_id: str, workflow_id: str, version: int | None = None) -> Any | None: ...


class Explained(NamedTuple):
    """`rules` is empty where nothing can be explained; then `source` says why."""

    source: str
    rules: list[ExplainedRule]
    agrees: bool | None
    """Whether it comes to what is recorded; None: nothing was asked again."""


class Explainer:
    """Explains rows as store/judgments gives them."""

    def __init__(self, versions: Versions) -> None:
        self._versions = versions
        self._compiled: OrderedDict[tuple[str, str, int], CompiledWorkflow | str] = OrderedDict()

    async def explain(self, tenant_id: str, row: Any) -> Explained:
        """Ask the rules again. Raises DatabaseUnavailable."""
        version = row["workflow_version"]
        workflow = await self._workflow(tenant_id, row["workflow_id"], version)
        if isinstance(workflow, str):
            return Explained(workflow, [], None)
        if is_deep(row["input_data"]) or is_deep(row["context"]):
            return Explained(f"the input is nested more than {MAX_DEPTH} deep, so no rule can be asked", [], None)
        try:
            found = explain(workflow, row["input_data"], row["context"])
        except msgspec.MsgspecError as error:  # written by hand: no objects, or numbers that nobody judges
            return Explained(f"the input cannot be judged: {error}", [], None)
        agrees = (
            found.rule_index == row["rule_index"]
            and found.failed == (row["status"] == "failed")
            and msgspec.json.decode(found.result) == msgspec.json.decode(row["final_result"])
        )
        return Explained(f"version {version}, evaluated again", found.rules, agrees)

    async def _workflow(self, tenant_id: str, workflow_id: str, version: int) -> CompiledWorkflow | str:
        """The version, or why there is none."""
        key = (tenant_id, workflow_id, version)
        known = self._compiled.get(key)
        if known is None:
            stored = await self._versions.get(*key)
            if stored is None:
                return f"version {version} of this workflow was never stored here: the judgment was written by others"
            known = self._compiled[key] = _compiled(key, stored.definition)
            if len(self._compiled) > REMEMBERED:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        return known


def _compiled(key: tuple[str, str, int], definition: str) -> CompiledWorkflow | str:
    try:
        return CompiledWorkflow(*key, msgspec.json.decode(definition, type=WorkflowDefinition), stored=True)
    except (msgspec.MsgspecError, InvalidWorkflow, RecursionError) as error:
        return f"version {key[2]} cannot be used: {error}"
