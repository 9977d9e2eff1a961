"""Whether there should be more processes or fewer, and why. Pure, and without memory: all it needs to know is handed in, so
whoever decides next decides alike.

Out when CPU > 80 % or memory > 85 % or response > 3000 ms or a queue > 1000; in when CPU < 30 % and memory < 40 % and
response < 1000 ms and nothing waits, several times in a row (design.md §3; all of it are settings).

- Figures count only from the last decision on: those of before are of another number of processes.
- Replicas that should be there and are not heard count as idle when it is about more, as Kubernetes counts pods that are not
  ready, and forbid fewer. Where less than half is heard nothing is decided.
- How many more: so many that CPU and memory come down to their targets; one more where only response or a queue is too much.
  How many fewer: as many as let those that stay remain within the targets. Never more than `max_step` at once.
- Each decision starts a cool-down: a short one before there may be more, a long one before there may be fewer.
"""

from collections.abc import Sequence
from math import ceil
from typing import Literal, NamedTuple

import msgspec

from judgify_engine.core.figures import Figures

Action = Literal["out", "in", "stay"]
State = Literal["scaling", "calm", "waiting", "cooling", "settling", "limited", "crowded", "unheard"]
ROUNDING = 1e-9
"""Shares are quotients: 0.7 of 10 is 7.000000000000001."""
NOTEWORTHY = ("limited", "crowded", "unheard")
"""States in which something is amiss, so that coming into them and out of them is worth a note."""


class Limits(NamedTuple):
    """The thresholds. Shares from 0 to 1."""

    minimum: int
    maximum: int
    max_step: int
    out_cpu: float
    out_memory: float
    out_response_ms: float
    out_queue_rows: float
    in_cpu: float
    in_memory: float
    in_response_ms: float
    target_cpu: float
    target_memory: float
    cooldown_out_s: float
    cooldown_in_s: float
    shared_memory: bool
    """All live in the same memory, so that another one would take more of it."""


class Last(NamedTuple):
    """The last decision to have more or fewer."""

    action: Action
    at_s: float


class Decision(msgspec.Struct, frozen=True):
    """What to do, and why."""

    action: Action
    state: State
    rule: str
    """What made it: `cpu`, `memory`, `response`, `queue`; `idle`; `minimum`, `maximum`; empty where nothing did."""
    reason: str
    """The same in words, with the figures."""
    current: int
    target: int
    """How many there should be."""


def decide(recent: Sequence[Figures], current: int, last: Last | None, limits: Limits) -> Decision:
    """`recent`: the figures as of now and of the evaluations before, the newest first; as many as must agree before there are
    fewer. `current`: how many replicas there should be now."""
    now = recent[0]

    def stay(state: State, reason: str, rule: str = "") -> Decision:
        return Decision("stay", state, rule, reason, current, current)

    outside = _within_bounds(current, limits)
    if outside is not None:
        return outside
    if now.replicas * 2 < current or not now.replicas:
        if (now.replicas + now.starting) * 2 >= max(current, 1):
            return stay("settling", f"{now.starting} of {current} were not yet heard for all of the last {now.window_s:g} s")
        return stay("unheard", f"only {now.replicas} of {current} were heard for all of the last {now.window_s:g} s")
    breach = _breach(now, current, limits)
    if breach is None:
        return _fewer(recent, current, last, limits)
    rule, reason, wanted = breach
    since_s = now.at_s - last.at_s if last is not None else float("inf")
    if since_s < now.window_s:
        return stay("settling", f"{reason}; but the last decision was {since_s:.0f} s ago, and a whole window is needed", rule)
    if since_s < limits.cooldown_out_s:
        return stay("cooling", f"{reason}; but the last decision was {since_s:.0f} s ago", rule)
    if limits.shared_memory and now.memory > limits.out_memory:
        return stay("crowded", f"{reason}; but {_percent(now.memory)} of the memory that all share is taken", rule)
    if current >= limits.maximum:
        return stay("limited", f"{reason}; but there are {current} already, the most that are allowed", rule)
    target = min(limits.maximum, current + max(1, min(limits.max_step, wanted - current)))
    return Decision("out", "scaling", rule, reason, current, target)


def _within_bounds(current: int, limits: Limits) -> Decision | None:
    """Back inside the bounds, if it is not; figures and cool-downs do not matter then."""
    if current < limits.minimum:
        reason = f"there are {current}, and {limits.minimum} must be"
        return Decision("out", "scaling", "minimum", reason, current, limits.minimum)
    if current > limits.maximum:
        reason = f"there are {current}, and at most {limits.maximum} may be"
        return Decision("in", "scaling", "maximum", reason, current, limits.maximum)
    return None


def _breach(now: Figures, current: int, limits: Limits) -> tuple[str, str, int] | None:
    """The first rule for more that holds, in words, and how many they all want."""
    heard = now.replicas / max(current, now.replicas)
    cpu, memory = now.cpu * heard, now.memory * (1.0 if limits.shared_memory else heard)
    found: list[tuple[str, str, int]] = []
    of = f"mean of {now.processes} over {now.window_s:g} s" + ("" if heard == 1 else f", {current - now.replicas} not heard")
    if cpu > limits.out_cpu:
        wanted = ceil(current * cpu / limits.target_cpu - ROUNDING)
        found.append(("cpu", f"CPU {_percent(cpu)} > {_percent(limits.out_cpu)} ({of})", wanted))
    if memory > limits.out_memory:
        wanted = ceil(current * memory / limits.target_memory - ROUNDING)
        found.append(("memory", f"memory {_percent(memory)} > {_percent(limits.out_memory)} ({of})", wanted))
    if now.response_ms is not None and now.response_ms > limits.out_response_ms:
        text = f"response {now.response_ms:.0f} ms > {limits.out_response_ms:g} ms (mean over {now.window_s:g} s)"
        found.append(("response", text, current + 1))
    if now.queue_rows > limits.out_queue_rows:
        text = f"a queue of {now.queue_rows:.0f} > {limits.out_queue_rows:g} (mean over {now.window_s:g} s)"
        found.append(("queue", text, current + 1))
    if not found:
        return None
    return found[0][0], "; ".join(text for _, text, _ in found), max(wanted for _, _, wanted in found)


def _fewer(recent: Sequence[Figures], current: int, last: Last | None, limits: Limits) -> Decision:
    now = recent[0]

    def stay(state: State, reason: str) -> Decision:
        return Decision("stay", state, "", reason, current, current)

    agreeing = [_is_idle(figures, current, limits) for figures in recent]
    if not agreeing[0]:
        return stay("calm", f"CPU {_percent(now.cpu)}, memory {_percent(now.memory)}, {_response(now)}: within all bounds")
    if current <= limits.minimum:
        return stay("calm", f"idle, but there are {current}, the fewest that are allowed")
    since_s = now.at_s - last.at_s if last is not None else float("inf")
    if since_s < limits.cooldown_in_s:
        return stay("cooling", f"idle, but the last decision was {since_s:.0f} s ago")
    if not all(agreeing) or now.at_s - recent[-1].at_s + now.window_s > since_s:
        return stay("waiting", f"idle, but not for {len(recent)} evaluations in a row")
    lowest = max(limits.minimum, current - limits.max_step)
    fitting = [number for number in range(lowest, current) if all(_fits(one, current, number, limits) for one in recent)]
    if not fitting:
        return stay("calm", f"idle, but with {current - 1} the load on each would be over its target")
    reason = (
        f"CPU {_percent(now.cpu)} < {_percent(limits.in_cpu)}, memory {_percent(now.memory)} < {_percent(limits.in_memory)}, "
        f"{_response(now)}, nothing waits; {len(recent)} times in a row"
    )
    return Decision("in", "scaling", "idle", reason, current, fitting[0])


def _is_idle(one: Figures, current: int, limits: Limits) -> bool:
    """Whether the rule for fewer holds, and all who should be there say so."""
    return (
        one.replicas >= current
        and one.cpu < limits.in_cpu
        and one.memory < limits.in_memory
        and (one.response_ms is None or one.response_ms < limits.in_response_ms)
        and one.oldest_s * 1000 < limits.in_response_ms
    )


def _fits(one: Figures, current: int, number: int, limits: Limits) -> bool:
    """Whether so many could bear the load of the present ones, without there having to be more again at once.

    Response is projected as of a queue that is served at random (M/M/1): by the share of time that is free.
    """
    cpu = one.cpu * current / number
    memory = one.memory * (1.0 if limits.shared_memory else current / number)
    if cpu > limits.target_cpu + ROUNDING or memory > limits.target_memory + ROUNDING:
        return False
    if one.queue_rows * current / number > limits.out_queue_rows:
        return False
    return one.response_ms is None or one.response_ms * (1 - one.cpu) <= limits.out_response_ms * (1 - cpu)


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def _response(one: Figures) -> str:
    return "no requests" if one.response_ms is None else f"response {one.response_ms:.0f} ms"
