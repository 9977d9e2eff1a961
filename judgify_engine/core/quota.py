"""How much a tenant may use: rates with a short burst, by the generic cell rate algorithm. Pure.

Source of the algorithm: ITU-T I.371, annex A ("virtual scheduling"). One number holds the whole state of a rate: until when
what was used so far is paid for. It may lie `BURST_S` ahead of now, so a second's worth may come at once.
"""

from typing import NamedTuple

BURST_S = 1.0
MOST_PRESSURE_S = 0.9
ROUNDING_S = 1e-6
"""Sums of times are not quite exact."""


class Quota(NamedTuple):
    """Bounds of one tenant; 0: none."""

    requests_per_s: float = 0.0
    bytes_per_s: float = 0.0
    sockets: int = 0

    def shared_by(self, processes: int) -> "Quota":
        """What each of so many processes may grant. Sockets are whole, so all together may grant some more of them."""
        return Quota(self.requests_per_s / processes, self.bytes_per_s / processes, -(-self.sockets // processes))


UNBOUNDED = Quota()


class Refusal(NamedTuple):
    """Too much of `what`, of which `limit` a second are free; the next is free after `retry_after_s`."""

    what: str
    limit: float
    retry_after_s: float
    pressure_s: float = 0.0
    """0 to `MOST_PRESSURE_S`: grows while more than twice the quota comes."""


class Meter:
    """What a tenant has used."""

    __slots__ = ("_bytes_until_s", "_refused_until_s", "_requests_until_s", "quota", "sockets")

    def __init__(self, quota: Quota = UNBOUNDED) -> None:
        self.quota = quota
        """Is changed by `bound`."""
        self.sockets = 0
        self._requests_until_s = self._bytes_until_s = self._refused_until_s = 0.0

    def bound(self, quota: Quota, now_s: float) -> None:
        """Take another quota; what is owed stays as many requests and bytes, and costs the time that these now take."""
        before, self.quota = self.quota, quota
        if before != quota:
            self._requests_until_s = _rescaled(self._requests_until_s, before.requests_per_s, quota.requests_per_s, now_s)
            self._bytes_until_s = _rescaled(self._bytes_until_s, before.bytes_per_s, quota.bytes_per_s, now_s)
            self._refused_until_s = now_s

    def spend(self, size_bytes: int, now_s: float) -> Refusal | None:
        """Count a request of so many bytes, or say why it is too much; then nothing is counted."""
        quota = self.quota
        requests_until_s = bytes_until_s = now_s
        if quota.requests_per_s:
            requests_until_s = max(self._requests_until_s, now_s) + 1 / quota.requests_per_s
            refusal = _refusal("requests", quota.requests_per_s, self._requests_until_s, requests_until_s, now_s)
            if refusal is not None:
                return self._press(refusal, 1 / quota.requests_per_s, now_s)
        if quota.bytes_per_s:
            bytes_until_s = max(self._bytes_until_s, now_s) + size_bytes / quota.bytes_per_s
            refusal = _refusal("bytes", quota.bytes_per_s, self._bytes_until_s, bytes_until_s, now_s)
            if refusal is not None:
                return self._press(refusal, size_bytes / quota.bytes_per_s, now_s)
        self._requests_until_s, self._bytes_until_s = requests_until_s, bytes_until_s
        return None

    def give_back(self, size_bytes: int) -> None:
        """A request that was counted comes by once more."""
        if self.quota.requests_per_s:
            self._requests_until_s -= 1 / self.quota.requests_per_s
        self.charge(-size_bytes)

    def charge(self, size_bytes: int) -> None:
        """Count bytes of a request that was let through before it was known how many they are."""
        if self.quota.bytes_per_s:
            self._bytes_until_s += size_bytes / self.quota.bytes_per_s

    def _press(self, refusal: Refusal, cost_s: float, now_s: float) -> Refusal:
        """What is refused is measured like what is let through; it is only never refused."""
        self._refused_until_s = min(max(self._refused_until_s, now_s) + cost_s, now_s + MOST_PRESSURE_S)
        return refusal._replace(pressure_s=max(0.0, self._refused_until_s - now_s - cost_s))

    def requests_left(self, now_s: float) -> int:
        """How many requests are free right now. Only where there is a bound."""
        free = (BURST_S - max(0.0, self._requests_until_s - now_s)) * self.quota.requests_per_s
        return max(0, int(free + ROUNDING_S * self.quota.requests_per_s))

    def is_idle(self, now_s: float) -> bool:
        """Whether it holds nothing that a new one would not hold."""
        return not self.sockets and max(self._requests_until_s, self._bytes_until_s) <= now_s


def _rescaled(until_s: float, before: float, now: float, now_s: float) -> float:
    return now_s + max(0.0, until_s - now_s) * before / now if before and now else now_s


def _refusal(what: str, limit: float, before_s: float, after_s: float, now_s: float) -> Refusal | None:
    # What alone is larger than a burst is let through when nothing is owed: else it never could be.
    if after_s - now_s <= BURST_S + ROUNDING_S or before_s <= now_s:
        return None
    return Refusal(what, limit, min(after_s - now_s - BURST_S, before_s - now_s))
