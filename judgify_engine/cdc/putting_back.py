"""Groups of streams that lack entries, put back to where they stood: before anything is put in, so that they get it all.

What a Redis has after it was emptied, or from an old dump, is less than what PostgreSQL remembers; that is what counts.
"""

import logging
from collections.abc import Collection, Mapping, Sequence

from judgify_engine.cdc.progress import Memory
from judgify_engine.core.stream_state import GroupKey
from judgify_engine.core.streams import JUDGMENTS
from judgify_engine.pipeline.streams import Streams
from judgify_engine.units import START, Position

log = logging.getLogger(__name__)


async def put_back(
    streams: Streams, memory: Memory, cut: Collection[str], was: Sequence[Position], filled_from_lsn: int
) -> None:
    """Make the groups that are not there, and move on those which, in a stream of `cut`, are further back than they were.

    `was`: where the streams ended. What is filled in begins at `filled_from_lsn`; what a group misses before it is noted.
    """
    for (name, group), floor in (await memory.groups()).items():
        await streams.make_group(name, group, floor)
        if name not in cut:
            continue
        await streams.move_group(name, group, floor)
        if floor.lsn < filled_from_lsn and floor < was[JUDGMENTS.index(name)]:
            end = Position(filled_from_lsn, 0)
            facts = {"stream": name, "group": group, "after": str(floor), "up_to": str(end)}
            log.error("what a group had not read is gone with Redis: it was too far behind", extra=facts)
            await memory.skipped((name, group), floor, end, "Redis was emptied, and the log kept no longer reached so far")


async def empty_all(streams: Streams, floors: Mapping[GroupKey, Position]) -> None:
    """Empty the streams, and have all groups at their floors; those of which none is known get all that comes."""
    found = {(stream, group.name): START for stream in JUDGMENTS for group in await streams.groups(stream)}
    await streams.empty(JUDGMENTS)
    for key, floor in {**found, **floors}.items():
        await streams.make_group(*key, floor)
