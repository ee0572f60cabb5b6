-- Projects, the scope of names. What nexusctl apply kept as settings becomes the project of each record, the file that
-- made it, and the time since when a restart is due. All else is in the project default, which always exists.

-- migrate: up
CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    description TEXT,
    mode TEXT NOT NULL DEFAULT 'genesis' CHECK (mode IN ('genesis', 'evolution')),
    status TEXT NOT NULL DEFAULT 'created'
        CHECK (status IN ('created', 'planning', 'in_progress', 'paused', 'completed', 'failed')),
    root_path TEXT UNIQUE,  -- the folder of its nexus.toml; NULL: it has none yet
    repository_url TEXT,
    settings TEXT NOT NULL DEFAULT '{}',  -- JSON, an object
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    completed_at INTEGER,
    revision INTEGER NOT NULL DEFAULT 1,
    state_revision INTEGER NOT NULL DEFAULT 0
);
INSERT INTO projects (id, name, created_at, updated_at)
    VALUES ('00000000-0000-4000-8000-000000000000', 'default', 0, 0);

-- The entries of the settings apply.PROJECT and apply.PROJECT.N: lists of s:ID, v:ID and r:ID:MS. A malformed entry has
-- no kind here. A value that is no JSON must not reach json_each, whatever order the conditions are tested in.
CREATE TABLE old_apply (key TEXT NOT NULL, project TEXT NOT NULL, kind TEXT, id TEXT, at INTEGER);
WITH setting (key, rest, project, value) AS (
    SELECT key, substr(key, 7), substr(key, 7, instr(substr(key, 7) || '.', '.') - 1),
        CASE WHEN typeof(value) = 'text' AND type = 'json' AND json_valid(value) THEN value ELSE '{}' END
    FROM settings WHERE substr(key, 1, 6) = 'apply.'
), entry (key, project, type, prefix, id, at) AS (
    SELECT setting.key, project, each.type, substr(each.value, 1, 2),
        substr(each.value, 3, instr(substr(each.value, 3) || ':', ':') - 1),
        iif(instr(substr(each.value, 3), ':'), substr(each.value, 3 + instr(substr(each.value, 3), ':')), NULL)
    FROM setting, json_each(setting.value) AS each
    WHERE json_type(setting.value) = 'array'
    AND length(project) <= 64 AND project GLOB '[A-Za-z0-9]*' AND NOT project GLOB '*[^A-Za-z0-9_-]*'
    AND (rest = project OR (substr(rest, length(project) + 2) GLOB '[0-9]*'
        AND NOT substr(rest, length(project) + 2) GLOB '*[^0-9]*'))
)
INSERT INTO old_apply (key, project, kind, id, at)
    SELECT key, project,
        CASE
            WHEN type <> 'text' OR id = '' THEN NULL
            WHEN prefix = 's:' AND at IS NULL THEN 'service'
            WHEN prefix = 'v:' AND at IS NULL THEN 'vm'
            WHEN prefix = 'r:' AND length(at) BETWEEN 1 AND 18 AND NOT at GLOB '*[^0-9]*' THEN 'restart'
        END,
        id, CAST(at AS INTEGER)
    FROM entry;
DELETE FROM old_apply WHERE key IN (SELECT key FROM old_apply WHERE kind IS NULL);

-- A project is made where its settings name a record that is there. Its settings are replaced, also what they say of
-- records that were deleted; all other settings stay.
CREATE TABLE old_owned (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    project TEXT NOT NULL,
    at INTEGER,
    PRIMARY KEY (kind, id, project)
) WITHOUT ROWID;
INSERT INTO old_owned (kind, id, project, at)
    SELECT kind, id, project, max(at) FROM old_apply
    WHERE (kind = 'vm' AND id IN (SELECT id FROM vms))
    OR (kind IN ('service', 'restart') AND id IN (SELECT id FROM service))
    GROUP BY kind, id, project;
DELETE FROM settings
    WHERE key IN (SELECT key FROM old_apply WHERE project IN (SELECT project FROM old_owned));
DROP TABLE old_apply;
INSERT INTO projects (id, name, created_at, updated_at)
    SELECT
        lower(
            hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-'
            || substr('89ab', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))
        ),
        project, now, now
    FROM (SELECT DISTINCT project FROM old_owned WHERE project <> 'default'),
        (SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) AS now);

-- A record that two projects name stays in default.
CREATE TABLE old_project (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    PRIMARY KEY (kind, id)
) WITHOUT ROWID;
INSERT INTO old_project (kind, id, project_id)
    SELECT kind, old_owned.id, min(projects.id) FROM old_owned JOIN projects ON projects.name = old_owned.project
    WHERE kind IN ('service', 'vm') GROUP BY kind, old_owned.id HAVING count(*) = 1;
-- So does, with all services that are connected to them, one whose dependency would be in another project.
WITH RECURSIVE placed (id, project_id) AS (
    SELECT service.id, coalesce(old_project.project_id, '00000000-0000-4000-8000-000000000000')
    FROM service LEFT JOIN old_project ON old_project.kind = 'service' AND old_project.id = service.id
), staying (id) AS (
    SELECT edge.service_id FROM service_dependency AS edge
    JOIN placed AS a ON a.id = edge.service_id JOIN placed AS b ON b.id = edge.dependent_service_id
    WHERE a.project_id <> b.project_id
    UNION
    SELECT CASE WHEN edge.service_id = staying.id THEN edge.dependent_service_id ELSE edge.service_id END
    FROM staying JOIN service_dependency AS edge
    ON edge.service_id = staying.id OR edge.dependent_service_id = staying.id
)
DELETE FROM old_project
    WHERE kind = 'service' AND project_id <> '00000000-0000-4000-8000-000000000000' AND id IN (SELECT id FROM staying);

-- The entries s:ID and v:ID of records that therefore stay in default are kept by each project that listed them, as the
-- sorted list "shared" in its column settings. The project default keeps so what apply.default listed beside another
-- project; what apply.default listed alone is managed by the file of default.
-- Where a project listed r:ID:MS of a service that it does not manage, each project that listed an r:ID:MS of this
-- service keeps its time in the map "shared_restarts", by id: restart_pending_since holds only the latest.
CREATE TABLE old_shared (
    project TEXT NOT NULL,
    entry TEXT NOT NULL,  -- s:ID, v:ID, or r:ID with its time
    id TEXT NOT NULL,
    at INTEGER,
    PRIMARY KEY (project, entry)
) WITHOUT ROWID;
INSERT INTO old_shared (project, entry, id)
    SELECT project, substr(kind, 1, 1) || ':' || id, id FROM old_owned
    WHERE kind IN ('service', 'vm') AND (kind, id) NOT IN (SELECT kind, id FROM old_project);
INSERT INTO old_shared (project, entry, id, at)
    SELECT project, 'r:' || id, id, at FROM old_owned WHERE kind = 'restart' AND id IN (
        SELECT due.id FROM old_owned AS due
        LEFT JOIN old_project ON old_project.kind = 'service' AND old_project.id = due.id
        LEFT JOIN projects ON projects.id = old_project.project_id
        WHERE due.kind = 'restart' AND due.project IS NOT projects.name
    );
UPDATE projects
    SET settings = json_set(settings, '$.shared', json((
        SELECT json_group_array(entry)
        FROM (SELECT entry FROM old_shared WHERE project = projects.name AND at IS NULL ORDER BY entry)
    )))
    WHERE name IN (SELECT project FROM old_shared WHERE at IS NULL);
UPDATE projects
    SET settings = json_set(settings, '$.shared_restarts', json((
        SELECT json_group_object(id, at)
        FROM (SELECT id, at FROM old_shared WHERE project = projects.name AND at IS NOT NULL ORDER BY id)
    )))
    WHERE name IN (SELECT project FROM old_shared WHERE at IS NOT NULL);
DROP TABLE old_shared;

ALTER TABLE vms RENAME TO old_vms;
CREATE TABLE vms (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL DEFAULT '00000000-0000-4000-8000-000000000000' REFERENCES projects (id),
    managed_by TEXT,  -- the project's file that made it
    name TEXT NOT NULL,
    role TEXT NOT NULL CHECK(role IN ('portal', 'work', 'service')),
    state TEXT NOT NULL CHECK(state IN ('created', 'running', 'stopped', 'crashed', 'failed')),
    cid INTEGER NOT NULL UNIQUE CHECK(cid BETWEEN 3 AND 4294967294),
    vcpu_count INTEGER NOT NULL DEFAULT 1,
    mem_size_mib INTEGER NOT NULL DEFAULT 128,
    config_json TEXT,
    pid INTEGER,
    socket_path TEXT,
    uds_path TEXT,
    console_log_path TEXT,
    created_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    updated_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    started_at INTEGER,
    stopped_at INTEGER,
    revision INTEGER NOT NULL DEFAULT 1,
    state_revision INTEGER NOT NULL DEFAULT 0,
    UNIQUE (project_id, name)
);
INSERT INTO vms (
        id, name, role, state, cid, vcpu_count, mem_size_mib, config_json, pid, socket_path, uds_path,
        console_log_path, created_at, updated_at, started_at, stopped_at, revision, state_revision
    )
    SELECT
        id, name, role, state, cid, vcpu_count, mem_size_mib, config_json, pid, socket_path, uds_path,
        console_log_path, created_at, updated_at, started_at, stopped_at, revision, state_revision
    FROM old_vms ORDER BY rowid;
UPDATE vms SET project_id = old_project.project_id, managed_by = 'nexus.toml'
    FROM old_project WHERE old_project.kind = 'vm' AND old_project.id = vms.id;
DROP TABLE old_vms;
CREATE INDEX idx_vms_created ON vms (created_at, id);
CREATE INDEX idx_vms_role ON vms (role, created_at, id);
CREATE INDEX idx_vms_state ON vms (state, created_at, id);
CREATE INDEX idx_vms_project_created ON vms (project_id, created_at, id);
CREATE INDEX idx_vms_project_role ON vms (project_id, role, created_at, id);
CREATE INDEX idx_vms_project_state ON vms (project_id, state, created_at, id);

ALTER TABLE service RENAME TO old_service;
CREATE TABLE service (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL DEFAULT '00000000-0000-4000-8000-000000000000' REFERENCES projects (id),
    managed_by TEXT,  -- the project's file that made it
    name TEXT NOT NULL,
    config_id INTEGER NOT NULL UNIQUE REFERENCES service_config (id),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,

    type TEXT NOT NULL DEFAULT 'simple' CHECK (type IN ('simple', 'oneshot')),
    directory TEXT,
    port INTEGER CHECK (port BETWEEN 0 AND 65535),
    environment TEXT NOT NULL DEFAULT '{}',  -- JSON, an object
    environment_names TEXT NOT NULL DEFAULT '[]',  -- JSON: its names, so that a list never reads a value
    repo_url TEXT,
    repo_path TEXT,
    git_branch TEXT,
    git_auth_type TEXT NOT NULL DEFAULT 'none' CHECK (git_auth_type IN ('none', 'ssh', 'token')),
    git_token_file TEXT,
    restart TEXT NOT NULL DEFAULT 'no' CHECK (restart IN ('no', 'on-failure', 'always')),
    restart_backoff_ms INTEGER NOT NULL,
    restart_backoff_max_ms INTEGER NOT NULL,
    restart_limit INTEGER NOT NULL,
    restart_window_ms INTEGER NOT NULL,
    restart_unhealthy INTEGER NOT NULL DEFAULT 0 CHECK (restart_unhealthy IN (0, 1)),
    start_window_ms INTEGER NOT NULL,
    health_exec TEXT,  -- JSON, as run_command
    health_tcp INTEGER CHECK (health_tcp BETWEEN 0 AND 65535),
    health_log TEXT,
    health_interval_ms INTEGER NOT NULL,
    health_timeout_ms INTEGER NOT NULL,
    health_retries INTEGER NOT NULL,
    health_start_period_ms INTEGER NOT NULL,
    stop_signal TEXT NOT NULL,
    stop_grace_ms INTEGER NOT NULL,
    autostart INTEGER NOT NULL DEFAULT 0 CHECK (autostart IN (0, 1)),
    tags TEXT NOT NULL DEFAULT '[]',
    memory_limit_mib INTEGER,
    cpu_limit_percent INTEGER,
    log_limit_mib INTEGER NOT NULL,

    status TEXT NOT NULL DEFAULT 'stopped' CHECK (status IN ('starting', 'running', 'stopping', 'stopped', 'failed')),
    health TEXT NOT NULL DEFAULT 'unknown' CHECK (health IN ('unknown', 'healthy', 'unhealthy')),
    health_message TEXT,
    state_at INTEGER NOT NULL,
    wanted INTEGER NOT NULL DEFAULT 0 CHECK (wanted IN (0, 1)),  -- whether it is to be up
    run_id TEXT,  -- of the last run, written before its process exists
    pid INTEGER,
    active_port INTEGER,
    start_environment TEXT NOT NULL DEFAULT '{}',
    started_at INTEGER,
    stopped_at INTEGER,
    restarts INTEGER NOT NULL DEFAULT 0,
    restart_times TEXT NOT NULL DEFAULT '[]',  -- JSON: ms of the restarts within the window
    next_restart_at INTEGER,
    exit_code INTEGER,
    exit_signal INTEGER,
    reason TEXT,
    lost_dependencies TEXT NOT NULL DEFAULT '[]',
    stopped_in_boot TEXT,  -- the boot in which somebody stopped it: no autostart before the next one
    reason_code TEXT,
    umask TEXT,  -- octal digits; NULL: that of the session which started the daemon
    unknown_since INTEGER,  -- since when the run cannot be looked at
    ended_in_boot TEXT,  -- the boot in which the last run ended
    revision INTEGER NOT NULL DEFAULT 1,
    state_revision INTEGER NOT NULL DEFAULT 0,
    operation_id INTEGER,  -- of the last change of its state
    restart_pending_since INTEGER,  -- when a change came that takes effect with a restart
    UNIQUE (project_id, name)
);
INSERT INTO service (
        id, name, config_id, created_at, updated_at, type, directory, port, environment, environment_names,
        repo_url, repo_path, git_branch, git_auth_type, git_token_file, restart, restart_backoff_ms,
        restart_backoff_max_ms, restart_limit, restart_window_ms, restart_unhealthy, start_window_ms,
        health_exec, health_tcp, health_log, health_interval_ms, health_timeout_ms, health_retries,
        health_start_period_ms, stop_signal, stop_grace_ms, autostart, tags, memory_limit_mib,
        cpu_limit_percent, log_limit_mib, status, health, health_message, state_at, wanted, run_id, pid,
        active_port, start_environment, started_at, stopped_at, restarts, restart_times, next_restart_at,
        exit_code, exit_signal, reason, lost_dependencies, stopped_in_boot, reason_code, umask, unknown_since,
        ended_in_boot, revision, state_revision, operation_id
    )
    SELECT
        id, name, config_id, created_at, updated_at, type, directory, port, environment, environment_names,
        repo_url, repo_path, git_branch, git_auth_type, git_token_file, restart, restart_backoff_ms,
        restart_backoff_max_ms, restart_limit, restart_window_ms, restart_unhealthy, start_window_ms,
        health_exec, health_tcp, health_log, health_interval_ms, health_timeout_ms, health_retries,
        health_start_period_ms, stop_signal, stop_grace_ms, autostart, tags, memory_limit_mib,
        cpu_limit_percent, log_limit_mib, status, health, health_message, state_at, wanted, run_id, pid,
        active_port, start_environment, started_at, stopped_at, restarts, restart_times, next_restart_at,
        exit_code, exit_signal, reason, lost_dependencies, stopped_in_boot, reason_code, umask, unknown_since,
        ended_in_boot, revision, state_revision, operation_id
    FROM old_service ORDER BY rowid;
UPDATE service SET project_id = old_project.project_id, managed_by = 'nexus.toml'
    FROM old_project WHERE old_project.kind = 'service' AND old_project.id = service.id;
UPDATE service SET restart_pending_since = due.since
    FROM (SELECT id, max(at) AS since FROM old_owned WHERE kind = 'restart' GROUP BY id) AS due
    WHERE due.id = service.id;
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
        id, service_id, dependent_service_id, tunnel_enabled, condition, when_lost, tunnel_port, tunnel_run_id,
        created_at
    )
    SELECT id, service_id, dependent_service_id, tunnel_enabled, condition, when_lost, tunnel_port, tunnel_run_id,
    created_at
    FROM old_dependency;
-- An id is never used twice: tunnels are named by it.
DELETE FROM sqlite_sequence WHERE name = 'service_dependency';
INSERT INTO sqlite_sequence (name, seq)
    SELECT 'service_dependency', seq FROM sqlite_sequence WHERE name = 'old_dependency';
DROP TABLE old_dependency;
DROP TABLE old_service;
CREATE INDEX idx_service_dependency_dependent ON service_dependency (dependent_service_id);
CREATE INDEX idx_service_name ON service (name, id);
CREATE INDEX idx_service_status ON service (status, name, id);
CREATE INDEX idx_service_project_status ON service (project_id, status, name, id);
DROP TABLE old_project;
DROP TABLE old_owned;

ALTER TABLE operation ADD COLUMN project_id TEXT;  -- NULL: from before projects, or of none
ALTER TABLE journal ADD COLUMN project_id TEXT;

-- migrate: refuse down
SELECT printf('the %s "%s" is in the projects %s', kind, name, group_concat(project, ', ')) FROM (
    SELECT 'VM' AS kind, vms.name, projects.name AS project FROM vms JOIN projects ON projects.id = project_id
    UNION ALL
    SELECT 'service', service.name, projects.name FROM service JOIN projects ON projects.id = project_id
    ORDER BY 1, 2, 3
) GROUP BY kind, name HAVING count(*) > 1;

-- migrate: down
-- What projects keep as "shared" and "shared_restarts", see above. Users may write these keys too: values that are not
-- of this form have no effect. A record that was deleted, or that left default, is not shared any more.
CREATE TABLE old_shared (
    id TEXT NOT NULL,
    entry TEXT NOT NULL,
    project_id TEXT NOT NULL,
    at INTEGER,
    PRIMARY KEY (id, entry, project_id)
) WITHOUT ROWID;
INSERT OR IGNORE INTO old_shared (id, entry, project_id)
    SELECT substr(each.value, 3), each.value, projects.id
    FROM projects, json_each(iif(json_valid(settings), settings, '{}'), '$.shared') AS each
    WHERE each.type = 'text' AND CASE substr(each.value, 1, 2)
        WHEN 's:' THEN substr(each.value, 3) IN (
            SELECT id FROM service WHERE project_id = '00000000-0000-4000-8000-000000000000'
        )
        WHEN 'v:' THEN substr(each.value, 3) IN (
            SELECT id FROM vms WHERE project_id = '00000000-0000-4000-8000-000000000000'
        )
    END;
INSERT OR IGNORE INTO old_shared (id, entry, project_id, at)
    SELECT service.id, 'r:' || service.id, projects.id, each.value
    FROM projects, json_each(iif(json_valid(settings), settings, '{}'), '$.shared_restarts') AS each
    JOIN service ON service.id = each.key
    WHERE each.type = 'integer' AND each.value BETWEEN 0 AND 999999999999999999;

-- The settings apply.PROJECT, apply.PROJECT.1 and so on are written again. 200 entries are less than the 16 KiB that a
-- setting may have. Numbers in use are passed over. A project whose name no project file can have gets no setting.
CREATE TABLE old_apply (
    project TEXT NOT NULL,
    number INTEGER NOT NULL,
    entry TEXT NOT NULL,
    PRIMARY KEY (project, number)
) WITHOUT ROWID;
WITH listed (project_id, rank, id, entry) AS (
    SELECT project_id, 1, id, 's:' || id FROM service WHERE managed_by IS NOT NULL
    UNION
    SELECT project_id, 2, id, 'v:' || id FROM vms WHERE managed_by IS NOT NULL
    UNION
    SELECT project_id, instr('svr', substr(entry, 1, 1)), id, entry FROM old_shared
), latest (id, at) AS (
    SELECT id, max(at) FROM old_shared WHERE at IS NOT NULL GROUP BY id
), restart (project_id, rank, id, entry) AS (
    -- While the latest change is that of the way up, a project lists what it kept. A later change is listed by each.
    SELECT DISTINCT listed.project_id, 3, service.id, 'r:' || service.id || ':'
        || iif(latest.at IS restart_pending_since, old_shared.at, restart_pending_since)
    FROM listed JOIN service ON service.id = listed.id
    LEFT JOIN latest ON latest.id = service.id
    LEFT JOIN old_shared ON old_shared.id = service.id AND old_shared.entry = 'r:' || service.id
        AND old_shared.project_id = listed.project_id
    WHERE listed.rank IN (1, 3)
), written (project_id, rank, id, entry) AS (
    SELECT * FROM listed WHERE rank < 3 UNION ALL SELECT * FROM restart WHERE entry IS NOT NULL
)
INSERT INTO old_apply (project, number, entry)
    SELECT projects.name, row_number() OVER (PARTITION BY projects.id ORDER BY rank, written.id) - 1, entry
    FROM written JOIN projects ON projects.id = written.project_id
    WHERE length(projects.name) <= 64 AND projects.name GLOB '[A-Za-z0-9]*'
    AND NOT projects.name GLOB '*[^A-Za-z0-9_-]*';
WITH taken (project, number) AS (
    SELECT project, coalesce((
        SELECT 1 + max(CAST(substr(key, length(project) + 8, 9) AS INTEGER))
        FROM settings
        WHERE key = 'apply.' || project OR substr(key, 1, length(project) + 7) = 'apply.' || project || '.'
    ), 0)
    FROM old_apply WHERE number = 0
), part (project, number, first) AS (
    SELECT old_apply.project, taken.number + old_apply.number / 200, old_apply.number
    FROM old_apply JOIN taken ON taken.project = old_apply.project WHERE old_apply.number % 200 = 0
)
INSERT INTO settings (key, value, type)
    SELECT
        'apply.' || project || iif(number = 0, '', '.' || number),
        (SELECT json_group_array(entry) FROM (
            SELECT entry FROM old_apply
            WHERE old_apply.project = part.project AND old_apply.number BETWEEN part.first AND part.first + 199
            ORDER BY old_apply.number
        )),
        'json'
    FROM part;
DROP TABLE old_apply;
DROP TABLE old_shared;

ALTER TABLE journal DROP COLUMN project_id;
ALTER TABLE operation DROP COLUMN project_id;

ALTER TABLE service RENAME TO old_service;
CREATE TABLE service (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    config_id INTEGER NOT NULL UNIQUE REFERENCES service_config (id),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,

    type TEXT NOT NULL DEFAULT 'simple' CHECK (type IN ('simple', 'oneshot')),
    directory TEXT,
    port INTEGER CHECK (port BETWEEN 0 AND 65535),
    environment TEXT NOT NULL DEFAULT '{}',  -- JSON, an object
    environment_names TEXT NOT NULL DEFAULT '[]',  -- JSON: its names, so that a list never reads a value
    repo_url TEXT,
    repo_path TEXT,
    git_branch TEXT,
    git_auth_type TEXT NOT NULL DEFAULT 'none' CHECK (git_auth_type IN ('none', 'ssh', 'token')),
    git_token_file TEXT,
    restart TEXT NOT NULL DEFAULT 'no' CHECK (restart IN ('no', 'on-failure', 'always')),
    restart_backoff_ms INTEGER NOT NULL,
    restart_backoff_max_ms INTEGER NOT NULL,
    restart_limit INTEGER NOT NULL,
    restart_window_ms INTEGER NOT NULL,
    restart_unhealthy INTEGER NOT NULL DEFAULT 0 CHECK (restart_unhealthy IN (0, 1)),
    start_window_ms INTEGER NOT NULL,
    health_exec TEXT,  -- JSON, as run_command
    health_tcp INTEGER CHECK (health_tcp BETWEEN 0 AND 65535),
    health_log TEXT,
    health_interval_ms INTEGER NOT NULL,
    health_timeout_ms INTEGER NOT NULL,
    health_retries INTEGER NOT NULL,
    health_start_period_ms INTEGER NOT NULL,
    stop_signal TEXT NOT NULL,
    stop_grace_ms INTEGER NOT NULL,
    autostart INTEGER NOT NULL DEFAULT 0 CHECK (autostart IN (0, 1)),
    tags TEXT NOT NULL DEFAULT '[]',
    memory_limit_mib INTEGER,
    cpu_limit_percent INTEGER,
    log_limit_mib INTEGER NOT NULL,

    status TEXT NOT NULL DEFAULT 'stopped' CHECK (status IN ('starting', 'running', 'stopping', 'stopped', 'failed')),
    health TEXT NOT NULL DEFAULT 'unknown' CHECK (health IN ('unknown', 'healthy', 'unhealthy')),
    health_message TEXT,
    state_at INTEGER NOT NULL,
    wanted INTEGER NOT NULL DEFAULT 0 CHECK (wanted IN (0, 1)),  -- whether it is to be up
    run_id TEXT,  -- of the last run, written before its process exists
    pid INTEGER,
    active_port INTEGER,
    start_environment TEXT NOT NULL DEFAULT '{}',
    started_at INTEGER,
    stopped_at INTEGER,
    restarts INTEGER NOT NULL DEFAULT 0,
    restart_times TEXT NOT NULL DEFAULT '[]',  -- JSON: ms of the restarts within the window
    next_restart_at INTEGER,
    exit_code INTEGER,
    exit_signal INTEGER,
    reason TEXT,
    lost_dependencies TEXT NOT NULL DEFAULT '[]',
    stopped_in_boot TEXT  -- the boot in which somebody stopped it: no autostart before the next one
);
ALTER TABLE service ADD COLUMN reason_code TEXT;
ALTER TABLE service ADD COLUMN umask TEXT;  -- octal digits; NULL: that of the session which started the daemon
ALTER TABLE service ADD COLUMN unknown_since INTEGER;  -- since when the run cannot be looked at
ALTER TABLE service ADD COLUMN ended_in_boot TEXT;  -- the boot in which the last run ended
ALTER TABLE service ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
ALTER TABLE service ADD COLUMN state_revision INTEGER NOT NULL DEFAULT 0;
ALTER TABLE service ADD COLUMN operation_id INTEGER;  -- of the last change of its state
INSERT INTO service (
        id, name, config_id, created_at, updated_at, type, directory, port, environment, environment_names,
        repo_url, repo_path, git_branch, git_auth_type, git_token_file, restart, restart_backoff_ms,
        restart_backoff_max_ms, restart_limit, restart_window_ms, restart_unhealthy, start_window_ms,
        health_exec, health_tcp, health_log, health_interval_ms, health_timeout_ms, health_retries,
        health_start_period_ms, stop_signal, stop_grace_ms, autostart, tags, memory_limit_mib,
        cpu_limit_percent, log_limit_mib, status, health, health_message, state_at, wanted, run_id, pid,
        active_port, start_environment, started_at, stopped_at, restarts, restart_times, next_restart_at,
        exit_code, exit_signal, reason, lost_dependencies, stopped_in_boot, reason_code, umask, unknown_since,
        ended_in_boot, revision, state_revision, operation_id
    )
    SELECT
        id, name, config_id, created_at, updated_at, type, directory, port, environment, environment_names,
        repo_url, repo_path, git_branch, git_auth_type, git_token_file, restart, restart_backoff_ms,
        restart_backoff_max_ms, restart_limit, restart_window_ms, restart_unhealthy, start_window_ms,
        health_exec, health_tcp, health_log, health_interval_ms, health_timeout_ms, health_retries,
        health_start_period_ms, stop_signal, stop_grace_ms, autostart, tags, memory_limit_mib,
        cpu_limit_percent, log_limit_mib, status, health, health_message, state_at, wanted, run_id, pid,
        active_port, start_environment, started_at, stopped_at, restarts, restart_times, next_restart_at,
        exit_code, exit_signal, reason, lost_dependencies, stopped_in_boot, reason_code, umask, unknown_since,
        ended_in_boot, revision, state_revision, operation_id
    FROM old_service ORDER BY rowid;
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
        id, service_id, dependent_service_id, tunnel_enabled, condition, when_lost, tunnel_port, tunnel_run_id,
        created_at
    )
    SELECT id, service_id, dependent_service_id, tunnel_enabled, condition, when_lost, tunnel_port, tunnel_run_id,
    created_at
    FROM old_dependency;
-- An id is never used twice: tunnels are named by it.
DELETE FROM sqlite_sequence WHERE name = 'service_dependency';
INSERT INTO sqlite_sequence (name, seq)
    SELECT 'service_dependency', seq FROM sqlite_sequence WHERE name = 'old_dependency';
DROP TABLE old_dependency;
DROP TABLE old_service;
CREATE INDEX idx_service_dependency_dependent ON service_dependency (dependent_service_id);
CREATE INDEX idx_service_status ON service (status, name);

ALTER TABLE vms RENAME TO old_vms;
CREATE TABLE vms (
    id TEXT PRIMARY KEY,
    name TEXT UNIQUE NOT NULL,
    role TEXT NOT NULL CHECK(role IN ('portal', 'work', 'service')),
    state TEXT NOT NULL CHECK(state IN ('created', 'running', 'stopped', 'crashed', 'failed')),
    cid INTEGER NOT NULL UNIQUE CHECK(cid BETWEEN 3 AND 4294967294),
    vcpu_count INTEGER NOT NULL DEFAULT 1,
    mem_size_mib INTEGER NOT NULL DEFAULT 128,
    config_json TEXT,
    pid INTEGER,
    socket_path TEXT,
    uds_path TEXT,
    console_log_path TEXT,
    created_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    updated_at INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),
    started_at INTEGER,
    stopped_at INTEGER
);
ALTER TABLE vms ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;
ALTER TABLE vms ADD COLUMN state_revision INTEGER NOT NULL DEFAULT 0;
INSERT INTO vms (
        id, name, role, state, cid, vcpu_count, mem_size_mib, config_json, pid, socket_path, uds_path,
        console_log_path, created_at, updated_at, started_at, stopped_at, revision, state_revision
    )
    SELECT
        id, name, role, state, cid, vcpu_count, mem_size_mib, config_json, pid, socket_path, uds_path,
        console_log_path, created_at, updated_at, started_at, stopped_at, revision, state_revision
    FROM old_vms ORDER BY rowid;
DROP TABLE old_vms;
CREATE INDEX idx_vms_created ON vms(created_at, id);
CREATE INDEX idx_vms_role ON vms (role, created_at, id);
CREATE INDEX idx_vms_state ON vms (state, created_at, id);
DROP TABLE projects;
