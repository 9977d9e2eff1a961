"""Errors as RFC 9457 `application/problem+json`. Pure."""

import math

import msgspec

from judgify_engine.errors import JudgifyError, QuotaExceeded, RetryLater, Unauthorized

CONTENT_TYPE = "application/problem+json"


class Problem(msgspec.Struct):
    """What went wrong. Some codes add members of their own, such as `field`, `limit` or `judgment_id`."""

    type: str
    """`urn:judgify:problem:` and the code."""
    title: str
    status: int
    code: str
    """Stable: for programs."""
    detail: str
    """For people."""


def encode_problem(error: JudgifyError) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of the answer to an error."""
    headers = {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"}
    if isinstance(error, RetryLater):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if isinstance(error, QuotaExceeded):
        headers |= error.headers
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="judgify"'
    problem = Problem(f"urn:judgify:problem:{error.code}", error.title, error.status, error.code, error.detail)
    return error.status, msgspec.json.encode({**msgspec.structs.asdict(problem), **error.extra}), headers
