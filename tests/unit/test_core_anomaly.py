"""What is usual, and what is not: robust, by the hour of the day where hours differ, never by what comes later."""

import math
import random

import msgspec
import pytest

from judgify_engine.core.alert_rules import Anomaly
from judgify_engine.core.alert_state import CauseState, Event, Observation, Timing, advance
from judgify_engine.core.anomaly import DAY_S, LEARN_DAYS, SEASON_DAYS, Bucket, Memory, Settings, Walk, needs_history, since_s
from judgify_engine.core.samples import FINE_S, HOUR_S

START_S = 1_700_006_400  # a midnight
SETTINGS = Settings(4.0, 28, "hour")
TIMING = Timing(1800.0, 3600.0, "warning")


def made(days: float, value, start_s: int = START_S, count: int = 1) -> list[Bucket]:
    """Buckets of so many days; `value`: of the second."""
    return [Bucket(second, count, value(second)) for second in range(start_s, start_s + int(days * DAY_S), FINE_S)]


def noisy(seed: int = 1, level: float = 80.0, width: float = 2.0):
    chance = random.Random(seed)
    return lambda second: chance.gauss(level, width)


def walked(buckets: list[Bucket], settings: Settings = SETTINGS, memory: Memory | None = None) -> list[Observation]:
    walk = Walk(settings, memory if memory is not None else Memory())
    return [seen for bucket in buckets for seen in walk.judge(bucket)]


def told(observations: list[Observation]) -> list[Event]:
    return advance(CauseState(), observations, TIMING)[1]


def test_nothing_is_judged_before_enough_is_known() -> None:
    seen = walked(made(LEARN_DAYS + 1, noisy()))
    judged = [one for one in seen if one.numbers]
    assert judged[0].at_s == START_S + LEARN_DAYS * DAY_S + FINE_S
    assert all(not one.bad for one in seen if not one.numbers)


def test_a_quiet_metric_fires_nothing() -> None:
    assert told(walked(made(60, noisy()))) == []


@pytest.mark.parametrize("step", [-30.0, 30.0])
def test_an_excursion_is_one_firing_and_one_resolved(step: float) -> None:
    usual, at_s = noisy(), START_S + 20 * DAY_S
    buckets = made(25, lambda second: usual(second) + (step if at_s <= second < at_s + 7200 else 0))
    fired, resolved = told(walked(buckets))
    assert (fired.kind, resolved.kind) == ("fired", "resolved")
    assert fired.since_s == at_s + FINE_S
    assert fired.observation.at_s == at_s + FINE_S + TIMING.for_s
    assert resolved.observation.at_s == at_s + 7200 + FINE_S + TIMING.clear_for_s
    numbers = fired.observation.numbers
    assert abs(numbers["spreads_away"]) > SETTINGS.sensitivity
    assert (numbers["value"] > numbers["usual_high"]) == (step > 0)
    assert numbers["median"] == pytest.approx(80, abs=0.5)
    assert numbers["spread"] == pytest.approx(2, rel=0.1), "of normal values the spread is the standard deviation"
    assert numbers["since"].startswith("2023-12-05T00:00:00")
    assert f"{numbers['usual_low']:.4g}" in fired.observation.reason


def test_what_is_shorter_than_for_s_fires_nothing() -> None:
    usual, at_s = noisy(), START_S + 20 * DAY_S
    assert told(walked(made(25, lambda second: usual(second) - (30 if at_s <= second < at_s + 1800 else 0)))) == []


def test_later_values_do_not_change_what_was_said() -> None:
    usual = noisy()
    before = made(20, usual)
    other = before + made(5, lambda _: 500.0, START_S + 20 * DAY_S)
    assert walked(other)[: len(before)] == walked(before)


def test_hours_are_told_apart_where_they_differ_and_are_known() -> None:
    chance = random.Random(3)

    def value(second: int) -> float:
        return 80 + 20 * math.sin(second % DAY_S // HOUR_S / 24 * 2 * math.pi) + chance.gauss(0, 1)

    days = SEASON_DAYS + 5
    buckets = made(days, value)
    noon = START_S + days * DAY_S + 18 * HOUR_S
    buckets += made(18 / 24, value, START_S + days * DAY_S)
    usual = walked([*buckets, Bucket(noon, 1, 60.0)])[-1]
    unusual = walked([*buckets, Bucket(noon, 1, 80.0)])[-1]
    pooled = walked([*buckets, Bucket(noon, 1, 80.0)], Settings(4.0, 28, "none"))[-1]
    assert not usual.bad
    assert unusual.bad, "the mean of the day is unusual for the hour that is the lowest"
    assert not pooled.bad
    assert unusual.numbers["hour"] == 18
    assert unusual.numbers["hour_days"] == days
    early = walked(made(SEASON_DAYS - 1, value))[-1]
    assert early.numbers["hour_days"] == 0, "too few days to tell hours apart"


def test_hours_that_do_not_differ_are_hardly_told_apart() -> None:
    last = walked(made(28, noisy()))[-1]
    assert last.numbers["usual"] == pytest.approx(last.numbers["median"], abs=0.3)


def test_one_failure_does_not_make_the_next_one_usual() -> None:
    usual = noisy()
    first_s, second_s = START_S + 15 * DAY_S, START_S + 25 * DAY_S

    def value(second: int) -> float:
        return 30.0 if first_s <= second < first_s + 2 * DAY_S or second_s <= second < second_s + DAY_S else usual(second)

    fired = [event.since_s for event in told(walked(made(28, value))) if event.kind == "fired"]
    assert fired == [first_s + FINE_S, second_s + FINE_S]


def test_a_level_that_changed_for_good_becomes_usual() -> None:
    usual, at_s = noisy(), START_S + 28 * DAY_S
    events = told(walked(made(70, lambda second: usual(second) + (15 if second >= at_s else 0))))
    assert [event.kind for event in events] == ["fired", "resolved"]
    assert at_s + 3 * DAY_S < events[1].observation.at_s < at_s + 28 * DAY_S


def test_a_gap_is_no_excursion() -> None:
    usual, at_s = noisy(), START_S + 20 * DAY_S
    buckets = [*made(20, usual), Bucket(at_s, 1, 30.0), Bucket(at_s + 7200, 1, 30.0)]
    assert told(walked(buckets)) == [], "what was between the two is not known"


def test_buckets_weigh_as_many_readings_as_they_hold() -> None:
    chance = random.Random(4)
    buckets = [
        Bucket(second, 20 if second // FINE_S % 2 else 1, chance.gauss(80 if second // FINE_S % 2 else 60, 1))
        for second in range(START_S, START_S + 20 * DAY_S, FINE_S)
    ]
    assert walked(buckets)[-1].numbers["median"] == pytest.approx(80, abs=1)


def test_a_metric_that_never_changes_is_outside_when_it_does() -> None:
    at_s = START_S + 10 * DAY_S
    events = told(walked(made(11, lambda second: 5.0 if second < at_s else 6.0)))
    assert [event.kind for event in events] == ["fired"]


@pytest.mark.parametrize("seed", range(8))
def test_stopped_and_started_anywhere_it_says_the_same(seed: int) -> None:
    """All that is kept is the memory; the history is read again."""
    chance, usual = random.Random(seed), noisy(seed)
    bad = {START_S + hour * HOUR_S for hour in chance.sample(range(24 * 24), 40)}
    buckets = [
        bucket
        for bucket in made(24, lambda second: usual(second) + (40 if second - second % HOUR_S in bad else 0))
        if chance.random() > 0.1
    ]
    settings = Settings(4.0, 7, "hour")
    memory, again = Memory(), []
    place = 0
    while place < len(buckets):
        fresh = buckets[place : place + chance.choice((1, 5, 40, 900))]
        memory = msgspec.json.decode(msgspec.json.encode(memory), type=Memory)
        walk = Walk(settings, memory)
        if needs_history(memory, fresh):
            walk.remember(one for one in buckets[:place] if one.start_s >= since_s(fresh[0].start_s, settings))
        again += [seen for bucket in fresh for seen in walk.judge(bucket)]
        place += len(fresh)
    assert again == walked(buckets, settings)


def test_rules_are_checked() -> None:
    rule = msgspec.json.decode(b'{"kind": "anomaly", "metric": "input.oil.temperature"}', type=Anomaly)
    assert (rule.sensitivity, rule.history_days, rule.season) == (4.0, 28, "hour")
    for wrong in (b'"confidence"', b'"input."', b'"input.a b"', b'"input.a\\n"'):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(b'{"kind": "anomaly", "metric": ' + wrong + b"}", type=Anomaly)
