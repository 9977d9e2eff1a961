"""Names of streams, channels and keys, and which stream a tenant's changes are in. Pure; fixed by what users rely on."""

from judgify_engine.core.partition import partition_of
from judgify_engine.units import Position

PARTITIONS = 8
JUDGMENTS = tuple(f"judgify-stream-{number}" for number in range(PARTITIONS))
"""Every change of what is published, by tenant, in the order of the log."""
DASHBOARDS = tuple(f"dashboard-stream-{number}" for number in range(PARTITIONS))
"""What each rollup added, by tenant: what the dashboards of a tenant are made of."""
OWNER = "judgify-stream-owner"
"""Whose log the ids in `JUDGMENTS` are places of."""
ALERTS = "alert-stream"
METRICS = "metrics-stream"
"""Figures of each process, every few seconds."""
NOTIFICATIONS = "websocket_notifications"
ALERT_CHANNEL = "alert_channel"
PERFORMANCE_ALERTS = "performance_alerts"
SCALING_EVENTS = "scaling_events"
CACHED_S = 300
"""How long `dashboard_key` and `recent_key` hold."""


def stream_of(tenant_id: str) -> str:
    """The stream of a tenant's changes."""
    return JUDGMENTS[partition_of(tenant_id, PARTITIONS)]


def dashboard_stream_of(tenant_id: str) -> str:
    """The stream of what a tenant's dashboards are made of."""
    return DASHBOARDS[partition_of(tenant_id, PARTITIONS)]


def notifications_of(tenant_id: str) -> str:
    """The channel on which a tenant's dashboards hear of changes."""
    return f"{NOTIFICATIONS}:{tenant_id}"


def dashboard_key(tenant_id: str, dashboard: str) -> str:
    """Where the whole state of a dashboard is cached."""
    return f"dashboard_cache:{tenant_id}:{dashboard}"


def recent_key(stream: str, entry_id: str) -> str:
    """Marks an entry that is being, or was just, seen to."""
    return f"recent:{stream}:{entry_id}"


def entry_id(position: Position) -> str:
    """A position as the id of an entry: `commit_lsn-index`, in decimal digits, as Redis orders them."""
    return f"{position.lsn}-{position.index}"


def parse_entry_id(text: str) -> Position:
    """The reverse of `entry_id`. Raises ValueError."""
    lsn, _, index = text.partition("-")
    return Position(int(lsn), int(index))


def just_before(position: Position) -> Position:
    """The greatest id before this one."""
    lsn, index = position
    return Position(lsn, index - 1) if index else Position(lsn - 1, 2**63)
