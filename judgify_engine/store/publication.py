"""What the database publishes to the stream, and changes that the stream is not to hear of.

A publication that somebody else altered may have hidden changes, and that shows in its fingerprint, also when it was altered
back. What the engine hides on purpose, in one transaction, leaves the fingerprint as it was.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from judgify_engine.core.healing import Publication
from judgify_engine.errors import Unavailable

TABLE = "judgment_executions"
NAME = "judgify_cdc"
WHOLE = (TABLE, "action_executions", "workflows")
"""Published with all their columns."""
_CREATE = """
CREATE PUBLICATION {name} FOR TABLE {whole},
  judgment_quarantine (id, tenant_id, workflow_id, kind, source, repeated, created_at) WITH (publish_via_partition_root = true)
"""
# xmin changes whenever a row of the catalogue does; so what was altered, and altered back, shows too.
_LOOK = """
WITH now AS (
  SELECT p.oid || '.' || p.xmin || '/' || p.pubowner || ':' || coalesce((
           SELECT string_agg(r.oid || '.' || r.xmin || '.' || r.prrelid, ',' ORDER BY r.oid)
             FROM pg_publication_rel AS r WHERE r.prpubid = p.oid), '') AS fingerprint,
         p.pubviaroot, p.puballtables, p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate AS all_kinds,
         ARRAY(SELECT prrelid::regclass::text FROM pg_publication_rel AS r
                WHERE r.prpubid = p.oid AND r.prqual IS NULL AND r.prattrs IS NULL) AS whole,
         EXISTS (SELECT FROM pg_publication_rel AS r
                  WHERE r.prpubid = p.oid AND r.prqual IS NULL AND r.prrelid = 'judgment_quarantine'::regclass) AS quarantine
    FROM pg_publication AS p WHERE p.pubname = $1
)
SELECT now.*, coalesce(ours.fingerprint, now.fingerprint) AS known_as
  FROM now LEFT JOIN judgment_publication AS ours ON ours.altered = now.fingerprint
"""
_REMEMBER = """
INSERT INTO judgment_publication (fingerprint, altered) VALUES ($1, $2)
ON CONFLICT (single) DO UPDATE SET fingerprint = excluded.fingerprint, altered = excluded.altered
"""


async def look(connection: Any, name: str) -> Publication:
    """What is published, and what is wrong with it."""
    row = await connection.fetchrow(_LOOK, name)
    if row is None:
        return Publication("", "it is missing")
    lacking = [table for table in WHOLE if table not in row["whole"]]
    wrong = None
    if row["puballtables"]:
        wrong = "it is for all tables"
    elif lacking:
        wrong = f"it lacks {', '.join(lacking)}, or a part of it"
    elif not row["quarantine"]:
        wrong = "it lacks judgment_quarantine"
    elif not row["pubviaroot"]:
        wrong = "it lacks publish_via_partition_root"
    elif not row["all_kinds"]:
        wrong = "it does not publish inserts, updates, deletes and truncates"
    return Publication(row["known_as"], wrong)


async def make(connection: Any, name: str) -> None:
    """Make it anew; in a transaction."""
    await connection.execute(f"DROP PUBLICATION IF EXISTS {name}")
    await connection.execute(_CREATE.format(name=name, whole=", ".join(WHOLE)))


@contextlib.asynccontextmanager
async def unpublished(connection: Any, name: str = NAME) -> AsyncIterator[None]:
    """What this transaction changes in the judgments in here, the stream never hears of: they leave it and come back.

    Others do not notice: the log is read with the catalogs as each transaction sees them, and no other one sees this.
    Raises Unavailable where somebody gave the publication a filter or a list of columns, or took the judgments out of it.
    """
    before = await connection.fetchrow(_LOOK, name)
    if before is None or TABLE not in before["whole"]:
        raise Unavailable(f"the publication {name} does not name {TABLE}, or only a part of it")
    await connection.execute(f"ALTER PUBLICATION {name} DROP TABLE {TABLE}")
    yield
    await connection.execute(f"ALTER PUBLICATION {name} ADD TABLE {TABLE}")
    after = await connection.fetchrow(_LOOK, name)
    await connection.execute(_REMEMBER, before["known_as"], after["fingerprint"])
