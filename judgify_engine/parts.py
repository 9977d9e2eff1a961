"""The parts of one process, built and joined; only here and in `followers` all edges are known. `worker` gives them life."""

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any

from aiohttp import web

from judgify_engine.actions.alert_sinks import AlertPerformer as SinkPerformer
from judgify_engine.actions.webhooks import WebhookPerformer
from judgify_engine.config import Config
from judgify_engine.core.quota import Quota
from judgify_engine.core.streams import JUDGMENTS, stream_of
from judgify_engine.followers import Followers, Gauge
from judgify_engine.ingest.actions import ActionRoutes
from judgify_engine.ingest.admission import Admission
from judgify_engine.ingest.alerts import AlertRoutes
from judgify_engine.ingest.dashboards import DefinitionRoutes
from judgify_engine.ingest.direct import Direct
from judgify_engine.ingest.gaps import GapRoutes
from judgify_engine.ingest.judgments import EXECUTE_PATH, JudgmentRoutes
from judgify_engine.ingest.metrics import MetricsRoutes
from judgify_engine.ingest.openapi import build_openapi
from judgify_engine.ingest.operate import OperateRoutes
from judgify_engine.ingest.quality import QualityRoutes
from judgify_engine.ingest.quarantine import QuarantineRoutes
from judgify_engine.ingest.scaling import ScalingRoutes
from judgify_engine.ingest.summary import SummaryRoutes
from judgify_engine.ingest.workflows import WorkflowRoutes
from judgify_engine.live.alerts import AlertPush
from judgify_engine.live.page import PageRoutes, with_sessions
from judgify_engine.live.session import DashboardRoutes
from judgify_engine.live.tail import TailRoutes
from judgify_engine.live.tail_reader import TailReader
from judgify_engine.observe.metrics import Metrics
from judgify_engine.pipeline.accepted import Accepted
from judgify_engine.pipeline.access import SCOPES, Access, Grant
from judgify_engine.pipeline.action_alerts import AlertPerformer
from judgify_engine.pipeline.action_intake import ActionIntake, join_group
from judgify_engine.pipeline.action_loop import ActionLoop
from judgify_engine.pipeline.alert_anomalies import Anomalies
from judgify_engine.pipeline.alert_conditions import Conditions
from judgify_engine.pipeline.alert_deliveries import AlertDeliveries
from judgify_engine.pipeline.alert_loop import AlertLoop
from judgify_engine.pipeline.batch_loop import BatchLoop
from judgify_engine.pipeline.doze import Doze
from judgify_engine.pipeline.explaining import Explainer
from judgify_engine.pipeline.judging import Judging
from judgify_engine.pipeline.partition_queue import PartitionQueue
from judgify_engine.pipeline.quarantine_loop import Quarantine
from judgify_engine.pipeline.quotas import Quotas
from judgify_engine.pipeline.scaling_loop import Reporter, ScalingLoop
from judgify_engine.pipeline.streams import Streams
from judgify_engine.pipeline.team import Team
from judgify_engine.scaling.choosing import choose_executor
from judgify_engine.scaling.sampling import Sampler
from judgify_engine.store import metrics_upkeep, upkeep
from judgify_engine.store.accepted import AcceptedStore
from judgify_engine.store.action_jobs import ActionJobs
from judgify_engine.store.actions import ActionStore
from judgify_engine.store.alert_buckets import BucketReader
from judgify_engine.store.alert_deliveries import AlertOutbox
from judgify_engine.store.alert_figures import AlertFigures
from judgify_engine.store.alert_rules import AlertRuleStore
from judgify_engine.store.alert_states import AlertStates
from judgify_engine.store.alerts import AlertStore
from judgify_engine.store.charts import ChartReader
from judgify_engine.store.copy_writer import CopyWriter
from judgify_engine.store.dashboards import DashboardStore
from judgify_engine.store.gaps import GapReader
from judgify_engine.store.judgments import JudgmentReader
from judgify_engine.store.pool import Database
from judgify_engine.store.quality import QualityReader
from judgify_engine.store.quarantine import QuarantineStore
from judgify_engine.store.scaling import ScalingStore
from judgify_engine.store.summary import SummaryReader
from judgify_engine.store.tokens import TokenStore
from judgify_engine.store.workflows import WorkflowStore


class Parts:
    """What serves requests, what reads the log, and what looks after both. `judgments` and `rollups` may be one database."""

    def __init__(
        self,
        config: Config,
        judgments: Database,
        rollups: Database,
        metrics: Metrics,
        figures: Callable[[], Awaitable[bytes]],
        streams: Streams,
        team: Team | None = None,
    ) -> None:
        """`figures`: what `/metrics` answers; `team`: the workers of a supervisor, where this is one of them."""
        self._figures = figures
        self._streams = streams
        self._config, self._judgments, self._rollups, self._metrics = config, judgments, rollups, metrics
        self.admission = Admission(config.http)
        self.queues = [PartitionQueue(i, config.queue.max_rows, config.queue.max_bytes) for i in range(config.queue.partitions)]
        self._accepted = Accepted(AcceptedStore(rollups))
        self._quarantine = Quarantine(QuarantineStore(judgments), metrics)
        timeout_s = config.http.request_timeout_s
        writer = CopyWriter(judgments, metrics, timeout_s, self._quarantine)
        doze = Doze()
        self._batches = [BatchLoop(queue, writer, config.batch, metrics, timeout_s, doze) for queue in self.queues]
        self._followers = Followers(config, judgments, rollups, streams, metrics)
        self._build_actions()
        self._build_alerts()
        quotas = Quotas(max(1, config.workers))
        self._build_scaling(streams, team, quotas)
        access = self._access(quotas)
        self.dashboards = DashboardRoutes(self._followers.hub, access, metrics, quotas)
        self._tails = TailReader(streams, self._followers.publisher.demand, config.live)
        self._alert_push = AlertPush(AlertStore(self._judgments), self.dashboards.watching)
        self._judging = Judging(self._followers.registry, self.queues, JudgmentReader(judgments), metrics, self._accepted)
        self.direct = Direct(
            self._judging, access, self.admission, self._available, EXECUTE_PATH, metrics, self._quarantine, quotas
        )
        self.routes = self._routes(access, quotas)
        metrics.gauges += [self._gauges, *self._followers.gauges, self._quarantine.gauges]
        metrics.gauges += [self._actions.gauges, self._scaling.gauges, self._alerts.gauges]

    def _build_actions(self) -> None:
        """What workflows have done with their results."""
        config, streams, metrics = self._config.actions, self._streams, self._metrics
        jobs, self._webhooks = ActionJobs(self._judgments), WebhookPerformer(config)
        alerts = AlertPerformer(streams, self._config.streams.keep_dashboard_entries)
        owner = secrets.token_hex(8)
        self._actions = ActionLoop(jobs, self._webhooks, alerts, config, owner, metrics, random.Random())
        # The publisher remembers every group that it finds, and puts it back where it stood when the streams are emptied.
        join = partial(join_group, streams)
        self._intake = ActionIntake(streams, jobs, join, config.claim_idle_s, metrics, self._actions.wake)

    def _build_alerts(self) -> None:
        """Who evaluates alert rules, and who tells of what fires."""
        config, metrics, slot = self._config, self._metrics, self._config.change.slot
        self._sinks = WebhookPerformer(config.actions)
        performer = SinkPerformer(self._streams, self._sinks, config.alerts, config.streams.keep_dashboard_entries)
        outbox, owner = AlertOutbox(self._judgments), secrets.token_hex(8)
        self._telling = AlertDeliveries(outbox, performer, config.alerts, owner, metrics, random.Random())
        figures = AlertFigures(self._rollups, slot)
        self._conditions = Conditions(figures)
        self._alerts = AlertLoop(
            AlertStates(self._judgments, slot),
            AlertRuleStore(self._judgments),
            figures,
            {"condition": self._conditions, "anomaly": Anomalies(BucketReader(self._rollups))},
            lambda lsn: self._followers.holder.has_passed(lsn),
            config.alerts,
            metrics,
            self._telling.wake,
        )

    async def _tell(self, stop: asyncio.Event) -> None:
        async with self._sinks:
            await self._telling.run(stop, self._alerts.leading)

    async def _follow(self, tenant_id: str) -> None:
        """See that no judgment of this tenant is missed from now on. Raises Overloaded."""
        await self._followers.publisher.demand()
        await self._intake.joined(stream_of(tenant_id))

    async def _act(self, stop: asyncio.Event) -> None:
        async with self._webhooks:
            await self._actions.run(stop)

    def _build_scaling(self, streams: Streams, team: Team | None, quotas: Quotas) -> None:
        """Who reports how this process is doing, and who decides whether there should be more or fewer of them."""
        config, metrics = self._config.scaling, self._metrics
        if team is not None:
            team.on_told = quotas.share
        siblings = (lambda: team.sharing) if team is not None else (lambda: 1)
        sampler = Sampler(metrics, self.queues, team.name if team is not None else "", siblings)
        keep = self._config.streams.keep_dashboard_entries
        self._reporter = Reporter(streams, sampler.sample, keep, config.report_interval_s)
        executor = choose_executor(config, team)
        decisions = ScalingStore(self._judgments, executor.scope)
        self._scaling = ScalingLoop(streams, self._reporter, decisions, executor, config, metrics)

    def _access(self, quotas: Quotas) -> Access:
        seed, own = self._config.seed, self._config.quota
        default = Quota(own.requests_per_s, own.bytes_per_s, own.sockets)
        known = {seed.token: Grant(seed.tenant, frozenset(SCOPES), None, default)} if seed.token else {}
        return Access(TokenStore(self._judgments, default), known, quotas.spend_or_hold)

    def _available(self) -> bool:
        return self._judgments.available

    def _routes(self, access: Access, quotas: Quotas) -> list[web.RouteDef]:
        config, metrics, judgments, rollups = self._config, self._metrics, self._judgments, self._rollups
        slot, reader, judging = config.change.slot, JudgmentReader(judgments), self._judging
        operate = OperateRoutes(
            judgments,
            self.admission,
            self._figures,
            lambda: any(queue.rows >= config.queue.max_rows for queue in self.queues),
            lambda: self._followers.holder.state,
            lambda: self._followers.publisher.state,
            build_openapi(),
        )
        explainer, actions = Explainer(WorkflowStore(judgments)), ActionStore(judgments)
        groups = (
            JudgmentRoutes(
                judging, reader, access, self.admission, self._available, metrics, self._quarantine, quotas, explainer, actions
            ),
            QuarantineRoutes(QuarantineStore(judgments), judging, reader, access, self.admission),
            QualityRoutes(QualityReader(rollups), access),
            SummaryRoutes(SummaryReader(rollups, slot), access),
            GapRoutes(GapReader(rollups, slot), access),
            DefinitionRoutes(DashboardStore(judgments), access, self.admission, self._followers.hub.redefined),
            MetricsRoutes(ChartReader(rollups, slot), access, config.metrics.keep_days),
            ScalingRoutes(self._scaling, access),
            WorkflowRoutes(WorkflowStore(judgments), self._followers.registry, access, self.admission, self._follow),
            AlertRoutes(AlertRuleStore(judgments), AlertStore(judgments), access, self.admission, slot),
            ActionRoutes(actions, reader, self._actions, access),
            operate,
            self.dashboards,
            TailRoutes(self._tails, self.dashboards, metrics, quotas),
            PageRoutes(TokenStore(judgments), access, config.live.session_ttl_s),
        )
        return with_sessions(route for group in groups for route in group.routes())

    def start(self, tasks: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        """Start all loops. Those that commit end when their queues are closed and empty, the others at `stop`."""
        config = self._config
        committing: Collection[asyncio.Task[Any]] = [
            tasks.create_task(batch.run(), name=f"batch-{queue.partition}")
            for queue, batch in zip(self.queues, self._batches, strict=True)
        ]
        tasks.create_task(self._quarantine.run(stop, committing), name="quarantine")
        tasks.create_task(self._accepted.run(stop, committing), name="accepted")
        for database in {self._judgments, self._rollups}:
            tasks.create_task(database.watch(stop), name="database-watch")
        self._followers.start(tasks, stop)
        tasks.create_task(self.dashboards.run(stop), name="dashboards")
        tasks.create_task(self._tails.run(stop), name="tails")
        tasks.create_task(self._act(stop), name="actions")
        tasks.create_task(self._intake.watch(stop), name="actions-watch")
        for stream in JUDGMENTS:
            tasks.create_task(self._intake.run(stream, stop), name=f"actions-{stream}")
        tasks.create_task(self._reporter.run(stop, lambda: self.admission.retiring), name="report")
        tasks.create_task(self._scaling.run(stop, lambda: self.admission.retiring), name="scaling")
        tasks.create_task(self._alerts.run(stop, lambda: self.admission.retiring), name="alerts")
        tasks.create_task(self._tell(stop), name="alert-deliveries")
        tasks.create_task(self._alert_push.run(stop), name="alert-push")
        fine_days = config.metrics.keep_days
        tasks.create_task(upkeep.run(self._judgments, config.keep, fine_days, stop, self._followers.verified_s), name="upkeep")
        tasks.create_task(metrics_upkeep.run(self._rollups, config, stop), name="metrics-upkeep")

    def _gauges(self) -> list[Gauge]:
        rows: list[Gauge] = []
        for queue, batch in zip(self.queues, self._batches, strict=True):
            labels = {"partition": str(queue.partition)}
            oldest = "Age of the oldest judgment not being committed yet."
            rows += [
                ("judgify_queue_rows", "Judgments queued or being committed.", labels, queue.rows),
                ("judgify_queue_bytes", "Bytes of the judgments queued or being committed.", labels, queue.bytes),
                ("judgify_queue_oldest_seconds", oldest, labels, queue.oldest_age_s),
                ("judgify_batch_size_rows", "Rows that the next commit may take.", labels, batch.size.rows),
            ]
        bounded = "Tenants of whose alert rules not all was looked at in the last evaluation."
        tenants = len(self._conditions.bounded) if self._alerts.leading.is_set() else 0
        return [
            *rows,
            ("judgify_requests_under_way", "Requests admitted and not answered.", {}, self.admission.requests),
            ("judgify_request_bytes_under_way", "Bytes of their bodies.", {}, self.admission.bytes),
            ("judgify_dashboards", "Open dashboards.", {}, self._followers.hub.sockets),
            ("judgify_tails", "Open live tails.", {}, self._tails.tails),
            ("judgify_alert_tenants_bounded", bounded, {}, tenants),
            ("judgify_database_available", "1 while PostgreSQL answers.", {}, float(self._judgments.available)),
        ]
