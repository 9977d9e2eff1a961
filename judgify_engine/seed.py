"""The example workflows of the embedded profile: `test-workflow-0` … made once, never overwritten."""

from typing import Protocol

import msgspec

from judgify_engine.core.rules import Outcome, Rule, WorkflowDefinition


class WorkflowWriter(Protocol):
    """Where workflows are kept."""

    async def get(self, tenant_id: str, workflow_id: str) -> object | None: ...

    async def put(self, tenant_id: str, workflow_id: str, definition: str) -> object: ...


def example(number: int) -> WorkflowDefinition:
    """A machine check whose limits differ a little from workflow to workflow."""
    hot, pressed, shaken = 90.0 + number % 5, 112.0 + number % 4, 52.0 + number % 3
    return WorkflowDefinition(
        description="Example: reject what runs hot and shakes, have looked at what is out of range",
        rules=[
            Rule(
                name="hot and shaking",
                when=f"has(input.temperature) && has(input.vibration) && "
                f"input.temperature > {hot} && input.vibration > {shaken}",
                result={"verdict": "reject", "reason": "temperature and vibration too high"},
                confidence=0.97,
            ),
            Rule(
                name="hot",
                when=f"has(input.temperature) && input.temperature > {hot}",
                result={"verdict": "inspect", "reason": "temperature too high"},
                confidence=0.9,
            ),
            Rule(
                name="pressure",
                when=f"has(input.pressure) && (input.pressure < 84.0 || input.pressure > {pressed})",
                result={"verdict": "inspect", "reason": "pressure out of range"},
                confidence=0.85,
            ),
        ],
        default=Outcome(result={"verdict": "ok"}, confidence=0.99),
    )


async def seed_workflows(store: WorkflowWriter, tenant_id: str, count: int) -> None:
    """Make the example workflows that are missing."""
    for number in range(count):
        workflow_id = f"test-workflow-{number}"
        if await store.get(tenant_id, workflow_id) is None:
            await store.put(tenant_id, workflow_id, msgspec.json.encode(example(number)).decode())
