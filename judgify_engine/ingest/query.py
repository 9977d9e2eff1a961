"""The parameters of a query, each read strictly: a wrong one is refused, with its name, what it may be and what came."""

import base64
import binascii
import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from uuid import UUID

from aiohttp import web

from judgify_engine.core.dashboards import MAX_WORKFLOW_IDS
from judgify_engine.core.histogram import MILLIONTHS
from judgify_engine.core.results import RESULT_CHARS
from judgify_engine.core.tracking import MAX_NAME_CHARS, NAME_PATTERN
from judgify_engine.errors import InvalidField

DEFAULT_LIMIT, MAX_LIMIT = 50, 500
_is_number = re.compile(r"[0-9]{0,20}\.?[0-9]{1,20}(e-?[0-9]{1,2})?", re.IGNORECASE).fullmatch


def checked_query(request: web.Request, known: set[str], lists: Collection[str] = ()) -> dict[str, str]:
    """The query's parameters. Those of `lists` may come several times, and are joined by commas.

    Raises InvalidField for one that is unknown or given twice.
    """
    query: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in known:
            raise InvalidField(f"unknown parameter {name[:80]!r}; known: {', '.join(sorted(known))}", field=name[:80])
        if name in query and name not in lists:
            raise InvalidField(f"the parameter {name!r} is given twice", field=name)
        if "\0" in value:
            raise InvalidField(f"{name} holds the character NUL", field=name)
        if name in query:
            value = f"{query[name]},{value}"
        query[name] = value
    return query


def limit_of(query: dict[str, str]) -> int:
    """The parameter `limit`. Raises InvalidField."""
    text = query.get("limit", str(DEFAULT_LIMIT))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= MAX_LIMIT:
        raise InvalidField(f"limit must be a number from 1 to {MAX_LIMIT}, got {text[:40]!r}", field="limit")
    return int(text)


def one_of(query: dict[str, str], name: str, known: Collection[str]) -> str | None:
    """A parameter of a closed set. Raises InvalidField."""
    value = query.get(name)
    if value is not None and value not in known:
        raise InvalidField(f"{name} must be one of {', '.join(known)}, got {value[:40]!r}", field=name)
    return value


def time_us(query: dict[str, str], name: str) -> int | None:
    """A parameter that is a time, as µs since 1970. Raises InvalidField."""
    text = query.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.replace(" ", "+"))  # a + that was not escaped
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InvalidField(f"{name} must be an RFC 3339 time with a zone, got {text[:40]!r}", field=name)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def workflow_ids_of(query: dict[str, str]) -> list[str]:
    """The parameter `workflow_id`, each once; none: all. A comma is in no workflow's id. Raises InvalidField."""
    if "workflow_id" not in query:
        return []
    found = sorted(set(query["workflow_id"].split(",")))
    if "" in found:
        raise InvalidField("workflow_id is empty; leave it out for all workflows", field="workflow_id")
    if len(found) > MAX_WORKFLOW_IDS:
        detail = f"at most {MAX_WORKFLOW_IDS} workflows at once, got {len(found)}"
        raise InvalidField(detail, field="workflow_id", limit=MAX_WORKFLOW_IDS)
    return found


def result_of(query: dict[str, str]) -> str | None:
    """The parameter `result`, which may be empty. Raises InvalidField."""
    text = query.get("result")
    if text is not None and len(text) > RESULT_CHARS:
        detail = f"result has at most {RESULT_CHARS} characters, as the figures of results have it, got {len(text)}"
        raise InvalidField(detail, field="result")
    return text


def confidence_ppm(query: dict[str, str], name: str) -> int | None:
    """A parameter that is a confidence, in millionths, as they are counted. Raises InvalidField."""
    text = query.get(name)
    if text is None:
        return None
    value = float(text) if _is_number(text) else -1.0
    if not 0 <= value <= 1:
        raise InvalidField(f"{name} must be a number from 0 to 1, such as 0.95, got {text[:40]!r}", field=name, limit=1)
    return round(value * MILLIONTHS)


def tracked_of(query: dict[str, str]) -> str | None:
    """The parameter `tracked`, a field that workflows may track. Raises InvalidField."""
    field = query.get("tracked")
    if field is not None and not is_field(field):
        raise InvalidField(
            f"tracked must be a field that a workflow tracks, such as motor.heat, at most {MAX_NAME_CHARS} characters,"
            f" got {len(field)}: {field[:80]!r}",
            field="tracked",
            limit=MAX_NAME_CHARS,
        )
    return field


def is_field(name: str) -> bool:
    """Whether a workflow could track it."""
    return len(name) <= MAX_NAME_CHARS and re.match(NAME_PATTERN, name) is not None


def uuid_of(text: str) -> UUID | None:
    """The UUID, or None: it is none."""
    try:
        return UUID(text) if len(text) == 36 else None
    except ValueError:
        return None


def encode_cursor(last: UUID) -> str:
    """Where a page ended, as text for the next request."""
    return base64.urlsafe_b64encode(bytes(last.bytes)).decode().rstrip("=")


def decode_cursor(text: str | None) -> UUID | None:
    """The other way. Raises InvalidField."""
    if text is None:
        return None
    try:
        return UUID(bytes=base64.urlsafe_b64decode(text + "=="))
    except (ValueError, binascii.Error):
        raise InvalidField("cursor is not one that this server gave out", field="cursor") from None
