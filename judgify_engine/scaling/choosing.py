"""Which executor the settings name."""

from judgify_engine.config import ScalingConfig
from judgify_engine.observe.allowance import machine_cores
from judgify_engine.pipeline.scaling_loop import Executor
from judgify_engine.pipeline.team import Team
from judgify_engine.scaling.dry_run import DryRun
from judgify_engine.scaling.kubernetes import Kubernetes
from judgify_engine.scaling.local import Local


def choose_executor(config: ScalingConfig, team: Team | None) -> Executor:
    """`team`: None where there is no supervisor. Raises SettingsError."""
    if config.executor == "kubernetes":
        return Kubernetes(config)
    if config.executor == "local" and team is not None:
        return Local(config, team, machine_cores())
    return DryRun(config)
