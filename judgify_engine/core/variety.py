"""Who makes more different results than figures by result are for: each one is rows of its own in the rollups. Pure."""

from collections.abc import Iterable

from judgify_engine.core.samples import HOUR_S

MANY_RESULTS = 1000
"""Different results of a tenant in one hour, of whichever workflows: results that vary are told, not many workflows."""
REMEMBERED = 200
"""Tenants and hours that are counted at once; beyond it those that began first are forgotten."""


class Variety:
    """What came lately: at most `REMEMBERED` times `MANY_RESULTS` results."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], set[int] | None] = {}
        """tenant, hour (Unix) to the hashes of its results; None: there were many, and it was told."""

    def add(self, came: Iterable[tuple[str, str, int, str]]) -> list[tuple[str, int]]:
        """`came`: tenant, workflow, hour, result. Whose results are too many now; each tenant and hour once."""
        many = []
        for tenant_id, _, hour_s, result in came:
            key = tenant_id, hour_s - hour_s % HOUR_S
            if key not in self._seen:
                while len(self._seen) >= REMEMBERED:
                    del self._seen[next(iter(self._seen))]
                self._seen[key] = set()
            seen = self._seen[key]
            if seen is not None:
                seen.add(hash(result))
                if len(seen) > MANY_RESULTS:
                    self._seen[key] = None
                    many.append(key)
        return many
