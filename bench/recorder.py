"""Checks every answer and remembers it compactly: 16 bytes for its id, 8 for its latency.

An answer counts when its status is 200, every field is there and within its bounds, and its decision is the one that
every other answer of the same workflow version got (the bench always sends the same input). All else is counted by
kind, with the first few in words. Times are seconds of `time.perf_counter`.
"""

from array import array
from collections import Counter
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from .client import SEED_WORKFLOW, Response

SHOWN_SAMPLES = 5


class Answer(msgspec.Struct):
    """The answer to `POST /api/v1/judgments/execute`, with the bounds that it promises."""

    judgment_id: str
    workflow_id: str
    workflow_version: Annotated[int, Meta(ge=1)]
    final_result: msgspec.Raw
    confidence_score: Annotated[float, Meta(ge=0, le=1)]
    method_used: Literal["rule", "llm", "hybrid"]
    status: Literal["completed"]
    execution_time_ms: Annotated[float, Meta(ge=0, le=30_000)]
    created_at: str


_decoder = msgspec.json.Decoder(Answer)


class Recorder:
    """What came back. `ids` holds the answered ids, 16 bytes each, in the order of `answered_s` and `latencies_s`."""

    def __init__(self) -> None:
        self.ids = bytearray()
        self.latencies_s = array("d")
        self.answered_s = array("d")
        self.refused: Counter[str] = Counter()
        """Answers that asked to come back (503, 429), by code."""
        self.wrong: Counter[str] = Counter()
        """Answers that must not be, by kind."""
        self.samples: list[str] = []
        self.cut = 0
        """Requests whose connection ended before the answer."""
        self.timeouts = 0
        self.connect_failures = 0
        self.late = 0
        """Open loop: requests sent more than `LATE_S` after their time."""
        self.unsent = 0
        self.max_late_s = 0.0
        self._results: dict[int, bytes] = {}

    @property
    def answered(self) -> int:
        """Answers that passed every check."""
        return len(self.answered_s)

    @property
    def is_clean(self) -> bool:
        """Whether there was nothing but good answers."""
        return not (self.refused or self.wrong or self.cut or self.timeouts or self.connect_failures or self.unsent)

    def accept(self, response: Response, latency_s: float, now_s: float) -> None:
        """Check and remember an answer with status 200. About 2 µs."""
        try:
            answer = _decoder.decode(response.body)
            judgment_id = bytes.fromhex(answer.judgment_id.replace("-", ""))
        except (ValueError, msgspec.DecodeError) as error:  # ValidationError names the field
            self.reject("not the promised fields", f"{error}: {response.body[:300]!r}")
            return
        result = bytes(answer.final_result)
        expected = self._results.setdefault(answer.workflow_version, result)
        # A replayed answer may be spaced otherwise, and mean the same.
        is_same = result == expected or msgspec.json.decode(result) == msgspec.json.decode(expected)
        if len(judgment_id) != 16 or answer.workflow_id != SEED_WORKFLOW or not is_same:
            self.reject("another decision for the same input", response.body[:300].decode(errors="replace"))
            return
        self.ids += judgment_id
        self.latencies_s.append(latency_s)
        self.answered_s.append(now_s)

    def refuse(self, response: Response) -> None:
        """Count an answer that asks to come back later."""
        self.refused[f"{response.status} {_code(response.body)}".strip()] += 1

    def reject(self, kind: str, sample: str) -> None:
        """Count an answer that must not be."""
        self.wrong[kind] += 1
        if len(self.samples) < SHOWN_SAMPLES:
            self.samples.append(f"{kind}: {sample}")

    def reject_status(self, response: Response) -> None:
        """Count an answer with a status that the request does not deserve."""
        self.reject(f"status {response.status}", response.body[:300].decode(errors="replace"))

    def complaints(self) -> str:
        """All that was not a good answer, in one line; empty when there was nothing."""
        counts = {**self.refused, **self.wrong, "cut": self.cut, "timeouts": self.timeouts, "unsent": self.unsent}
        counts["connect failures"] = self.connect_failures
        return ", ".join(f"{count:,} x {kind}" for kind, count in counts.items() if count)

    @property
    def results(self) -> dict[int, str]:
        """The decision per workflow version."""
        return {version: result.decode(errors="replace") for version, result in self._results.items()}


class _Problem(msgspec.Struct):
    code: str = ""


def _code(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Problem).code
    except (ValueError, msgspec.DecodeError):
        return ""
