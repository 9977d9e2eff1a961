"""Alert rules, sinks and silences in PostgreSQL. A trigger numbers the versions of rules, whoever writes (see sql/0013)."""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import asyncpg
import msgspec

from judgify_engine.core.alert_rules import MAX_RULES
from judgify_engine.core.alert_sinks import MAX_SINKS
from judgify_engine.errors import InvalidField
from judgify_engine.pipeline.alert_loop import StoredRule
from judgify_engine.store.limits import one_writer
from judgify_engine.store.pool import Database
from judgify_engine.wire.alerts import decode_stored_rule

log = logging.getLogger(__name__)

MAX_SILENCES = 500
SHOWN_AFTER_END = "interval '1 day'"
_VERSIONS = "SELECT tenant_id, rule_id, version FROM alert_rules"
_DEFINITIONS = """
SELECT r.tenant_id, r.rule_id, r.version, r.definition::text FROM alert_rules AS r
  JOIN unnest($1::text[], $2::text[]) AS w(tenant_id, rule_id) USING (tenant_id, rule_id)
"""
_PUT = """
INSERT INTO alert_rules (tenant_id, rule_id, version, definition)
SELECT $1, $2, 0, $3::text::jsonb
 WHERE (SELECT count(*) FROM alert_rules WHERE tenant_id = $1 AND rule_id <> $2) < $4
ON CONFLICT (tenant_id, rule_id) DO UPDATE SET definition = excluded.definition
RETURNING version, definition::text, updated_at
"""
_PUT_SINK = """
INSERT INTO alert_sinks (tenant_id, sink_id, definition)
SELECT $1, $2, $3::text::jsonb WHERE (SELECT count(*) FROM alert_sinks WHERE tenant_id = $1 AND sink_id <> $2) < $4
ON CONFLICT (tenant_id, sink_id) DO UPDATE SET definition = excluded.definition, updated_at = clock_timestamp()
RETURNING sink_id, definition::text, updated_at, xmax = 0 AS made
"""
_PUT_SILENCE = """
INSERT INTO alert_silences (tenant_id, silence_id, rule_id, workflow_id, severity, starts_at, ends_at, comment, by)
SELECT $1, $2, $3, $4, $5, coalesce($6, now()), $7, $8, $9
 WHERE (SELECT count(*) FROM alert_silences WHERE tenant_id = $1 AND silence_id <> $2 AND ends_at > now()) < $10
ON CONFLICT (tenant_id, silence_id) DO UPDATE SET rule_id = excluded.rule_id, workflow_id = excluded.workflow_id,
  severity = excluded.severity, starts_at = excluded.starts_at, ends_at = excluded.ends_at, comment = excluded.comment,
  by = excluded.by, updated_at = clock_timestamp()
RETURNING *, starts_at <= now() AND ends_at > now() AS active, xmax = 0 AS made
"""
_SILENCES = f"""
SELECT *, starts_at <= now() AND ends_at > now() AS active FROM alert_silences
 WHERE tenant_id = $1 AND CASE WHEN $2::text IS NULL THEN ends_at > now() - {SHOWN_AFTER_END} ELSE silence_id = $2 END
 ORDER BY ends_at DESC, silence_id LIMIT {2 * MAX_SILENCES}
"""


class RuleRow(NamedTuple):
    """One version as it is stored; `definition` is JSON."""

    rule_id: str
    version: int
    definition: str
    updated_at: Any


class AlertRuleStore:
    """Each call but `all_rules` within one tenant. All raise DatabaseUnavailable or Overloaded."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[tuple[str, str], tuple[int, StoredRule | None]] = {}

    async def all_rules(self) -> Sequence[StoredRule]:
        """Those of all tenants; only versions that are not known yet are read."""
        async with self._database.query(may_be_slow=True) as connection:
            current = {(row[0], row[1]): row[2] for row in await connection.fetch(_VERSIONS)}
            unknown = [key for key, version in current.items() if self._known.get(key, (None,))[0] != version]
            if unknown:
                columns = [key[0] for key in unknown], [key[1] for key in unknown]
                for tenant_id, rule_id, version, definition in await connection.fetch(_DEFINITIONS, *columns):
                    self._known[tenant_id, rule_id] = version, _decoded(tenant_id, rule_id, version, definition)
        for key in self._known.keys() - current.keys():
            del self._known[key]
        return [rule for _, rule in self._known.values() if rule is not None]

    async def rules(self, tenant_id: str) -> list[RuleRow]:
        """The current versions, in the order of their ids."""
        async with self._database.query() as connection:
            rows = await connection.fetch(
                "SELECT rule_id, version, definition::text, updated_at FROM alert_rules WHERE tenant_id = $1 ORDER BY rule_id",
                tenant_id,
            )
        return [RuleRow(*row) for row in rows]

    async def rule(self, tenant_id: str, rule_id: str, version: int | None = None) -> RuleRow | None:
        """The current version, or the one asked for (also of a deleted rule)."""
        sql = "SELECT rule_id, version, definition::text, updated_at FROM alert_rules WHERE tenant_id = $1 AND rule_id = $2"
        arguments: tuple[Any, ...] = (tenant_id, rule_id)
        if version is not None:
            sql = sql.replace("updated_at", "created_at").replace("alert_rules", "alert_rule_versions") + " AND version = $3"
            arguments = (*arguments, version)
        async with self._database.query() as connection:
            row = await connection.fetchrow(sql, *arguments)
        return None if row is None else RuleRow(*row)

    async def put_rule(self, tenant_id: str, rule_id: str, definition: str) -> RuleRow:
        """Store a new version. Raises InvalidField: there are too many."""
        async with one_writer(self._database, "alert_rules", tenant_id) as connection:
            row = await connection.fetchrow(_PUT, tenant_id, rule_id, definition, MAX_RULES)
        if row is None:
            raise InvalidField(f"rule_id: a tenant has at most {MAX_RULES} alert rules", field="rule_id", limit=MAX_RULES)
        return RuleRow(rule_id, *row)

    async def delete_rule(self, tenant_id: str, rule_id: str) -> bool:
        """Remove it; its versions are kept for the alerts that name them. False: there was none."""
        return await self._delete("DELETE FROM alert_rules WHERE tenant_id = $1 AND rule_id = $2", tenant_id, rule_id)

    async def states(self, tenant_id: str) -> list[Any]:
        """How it stands with each cause."""
        async with self._database.query() as connection:
            found: list[Any] = await connection.fetch(
                "SELECT rule_id, workflow_id, state->>'phase' AS phase, reason FROM alert_states WHERE tenant_id = $1"
                " ORDER BY rule_id, workflow_id LIMIT 1000",
                tenant_id,
            )
        return found

    async def sinks(self, tenant_id: str, sink_id: str | None = None) -> list[Any]:
        """All of a tenant, or one."""
        async with self._database.query() as connection:
            found: list[Any] = await connection.fetch(
                "SELECT sink_id, definition::text, updated_at FROM alert_sinks"
                " WHERE tenant_id = $1 AND ($2::text IS NULL OR sink_id = $2) ORDER BY sink_id",
                tenant_id,
                sink_id,
            )
        return found

    async def put_sink(self, tenant_id: str, sink_id: str, definition: str) -> Any:
        """Store it. Raises InvalidField: there are too many."""
        async with one_writer(self._database, "alert_sinks", tenant_id) as connection:
            row = await connection.fetchrow(_PUT_SINK, tenant_id, sink_id, definition, MAX_SINKS)
        if row is None:
            raise InvalidField(f"sink_id: a tenant has at most {MAX_SINKS} alert sinks", field="sink_id", limit=MAX_SINKS)
        return row

    async def delete_sink(self, tenant_id: str, sink_id: str) -> bool:
        """False: there was none."""
        return await self._delete("DELETE FROM alert_sinks WHERE tenant_id = $1 AND sink_id = $2", tenant_id, sink_id)

    async def silences(self, tenant_id: str, silence_id: str | None = None) -> list[Any]:
        """Those that are not over for long, or one."""
        async with self._database.query() as connection:
            found: list[Any] = await connection.fetch(_SILENCES, tenant_id, silence_id)
        return found

    async def put_silence(self, tenant_id: str, silence_id: str, values: Sequence[Any]) -> Any:
        """`values`: rule, workflow, severity, from, to, comment, by. Raises InvalidField."""
        try:
            async with one_writer(self._database, "alert_silences", tenant_id) as connection:
                row = await connection.fetchrow(_PUT_SILENCE, tenant_id, silence_id, *values, MAX_SILENCES)
        except asyncpg.CheckViolationError as error:
            raise InvalidField("ends_at must lie after starts_at (absent: now)", field="ends_at") from error
        if row is None:
            detail = f"silence_id: a tenant has at most {MAX_SILENCES} silences that are not over"
            raise InvalidField(detail, field="silence_id", limit=MAX_SILENCES)
        return row

    async def delete_silence(self, tenant_id: str, silence_id: str) -> bool:
        """False: there was none."""
        sql = "DELETE FROM alert_silences WHERE tenant_id = $1 AND silence_id = $2"
        return await self._delete(sql, tenant_id, silence_id)

    async def _delete(self, sql: str, *values: Any) -> bool:
        async with self._database.query() as connection:
            return bool(await connection.execute(sql, *values) != "DELETE 0")


def _decoded(tenant_id: str, rule_id: str, version: int, definition: str) -> StoredRule | None:
    """None: it was written by hand, and is wrong."""
    try:
        return StoredRule(tenant_id, rule_id, version, decode_stored_rule(definition))
    except msgspec.MsgspecError as error:
        facts = {"tenant": tenant_id, "rule": rule_id, "reason": str(error)}
        log.warning("a stored alert rule cannot be read and is passed over", extra=facts)
        return None
