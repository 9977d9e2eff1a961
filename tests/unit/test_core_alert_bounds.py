"""What one tenant's alert rules may cost: never more than the bound, and nobody's for another one's sake."""

import random

from judgify_engine.core.alert_bounds import (
    LOOK_COST,
    MOST_COST,
    MOST_READ,
    MOST_WORKFLOWS,
    Reading,
    fewer,
    grouped,
    looks_of,
    reading_of,
)
from judgify_engine.core.alert_rules import MACRO_BUDGET, CompiledCondition, Condition

SMALL = Reading(frozenset([60, 300]), 1)


def test_rules_that_want_little_get_it_whatever_others_want() -> None:
    wanted = [(10_000, LOOK_COST)] * 20 + [(1, 3 * MACRO_BUDGET), (5, LOOK_COST)]
    found = looks_of(wanted)
    assert found[-2:] == [1, 5]
    assert len(set(found[:20])) <= 2  # alike, but for what rounding leaves
    assert sum(found) > 1800


def test_no_rules_cost_more_than_a_tenant_may() -> None:
    chance = random.Random(7)
    for _ in range(300):
        wanted = [
            (chance.choice([0, 1, 7, 100, 5000]), LOOK_COST + chance.choice([0, 500, MACRO_BUDGET, 3 * MACRO_BUDGET]))
            for _ in range(chance.randrange(101))
        ]
        found = looks_of(wanted)
        assert sum(share * cost for share, (_, cost) in zip(found, wanted, strict=True)) <= MOST_COST
        assert all(0 <= share <= min(causes, MOST_WORKFLOWS) for share, (causes, _) in zip(found, wanted, strict=True))
        if sum(min(causes, MOST_WORKFLOWS) * cost for causes, cost in wanted) <= MOST_COST // 101:
            assert found == [causes for causes, _ in wanted]


def test_rules_as_dear_as_may_be_are_not_all_left_out() -> None:
    assert sum(looks_of([(1, LOOK_COST + 3 * MACRO_BUDGET)] * 100)) == MOST_COST // (LOOK_COST + 3 * MACRO_BUDGET)


def test_of_moments_the_last_one_stays() -> None:
    moments = list(range(0, 120, 5))
    for most in (-1, 0, 1, 2, 5, 23):
        found = fewer(moments, most)
        assert len(found) <= max(1, most)
        assert found[-1] == moments[-1]
        assert set(found) <= set(moments)
    assert fewer(moments, 24) == moments


def test_what_is_read_together_is_bounded_and_holds_everybody_once() -> None:
    chance = random.Random(3)
    moments = list(range(0, 120, 5))
    for _ in range(50):
        readings = {
            f"t{number}": Reading(
                frozenset(chance.sample(range(10, 3600, 5), chance.choice([1, 2, 90]))), chance.choice([1, 1, 1, 50, 20_000])
            )
            for number in range(chance.randrange(1, 200))
        }
        groups = grouped(readings, moments)
        assert sorted(tenant for group in groups for tenant in group.tenants) == sorted(readings)
        for group in groups:
            widths = {width_s for tenant in group.tenants for width_s in readings[tenant].widths}
            rows = sum(width_s // 5 for width_s in widths) * sum(readings[tenant].places for tenant in group.tenants)
            assert rows * len(group.moments) <= MOST_READ or (len(group.tenants) == 1 and len(group.moments) == 1)
            assert group.moments[-1] == moments[-1]


def test_who_asks_for_much_is_read_apart_and_the_others_together() -> None:
    readings = {"small": SMALL, "big": Reading(frozenset(range(60, 560, 5)), 1001), "tiny": SMALL}
    first, second = grouped(readings, [5, 10])
    assert (first.tenants, list(first.moments)) == (["small", "tiny"], [5, 10])
    assert (second.tenants, list(second.moments)) == (["big"], [10])


def test_a_reading_counts_what_is_read_of_each_workflow() -> None:
    plain = CompiledCondition(Condition(when="window.count > 1"))
    each = CompiledCondition(Condition(when="window.p95_execution_time_ms > 1.0", each="workflow", window_s=60))
    assert reading_of([plain], 1000) == Reading(frozenset([300]), 1)
    widths, places = reading_of([plain, each], 1000)
    assert widths == {60, 300}
    assert places > 1000
