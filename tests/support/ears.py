"""Somebody who listens to channels, and notes what came."""

from judgify_engine.pipeline.streams import Listener


class Ear:
    """Notes what it hears."""

    listener: Listener

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.interruptions = 0

    def hear(self, channel: str, message: bytes) -> None:
        self.heard.append((channel, message))

    def interrupted(self) -> None:
        self.interruptions += 1
