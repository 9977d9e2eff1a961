"""GET /api/v1/metrics over a source that is made up: what it asks for, and what it says while the rollups are not complete."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request

from judgify_engine.core.charts import Frame
from judgify_engine.core.rollup import Sums
from judgify_engine.core.samples import CONFIDENCE, EXECUTION_TIME, Sample, sample_of
from judgify_engine.errors import InvalidField
from judgify_engine.ingest.metrics import MetricsRoutes
from judgify_engine.pipeline.access import Grant
from judgify_engine.units import Position

HERE = Position(1, 2)


class Source:
    """Remembers what was asked; holds one value in the frame's first stored bucket."""

    def __init__(self, known: list[str], position: Position | None = HERE) -> None:
        self.known, self.position = known, position
        self.verified_through: datetime | None = None if position is None else datetime(2026, 1, 1, tzinfo=UTC)
        self.asked: list[Any] = []
        self.start_s = 0

    async def read(
        self,
        tenant_id: str,
        workflow_ids: list[str],
        choose: Callable[[list[str]], list[str]],
        frame: Frame,
        *,
        workflows: bool = False,
    ) -> "Source":
        self.asked = [tenant_id, workflow_ids, choose(self.known), frame.stored_s]
        self.workflows = {"w": Sums(3, 1, execution_time_us=3000, histogram={})} if workflows else {}
        self.start_s = frame.start_s
        return self

    @property
    def metrics(self) -> list[str]:
        return ["result.ok"] if "result." in self.asked[2] else list(self.asked[2])

    def samples(self, metric: str) -> list[tuple[int, Sample]]:
        return [(self.start_s, sample_of({1_000_000: 1}, 1, False))] if metric in self.metrics else []


class Anyone:
    async def check(self, authorization: str | None, scope: str) -> Grant:
        assert scope == "read"
        return Grant("acme", frozenset([scope]), None)


async def get(source: Source, query: str, keep_days: int = 365) -> Any:
    access: Any = Anyone()
    response = await MetricsRoutes(source, access, keep_days).get(make_mocked_request("GET", f"/api/v1/metrics?{query}"))
    assert isinstance(response.body, bytes)
    return msgspec.json.decode(response.body)


async def test_while_the_rollups_are_computed_anew_it_says_so() -> None:
    told = await get(Source([], None), "")
    assert (told["recomputing"], told["position"], told["verified_through"]) == (True, None, None)
    told = await get(Source([]), "")
    assert (told["recomputing"], told["position"], told["verified_through"]) == (False, "0/1-2", "2026-01-01T00:00:00.000000Z")


@pytest.mark.parametrize(
    ("query", "stored"),
    [
        ("", [EXECUTION_TIME, CONFIDENCE]),
        ("metric=success_rate,execution_count", [EXECUTION_TIME]),
        ("metric=*", [EXECUTION_TIME, CONFIDENCE, "input.a"]),
        ("metric=result.*,method.rule", ["result.no", "result.ok", "method.rule"]),
        ("metric=result.ok,result.*", ["result.ok", "result.no"]),
        ("metric=method.*", ["method.rule"]),
        ("metric=input.b", ["input.b"]),
        ("chart=success_rate_chart", [EXECUTION_TIME]),
        ("chart=results_chart", ["result."]),
        ("chart=methods_chart", [EXECUTION_TIME, "method.rule", "method.llm", "method.hybrid"]),
        ("chart=tracked_inputs_chart&field=motor.rpm", ["input.motor.rpm"]),
        ("chart=confidence_chart", [CONFIDENCE]),
        ("chart=workflows_chart", []),
    ],
)
async def test_only_what_is_needed_is_read(query: str, stored: list[str]) -> None:
    source = Source([CONFIDENCE, EXECUTION_TIME, "input.a", "method.rule", "result.no", "result.ok"])
    told = await get(source, query)
    assert source.asked[:3] == ["acme", [], stored]
    assert all(series["frame"]["count"] == series["buckets"][0]["count"] == 1 for series in told["metrics"])


@pytest.mark.parametrize(("timeframe", "width_s"), [("1h", 300), ("6h", 300), ("24h", 3600), ("7d", 3600)])
async def test_days_are_made_of_hours_and_hours_of_five_minutes(timeframe: str, width_s: int) -> None:
    source = Source([])
    await get(source, f"timeframe={timeframe}&workflow_id=w")
    assert source.asked[1:] == [["w"], [EXECUTION_TIME, CONFIDENCE], width_s]


async def test_what_is_not_kept_any_more_is_refused_and_not_shown_as_nothing() -> None:
    long_ago = "until=2024-05-01T00:00:00Z"
    for timeframe in ("1h", "6h"):
        with pytest.raises(InvalidField) as caught:
            await get(Source([]), f"timeframe={timeframe}&{long_ago}", keep_days=30)
        assert "30 days" in caught.value.detail
        assert caught.value.extra["field"] == "until"
        await get(Source([]), f"timeframe={timeframe}&{long_ago}", keep_days=30_000)
    for timeframe in ("24h", "7d"):
        assert (await get(Source([]), f"timeframe={timeframe}&{long_ago}", keep_days=30))["metrics"]


@pytest.mark.parametrize(
    ("chart", "columns", "point"),
    [
        ("results_chart", ["time", "results"], {"ok": 1}),
        ("methods_chart", ["time", "rule", "llm", "hybrid"], 1),
        ("tracked_inputs_chart&field=a", ["time", "count", "mean", "min", "max", "p95"], 1),
        ("confidence_chart", ["from", "count"], 0),
        ("workflows_chart", ["workflow_id", "total", "successful", "mean_ms"], 3),
    ],
)
async def test_a_chart_of_each_type(chart: str, columns: list[str], point: Any) -> None:
    told = (await get(Source([]), f"chart={chart}"))["chart"]
    assert told["columns"] == columns
    assert all(len(one) == len(columns) for one in told["points"])
    assert told["points"][0][1] == point


async def test_confidences_are_counted_over_the_whole_frame_in_twenty_bins() -> None:
    points = (await get(Source([]), "chart=confidence_chart"))["chart"]["points"]
    assert len(points) == 20
    assert points[-1] == [pytest.approx(0.95, rel=0.02), 1]
    assert sum(count for _, count in points) == 1


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("chart=tracked_inputs_chart", "field"),
        ("chart=tracked_inputs_chart&field=a..b", "field"),
        ("chart=results_chart&field=a", "field"),
        ("workflow_id=a,,b", "workflow_id"),
        ("workflow_id=" + ",".join(f"w{n}" for n in range(21)), "workflow_id"),
    ],
)
async def test_what_no_chart_can_be_made_of_is_refused_by_name(query: str, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        await get(Source([]), query)
    assert caught.value.extra["field"] == field


async def test_several_workflows_are_asked_for_together() -> None:
    source = Source([])
    told = await get(source, "workflow_id=b,a&workflow_id=a&chart=results_chart")
    assert source.asked[1] == ["a", "b"] == told["workflow_ids"]
    assert told["workflow_id"] is None
