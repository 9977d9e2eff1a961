"""The Kubernetes executor, with the official client, against a server that speaks the scale subresource."""

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Database
from support.engine import ROOT, Engine
from support.kubernetes import Kubernetes as Server
from support.waiting import until

from judgify_engine.config import ScalingConfig
from judgify_engine.errors import ScalingFailed, SettingsError
from judgify_engine.pipeline.scaling_loop import MISSED_REPORTS
from judgify_engine.scaling.kubernetes import Kubernetes

pytest.importorskip("kubernetes", reason="needs the extra `kubernetes`")
DEPLOYMENT = "/apis/apps/v1/namespaces/plant/deployments/judgify/scale"
STATEFULSET = "/apis/apps/v1/namespaces/plant/statefulsets/judgify/scale"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server().start()
    made.replicas = {DEPLOYMENT: 3, STATEFULSET: 5}
    yield made
    made.stop()


@pytest.fixture
def settings(server: Server, tmp_path: Path) -> dict[str, Any]:
    return {
        "executor": "kubernetes",
        "kubernetes_name": "judgify",
        "kubernetes_namespace": "plant",
        "kubernetes_config": str(server.kubeconfig(tmp_path)),
        "timeout_s": 2.0,
    }


async def test_it_reads_and_sets_the_number_of_replicas(server: Server, settings: dict[str, Any]) -> None:
    executor = Kubernetes(ScalingConfig(**settings))
    assert (executor.scope, executor.minimum, executor.maximum) == ("deployment plant/judgify", 3, 20)
    assert await executor.current(0) == 3
    await executor.scale(3, 5)
    assert server.replicas == {DEPLOYMENT: 5, STATEFULSET: 5}
    assert {method for method, _, _ in server.requests} == {"GET", "PATCH"}
    assert {path for _, path, _ in server.requests} == {DEPLOYMENT}
    assert server.tokens == {"Bearer secret"}


async def test_a_statefulset_too(server: Server, settings: dict[str, Any]) -> None:
    executor = Kubernetes(ScalingConfig(**settings, kubernetes_kind="statefulset"))
    await executor.scale(5, 4)
    assert server.replicas == {DEPLOYMENT: 3, STATEFULSET: 4}


async def test_what_somebody_else_set_is_not_overwritten(server: Server, settings: dict[str, Any]) -> None:
    executor = Kubernetes(ScalingConfig(**settings))
    server.replicas[DEPLOYMENT] = 9
    with pytest.raises(ScalingFailed, match="somebody else set deployment plant/judgify to 9"):
        await executor.scale(3, 4)
    assert server.replicas[DEPLOYMENT] == 9


async def test_another_version_is_looked_at_again_but_not_for_ever(server: Server, settings: dict[str, Any]) -> None:
    executor = Kubernetes(ScalingConfig(**settings))
    server.conflicts = 2
    await executor.scale(3, 4)
    assert server.replicas[DEPLOYMENT] == 4
    server.conflicts = 99
    with pytest.raises(ScalingFailed, match="again and again"):
        await executor.scale(4, 5)
    assert server.replicas[DEPLOYMENT] == 4


@pytest.mark.parametrize("status", [403, 404, 500])
async def test_a_refusal_says_why(server: Server, settings: dict[str, Any], status: int) -> None:
    executor = Kubernetes(ScalingConfig(**settings))
    server.refuse = (status, "not for you")
    with pytest.raises(ScalingFailed, match=f"answered {status} for deployment plant/judgify: .*not for you"):
        await executor.current(0)


@pytest.mark.parametrize("strange", ["<a page>", [], {}, {"spec": {}}, {"spec": {"replicas": "x"}, "metadata": {}}])
async def test_an_answer_that_is_none_is_a_failure_like_others(
    server: Server, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, strange: Any
) -> None:
    executor = Kubernetes(ScalingConfig(**settings))
    monkeypatch.setattr(server, "answer", lambda *_: (200, strange))
    with pytest.raises(ScalingFailed, match="is no scale"):
        await executor.scale(3, 4)


async def test_a_server_that_hangs_or_has_gone_is_waited_for_in_vain_but_not_long(
    server: Server, settings: dict[str, Any]
) -> None:
    executor = Kubernetes(ScalingConfig(**{**settings, "timeout_s": 0.5}))
    server.hang.set()
    async with asyncio.timeout(5):
        with pytest.raises(ScalingFailed, match="does not answer"):
            await executor.scale(3, 4)
    assert len(server.requests) == 1, "the client does not try again by itself"
    server.hang.clear()
    server.released.set()
    server.stop()
    async with asyncio.timeout(5):
        with pytest.raises(ScalingFailed, match="does not answer"):
            await executor.current(0)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"kubernetes_config": ""}, "kubernetes_config"), ({"kubernetes_config": "/nowhere"}, "kubernetes_config"),
     ({"kubernetes_namespace": ""}, "kubernetes_namespace")],
)  # fmt: skip
def test_settings_that_lead_nowhere_are_told(settings: dict[str, Any], change: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError, match=f"scaling.{says}"):
        Kubernetes(ScalingConfig(**(settings | change)))


async def test_an_engine_brings_the_replicas_into_their_bounds(
    server: Server, settings: dict[str, Any], database: Database, start_engine: Callable[..., Engine]
) -> None:
    server.replicas[DEPLOYMENT] = 2
    given = {f"JUDGIFY_SCALING_{name}".upper(): str(value) for name, value in settings.items()}
    engine = start_engine(database, settings={**given, "JUDGIFY_SCALING_INTERVAL_S": "0.2"})
    await until(lambda: server.replicas[DEPLOYMENT] == 3, "it sets them")
    rows = await until(
        lambda: database.rows("SELECT * FROM scaling_decisions WHERE outcome = 'done'"), "it has written it down"
    )
    assert [(row["scope"], row["action"], row["rule"], row["from_count"], row["to_count"]) for row in rows] == [
        ("deployment plant/judgify", "out", "minimum", 2, 3)
    ]
    assert engine.terminate() == 0


def manifest(name: str, kind: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    documents = list(yaml.safe_load_all((ROOT / "profiles" / "kubernetes" / name).read_text()))
    return next(document for document in documents if document["kind"] == kind)


async def test_the_manifest_grants_what_is_called_and_no_more(server: Server, settings: dict[str, Any]) -> None:
    await Kubernetes(ScalingConfig(**settings)).scale(3, 4)
    called = {(method.lower(), *path.split("/")[-3::2]) for method, path, _ in server.requests}
    (rule,) = manifest("scaling.yaml", "Role")["rules"]
    assert rule["apiGroups"] == ["apps"]
    assert {(verb, *what.split("/")) for verb in rule["verbs"] for what in rule["resources"]} == called
    assert rule["resourceNames"] == ["judgify"]


def test_the_autoscaler_has_the_numbers_that_are_ours() -> None:
    spec, ours = manifest("hpa.yaml", "HorizontalPodAutoscaler")["spec"], ScalingConfig()
    assert (spec["minReplicas"], spec["maxReplicas"]) == (ours.min_replicas, ours.max_replicas) == (3, 20)
    targets = {one["resource"]["name"]: one["resource"]["target"]["averageUtilization"] for one in spec["metrics"]}
    assert targets == {"cpu": 70, "memory": 80}


def test_the_manifest_that_follows_decisions_outlasts_a_redis_that_lost_its_streams() -> None:
    """`desired` counts who is heard: all of them only when all have reported again."""
    text = (ROOT / "profiles/kubernetes/keda.yaml").read_text()
    (window_s,) = re.findall(r"scaleDown:(?:\n *#.*)*\n *stabilizationWindowSeconds: (\d+)", text)
    assert int(window_s) >= MISSED_REPORTS * ScalingConfig().report_interval_s
