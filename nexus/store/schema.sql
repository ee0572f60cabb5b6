-- The schema of version 14, of a new database.
-- Written by tests/data/schemas/freeze.py from the migrations.

CREATE TABLE schema_meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
CREATE TABLE settings (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    type TEXT NOT NULL CHECK(type IN ('string', 'int', 'bool', 'json'))
);
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    subject_kind TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    subject_name TEXT,
    actor TEXT,
    uid INTEGER NOT NULL,
    pid INTEGER NOT NULL,
    detail TEXT NOT NULL DEFAULT '{}'
, operation_id INTEGER, row_table TEXT, row_key TEXT, revision INTEGER, before BLOB, after BLOB, project_id TEXT);
CREATE TABLE service_config (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    filename TEXT,
    format TEXT NOT NULL DEFAULT 'env' CHECK (format IN ('env', 'properties')),
    run_command TEXT  -- JSON: a string for the shell, or an array of words
);
CREATE TABLE port_lease (
    port INTEGER PRIMARY KEY CHECK (port BETWEEN 1 AND 65535),
    owner_kind TEXT NOT NULL,  -- of the record: service, dependency
    owner TEXT NOT NULL,  -- its id
    purpose TEXT NOT NULL,  -- run: of the present run; tunnel: kept from run to run
    leased_at INTEGER NOT NULL,
    UNIQUE (owner_kind, owner, purpose)
);
CREATE TABLE tag (
    kind TEXT NOT NULL,  -- of the record: service
    tag TEXT NOT NULL,
    record_id TEXT NOT NULL,
    PRIMARY KEY (kind, tag, record_id)
) WITHOUT ROWID;
CREATE INDEX idx_tag_record ON tag (kind, record_id);
CREATE TABLE operation (
    id INTEGER PRIMARY KEY,  -- grows; given by the daemon, and never twice
    at INTEGER NOT NULL,
    command TEXT NOT NULL,  -- of a request, or a cause of the daemon's own: process.exited
    args BLOB,  -- MessagePack, a map: the fields of the request without secrets
    why TEXT,  -- the client's words
    key TEXT,
    cause INTEGER,  -- the operation that led to this one
    actor TEXT,
    uid INTEGER NOT NULL,
    pid INTEGER NOT NULL
, project_id TEXT, lease_id TEXT, epoch INTEGER);
CREATE INDEX idx_operation_cause ON operation (cause) WHERE cause IS NOT NULL;
CREATE INDEX idx_journal_operation ON journal (operation_id) WHERE operation_id IS NOT NULL;
CREATE TABLE secret_value (
    digest BLOB PRIMARY KEY,  -- what stands in an image in place of the value
    value NOT NULL,
    seq INTEGER NOT NULL  -- the newest event with an image that refers to it
);
CREATE INDEX idx_secret_value_seq ON secret_value (seq);
CREATE TABLE request_key (
    key TEXT PRIMARY KEY,
    digest BLOB NOT NULL,  -- of the command with all its fields
    operation_id INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'done')),
    reply BLOB,  -- NULL: it is not kept
    expires_at INTEGER NOT NULL
);
CREATE INDEX idx_request_key_expires ON request_key (expires_at);
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
    state_revision INTEGER NOT NULL DEFAULT 0, doc INTEGER,
    UNIQUE (project_id, name)
);
CREATE INDEX idx_vms_created ON vms (created_at, id);
CREATE INDEX idx_vms_role ON vms (role, created_at, id);
CREATE INDEX idx_vms_state ON vms (state, created_at, id);
CREATE INDEX idx_vms_project_created ON vms (project_id, created_at, id);
CREATE INDEX idx_vms_project_role ON vms (project_id, role, created_at, id);
CREATE INDEX idx_vms_project_state ON vms (project_id, state, created_at, id);
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
    restart_pending_since INTEGER, tty INTEGER NOT NULL DEFAULT 0 CHECK (tty IN (0, 1)), stdin TEXT NOT NULL DEFAULT 'none' CHECK (stdin IN ('none', 'open')), doc INTEGER, lease_id TEXT, epoch INTEGER,  -- when a change came that takes effect with a restart
    UNIQUE (project_id, name)
);
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
CREATE INDEX idx_service_dependency_dependent ON service_dependency (dependent_service_id);
CREATE INDEX idx_service_name ON service (name, id);
CREATE INDEX idx_service_status ON service (status, name, id);
CREATE INDEX idx_service_project_status ON service (project_id, status, name, id);
CREATE TABLE record_number (
    project_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    last INTEGER NOT NULL,  -- the highest number that was given
    PRIMARY KEY (project_id, kind)
) WITHOUT ROWID;
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
    state_revision INTEGER NOT NULL DEFAULT 0, node_id TEXT NOT NULL DEFAULT 'local',
    UNIQUE (project_id, name),
    CHECK ((cron IS NULL) <> (every_ms IS NULL))
);
CREATE INDEX idx_schedules_name ON schedules (name, id);
CREATE INDEX idx_schedules_next ON schedules (next_at, id) WHERE next_at IS NOT NULL AND every_ms IS NULL;
CREATE INDEX idx_schedules_due ON schedules (due_clock, id) WHERE due_clock IS NOT NULL;
CREATE INDEX idx_schedules_group ON schedules (group_name);
CREATE TABLE conversations (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    project_id TEXT REFERENCES projects (id),  -- NULL: hidden
    title TEXT NOT NULL DEFAULT 'New Conversation',
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,  -- also of its last message
    metadata TEXT NOT NULL DEFAULT '{}',  -- JSON, an object; the next three columns tell parts of it
    tags TEXT NOT NULL DEFAULT '[]',
    archived INTEGER NOT NULL DEFAULT 0 CHECK (archived IN (0, 1)),
    pinned INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1)),
    folder TEXT,  -- where it was held
    tool TEXT,  -- the program that it was held with
    source TEXT,  -- what it was imported from, and its id there
    source_id TEXT,
    source_title TEXT,  -- the title that an import gave it last: another one was given by a client, and stays
    redacted INTEGER NOT NULL DEFAULT 0 CHECK (redacted IN (0, 1)),  -- an import replaced secrets
    forked_from TEXT,  -- the conversation that it begins like, which may be gone
    forked_at INTEGER,  -- up to the message with this number
    messages INTEGER NOT NULL DEFAULT 0,  -- how many it has
    last_number INTEGER NOT NULL DEFAULT 0,  -- the highest that a message was given
    tokens INTEGER NOT NULL DEFAULT 0,  -- of all its messages
    hidden TEXT CHECK (hidden IN ('deleted', 'copying')),  -- deleted: it goes in steps; copying: a fork that is not complete
    space_id TEXT,
    lease_id TEXT,
    epoch INTEGER,
    operation_id INTEGER,  -- of hidden: whose work it is
    revision INTEGER NOT NULL DEFAULT 1,
    state_revision INTEGER NOT NULL DEFAULT 0,
    doc INTEGER NOT NULL UNIQUE,
    UNIQUE (project_id, number),
    CHECK ((project_id IS NULL) = (hidden IS NOT NULL))
);
CREATE INDEX idx_conversations_updated_at ON conversations (updated_at DESC, id DESC);
CREATE INDEX idx_conversations_project ON conversations (project_id, updated_at, id);
CREATE INDEX idx_conversations_archived ON conversations (archived, updated_at, id);
CREATE INDEX idx_conversations_project_archived ON conversations (project_id, archived, updated_at, id);
CREATE INDEX idx_conversations_pinned ON conversations (pinned, updated_at, id);
CREATE INDEX idx_conversations_project_pinned ON conversations (project_id, pinned, updated_at, id);
CREATE UNIQUE INDEX idx_conversations_source ON conversations (source, source_id) WHERE source_id IS NOT NULL;
CREATE INDEX idx_conversations_hidden ON conversations (hidden) WHERE hidden IS NOT NULL;
CREATE INDEX idx_conversations_operation ON conversations (operation_id) WHERE operation_id IS NOT NULL;
CREATE TABLE messages (
    id TEXT PRIMARY KEY,
    conversation_id TEXT NOT NULL REFERENCES conversations (id),
    number INTEGER NOT NULL,  -- in the conversation; given once
    parent_id TEXT,  -- the message that it answers, which may be gone
    role TEXT NOT NULL CHECK (role IN ('user', 'assistant', 'system', 'tool')),
    status TEXT NOT NULL DEFAULT 'complete' CHECK (status IN ('open', 'complete', 'incomplete')),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    metadata TEXT,  -- JSON, an object
    source TEXT,
    source_id TEXT,
    source_form TEXT,  -- of an import: the revision that it made, and a digest of what it was made of
    model TEXT,
    tokens INTEGER CHECK (tokens >= 0),
    size_bytes INTEGER NOT NULL,  -- of its content and the bodies of its parts
    space_id TEXT,
    lease_id TEXT,
    epoch INTEGER,
    operation_id INTEGER,  -- of the request that made it
    revision INTEGER NOT NULL DEFAULT 1,
    doc INTEGER NOT NULL UNIQUE,
    -- What a person reads; empty while it is open: its parts have it then. Last, so that no other column is behind it.
    content TEXT NOT NULL
);
CREATE UNIQUE INDEX idx_messages_conversation_id ON messages (conversation_id, number);
CREATE INDEX idx_messages_created_at ON messages (created_at);
CREATE UNIQUE INDEX idx_messages_source ON messages (source, source_id) WHERE source_id IS NOT NULL;
CREATE INDEX idx_messages_long ON messages (doc) WHERE length(content) > 65536;
CREATE INDEX idx_messages_open ON messages (status) WHERE status = 'open';
CREATE TABLE blobs (
    hash TEXT PRIMARY KEY,  -- SHA-256 in hexadecimal: the name of the file
    size_bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE message_parts (
    message_id TEXT NOT NULL REFERENCES messages (id),
    number INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('text', 'thinking', 'tool_use', 'tool_result', 'image', 'file', 'raw')),
    tool TEXT,
    call_id TEXT,
    name TEXT,
    media_type TEXT,
    body TEXT,  -- NULL: from start on, length characters of the content
    start INTEGER,
    length INTEGER,
    blob TEXT REFERENCES blobs (hash),
    continues INTEGER NOT NULL DEFAULT 0 CHECK (continues IN (0, 1)),  -- more of the part before, of an open message
    doc INTEGER UNIQUE,  -- of one with a body that the search covers; of an open message once it was idle
    PRIMARY KEY (message_id, number)
);
CREATE INDEX idx_message_parts_blob ON message_parts (blob) WHERE blob IS NOT NULL;
CREATE TABLE message_revision (
    message_id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    conversation_id TEXT NOT NULL REFERENCES conversations (id),
    number INTEGER NOT NULL,
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    parts TEXT,  -- JSON, a list; NULL: it was text alone
    change TEXT NOT NULL CHECK (change IN ('edited', 'deleted')),
    size_bytes INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    operation_id INTEGER,
    PRIMARY KEY (message_id, revision)
);
CREATE INDEX idx_message_revision_conversation ON message_revision (conversation_id, number);
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    seq INTEGER NOT NULL UNIQUE,  -- the order of submission over all projects
    project_id TEXT NOT NULL REFERENCES projects (id),
    conversation_id TEXT REFERENCES conversations (id),
    message_id TEXT REFERENCES messages (id),
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
    doc INTEGER NOT NULL UNIQUE,
    UNIQUE (project_id, number)
);
CREATE INDEX idx_jobs_conversation_id ON jobs (conversation_id, seq) WHERE conversation_id IS NOT NULL;
CREATE INDEX idx_jobs_project_conversation ON jobs (project_id, conversation_id, seq) WHERE conversation_id IS NOT NULL;
CREATE INDEX idx_jobs_message_id ON jobs (message_id) WHERE message_id IS NOT NULL;
CREATE INDEX idx_jobs_status ON jobs (status, seq);
CREATE INDEX idx_jobs_created_at ON jobs (created_at);
CREATE INDEX idx_jobs_project_status ON jobs (project_id, status, seq);
CREATE INDEX idx_jobs_project ON jobs (project_id, seq);
CREATE INDEX idx_jobs_group ON jobs (group_name, seq);
CREATE INDEX idx_jobs_project_group ON jobs (project_id, group_name, seq);
CREATE INDEX idx_jobs_due ON jobs (not_before) WHERE status = 'queued' AND not_before IS NOT NULL;
CREATE INDEX idx_jobs_output ON jobs (completed_at, output_bytes) WHERE output_bytes > 0;
CREATE INDEX idx_jobs_ended ON jobs (completed_at) WHERE completed_at IS NOT NULL;
CREATE INDEX idx_jobs_operation ON jobs (operation_id) WHERE operation_id IS NOT NULL;
CREATE INDEX idx_jobs_service ON jobs (service_id) WHERE service_id IS NOT NULL;
CREATE INDEX idx_jobs_schedule ON jobs (schedule_id, number) WHERE schedule_id IS NOT NULL AND completed_at IS NULL;
CREATE UNIQUE INDEX idx_service_doc ON service (doc);
CREATE UNIQUE INDEX idx_vms_doc ON vms (doc);
CREATE TABLE conversation_sources (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    project_id TEXT NOT NULL REFERENCES projects (id),
    path TEXT NOT NULL UNIQUE,
    format TEXT NOT NULL,
    watched INTEGER NOT NULL DEFAULT 0 CHECK (watched IN (0, 1)),
    redact TEXT,  -- the file with patterns of what is replaced
    redact_secrets INTEGER NOT NULL DEFAULT 0 CHECK (redact_secrets IN (0, 1)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    offset_bytes INTEGER NOT NULL DEFAULT 0,  -- up to here it was read
    size_bytes INTEGER NOT NULL DEFAULT 0,
    inode INTEGER,
    head TEXT,  -- the length and the hash of its beginning
    state TEXT NOT NULL DEFAULT '{}',  -- JSON: what the reader must know to go on
    messages INTEGER NOT NULL DEFAULT 0,  -- imported from it, without those of conversations that were deleted
    deleted INTEGER NOT NULL DEFAULT 0,  -- how many of its conversations were deleted here, and not imported again
    skipped TEXT NOT NULL DEFAULT '{}',  -- JSON: how many lines were not imported, by reason
    last_error TEXT,
    read_at INTEGER,
    revision INTEGER NOT NULL DEFAULT 1,
    state_revision INTEGER NOT NULL DEFAULT 0,
    UNIQUE (project_id, number)
);
CREATE INDEX idx_conversation_sources_order ON conversation_sources (path, id);
CREATE INDEX idx_conversation_sources_project ON conversation_sources (project_id, path, id);
CREATE INDEX idx_conversation_sources_watched ON conversation_sources (watched, path, id);
CREATE INDEX idx_conversation_sources_project_watched ON conversation_sources (project_id, watched, path, id);
CREATE TABLE conversation_origins (
    source TEXT NOT NULL,  -- of the conversation, and its id there
    source_id TEXT NOT NULL,
    file_id TEXT NOT NULL,  -- the row of conversation_sources, which may be gone
    messages INTEGER NOT NULL DEFAULT 0,  -- that were imported from there
    deleted INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1)),
    PRIMARY KEY (source, source_id, file_id)
);
CREATE INDEX idx_conversation_origins_file ON conversation_origins (file_id, deleted);
CREATE TABLE search_state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    splitting INTEGER NOT NULL,  -- the version of search_parts that the index was made with
    indexed_to INTEGER NOT NULL  -- the highest doc that it holds: the greatest of all integers, but during a rebuild
);
CREATE VIRTUAL TABLE search_index USING fts5 (
    name, text, parts, content = 'search_row', content_rowid = 'doc', tokenize = 'unicode61 remove_diacritics 2'
);
CREATE VIRTUAL TABLE search_name USING fts5 (
    name, content = 'search_named', content_rowid = 'doc', tokenize = 'trigram'
);
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
CREATE INDEX idx_nodes_status ON nodes (status, name);
CREATE INDEX idx_jobs_next ON jobs (group_name, node_id, priority DESC, place)
    WHERE status = 'queued' AND waits_for = 0 AND not_before IS NULL;
CREATE INDEX idx_jobs_node ON jobs (node_id, seq) WHERE node_id <> 'local' AND completed_at IS NULL;
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
CREATE INDEX tasks_ready_idx ON tasks (project_id, priority, number)
    WHERE status IN ('pending', 'queued') AND open_dependencies = 0;
CREATE INDEX tasks_claimable_idx ON tasks (project_id, priority, number)
    WHERE status IN ('pending', 'queued') AND open_dependencies = 0 AND type <> 'checkpoint';
CREATE VIEW ready_tasks AS
    SELECT tasks.* FROM tasks JOIN projects ON projects.id = tasks.project_id
    WHERE tasks.status IN ('pending', 'queued') AND tasks.open_dependencies = 0
        AND projects.status NOT IN ('paused', 'completed', 'failed');
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
CREATE TABLE fence (
    resource_kind TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    PRIMARY KEY (resource_kind, resource_id)
) WITHOUT ROWID;
CREATE INDEX idx_service_lease ON service (lease_id) WHERE lease_id IS NOT NULL;
CREATE INDEX idx_jobs_lease ON jobs (lease_id) WHERE lease_id IS NOT NULL AND completed_at IS NULL;
CREATE TABLE checkpoints (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    project_id TEXT NOT NULL REFERENCES projects (id),
    name TEXT,
    reason TEXT,
    automatic INTEGER NOT NULL DEFAULT 0 CHECK (automatic IN (0, 1)),
    state BLOB NOT NULL,  -- the rows of the project, compressed
    size INTEGER NOT NULL,  -- bytes of state
    counts TEXT NOT NULL DEFAULT '{}',  -- JSON, an object: table -> rows
    git_commit TEXT,
    restored_from TEXT,  -- the id of the checkpoint before whose restore this one was made
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    revision INTEGER NOT NULL DEFAULT 1,
    state_revision INTEGER NOT NULL DEFAULT 0,
    UNIQUE (project_id, number)
);
CREATE INDEX checkpoints_project_idx ON checkpoints (project_id);
CREATE INDEX checkpoints_automatic_idx ON checkpoints (project_id, automatic, number);
CREATE INDEX checkpoints_number_idx ON checkpoints (number, id);
CREATE TABLE continue_points (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    project_id TEXT NOT NULL REFERENCES projects (id),
    task_id TEXT NOT NULL,
    last_action TEXT NOT NULL,
    file TEXT,
    line INTEGER,
    function_name TEXT,
    next_steps TEXT NOT NULL DEFAULT '[]',  -- JSON, a list
    agent_id TEXT,
    iteration_count INTEGER NOT NULL DEFAULT 0,
    saved_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    revision INTEGER NOT NULL DEFAULT 1,
    state_revision INTEGER NOT NULL DEFAULT 0,
    UNIQUE (project_id, number)
);
CREATE INDEX continue_points_project_idx ON continue_points (project_id);
CREATE INDEX continue_points_task_idx ON continue_points (task_id, saved_at, id);
CREATE INDEX continue_points_of_task_idx ON continue_points (project_id, task_id, number);
CREATE INDEX continue_points_of_agent_idx ON continue_points (project_id, agent_id, number);
CREATE INDEX continue_points_number_idx ON continue_points (number, id);
CREATE TABLE episodes (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    project_id TEXT NOT NULL REFERENCES projects (id),
    type TEXT NOT NULL
        CHECK (type IN ('code_generation', 'error_fix', 'review_feedback', 'decision', 'research')),
    content TEXT NOT NULL,
    summary TEXT,
    embedding BLOB,  -- 32-bit floats, the lowest byte first
    context TEXT NOT NULL DEFAULT '{}',  -- JSON, an object
    task_id TEXT,
    agent_id TEXT,
    importance REAL NOT NULL DEFAULT 1.0 CHECK (importance >= 0),
    tags TEXT NOT NULL DEFAULT '[]',  -- JSON, a list
    access_count INTEGER NOT NULL DEFAULT 0,
    last_accessed_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    revision INTEGER NOT NULL DEFAULT 1,
    state_revision INTEGER NOT NULL DEFAULT 0,
    doc INTEGER NOT NULL UNIQUE,
    UNIQUE (project_id, number)
);
CREATE INDEX episodes_project_idx ON episodes (project_id);
CREATE INDEX episodes_type_idx ON episodes (type);
CREATE INDEX episodes_of_type_idx ON episodes (project_id, type, number);
CREATE INDEX episodes_of_task_idx ON episodes (project_id, task_id, number);
CREATE INDEX episodes_of_agent_idx ON episodes (project_id, agent_id, number);
CREATE INDEX episodes_number_idx ON episodes (number, id);
CREATE INDEX episodes_embedded_idx ON episodes (project_id, id) WHERE embedding IS NOT NULL;
CREATE TABLE kept_embedding (
    episode_id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    embedding BLOB NOT NULL,
    deleted_at INTEGER NOT NULL
);
CREATE INDEX kept_embedding_project_idx ON kept_embedding (project_id, deleted_at);
CREATE TABLE code_chunks (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    file TEXT NOT NULL,
    start_line INTEGER NOT NULL CHECK (start_line >= 1),
    end_line INTEGER NOT NULL CHECK (end_line >= start_line),
    content TEXT NOT NULL,
    embedding BLOB,  -- 32-bit floats, the lowest byte first
    symbols TEXT NOT NULL DEFAULT '[]',  -- JSON, a list
    chunk_type TEXT NOT NULL CHECK (
        chunk_type IN ('function', 'class', 'method', 'module', 'interface', 'type', 'comment', 'other')
    ),
    language TEXT NOT NULL,
    complexity INTEGER,
    hash TEXT NOT NULL,
    indexed_at INTEGER NOT NULL,
    doc INTEGER NOT NULL UNIQUE
);
CREATE INDEX code_chunks_file_idx ON code_chunks (file);
CREATE INDEX code_chunks_project_idx ON code_chunks (project_id);
CREATE INDEX code_chunks_of_file_idx ON code_chunks (project_id, file, start_line, id);
CREATE INDEX code_chunks_hash_idx ON code_chunks (hash);
CREATE INDEX code_chunks_embedded_idx ON code_chunks (project_id, id) WHERE embedding IS NOT NULL;
CREATE TABLE chunk_symbol (
    chunk_id TEXT NOT NULL,
    symbol TEXT NOT NULL,
    project_id TEXT NOT NULL,
    folded TEXT NOT NULL,
    PRIMARY KEY (chunk_id, symbol)
) WITHOUT ROWID;
CREATE INDEX chunk_symbol_folded_idx ON chunk_symbol (project_id, folded, chunk_id);
CREATE TABLE vector_collection (
    project_id TEXT NOT NULL,
    collection TEXT NOT NULL CHECK (collection IN ('episodes', 'chunks')),
    dimension INTEGER NOT NULL CHECK (dimension BETWEEN 1 AND 8192),
    generation INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (project_id, collection)
) WITHOUT ROWID;
CREATE TABLE vector_change (
    project_id TEXT NOT NULL,
    collection TEXT NOT NULL,
    generation INTEGER NOT NULL,
    record_id TEXT NOT NULL,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (project_id, collection, generation, record_id)
) WITHOUT ROWID;
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
        FROM requirements
    UNION ALL
    SELECT doc, '', search_text(coalesce(summary, '') || char(10) || content),
        search_parts(coalesce(summary, '') || char(10) || content)
        FROM episodes
    UNION ALL
    SELECT doc, file, search_text(symbols || char(10) || content),
        search_parts(file || char(10) || symbols || char(10) || content)
        FROM code_chunks;
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
    SELECT doc, name FROM tasks
    UNION ALL
    SELECT doc, file FROM code_chunks;
INSERT INTO projects (id, name, description, mode, status, root_path, repository_url, settings, created_at, updated_at, completed_at, revision, state_revision) VALUES ('00000000-0000-4000-8000-000000000000', 'default', NULL, 'genesis', 'created', NULL, NULL, '{}', 0, 0, NULL, 1, 0);
INSERT INTO job_group (id, name, managed_by, slots, paused, created_at, updated_at, revision, state_revision) VALUES ('00000000-0000-4000-8000-000000000300', 'default', NULL, NULL, 0, 0, 0, 1, 0);
INSERT INTO search_state (id, splitting, indexed_to) VALUES (1, 1, 9223372036854775807);
INSERT INTO nodes (id, name, managed_by, hostname, user, port, ip_address, status, reason, drained, capabilities, last_heartbeat, created_at, updated_at, revision, state_revision) VALUES ('local', 'local', NULL, 'localhost', NULL, NULL, NULL, 'online', NULL, 0, '{}', NULL, 0, 0, 1, 0);
CREATE TRIGGER search_conversations_insert AFTER INSERT ON conversations
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (rowid, name, text, parts)
    VALUES (new.doc, new.title, '',
        search_parts(new.title));
    INSERT INTO search_name (rowid, name) VALUES (new.doc, new.title);
END;
CREATE TRIGGER search_conversations_delete AFTER DELETE ON conversations
    WHEN old.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, old.title, '',
        search_parts(old.title));
    INSERT INTO search_name (search_name, rowid, name) VALUES ('delete', old.doc, old.title);
END;
CREATE TRIGGER search_conversations_update AFTER UPDATE OF title ON conversations
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, old.title, '',
        search_parts(old.title));
    INSERT INTO search_index (rowid, name, text, parts)
    VALUES (new.doc, new.title, '',
        search_parts(new.title));
END;
CREATE TRIGGER search_conversations_rename AFTER UPDATE OF title ON conversations
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_name (search_name, rowid, name) VALUES ('delete', old.doc, old.title);
    INSERT INTO search_name (rowid, name) VALUES (new.doc, new.title);
END;
CREATE TRIGGER search_messages_delete AFTER DELETE ON messages
    WHEN old.doc <= (SELECT indexed_to FROM search_state) AND old.status <> 'open' BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, '', search_text(old.content),
        search_parts(old.content));
END;
CREATE TRIGGER search_messages_update AFTER UPDATE OF content, status ON messages
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    SELECT 'delete', old.doc, '', search_text(old.content),
        search_parts(old.content)
    WHERE old.status <> 'open';
    INSERT INTO search_index (rowid, name, text, parts)
    SELECT new.doc, '', search_text(new.content),
        search_parts(new.content)
    WHERE new.status <> 'open';
END;
CREATE TRIGGER search_message_parts_delete AFTER DELETE ON message_parts
    WHEN old.doc <= (SELECT indexed_to FROM search_state) AND old.doc IS NOT NULL BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, coalesce(old.tool, ''), search_text(old.body),
        search_parts(coalesce(old.tool, '') || char(10) || old.body));
END;
CREATE TRIGGER search_message_parts_update AFTER UPDATE OF doc, tool, body ON message_parts BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    SELECT 'delete', old.doc, coalesce(old.tool, ''), search_text(old.body),
        search_parts(coalesce(old.tool, '') || char(10) || old.body)
    WHERE old.doc <= (SELECT indexed_to FROM search_state);
    INSERT INTO search_index (rowid, name, text, parts)
    SELECT new.doc, coalesce(new.tool, ''), search_text(new.body),
        search_parts(coalesce(new.tool, '') || char(10) || new.body)
    WHERE new.doc <= (SELECT indexed_to FROM search_state);
END;
CREATE TRIGGER search_jobs_insert AFTER INSERT ON jobs
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (rowid, name, text, parts)
    VALUES (new.doc, coalesce(new.label, ''), new.command || char(10) || coalesce(new.reason, '') || char(10)
        || coalesce(new.stdout, '') || char(10) || coalesce(new.stderr, ''),
        search_parts(
        coalesce(new.label, '') || char(10) || new.command || char(10) || coalesce(new.reason, '') || char(10)
        || coalesce(new.stdout, '') || char(10) || coalesce(new.stderr, '')));
    INSERT INTO search_name (rowid, name) VALUES (new.doc, coalesce(new.label, ''));
END;
CREATE TRIGGER search_jobs_delete AFTER DELETE ON jobs
    WHEN old.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, coalesce(old.label, ''), old.command || char(10) || coalesce(old.reason, '') || char(10)
        || coalesce(old.stdout, '') || char(10) || coalesce(old.stderr, ''),
        search_parts(
        coalesce(old.label, '') || char(10) || old.command || char(10) || coalesce(old.reason, '') || char(10)
        || coalesce(old.stdout, '') || char(10) || coalesce(old.stderr, '')));
    INSERT INTO search_name (search_name, rowid, name) VALUES ('delete', old.doc, coalesce(old.label, ''));
END;
CREATE TRIGGER search_jobs_update AFTER UPDATE OF label, command, reason, stdout, stderr ON jobs
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, coalesce(old.label, ''), old.command || char(10) || coalesce(old.reason, '') || char(10)
        || coalesce(old.stdout, '') || char(10) || coalesce(old.stderr, ''),
        search_parts(
        coalesce(old.label, '') || char(10) || old.command || char(10) || coalesce(old.reason, '') || char(10)
        || coalesce(old.stdout, '') || char(10) || coalesce(old.stderr, '')));
    INSERT INTO search_index (rowid, name, text, parts)
    VALUES (new.doc, coalesce(new.label, ''), new.command || char(10) || coalesce(new.reason, '') || char(10)
        || coalesce(new.stdout, '') || char(10) || coalesce(new.stderr, ''),
        search_parts(
        coalesce(new.label, '') || char(10) || new.command || char(10) || coalesce(new.reason, '') || char(10)
        || coalesce(new.stdout, '') || char(10) || coalesce(new.stderr, '')));
END;
CREATE TRIGGER search_jobs_rename AFTER UPDATE OF label ON jobs
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_name (search_name, rowid, name) VALUES ('delete', old.doc, coalesce(old.label, ''));
    INSERT INTO search_name (rowid, name) VALUES (new.doc, coalesce(new.label, ''));
END;
CREATE TRIGGER search_service_insert AFTER INSERT ON service
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (rowid, name, text, parts)
    VALUES (new.doc, new.name, coalesce(new.reason, ''),
        search_parts(new.name || char(10) || coalesce(new.reason, '')));
    INSERT INTO search_name (rowid, name) VALUES (new.doc, new.name);
END;
CREATE TRIGGER search_service_delete AFTER DELETE ON service
    WHEN old.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, old.name, coalesce(old.reason, ''),
        search_parts(old.name || char(10) || coalesce(old.reason, '')));
    INSERT INTO search_name (search_name, rowid, name) VALUES ('delete', old.doc, old.name);
END;
CREATE TRIGGER search_service_update AFTER UPDATE OF name, reason ON service
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, old.name, coalesce(old.reason, ''),
        search_parts(old.name || char(10) || coalesce(old.reason, '')));
    INSERT INTO search_index (rowid, name, text, parts)
    VALUES (new.doc, new.name, coalesce(new.reason, ''),
        search_parts(new.name || char(10) || coalesce(new.reason, '')));
END;
CREATE TRIGGER search_service_rename AFTER UPDATE OF name ON service
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_name (search_name, rowid, name) VALUES ('delete', old.doc, old.name);
    INSERT INTO search_name (rowid, name) VALUES (new.doc, new.name);
END;
CREATE TRIGGER search_vms_insert AFTER INSERT ON vms
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (rowid, name, text, parts)
    VALUES (new.doc, new.name, '',
        search_parts(new.name));
    INSERT INTO search_name (rowid, name) VALUES (new.doc, new.name);
END;
CREATE TRIGGER search_vms_delete AFTER DELETE ON vms
    WHEN old.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, old.name, '',
        search_parts(old.name));
    INSERT INTO search_name (search_name, rowid, name) VALUES ('delete', old.doc, old.name);
END;
CREATE TRIGGER search_vms_update AFTER UPDATE OF name ON vms
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, old.name, '',
        search_parts(old.name));
    INSERT INTO search_index (rowid, name, text, parts)
    VALUES (new.doc, new.name, '',
        search_parts(new.name));
END;
CREATE TRIGGER search_vms_rename AFTER UPDATE OF name ON vms
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_name (search_name, rowid, name) VALUES ('delete', old.doc, old.name);
    INSERT INTO search_name (rowid, name) VALUES (new.doc, new.name);
END;
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
CREATE TRIGGER search_episodes_insert AFTER INSERT ON episodes
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (rowid, name, text, parts)
    VALUES (new.doc, '', search_text(coalesce(new.summary, '') || char(10) || new.content),
        search_parts(coalesce(new.summary, '') || char(10) || new.content));
END;
CREATE TRIGGER search_episodes_delete AFTER DELETE ON episodes
    WHEN old.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, '', search_text(coalesce(old.summary, '') || char(10) || old.content),
        search_parts(coalesce(old.summary, '') || char(10) || old.content));
END;
CREATE TRIGGER search_episodes_update AFTER UPDATE OF summary, content ON episodes
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, '', search_text(coalesce(old.summary, '') || char(10) || old.content),
        search_parts(coalesce(old.summary, '') || char(10) || old.content));
    INSERT INTO search_index (rowid, name, text, parts)
    VALUES (new.doc, '', search_text(coalesce(new.summary, '') || char(10) || new.content),
        search_parts(coalesce(new.summary, '') || char(10) || new.content));
END;
CREATE TRIGGER search_code_chunks_delete AFTER DELETE ON code_chunks
    WHEN old.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, old.file, search_text(old.symbols || char(10) || old.content),
        search_parts(old.file || char(10) || old.symbols || char(10) || old.content));
    INSERT INTO search_name (search_name, rowid, name) VALUES ('delete', old.doc, old.file);
END;
CREATE TRIGGER search_code_chunks_update AFTER UPDATE OF file, symbols, content ON code_chunks
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_index (search_index, rowid, name, text, parts)
    VALUES ('delete', old.doc, old.file, search_text(old.symbols || char(10) || old.content),
        search_parts(old.file || char(10) || old.symbols || char(10) || old.content));
    INSERT INTO search_index (rowid, name, text, parts)
    VALUES (new.doc, new.file, search_text(new.symbols || char(10) || new.content),
        search_parts(new.file || char(10) || new.symbols || char(10) || new.content));
END;
CREATE TRIGGER search_code_chunks_rename AFTER UPDATE OF file ON code_chunks
    WHEN new.doc <= (SELECT indexed_to FROM search_state) BEGIN
    INSERT INTO search_name (search_name, rowid, name) VALUES ('delete', old.doc, old.file);
    INSERT INTO search_name (rowid, name) VALUES (new.doc, new.file);
END;
