"""Who is told of alerts: what a sink may be, and how its URL is shown. Pure."""

from typing import Annotated

import msgspec
from msgspec import Meta

from judgify_engine.core.actions import URL

MAX_SINKS = 20
"""Of a tenant."""
Url = Annotated[str, Meta(max_length=2000, pattern=URL)]


class WebhookSink(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="webhook"):
    """An HTTP call, signed after Standard Webhooks with the tenant's secret."""

    url: Url


class SlackSink(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="slack"):
    """An incoming webhook as Slack has it: JSON with `text`. Its URL is a secret."""

    url: Url


class AlertmanagerSink(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="alertmanager"):
    """Prometheus Alertmanager. `url`: where it is, without `/api/v2/alerts`."""

    url: Url
    labels: Annotated[dict[Annotated[str, Meta(pattern="^[a-zA-Z_][a-zA-Z0-9_]{0,99}$(?!\n)")], str], Meta(max_length=20)] = {}
    """Added to those of each alert."""


AlertSink = WebhookSink | SlackSink | AlertmanagerSink
_decode = msgspec.json.Decoder(AlertSink)


def decode_sink(definition: str | bytes) -> AlertSink:
    """A sink from its JSON. Raises MsgspecError."""
    found: AlertSink = _decode.decode(definition)
    return found


def target_of(sink: AlertSink) -> str:
    """Where it is called."""
    if isinstance(sink, AlertmanagerSink):
        return sink.url.rstrip("/") + "/api/v2/alerts"
    return sink.url


def shown_url(url: str) -> str:
    """What may be seen of a URL: a path or a query may be a secret, and of Slack it is one."""
    scheme, _, rest = url.partition("://")
    host = rest.replace("?", "/").partition("/")[0]
    return f"{scheme}://{host}" + ("/…" if len(rest) > len(host) else "")


def without_secrets(text: str, sink: AlertSink) -> str:
    """An error's text without what must not be seen of the sink's URL."""
    target = target_of(sink)
    rest = target.partition("://")[2]
    path = rest[len(rest.replace("?", "/").partition("/")[0]) :]
    text = text.replace(target, shown_url(target)).replace(sink.url, shown_url(sink.url))
    return text.replace(path, "/…") if len(path) > 1 else text
