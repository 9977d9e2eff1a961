"""The way to Redis: one server or a cluster, found out at the first use; every call bounded, every error in our words.

A call fails with StreamsUnavailable within about `timeout_s` (half of it more where it had to be sent anew). The client follows
moved slots and new primaries, and connects again at the next call; nothing is repeated by it but what a cluster redirects.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from judgify_engine.config import RedisConfig
from judgify_engine.errors import SettingsError, StreamsUnavailable
from judgify_engine.streams.scripts import Script

T = TypeVar("T")
Client = Redis | RedisCluster
Node = Redis | ClusterNode
"""What speaks to one server."""
MOST_CONNECTIONS = 256
"""To one server. Who waits for entries holds one."""
SHARDED_SINCE = 7
"""The first version of Redis, and of what Valkey says it is like, with sharded channels."""
WAY_KEY = "judgify-channels"
"""Where it is written down whether channels of a cluster are `sharded` or `plain`."""
PATIENCE = 1.5
"""A call may take so many times `timeout_s`: it is less for each command in it."""
ERRORS = (RedisError, RedisClusterException, OSError)
ADVICE = {
    # The beginnings of replies, which the client replaces by classes of its own where it knows them.
    ("OOM", "OutOfMemory"): "it has reached its maxmemory: raise that, or lower streams.max_bytes",
    ("READONLY", "ReadOnly"): "it is a replica, or was made one just now: name the primary in JUDGIFY_REDIS_URL",
    ("MISCONF",): "it cannot save to its disk: see its log",
    ("LOADING", "BusyLoading"): "it is loading its data and will be there soon",
    ("CLUSTERDOWN", "ClusterDown", "SlotNotCovered"): "a part of the cluster has no primary",
    ("NOAUTH", "WRONGPASS", "AuthenticationError"): "it refuses the user or the password that JUDGIFY_REDIS_URL has or lacks",
    ("NOPERM", "NoPermission"): "its user may not do that: it needs streams, strings, scripts and channels",
    ("MASTERDOWN", "MasterDown"): "it is a replica without its primary",
    ("max number of clients",): "it has reached its maxclients: raise that",
    ("NOGROUP",): "the stream or its group is not there",
}
"""What to do, by what tells an error from others."""


class Call(NamedTuple):
    """One run of a script."""

    script: Script
    key: str
    arguments: tuple[bytes | str | int, ...]


class Server:
    """See the module."""

    def __init__(self, config: RedisConfig) -> None:
        """Connects to nobody yet. Raises SettingsError."""
        self._config = config
        self.name = _name_of(config.url)
        self._single = self._connect_single()
        self._client: Client | None = None
        self._opening = asyncio.Lock()
        self._sharded: bool | None = None

    def _options(self) -> dict[str, Any]:
        timeout_s = self._config.timeout_s
        return {
            "protocol": 2,
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "max_connections": MOST_CONNECTIONS,
            "client_name": "judgify-engine",
        }

    def _connect_single(self) -> Redis:
        try:
            return Redis.from_url(self._config.url, retry=Retry(NoBackoff(), 0), **self._options())
        except (ValueError, TypeError):  # their texts may hold the password
            raise SettingsError(
                "redis.url must be redis://[user:password@]host[:port][/number], rediss://… or unix:///path; what came is none"
            ) from None

    async def client(self) -> Client:
        """The client to use, within a bounded call."""
        if self._client is None:
            async with self._opening:
                if self._client is None:
                    self._client = await self._open()
        return self._client

    async def _open(self) -> Client:
        facts = await self._single.info("cluster")  # `redis_mode` is called `server_mode` by Valkey
        if not facts.get("cluster_enabled"):
            return self._single
        if self._config.url.startswith("unix:"):
            raise StreamsUnavailable("a cluster is not reached by a Unix socket: give a redis:// address")
        await self._single.aclose()
        # Without `reinitialize_steps`: a moved slot is followed by itself, and does not close all connections.
        return RedisCluster.from_url(self._config.url, retry=Retry(NoBackoff(), 1), reinitialize_steps=0, **self._options())

    async def sharded(self) -> bool:
        """Whether channels are sharded. All agree: what the first one found is written down. Raises StreamsUnavailable."""
        if self._sharded is None:
            self._sharded = await self.bounded(self._find_way())
        return self._sharded

    async def _find_way(self) -> bool:
        client = await self.client()
        if not isinstance(client, RedisCluster):
            return False
        facts = await client.info("server", target_nodes=RedisCluster.PRIMARIES)
        able = all(int(str(of["redis_version"]).partition(".")[0]) >= SHARDED_SINCE for of in facts.values())
        await client.set(WAY_KEY, "sharded" if able else "plain", nx=True)
        return bool(await client.get(WAY_KEY) == b"sharded")

    async def look_again(self) -> None:
        """See where the slots of a cluster are by now. Raises StreamsUnavailable."""
        await self.bounded(self._look_again())

    async def _look_again(self) -> None:
        client = await self.client()
        if isinstance(client, RedisCluster):
            await client.nodes_manager.initialize()
        else:
            await client.ping()

    async def place_of(self, channel: str | None) -> tuple[str, Callable[[], AbstractConnection]]:
        """The name of the server where a channel is (None: of any), and what makes a connection. Raises ERRORS too."""
        client = await self.client()
        if not isinstance(client, RedisCluster):
            return self.name, client.connection_pool.make_connection
        node = client.get_default_node() if channel is None else client.get_node_from_key(channel)
        if node is None:
            raise StreamsUnavailable("no server of the cluster has this channel just now")
        options = {**node.connection_kwargs, "retry": Retry(NoBackoff(), 0)}
        return node.name, lambda: node.connection_class(**options)

    async def nodes(self) -> dict[str, Node]:
        """All servers that take writes, by name. Raises errors of ERRORS."""
        client = await self.client()
        if not isinstance(client, RedisCluster):
            return {self.name: client}
        _ = await client.initialize()
        return {node.name: node for node in client.get_primaries()}

    async def asked(self, node: Node, *command: str) -> Any:
        """The reply of one server; None where it refuses. Raises StreamsUnavailable."""
        try:
            return await self.bounded(node.execute_command(*command))
        except StreamsUnavailable as error:
            if isinstance(error.__cause__, ResponseError):
                return None
            raise

    async def bounded(self, work: Awaitable[T]) -> T:
        """Do it in bounded time. Raises StreamsUnavailable."""
        try:
            async with asyncio.timeout(PATIENCE * self._config.timeout_s):
                return await work
        except TimeoutError as error:
            raise self.unavailable(error) from error
        except ERRORS as error:
            raise self.unavailable(error) from error
        except RuntimeError as error:
            if "handler is closed" not in str(error):  # what uvloop says where asyncio has a ConnectionError
                raise
            raise self.unavailable(ConnectionError("the connection was closed")) from error
        except AttributeError as error:
            # When the cluster's client looks at it anew, it closes connections also under others' commands, which then find no
            # reader or writer (redis-py 8.1, seen while slots move).
            if error.obj is not None or not isinstance(self._client, RedisCluster):
                raise
            raise self.unavailable(ConnectionError("the connection was closed")) from error

    async def call(self, *command: bytes | str | int | float, **options: Any) -> Any:
        """One command. Raises StreamsUnavailable."""
        return await self.bounded(self._call(command, options))

    async def _call(self, command: Sequence[Any], options: dict[str, Any]) -> Any:
        return await (await self.client()).execute_command(*command, **options)

    async def pipeline(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Several at once; replies that are errors come as values. Raises StreamsUnavailable."""
        return await self.bounded(self._pipeline(commands))

    async def _pipeline(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        if not commands:
            return []
        pipe = (await self.client()).pipeline(transaction=False)
        for command in commands:
            pipe.execute_command(*command)
        return list(await pipe.execute(raise_on_error=False))

    async def run(self, script: Script, key: str, *arguments: bytes | str | int) -> Any:
        """One run of a script. Raises StreamsUnavailable."""
        (reply,) = await self.run_all([Call(script, key, arguments)])
        return self.checked(reply)

    async def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """Several, in order for each key; error replies come as values. May be done twice. Raises StreamsUnavailable."""
        replies = await self.pipeline([("EVALSHA", script.sha, 1, key, *rest) for script, key, rest in calls])
        if any(isinstance(reply, NoScriptError) for reply in replies):
            # All of them again: one that ran after one that did not has seen a state that was not meant for it.
            replies = await self.pipeline([("EVAL", script.text, 1, key, *rest) for script, key, rest in calls])
        return replies

    def checked(self, reply: Any) -> Any:
        """The reply of a pipeline, unless it is an error. Raises StreamsUnavailable."""
        if isinstance(reply, Exception):
            raise self.unavailable(reply) from reply
        return reply

    def unavailable(self, error: BaseException) -> StreamsUnavailable:
        """An error of the client or a server, in words of ours."""
        text = str(error) or ("it does not answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
        signs = f"{type(error).__name__} {text}"
        advice = next((words for some, words in ADVICE.items() if any(sign in signs for sign in some)), "")
        return StreamsUnavailable(f"Redis at {self.name}: {advice + ' (' + text + ')' if advice else text}")

    async def close(self) -> None:
        """Give all connections back."""
        for client in {self._single, self._client or self._single}:
            await client.aclose()


def missing(reply: Any) -> bool:
    """Whether a reply says that there is no such key."""
    return isinstance(reply, ResponseError) and "no such key" in str(reply)


def _name_of(url: str) -> str:
    """Where it is, without a user and a password."""
    parts = urlsplit(url)
    return parts.path if parts.scheme == "unix" else parts.netloc.rpartition("@")[2]
