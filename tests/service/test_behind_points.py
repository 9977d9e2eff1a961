"""Behind a point of a chart of confidences or tracked inputs: the list has as many judgments as the point counts, no others."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from support.client import CHECK, Client, new_tenant
from support.cluster import Database
from support.engine import Engine

from judgify_engine.core.bins import FROM_PPM
from judgify_engine.store.judgments import ListFilter, Search

PATH = "/api/v1/judgments"
UNTIL = "2026-01-06T00:00:00Z"
DAY = datetime(2026, 1, 5, tzinfo=UTC)
HOUR, TINY = timedelta(hours=1), timedelta(microseconds=1)
INSERT = """
INSERT INTO judgment_executions (tenant_id, workflow_id, workflow_version, input_data, final_result, confidence_score,
                                 method_used, execution_time_ms, created_at, occurred_at)
SELECT $1, workflow_id, version, input::jsonb, '{}', confidence, 'rule', 1, coalesce(created, now()), occurred
  FROM unnest($2::text[], $3::int[], $4::text[], $5::float8[], $6::timestamptz[], $7::timestamptz[])
    AS r(workflow_id, version, input, confidence, created, occurred)
"""
DEEP = '{"heat": 3, "deep": ' + '{"a": ' * 70 + "1" + "}" * 70 + "}"
# Of the tracked field `heat`; the last four count nowhere.
INPUTS = ('{"heat": 3}', '{"heat": 3.5e2}', '{"heat": -9e12}', '{"heat": 1e-400}',
          '{"heat": "3"}', '{"heat": 9.1e12}', "{}", DEEP)  # fmt: skip


class Row:
    """One that somebody wrote into the table."""

    def __init__(
        self, *, created: datetime | None = None, occurred: datetime | None = None, confidence: float = 1.0,
        workflow: str = "plant", version: int = 1, input_data: str = INPUTS[0],
    ) -> None:  # fmt: skip
        self.values = workflow, version, input_data, confidence, created, occurred


async def store(database: Database, tenant_id: str, rows: list[Row]) -> None:
    await database.do(INSERT, tenant_id, *map(list, zip(*(row.values for row in rows), strict=True)))
    await database.settle()


async def points(client: Client, chart: str, **more: str) -> tuple[dict[str, Any], list[list[Any]]]:
    """The answer, and the chart's points."""
    answer = await client.get(f"/api/v1/metrics?{urlencode({'chart': chart, 'until': UNTIL, **more})}")
    assert answer.status == 200, answer.body
    return answer.json, answer.json["chart"]["points"]


async def listed(client: Client, query: dict[str, str], limit: int = 7) -> list[dict[str, Any]]:
    """All pages of a list."""
    found: list[dict[str, Any]] = []
    cursor, pages = "", 0
    while cursor is not None:
        more = {"cursor": cursor} if cursor else {}
        answer = await client.get(f"{PATH}?{urlencode({**query, **more, 'limit': str(limit)})}")
        assert answer.status == 200, answer.body
        found += answer.json["items"]
        cursor, pages = answer.json["next_cursor"], pages + 1
        assert pages < 500
    assert len({item["judgment_id"] for item in found}) == len(found), "one came twice"
    return found


def time_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat()


def charted(item: dict[str, Any]) -> str:
    """The time that its tracked values have."""
    occurred = item.get("occurred_at")
    return str(occurred if occurred and "2000" <= occurred[:4] < "2200" else item["created_at"])


def around_edges() -> list[float]:
    """Confidences at, right below and right above where each bin begins; some are told apart only by how they are rounded."""
    found = [0.0, 1e-7, 0.9999994, 0.9999996, 1.0, 1.0]
    for edge_ppm in FROM_PPM[1:]:
        found += [(edge_ppm + by) / 1_000_000 for by in (-1, -0.6, -0.5, -0.4, 0, 0.4, 1)]
    return found


async def test_a_bin_lists_the_judgments_that_it_counts(tenant: Client, engine: Engine) -> None:
    rows = [Row(created=DAY + n * timedelta(minutes=9), confidence=one) for n, one in enumerate(around_edges())]
    rows += [Row(created=DAY - TINY), Row(created=DAY), Row(created=DAY + 24 * HOUR - TINY), Row(created=DAY + 24 * HOUR)]
    await store(engine.database, tenant.tenant_id, rows)
    answer, bins = await points(tenant, "confidence_chart")
    assert sum(count for _, count in bins) == len(rows) - 2
    frame = {"created_from": answer["from"], "created_to": answer["to"]}
    seen: set[str] = set()
    for number, (start, count) in enumerate(bins):
        query = {**frame, "confidence_min": str(start)}
        if number < len(bins) - 1:
            query["confidence_max"] = str(bins[number + 1][0])
        items = await listed(tenant, query)
        assert len(items) == count > 0, query
        seen |= {item["judgment_id"] for item in items}
    assert len(seen) == len(rows) - 2
    exactly = {**frame, "confidence_min": "1"}
    last = await listed(tenant, {**exactly, "confidence_max": "1"})
    assert {item["confidence_score"] for item in last} == {0.9999996, 1.0}
    assert await listed(tenant, exactly) == last
    assert await listed(tenant, {**frame, "confidence_max": "0"}) == []


@pytest.fixture
async def plant(tenant: Client, engine: Engine) -> Client:
    """A tenant whose workflow `plant` tracked `heat` in its version 1, and something else since; `other` tracks nothing."""
    for fields in (["heat", "motor.heat"], ["motor.heat"]):
        await tenant.put_workflow("plant", {**CHECK, "track": fields})
    moments = [None, *(DAY + hours * HOUR + by for hours in (0, 1, 24) for by in (-TINY, timedelta(0), TINY))]
    far = [datetime(1999, 12, 31, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)]
    rows = [Row(created=DAY + 90 * timedelta(minutes=1), occurred=one) for one in [*moments, *far]]
    rows += [Row(created=one) for one in moments[1:]]
    rows += [Row(occurred=one) for one in moments[1:]]  # created now
    rows += [Row(created=one, occurred=one) for one in moments[1:] if one]
    rows += [Row(created=DAY - 300 * 24 * HOUR, occurred=DAY + 3 * HOUR, input_data=one) for one in INPUTS for _ in range(2)]
    rows += [
        Row(occurred=DAY + 3 * HOUR, version=version, workflow=workflow) for workflow, version in (("plant", 2), ("other", 1))
    ]
    rows += [Row(occurred=DAY + 4 * HOUR, version=0), Row(created=DAY, version=0)]  # of version 2, and of none
    rows += [Row(occurred=DAY + 5 * HOUR, version=2, input_data='{"motor": {"heat": 7}}')] * 3
    await store(engine.database, tenant.tenant_id, rows)
    return tenant


@pytest.mark.parametrize("timeframe", ["24h", "7d"])
@pytest.mark.parametrize("field", ["heat", "motor.heat"])
async def test_a_point_lists_the_judgments_whose_values_it_counts(plant: Client, field: str, timeframe: str) -> None:
    answer, buckets = await points(plant, "tracked_inputs_chart", field=field, timeframe=timeframe)
    counts = [point[1] for point in buckets]
    assert sum(counts) == {"heat": {"24h": 35, "7d": 39}, "motor.heat": {"24h": 3, "7d": 3}}[field][timeframe]
    for start, count, *_ in buckets:
        end = start + answer["bucket_s"]
        query = {"tracked": field, "occurred_from": time_text(start), "occurred_to": time_text(end)}
        items = await listed(plant, query, 3)
        assert len(items) == count, query
        times = [datetime.fromisoformat(charted(item)).timestamp() for item in items]
        assert times == sorted(times, reverse=True)
        assert all(start <= one < end for one in times)


async def test_occurrence_goes_with_the_other_filters(plant: Client) -> None:
    hour = {"occurred_from": time_text(int((DAY + 3 * HOUR).timestamp())), "occurred_to": "2026-01-05T04:00:00Z"}
    assert len(await listed(plant, hour)) == 18
    assert len(await listed(plant, {**hour, "workflow_id": "other"})) == 1
    assert len(await listed(plant, {**hour, "tracked": "heat"})) == 8
    assert len(await listed(plant, {**hour, "created_to": UNTIL})) == 16
    assert len(await listed(plant, {**hour, "created_from": UNTIL, "confidence_min": "0.5"})) == 2
    assert await listed(plant, {"tracked": "nothing", **hour}) == []
    everything = await listed(plant, {}, 500)
    for query in ({"occurred_from": "1900-01-01T00:00:00Z"}, {"occurred_to": "2300-01-01T00:00:00Z"}):
        assert {one["judgment_id"] for one in await listed(plant, query, 500)} == {one["judgment_id"] for one in everything}
    answer, buckets = await points(plant, "tracked_inputs_chart", field="motor.heat")
    assert len(await listed(plant, {"tracked": "motor.heat"})) == sum(point[1] for point in buckets), answer


async def test_a_search_in_slices_skips_and_repeats_nothing(database: Database, start_engine: Callable[..., Engine]) -> None:
    """Also where many occurred at one moment, some of them when they were created."""
    slices = "from judgify_engine.store import judgments; judgments.SLICE_ROWS, judgments.SEARCH_S = {}, 0.0"
    for size in (1, 2, 5):
        engine = start_engine(database, prelude=slices.format(size))
        async with new_tenant(engine.url, database) as client:
            rows = [Row(created=DAY, occurred=DAY) for _ in range(6)] + [Row(created=DAY) for _ in range(6)]
            rows += [Row(created=DAY + HOUR, occurred=DAY) for _ in range(6)]
            rows += [Row(created=DAY, occurred=DAY + 2 * HOUR) for _ in range(6)]
            await store(database, client.tenant_id, rows)
            span = {"occurred_from": DAY.isoformat(), "occurred_to": (DAY + HOUR).isoformat()}
            assert len(await listed(client, span, 500)) == 18
            assert len(await listed(client, {**span, "created_from": (DAY + HOUR).isoformat()}, 500)) == 6
        assert engine.terminate() == 0


async def test_what_occurred_in_an_hour_is_found_by_its_index(plant: Client, engine: Engine) -> None:
    """Whenever it was created; nothing else of the tenant is read, and nothing sorted but what shares a moment."""
    span = ListFilter(occurred_from_us=1_767_571_200_000_000, occurred_to_us=1_767_574_800_000_000)
    search = Search(plant.tenant_id, span, None, 51)
    connection = await engine.database.connect()
    try:
        await connection.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {search.sql}", *search.values))
    finally:
        await connection.close()
    conditions = [r"tenant_id = .*occurred_at >= .*occurred_at < ", r"tenant_id = .*created_at >= .*created_at < "]
    scans = [len(re.findall(f"Index Cond: .*{one}", plan)) for one in conditions]
    assert scans[0] == scans[1] > 0
    assert sum(scans) == len(re.findall(r"Scan .*on judgment_executions_", plan))
    assert not re.search(r"-> +Sort", plan), plan


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("confidence_min", "1.01"), ("confidence_min", "-0.1"), ("confidence_max", "nan"), ("confidence_max", "high"),
        ("confidence_max", ""), ("confidence_min", "1_0"), ("confidence_min", "1e999"),
        ("confidence_min", "\N{ARABIC-INDIC DIGIT ZERO}"),
        ("tracked", ""), ("tracked", "a..b"), ("tracked", "x" * 201), ("tracked", "a b"),
        ("occurred_from", "yesterday"), ("occurred_to", "2026-01-01T00:00:00"),
    ],
)  # fmt: skip
async def test_a_wrong_value_is_named(tenant: Client, name: str, value: str) -> None:
    problem = (await tenant.get(f"{PATH}?{name}={quote(value)}")).problem(422, "invalid_field")
    assert problem["field"] == name
    assert name in problem["detail"]
    assert repr(value[:40])[:-1] in problem["detail"]
