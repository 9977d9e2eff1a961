"""The peer: the same job as it is usually built, with FastAPI, an asyncpg pool and one INSERT per request.

Durable like the engine (the INSERT has committed before the answer), into a table of the same columns and key; its
rules are plain Python; a token check against a set in memory. It has no CDC, no rollup, no dashboard, no
idempotency. Reads its database from `PEER_DSN`; run by one uvicorn process (see `bench/compare.py`).
"""

import json
import os
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import asyncpg
from fastapi import FastAPI, Header, HTTPException, Request
from pydantic import BaseModel

TENANTS = {"test-token": "demo"}
POOL_CONNECTIONS = 20

_TABLE = """
    create table if not exists peer_judgments (
        id uuid primary key, tenant_id text not null, workflow_id text not null, workflow_version integer not null,
        input_data jsonb not null, context jsonb, final_result jsonb not null, confidence_score double precision,
        method_used text not null, status text not null, execution_time_ms double precision,
        created_at timestamptz not null)
"""
_INSERT = "insert into peer_judgments values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"


class JudgmentRequest(BaseModel):
    """One judgment to make."""

    workflow_id: str
    input_data: dict[str, Any]
    context: dict[str, Any] = {}


class JudgmentAnswer(BaseModel):
    """One judgment made."""

    judgment_id: uuid.UUID
    workflow_id: str
    workflow_version: int
    final_result: dict[str, Any]
    confidence_score: float
    method_used: str
    status: str
    execution_time_ms: float
    created_at: datetime


def judge(values: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """The rules: result and confidence."""
    if values.get("temperature", 0) > 95.0 or values.get("vibration", 0) > 58.0:
        return {"verdict": "inspect"}, 0.9
    if values.get("pressure", 0) > 118.0:
        return {"verdict": "watch"}, 0.8
    return {"verdict": "ok"}, 0.99


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the pool and make the table; close the pool at the end."""
    async with asyncpg.create_pool(os.environ["PEER_DSN"], min_size=POOL_CONNECTIONS, max_size=POOL_CONNECTIONS) as pool:
        await pool.execute(_TABLE)
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/ready")
async def ready() -> dict[str, str]:
    """Whether the pool is open (it is once the server listens)."""
    return {"status": "ready"}


@app.post("/api/v1/judgments/execute")
async def execute(body: JudgmentRequest, request: Request, authorization: Annotated[str, Header()] = "") -> JudgmentAnswer:
    """Judge, insert, answer."""
    tenant = TENANTS.get(authorization.removeprefix("Bearer "))
    if tenant is None:
        raise HTTPException(401, "unknown token")
    began_s = time.perf_counter()
    result, confidence = judge(body.input_data)
    answer = JudgmentAnswer(
        judgment_id=uuid.uuid4(),
        workflow_id=body.workflow_id,
        workflow_version=1,
        final_result=result,
        confidence_score=confidence,
        method_used="rule",
        status="completed",
        execution_time_ms=(time.perf_counter() - began_s) * 1000,
        created_at=datetime.now(UTC),
    )
    await request.app.state.pool.execute(
        _INSERT,
        answer.judgment_id,
        tenant,
        answer.workflow_id,
        answer.workflow_version,
        json.dumps(body.input_data),
        json.dumps(body.context),
        json.dumps(answer.final_result),
        answer.confidence_score,
        answer.method_used,
        answer.status,
        answer.execution_time_ms,
        answer.created_at,
    )
    return answer
