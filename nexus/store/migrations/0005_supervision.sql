-- One table of port leases for all that runs, and the reason of a service's state as a code.

-- migrate: up
CREATE TABLE port_lease (
    port INTEGER PRIMARY KEY CHECK (port BETWEEN 1 AND 65535),
    owner_kind TEXT NOT NULL,  -- of the record: service, dependency
    owner TEXT NOT NULL,  -- its id
    purpose TEXT NOT NULL,  -- run: of the present run; tunnel: kept from run to run
    leased_at INTEGER NOT NULL,
    UNIQUE (owner_kind, owner, purpose)
);
INSERT INTO port_lease (port, owner_kind, owner, purpose, leased_at)
    SELECT active_port, 'service', id, 'run', state_at FROM service WHERE active_port IS NOT NULL;
-- A tunnel that is down may have kept a port that a service has leased since.
UPDATE service_dependency SET tunnel_port = NULL
    WHERE tunnel_run_id IS NULL AND tunnel_port IN (SELECT port FROM port_lease);
INSERT INTO port_lease (port, owner_kind, owner, purpose, leased_at)
    SELECT tunnel_port, 'dependency', id, 'tunnel', created_at FROM service_dependency
    WHERE tunnel_port IS NOT NULL AND tunnel_port NOT IN (SELECT port FROM port_lease);
DROP INDEX idx_service_active_port;
DROP INDEX idx_service_dependency_tunnel_port;

ALTER TABLE service ADD COLUMN reason_code TEXT;
UPDATE service SET reason_code = 'files_deleted'
    WHERE reason = 'its files were deleted: what is left of it is being ended';
UPDATE service SET reason_code = 'dependency_lost' WHERE status = 'running' AND reason LIKE 'lost "%';
UPDATE service SET reason_code = 'dependency_back'
    WHERE reason_code = 'dependency_lost' AND reason LIKE '%; it is back';

-- migrate: down
ALTER TABLE service DROP COLUMN reason_code;
CREATE UNIQUE INDEX idx_service_active_port ON service (active_port) WHERE active_port IS NOT NULL;
CREATE UNIQUE INDEX idx_service_dependency_tunnel_port ON service_dependency (tunnel_port) WHERE tunnel_port IS NOT NULL;
DROP TABLE port_lease;
