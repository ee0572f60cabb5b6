-- What every record type has: how often its configuration and its state were changed, and tags as rows. A list that is
-- filtered by one field finds its records by an index in the order of the list. Dependents are deleted explicitly.

-- migrate: up
ALTER TABLE vms ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
ALTER TABLE vms ADD COLUMN state_revision INTEGER NOT NULL DEFAULT 0;
DROP INDEX idx_vms_role;
DROP INDEX idx_vms_state;
CREATE INDEX idx_vms_role ON vms (role, created_at, id);
CREATE INDEX idx_vms_state ON vms (state, created_at, id);

ALTER TABLE service ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
ALTER TABLE service ADD COLUMN state_revision INTEGER NOT NULL DEFAULT 0;
DROP INDEX idx_service_status;
CREATE INDEX idx_service_status ON service (status, name);

CREATE TABLE tag (
    kind TEXT NOT NULL,  -- of the record: service
    tag TEXT NOT NULL,
    record_id TEXT NOT NULL,
    PRIMARY KEY (kind, tag, record_id)
) WITHOUT ROWID;
CREATE INDEX idx_tag_record ON tag (kind, record_id);
INSERT INTO tag (kind, tag, record_id)
    SELECT DISTINCT 'service', each.value, service.id FROM service, json_each(service.tags) AS each;

ALTER TABLE service_dependency RENAME TO old_dependency;
CREATE TABLE service_dependency (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    service_id TEXT NOT NULL REFERENCES service (id),
    dependent_service_id TEXT NOT NULL REFERENCES service (id),
    tunnel_enabled INTEGER NOT NULL DEFAULT 0 CHECK (tunnel_enabled IN (0, 1)),
    condition TEXT NOT NULL DEFAULT 'started' CHECK (condition IN ('started', 'healthy', 'completed')),
    when_lost TEXT NOT NULL DEFAULT 'ignore' CHECK (when_lost IN ('ignore', 'restart', 'stop')),
    tunnel_port INTEGER,  -- kept from run to run
    tunnel_run_id TEXT,  -- of the tunnel's process, while there is one
    created_at INTEGER NOT NULL,
    UNIQUE (service_id, dependent_service_id),
    CHECK (service_id <> dependent_service_id)
);
INSERT INTO service_dependency (
        id, service_id, dependent_service_id, tunnel_enabled, condition, when_lost, tunnel_port, tunnel_run_id, created_at
    )
    SELECT id, service_id, dependent_service_id, tunnel_enabled, condition, when_lost, tunnel_port, tunnel_run_id, created_at
    FROM old_dependency;
-- An id is never used twice: tunnels are named by it.
DELETE FROM sqlite_sequence WHERE name = 'service_dependency';
INSERT INTO sqlite_sequence (name, seq)
    SELECT 'service_dependency', seq FROM sqlite_sequence WHERE name = 'old_dependency';
DROP TABLE old_dependency;
CREATE INDEX idx_service_dependency_dependent ON service_dependency (dependent_service_id);

-- migrate: down
ALTER TABLE service_dependency RENAME TO old_dependency;
CREATE TABLE service_dependency (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    service_id TEXT NOT NULL REFERENCES service (id) ON DELETE CASCADE,
    dependent_service_id TEXT NOT NULL REFERENCES service (id) ON DELETE RESTRICT,
    tunnel_enabled INTEGER NOT NULL DEFAULT 0 CHECK (tunnel_enabled IN (0, 1)),
    condition TEXT NOT NULL DEFAULT 'started' CHECK (condition IN ('started', 'healthy', 'completed')),
    when_lost TEXT NOT NULL DEFAULT 'ignore' CHECK (when_lost IN ('ignore', 'restart', 'stop')),
    tunnel_port INTEGER,  -- kept from run to run
    tunnel_run_id TEXT,  -- of the tunnel's process, while there is one
    created_at INTEGER NOT NULL,
    UNIQUE (service_id, dependent_service_id),
    CHECK (service_id <> dependent_service_id)
);
INSERT INTO service_dependency (
        id, service_id, dependent_service_id, tunnel_enabled, condition, when_lost, tunnel_port, tunnel_run_id, created_at
    )
    SELECT id, service_id, dependent_service_id, tunnel_enabled, condition, when_lost, tunnel_port, tunnel_run_id, created_at
    FROM old_dependency;
-- An id is never used twice: tunnels are named by it.
DELETE FROM sqlite_sequence WHERE name = 'service_dependency';
INSERT INTO sqlite_sequence (name, seq)
    SELECT 'service_dependency', seq FROM sqlite_sequence WHERE name = 'old_dependency';
DROP TABLE old_dependency;
CREATE INDEX idx_service_dependency_dependent ON service_dependency (dependent_service_id);
DROP TABLE tag;
DROP INDEX idx_service_status;
CREATE INDEX idx_service_status ON service (status);
ALTER TABLE service DROP COLUMN state_revision;
ALTER TABLE service DROP COLUMN revision;

DROP INDEX idx_vms_role;
DROP INDEX idx_vms_state;
CREATE INDEX idx_vms_role ON vms(role);
CREATE INDEX idx_vms_state ON vms(state);
ALTER TABLE vms DROP COLUMN state_revision;
ALTER TABLE vms DROP COLUMN revision;
