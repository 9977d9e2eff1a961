"""Single calls of actions, against receivers and proxies that speak bytes: what is told of them, and what is never told."""

import asyncio
import contextlib
import gzip
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from support.waiting import until

from judgify_engine.actions.webhooks import WebhookPerformer
from judgify_engine.config import ActionsConfig
from judgify_engine.core.actions import Webhook
from judgify_engine.core.jobs import Job, Lane
from judgify_engine.core.retries import Outcome

OPEN = ActionsConfig(private_networks=True)
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
ROW: dict[str, Any] = {
    "id": "0198c0de-0000-7000-8000-000000000001", "workflow_id": "w", "workflow_version": 1, "final_result": "{}",
    "confidence_score": 1.0, "method_used": "rule", "status": "completed", "execution_time_ms": 1.0,
    "created_at": datetime(2026, 1, 1, tzinfo=UTC), "occurred_at": None, "input_data": "{}", "context": "{}",
    "rule_index": None, "error": None,
}  # fmt: skip


def job(tenant_id: str = "acme") -> Job:
    return Job(1, Lane(tenant_id, "x:80"), "w", str(ROW["id"]), "a", "{}", 1, 3, ROW, ("whsec_" + "A" * 44,))


class Peer:
    """Answers each request with the same bytes, then leaves the connection open."""

    def __init__(self, answer: bytes) -> None:
        self.answer, self.heads, self.port = answer, list[bytes](), 0
        self.serving: set[asyncio.Task[Any] | None] = set()
        self.open: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.current_task())
        self.open.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.answer)
            await writer.drain()
            await reader.read()
        self.open.discard(writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def peer(answer: bytes) -> AsyncIterator[Peer]:
    made = Peer(answer)
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0) as server:
        made.port = server.sockets[0].getsockname()[1]
        yield made
    await asyncio.gather(*filter(None, made.serving))


async def call(config: ActionsConfig, url: str, timeout_s: float = 5.0) -> Outcome:
    async with WebhookPerformer(config) as performer:
        return await performer.perform(job(), Webhook(url, timeout_s=timeout_s))


@pytest.mark.parametrize("url", ["https://receiver.example/", "http://receiver.example/"])
@pytest.mark.parametrize("answer", [b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", b"\0\r\n\r\n"])
async def test_the_password_of_the_proxy_is_told_to_it_alone(url: str, answer: bytes) -> None:
    async with peer(answer) as proxy:
        config = ActionsConfig(proxy=f"http://user:p%40ss@127.0.0.1:{proxy.port}")
        outcome = await call(config, url)
    assert b"Proxy-Authorization: Basic dXNlcjpwQHNz" in proxy.heads[0]  # user:p@ss
    assert outcome.verdict != "succeeded"
    assert "user" not in str(outcome)
    assert "ss@" not in str(outcome)
    assert "407" in str(outcome) or "no HTTP" in str(outcome)


@pytest.mark.parametrize(
    ("rest", "kept"),
    [
        (b"Content-Length: 30\r\n\r\nok", "ok"),  # and then nothing
        (b"Transfer-Encoding: chunked\r\n\r\n", ""),
        (b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n\0x", "\\0x"),
    ],
)
async def test_a_body_that_breaks_off_changes_nothing_of_the_status(rest: bytes, kept: str) -> None:
    async with peer(b"HTTP/1.1 200 OK\r\n" + rest) as receiver:
        outcome = await call(OPEN, f"http://127.0.0.1:{receiver.port}/", timeout_s=0.3)
    assert (outcome.verdict, outcome.error) == ("succeeded", None), "the receiver has it"
    assert outcome.response == {"status": 200, "body": kept}


async def test_a_compressed_answer_is_not_unpacked() -> None:
    packed = gzip.compress(bytes(10_000_000))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    async with peer(head + packed) as receiver:
        outcome = await call(OPEN, f"http://127.0.0.1:{receiver.port}/")
    assert b"accept-encoding: identity" in receiver.heads[0].lower()
    assert outcome.response is not None
    assert outcome.response["body"].startswith("\x1f\N{REPLACEMENT CHARACTER}")


async def test_connections_that_are_kept_are_bounded() -> None:
    keeping = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    config = ActionsConfig(private_networks=True, concurrency=4)
    async with contextlib.AsyncExitStack() as stack:
        receivers = [await stack.enter_async_context(peer(keeping)) for _ in range(30)]
        async with WebhookPerformer(config) as performer:
            for one in receivers:
                assert (await performer.perform(job(), Webhook(f"http://127.0.0.1:{one.port}/"))).verdict == "succeeded"
            await until(lambda: sum(len(one.open) for one in receivers) <= 4, "no more are open than may be used at once")


# Names ---------------------------------------------------------------------------------------------------------------------


class NameServer:
    """In the place of `getaddrinfo`: what begins with `silent` is answered when the test lets it go."""

    def __init__(self) -> None:
        self.asked = list[str]()
        self.go = threading.Event()
        self.really = socket.getaddrinfo

    def look_up(self, host: str, *rest: Any) -> Any:
        self.asked.append(host)
        if host.startswith("silent"):
            self.go.wait()
            raise socket.gaierror(-3, "nobody answers")
        return self.really("127.0.0.1", *rest)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    made = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", made.look_up)
    yield made
    made.go.set()


async def test_names_that_nobody_answers_hold_up_only_their_tenant(names: NameServer) -> None:
    config = ActionsConfig(private_networks=True, concurrency=16)
    async with peer(EMPTY) as receiver, WebhookPerformer(config) as performer:
        for turn in range(5):  # each leaves a thread behind, for which it waits no longer
            hook = Webhook(f"http://silent-{turn}.example/", timeout_s=0.1)
            outcomes = await asyncio.gather(*[performer.perform(job("bad"), hook) for _ in range(8)])
            assert {outcome.error for outcome in outcomes} == {"no answer within 0.1 s"}
        assert len(names.asked) == 2, "an eighth, however many attempts there are"
        url = f"http://good.example:{receiver.port}/"
        outcome = await performer.perform(job("good"), Webhook(url, timeout_s=5))
        assert outcome.verdict == "succeeded"
        assert names.asked[-1] == "good.example"
        names.go.set()
        url = f"http://mended.example:{receiver.port}/"
        assert (await performer.perform(job("bad"), Webhook(url, timeout_s=5))).verdict == "succeeded"


async def test_an_answered_name_is_remembered_and_a_private_one_refused(names: NameServer) -> None:
    async with peer(EMPTY) as receiver:
        hook = Webhook(f"http://inside.example:{receiver.port}/")
        async with WebhookPerformer(OPEN) as performer:
            assert [(await performer.perform(job(), hook)).verdict for _ in range(3)] == ["succeeded"] * 3
        async with WebhookPerformer(ActionsConfig()) as performer:
            outcome = await performer.perform(job(), hook)
    assert names.asked == ["inside.example"] * 2
    assert outcome.verdict == "refused"
    assert outcome.error is not None
    assert outcome.error.startswith("inside.example is 127.0.0.1, which is not public")
    assert len(receiver.heads) == 3
