-- Nodes that jobs run on: how they are reached, and what was found there.

-- migrate: up
ALTER TABLE nodes RENAME TO old_nodes;
CREATE TABLE nodes (
    id TEXT PRIMARY KEY,  -- the name: jobs keep it when the node is removed
    name TEXT NOT NULL UNIQUE,
    managed_by TEXT,
    hostname TEXT NOT NULL,  -- what ssh is told
    user TEXT,
    port INTEGER CHECK (port BETWEEN 1 AND 65535),
    ip_address TEXT,
    status TEXT NOT NULL CHECK (status IN ('online', 'offline')),
    reason TEXT,
    drained INTEGER NOT NULL DEFAULT 0 CHECK (drained IN (0, 1)),
    capabilities TEXT NOT NULL DEFAULT '{}',  -- JSON, an object
    last_heartbeat INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    revision INTEGER NOT NULL DEFAULT 1,
    state_revision INTEGER NOT NULL DEFAULT 0
);
INSERT INTO nodes (
    id, name, hostname, ip_address, status, capabilities, last_heartbeat, created_at, updated_at
) SELECT id, id, hostname, ip_address, status, capabilities, last_heartbeat, created_at, created_at FROM old_nodes;
DROP TABLE old_nodes;
CREATE INDEX idx_nodes_status ON nodes (status, name);

-- The next jobs of a group on each node: what waits for one is in no other's way.
DROP INDEX idx_jobs_next;
CREATE INDEX idx_jobs_next ON jobs (group_name, node_id, priority DESC, place)
    WHERE status = 'queued' AND waits_for = 0 AND not_before IS NULL;
CREATE INDEX idx_jobs_node ON jobs (node_id, seq) WHERE node_id <> 'local' AND completed_at IS NULL;

ALTER TABLE schedules ADD COLUMN node_id TEXT NOT NULL DEFAULT 'local';

-- migrate: refuse down
-- The older version would run them on this machine.
SELECT printf('the job %s of project %s is for node %s', number, projects.name, node_id)
    FROM jobs JOIN projects ON projects.id = project_id
    WHERE jobs.node_id <> 'local' AND jobs.completed_at IS NULL
UNION ALL
SELECT printf('the schedule %s of project %s is for node %s', schedules.name, projects.name, node_id)
    FROM schedules JOIN projects ON projects.id = project_id
    WHERE schedules.node_id <> 'local'
ORDER BY 1;

-- migrate: down
ALTER TABLE schedules DROP COLUMN node_id;
DROP INDEX idx_jobs_node;
DROP INDEX idx_jobs_next;
CREATE INDEX idx_jobs_next ON jobs (group_name, priority DESC, place)
    WHERE status = 'queued' AND waits_for = 0 AND not_before IS NULL;
ALTER TABLE nodes RENAME TO new_nodes;
CREATE TABLE nodes (
    id TEXT PRIMARY KEY,
    hostname TEXT NOT NULL,
    ip_address TEXT,
    status TEXT NOT NULL CHECK (status IN ('online', 'offline')),
    capabilities TEXT NOT NULL DEFAULT '{}',  -- JSON, an object
    last_heartbeat INTEGER,
    created_at INTEGER NOT NULL
);
INSERT INTO nodes (id, hostname, ip_address, status, capabilities, last_heartbeat, created_at)
    SELECT id, hostname, ip_address, status, capabilities, last_heartbeat, created_at FROM new_nodes;
DROP TABLE new_nodes;
CREATE INDEX idx_nodes_status ON nodes (status);
