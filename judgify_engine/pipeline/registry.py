"""Compiled workflows in memory, kept true by the change stream.

In the process that reads the log, a change is here as soon as it is rolled up. Any other process asks PostgreSQL again for an
entry older than `STALE_S`, so a change is live everywhere within a second; of one in use it asks a little before, and nobody
waits.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from judgify_engine.core.model import Change
from judgify_engine.core.rollup import Delta
from judgify_engine.core.rules import CompiledWorkflow, WorkflowDefinition
from judgify_engine.errors import InvalidWorkflow, WorkflowBroken, WorkflowNotFound

log = logging.getLogger(__name__)

STALE_S, AGING_S = 0.5, 0.25
REMEMBERED = 10_000


class Stored(Protocol):
    """A stored version; `definition` is JSON."""

    @property
    def version(self) -> int: ...
    @property
    def definition(self) -> str: ...


class WorkflowSource(Protocol):
    """Where workflows are kept."""

    async def get(self, tenant_id: str, workflow_id: str, version: int | None = None) -> Stored | None: ...


class _Entry(NamedTuple):
    """`workflow`: ready, or why it cannot be used, or None: there is none."""

    workflow: CompiledWorkflow | WorkflowBroken | None
    version: int
    asked_s: float


Key = tuple[str, str]


class WorkflowRegistry:
    """Finds the workflow of a judgment. `follows`: whether this process hears of every change."""

    def __init__(self, source: WorkflowSource, follows: Callable[[], bool]) -> None:
        self._source, self._follows = source, follows
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._asking: dict[Key, asyncio.Task[_Entry]] = {}
        self._changes = 0
        self._loop = asyncio.get_running_loop()

    def recall(self, tenant_id: str, workflow_id: str) -> CompiledWorkflow | None:
        """The workflow, if it is here and fresh. Never waits."""
        entry = self._entries.get((tenant_id, workflow_id))
        if entry is None or type(entry.workflow) is not CompiledWorkflow:
            return None
        now_s = self._loop.time()
        if entry.asked_s + AGING_S < now_s:
            if self._follows():
                self._remember((tenant_id, workflow_id), entry._replace(asked_s=now_s))  # nothing was heard against it
            elif entry.asked_s + STALE_S < now_s:
                return None
            else:
                self._begin_asking((tenant_id, workflow_id))
        return entry.workflow

    async def get(self, tenant_id: str, workflow_id: str) -> CompiledWorkflow:
        """The current version. Raises WorkflowNotFound, WorkflowBroken or DatabaseUnavailable."""
        workflow = self.recall(tenant_id, workflow_id)
        if workflow is not None:
            return workflow
        key = (tenant_id, workflow_id)
        self._begin_asking(key)
        entry = await asyncio.shield(self._asking[key])
        if entry.workflow is None:
            raise WorkflowNotFound(f"there is no workflow {workflow_id!r}", workflow_id=workflow_id)
        if isinstance(entry.workflow, WorkflowBroken):
            raise entry.workflow
        return entry.workflow

    def _begin_asking(self, key: Key) -> None:
        """Have PostgreSQL asked, together with whoever asks already."""

        def asked(task: "asyncio.Task[_Entry]") -> None:
            self._asking.pop(key, None)
            if not task.cancelled() and (error := task.exception()) is not None:  # whoever waits for it hears it too
                log.debug("a workflow cannot be asked for", extra={"workflow_id": key[1], "reason": str(error)})

        if key not in self._asking:
            task = self._asking[key] = asyncio.create_task(self._ask(key), name="workflow-ask")
            task.add_done_callback(asked)

    async def _ask(self, key: Key) -> _Entry:
        """Ask PostgreSQL. An answer that a change overtook meanwhile is asked for again."""
        while True:
            changes = self._changes
            stored = await self._source.get(*key)
            if changes == self._changes:
                break
        entry = self._entry(key, None if stored is None else (stored.version, stored.definition))
        if entry.workflow is not None:  # what does not exist is asked for each time: someone may be about to make it
            self._remember(key, entry)
        else:
            self._entries.pop(key, None)
        return entry

    def _entry(self, key: Key, stored: tuple[int, str] | None) -> _Entry:
        now_s = self._loop.time()
        if stored is None:
            return _Entry(None, 0, now_s)
        version, definition = stored
        known = self._entries.get(key)
        if known is not None and known.version == version:
            return _Entry(known.workflow, version, now_s)
        try:
            parsed = msgspec.json.decode(definition, type=WorkflowDefinition)
            workflow = CompiledWorkflow(*key, version, parsed, stored=True)
            if workflow.cut is not None:
                log.warning(
                    "a stored workflow has rules that are not asked", extra={"workflow_id": key[1], "reason": workflow.cut}
                )
            return _Entry(workflow, version, now_s)
        except (msgspec.MsgspecError, InvalidWorkflow, RecursionError) as error:
            log.warning("a stored workflow cannot be used", extra={"workflow_id": key[1], "reason": str(error)})
            broken = WorkflowBroken(f"version {version} of {key[1]!r} cannot be used: {error}", workflow_id=key[1])
            return _Entry(broken, version, now_s)

    def rolled_up(self, delta: Delta, workflows: Sequence[Change]) -> None:
        """Follow the change stream (a `ChangeSink`)."""
        for change in workflows:
            self._changes += 1
            row = change.new if change.new is not None else change.old
            if row is None:  # truncated
                self._entries.clear()
                continue
            if not row:
                continue
            key = (row["tenant_id"], row["workflow_id"])
            if change.new is None:
                self._entries.pop(key, None)
            elif key in self._entries and self._entries[key].version < row["version"]:
                self._remember(key, self._entry(key, (row["version"], row["definition"])))

    def stored(self, workflow: CompiledWorkflow) -> None:
        """This process has just stored a new version: use it at once."""
        self._changes += 1
        key = (workflow.tenant_id, workflow.workflow_id)
        known = self._entries.get(key)
        if known is None or known.version < workflow.version:
            self._remember(key, _Entry(workflow, workflow.version, self._loop.time()))

    def deleted(self, tenant_id: str, workflow_id: str) -> None:
        """This process has just deleted a workflow."""
        self._changes += 1
        self._entries.pop((tenant_id, workflow_id), None)

    def forget(self) -> None:
        """Ask for everything again: changes may have been missed (this process has just begun to read the log)."""
        self._changes += 1
        self._entries.clear()

    def _remember(self, key: Key, entry: _Entry) -> None:
        self._entries[key] = entry
        self._entries.move_to_end(key)
        while len(self._entries) > REMEMBERED:
            self._entries.popitem(last=False)
