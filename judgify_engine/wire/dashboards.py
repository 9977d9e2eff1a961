"""Dashboards' definitions in requests and answers. Pure."""

import re
from typing import get_args, get_type_hints

import msgspec

from judgify_engine.core.dashboards import ChartDefinition, Dashboard, Line, check_dashboard
from judgify_engine.errors import InvalidField
from judgify_engine.wire.request import decode_body

_OF_A_FEW = {
    name: ", ".join(get_args(get_type_hints(kind)[name]))
    for kind, name in (
        (Dashboard, "timeframe"),
        (ChartDefinition, "type"),
        (ChartDefinition, "width"),
        (Line, "severity"),
    )
}
"""Member to all that it may be."""


class DashboardAnswer(msgspec.Struct):
    """One version of a dashboard."""

    dashboard_id: str
    version: int
    """0: the built-in one."""
    default: bool
    """Whether this is the built-in definition, because nobody has stored one."""
    updated_at: str | None
    """RFC 3339, UTC; null: built in."""
    definition: msgspec.Raw


class DashboardListed(msgspec.Struct):
    """A dashboard in the list."""

    dashboard_id: str
    name: str
    version: int
    updated_at: str | None
    default: bool


class DashboardList(msgspec.Struct):
    """All dashboards of a tenant in the order of their ids; `main` is always there."""

    dashboards: list[DashboardListed]


class DashboardVersion(msgspec.Struct):
    """A version that was stored."""

    version: int
    name: str
    updated_at: str


class DashboardVersions(msgspec.Struct):
    """Versions of a dashboard, the newest first."""

    versions: list[DashboardVersion]
    next_cursor: str | None


def decode_dashboard(body: bytes) -> Dashboard:
    """Decode and check all of it. Raises as `decode_body` does."""
    try:
        dashboard: Dashboard = decode_body(body, Dashboard)
    except InvalidField as error:
        member = re.sub(r".*\.", "", str(error.extra.get("field")))
        if "enum" in error.detail and member in _OF_A_FEW:
            raise InvalidField(f"{error.detail}; it must be one of {_OF_A_FEW[member]}", **error.extra) from error
        raise
    check_dashboard(dashboard)
    return dashboard


encode_dashboard = msgspec.json.Encoder().encode
