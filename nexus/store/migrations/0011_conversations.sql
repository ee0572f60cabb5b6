-- Conversations with their messages, and the search index over conversations, messages and their parts, jobs, services
-- and VMs, which knows each of them by its number doc.

-- migrate: up
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
-- Those of which the index has a part only: see search_text below.
CREATE INDEX idx_messages_long ON messages (doc) WHERE length(content) > 65536;
CREATE INDEX idx_messages_open ON messages (status) WHERE status = 'open';

CREATE TABLE blobs (
    hash TEXT PRIMARY KEY,  -- SHA-256 in hexadecimal: the name of the file
    size_bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) WITHOUT ROWID;

-- What a message was made of. One that is text alone has no parts.
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

-- What messages were before they were edited or deleted. They go with their conversation.
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

-- From now on jobs name conversations and messages that exist. There are none yet: what jobs name stays in metadata.
-- The numbers doc are given once over all tables that the search covers.
ALTER TABLE jobs RENAME TO old_jobs;
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
INSERT INTO jobs (
    id, number, seq, project_id, node_id, tool, command, argv, directory, environment, stdin_data, stdin_path,
    stdin_open, tty, service_id, schedule_id, group_name, priority, place, label, tags, after, waits_for, not_before,
    timeout_ms, retries, retry_backoff_ms, stop_signal, stop_grace_ms, memory_limit_mib, cpu_limit_percent,
    log_limit_mib, status, reason, reason_code, attempt, retry_of, run_id, pid, exit_code, exit_signal, stdout,
    stderr, output_bytes, duration, created_at, updated_at, started_at, completed_at, unknown_since, space_id,
    lease_id, epoch, operation_id, revision, state_revision, metadata, doc
)
SELECT
    id, number, seq, project_id, node_id, tool, command, argv, directory, environment, stdin_data, stdin_path,
    stdin_open, tty, service_id, schedule_id, group_name, priority, place, label, tags, after, waits_for, not_before,
    timeout_ms, retries, retry_backoff_ms, stop_signal, stop_grace_ms, memory_limit_mib, cpu_limit_percent,
    log_limit_mib, status, reason, reason_code, attempt, retry_of, run_id, pid, exit_code, exit_signal, stdout,
    stderr, output_bytes, duration, created_at, updated_at, started_at, completed_at, unknown_since, space_id,
    lease_id, epoch, operation_id, revision, state_revision,
    iif(conversation_id IS NULL AND message_id IS NULL, metadata,
        json_patch(metadata, json_object('conversation_id', conversation_id, 'message_id', message_id))),
    row_number() OVER (ORDER BY seq)
FROM old_jobs;
DROP TABLE old_jobs;
CREATE INDEX idx_jobs_conversation_id ON jobs (conversation_id, seq) WHERE conversation_id IS NOT NULL;
CREATE INDEX idx_jobs_project_conversation ON jobs (project_id, conversation_id, seq) WHERE conversation_id IS NOT NULL;
CREATE INDEX idx_jobs_message_id ON jobs (message_id) WHERE message_id IS NOT NULL;
CREATE INDEX idx_jobs_status ON jobs (status, seq);
CREATE INDEX idx_jobs_created_at ON jobs (created_at);
CREATE INDEX idx_jobs_project_status ON jobs (project_id, status, seq);
CREATE INDEX idx_jobs_project ON jobs (project_id, seq);
CREATE INDEX idx_jobs_group ON jobs (group_name, seq);
CREATE INDEX idx_jobs_project_group ON jobs (project_id, group_name, seq);
-- The next jobs of a group, and those whose time comes; what waits is in neither of a group's way.
CREATE INDEX idx_jobs_next ON jobs (group_name, priority DESC, place)
    WHERE status = 'queued' AND waits_for = 0 AND not_before IS NULL;
CREATE INDEX idx_jobs_due ON jobs (not_before) WHERE status = 'queued' AND not_before IS NOT NULL;
CREATE INDEX idx_jobs_output ON jobs (completed_at, output_bytes) WHERE output_bytes > 0;
CREATE INDEX idx_jobs_ended ON jobs (completed_at) WHERE completed_at IS NOT NULL;
CREATE INDEX idx_jobs_operation ON jobs (operation_id) WHERE operation_id IS NOT NULL;
CREATE INDEX idx_jobs_service ON jobs (service_id) WHERE service_id IS NOT NULL;
CREATE INDEX idx_jobs_schedule ON jobs (schedule_id, number) WHERE schedule_id IS NOT NULL AND completed_at IS NULL;

ALTER TABLE service ADD COLUMN doc INTEGER;
UPDATE service SET doc = (SELECT count(*) FROM jobs) + rowid;
CREATE UNIQUE INDEX idx_service_doc ON service (doc);
ALTER TABLE vms ADD COLUMN doc INTEGER;
UPDATE vms SET doc = (SELECT coalesce(max(doc), (SELECT count(*) FROM jobs)) FROM service) + rowid;
CREATE UNIQUE INDEX idx_vms_doc ON vms (doc);
INSERT INTO record_number (project_id, kind, last)
    SELECT '', 'doc', max(doc) FROM (SELECT doc FROM jobs UNION ALL SELECT doc FROM service UNION ALL SELECT doc FROM vms)
    HAVING max(doc) IS NOT NULL;

-- Files and folders from which conversations are imported, and how far each was read.
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
-- Which conversations a source has. What was deleted here stays, so that no follower makes it again.
CREATE TABLE conversation_origins (
    source TEXT NOT NULL,  -- of the conversation, and its id there
    source_id TEXT NOT NULL,
    file_id TEXT NOT NULL,  -- the row of conversation_sources, which may be gone
    messages INTEGER NOT NULL DEFAULT 0,  -- that were imported from there
    deleted INTEGER NOT NULL DEFAULT 0 CHECK (deleted IN (0, 1)),
    PRIMARY KEY (source, source_id, file_id)
);
CREATE INDEX idx_conversation_origins_file ON conversation_origins (file_id, deleted);

-- The search index. Its content is the view search_row, in which each row has its number doc unchanged, so that a
-- look-up by it is one search in each table. The column parts has what the tokenizer does not find by itself: see
-- nexus/store/splitting.py, as search_text, which leaves out the middle of a text that would hold up others. Rows of hidden conversations stay in the index until they are deleted, so that hiding one
-- is a small write: what searches leaves them out by a join.
CREATE TABLE search_state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    splitting INTEGER NOT NULL,  -- the version of search_parts that the index was made with
    indexed_to INTEGER NOT NULL  -- the highest doc that it holds: the greatest of all integers, but during a rebuild
);
INSERT INTO search_state (id, splitting, indexed_to) VALUES (1, search_splitting(), 9223372036854775807);
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
CREATE VIRTUAL TABLE search_index USING fts5 (
    name, text, parts, content = 'search_row', content_rowid = 'doc', tokenize = 'unicode61 remove_diacritics 2'
);
-- Eight segments of a level are merged at once, and not four: a tenth less work for each row, and a query looks at more.
-- All of a level is merged in one transaction only where four times as many are there.
INSERT INTO search_index (search_index, rank) VALUES ('automerge', 8);
INSERT INTO search_index (search_index, rank) VALUES ('crisismerge', 32);
-- Names and titles also by what stands within a word.
CREATE VIEW search_named (doc, name) AS
    SELECT doc, title FROM conversations
    UNION ALL
    SELECT doc, coalesce(label, '') FROM jobs
    UNION ALL
    SELECT doc, name FROM service
    UNION ALL
    SELECT doc, name FROM vms;
CREATE VIRTUAL TABLE search_name USING fts5 (
    name, content = 'search_named', content_rowid = 'doc', tokenize = 'trigram'
);
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
-- New messages and parts have no trigger: the program adds them to the index itself. FTS5 writes what it has gathered
-- whenever a statement with a trigger begins, which takes as long as adding the row.
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
INSERT INTO search_index (search_index) VALUES ('rebuild');
INSERT INTO search_name (search_name) VALUES ('rebuild');

-- migrate: down
DROP TABLE conversation_origins;
DROP TABLE conversation_sources;
DROP TRIGGER search_conversations_insert;
DROP TRIGGER search_conversations_delete;
DROP TRIGGER search_conversations_update;
DROP TRIGGER search_conversations_rename;
DROP TRIGGER search_messages_delete;
DROP TRIGGER search_messages_update;
DROP TRIGGER search_message_parts_delete;
DROP TRIGGER search_message_parts_update;
DROP TRIGGER search_jobs_insert;
DROP TRIGGER search_jobs_delete;
DROP TRIGGER search_jobs_update;
DROP TRIGGER search_jobs_rename;
DROP TRIGGER search_service_insert;
DROP TRIGGER search_service_delete;
DROP TRIGGER search_service_update;
DROP TRIGGER search_service_rename;
DROP TRIGGER search_vms_insert;
DROP TRIGGER search_vms_delete;
DROP TRIGGER search_vms_update;
DROP TRIGGER search_vms_rename;
DROP TABLE search_name;
DROP VIEW search_named;
DROP TABLE search_index;
DROP VIEW search_row;
DROP TABLE search_state;
DELETE FROM tag WHERE kind = 'conversation';
DELETE FROM record_number WHERE kind IN ('conversation', 'conversation_source', 'doc');
DROP INDEX idx_vms_doc;
ALTER TABLE vms DROP COLUMN doc;
DROP INDEX idx_service_doc;
ALTER TABLE service DROP COLUMN doc;
ALTER TABLE jobs RENAME TO new_jobs;
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    seq INTEGER NOT NULL UNIQUE,  -- the order of submission over all projects
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
INSERT INTO jobs (
    id, number, seq, project_id, conversation_id, message_id, node_id, tool, command, argv, directory, environment,
    stdin_data, stdin_path, stdin_open, tty, service_id, schedule_id, group_name, priority, place, label, tags,
    metadata, after, waits_for, not_before, timeout_ms, retries, retry_backoff_ms, stop_signal, stop_grace_ms,
    memory_limit_mib, cpu_limit_percent, log_limit_mib, status, reason, reason_code, attempt, retry_of, run_id, pid,
    exit_code, exit_signal, stdout, stderr, output_bytes, duration, created_at, updated_at, started_at, completed_at,
    unknown_since, space_id, lease_id, epoch, operation_id, revision, state_revision
)
SELECT
    id, number, seq, project_id, conversation_id, message_id, node_id, tool, command, argv, directory, environment,
    stdin_data, stdin_path, stdin_open, tty, service_id, schedule_id, group_name, priority, place, label, tags,
    metadata, after, waits_for, not_before, timeout_ms, retries, retry_backoff_ms, stop_signal, stop_grace_ms,
    memory_limit_mib, cpu_limit_percent, log_limit_mib, status, reason, reason_code, attempt, retry_of, run_id, pid,
    exit_code, exit_signal, stdout, stderr, output_bytes, duration, created_at, updated_at, started_at, completed_at,
    unknown_since, space_id, lease_id, epoch, operation_id, revision, state_revision
FROM new_jobs;
DROP TABLE new_jobs;
CREATE INDEX idx_jobs_conversation_id ON jobs (conversation_id) WHERE conversation_id IS NOT NULL;
CREATE INDEX idx_jobs_status ON jobs (status, seq);
CREATE INDEX idx_jobs_created_at ON jobs (created_at);
CREATE INDEX idx_jobs_project_status ON jobs (project_id, status, seq);
CREATE INDEX idx_jobs_project ON jobs (project_id, seq);
CREATE INDEX idx_jobs_group ON jobs (group_name, seq);
CREATE INDEX idx_jobs_project_group ON jobs (project_id, group_name, seq);
-- The next jobs of a group, and those whose time comes; what waits is in neither of a group's way.
CREATE INDEX idx_jobs_next ON jobs (group_name, priority DESC, place)
    WHERE status = 'queued' AND waits_for = 0 AND not_before IS NULL;
CREATE INDEX idx_jobs_due ON jobs (not_before) WHERE status = 'queued' AND not_before IS NOT NULL;
CREATE INDEX idx_jobs_output ON jobs (completed_at, output_bytes) WHERE output_bytes > 0;
CREATE INDEX idx_jobs_ended ON jobs (completed_at) WHERE completed_at IS NOT NULL;
CREATE INDEX idx_jobs_operation ON jobs (operation_id) WHERE operation_id IS NOT NULL;
CREATE INDEX idx_jobs_service ON jobs (service_id) WHERE service_id IS NOT NULL;
CREATE INDEX idx_jobs_schedule ON jobs (schedule_id, number) WHERE schedule_id IS NOT NULL AND completed_at IS NULL;
DROP TABLE message_revision;
DROP TABLE message_parts;
DROP TABLE blobs;
DROP TABLE messages;
DROP TABLE conversations;
