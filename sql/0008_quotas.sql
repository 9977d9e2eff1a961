-- What a tenant may use of the engine; NULL: as the settings say ([quota]), 0: as much as there is.
CREATE TABLE tenant_quotas (
  tenant_id      text             PRIMARY KEY,
  requests_per_s double precision CHECK (requests_per_s >= 0 AND requests_per_s < 'Infinity'),
  bytes_per_s    double precision CHECK (bytes_per_s >= 0 AND bytes_per_s < 'Infinity'),
  sockets        integer          CHECK (sockets >= 0),
  updated_at     timestamptz      NOT NULL DEFAULT now()
);
