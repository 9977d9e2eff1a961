"""Tokens, sessions of the page and one-time codes: all random, all kept as hashes only."""

import hashlib
import secrets
from datetime import datetime
from typing import Any

from judgify_engine.core.quota import UNBOUNDED, Quota
from judgify_engine.pipeline.access import Grant
from judgify_engine.store.pool import Database

CODE_TTL_S = 3600


def hash_of(secret: str) -> bytes:
    """SHA-256. The secrets are 256 random bits, so a slow hash would only be slow."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


_QUOTA = """coalesce(q.requests_per_s, $2::float8) AS requests_per_s, coalesce(q.bytes_per_s, $3::float8) AS bytes_per_s,
 coalesce(q.sockets, $4::int) AS sockets"""


def _grant(row: Any) -> Grant:
    quota = Quota(row["requests_per_s"], row["bytes_per_s"], row["sockets"])
    return Grant(row["tenant_id"], frozenset(row["scopes"]), row["token_id"], quota)


class TokenStore:
    """Who may do what, in PostgreSQL."""

    def __init__(self, database: Database, default: Quota = UNBOUNDED) -> None:
        """`default`: of tenants that have no quota of their own."""
        self._database, self._default = database, default

    async def create(self, tenant_id: str, name: str, scopes: list[str], expires_at: datetime | None) -> tuple[str, str]:
        """Make a token; return its id and the token itself, which is nowhere kept."""
        token_id, secret = secrets.token_hex(6), f"jt_{secrets.token_urlsafe(32)}"
        async with self._database.query() as connection:
            await connection.execute(
                "INSERT INTO api_tokens (token_id, token_hash, tenant_id, name, scopes, expires_at)"
                " VALUES ($1, $2, $3, $4, $5, $6)",
                token_id,
                hash_of(secret),
                tenant_id,
                name,
                scopes,
                expires_at,
            )
        return token_id, secret

    async def list(self) -> list[Any]:
        """All tokens, newest first, without their hashes."""
        async with self._database.query() as connection:
            return list(
                await connection.fetch(
                    "SELECT token_id, tenant_id, name, scopes, created_at, expires_at, revoked_at FROM api_tokens"
                    " ORDER BY created_at DESC, token_id"
                )
            )

    async def revoke(self, token_id: str) -> bool:
        """Revoke a token and the sessions opened with it. False: there is no such token, or it is revoked already."""
        async with self._database.query() as connection, connection.transaction():
            done = await connection.execute(
                "UPDATE api_tokens SET revoked_at = now() WHERE token_id = $1 AND revoked_at IS NULL", token_id
            )
            await connection.execute("DELETE FROM page_sessions WHERE token_id = $1", token_id)
        return bool(done == "UPDATE 1")

    async def find(self, secret: str) -> Grant | None:
        """What a token grants, now."""
        async with self._database.query() as connection:
            row = await connection.fetchrow(
                f"SELECT tenant_id, scopes, token_id, {_QUOTA} FROM api_tokens LEFT JOIN tenant_quotas AS q USING (tenant_id)"
                " WHERE token_hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())",
                hash_of(secret),
                *self._default,
            )
        return None if row is None else _grant(row)

    async def find_session(self, secret: str) -> Grant | None:
        """What a session's cookie grants, now. An expired token ends its sessions."""
        async with self._database.query() as connection:
            row = await connection.fetchrow(
                f"SELECT s.tenant_id, s.scopes, s.token_id, {_QUOTA} FROM page_sessions AS s"
                " LEFT JOIN api_tokens AS t USING (token_id) LEFT JOIN tenant_quotas AS q ON q.tenant_id = s.tenant_id"
                " WHERE s.session_hash = $1 AND s.expires_at > now() AND (t.expires_at IS NULL OR t.expires_at > now())",
                hash_of(secret),
                *self._default,
            )
        return None if row is None else _grant(row)

    async def quota_of(self, tenant_id: str) -> Quota:
        """What a tenant may use, now."""
        async with self._database.query() as connection:
            sql = f"SELECT {_QUOTA} FROM (SELECT) AS one LEFT JOIN tenant_quotas AS q ON q.tenant_id = $1"
            row = await connection.fetchrow(sql, tenant_id, *self._default)
        return Quota(*row)

    async def open_session(self, grant: Grant, ttl_s: float) -> str:
        """Sign in: returns the cookie's secret. Forgets expired sessions on the way."""
        secret = secrets.token_urlsafe(32)
        async with self._database.query() as connection:
            await connection.execute("DELETE FROM page_sessions WHERE expires_at < now()")
            await connection.execute(
                "INSERT INTO page_sessions (session_hash, tenant_id, scopes, token_id, expires_at)"
                " VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))",
                hash_of(secret),
                grant.tenant_id,
                sorted(grant.scopes),
                grant.token_id,
                ttl_s,
            )
        return secret

    async def close_session(self, secret: str) -> None:
        """Sign out."""
        async with self._database.query() as connection:
            await connection.execute("DELETE FROM page_sessions WHERE session_hash = $1", hash_of(secret))

    async def make_code(self, tenant_id: str) -> str:
        """A code that opens the page once, within an hour. The codes of earlier starts stop being valid."""
        code = secrets.token_urlsafe(16)
        async with self._database.query() as connection, connection.transaction():
            await connection.execute("DELETE FROM page_codes")
            await connection.execute(
                "INSERT INTO page_codes VALUES ($1, $2, now() + make_interval(secs => $3))",
                hash_of(code),
                tenant_id,
                CODE_TTL_S,
            )
        return code

    async def use_code(self, code: str) -> Grant | None:
        """What a code grants (its tenant, to whom the server's terminal is open); it is used up."""
        async with self._database.query() as connection:
            row = await connection.fetchrow(
                "DELETE FROM page_codes WHERE code_hash = $1 RETURNING tenant_id, expires_at > now() AS valid",
                hash_of(code),
            )
        return Grant(row["tenant_id"], frozenset(("read", "admin")), None) if row and row["valid"] else None
