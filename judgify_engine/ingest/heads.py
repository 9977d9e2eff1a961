"""The heads of plain execute requests that aiohttp's parser has read, so that the same bytes need not be read again.

Only what belongs to a token that is known is remembered, and only when it came twice: a client whose every head is new (a trace
id in it) leaves no mark, and nobody without a token pushes others out.
"""

from collections import OrderedDict
from typing import Any, NamedTuple

from aiohttp.http import HttpVersion11

LONGEST_HEAD = 4096
LONGEST_BODY = 65_536
MAX_BYTES = 8 * 1024 * 1024
MAX_SEEN = 4096
_NOT_PLAIN = ("Transfer-Encoding", "Content-Encoding", "Expect", "Idempotency-Key", "Upgrade", "Connection")


class Head(NamedTuple):
    """What a head says that matters for a plain execute request."""

    authorization: str
    content_length: int


class Heads:
    """Shared by all connections; bounded in bytes, the least used leave first."""

    def __init__(self, path: str, max_bytes: int = MAX_BYTES) -> None:
        self.start = f"POST {path} HTTP/1.1\r\n".encode()
        self._path, self._max_bytes = path, max_bytes
        self._known: OrderedDict[bytes, Head] = OrderedDict()
        self._bytes = 0
        self._seen: set[bytes] = set()

    def recall(self, head: bytes) -> Head | None:
        """What this head says, if it is known."""
        known = self._known.get(head)
        if known is not None:
            self._known.move_to_end(head)
        return known

    def learn(self, head: bytes, message: Any) -> None:
        """Remember a head as aiohttp read it, if it is plain: nothing in it asks for more than a body to be read."""
        if len(head) > LONGEST_HEAD or not head.startswith(self.start) or head in self._known or not self._is_plain(message):
            return
        if head not in self._seen:
            if len(self._seen) >= MAX_SEEN:
                self._seen.clear()
            self._seen.add(head)
            return
        self._seen.discard(head)
        headers = message.headers
        self._known[head] = Head(headers["Authorization"], int(headers["Content-Length"]))
        self._bytes += len(head)
        while self._bytes > self._max_bytes:
            oldest, _ = self._known.popitem(last=False)
            self._bytes -= len(oldest)

    def _is_plain(self, message: Any) -> bool:
        headers = message.headers
        return (
            message.method == "POST"
            and message.path == self._path
            and message.version == HttpVersion11
            and not (message.should_close or message.compression or message.chunked or message.upgrade)
            and not any(name in headers for name in _NOT_PLAIN)
            and len(headers.getall("Content-Length", ())) == 1
            and int(headers["Content-Length"]) <= LONGEST_BODY
            and len(headers.getall("Authorization", ())) == 1
        )
