"""What several unit tests build: judgments, rows, changes, workflows and replication messages.

The messages are written from PostgreSQL's documentation ("Logical Replication Message Formats"), not from our decoder.
"""

import asyncio
import time
from collections.abc import Callable
from struct import pack
from typing import Any

from judgify_engine.core.figures import Figures, Report
from judgify_engine.core.model import Change, Judgment
from judgify_engine.core.rules import CompiledWorkflow, Outcome, Rule, WorkflowDefinition
from judgify_engine.units import Position

EPOCH_2000_US = 946_684_800_000_000
HANGS_S = 3.0
"""CPU time that no judgment takes: the worst takes 0.05 s, so this tells what hangs, and no busy machine from an idle one."""
T0 = 1_767_225_600  # 2026-01-01T00:00:00Z


def judgment(number: int = 0, **fields: Any) -> Judgment:
    """A completed judgment; `number` makes its id."""
    values: dict[str, Any] = {
        "id": number.to_bytes(16, "big"),
        "tenant_id": "demo",
        "workflow_id": "w",
        "workflow_version": 1,
        "input_data": b'{"value":1}',
        "context": b"{}",
        "final_result": b'{"verdict":"ok"}',
        "confidence_score": 0.5,
        "method_used": "rule",
        "status": "completed",
        "execution_time_ms": 1.5,
        "rule_index": None,
        "error": None,
        "occurred_at_us": None,
        "created_at_us": T0 * 1_000_000,
    }
    return Judgment(**(values | fields))


def row(**fields: Any) -> dict[str, Any]:
    """A row of judgment_executions as the decoder gives it to the rollup."""
    values: dict[str, Any] = {
        "tenant_id": "demo",
        "workflow_id": "w",
        "status": "completed",
        "method_used": "rule",
        "execution_time_ms": 1.5,
        "confidence_score": 0.5,
        "final_result": '{"verdict": "ok"}',
        "created_at": T0 * 1_000_000,
        "workflow_version": 1,
        "input_data": '{"value": 1}',
        "occurred_at": None,
    }
    return values | fields


def change(
    index: int, old: dict[str, Any] | None, new: dict[str, Any] | None, *, lsn: int = 100, table: str = "judgment_executions"
) -> Change:
    """A change at (lsn, index)."""
    return Change(Position(lsn, index), T0 * 1_000_000 + index, table, old, new)


def definition(*whens: str, default: str = "default") -> WorkflowDefinition:
    """Rules whose verdict is their index."""
    rules = [Rule(when=when, result={"verdict": str(index)}, confidence=0.9) for index, when in enumerate(whens)]
    return WorkflowDefinition(rules=rules, default=Outcome(result={"verdict": default}, confidence=0.99))


def compiled(*whens: str, default: str = "default") -> CompiledWorkflow:
    """The same, compiled as version 1 of demo's workflow w."""
    return CompiledWorkflow("demo", "w", 1, definition(*whens, default=default))


async def settle() -> None:
    """Let every task run that can run without time passing."""
    for _ in range(50):
        await asyncio.sleep(0)


# Replication messages ------------------------------------------------------------------------------------------------

Value = bytes | str | None
"""bytes: binary; None: null; "unchanged": a TOASTed value that did not change; other text: a value in text form."""


def begin(lsn: int, time_us: int = T0 * 1_000_000, xid: int = 7) -> bytes:
    return b"B" + pack(">QqI", lsn, time_us - EPOCH_2000_US, xid)


def commit(lsn: int, end_lsn: int, time_us: int = T0 * 1_000_000) -> bytes:
    return b"C" + pack(">BQQq", 0, lsn, end_lsn, time_us - EPOCH_2000_US)


def message(prefix: str, content: bytes = b"", *, transactional: bool = True) -> bytes:
    return b"M" + pack(">BQ", transactional, 99) + prefix.encode() + b"\0" + pack(">I", len(content)) + content


def relation(oid: int, table: str, columns: list[tuple[str, int]], identity: bytes = b"f") -> bytes:
    parts = [b"R", pack(">I", oid), b"public\0", table.encode(), b"\0", identity, pack(">H", len(columns))]
    for name, type_oid in columns:
        parts += [b"\x01", name.encode(), b"\0", pack(">Ii", type_oid, -1)]
    return b"".join(parts)


def values(*columns: Value) -> bytes:
    parts = [pack(">H", len(columns))]
    for value in columns:
        if value is None:
            parts.append(b"n")
        elif value == "unchanged":
            parts.append(b"u")
        elif isinstance(value, bytes):
            parts += [b"b", pack(">I", len(value)), value]
        else:
            parts += [b"t", pack(">I", len(value.encode())), value.encode()]
    return b"".join(parts)


def insert(oid: int, *new: Value) -> bytes:
    return b"I" + pack(">I", oid) + b"N" + values(*new)


def update(oid: int, old: tuple[Value, ...] | None, new: tuple[Value, ...], marker: bytes = b"O") -> bytes:
    before = b"" if old is None else marker + values(*old)
    return b"U" + pack(">I", oid) + before + b"N" + values(*new)


def delete(oid: int, *old: Value, marker: bytes = b"O") -> bytes:
    return b"D" + pack(">I", oid) + marker + values(*old)


def truncate(*oids: int) -> bytes:
    return b"T" + pack(">IB", len(oids), 0) + b"".join(pack(">I", oid) for oid in oids)


def jsonb(text: str) -> bytes:
    return b"\x01" + text.encode()


JUDGMENTS_OID = 16_400
JUDGMENT_COLUMNS = [
    ("id", 2950),
    ("tenant_id", 25),
    ("workflow_id", 25),
    ("status", 25),
    ("method_used", 25),
    ("execution_time_ms", 701),
    ("confidence_score", 701),
    ("final_result", 3802),
    ("created_at", 1184),
    ("workflow_version", 23),
    ("input_data", 3802),
    ("occurred_at", 1184),
]


def judgments_relation() -> bytes:
    return relation(JUDGMENTS_OID, "judgment_executions", JUDGMENT_COLUMNS)


def wire_row(fields: dict[str, Any]) -> tuple[Value, ...]:
    """A `row()` as binary columns in the order of JUDGMENT_COLUMNS."""
    return (
        bytes(16),
        fields["tenant_id"].encode(),
        fields["workflow_id"].encode(),
        fields["status"].encode(),
        fields["method_used"].encode(),
        pack(">d", fields["execution_time_ms"]),
        pack(">d", fields["confidence_score"]),
        jsonb(fields["final_result"]),
        pack(">q", fields["created_at"] - EPOCH_2000_US),
        pack(">i", fields["workflow_version"]),
        jsonb(fields["input_data"]),
        None if fields["occurred_at"] is None else pack(">q", fields["occurred_at"] - EPOCH_2000_US),
    )


def report(process: str = "a/1", at_s: float = 1000.0, **values: Any) -> Report:
    """Of a process that is busy for half of its time and answers 10 judgments a second, each in 100 ms."""
    known: dict[str, Any] = {
        "host": process.split("/")[0], "group": "", "cpu_s": at_s / 2, "cores": 1.0, "memory": 0.5, "answers": int(at_s * 10),
        "answers_s": at_s, "queue_rows": 3, "oldest_s": 0.1,
    }  # fmt: skip
    return Report(process=process, at_s=at_s, **{**known, **values})


def steady(process: str = "a/1", start_s: float = 900.0, end_s: float = 1000.0, **values: Any) -> list[Report]:
    """Every five seconds one."""
    times = [start_s + step * 5.0 for step in range(int((end_s - start_s) / 5.0) + 1)]
    return [report(process, at_s, **values) for at_s in times]


CALM: dict[str, Any] = {"cpu": 0.5, "memory": 0.5, "response_ms": 20.0, "queue_rows": 5.0, "oldest_s": 0.01}


def figures(processes: int = 4, at_s: float = 10_000.0, **values: Any) -> Figures:
    """Of processes with nothing to do about, but for `values`."""
    known = {
        "processes": processes,
        "replicas": processes,
        "starting": 0,
        "answers_per_s": 100.0,
        "at_s": at_s,
        "window_s": 60.0,
    }
    return Figures(**{**known, **CALM, **values})


def cpu_s(call: Callable[..., object], *args: object) -> float:
    """How long a call takes of this thread's CPU time, which others on the machine do not use up."""
    started_s = time.thread_time()
    call(*args)
    return time.thread_time() - started_s
