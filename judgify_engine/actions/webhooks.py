"""The HTTP calls of actions: signed after Standard Webhooks, to addresses that may be called, with answers that are bounded.

All attempts of an action carry the same `webhook-id`, also as `Idempotency-Key`. Redirects are not followed; certificates are
checked; of an answer the beginning is kept.
"""

import asyncio
import contextlib
import logging
import socket
import time
from datetime import UTC, datetime
from typing import Any
from weakref import WeakSet

import aiohttp
from standardwebhooks import Webhook as Signer
from yarl import URL

from judgify_engine import __version__
from judgify_engine.actions.names import AddressRefused, Names, asking, refusal
from judgify_engine.config import ActionsConfig
from judgify_engine.core.actions import Webhook
from judgify_engine.core.addresses import is_address, is_public
from judgify_engine.core.jobs import Job
from judgify_engine.core.retries import Outcome, retry_after_s, verdict_of
from judgify_engine.pipeline.action_alerts import GONE
from judgify_engine.wire.actions import message_id, webhook_body

log = logging.getLogger(__name__)

KEPT_BYTES = 2048
"""What is read and kept of an answer."""


class WebhookPerformer:
    """Makes the calls, within its context."""

    def __init__(self, config: ActionsConfig) -> None:
        self._config = config
        # With a proxy it is the proxy that connects, and that has to refuse.
        self._guarded = not (config.private_networks or config.proxy)
        self._session: aiohttp.ClientSession | None = None
        self._once: aiohttp.ClientSession | None = None
        """The same, but its connections are not kept."""
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._calls = 0
        """Under way."""

    async def __aenter__(self) -> "WebhookPerformer":
        """Make the clients. Nothing is connected yet."""
        names = Names(self._config.concurrency, only_public=self._guarded)
        self._session, self._once = self._client(names, keep=True), self._client(names, keep=False)
        return self

    def _client(self, names: Names, *, keep: bool) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=self._config.concurrency,
            limit_per_host=0,
            force_close=not keep,
            resolver=names,
            use_dns_cache=False,  # in which one tenant's attempt may wait for the look-up of another's
            socket_factory=self._socket,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "User-Agent": f"judgify-engine/{__version__}",
                "Content-Type": "application/json",
                "Accept-Encoding": "identity",
            },
            auto_decompress=False,  # a kilobyte could become a megabyte
            trust_env=False,
        )

    async def __aexit__(self, *_: object) -> None:
        """End all connections."""
        for client in (self._session, self._once):
            if client is not None:
                await client.close()
        self._session = self._once = None

    def _socket(self, address: Any) -> socket.socket:
        made = socket.socket(*address[:3])
        self._sockets.add(made)
        return made

    def _crowded(self) -> bool:
        """Whether as many connections wait to be used again as may be used at once; aiohttp would keep any number."""
        return sum(one.fileno() >= 0 for one in self._sockets) - self._calls >= self._config.concurrency

    async def perform(self, job: Job, action: Webhook) -> Outcome:
        """One call."""
        if job.judgment is None:
            return Outcome("refused", GONE)
        if not job.secrets:  # never unsigned; the store makes one when a job is leased
            return Outcome("retry", "the tenant has no secret to sign with")
        body = webhook_body(job.judgment, job.lane.tenant_id, job.action)
        headers = signed(message_id(job.judgment_id, job.action), body, job.secrets, time.time())
        request = {"type": "webhook", "url": action.url, "webhook_id": headers["webhook-id"], "bytes": len(body)}
        return await self.send(job.lane.tenant_id, action.url, body, headers, action.timeout_s, request)

    async def send(
        self, tenant_id: str, to: str, body: bytes, headers: dict[str, str], timeout_s: float, request: dict[str, Any]
    ) -> Outcome:
        """One call for a tenant, with all guards. `request`: what the outcome says was asked."""
        asking.set(tenant_id)
        try:
            url = URL(to)
            if self._guarded and is_address(url.host or "") and not is_public(url.host or ""):
                raise refusal(to[:200], url.host or "")
            return await self._call(url, body, headers, timeout_s, request)
        except ValueError as error:  # the URL; from aiohttp or yarl
            return Outcome("refused", f"it cannot be called: {error}", request=request)
        except AddressRefused as error:
            return Outcome("refused", str(error), request=request)
        except TimeoutError:
            return Outcome("retry", f"no answer within {timeout_s:g} s", request=request)
        except (aiohttp.ClientError, OSError) as error:
            refused = isinstance(getattr(error, "os_error", None), AddressRefused)
            return Outcome("refused" if refused else "retry", _reason(error), request=request)

    async def _call(self, url: URL, body: bytes, headers: dict[str, str], timeout_s: float, request: dict[str, Any]) -> Outcome:
        client = self._once if self._crowded() else self._session
        assert client is not None
        self._calls += 1
        try:
            return await self._post(client, url, body, headers, timeout_s, request)
        finally:
            self._calls -= 1

    async def _post(
        self,
        client: aiohttp.ClientSession,
        url: URL,
        body: bytes,
        headers: dict[str, str],
        timeout_s: float,
        request: dict[str, Any],
    ) -> Outcome:
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        async with asyncio.timeout_at(deadline_s):
            response = await client.post(
                url,
                data=body,
                headers=headers,
                allow_redirects=False,
                proxy=self._config.proxy or None,
                timeout=aiohttp.ClientTimeout(total=None),
            )
        try:
            kept = await _beginning(response, deadline_s)
        finally:
            # What was not read is not waited for: the connection of an answer without end is closed.
            response.release() if response.content.at_eof() else response.close()
        answer: dict[str, Any] = {"status": response.status, "body": kept}
        verdict = verdict_of(response.status)
        if verdict == "succeeded":
            return Outcome("succeeded", request=request, response=answer)
        reason = f"the receiver answered {response.status}"
        if 300 <= response.status < 400:
            location = response.headers.get("Location", "")[:500]
            reason += f" (to {_storable(location)}); redirects are not followed"
        later_s = retry_after_s(response.headers.get("Retry-After"), time.time()) if verdict == "retry" else None
        return Outcome(verdict, reason, later_s, request, answer)


async def _beginning(response: aiohttp.ClientResponse, deadline_s: float) -> str:
    """The first bytes of the body, as text that PostgreSQL takes. Where it breaks off or hangs, the status counts."""
    kept = bytearray()
    with contextlib.suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout_at(deadline_s):
            while len(kept) < KEPT_BYTES:
                piece = await response.content.read(KEPT_BYTES - len(kept))
                if not piece:
                    break
                kept += piece
    return _storable(kept.decode("utf-8", "replace"))


def _reason(error: Exception) -> str:
    """In words for the tenant: without the URL that aiohttp adds, which may be the proxy's, with its password."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy answered {error.status}"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the answer is no HTTP: {_storable(error.message[:500])}"
    return str(getattr(error, "os_error", error)) or type(error).__name__


def _storable(text: str) -> str:
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def signed(identifier: str, body: bytes, secrets: tuple[str, ...], now_s: float) -> dict[str, str]:
    """The headers. Each secret signs, so that a receiver may know either while one takes the place of the other."""
    moment, text = datetime.fromtimestamp(now_s, UTC), body.decode()
    return {
        "webhook-id": identifier,
        "webhook-timestamp": str(int(now_s)),
        "webhook-signature": " ".join(Signer(secret).sign(identifier, moment, text) for secret in secrets),
        "Idempotency-Key": identifier,
    }
