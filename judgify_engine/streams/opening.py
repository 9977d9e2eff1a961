"""Which streams a process has: those of the Redis that its settings name, or its own."""

from judgify_engine.config import Config
from judgify_engine.pipeline.streams import Streams
from judgify_engine.streams.memory import MemoryStreams
from judgify_engine.streams.redis import RedisStreams

ROOM = 1.25
"""How much more than `streams.max_bytes` may be held in memory: whoever sees to that bound needs some time for it."""


def open_streams(config: Config) -> Streams:
    """Connects at the first use; to be closed by who called. Raises SettingsError."""
    if config.redis.url:
        return RedisStreams(config.redis)
    return MemoryStreams(int(ROOM * config.streams.max_bytes))
