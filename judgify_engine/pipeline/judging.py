"""One judgment from a valid request to its answer: judge, queue, wait for the commit. The same for every edge.

A repeated `Idempotency-Key` gets the first answer: from the request that is under way here, or from the table, or, when two
processes race, from the loss of the race inside the commit.
"""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import msgspec
import uuid_utils

from judgify_engine.core.model import Judgment, Verdict
from judgify_engine.core.partition import partition_of
from judgify_engine.core.rules import CompiledWorkflow
from judgify_engine.errors import CommitUnknown, IdempotencyMismatch, JudgifyError, Unavailable
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.accepted import Accepted
from judgify_engine.pipeline.partition_queue import PartitionQueue, Sender
from judgify_engine.pipeline.ports import Outcome, Replayed
from judgify_engine.pipeline.registry import WorkflowRegistry
from judgify_engine.wire.answer import encode_answer
from judgify_engine.wire.request import Asked

MAX_EXECUTION_MS = 30_000.0


class Answer(NamedTuple):
    """The body of a 200, and whether it is the first answer again."""

    body: bytes
    replayed: bool


class KeySource(Protocol):
    """Where idempotency keys are kept."""

    async def by_key(self, tenant_id: str, key: str) -> Any | None: ...


class Judging:
    """Decides and has it committed."""

    def __init__(
        self,
        registry: WorkflowRegistry,
        queues: Sequence[PartitionQueue],
        keys: KeySource,
        metrics: Metrics,
        accepted: Accepted,
    ) -> None:
        self._accepted = accepted
        self._registry, self._queues, self._keys, self._metrics = registry, queues, keys, metrics
        self._under_way: dict[tuple[str, str], tuple[bytes, asyncio.Future[bytes]]] = {}

    async def execute(self, tenant_id: str, asked: Asked, started_s: float, key: str | None) -> Answer:
        """Judge and commit. `started_s`: `time.perf_counter()` when the request came.

        Raises what is a clear answer: WorkflowNotFound, RowRefused, QueueFull, DatabaseUnavailable, CommitUnknown, …
        """
        if key is not None:
            return await self._execute_once(tenant_id, asked, started_s, key)
        workflow = await self._registry.get(tenant_id, asked.workflow_id)
        judgment = self._judge(workflow, asked, started_s)
        waiting = self._put(judgment)
        await asyncio.wait((waiting,))
        return Answer(self.finish(judgment, waiting), False)

    def begin(
        self, tenant_id: str, asked: Asked, started_s: float, sender: Sender
    ) -> "tuple[Judgment, asyncio.Future[Outcome]] | None":
        """What `execute` does before it waits, for a request without a key; `finish` is the rest.

        None: the workflow is not in memory. Raises QueueFull or Draining.
        """
        workflow = self._registry.recall(tenant_id, asked.workflow_id)
        if workflow is None:
            return None
        judgment = self._judge(workflow, asked, started_s)
        return judgment, self._put(judgment, sender)

    def finish(self, judgment: Judgment, waiting: "asyncio.Future[Outcome]") -> bytes:
        """The answer's body, now that the commit has an outcome. Raises that outcome where it is an error."""
        outcome = _outcome_of(judgment, waiting)
        if outcome is not None:
            assert isinstance(outcome, JudgifyError)
            raise outcome
        self._metrics.judgments[judgment.status] += 1
        self._accepted.note(judgment.tenant_id, judgment.created_at_us)
        return judgment.answer or encode_answer(judgment)

    async def _execute_once(self, tenant_id: str, asked: Asked, started_s: float, key: str) -> Answer:
        fingerprint = _fingerprint(asked)
        known = self._under_way.get((tenant_id, key))
        while known is not None and known[0] != fingerprint:
            await asyncio.wait((known[1],))  # what is stored decides, not what is under way
            known = self._under_way.get((tenant_id, key))
        if known is not None:
            body = await asyncio.shield(known[1])
            self._metrics.judgments["replayed"] += 1
            return Answer(body, True)
        first: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._under_way[tenant_id, key] = (fingerprint, first)
        try:
            answer = await self._first_or_stored(tenant_id, asked, started_s, key, fingerprint)
        except BaseException as error:
            cut_off = Unavailable("the first request with this key was cut off; send it again")
            first.set_exception(error if isinstance(error, Exception) else cut_off)
            first.exception()  # heard: nobody else may be waiting for it
            raise
        else:
            first.set_result(answer.body)
            return answer
        finally:
            del self._under_way[tenant_id, key]

    async def _first_or_stored(self, tenant_id: str, asked: Asked, started_s: float, key: str, fingerprint: bytes) -> Answer:
        row = await self._keys.by_key(tenant_id, key)
        if row is not None:
            return self._replay(row["fingerprint"], row["answer"], fingerprint, key)
        workflow = await self._registry.get(tenant_id, asked.workflow_id)
        judgment = self._judge(workflow, asked, started_s)
        judgment.idempotency_key, judgment.fingerprint, judgment.answer = key, fingerprint, encode_answer(judgment)
        waiting = self._put(judgment)
        await asyncio.wait((waiting,))
        outcome = _outcome_of(judgment, waiting)
        if isinstance(outcome, Replayed):
            return self._replay(outcome.fingerprint, outcome.answer, fingerprint, key)
        return Answer(self.finish(judgment, waiting), False)

    def _replay(self, stored: bytes, answer: bytes, fingerprint: bytes, key: str) -> Answer:
        if stored != fingerprint:
            raise _mismatch(key)
        self._metrics.judgments["replayed"] += 1
        return Answer(answer, True)

    def _judge(self, workflow: CompiledWorkflow, asked: Asked, started_s: float) -> Judgment:
        judging_s = time.perf_counter()
        verdict: Verdict = workflow.judge(asked.input_data, asked.context)
        done_s = time.perf_counter()
        self._metrics.judge.observe(done_s - judging_s)
        now_ns = time.time_ns()
        return Judgment(
            id=uuid_utils.uuid7(nanoseconds=now_ns).bytes,
            tenant_id=workflow.tenant_id,
            workflow_id=workflow.workflow_id,
            workflow_version=workflow.version,
            input_data=asked.input_raw,
            context=asked.context_raw,
            final_result=verdict.result,
            confidence_score=verdict.confidence,
            method_used="rule",
            status="completed" if verdict.error is None else "failed",
            execution_time_ms=min(round((done_s - started_s) * 1000, 3), MAX_EXECUTION_MS),
            rule_index=verdict.rule_index,
            error=verdict.error,
            occurred_at_us=asked.occurred_at_us,
            created_at_us=now_ns // 1000,
        )

    def _put(self, judgment: Judgment, sender: Sender | None = None) -> "asyncio.Future[Outcome]":
        return self._queues[partition_of(judgment.tenant_id, len(self._queues))].put(judgment, sender)


def _outcome_of(judgment: Judgment, waiting: "asyncio.Future[Outcome]") -> Outcome:
    """What became of a commit that has ended."""
    if waiting.cancelled():
        return Unavailable("the commit was interrupted")  # it is logged where it ended
    outcome = waiting.result()
    if isinstance(outcome, CommitUnknown):
        outcome.extra["judgment_id"] = str(UUID(bytes=judgment.id))
    return outcome


def _fingerprint(asked: Asked) -> bytes:
    """The same for requests that mean the same, whatever the order of their keys."""
    meaning = (asked.workflow_id, asked.input_data, asked.context, asked.occurred_at_us)
    return hashlib.blake2b(msgspec.json.encode(meaning, order="deterministic"), digest_size=16).digest()


def _mismatch(key: str) -> IdempotencyMismatch:
    return IdempotencyMismatch(f"the idempotency key {key!r} was used with another request", field="Idempotency-Key")
