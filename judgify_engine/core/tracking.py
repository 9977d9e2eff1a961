"""Fields of `input_data` that workflows track: which ones hold for a judgment, and their values. Pure.

A judgment's version says which fields; one that was written by hand without a version (0) is taken for the version that was
current when it was created. So the same table gives the same figures, whenever they are computed.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec

from judgify_engine.core.depth import is_deep
from judgify_engine.core.histogram import LIMIT, MILLIONTHS
from judgify_engine.core.samples import TRACKED_PREFIX

NAME_PATTERN = r"^[^\W\d][\w-]*(\.[^\W\d][\w-]*)*$(?!\n)"
MAX_NAME_CHARS, MAX_FIELDS = 200, 20
_is_name = re.compile(NAME_PATTERN).match
EARLIEST_US, LATEST_US = 946_684_800_000_000, 7_258_118_400_000_000
"""2000 to 2200: what `created_at` may be. Times of occurrence outside are not believed."""


class TrackedFields:
    """What one version tracks. `fields`: names, with dots where they are nested."""

    def __init__(self, fields: tuple[str, ...]) -> None:
        self.fields = fields
        self._paths = [(TRACKED_PREFIX + field, field.split(".")) for field in fields]
        names = {path[0]: f"f{n}" for n, (_, path) in enumerate(self._paths)}
        # Only what is tracked is decoded, the rest is skipped over: 0.6 µs for the example body instead of 1.2.
        shape = msgspec.defstruct("Tracked", [(name, Any, None) for name in names.values()], rename=_renamer(names))
        self._decode = msgspec.json.Decoder(shape).decode
        raws = msgspec.defstruct("Raws", [(name, msgspec.Raw, None) for name in names.values()], rename=_renamer(names))
        self._decode_each = msgspec.json.Decoder(raws).decode
        self._places = [(metric, names[path[0]], path[1:]) for metric, path in self._paths]

    def values(self, input_data: str) -> list[tuple[str, int]]:
        """(metric, value in millionths) of each tracked field that is a number within `LIMIT`. `input_data`: from jsonb.

        Of what is nested too deep (core/depth) there is none.
        """
        if is_deep(input_data):
            return []
        try:
            found: Any = self._decode(input_data)
        except msgspec.MsgspecError:
            found = self._each(input_data)
            if found is None:
                return []
        result = []
        for metric, name, rest in self._places:
            value = getattr(found, name)
            for part in rest:
                value = value.get(part) if type(value) is dict else None
            if (type(value) is float or type(value) is int) and -LIMIT <= value <= LIMIT:
                # As PostgreSQL does it: to double precision first, then half to even.
                result.append((metric, round(float(value) * MILLIONTHS)))
        return result

    def _each(self, input_data: str) -> Any:
        """Field by field, where one of them cannot be read (a number that fits no double). None: not an object."""
        try:
            found = self._decode_each(input_data)
        except msgspec.MsgspecError:
            return None
        for _, name, _ in self._places:
            raw = getattr(found, name)
            try:
                setattr(found, name, None if raw is None else msgspec.json.decode(raw))
            except msgspec.MsgspecError:
                setattr(found, name, None)
        return found


def _renamer(names: dict[str, str]) -> dict[str, str]:
    return {field: name for name, field in names.items()}


@lru_cache(maxsize=4096)
def tracked_fields(fields: tuple[str, ...]) -> TrackedFields | None:
    """The same object for the same fields; None for none."""
    return TrackedFields(fields) if fields else None


class _Tracks(msgspec.Struct):
    track: Any = None


_decode_tracks = msgspec.json.Decoder(_Tracks).decode


def tracked_names(definition: str) -> tuple[str, ...]:
    """What a stored definition tracks; nothing where it is none of ours (it may be written by hand)."""
    if is_deep(definition):
        return ()
    try:
        track = _decode_tracks(definition).track
    except msgspec.MsgspecError:
        return ()
    if not isinstance(track, list):
        return ()
    names = [name for name in track if isinstance(name, str) and len(name) <= MAX_NAME_CHARS and _is_name(name)]
    return tuple(dict.fromkeys(names))[:MAX_FIELDS]


def ranges(versions: Iterable[tuple[str, str, int, int, tuple[str, ...]]]) -> list[dict[str, Any]]:
    """What `Tracking.of` decides, as ranges of versions and of times of creation for SQL; see store/recompute."""
    points: dict[tuple[str, str], list[tuple[int, int, tuple[str, ...]]]] = {}
    for tenant, workflow, version, created_us, fields in versions:
        points.setdefault((tenant, workflow), []).append((version, created_us, fields))
    found = []
    for (tenant, workflow), since in points.items():
        for n, (version, created_us, fields) in enumerate(since):
            next_version, next_us, _ = since[n + 1] if n + 1 < len(since) else (2**31, LATEST_US * 2, ())
            if fields:
                found.append(
                    {"tenant_id": tenant, "workflow_id": workflow, "from_version": version, "to_version": next_version,
                     "from_us": created_us, "to_us": next_us, "fields": fields}
                )  # fmt: skip
    return found


class _Since(NamedTuple):
    version: int
    created_us: int
    fields: TrackedFields | None


class Tracking:
    """Which version of which workflow tracks what. Holds only the versions where that changed."""

    def __init__(self, versions: Iterable[tuple[str, str, int, int, tuple[str, ...]]] = ()) -> None:
        """`versions`: (tenant, workflow, version, created µs, fields), in ascending order of version for each workflow."""
        self._workflows: dict[tuple[str, str], list[_Since]] = {}
        for tenant, workflow, version, created_us, fields in versions:
            self.learn(tenant, workflow, version, created_us, fields)

    def learn(self, tenant: str, workflow: str, version: int, created_us: int, fields: tuple[str, ...]) -> None:
        """A version was made. One that is older than what is known is known already."""
        known = self._workflows.get((tenant, workflow))
        if known is None:
            if not fields:
                return
            known = self._workflows[tenant, workflow] = []
        tracked = tracked_fields(fields)
        if known and version <= known[-1].version:
            return
        if not known or known[-1].fields is not tracked:
            known.append(_Since(version, created_us, tracked))

    def of(self, tenant: str, workflow: str, version: int, created_us: int) -> TrackedFields | None:
        """What a judgment of this version is tracked by."""
        known = self._workflows.get((tenant, workflow))
        if known is None:
            return None
        if version >= known[-1].version > 0:  # nearly always
            return known[-1].fields
        if version > 0:
            place = bisect_right(known, version, key=_version_of)
        else:
            place = bisect_right(known, created_us, key=_created_of)
        return known[place - 1].fields if place else None


def _version_of(since: _Since) -> int:
    return since.version


def _created_of(since: _Since) -> int:
    return since.created_us


def tracked_time_us(occurred_us: int | None, created_us: int) -> int:
    """When a tracked value is charted."""
    return occurred_us if occurred_us is not None and EARLIEST_US <= occurred_us < LATEST_US else created_us
