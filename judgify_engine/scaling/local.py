"""More or fewer workers on this machine, by their supervisor."""

from judgify_engine.config import ScalingConfig
from judgify_engine.core.figures import Report
from judgify_engine.errors import ScalingFailed
from judgify_engine.pipeline.team import Team


class Local:
    """Asks the supervisor of this worker. An `Executor`, see pipeline/scaling_loop."""

    name = "local"
    acts, by_host, shared_memory = True, False, True

    def __init__(self, config: ScalingConfig, team: Team, cores: int) -> None:
        """`cores`: those of the machine, the most workers where the settings say nothing."""
        self.scope = f"workers of {team.name}"
        self.minimum, self.maximum = config.min_workers, max(config.min_workers, config.max_workers or cores)
        self._team, self._timeout_s = team, config.timeout_s

    def concerns(self, report: Report) -> bool:
        """Other supervisors see to their own."""
        return report.group == self._team.name

    async def current(self, heard: int) -> int:
        return self._team.size

    async def scale(self, current: int, target: int) -> None:
        if self._team.size != current:
            raise ScalingFailed(f"there are to be {self._team.size} by now, not {current}")
        await self._team.resize(target, self._timeout_s)
