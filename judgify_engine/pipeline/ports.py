"""What the loops need from the outside, as protocols: the edges fulfil them, tests may too."""

from collections.abc import Sequence
from typing import Protocol

from judgify_engine.core.model import Change, Judgment
from judgify_engine.core.rollup import Delta
from judgify_engine.errors import JudgifyError


class Replayed:
    """The outcome of a judgment whose idempotency key was already there: the first answer, byte for byte."""

    __slots__ = ("answer", "fingerprint")

    def __init__(self, fingerprint: bytes, answer: bytes) -> None:
        self.fingerprint, self.answer = fingerprint, answer


Outcome = None | Replayed | JudgifyError
"""None: committed. An error: not committed (but see CommitUnknown)."""


class JudgmentWriter(Protocol):
    """Makes judgments durable."""

    async def commit(self, judgments: Sequence[Judgment]) -> list[Outcome]:
        """Commit these, together where possible. One outcome each, in their order; raises nothing but cancellation."""


class ChangeSource(Protocol):
    """The write-ahead log, as messages."""

    wal_end: int
    """The newest LSN that the server told of."""

    def read(self) -> bytes | None:
        """The next message, or None when there is none right now. Never waits."""

    async def readable(self, timeout_s: float, after_s: float = 0.0) -> None:
        """Wait until there may be a message, at most `timeout_s` seconds, and `after_s` even if there is one."""

    def confirm(self, lsn: int) -> None:
        """Tell the server that all before `lsn` is safe downstream."""


class RollupWriter(Protocol):
    """Adds deltas to the rollups, exactly once."""

    async def apply(self, delta: Delta) -> None:
        """Commit the delta and its position together, if the stored position is still `delta.base`; raises if not."""


class ChangeSink(Protocol):
    """Whoever follows the changes once they are rolled up."""

    def rolled_up(self, delta: Delta, workflows: Sequence[Change]) -> None:
        """These changes are committed to the rollups. Must be quick and must not raise."""
