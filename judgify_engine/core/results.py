"""What a judgment's result is called in the rollups. Pure."""

from functools import lru_cache
from typing import Any

import msgspec

from judgify_engine.core.depth import is_deep, is_deep_sql

RESULT_CHARS = 64
REMEMBERED_CHARS = 1024
FAILED = "failed"
"""What judgments are counted as whose judging failed, whatever is in their result."""
RESULT_SQL = f"""
 CASE WHEN status <> 'completed' THEN '{FAILED}' WHEN {is_deep_sql("final_result")} THEN ''
      WHEN jsonb_typeof(final_result -> 'verdict') = 'string' THEN left(final_result ->> 'verdict', {RESULT_CHARS})
      ELSE '' END"""
"""The same of a row, as an expression in SQL."""


class _Named(msgspec.Struct):
    verdict: Any = None


_decode_named = msgspec.json.Decoder(_Named).decode


def result_name(final_result: str) -> str:
    """The result's name: `final_result.verdict` where it is a string (its first 64 characters), else empty.

    Also empty where it is nested too deep (core/depth).
    """
    return _short_result_name(final_result) if len(final_result) <= REMEMBERED_CHARS else _read_result_name(final_result)


def _read_result_name(final_result: str) -> str:
    if is_deep(final_result):
        return ""
    try:
        verdict = _decode_named(final_result).verdict
    except msgspec.MsgspecError:  # any JSON that is not an object
        return ""
    return verdict[:RESULT_CHARS] if isinstance(verdict, str) else ""


_short_result_name = lru_cache(maxsize=8192)(_read_result_name)


def result_of(status: str, final_result: str) -> str:
    """What a judgment is counted as."""
    return result_name(final_result) if status == "completed" else FAILED
