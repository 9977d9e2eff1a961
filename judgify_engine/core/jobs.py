"""Jobs: one for each judgment and action that it has; what becomes of a job when an attempt is over. Pure."""

from typing import Any, Literal, NamedTuple

import msgspec

from judgify_engine.core.actions import Named, destination_of
from judgify_engine.core.retries import Outcome

State = Literal["waiting", "succeeded", "dead"]
UNKNOWN_DESTINATION = "unknown"


class NewJob(NamedTuple):
    """A job to be noted. `error`: why it is dead from the beginning."""

    tenant_id: str
    workflow_id: str
    workflow_version: int
    judgment_id: str
    action: str
    definition: str
    destination: str
    timeout_s: float
    max_attempts: int
    error: str | None = None


class Lane(NamedTuple):
    """What waits in one line: the jobs of a tenant for a destination."""

    tenant_id: str
    destination: str


class Job(NamedTuple):
    """A job that this process has leased, and all that an attempt needs."""

    id: Any
    """A UUID."""
    lane: Lane
    workflow_id: str
    judgment_id: str
    action: str
    definition: str
    attempt: int
    max_attempts: int
    judgment: Any
    """The stored row; None: it is gone."""
    secrets: tuple[str, ...]
    """Of the tenant, the newest first."""


class Finished(NamedTuple):
    """An attempt that is over."""

    job: Job
    outcome: Outcome
    state: State
    rest_s: float
    """Until the next attempt, where the state is `waiting`."""
    duration_ms: float


def new_job(tenant_id: str, workflow_id: str, version: int, judgment_id: str, named: Named) -> NewJob:
    """The job of an action. One whose definition is wrong is dead: it is seen, and can be replayed when that is mended."""
    action = named.action
    if action is None:
        nothing = ("{}", UNKNOWN_DESTINATION, 0.0, 1)
        return NewJob(tenant_id, workflow_id, version, judgment_id, named.name, *nothing, named.problem)
    definition = msgspec.json.encode(action).decode()
    planned = (definition, destination_of(action), action.timeout_s, action.max_attempts)
    return NewJob(tenant_id, workflow_id, version, judgment_id, named.name, *planned)


def state_after(job: Job, outcome: Outcome) -> State:
    """What a job is when this came of its attempt."""
    if outcome.verdict == "succeeded":
        return "succeeded"
    if outcome.verdict == "refused" or job.attempt >= job.max_attempts:
        return "dead"
    return "waiting"
