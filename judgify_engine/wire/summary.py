"""The answer of GET /api/v1/summary: figures, how they changed, what is wrong, and up to when all of it is proven. Pure."""

import msgspec

from judgify_engine.wire.quality import Quality


class Figures(msgspec.Struct):
    """What was decided in a span of time."""

    total_executions: int
    successful_executions: int
    success_rate: float | None
    """0 to 1; null: nothing was decided."""
    mean_response_time_ms: float | None
    mean_confidence: float | None


class Period(msgspec.Struct):
    """A span of whole buckets, `from` included and `to` not (RFC 3339)."""

    from_: str = msgspec.field(name="from")
    to: str
    figures: Figures


class QualityPeriod(Quality, kw_only=True):
    """Of a span of whole hours, `from` included and `to` not (RFC 3339): the time frame, and what they hold around it."""

    from_: str = msgspec.field(name="from")
    to: str


class Trends(msgspec.Struct):
    """The last `current` span against the one of the same length before it; both are over."""

    current: Period
    previous: Period
    total_executions_change: float | None
    """Relative: 0.1 is a tenth more; null: there was nothing before."""
    success_rate_change: float | None
    """The difference of the two rates."""
    mean_response_time_change: float | None
    """Relative."""


class Alert(msgspec.Struct, omit_defaults=True):
    """Something that people should look at."""

    type: str
    severity: str
    detail: str
    from_: str | None = msgspec.field(name="from", default=None)
    to: str | None = None
    stored: int | None = None
    rolled_up: int | None = None
    repair: str | None = None
    """The command that mends it."""


class Summary(msgspec.Struct):
    """One tenant's figures over a time frame that ends now."""

    tenant_id: str
    workflow_id: str | None
    timeframe: str
    summary: Period
    trends: Trends
    quality: QualityPeriod
    """Over the whole hours that hold the time frame, so over up to an hour more: see its `from` and `to`."""
    alerts: list[Alert]
    verified_through: str | None
    """All judgments created before this were compared with the rollups since they last changed, and equal; null: not yet."""
    recomputing: bool
    """The rollups are being computed anew: the figures are not complete yet."""
