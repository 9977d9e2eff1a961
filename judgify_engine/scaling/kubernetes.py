"""More or fewer pods: the scale subresource of a Deployment or a StatefulSet, by the official client (extra `kubernetes`).

The client blocks, so it runs in a thread; each of its calls has its own timeout, so the thread ends too. What somebody else has
changed between our look and our change is not overwritten: the change names the version that it was made for.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from judgify_engine.config import ScalingConfig
from judgify_engine.core.figures import Report
from judgify_engine.errors import ScalingFailed, SettingsError

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
CONFLICT = 409
TRIES = 3
"""The version also changes when the number of ready pods does."""
KINDS = {"deployment": "deployment", "statefulset": "stateful_set"}
"""As the client's methods are called."""


class Kubernetes:
    """Sets the number of replicas. An `Executor`, see pipeline/scaling_loop."""

    name = "kubernetes"
    acts, by_host, shared_memory = True, True, False

    def __init__(self, config: ScalingConfig) -> None:
        """Raises SettingsError where there is no client, or it does not know which cluster or which namespace."""
        try:
            import kubernetes  # an extra, and it takes a second
            import urllib3
        except ImportError as error:
            need = "scaling.executor: kubernetes needs the extra of that name: pip install 'judgify-engine[kubernetes]'"
            raise SettingsError(f"{need} ({error})") from error
        self._refused, self._away = kubernetes.client.ApiException, (OSError, urllib3.exceptions.HTTPError)
        namespace = config.kubernetes_namespace or _own_namespace()
        api = kubernetes.client.AppsV1Api(_client(kubernetes, config.kubernetes_config))
        self._read = getattr(api, f"read_namespaced_{KINDS[config.kubernetes_kind]}_scale")
        self._patch = getattr(api, f"patch_namespaced_{KINDS[config.kubernetes_kind]}_scale")
        self._place = (config.kubernetes_name, namespace)
        self._timeout_s = config.timeout_s
        self.scope = f"{config.kubernetes_kind} {namespace}/{config.kubernetes_name}"
        self.minimum, self.maximum = config.min_replicas, config.max_replicas

    def concerns(self, report: Report) -> bool:
        return True

    async def current(self, heard: int) -> int:
        return (await self._look())[0]

    async def scale(self, current: int, target: int) -> None:
        for _ in range(TRIES):
            replicas, version = await self._look()
            if replicas != current:
                raise ScalingFailed(f"somebody else set {self.scope} to {replicas}, from {current}")
            body = {"metadata": {"resourceVersion": version}, "spec": {"replicas": target}}
            if await self._call(self._patch, *self._place, body) is not None:
                return
        raise ScalingFailed(f"{self.scope} was changed by others again and again")

    async def _look(self) -> tuple[int, str]:
        """The number of replicas that there should be, and the version that says so."""
        found = await self._call(self._read, *self._place)
        if found is None:
            raise ScalingFailed(f"{self.scope} could not be read: conflict")
        if not found.spec or not found.metadata:
            raise ScalingFailed(f"what was answered for {self.scope} is no scale")
        return found.spec.replicas or 0, found.metadata.resource_version

    async def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        """What it answers; None: a conflict. Raises ScalingFailed."""
        try:
            return await asyncio.to_thread(method, *arguments, _request_timeout=self._timeout_s / 2)
        except self._refused as error:
            if error.status == CONFLICT:
                return None
            said = str(error.body or error.reason or "")[:300]
            raise ScalingFailed(f"Kubernetes answered {error.status} for {self.scope}: {said}") from error
        except self._away as error:
            raise ScalingFailed(f"Kubernetes does not answer for {self.scope}: {error}") from error
        except ValueError as error:  # a proxy's page, for one
            raise ScalingFailed(f"what was answered for {self.scope} is no scale: {str(error)[:300]}") from error


def _client(library: Any, path: str) -> Any:
    """A client for the cluster that the kubeconfig names, or the one that this pod is in."""
    settings = library.client.Configuration()
    try:
        if path:
            library.config.load_kube_config(path, client_configuration=settings)
        else:
            library.config.load_incluster_config(client_configuration=settings)
    except (library.config.ConfigException, OSError) as error:
        raise SettingsError(f"scaling.kubernetes_config: no way to Kubernetes: {error}") from error
    settings.retries = False  # a failure is tried again after the cool-down, and here within a bounded time
    return library.client.ApiClient(settings)


def _own_namespace() -> str:
    try:
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"scaling.kubernetes_namespace must be set outside a pod: {error}") from error
