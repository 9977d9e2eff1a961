"""What `feed` tells: the tally of every row, the progress while it runs, the summary at its end.

A row read ends as exactly one of accepted, refused or lost; the summary says so, or says which were lost. Progress is
a bar on a terminal and a line every few seconds elsewhere. Time comes from `time.perf_counter`, in seconds.
"""

import asyncio
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, TextIO

from judgify_engine.commands.rows import LineReader

SHOWN_REASONS = 10
SHOWN_LINES = 5
MAX_VERDICTS = 100
"""Verdicts counted apart; the rest share one line, so that memory stays bounded."""

BAR_EVERY_S, LINE_EVERY_S = 0.2, 5.0
BAR_WIDTH = 24
OTHERS = "(others)"
NOT_SENT = "not sent"
"""The reason of rows that could not become a request."""


class Outcome(NamedTuple):
    """What came of one attempt; when not `settled` it may be repeated, after `retry_after_s` if the server said so."""

    settled: bool
    reason: str = ""
    retry_after_s: float | None = None


@dataclass
class Refusals:
    """Rows refused for one reason: how many, the first few lines and one detail."""

    rows: int = 0
    lines: list[int] = field(default_factory=list)
    detail: str = ""


@dataclass
class Tally:
    """Counts of one run; `read` is the sum of the other three once nothing is under way."""

    read: int = 0
    accepted: int = 0
    refused: int = 0
    lost: int = 0
    failed: int = 0
    retries: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    refusals: dict[str, Refusals] = field(default_factory=dict)
    lost_lines: list[int] = field(default_factory=list)
    last_trouble: str = ""
    stopped_by: str = ""
    began_s: float = field(default_factory=time.perf_counter)
    ended_s: float = 0.0

    def accept(self, verdict: str, *, failed: bool) -> None:
        """Count an answered judgment; one that failed has no verdict of its rules."""
        self.accepted += 1
        if failed:
            self.failed += 1
        elif verdict in self.verdicts or len(self.verdicts) < MAX_VERDICTS:
            self.verdicts[verdict] += 1
        else:
            self.verdicts[OTHERS] += 1

    def refuse(self, line: int, code: str, detail: str) -> None:
        """Count a row that will not be accepted however often it is sent."""
        self.refused += 1
        key = code if code in self.refusals or len(self.refusals) < MAX_VERDICTS else OTHERS
        refusals = self.refusals.setdefault(key, Refusals(detail=detail))
        refusals.rows += 1
        if len(refusals.lines) < SHOWN_LINES:
            refusals.lines.append(line)

    def lose(self, line: int) -> None:
        """Count a row that was sent, or was about to be, and has no answer."""
        self.lost += 1
        if len(self.lost_lines) < SHOWN_LINES:
            self.lost_lines.append(line)

    def note_retry(self, reason: str) -> None:
        """Count one repetition and remember why."""
        self.retries += 1
        self.last_trouble = reason

    def is_perfect(self) -> bool:
        """Whether the whole file was read and every row accepted."""
        return not self.stopped_by and self.accepted == self.read

    def summary(self) -> str:
        """Write what came of every row; several lines, without an end of line."""
        took_s = max((self.ended_s or time.perf_counter()) - self.began_s, 1e-9)
        text = [
            _counted("rows read", self.read),
            _counted("accepted", self.accepted),
            *(_counted(f"  {verdict or '(no verdict)'}", rows) for verdict, rows in self.verdicts.most_common()),
        ]
        if self.failed:
            text.append(_counted("  status failed", self.failed))
        text.append(_counted("refused", self.refused))
        by_rows = sorted(self.refusals.items(), key=lambda item: -item[1].rows)
        for code, refusals in by_rows[:SHOWN_REASONS]:
            text.append(_counted(f"  {code}", refusals.rows) + f"  {_lines(refusals.lines, refusals.rows)}")
            if refusals.detail:
                text.append(f"    {_one_line(refusals.detail)}")
        if len(by_rows) > SHOWN_REASONS:
            text.append(f"  and {len(by_rows) - SHOWN_REASONS} reasons more")
        trouble = f"  (last: {self.last_trouble})" if self.last_trouble else ""
        text.append(_counted("retries", self.retries) + trouble)
        text.append(f"{'seconds':<28}{took_s:>12,.2f}")
        text.append(f"{'rows/s':<28}{self.accepted / took_s:>12,.0f}")
        if self.stopped_by:
            text.append(f"stopped early: {self.stopped_by}; the rest of the file was not read")
        if self.lost:
            text.append(f"LOST: {self.lost:,} rows have no answer, {_lines(self.lost_lines, self.lost)}")
        else:
            sent = "sent" if NOT_SENT in self.refusals else "read"
            text.append(f"no loss: every row {sent} was answered")
        return "\n".join(text)


def _counted(name: str, rows: int) -> str:
    return f"{_one_line(name):<28}{rows:>12,}"


def _one_line(text: str) -> str:
    """Keep a server's text from moving the terminal's cursor, and to one line."""
    return "".join(char if char.isprintable() else " " for char in text)[:160]


def _lines(lines: list[int], rows: int) -> str:
    more = ", …" if rows > len(lines) else ""
    return f"{'line' if rows == 1 else 'lines'} {', '.join(map(str, sorted(lines)))}{more}"


class Progress:
    """Shows how far the run is; percent and time left come from bytes read, where the size is known (not 0)."""

    def __init__(self, tally: Tally, lines: LineReader, size_bytes: int, stream: TextIO) -> None:
        self._tally = tally
        self._lines = lines
        self._size_bytes = size_bytes
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Let `show` return."""
        self._stopped.set()

    async def show(self) -> None:
        """Write the progress until `stop`; on a terminal the bar is wiped away at the end."""
        every_s = BAR_EVERY_S if self._is_terminal else LINE_EVERY_S
        while not self._stopped.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await self._stopped.wait()
            if not self._stopped.is_set():
                self._write(f"\r{self.line()}\x1b[K" if self._is_terminal else f"{self.line()}\n")
        if self._is_terminal:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        with suppress(OSError):  # a closed stderr must not stop the feeding
            self._stream.write(text)
            self._stream.flush()

    def line(self) -> str:
        """One line: bar and percent where the size is known, rows, rows/s, and what went wrong so far."""
        tally = self._tally
        took_s = max(time.perf_counter() - tally.began_s, 1e-9)
        parts = []
        if self._size_bytes:
            share = min(self._lines.bytes_read / self._size_bytes, 1.0)
            full = round(share * BAR_WIDTH)
            parts.append(f"[{'#' * full}{'-' * (BAR_WIDTH - full)}] {share:4.0%}")
        parts.append(f"{tally.accepted:,} accepted")
        parts.append(f"{tally.accepted / took_s:,.0f}/s")
        parts += [f"{rows:,} {name}" for name, rows in (("refused", tally.refused), ("retries", tally.retries)) if rows]
        if tally.last_trouble and not tally.stopped_by:
            parts.append(f"({tally.last_trouble})")
        if tally.stopped_by:
            parts.append(f"ending: {tally.stopped_by}")
        return "  ".join(parts)
