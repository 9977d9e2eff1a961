"""PostgreSQL for the tests: a server of our own from the wheel's programs, or the one that JUDGIFY_TEST_DATABASE_URL names.

A server of our own listens on 127.0.0.1 too, so that a proxy can stand before it. Each test that changes more than its
own tenant's rows takes a database of its own; it brings its own slot name, because slots belong to the whole server.
"""

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psycopg2

from judgify_engine.store import embedded
from judgify_engine.store.tokens import hash_of
from support.ports import free_port
from support.waiting import until

OVERRIDES = {"max_connections": "200", "max_replication_slots": "40", "max_wal_senders": "40", "shared_buffers": "128MB"}
ALL_SCOPES = ("execute", "read", "admin")


class Server:
    """One PostgreSQL server of our own, which a test may stop, kill and start again."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._folder = folder
        self._postgres: embedded.EmbeddedPostgres | None = None
        self.cluster = Cluster(f"postgresql://postgres@127.0.0.1:{self.port}/postgres?sslmode=disable")

    def start(self) -> "Server":
        """Start it. Only from the main thread: the kernel stops it when the thread that started it ends."""
        with _settings({**OVERRIDES, "listen_addresses": "127.0.0.1", "port": str(self.port)}):
            self._postgres = embedded.EmbeddedPostgres(self._folder)
            self._postgres.start()
        return self

    def stop(self) -> None:
        """Stop it cleanly; may be called twice."""
        if self._postgres is not None:
            self._postgres.stop()
            self._postgres = None

    @property
    def pid(self) -> int:
        assert self._postgres is not None
        pid = self._postgres.postmaster_pid()
        assert pid is not None
        return pid


@contextlib.contextmanager
def _settings(settings: dict[str, str]) -> Iterator[None]:
    before = dict(embedded.SETTINGS)
    embedded.SETTINGS.update(settings)
    try:
        yield
    finally:
        embedded.SETTINGS.clear()
        embedded.SETTINGS.update(before)


class Cluster:
    """A server where databases can be made; `dsn` names one of them, for administration."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def dsn_of(self, database: str) -> str:
        return urlunsplit(urlsplit(self.dsn)._replace(path=f"/{database}"))

    def run(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run SQL outside any transaction; return the rows."""
        connection = psycopg2.connect(self.dsn)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql, values or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def server(self) -> str:
        """What it is, for people: its version, and that of TimescaleDB where that can be used."""
        version = self.run("SHOW server_version")[0][0]
        return f"PostgreSQL {version}" + (f", TimescaleDB {self.timescale()}" if self.timescale() else "")

    def timescale(self) -> str | None:
        """The version of TimescaleDB that the engine will use in a new database; None: plain tables."""
        rows = self.run(
            "SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb'"
            " AND EXISTS (SELECT FROM pg_settings WHERE name = 'timescaledb.disable_load')"
        )
        return str(rows[0][0]) if rows else None

    def make(self) -> "Database":
        """A new, empty database."""
        name = f"judgify_{secrets.token_hex(6)}"
        self.run(f"CREATE DATABASE {name}")
        return Database(self, name)


class Database:
    """One database of a cluster, the slot that belongs to it, and a few ways to look into it."""

    def __init__(self, cluster: Cluster, name: str, slot: str | None = None) -> None:
        self.cluster, self.name = cluster, name
        self.rollups: Database | None = None
        """Where the rollups are, if not here."""
        self.plain = False
        """Whether the rollups are in plain tables also where TimescaleDB is there."""
        self.dsn = cluster.dsn_of(name)
        self.slot = slot or f"{name}_cdc"

    def drop(self) -> None:
        """Remove it and its slot, whoever is still connected."""
        self.cluster.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", self.name)
        for _ in range(100):
            rows = self.cluster.run("SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s", self.name)
            if not rows:
                break
            for slot, pid in rows:
                if pid is not None:
                    self.cluster.run("SELECT pg_terminate_backend(%s, 1000)", pid)
                with contextlib.suppress(psycopg2.Error):
                    self.cluster.run("SELECT pg_drop_replication_slot(%s)", slot)
        self.cluster.run(f"DROP DATABASE {self.name} WITH (FORCE)")

    async def connect(self) -> "asyncpg.Connection[Any]":
        """A connection; the caller closes it."""
        return await asyncpg.connect(self.dsn, timeout=10)

    async def connect_rollups(self) -> "asyncpg.Connection[Any]":
        """A connection to where the rollups are."""
        return await (self.rollups or self).connect()

    async def rows(self, sql: str, *values: Any) -> list[Any]:
        connection = await self.connect()
        try:
            return list(await connection.fetch(sql, *values, timeout=60))
        finally:
            await connection.close()

    async def value(self, sql: str, *values: Any) -> Any:
        rows = await self.rows(sql, *values)
        return rows[0][0] if rows else None

    async def do(self, sql: str, *values: Any) -> str:
        """Run SQL; without values it may be several statements."""
        connection = await self.connect()
        try:
            return str(await connection.execute(sql, *values, timeout=60))
        finally:
            await connection.close()

    async def token(self, tenant_id: str, *scopes: str) -> str:
        """A token of a tenant, with all scopes if none is named."""
        token = f"jt_{secrets.token_urlsafe(32)}"
        await self.do(
            "INSERT INTO api_tokens (token_id, token_hash, tenant_id, name, scopes) VALUES ($1, $2, $3, 'test', $4)",
            secrets.token_hex(6),
            hash_of(token),
            tenant_id,
            list(scopes or ALL_SCOPES),
        )
        return token

    async def settle(self, within_s: float = 30.0) -> None:
        """Wait until everything committed before this call is in the rollups.

        A row in `action_executions` is a change that moves the position and counts nowhere.
        """
        lsn = await self.value("SELECT pg_current_wal_insert_lsn()::text")
        await self.do("INSERT INTO action_executions (tenant_id, judgment_id, action, status)"
                      " VALUES ('marker', gen_random_uuid(), 'marker', 'done')")  # fmt: skip
        await until(
            lambda: (self.rollups or self).value(
                "SELECT commit_lsn >= $2::text::pg_lsn FROM cdc_positions WHERE slot_name = $1", self.slot, lsn
            ),
            f"the rollups have reached {lsn}",
            within_s,
        )
