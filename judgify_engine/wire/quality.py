"""The answer of GET /api/v1/quality, and its short form in the summary: how much of the input was valid. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from judgify_engine.core.quality import share


class Quality(msgspec.Struct):
    """Records that came in: judgments stored, and input refused."""

    records: int
    invalid: int
    """Input refused, and judgments stored by others that break the rules."""
    valid_share: float | None
    """0 to 1; null: nothing came in."""
    refused: dict[str, int]
    """Kind of error to how often."""
    stored: dict[str, int]
    """The same of judgments stored."""


class WorkflowQuality(msgspec.Struct):
    """One workflow's. The name '' stands for input whose workflow could not be read."""

    workflow_id: str
    quality: Quality


class QualityReport(msgspec.Struct):
    """A tenant's, over whole hours, `from` included and `to` not (RFC 3339)."""

    tenant_id: str
    timeframe: str
    from_: str = msgspec.field(name="from")
    to: str
    quality: Quality
    workflows: list[WorkflowQuality]
    """The worst first."""


def quality_of(stored: Mapping[str, int], wrong: Iterable[Any], workflow_id: str | None = None) -> Quality:
    """Of all workflows, or of one. `stored`: judgments by workflow; `wrong`: rows of workflow_id, source, kind, count."""
    kinds: dict[str, dict[str, int]] = {"refused": {}, "stored": {}}
    for row in wrong:
        if workflow_id is None or row["workflow_id"] == workflow_id:
            of_source = kinds[row["source"]]
            of_source[row["kind"]] = of_source.get(row["kind"], 0) + row["count"]
    refused, faulty = sum(kinds["refused"].values()), sum(kinds["stored"].values())
    there = sum(stored.values()) if workflow_id is None else stored.get(workflow_id, 0)
    valid_share = share(there - faulty, refused + faulty)
    return Quality(
        records=there + refused,
        invalid=refused + faulty,
        valid_share=None if valid_share is None else round(valid_share, 6),
        refused=kinds["refused"],
        stored=kinds["stored"],
    )


def by_workflow(stored: Mapping[str, int], wrong: list[Any]) -> list[WorkflowQuality]:
    """Each workflow's, the worst first."""
    names = {*stored, *(row["workflow_id"] for row in wrong)}
    found = [WorkflowQuality(name, quality_of(stored, wrong, name)) for name in names]
    return sorted(found, key=lambda one: (one.quality.valid_share or 0.0, -one.quality.records, one.workflow_id))
