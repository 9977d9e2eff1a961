"""What the rules of one tenant may cost an evaluation, so that they do not make those of others late. Pure.

All rules are evaluated together, so what one tenant asks for is bounded in each evaluation; by numbers, not by a clock, so that
the same rules and figures see the same whoever evaluates. Costs are in the units of `core/alert_rules.MACRO_BUDGET`; 1000 of
them are some 60 µs.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from judgify_engine.core.alert_rules import CompiledCondition
from judgify_engine.core.samples import FINE_S, HOUR_S, LIVE_S

LOOK_COST = 1000
"""Of a look at one cause at one moment, beside the macros of its conditions."""
MOST_COST = 2_000_000
"""Of the looks of a tenant at one moment: 2000 causes of plain conditions, some 0.1 s."""
MOST_COST_OF_ALL = 10_000_000
"""At all moments of one evaluation, of which there are many after a gap."""
MOST_WORKFLOWS = 500
"""Of one rule."""
MOST_READ = 2_000_000
"""Stored buckets that are read together, each as often as there are windows that hold it: some 0.5 s."""
EACH_MORE = 10
"""A histogram, or figures by 5 minutes, cost about so many times what plain figures do."""


class Reading(NamedTuple):
    """What a tenant's rules have read."""

    widths: frozenset[int]
    """Of windows, in seconds."""
    places: int
    """For how many places (all workflows together, and each) that is, weighted by what is read of each."""


class Group(NamedTuple):
    """Tenants whose figures are read together."""

    tenants: list[str]
    moments: Sequence[int]
    """At which they are looked at."""


def reading_of(rules: Sequence[CompiledCondition], workflows: int) -> Reading:
    """`workflows`: how many the tenant has."""
    places = 1 + (workflows if any(one.rule.each == "workflow" for one in rules) else 0)
    weight = 1 + EACH_MORE * any(one.uses("window.p95_execution_time_ms") for one in rules)
    fine = ("window.mean_confidence", "window.results", "window.methods")
    weight += EACH_MORE * any(one.tracked or any(map(one.uses, fine)) for one in rules)
    return Reading(frozenset(one.rule.window_s for one in rules), places * weight)


def grouped(readings: Mapping[str, Reading], moments: Sequence[int]) -> list[Group]:
    """All tenants, in as few groups as `MOST_READ` allows, those who ask for little together and first.

    Windows are read of all tenants of a group, so it counts whose windows and whose workflows come together. One who asks for
    more is alone, and looked at at fewer moments.
    """
    found: list[Group] = []
    widths: set[int] = set()
    places = 0
    for tenant_id in sorted(readings, key=lambda one: (_rows(readings[one].widths) * readings[one].places, one)):
        reading = readings[tenant_id]
        if found and _rows(widths | reading.widths) * (places + reading.places) * len(moments) <= MOST_READ:
            found[-1].tenants.append(tenant_id)
            widths, places = widths | reading.widths, places + reading.places
        else:
            most = MOST_READ // max(1, _rows(reading.widths) * reading.places)
            found.append(Group([tenant_id], fewer(moments, most)))
            widths, places = set(reading.widths), reading.places
    return found


def looks_of(wanted: Sequence[tuple[int, int]]) -> list[int]:
    """How many causes each rule of a tenant looks at. `wanted`: how many it has, and what a look at one of them costs.

    Each looks at one, if all can; who wants little more gets it, the others share what is left alike.
    """
    found, left = [0] * len(wanted), MOST_COST
    for place in sorted(range(len(wanted)), key=lambda place: wanted[place][1]):
        causes, cost = wanted[place]
        if causes and cost <= left:
            found[place] = 1
            left -= cost
    order = sorted(range(len(wanted)), key=lambda place: wanted[place][0] * wanted[place][1])
    for rank, place in enumerate(order):
        causes, cost = wanted[place]
        more = min(min(causes, MOST_WORKFLOWS) - found[place], left // (len(order) - rank) // cost)
        found[place] += more
        left -= more * cost
    return found


def fewer(moments: Sequence[int], most: int) -> Sequence[int]:
    """At most so many of them, evenly, and the last one in any case."""
    step = -(-len(moments) // max(1, most))
    return moments[::-1][::step][::-1] if step > 1 else moments


def _rows(widths: Iterable[int]) -> int:
    """Buckets in windows of these widths."""
    return sum(width_s // (LIVE_S if width_s <= HOUR_S else FINE_S) for width_s in widths)
