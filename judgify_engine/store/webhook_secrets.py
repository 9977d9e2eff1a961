"""The secrets that a tenant's webhooks are signed with: made at first use, shown once, replaced with a day of both."""

import base64
import secrets
from datetime import datetime
from typing import Any, NamedTuple

from judgify_engine.store.pool import Database

BOTH_SIGN_S = 86_400
SECRET_BYTES = 32

_MAKE = """
INSERT INTO webhook_secrets (tenant_id, secret) VALUES ($1, $2) ON CONFLICT (tenant_id) WHERE retired_at IS NULL DO NOTHING
"""
_SIGNING = """
SELECT secret FROM webhook_secrets WHERE tenant_id = $1 AND (retired_at IS NULL OR retired_at > now()) ORDER BY id DESC
"""
# One that was retired before signs no longer than it was told.
_RETIRE = """
UPDATE webhook_secrets SET retired_at = clock_timestamp() + make_interval(secs => $2)
 WHERE tenant_id = $1 AND retired_at IS NULL
"""
_SHOW = """
UPDATE webhook_secrets SET shown_at = clock_timestamp() WHERE tenant_id = $1 AND retired_at IS NULL AND shown_at IS NULL
RETURNING secret
"""


class Shown(NamedTuple):
    """`secret`: None where it was shown before, `at`."""

    secret: str | None
    at: datetime | None


def new_secret() -> str:
    """As Standard Webhooks writes it."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


async def signing_secrets(connection: Any, tenant_id: str) -> tuple[str, ...]:
    """What signs now, the newest first; the first one is made where there is none."""
    await connection.execute(_MAKE, tenant_id, new_secret())
    return tuple(row["secret"] for row in await connection.fetch(_SIGNING, tenant_id))


class WebhookSecrets:
    """For the command that shows them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def show(self, tenant_id: str, *, rotate: bool = False) -> Shown:
        """The current secret, made where there is none or where it is to be replaced. It is given out once."""
        async with self._database.query() as connection, connection.transaction():
            if rotate:
                await connection.execute(_RETIRE, tenant_id, BOTH_SIGN_S)
            await connection.execute(_MAKE, tenant_id, new_secret())
            secret = await connection.fetchval(_SHOW, tenant_id)
            at = await connection.fetchval(
                "SELECT shown_at FROM webhook_secrets WHERE tenant_id = $1 AND retired_at IS NULL", tenant_id
            )
        return Shown(secret, at)
