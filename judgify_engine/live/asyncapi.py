"""The AsyncAPI 3 document of what comes over WebSocket, generated from the types of its messages (`wire/live`)."""

from typing import Any, NamedTuple

import msgspec

from judgify_engine import __version__
from judgify_engine.core.dashboards import BUCKETS_S
from judgify_engine.core.model import METHODS
from judgify_engine.core.results import RESULT_CHARS
from judgify_engine.wire.alerts import AlertsMessage
from judgify_engine.wire.live import DASHBOARD_MESSAGES
from judgify_engine.wire.tail import TAIL_MESSAGES

SCHEMA = "#/components/schemas/{name}"


class Channel(NamedTuple):
    """One address. `messages`: types with a tag, which is the message's name. `query`: parameter to its schema."""

    name: str
    address: str
    summary: str
    parameters: dict[str, str]
    query: dict[str, dict[str, Any]]
    messages: tuple[type[msgspec.Struct], ...]


DASHBOARD = Channel(
    "dashboard",
    "/ws/dashboards/{dashboard_id}",
    "The figures of a dashboard: everything, then what changes, at most 10 messages a second.",
    {"dashboard_id": "Any id; one that nobody has defined shows the built-in charts."},
    {
        "timeframe": {"type": "string", "enum": list(BUCKETS_S), "description": "Of the charts; absent: as defined."},
        "workflow_id": {"type": "string", "description": "Of this workflow only."},
        "position": {"type": "string", "description": "`resume` of the last message that was seen: go on from there."},
        "definition_version": {"type": "integer", "minimum": 0, "description": "Of the last message that was seen."},
    },
    (*DASHBOARD_MESSAGES, AlertsMessage),
)
TAIL = Channel(
    "tail",
    "/ws/tail",
    "Judgments as they are committed: at most 10 messages a second, 50 judgments in each; the others are counted.",
    {},
    {
        "workflow_id": {"type": "string", "description": "Of this workflow only."},
        "status": {"type": "string", "enum": ["completed", "failed"], "description": "With this status only."},
        "method_used": {"type": "string", "enum": list(METHODS), "description": "Judged by this method only."},
        "result": {"type": "string", "maxLength": RESULT_CHARS, "description": "With this result only."},
    },
    TAIL_MESSAGES,
)
CHANNELS = (DASHBOARD, TAIL)


def build_asyncapi(channels: tuple[Channel, ...] = CHANNELS) -> bytes:
    """The document as JSON."""
    types = tuple(kind for channel in channels for kind in channel.messages)
    refs, schemas = msgspec.json.schema_components(types, ref_template=SCHEMA)
    messages = {
        _name(kind): {"name": _name(kind), "contentType": "application/json", "summary": kind.__doc__, "payload": ref}
        for kind, ref in zip(types, refs, strict=True)
    }
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Judgify engine, live",
            "version": __version__,
            "description": "JSON text messages over WebSocket, from the server only. All figures are absolute.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {channel.name: _channel(channel) for channel in channels},
        "operations": {f"push_{channel.name}": _operation(channel) for channel in channels},
        "components": {
            "messages": messages,
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "Names the tenant; needs the scope `read`."},
                "session": {"type": "httpApiKey", "in": "cookie", "name": "judgify_session", "description": "Of the page."},
            },
        },
    }
    return msgspec.json.encode(document)


def _channel(channel: Channel) -> dict[str, Any]:
    return {
        "address": channel.address,
        "summary": channel.summary,
        "parameters": {name: {"description": text} for name, text in channel.parameters.items()},
        "messages": {_name(kind): {"$ref": f"#/components/messages/{_name(kind)}"} for kind in channel.messages},
        "bindings": {
            "ws": {"method": "GET", "query": {"type": "object", "properties": channel.query}, "bindingVersion": "0.1.0"},
        },
    }


def _operation(channel: Channel) -> dict[str, Any]:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{channel.name}"},
        "summary": channel.summary,
        "security": [{"$ref": f"#/components/securitySchemes/{one}"} for one in ("token", "session")],
        "messages": [{"$ref": f"#/channels/{channel.name}/messages/{_name(kind)}"} for kind in channel.messages],
    }


def _name(kind: type[msgspec.Struct]) -> str:
    return str(kind.__struct_config__.tag)
