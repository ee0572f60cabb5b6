-- The ledger: features, tasks, agents, requirements, metrics and sessions of projects; leases and their fences.

-- migrate: up
CREATE TABLE features (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    project_id TEXT NOT NULL REFERENCES projects (id),
    name TEXT NOT NULL,
    description TEXT,
    priority TEXT NOT NULL DEFAULT 'should' CHECK (priority IN ('must', 'should', 'could', 'wont')),
    status TEXT NOT NULL DEFAULT 'backlog'
        CHECK (status IN ('backlog', 'in_progress', 'ai_review', 'human_review', 'done')),
    complexity TEXT NOT NULL DEFAULT 'simple' CHECK (complexity IN ('simple', 'complex')),
    tags TEXT NOT NULL DEFAULT '[]',  -- JSON, a list
    metadata TEXT NOT NULL DEFAULT '{}',  -- JSON, an object
    estimated_tasks INTEGER NOT NULL DEFAULT 0,  -- the planner's
    completed_tasks INTEGER NOT NULL DEFAULT 0,  -- counted
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    revision INTEGER NOT NULL DEFAULT 1,
    state_revision INTEGER NOT NULL DEFAULT 0,
    doc INTEGER NOT NULL UNIQUE,
    UNIQUE (project_id, number)
);
CREATE INDEX features_project_idx ON features (project_id);
CREATE INDEX features_status_idx ON features (project_id, status, number);
CREATE INDEX features_priority_idx ON features (project_id, priority, number);
CREATE INDEX features_number_idx ON features (number, id);

CREATE TABLE sub_features (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    project_id TEXT NOT NULL REFERENCES projects (id),
    feature_id TEXT NOT NULL REFERENCES features (id),
    name TEXT NOT NULL,
    description TEXT,
    status TEXT NOT NULL DEFAULT 'backlog'
        CHECK (status IN ('backlog', 'in_progress', 'ai_review', 'human_review', 'done')),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    revision INTEGER NOT NULL DEFAULT 1,
    state_revision INTEGER NOT NULL DEFAULT 0,
    UNIQUE (project_id, number)
);
CREATE INDEX sub_features_feature_idx ON sub_features (feature_id, number);
CREATE INDEX sub_features_status_idx ON sub_features (project_id, status, number);
CREATE INDEX sub_features_number_idx ON sub_features (number, id);

CREATE TABLE agents (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL CHECK (type IN ('planner', 'coder', 'tester', 'reviewer', 'merger')),
    status TEXT NOT NULL DEFAULT 'idle'
        CHECK (status IN ('idle', 'assigned', 'working', 'paused', 'error', 'terminated')),
    model_provider TEXT NOT NULL DEFAULT 'anthropic' CHECK (model_provider IN ('anthropic', 'google', 'openai')),
    model_name TEXT NOT NULL DEFAULT 'claude-sonnet-4',
    temperature REAL NOT NULL DEFAULT 0.3 CHECK (temperature BETWEEN 0 AND 2),
    max_tokens INTEGER NOT NULL DEFAULT 8000 CHECK (max_tokens > 0),
    system_prompt TEXT,
    tools TEXT NOT NULL DEFAULT '[]',  -- JSON, a list
    tags TEXT NOT NULL DEFAULT '[]',  -- JSON, a list
    current_task_id TEXT,
    worktree_path TEXT,
    branch_name TEXT,
    tokens_used INTEGER NOT NULL DEFAULT 0,
    tasks_completed INTEGER NOT NULL DEFAULT 0,
    tasks_failed INTEGER NOT NULL DEFAULT 0,
    reason TEXT,  -- of the status paused or error
    spawned_at INTEGER NOT NULL,
    last_activity_at INTEGER NOT NULL,
    terminated_at INTEGER,
    termination_reason TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    revision INTEGER NOT NULL DEFAULT 1,
    state_revision INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX agents_status_idx ON agents (status, name);
CREATE INDEX agents_type_idx ON agents (type, name);

CREATE TABLE tasks (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    project_id TEXT NOT NULL REFERENCES projects (id),
    feature_id TEXT REFERENCES features (id),
    sub_feature_id TEXT REFERENCES sub_features (id),
    name TEXT NOT NULL,
    description TEXT,
    type TEXT NOT NULL DEFAULT 'auto' CHECK (type IN ('auto', 'checkpoint', 'tdd')),
    kind TEXT NOT NULL DEFAULT 'feature' CHECK (kind IN ('feature', 'bug', 'chore', 'question')),
    status TEXT NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'queued', 'in_progress', 'in_review', 'completed', 'failed', 'blocked')),
    size TEXT NOT NULL DEFAULT 'small' CHECK (size IN ('atomic', 'small')),
    priority INTEGER NOT NULL DEFAULT 5,  -- 1 is the highest
    tags TEXT NOT NULL DEFAULT '[]',  -- JSON, a list
    metadata TEXT NOT NULL DEFAULT '{}',  -- JSON, an object
    assigned_agent TEXT,  -- the id of an agent
    worktree_path TEXT,
    branch_name TEXT,
    depends_on TEXT NOT NULL DEFAULT '[]',  -- JSON, a list of ids of tasks; its rows are in task_dependency
    open_dependencies INTEGER NOT NULL DEFAULT 0,  -- how many of them are not completed
    blocked_by TEXT,  -- the id of a task
    reason TEXT,  -- of the status failed or blocked
    reason_code TEXT,
    qa_iterations INTEGER NOT NULL DEFAULT 0,
    max_iterations INTEGER NOT NULL DEFAULT 50,
    estimated_minutes INTEGER NOT NULL DEFAULT 15,
    actual_minutes INTEGER,
    claimed_at INTEGER,
    started_at INTEGER,
    completed_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    revision INTEGER NOT NULL DEFAULT 1,
    state_revision INTEGER NOT NULL DEFAULT 0,
    doc INTEGER NOT NULL UNIQUE,
    UNIQUE (project_id, number)
);
CREATE INDEX tasks_project_idx ON tasks (project_id);
CREATE INDEX tasks_feature_idx ON tasks (feature_id, status);
CREATE INDEX tasks_sub_feature_idx ON tasks (sub_feature_id) WHERE sub_feature_id IS NOT NULL;
CREATE INDEX tasks_status_idx ON tasks (status);
CREATE INDEX tasks_number_idx ON tasks (number, id);
CREATE INDEX tasks_of_status_idx ON tasks (project_id, status, number);
CREATE INDEX tasks_of_feature_idx ON tasks (project_id, feature_id, number);
CREATE INDEX tasks_of_agent_idx ON tasks (project_id, assigned_agent, number) WHERE assigned_agent IS NOT NULL;
CREATE INDEX tasks_agent_idx ON tasks (assigned_agent) WHERE assigned_agent IS NOT NULL;
CREATE INDEX tasks_blocked_idx ON tasks (blocked_by) WHERE blocked_by IS NOT NULL;
-- What can be begun, the best first.
CREATE INDEX tasks_ready_idx ON tasks (project_id, priority, number)
    WHERE status IN ('pending', 'queued') AND open_dependencies = 0;
CREATE INDEX tasks_claimable_idx ON tasks (project_id, priority, number)
    WHERE status IN ('pending', 'queued') AND open_dependencies = 0 AND type <> 'checkpoint';

-- The one definition of what is ready.
CREATE VIEW ready_tasks AS
    SELECT tasks.* FROM tasks JOIN projects ON projects.id = tasks.project_id
    WHERE tasks.status IN ('pending', 'queued') AND tasks.open_dependencies = 0
        AND projects.status NOT IN ('paused', 'completed', 'failed');

-- The column depends_on of tasks.
CREATE TABLE task_dependency (
    task_id TEXT NOT NULL,
    depends_on_id TEXT NOT NULL,
    PRIMARY KEY (task_id, depends_on_id)
) WITHOUT ROWID;
CREATE INDEX task_dependency_depends_on_idx ON task_dependency (depends_on_id);

CREATE TABLE task_note (
    id TEXT PRIMARY KEY,
    task_id TEXT NOT NULL,
    kind TEXT NOT NULL DEFAULT 'note',
    text TEXT NOT NULL,
    at INTEGER NOT NULL,
    agent_id TEXT,
    actor TEXT
);
CREATE INDEX task_note_task_idx ON task_note (task_id, at, id);

CREATE TABLE task_comment (
    id TEXT PRIMARY KEY,
    task_id TEXT NOT NULL,
    text TEXT NOT NULL,
    at INTEGER NOT NULL,
    agent_id TEXT,
    actor TEXT
);
CREATE INDEX task_comment_task_idx ON task_comment (task_id, at, id);

CREATE TABLE requirements (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    project_id TEXT NOT NULL REFERENCES projects (id),
    category TEXT NOT NULL CHECK (
        category IN ('functional', 'non_functional', 'ui_ux', 'technical', 'business_logic', 'integration')
    ),
    description TEXT NOT NULL,
    priority TEXT NOT NULL DEFAULT 'medium'
        CHECK (priority IN ('critical', 'high', 'medium', 'low', 'must', 'should', 'could', 'wont')),
    source TEXT,
    user_stories TEXT NOT NULL DEFAULT '[]',  -- JSON, a list
    acceptance_criteria TEXT NOT NULL DEFAULT '[]',  -- JSON, a list
    linked_features TEXT NOT NULL DEFAULT '[]',  -- JSON, a list of ids of features; its rows are in requirement_feature
    validated INTEGER NOT NULL DEFAULT 0 CHECK (validated IN (0, 1)),
    confidence REAL NOT NULL DEFAULT 1.0 CHECK (confidence BETWEEN 0 AND 1),
    tags TEXT NOT NULL DEFAULT '[]',  -- JSON, a list
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    revision INTEGER NOT NULL DEFAULT 1,
    state_revision INTEGER NOT NULL DEFAULT 0,
    doc INTEGER NOT NULL UNIQUE,
    UNIQUE (project_id, number)
);
CREATE INDEX requirements_project_idx ON requirements (project_id);
CREATE INDEX requirements_category_idx ON requirements (project_id, category, number);
CREATE INDEX requirements_priority_idx ON requirements (project_id, priority, number);
CREATE INDEX requirements_validated_idx ON requirements (project_id, validated, number);
CREATE INDEX requirements_number_idx ON requirements (number, id);

-- The column linked_features of requirements.
CREATE TABLE requirement_feature (
    requirement_id TEXT NOT NULL,
    feature_id TEXT NOT NULL,
    PRIMARY KEY (requirement_id, feature_id)
) WITHOUT ROWID;
CREATE INDEX requirement_feature_feature_idx ON requirement_feature (feature_id);

CREATE TABLE metrics (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL REFERENCES projects (id),
    agent_id TEXT,
    task_id TEXT,
    type TEXT NOT NULL CHECK (type IN ('token_usage', 'task_duration', 'qa_iterations')),
    value REAL NOT NULL CHECK (value >= 0),
    metadata TEXT NOT NULL DEFAULT '{}',  -- JSON, an object
    source TEXT,  -- what it was made from, where that may be read again: no source has two
    timestamp INTEGER NOT NULL
);
CREATE INDEX metrics_project_idx ON metrics (project_id, type, timestamp);
CREATE INDEX metrics_time_idx ON metrics (timestamp);
CREATE INDEX metrics_agent_idx ON metrics (agent_id, type, timestamp) WHERE agent_id IS NOT NULL;
CREATE INDEX metrics_task_idx ON metrics (task_id, type, timestamp) WHERE task_id IS NOT NULL;
CREATE UNIQUE INDEX metrics_source_idx ON metrics (source) WHERE source IS NOT NULL;

CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    project_id TEXT NOT NULL REFERENCES projects (id),
    type TEXT NOT NULL CHECK (type IN ('interview', 'planning', 'execution')),
    status TEXT NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'paused', 'completed', 'cancelled')),
    title TEXT,
    data TEXT NOT NULL DEFAULT '{}',  -- JSON, an object
    started_at INTEGER NOT NULL,
    ended_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    revision INTEGER NOT NULL DEFAULT 1,
    state_revision INTEGER NOT NULL DEFAULT 0,
    UNIQUE (project_id, number)
);
CREATE INDEX sessions_project_idx ON sessions (project_id);
CREATE INDEX sessions_status_idx ON sessions (project_id, status, number);
CREATE INDEX sessions_type_idx ON sessions (project_id, type, number);
CREATE INDEX sessions_number_idx ON sessions (number, id);

CREATE TABLE lease (
    id TEXT PRIMARY KEY,
    resource_kind TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    project_id TEXT,
    epoch INTEGER NOT NULL,
    holder TEXT NOT NULL,  -- the id of an agent
    host TEXT NOT NULL,
    granted_at INTEGER NOT NULL,
    ttl_ms INTEGER NOT NULL CHECK (ttl_ms > 0),
    renewed_at INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('live', 'released', 'expired', 'revoked')),
    boot_id TEXT NOT NULL,
    on_lost TEXT NOT NULL DEFAULT 'stop' CHECK (on_lost IN ('stop', 'keep')),
    pid INTEGER,  -- a process that renews it as long as it lives
    pid_start INTEGER,  -- and when that began, in ticks of its boot
    job_id TEXT,  -- a job that renews it as long as it lives
    ended_at INTEGER,
    reason TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    revision INTEGER NOT NULL DEFAULT 1,
    state_revision INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX lease_live_idx ON lease (resource_kind, resource_id) WHERE state = 'live';
CREATE INDEX lease_resource_idx ON lease (resource_kind, resource_id, epoch);
CREATE INDEX lease_state_idx ON lease (state, granted_at, id);
CREATE INDEX lease_holder_idx ON lease (holder, granted_at, id);
CREATE INDEX lease_project_idx ON lease (project_id, granted_at, id);
CREATE INDEX lease_time_idx ON lease (granted_at, id);
CREATE INDEX lease_of_state_idx ON lease (project_id, state, granted_at, id);
CREATE INDEX lease_of_holder_idx ON lease (project_id, holder, granted_at, id);

-- The highest epoch of each resource; it only rises.
CREATE TABLE fence (
    resource_kind TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    PRIMARY KEY (resource_kind, resource_id)
) WITHOUT ROWID;

ALTER TABLE operation ADD COLUMN lease_id TEXT;
ALTER TABLE operation ADD COLUMN epoch INTEGER;
ALTER TABLE service ADD COLUMN lease_id TEXT;
ALTER TABLE service ADD COLUMN epoch INTEGER;
CREATE INDEX idx_service_lease ON service (lease_id) WHERE lease_id IS NOT NULL;
CREATE INDEX idx_jobs_lease ON jobs (lease_id) WHERE lease_id IS NOT NULL AND completed_at IS NULL;

-- The search covers features, tasks and requirements.
DROP VIEW search_row;
DROP VIEW search_named;
CREATE VIEW search_row (doc, name, text, parts) AS
    SELECT doc, title, '',
        search_parts(title)
        FROM conversations
    UNION ALL
    SELECT doc, '', search_text(content),
        search_parts(content)
        FROM messages WHERE status <> 'open'
    UNION ALL
    SELECT doc, coalesce(tool, ''), search_text(body),
        search_parts(coalesce(tool, '') || char(10) || body)
        FROM message_parts WHERE doc IS NOT NULL
    UNION ALL
    SELECT doc, coalesce(label, ''), command || char(10) || coalesce(reason, '') || char(10)
        || coalesce(stdout, '') || char(10) || coalesce(stderr, ''),
        search_parts(
        coalesce(label, '') || char(10) || command || char(10) || coalesce(reason, '') || char(10)
        || coalesce(stdout, '') || char(10) || coalesce(stderr, ''))
        FROM jobs
    UNION ALL
    SELECT doc, name, coalesce(reason, ''),
        search_parts(name || char(10) || coalesce(reason, ''))
        FROM service
    UNION ALL
    SELECT doc, name, '',
        search_parts(name)
        FROM vms
    UNION ALL
    SELECT doc, name, search_text(coalesce(description, '')),
        search_parts(name || char(10) || coalesce(description, ''))
        FROM features
    UNION ALL
    SELECT doc, name, search_text(coalesce(description, '')),
        search_parts(name || char(10) || coalesce(description, ''))
        FROM tasks
    UNION ALL
    SELECT doc, '', search_text(description || char(10) || coalesce(source, '') || char(10)
        || user_stories || char(10) || acceptance_criteria),
        search_parts(description || char(10) || coalesce(source, '') || char(10)
        || user_stories || char(10) || acceptance_criteria)
        FROM requirements;
CREATE VIEW search_named (doc, name) AS
    SELECT doc, title FROM conversations
    UNION ALL
    SELECT doc, coalesce(label, '') FROM jobs
    UNION ALL
    SELECT doc, name FROM service
    UNION ALL
    SELECT doc, name FROM vms
    UNION ALL
    SELECT doc, name FROM features
    UNION ALL
    SELECT doc, name FROM tasks;
CREATE TRIGGER search_features_insert AFTER INSERT ON features
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (rowid, name, text, parts)
    VALUES (new.doc, new.name, search_text(coalesce(new.description, '')),
        search_parts(new.name || char(10) || coalesce(new.description, '')));
    INSERT INTO search_name (rowid, name) VALUES (new.doc, new.name);
END;
CREATE TRIGGER search_features_delete AFTER DELETE ON features
    WHEN old.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, old.name, search_text(coalesce(old.description, '')),
        search_parts(old.name || char(10) || coalesce(old.description, '')));
    INSERT INTO search_name (search_name, rowid, name) VALUES ('delete', old.doc, old.name);
END;
CREATE TRIGGER search_features_update AFTER UPDATE OF name, description ON features
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, old.name, search_text(coalesce(old.description, '')),
        search_parts(old.name || char(10) || coalesce(old.description, '')));
    INSERT INTO search_index (rowid, name, text, parts)
    VALUES (new.doc, new.name, search_text(coalesce(new.description, '')),
        search_parts(new.name || char(10) || coalesce(new.description, '')));
END;
CREATE TRIGGER search_features_rename AFTER UPDATE OF name ON features
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_name (search_name, rowid, name) VALUES ('delete', old.doc, old.name);
    INSERT INTO search_name (rowid, name) VALUES (new.doc, new.name);
END;
CREATE TRIGGER search_tasks_insert AFTER INSERT ON tasks
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (rowid, name, text, parts)
    VALUES (new.doc, new.name, search_text(coalesce(new.description, '')),
        search_parts(new.name || char(10) || coalesce(new.description, '')));
    INSERT INTO search_name (rowid, name) VALUES (new.doc, new.name);
END;
CREATE TRIGGER search_tasks_delete AFTER DELETE ON tasks
    WHEN old.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, old.name, search_text(coalesce(old.description, '')),
        search_parts(old.name || char(10) || coalesce(old.description, '')));
    INSERT INTO search_name (search_name, rowid, name) VALUES ('delete', old.doc, old.name);
END;
CREATE TRIGGER search_tasks_update AFTER UPDATE OF name, description ON tasks
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, old.name, search_text(coalesce(old.description, '')),
        search_parts(old.name || char(10) || coalesce(old.description, '')));
    INSERT INTO search_index (rowid, name, text, parts)
    VALUES (new.doc, new.name, search_text(coalesce(new.description, '')),
        search_parts(new.name || char(10) || coalesce(new.description, '')));
END;
CREATE TRIGGER search_tasks_rename AFTER UPDATE OF name ON tasks
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_name (search_name, rowid, name) VALUES ('delete', old.doc, old.name);
    INSERT INTO search_name (rowid, name) VALUES (new.doc, new.name);
END;
CREATE TRIGGER search_requirements_insert AFTER INSERT ON requirements
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (rowid, name, text, parts)
    VALUES (new.doc, '', search_text(new.description || char(10) || coalesce(new.source, '') || char(10)
        || new.user_stories || char(10) || new.acceptance_criteria),
        search_parts(new.description || char(10) || coalesce(new.source, '') || char(10)
        || new.user_stories || char(10) || new.acceptance_criteria));
END;
CREATE TRIGGER search_requirements_delete AFTER DELETE ON requirements
    WHEN old.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, '', search_text(old.description || char(10) || coalesce(old.source, '') || char(10)
        || old.user_stories || char(10) || old.acceptance_criteria),
        search_parts(old.description || char(10) || coalesce(old.source, '') || char(10)
        || old.user_stories || char(10) || old.acceptance_criteria));
END;
CREATE TRIGGER search_requirements_update AFTER UPDATE OF description, source, user_stories, acceptance_criteria ON requirements
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, '', search_text(old.description || char(10) || coalesce(old.source, '') || char(10)
        || old.user_stories || char(10) || old.acceptance_criteria),
        search_parts(old.description || char(10) || coalesce(old.source, '') || char(10)
        || old.user_stories || char(10) || old.acceptance_criteria));
    INSERT INTO search_index (rowid, name, text, parts)
    VALUES (new.doc, '', search_text(new.description || char(10) || coalesce(new.source, '') || char(10)
        || new.user_stories || char(10) || new.acceptance_criteria),
        search_parts(new.description || char(10) || coalesce(new.source, '') || char(10)
        || new.user_stories || char(10) || new.acceptance_criteria));
END;

-- migrate: down
-- Their triggers take them out of the index.
DELETE FROM requirements;
DELETE FROM tasks;
DELETE FROM sub_features;
DELETE FROM features;
DROP VIEW search_named;
DROP VIEW search_row;
DROP INDEX idx_jobs_lease;
DROP INDEX idx_service_lease;
ALTER TABLE service DROP COLUMN epoch;
ALTER TABLE service DROP COLUMN lease_id;
ALTER TABLE operation DROP COLUMN epoch;
ALTER TABLE operation DROP COLUMN lease_id;
DELETE FROM tag WHERE kind IN ('feature', 'task', 'requirement', 'agent');
DROP VIEW ready_tasks;
DROP TABLE fence;
DROP TABLE lease;
DROP TABLE sessions;
DROP TABLE metrics;
DROP TABLE requirement_feature;
DROP TABLE requirements;
DROP TABLE task_comment;
DROP TABLE task_note;
DROP TABLE task_dependency;
DROP TABLE tasks;
DROP TABLE agents;
DROP TABLE sub_features;
DROP TABLE features;
CREATE VIEW search_row (doc, name, text, parts) AS
    SELECT doc, title, '',
        search_parts(title)
        FROM conversations
    UNION ALL
    SELECT doc, '', search_text(content),
        search_parts(content)
        FROM messages WHERE status <> 'open'
    UNION ALL
    SELECT doc, coalesce(tool, ''), search_text(body),
        search_parts(coalesce(tool, '') || char(10) || body)
        FROM message_parts WHERE doc IS NOT NULL
    UNION ALL
    SELECT doc, coalesce(label, ''), command || char(10) || coalesce(reason, '') || char(10)
        || coalesce(stdout, '') || char(10) || coalesce(stderr, ''),
        search_parts(
        coalesce(label, '') || char(10) || command || char(10) || coalesce(reason, '') || char(10)
        || coalesce(stdout, '') || char(10) || coalesce(stderr, ''))
        FROM jobs
    UNION ALL
    SELECT doc, name, coalesce(reason, ''),
        search_parts(name || char(10) || coalesce(reason, ''))
        FROM service
    UNION ALL
    SELECT doc, name, '',
        search_parts(name)
        FROM vms;
CREATE VIEW search_named (doc, name) AS
    SELECT doc, title FROM conversations
    UNION ALL
    SELECT doc, coalesce(label, '') FROM jobs
    UNION ALL
    SELECT doc, name FROM service
    UNION ALL
    SELECT doc, name FROM vms;
