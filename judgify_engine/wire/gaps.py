"""The answer of GET /api/v1/gaps: when changes may have been missed, and what became of it. Pure."""

import msgspec


class Gap(msgspec.Struct):
    """All rollups were computed anew from the table, because the log's stream could not be trusted to be whole."""

    id: int
    reason: str
    """`lost`: the server removed log that was needed; `missing`: the slot or the position was gone; `foreign`: somebody else
    moved or made the slot; `restored`: the server is another one, or went back in time; `publication`: it was altered;
    `corrupt`: the log could not be understood; `first`: there were judgments before the first slot."""
    recomputing: bool
    """It is being closed now: until then the figures are of before."""
    failing: bool
    """The last attempt failed; it is tried again (`/ready` says why)."""
    attempts: int
    detected_at: str
    from_position: str | None
    """All up to here was rolled up; null: it is not known."""
    last_applied_at: str | None
    """When that was: what was missed was committed after it."""
    to_lsn: str | None
    """Where the new slot starts; null: not yet."""
    recompute_started_at: str
    recompute_finished_at: str | None
    judgments_before: int | None
    """This tenant's judgments as the rollups counted them before and after. The difference is what was missed and what was on
    its way; null: they did not differ, or it is not known yet."""
    judgments_after: int | None


class GapPage(msgspec.Struct):
    """The newest first."""

    gaps: list[Gap]
