"""Rules of kind `anomaly`: walks over the buckets of each metric that are new since the last look, in the order of their time.

- A bucket is judged once: when it is over, and was there at the look before. So what came meanwhile is in it. What comes later
  still (late data) is not judged; it is part of what is usual from the next hour on.
- What was there before the first look is history: nobody is told of what was unusual long ago.
- The band of an hour is kept with the state, so a metric's history is read once an hour, or when much came at once.
- A look is bounded: tenants take turns in it, each with those of its metrics first that are furthest behind; the rest waits for
  the next one.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from judgify_engine.core.alert_changes import ActiveRule, Cause, Known, Seen
from judgify_engine.core.alert_rules import Anomaly
from judgify_engine.core.alert_state import Observation
from judgify_engine.core.anomaly import Bucket, Memory, Settings, Walk, needs_history, since_s
from judgify_engine.core.samples import ALL_WORKFLOWS, FINE_S, HOUR_S
from judgify_engine.pipeline.alert_kinds import Span

MOST_FRESH = 4032
"""Buckets of a metric that are judged in one look: two weeks of them."""
MOST_READ = 250_000
"""Buckets that are read in one look, about: a second."""
BEGIN_COST = 10
"""A bucket of a first look counts so many times: it is walked over, not only read (90 days take some 3 s)."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Memory).decode


class Series(NamedTuple):
    """Where a metric's buckets are."""

    tenant_id: str
    workflow_id: str
    metric: str


class BucketSource(Protocol):
    """Where the rollups are; see store/alert_buckets."""

    async def newest(self, series: Sequence[Series], until_s: int) -> list[int | None]: ...
    async def read(self, series: Series, from_s: int, to_s: int, limit: int) -> list[Bucket]: ...


class Anomalies:
    """An `Evaluator`."""

    def __init__(self, source: BucketSource) -> None:
        self._source = source

    async def observe(self, rules: Sequence[ActiveRule], known: Mapping[Cause, Known], span: Span) -> Sequence[Seen]:
        """See `Evaluator`. Nothing is observed of a metric of which there is nothing new."""
        series = [_series(one) for one in rules]
        newest = await self._source.newest(series, int(span.covered_s) - FINE_S)
        looks = []
        for one, of_what, newest_s in zip(rules, series, newest, strict=True):
            cause = Cause(one.tenant_id, one.rule_id, _rule(one).workflow_id or ALL_WORKFLOWS)
            stored = known.get(cause)
            memory = None if stored is None or stored.memory is None else _decode(stored.memory)
            if memory is not None and memory.metric != of_what.metric:
                memory = None
            anew = stored is not None and memory is None  # of another metric, or of a condition
            looks.append(_Look(cause, of_what, _settings(one), memory, -1 if newest_s is None else newest_s, anew))
        left = MOST_READ
        found = []
        for look in _in_turns(looks):
            observations: list[Observation] = []
            memory = look.memory
            if left > 0:
                observations, memory, read = await self._look(look)
                left -= read
            found.append(Seen(look.cause, observations, None if memory is None else _encode(memory), look.anew))
        return found

    async def _look(self, look: "_Look") -> tuple[list[Observation], Memory, int]:
        """What is new; what is to be remembered; how many buckets were read."""
        memory = look.memory
        if memory is None:
            return await self._begin(look)
        fresh: list[Bucket] = []
        if memory.seen_s >= memory.through_s:
            fresh = await self._source.read(look.series, memory.through_s, memory.seen_s + FINE_S, MOST_FRESH)
        if not fresh and look.newest_s <= memory.seen_s:
            return [], memory, 0
        walk = Walk(look.settings, memory)
        before: list[Bucket] = []
        if fresh and needs_history(memory, fresh):
            before = await self._history(look, fresh[0].start_s)
            walk.remember(before)
            await asyncio.sleep(0)
        observations = await _judge(walk, fresh)
        memory.seen_s = max(memory.seen_s, look.newest_s)
        return observations, memory, len(before) + len(fresh)

    async def _begin(self, look: "_Look") -> tuple[list[Observation], Memory, int]:
        """The first look: what is there is walked over, so that what was unusual in it does not count as usual."""
        memory = Memory(metric=look.series.metric)
        if look.newest_s < 0:
            return [], memory, 0
        before = await self._history(look, look.newest_s)
        await _judge(Walk(look.settings, memory), before)
        memory.through_s, memory.seen_s, memory.outside_since_s = look.newest_s, look.newest_s, None
        return [], memory, len(before) * BEGIN_COST

    async def _history(self, look: "_Look", until_s: int) -> list[Bucket]:
        begin_s = since_s(until_s, look.settings)
        return await self._source.read(look.series, begin_s, until_s, (until_s - begin_s) // FINE_S + 1)


class _Look(NamedTuple):
    cause: Cause
    series: Series
    settings: Settings
    memory: Memory | None
    newest_s: int
    """Start of the newest bucket that is over; -1: there is none."""
    anew: bool
    """What is known is of something else."""


def _in_turns(looks: Sequence[_Look]) -> list[_Look]:
    """What is furthest behind of each tenant, then what comes next of each, and so on: many rules of one delay no other's."""
    behind = sorted(looks, key=lambda look: look.memory.through_s if look.memory is not None else 0)
    turns = Counter[str]()
    ranked = []
    for place, look in enumerate(behind):
        turns[look.cause.tenant_id] += 1
        ranked.append((turns[look.cause.tenant_id], place))
    return [behind[place] for _, place in sorted(ranked)]


async def _judge(walk: Walk, buckets: Sequence[Bucket]) -> list[Observation]:
    """Lets others have their turn now and then: each hour's band takes about a millisecond."""
    observations: list[Observation] = []
    hour_s = -1
    for bucket in buckets:
        if bucket.start_s - bucket.start_s % HOUR_S != hour_s:
            hour_s = bucket.start_s - bucket.start_s % HOUR_S
            await asyncio.sleep(0)
        observations += walk.judge(bucket)
    return observations


def _rule(one: ActiveRule) -> Anomaly:
    assert isinstance(one.rule, Anomaly)
    return one.rule


def _series(one: ActiveRule) -> Series:
    rule = _rule(one)
    return Series(one.tenant_id, rule.workflow_id or ALL_WORKFLOWS, rule.metric)


def _settings(one: ActiveRule) -> Settings:
    rule = _rule(one)
    return Settings(rule.sensitivity, rule.history_days, rule.season)
