"""Settings: read once, checked at once, frozen.

A profile file (TOML, see `profiles/`) is overridden by the environment, which is overridden by flags. This module is the
only reader of the environment. Every key of a section can be given as `JUDGIFY_<SECTION>_<KEY>`; a few have short names
(`SHORT`). A wrong value names its key, its bounds and what it got; a misspelt key is refused.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from judgify_engine import resources
from judgify_engine.errors import SettingsError
from judgify_engine.units import KIB, MIB

Count = Annotated[int, Meta(ge=1, le=10_000_000)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
SHORTEST_KEPT_DAYS = 7
"""Judgments are there for as long as the longest time frame of the dashboards, whatever retention says."""
Bytes = Annotated[int, Meta(ge=1 * KIB, le=64 * 1024 * MIB)]
Share = Annotated[float, Meta(gt=0, le=1)]
Amount = Annotated[float, Meta(gt=0, le=1e9)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all sections: immutable, and a key that it does not know is an error."""


class HttpConfig(Section, frozen=True):
    """The HTTP edge."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8000
    """0: any free port (the printed address tells which)."""
    backlog: Count = 4096
    """Connections that wait to be accepted; 128 (aiohttp's default) makes 1000 clients at once time out."""
    max_body_bytes: Bytes = 256 * KIB
    """Largest request body; a larger one is a 413."""
    max_connections: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Open connections; more wait to be accepted. 0: as many as the system grants open files, but for 200."""
    max_requests: Count = 20_000
    """Requests under way at once; one more is a 503."""
    max_request_bytes: Bytes = 256 * MIB
    """Bytes of the bodies under way at once; more is a 503."""
    request_timeout_s: Seconds = 30.0
    """Longest time a judgment waits for its commit before its sender is told 503."""
    drain_timeout_s: Seconds = 25.0
    """Longest time that a stop waits for what was accepted."""


class DatabaseConfig(Section, frozen=True):
    """Where PostgreSQL is."""

    url: str = ""
    """Empty: the embedded server, its files under the data directory."""
    connect_timeout_s: Seconds = 5.0
    command_timeout_s: Seconds = 15.0
    query_connections: Count = 4
    """Connections for look-ups and administration (commits have their own)."""
    read_connections: Count = 4
    """Connections for lists, records and dashboards, which may be slow."""


class QueueConfig(Section, frozen=True):
    """Judgments that wait for a commit, per partition."""

    partitions: Annotated[int, Meta(ge=1, le=64)] = 8
    max_rows: Count = 20_000
    max_bytes: Bytes = 64 * MIB


class BatchConfig(Section, frozen=True):
    """How judgments gather into one COPY."""

    min_rows: Annotated[int, Meta(ge=1, le=10_000)] = 10
    max_rows: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    max_bytes: Bytes = 4 * MIB
    target_latency_s: Seconds = 0.100
    """The size of batches is steered towards commits that take this long."""
    max_wait_s: Annotated[float, Meta(ge=0, le=1)] = 0.010
    """Longest time that a batch waits for company while many are on their way; alone, it never waits (core/batching)."""
    commits_in_flight: Annotated[int, Meta(ge=1, le=16)] = 2
    """Commits of one partition at once."""


class ChangeConfig(Section, frozen=True):
    """Reading the write-ahead log and rolling it up."""

    slot: Annotated[str, Meta(pattern="^[a-z0-9_]{1,63}$")] = "judgify_cdc"
    flush_interval_s: Seconds = 0.040
    """Longest time that a change waits to be rolled up together with others."""
    max_rows: Count = 20_000
    """Changes in one rollup transaction, at most."""
    takeover_interval_s: Seconds = 0.5
    """How often a process that does not hold the slot tries to take it."""
    watch_interval_s: Seconds = 2.0
    """How often the holder looks at the slot and the publication."""


class LiveConfig(Section, frozen=True):
    """Dashboards and live tails."""

    max_sockets: Count = 10_000
    max_tails: Count = 1000
    """Of one process."""
    max_tails_of_tenant: Count = 100
    """Of these: each is offered every judgment of its tenant, and one tenant must not take the place of all others."""
    push_interval_s: Annotated[float, Meta(ge=0.02, le=10)] = 0.1
    """Shortest time between two messages to a dashboard, so at most 10 a second; what comes after a pause is pushed at once.
    It grows where pushing would take more than a third of the time. With 0.04 each rollup is pushed as it comes, and is
    sooner there (5,000 judgments/s, two workers: p99 65 ms from the commit; with 0.1: 168, bench/latency.py)."""
    refresh_interval_s: Seconds = 30.0
    session_ttl_s: Annotated[float, Meta(ge=60, le=31_536_000)] = 604_800.0
    """How long the page stays signed in."""


class ReconcileConfig(Section, frozen=True):
    """Comparing the rollups with the table, all the time."""

    interval_s: Seconds = 2.0
    """How often the newest slice is compared."""
    pause_s: Seconds = 0.02
    """Rest between slices while there are more: what it leaves to others."""
    settle_s: Seconds = 3.0
    """How old a judgment is when it is first compared."""


class KeepConfig(Section, frozen=True):
    """How long things are kept."""

    idempotency_days: Annotated[int, Meta(ge=1, le=3650)] = 7
    """How long an `Idempotency-Key` is remembered."""
    quarantine_days: Annotated[int, Meta(ge=1, le=3650)] = 30
    """How long refused requests are kept."""
    quarantine_rows: Count = 100_000
    """Rows of the quarantine that a tenant may have; beyond it the oldest go first."""
    scaling_days: Annotated[int, Meta(ge=1, le=3650)] = 30
    """How long scaling decisions are kept."""
    live_hours: Annotated[int, Meta(ge=6, le=8760)] = 24
    """How long the buckets of 5 seconds behind the live charts are kept."""
    judgments_days: Annotated[int, Meta(ge=0, le=36_500)] = 0
    """How long judgments are kept at least; then they leave by whole partitions, and their rollups stay. 0: for ever."""
    actions_days: Annotated[int, Meta(ge=1, le=3650)] = 30
    """How long actions that are over (also dead ones) and the records of attempts are kept."""
    alerts_days: Annotated[int, Meta(ge=1, le=3650)] = 90
    """How long resolved alerts are kept."""
    partition: Literal["month", "week", "day"] = "month"
    """How much time one partition of the judgments holds. A change counts for those that are not made yet."""


class MetricsConfig(Section, frozen=True):
    """Where the rollups are kept, and for how long."""

    database_url: str = ""
    """A PostgreSQL of their own, with or without TimescaleDB; empty: the database that holds the judgments."""
    timescale: Literal["auto", "off"] = "auto"
    """Use TimescaleDB where the server has it. Decided when the tables are made."""
    keep_days: Annotated[int, Meta(ge=8, le=36_500)] = 365
    """How long samples and buckets of 5 minutes are kept; buckets of an hour are kept for ever."""
    compress_after_days: Annotated[int, Meta(ge=1, le=36_500)] = 7
    """With TimescaleDB: when samples are compressed."""


class QuotaConfig(Section, frozen=True):
    """What each tenant may use, in all workers together, unless `judgify-engine quotas` gives it its own. 0: no bound."""

    requests_per_s: Annotated[float, Meta(ge=0, le=1_000_000)] = 0.0
    bytes_per_s: Annotated[float, Meta(ge=0, le=1e12)] = 0.0
    """Of request bodies."""
    sockets: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Dashboards open at once."""


class RedisConfig(Section, frozen=True):
    """Where the streams are that processes and other programs share."""

    url: str = ""
    """`redis://`, `rediss://` or `unix://`, one server or any node of a cluster; empty: in memory, or with several workers the
    embedded one, its files under the data directory."""
    timeout_s: Seconds = 2.0
    """Longest time that a command may take."""


class StreamsConfig(Section, frozen=True):
    """How much the streams hold."""

    keep_entries: Count = 100_000
    """Entries of a stream of judgments that stay when all groups have seen them; in memory, without Redis, at most 1000."""
    keep_dashboard_entries: Count = 10_000
    """The same for the other streams."""
    max_bytes: Bytes = 2048 * MIB
    """What the streams of judgments may take in all; beyond it the group that is furthest behind is made to skip."""
    keep_log_bytes: Bytes = 2048 * MIB
    """Write-ahead log that may be kept so that emptied streams can be filled again for slow groups."""


PROXY = r"^(https?://([^\s/?#@]+@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?/?)?$(?!\n)"


class ActionsConfig(Section, frozen=True):
    """What workflows have done with their results."""

    concurrency: Annotated[int, Meta(ge=2, le=1000)] = 64
    """Attempts of a process at once; those of one tenant take at most half of it."""
    per_destination: Annotated[int, Meta(ge=1, le=1000)] = 8
    """Of these, for one tenant and destination (host and port), so that one which hangs holds up nobody else."""
    private_networks: bool = False
    """Whether webhooks may go to this machine and to private networks, too."""
    proxy: Annotated[str, Meta(pattern=PROXY)] = ""
    """An HTTP proxy for all webhooks, which then has to see to it what may be reached. The usual variables are not heeded."""
    retry_first_s: Seconds = 2.0
    """Rest after the first failed attempt; three times as long after each further one."""
    retry_longest_s: Seconds = 10_800.0
    """The longest rest; a receiver's `Retry-After` is heeded up to it."""
    lease_s: Seconds = 15.0
    """How long after its timeout an attempt is given up, when the process that made it is gone."""
    claim_idle_s: Seconds = 30.0
    """Entries of a stream that a process has for so long without an answer are taken over by another one."""


class AlertsConfig(Section, frozen=True):
    """Evaluating alert rules, and telling who is to know."""

    interval_s: Annotated[float, Meta(ge=0.1, le=300)] = 5.0
    """How often the rules are evaluated."""
    settle_s: Annotated[float, Meta(ge=0, le=60)] = 1.0
    """How far a window ends before now: what was created by then is committed."""
    concurrency: Annotated[int, Meta(ge=1, le=1000)] = 32
    """Deliveries at once; those to one tenant's sink go one after the other."""
    timeout_s: Seconds = 10.0
    """Of one delivery."""
    max_attempts: Annotated[int, Meta(ge=1, le=100)] = 12
    """After so many a delivery has failed."""
    retry_first_s: Seconds = 2.0
    """Rest after the first failed attempt; three times as long after each further one."""
    retry_longest_s: Seconds = 3600.0
    """The longest rest."""
    repeat_s: Annotated[float, Meta(ge=1, le=3600)] = 60.0
    """How often Alertmanager is told that an alert still fires; after four times that it takes it for resolved."""
    page_url: Annotated[str, Meta(max_length=2000, pattern=r"^(https?://[!-~]+)?$(?!\n)")] = ""
    """Where people open the page: what Alertmanager links its alerts to. Empty: nothing."""


class ScalingConfig(Section, frozen=True):
    """When there should be more processes or fewer, and who sees to it. Shares from 0 to 1."""

    executor: Literal["dry_run", "local", "kubernetes"] = "dry_run"
    """`dry_run`: decisions are told and stored only; `local`: the supervisor of `serve` starts and retires workers;
    `kubernetes`: the scale of `kubernetes_name` is set."""
    report_interval_s: Seconds = 5.0
    """How often each process says how it is doing."""
    interval_s: Seconds = 30.0
    """How often all of that is looked at."""
    window_s: Seconds = 60.0
    """Over how much time."""
    out_cpu: Share = 0.80
    out_memory: Share = 0.85
    out_response_ms: Amount = 3000.0
    out_queue_rows: Amount = 1000.0
    """More processes when any of these is passed."""
    in_cpu: Share = 0.30
    in_memory: Share = 0.40
    in_response_ms: Amount = 1000.0
    """Fewer when all are below these, and nothing waited as long."""
    target_cpu: Share = 0.70
    target_memory: Share = 0.80
    """What more processes are to bring these down to, and what they must not pass with fewer."""
    in_evaluations: Annotated[int, Meta(ge=1, le=100)] = 4
    """How many times in a row there must have been reason to have fewer."""
    cooldown_out_s: Seconds = 60.0
    """Rest after a decision before there may be more."""
    cooldown_in_s: Seconds = 300.0
    """Rest after a decision before there may be fewer."""
    max_step: Count = 4
    """Processes more or fewer in one decision, at most."""
    min_workers: Annotated[int, Meta(ge=1, le=256)] = 1
    max_workers: Annotated[int, Meta(ge=0, le=256)] = 0
    """Bounds of `local`; 0: one for each core."""
    min_replicas: Annotated[int, Meta(ge=1, le=10_000)] = 3
    max_replicas: Annotated[int, Meta(ge=1, le=10_000)] = 20
    """Bounds of `kubernetes`, in pods. `dry_run` tells of up to as many processes."""
    kubernetes_kind: Literal["deployment", "statefulset"] = "deployment"
    kubernetes_name: str = ""
    kubernetes_namespace: str = ""
    """Empty: the one that this pod is in."""
    kubernetes_config: str = ""
    """The path of a kubeconfig; empty: the service account of this pod."""
    timeout_s: Seconds = 10.0
    """Longest time that setting the number of processes may take."""


class LogConfig(Section, frozen=True):
    """What the process says about itself, on stderr."""

    format: Literal["console", "json"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


class SeedConfig(Section, frozen=True):
    """What a profile for trying things brings along. Empty in every other profile."""

    token: str = ""
    tenant: str = "demo"
    workflows: Annotated[int, Meta(ge=0, le=1000)] = 0
    page_code: bool = False
    """Print an address with a one-time code that opens the page without a login form."""


class Config(Section, frozen=True):
    """All settings of one process."""

    profile: str = "standard"
    data_dir: str = "judgify-data"
    workers: Annotated[int, Meta(ge=0, le=256)] = 1
    """Processes that serve; limits hold for each of them. 0: one for each core."""
    http: HttpConfig = HttpConfig()
    database: DatabaseConfig = DatabaseConfig()
    queue: QueueConfig = QueueConfig()
    batch: BatchConfig = BatchConfig()
    change: ChangeConfig = ChangeConfig()
    live: LiveConfig = LiveConfig()
    reconcile: ReconcileConfig = ReconcileConfig()
    keep: KeepConfig = KeepConfig()
    metrics: MetricsConfig = MetricsConfig()
    quota: QuotaConfig = QuotaConfig()
    redis: RedisConfig = RedisConfig()
    streams: StreamsConfig = StreamsConfig()
    actions: ActionsConfig = ActionsConfig()
    alerts: AlertsConfig = AlertsConfig()
    scaling: ScalingConfig = ScalingConfig()
    log: LogConfig = LogConfig()
    seed: SeedConfig = SeedConfig()

    @property
    def embedded(self) -> bool:
        """Whether this process brings its own PostgreSQL."""
        return not self.database.url


SHORT = {
    "JUDGIFY_DATABASE_URL": ("database", "url"),
    "JUDGIFY_METRICS_DATABASE_URL": ("metrics", "database_url"),
    "JUDGIFY_REDIS_URL": ("redis", "url"),
    "JUDGIFY_HOST": ("http", "host"),
    "JUDGIFY_PORT": ("http", "port"),
    "JUDGIFY_WORKERS": ("workers",),
    "JUDGIFY_DATA_DIR": ("data_dir",),
}
# Variables that other parts of the project read: the clients (feed, bench) and the tests.
FOREIGN = ("JUDGIFY_PROFILE", "JUDGIFY_URL", "JUDGIFY_TOKEN")
FOREIGN_PREFIX = "JUDGIFY_TEST_"


def load(
    profile: str | None = None,
    flags: Mapping[tuple[str, ...], Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Read the profile, then the environment, then `flags` (key path to value), each overriding the one before.

    Without a profile: `embedded`, or `standard` where a database is named.
    Raises SettingsError, which names the key, its bounds and what came.
    """
    environ = os.environ if environ is None else environ
    overrides = _from_environment(environ)
    overrides.update(flags or {})
    name = profile or environ.get("JUDGIFY_PROFILE") or ("standard" if overrides.get(("database", "url")) else "embedded")
    tree = _read_profile(name)
    for path, value in overrides.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise SettingsError(f"{key}: expected a table of settings, the profile has a single value")
        node[path[-1]] = value
    try:
        config = msgspec.convert(tree, Config, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(_explain(error, tree)) from error
    if config.batch.min_rows > config.batch.max_rows:
        raise SettingsError(
            f"batch.min_rows must be at most batch.max_rows ({config.batch.max_rows}), got {config.batch.min_rows}"
        )
    if 0 < config.keep.judgments_days < SHORTEST_KEPT_DAYS:
        raise SettingsError(
            f"keep.judgments_days must be 0 (for ever) or at least {SHORTEST_KEPT_DAYS}, got {config.keep.judgments_days}"
        )
    _check_scaling(config.scaling)
    return config


def _check_scaling(scaling: ScalingConfig) -> None:
    """What must be in order so that more processes do not mean fewer, and the other way round. Raises SettingsError."""
    for low, high in (
        ("in_cpu", "target_cpu"),
        ("target_cpu", "out_cpu"),
        ("in_memory", "target_memory"),
        ("target_memory", "out_memory"),
        ("in_response_ms", "out_response_ms"),
        ("min_workers", "max_workers"),
        ("min_replicas", "max_replicas"),
        ("cooldown_out_s", "cooldown_in_s"),
        ("report_interval_s", "window_s"),
    ):
        least, most = getattr(scaling, low), getattr(scaling, high)
        if least > most and (high, most) != ("max_workers", 0):
            raise SettingsError(f"scaling.{low} must be at most scaling.{high} ({most:g}), got {least:g}")
    if scaling.executor == "kubernetes" and not scaling.kubernetes_name:
        raise SettingsError("scaling.kubernetes_name must name what is scaled where scaling.executor is kubernetes")


def _read_profile(name: str) -> dict[str, Any]:
    path = Path(name)
    if path.suffix != ".toml":
        path = resources.folder("profiles") / f"{name}.toml"
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(p.stem for p in resources.folder("profiles").glob("*.toml")))
        raise SettingsError(f"profile: no such profile {name!r}; known: {known}, or the path of a .toml file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"profile: cannot read {path}: {error}") from error
    tree.setdefault("profile", path.stem)
    return tree


def _from_environment(environ: Mapping[str, str]) -> dict[tuple[str, ...], Any]:
    known = {**_long_names(), **SHORT}
    found: dict[tuple[str, ...], Any] = {}
    for name, value in environ.items():
        if not name.startswith("JUDGIFY_") or name in FOREIGN or name.startswith(FOREIGN_PREFIX):
            continue
        if name not in known:
            near = ", ".join(difflib.get_close_matches(name, known, 3, 0.5)) or "see judgify_engine/config.py"
            raise SettingsError(f"{name}: no such setting; near: {near}")
        if value != "":
            found[known[name]] = value
    return found


def _long_names() -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for section in msgspec.structs.fields(Config):
        if isinstance(section.type, type) and issubclass(section.type, Section):
            for field in msgspec.structs.fields(section.type):
                names[f"JUDGIFY_{section.name}_{field.name}".upper()] = (section.name, field.name)
    return names


def _explain(error: msgspec.ValidationError, tree: dict[str, Any]) -> str:
    """Turn msgspec's `Expected … - at `$.a.b`` into `a.b: expected …, got …`."""
    text, _, place = str(error).partition(" - at `$.")
    path = place.rstrip("`")
    node: Any = tree
    for key in path.split(".") if path else []:
        node = node.get(key) if isinstance(node, dict) else None
    secret = path in ("database", "seed") or path.endswith(("url", "token", "proxy"))
    got = "" if not path or secret or isinstance(node, dict) else f", got {node!r}"
    return f"{path or 'settings'}: {text[0].lower()}{text[1:]}{got}"
