"""Results and methods as metrics that are only counted: how often each came, in the buckets of charts. Pure.

`result.VERDICT` by what core/results calls a result, `method.METHOD` by who judged. A bucket of them has a count and nothing
else: what was counted has no value. As results by the hour they are bounded by their names only, which are 64 characters at
most: a workflow has as many as its rules and its model give.
"""

from collections.abc import Mapping

from judgify_engine.core.samples import ALL_WORKFLOWS, FINE_S, HOUR_S, BucketKey, Windows

RESULT_PREFIX, METHOD_PREFIX = "result.", "method."
METHODS = ("rule", "llm", "hybrid")
COUNTED = (RESULT_PREFIX, METHOD_PREFIX)
EVERY = {prefix + "*": prefix for prefix in COUNTED}
"""What stands for all results, or all methods, where metrics are asked for."""

CountKey = tuple[str, str, str, int]
"""tenant, workflow, metric, bucket of `FINE_S` (Unix seconds)."""

_METHOD_METRICS = {method: METHOD_PREFIX + method for method in METHODS}
_OTHERWISE = METHOD_PREFIX + "hybrid"


def method_metric(method: str) -> str:
    """The metric that counts a method; what others wrote that is none of `METHODS` counts as hybrid, as everywhere."""
    return _METHOD_METRICS.get(method, _OTHERWISE)


def is_counted(metric: str) -> bool:
    """Whether a metric is only counted."""
    return metric.startswith(COUNTED)


def counts_by_bucket(counts: Mapping[CountKey, int], now_s: int, windows: Windows) -> dict[BucketKey, int]:
    """The counts in the buckets that are kept, of each workflow and of all of them together; as core/samples.buckets_of."""
    found: dict[BucketKey, int] = {}
    fine_since_s = now_s - windows.fine_s
    for (tenant, workflow, metric, second), count in counts.items():
        keys = [(tenant, ALL_WORKFLOWS, metric, HOUR_S, second - second % HOUR_S)]
        if second >= fine_since_s:
            keys.append((tenant, ALL_WORKFLOWS, metric, FINE_S, second))
        for key in keys:
            found[key] = found.get(key, 0) + count
            if workflow != ALL_WORKFLOWS:  # a row that others wrote without one counts for all together only
                own = (tenant, workflow, *key[2:])
                found[own] = found.get(own, 0) + count
    return {key: count for key, count in found.items() if count}
