"""A raw HTTP/1.1 client that costs the machine as little as Python can: pre-encoded requests, one parser, no futures.

One connection carries one request at a time over keep-alive; answers are framed by `Content-Length` alone (anything
else is a `ProtocolError`). Who drives it (see `loops`) gets callbacks, so that an answer can send the next request in
the same turn of the event loop.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast
from urllib.parse import urlsplit

SEED_WORKFLOW = "test-workflow-3"
SEED_BODY = (
    b'{"workflow_id": "test-workflow-3", "input_data": {"temperature": 92.3, "pressure": 101.2, "vibration": 44.1, '
    b'"machine_id": "MACHINE_3", "user_id": 13}, "context": {"shift": "day", "operator": "operator_3"}}'
)
"""The request that every bench sends: the seed request of the project's design."""

EXECUTE_PATH = "/api/v1/judgments/execute"
MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024


class ProtocolError(Exception):
    """The peer does not speak the HTTP that this client understands."""


class Response(NamedTuple):
    """One answer; `head` is its status line and headers without the empty line."""

    status: int
    head: bytes
    body: bytes

    def header(self, name: bytes) -> bytes:
        """The value of header `name` (lower case), or nothing."""
        return _header(self.head, name)


def _header(head: bytes, name: bytes) -> bytes:
    at = head.lower().find(b"\r\n" + name + b":")
    if at < 0:
        return b""
    begin = at + len(name) + 3
    end = head.find(b"\r\n", begin)
    return head[begin : end if end >= 0 else len(head)].strip()


class ResponseParser:
    """Cuts a stream of bytes into responses; the stream may be cut anywhere. Pure."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Response]:
        """Give the responses that `data` completes, in order; often none, usually one. Raises ProtocolError."""
        if self._rest:
            data = self._rest + data
        responses = []
        begin = 0
        while begin < len(data):
            head_end = data.find(b"\r\n\r\n", begin)
            if head_end < 0:
                if len(data) - begin > MAX_HEAD_BYTES:
                    raise ProtocolError("the head of an answer does not end")
                if not data.startswith(b"HTTP/1."[: len(data) - begin], begin):
                    raise ProtocolError("the answer is not HTTP/1")
                break
            head = data[begin:head_end]
            status = _status(head)
            end = head_end + 4 + (0 if status < 200 or status in (204, 304) else _body_bytes(head))
            if end > len(data):
                break
            if status >= 200:  # 1xx only announces the answer
                responses.append(Response(status, head, data[head_end + 4 : end]))
            begin = end
        self._rest = data[begin:]
        return responses


def _status(head: bytes) -> int:
    if not head.startswith(b"HTTP/1.") or not head[9:12].isdigit():
        raise ProtocolError(f"not a status line: {head[:40]!r}")
    return int(head[9:12])


def _body_bytes(head: bytes) -> int:
    length = _header(head, b"content-length")
    if not length.isdigit():
        raise ProtocolError("the answer has no usable Content-Length (chunked answers are not understood)")
    size_bytes = int(length)
    if size_bytes > MAX_BODY_BYTES:
        raise ProtocolError(f"an answer of {size_bytes} bytes")
    return size_bytes


class Target(NamedTuple):
    """Where the server is and who we are to it."""

    host: str
    port: int
    token: str

    @classmethod
    def parse(cls, url: str, token: str) -> "Target":
        """Read `http://host:port`. Raises ValueError for anything else."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path.strip("/"):
            raise ValueError("the url must look like http://127.0.0.1:8000")
        return cls(parts.hostname, parts.port or 80, token)

    @property
    def url(self) -> str:
        """The address without a path."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def encode(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
        """One whole request as bytes, ready to be written again and again."""
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            f"Authorization: Bearer {self.token}",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Connection(asyncio.Protocol):
    """One keep-alive connection. `on_answer` gets each response; `on_lost` the end, with its error if there was one."""

    __slots__ = ("_error", "_on_answer", "_on_lost", "_on_made", "_parser", "_transport", "is_open")

    def __init__(
        self,
        on_made: Callable[["Connection"], None],
        on_answer: Callable[[Response], None],
        on_lost: Callable[[Exception | None], None],
    ) -> None:
        self._on_made = on_made
        self._on_answer = on_answer
        self._on_lost = on_lost
        self._parser = ResponseParser()
        self._transport: asyncio.Transport | None = None
        self._error: ProtocolError | None = None
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True
        self._on_made(self)

    def send(self, request: bytes) -> None:
        """Write a request; there must be none outstanding on this connection."""
        assert self._transport is not None
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            for response in self._parser.feed(data):
                self._on_answer(response)
        except ProtocolError as error:
            self._error = error
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        self._on_lost(self._error or exc)

    def abort(self) -> None:
        """Cut the connection at once; `on_lost` follows."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close the connection in order; `on_lost` follows."""
        if self._transport is not None:
            self._transport.close()


async def fetch(target: Target, method: str, path: str, body: bytes = b"", timeout_s: float = 10.0) -> Response:
    """Make one request on a connection of its own. Raises OSError, ProtocolError or TimeoutError."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Response] = loop.create_future()

    def settle(response: Response) -> None:
        if not answer.done():
            answer.set_result(response)

    def lost(error: Exception | None) -> None:
        if not answer.done():
            answer.set_exception(error or ConnectionResetError("the connection was closed before the answer"))

    request = target.encode(method, path, body, {"Connection": "close"})
    async with asyncio.timeout(timeout_s):
        _, connection = await loop.create_connection(
            lambda: Connection(lambda made: made.send(request), settle, lost), target.host, target.port
        )
        try:
            return await answer
        finally:
            connection.abort()
