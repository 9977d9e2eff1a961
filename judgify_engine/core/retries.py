"""What becomes of an attempt: done, tried again and when, or not helped by a repeat. Pure."""

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

FACTOR = 3.0
LATER = frozenset((408, 409, 425, 429))
"""Of the 4xx, those that a repeat may cure."""
MOVED = frozenset((301, 308))
"""Of the 3xx, those that stay."""

Verdict = Literal["succeeded", "retry", "refused"]


class Outcome(NamedTuple):
    """What came of one attempt."""

    verdict: Verdict
    error: str | None = None
    """Why it did not succeed."""
    retry_after_s: float | None = None
    """When the receiver asks to come back."""
    request: Mapping[str, Any] = MappingProxyType({})
    response: Mapping[str, Any] | None = None


def verdict_of(status: int) -> Verdict:
    """What an HTTP status means for a call."""
    if 200 <= status < 300:
        return "succeeded"
    if status in MOVED or (400 <= status < 500 and status not in LATER):
        return "refused"
    return "retry"


def delay_s(attempt: int, first_s: float, longest_s: float, chance: float, asked_s: float | None = None) -> float:
    """Rest after a failed attempt (from 1): three times as long each time, a quarter of it by chance (0 to 1).

    `asked_s`: what the receiver asked for; it may make the rest longer, up to `longest_s`.
    """
    rest_s = min(longest_s, first_s * FACTOR ** min(attempt - 1, 60))
    rest_s *= 0.75 + 0.25 * chance
    return rest_s if asked_s is None else max(rest_s, min(asked_s, longest_s))


def retry_after_s(header: str | None, now_s: float) -> float | None:
    """`Retry-After`: seconds, or a date, from `now_s` on. None: there is none, or none that is right."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
        return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now_s)
    except (ValueError, OverflowError):
        return None
