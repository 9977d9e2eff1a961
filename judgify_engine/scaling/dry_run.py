"""Decisions that nobody here carries out: they are stored and told, for people and for programs that scale by themselves."""

from judgify_engine.config import ScalingConfig
from judgify_engine.core.figures import Report


class DryRun:
    """There are as many processes as are heard. An `Executor`, see pipeline/scaling_loop."""

    name, scope = "dry_run", "processes"
    acts = by_host = shared_memory = False

    def __init__(self, config: ScalingConfig) -> None:
        self.minimum, self.maximum = 1, config.max_replicas

    def concerns(self, report: Report) -> bool:
        return True

    async def current(self, heard: int) -> int:
        return max(1, min(heard, self.maximum))  # what is told is about what may be

    async def scale(self, current: int, target: int) -> None:
        """Nothing: whoever listens may."""
