-- Jobs with their groups, schedules and nodes; the numbers of records that have no name; terminals of services.

-- migrate: up
CREATE TABLE record_number (
    project_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    last INTEGER NOT NULL,  -- the highest number that was given
    PRIMARY KEY (project_id, kind)
) WITHOUT ROWID;

CREATE TABLE nodes (
    id TEXT PRIMARY KEY,
    hostname TEXT NOT NULL,
    ip_address TEXT,
    status TEXT NOT NULL CHECK (status IN ('online', 'offline')),
    capabilities TEXT NOT NULL DEFAULT '{}',  -- JSON, an object
    last_heartbeat INTEGER,
    created_at INTEGER NOT NULL
);
CREATE INDEX idx_nodes_status ON nodes (status);
INSERT INTO nodes (id, hostname, status, created_at) VALUES ('local', 'localhost', 'online', 0);

CREATE TABLE job_group (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    managed_by TEXT,
    slots INTEGER CHECK (slots BETWEEN 1 AND 10000),  -- for each node; NULL: one for each of its cores
    paused INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    revision INTEGER NOT NULL DEFAULT 1,
    state_revision INTEGER NOT NULL DEFAULT 0
);
INSERT INTO job_group (id, name, created_at, updated_at)
    VALUES ('00000000-0000-4000-8000-000000000300', 'default', 0, 0);

CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    project_id TEXT NOT NULL REFERENCES projects (id),
    conversation_id TEXT,
    message_id TEXT,
    node_id TEXT NOT NULL DEFAULT 'local',  -- stays when the node is removed
    tool TEXT NOT NULL DEFAULT 'bash',
    command TEXT NOT NULL,
    argv TEXT,  -- JSON, a list; NULL: the command is a line for the shell
    directory TEXT NOT NULL,
    environment TEXT,  -- JSON, an object; NULL: that of the daemon. Unset at the end
    stdin_data BLOB,  -- unset at the end
    stdin_path TEXT,
    stdin_open INTEGER NOT NULL DEFAULT 0 CHECK (stdin_open IN (0, 1)),
    tty INTEGER NOT NULL DEFAULT 0 CHECK (tty IN (0, 1)),
    service_id TEXT,  -- of which it is a one-off
    schedule_id TEXT,  -- that submitted it
    group_name TEXT NOT NULL DEFAULT 'default',
    priority INTEGER NOT NULL DEFAULT 0,
    place INTEGER NOT NULL,  -- the order among jobs of one priority
    label TEXT,
    tags TEXT NOT NULL DEFAULT '[]',
    metadata TEXT NOT NULL DEFAULT '{}',
    after TEXT NOT NULL DEFAULT '[]',  -- JSON: the jobs that must end first
    waits_for INTEGER NOT NULL DEFAULT 0,  -- how many of them have not ended
    not_before INTEGER,
    timeout_ms INTEGER,
    retries INTEGER NOT NULL DEFAULT 0,
    retry_backoff_ms INTEGER NOT NULL DEFAULT 1000,
    stop_signal TEXT NOT NULL DEFAULT 'SIGTERM',
    stop_grace_ms INTEGER NOT NULL DEFAULT 10000,
    memory_limit_mib INTEGER,
    cpu_limit_percent INTEGER,
    log_limit_mib INTEGER NOT NULL DEFAULT 16,
    status TEXT NOT NULL
        CHECK (status IN ('queued', 'stashed', 'executing', 'completed', 'failed', 'cancelled', 'unknown')),
    reason TEXT,
    reason_code TEXT,
    attempt INTEGER NOT NULL DEFAULT 1,
    retry_of TEXT,  -- the job that this one is a new attempt of
    run_id TEXT,  -- of the present run, written before its process exists
    pid INTEGER,
    exit_code INTEGER,
    exit_signal INTEGER,
    stdout TEXT,  -- the end of what it wrote
    stderr TEXT,
    output_bytes INTEGER,  -- of its log, once it has ended
    duration INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    started_at INTEGER,
    completed_at INTEGER,
    unknown_since INTEGER,
    space_id TEXT,
    lease_id TEXT,
    epoch INTEGER,
    operation_id INTEGER,  -- of the last change of its state
    revision INTEGER NOT NULL DEFAULT 1,
    state_revision INTEGER NOT NULL DEFAULT 0,
    UNIQUE (project_id, number)
);
CREATE INDEX idx_jobs_conversation_id ON jobs (conversation_id) WHERE conversation_id IS NOT NULL;
CREATE INDEX idx_jobs_status ON jobs (status, created_at, id);
CREATE INDEX idx_jobs_created_at ON jobs (created_at, id);
CREATE INDEX idx_jobs_project_status ON jobs (project_id, status, created_at, id);
CREATE INDEX idx_jobs_project_created ON jobs (project_id, created_at, id);
CREATE INDEX idx_jobs_group_created ON jobs (group_name, created_at, id);
CREATE INDEX idx_jobs_project_group ON jobs (project_id, group_name, created_at, id);
-- The next jobs of a group, and those whose time comes; what waits is in neither of a group's way.
CREATE INDEX idx_jobs_next ON jobs (group_name, priority DESC, place)
    WHERE status = 'queued' AND waits_for = 0 AND not_before IS NULL;
CREATE INDEX idx_jobs_due ON jobs (not_before) WHERE status = 'queued' AND not_before IS NOT NULL;
CREATE INDEX idx_jobs_output ON jobs (completed_at, output_bytes) WHERE output_bytes > 0;
CREATE INDEX idx_jobs_ended ON jobs (completed_at) WHERE completed_at IS NOT NULL;
CREATE INDEX idx_jobs_operation ON jobs (operation_id) WHERE operation_id IS NOT NULL;
CREATE INDEX idx_jobs_service ON jobs (service_id) WHERE service_id IS NOT NULL;
CREATE INDEX idx_jobs_schedule ON jobs (schedule_id, number) WHERE schedule_id IS NOT NULL AND completed_at IS NULL;

-- What queued and stashed jobs still wait for: the unsettled part of the column after.
CREATE TABLE job_after (
    job_id TEXT NOT NULL,
    after_id TEXT NOT NULL,
    condition TEXT NOT NULL CHECK (condition IN ('completed', 'any')),
    PRIMARY KEY (job_id, after_id)
) WITHOUT ROWID;
CREATE INDEX idx_job_after_after ON job_after (after_id);

CREATE TABLE schedules (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL REFERENCES projects (id),
    managed_by TEXT,
    name TEXT NOT NULL,
    cron TEXT,
    every_ms INTEGER CHECK (every_ms > 0),
    timezone TEXT,
    overlap TEXT NOT NULL DEFAULT 'skip' CHECK (overlap IN ('skip', 'queue', 'replace')),
    missed TEXT NOT NULL DEFAULT 'once' CHECK (missed IN ('once', 'skip')),
    paused INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
    tool TEXT NOT NULL DEFAULT 'bash',
    command TEXT NOT NULL,
    argv TEXT,
    directory TEXT NOT NULL,
    environment TEXT,  -- JSON, an object; NULL: that of the daemon
    variables TEXT,  -- JSON, an object: what its jobs have beside that
    variable_names TEXT NOT NULL DEFAULT '[]',  -- JSON: its names, so that a list never reads a value
    group_name TEXT NOT NULL DEFAULT 'default',
    priority INTEGER NOT NULL DEFAULT 0,
    label TEXT,
    tags TEXT NOT NULL DEFAULT '[]',
    timeout_ms INTEGER,
    retries INTEGER NOT NULL DEFAULT 0,
    retry_backoff_ms INTEGER NOT NULL DEFAULT 1000,
    next_at INTEGER,  -- by the wall clock; NULL: paused
    due_boot TEXT,  -- of every_ms: the boot in which the next time is due
    due_clock INTEGER,  -- and its time since that boot
    last_at INTEGER,  -- the time that was last acted on
    last_job_id TEXT,
    last_job_number INTEGER,
    reason TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    revision INTEGER NOT NULL DEFAULT 1,
    state_revision INTEGER NOT NULL DEFAULT 0,
    UNIQUE (project_id, name),
    CHECK ((cron IS NULL) <> (every_ms IS NULL))
);
CREATE INDEX idx_schedules_name ON schedules (name, id);
CREATE INDEX idx_schedules_next ON schedules (next_at, id) WHERE next_at IS NOT NULL AND every_ms IS NULL;
CREATE INDEX idx_schedules_due ON schedules (due_clock, id) WHERE due_clock IS NOT NULL;
CREATE INDEX idx_schedules_group ON schedules (group_name);

ALTER TABLE service ADD COLUMN tty INTEGER NOT NULL DEFAULT 0 CHECK (tty IN (0, 1));
ALTER TABLE service ADD COLUMN stdin TEXT NOT NULL DEFAULT 'none' CHECK (stdin IN ('none', 'open'));

-- migrate: refuse down
SELECT printf('the job %s of project %s runs', number, projects.name) FROM jobs JOIN projects ON projects.id = project_id
    WHERE jobs.status IN ('executing', 'unknown') ORDER BY projects.name, number;

-- migrate: down
DELETE FROM tag WHERE kind IN ('job', 'schedule');
ALTER TABLE service DROP COLUMN stdin;
ALTER TABLE service DROP COLUMN tty;
DROP TABLE schedules;
DROP TABLE job_after;
DROP TABLE jobs;
DROP TABLE job_group;
DROP TABLE nodes;
DROP TABLE record_number;
