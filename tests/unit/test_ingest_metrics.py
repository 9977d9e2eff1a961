"""GET /api/v1/metrics over a source that is made up: what it asks for, and what it says while the rollups are not complete."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request

from judgify_engine.core.charts import Frame
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
        self, tenant_id: str, workflow_id: str | None, choose: Callable[[list[str]], list[str]], frame: Frame
    ) -> "Source":
        self.asked = [tenant_id, workflow_id, choose(self.known), frame.stored_s]
        self.start_s = frame.start_s
        return self

    def samples(self, metric: str) -> Iterator[tuple[int, Sample]]:
        if metric in self.asked[2]:
            yield self.start_s, sample_of({1_000_000: 1}, 1, False)


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
    ],
)
async def test_only_what_is_needed_is_read(query: str, stored: list[str]) -> None:
    source = Source([CONFIDENCE, EXECUTION_TIME, "input.a", "method.rule", "result.no", "result.ok"])
    told = await get(source, query)
    assert source.asked[:3] == ["acme", None, stored]
    assert all(series["frame"]["count"] == series["buckets"][0]["count"] == 1 for series in told["metrics"])


@pytest.mark.parametrize(("timeframe", "width_s"), [("1h", 300), ("6h", 300), ("24h", 3600), ("7d", 3600)])
async def test_days_are_made_of_hours_and_hours_of_five_minutes(timeframe: str, width_s: int) -> None:
    source = Source([])
    await get(source, f"timeframe={timeframe}&workflow_id=w")
    assert source.asked[1:] == ["w", [EXECUTION_TIME, CONFIDENCE], width_s]


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
