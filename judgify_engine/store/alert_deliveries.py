"""The outbox of alerts: leased, attempted, recorded."""

from collections.abc import Collection, Sequence

from judgify_engine.pipeline.alert_deliveries import AlertDelivery, Delivered
from judgify_engine.store.pool import Database
from judgify_engine.store.webhook_secrets import signing_secrets

# To Alertmanager the severity is a label, so what became critical is another alert: until it is told of that one, it is told
# again of the one before (`later`), and then, once, that the one before is over (`ended`). What is over is so for what it was
# told of last: of the one before, where it was silent since; of both, where it is not known to have heard.
# One for each sink, the oldest first: what fires before what is resolved. Tenants take turns.
_CLAIM = """
WITH busy AS (SELECT * FROM unnest($5::text[], $6::text[]) AS b(tenant_id, sink_id)),
first AS (
  SELECT DISTINCT ON (d.tenant_id, d.sink_id) d.id, d.tenant_id, d.due_at
    FROM alert_deliveries AS d
   WHERE (d.state = 'waiting' OR d.repeats) AND d.due_at <= clock_timestamp()
     AND NOT EXISTS (SELECT FROM busy AS b WHERE b.tenant_id = d.tenant_id AND b.sink_id = d.sink_id)
     AND NOT EXISTS (
       SELECT FROM alert_deliveries AS e
        WHERE e.alert_id = d.alert_id AND e.sink_id = d.sink_id AND e.state = 'waiting'
          AND CASE WHEN e.event = d.event THEN e.id < d.id ELSE e.event = 'firing' END)
   ORDER BY d.tenant_id, d.sink_id, d.due_at
),
fair AS (
  SELECT f.id, f.due_at, row_number() OVER (PARTITION BY f.tenant_id ORDER BY f.due_at)
         + (SELECT count(*) FROM busy AS b WHERE b.tenant_id = f.tenant_id) AS turn
    FROM first AS f
),
picked AS (SELECT id FROM fair WHERE turn <= $4 ORDER BY turn, due_at LIMIT $3),
taken AS (
  UPDATE alert_deliveries SET owner = $1, attempts = attempts + 1, due_at = clock_timestamp() + make_interval(secs => $2)
   WHERE id = ANY(ARRAY(SELECT id FROM picked)) RETURNING *
)
SELECT t.id AS delivery_id, t.sink_id, t.kind, t.event, t.attempts, t.repeats, t.alert_id, a.tenant_id, a.rule_id,
       a.rule_version, a.workflow_id, CASE WHEN later THEN a.severity_was ELSE a.severity END AS severity,
       CASE WHEN ended THEN a.severity_was END AS severity_ended, a.about, a.summary, a.reason, a.numbers::text AS numbers,
       a.started_at, a.fired_at, a.resolved_at, a.recorded_at, a.resolved_reason, a.resolved_numbers::text AS resolved_numbers,
       s.definition::text AS sink
  FROM taken AS t JOIN alerts AS a ON a.id = t.alert_id
  LEFT JOIN alert_sinks AS s ON s.tenant_id = t.tenant_id AND s.sink_id = t.sink_id
 CROSS JOIN LATERAL (
   SELECT CASE WHEN t.event = 'firing' THEN bool_or(e.id > t.id) ELSE count(*) > 1 AND max(newest) = 'silenced' END IS TRUE
            AS later,
          CASE WHEN t.event = 'firing' THEN bool_or(e.id < t.id) AND NOT t.repeats
               ELSE count(*) > 1 AND max(newest) NOT IN ('silenced', 'delivered') END IS TRUE AS ended
     FROM (SELECT id, first_value(state) OVER (ORDER BY id DESC) AS newest FROM alert_deliveries
            WHERE alert_id = t.alert_id AND sink_id = t.sink_id AND event = 'firing') AS e
    WHERE t.kind = 'alertmanager' AND a.severity_was IS NOT NULL) AS other
"""
# A success counts whoever tells it; all else only from the owner of the lease. Of what is over nothing is repeated.
_RECORD = """
WITH told AS (
  SELECT * FROM unnest($2::uuid[], $3::text[], $4::text[], $5::float8[], $6::bool[]) AS t(id, state, error, rest_s, repeats)
)
UPDATE alert_deliveries AS d
   SET state = told.state, last_error = told.error, owner = NULL, at = clock_timestamp(),
       due_at = clock_timestamp() + make_interval(secs => told.rest_s),
       repeats = told.repeats AND EXISTS (SELECT FROM alerts AS a WHERE a.id = d.alert_id AND a.state = 'firing')
  FROM told WHERE d.id = told.id AND (d.owner = $1 OR told.state = 'delivered')
"""
# What tells that it is critical is repeated in the place of what told of it before.
_OVERTAKEN = """
UPDATE alert_deliveries AS d SET repeats = false FROM alert_deliveries AS e
 WHERE e.id = ANY($1::uuid[]) AND e.repeats AND d.repeats AND d.alert_id = e.alert_id AND d.sink_id = e.sink_id AND d.id < e.id
"""
# It was under way when the alert became worse: what tells of that takes its place (see store/alert_states).
_REPLACED = """
DELETE FROM alert_deliveries AS d WHERE d.id = ANY($1::uuid[]) AND d.state = 'waiting' AND d.event = 'firing' AND EXISTS (
  SELECT FROM alert_deliveries AS e
   WHERE e.alert_id = d.alert_id AND e.sink_id = d.sink_id AND e.event = 'firing' AND e.id > d.id)
"""


class AlertOutbox:
    """What `pipeline/alert_deliveries` needs of the table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(
        self, owner: str, lease_s: float, free: int, per_tenant: int, busy: Collection[tuple[str, str]]
    ) -> list[AlertDelivery]:
        """Lease what is due, one for each sink that is not `busy`, no more than `per_tenant` of a tenant with those."""
        columns = [one[0] for one in busy], [one[1] for one in busy]
        async with self._database.query() as connection:
            rows = await connection.fetch(_CLAIM, owner, lease_s, free, per_tenant, *columns)
            signing = {row["tenant_id"] for row in rows if row["kind"] == "webhook"}
            secrets = {tenant_id: await signing_secrets(connection, tenant_id) for tenant_id in signing}
        return [
            AlertDelivery(
                id=row["delivery_id"],
                tenant_id=row["tenant_id"],
                sink_id=row["sink_id"],
                kind=row["kind"],
                event=row["event"],
                attempt=row["attempts"],
                repeated=row["repeats"],
                alert=row,
                sink=row["sink"],
                secrets=secrets.get(row["tenant_id"], ()),
            )
            for row in rows
        ]

    async def record(self, owner: str, finished: Sequence[Delivered]) -> None:
        """Record these, in one transaction."""
        waiting = [each.delivery.id for each in finished if each.state == "waiting"]
        repeated = [each.delivery.id for each in finished if each.repeats]
        async with self._database.query() as connection, connection.transaction():
            await connection.execute(
                _RECORD,
                owner,
                [each.delivery.id for each in finished],
                [each.state for each in finished],
                [each.error for each in finished],
                [each.rest_s for each in finished],
                [each.repeats for each in finished],
            )
            if waiting:
                await connection.execute(_REPLACED, waiting)
            if repeated:
                await connection.execute(_OVERTAKEN, repeated)
