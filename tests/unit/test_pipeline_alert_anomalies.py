"""Looks at what is new: each bucket once, in order, when it is over; bounded, and alike whatever the looks are cut into."""

import asyncio
import random

from judgify_engine.core.alert_changes import ActiveRule, Cause, Known, Seen, changes
from judgify_engine.core.alert_rules import Anomaly
from judgify_engine.core.alert_state import CauseState, Event
from judgify_engine.core.anomaly import Bucket
from judgify_engine.core.samples import FINE_S
from judgify_engine.pipeline import alert_anomalies
from judgify_engine.pipeline.alert_anomalies import Anomalies, Series
from judgify_engine.pipeline.alert_kinds import Span

START_S = 1_700_006_400
DAY_BUCKETS = 288
CAUSE = Cause("acme", "heat", "machine")
RULE = ActiveRule("acme", "heat", 1, Anomaly(metric="input.value", workflow_id="machine", history_days=7))


class Stored:
    """Buckets in memory."""

    def __init__(self) -> None:
        self.buckets: dict[Series, dict[int, Bucket]] = {}
        self.read_buckets = 0

    def add(self, number: int, value: float, tenant_id: str = "acme") -> None:
        start_s = START_S + number * FINE_S
        series = self.buckets.setdefault(Series(tenant_id, "machine", "input.value"), {})
        known = series.get(start_s, Bucket(start_s, 0, 0.0))
        mean = (known.mean * known.count + value) / (known.count + 1)
        series[start_s] = Bucket(start_s, known.count + 1, mean)

    async def newest(self, series: list[Series], until_s: int) -> list[int | None]:
        return [max((one for one in self.buckets.get(each, {}) if one <= until_s), default=None) for each in series]

    async def read(self, series: Series, from_s: int, to_s: int, limit: int) -> list[Bucket]:
        found = sorted(one for one in self.buckets.get(series, {}).values() if from_s <= one.start_s < to_s)[:limit]
        self.read_buckets += len(found)
        return found


class Looker:
    """Evaluates as the loop does, and keeps what it stores."""

    def __init__(self, stored: Stored, *rules: ActiveRule) -> None:
        self.stored, self.rules = stored, rules or (RULE,)
        self.known: dict[Cause, Known] = {}
        self.events: list[Event] = []
        self.times: list[float] = []

    def look(self, covered: int = 10**6) -> list[Seen]:
        """`covered`: the number of the bucket that is not over yet."""
        covered_s = START_S + covered * FINE_S
        seen = list(asyncio.run(Anomalies(self.stored).observe(self.rules, self.known, Span(0.0, covered_s, [covered_s]))))
        found = changes(self.rules, seen, self.known, covered_s, {"rule": "", "unseen": "", "other": ""})
        self.known |= {cause: known for cause, known, _ in found.states}
        self.events += [told.event for row in found.events for told in row]
        self.times += [one.at_s for each in seen for one in each.observations]
        return seen


def values(days: int, seed: int = 1) -> list[float]:
    chance = random.Random(seed)
    return [chance.gauss(80, 2) for _ in range(days * DAY_BUCKETS)]


def test_a_bucket_is_judged_once_when_it_is_over_and_was_there_before() -> None:
    stored = Stored()
    looker = Looker(stored)
    looker.look()
    stored.add(0, 80.0)
    looker.look(0)
    looker.look(0)
    assert looker.times == [], "it is not over"
    looker.look(1)
    assert looker.times == [], "there may be more of it on its way"
    stored.add(0, 90.0)
    stored.add(1, 80.0)
    looker.look(2)
    assert looker.times == [START_S + FINE_S], "of the next one there may be more on its way"
    looker.look(2)
    looker.look(2)
    assert looker.times == [START_S + FINE_S, START_S + 2 * FINE_S]


def test_a_pair_between_two_looks_is_told() -> None:
    stored = Stored()
    looker = Looker(stored)
    looker.look()
    for number, value in enumerate(values(10)):
        stored.add(number, 20.0 if 2500 <= number < 2520 else value)
    for _ in range(3):
        looker.look()
    assert [event.kind for event in looker.events] == ["fired", "resolved"]


def test_what_comes_late_is_not_judged() -> None:
    stored = Stored()
    looker = Looker(stored)
    looker.look()
    for number, value in enumerate(values(8)):
        if not 2000 <= number < 2020:
            stored.add(number, value)
    looker.look()
    looker.look()
    for number in range(2000, 2020):
        stored.add(number, 20.0)
    looker.look()
    looker.look()
    assert looker.events == []
    assert looker.times == sorted(looker.times)


def test_what_was_there_before_the_rule_is_told_to_nobody() -> None:
    stored = Stored()
    for number, value in enumerate(values(10)):
        stored.add(number, 20.0 if number >= 2800 else value)
    looker = Looker(stored)
    looker.look()
    looker.look()
    assert looker.events == []
    for number in range(2880, 2890):
        stored.add(number, 20.0)
    looker.look()
    looker.look()
    assert [event.kind for event in looker.events] == ["fired"], "what goes on after it is"


def test_a_backlog_is_caught_up_with_in_bounded_looks() -> None:
    stored, at_once = Stored(), alert_anomalies.MOST_FRESH
    looker = Looker(stored)
    looker.look()
    everything = values(40)
    for number, value in enumerate(everything):
        stored.add(number, value)
    looker.look()
    looker.look()
    assert len(looker.times) == at_once
    for _ in range(len(everything) // at_once):
        looker.look()
    assert looker.times == [START_S + (number + 1) * FINE_S for number in range(len(everything))]


def test_all_metrics_have_their_turn_though_a_look_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr(alert_anomalies, "MOST_READ", 1)
    stored, tenants = Stored(), [f"t{number}" for number in range(5)]
    looker = Looker(stored, *(ActiveRule(tenant, "heat", 1, RULE.rule) for tenant in tenants))
    looker.look()
    for tenant in tenants:
        for number in range(30):
            stored.add(number, 80.0, tenant)
    for _ in range(2 * len(tenants)):
        seen = looker.look()
        assert {each.cause.tenant_id for each in seen} == set(tenants), "who waits is not ended"
        assert sum(bool(each.observations) for each in seen) <= 1
    assert looker.times.count(START_S + FINE_S) == len(tenants)


def test_the_many_rules_of_one_tenant_delay_nobody_elses(monkeypatch) -> None:
    monkeypatch.setattr(alert_anomalies, "MOST_READ", 2000)
    stored = Stored()
    for tenant in ("acme", "other"):
        for number in range(100):
            stored.add(number, 80.0, tenant)
    rules = [ActiveRule("acme", f"heat-{number}", 1, RULE.rule) for number in range(50)]
    looker = Looker(stored, *rules, ActiveRule("other", "heat", 1, RULE.rule))
    seen = looker.look()
    begun = [each.cause.tenant_id for each in seen if each.memory is not None]
    assert "other" in begun
    assert len(begun) == 3, "to begin is dear: 100 buckets count as 1000"


def test_a_live_metric_reads_its_history_once_an_hour() -> None:
    stored = Stored()
    looker = Looker(stored)
    looker.look()
    everything = values(9)
    for number, value in enumerate(everything[:-24]):
        stored.add(number, value)
    looker.look()
    looker.look()
    stored.read_buckets = 0
    for number in range(len(everything) - 24, len(everything)):
        stored.add(number, everything[number])
        looker.look(number + 1)
        looker.look(number + 1)
    assert stored.read_buckets < 3 * 8 * DAY_BUCKETS + 100
    assert len(looker.times) == len(everything)


def test_another_metric_begins_anew() -> None:
    stored = Stored()
    looker = Looker(stored)
    looker.look()
    stored.add(0, 80.0)
    looker.look()
    looker.look()
    looker.rules = (ActiveRule("acme", "heat", 2, Anomaly(metric="input.other", workflow_id="machine")),)
    looker.look()
    assert looker.known[CAUSE].memory is not None
    assert b'"through_s":0' in looker.known[CAUSE].memory


def test_what_fires_by_a_condition_ends_when_its_rule_becomes_an_anomaly_of_long_ago() -> None:
    stored = Stored()
    for number, value in enumerate(values(8)):
        stored.add(number, value)
    looker = Looker(stored)
    looker.known[CAUSE] = Known(CauseState("firing", START_S + 10**9, START_S + 10**9, severity="warning"), None, 1)
    looker.look()
    assert [event.kind for event in looker.events] == ["resolved"]
    for number in range(8 * DAY_BUCKETS, 8 * DAY_BUCKETS + 10):
        stored.add(number, 20.0)
    looker.look()
    looker.look()
    assert [event.kind for event in looker.events] == ["resolved", "fired"]
    looker.rules = (ActiveRule("acme", "heat", 2, Anomaly(metric="input.other", workflow_id="machine")),)
    looker.look()
    looker.look()
    assert [event.kind for event in looker.events] == ["resolved", "fired", "resolved"]
