-- Memory: checkpoints of a project's plan, continue points, episodes, chunks of code, and what vectors they have.

-- migrate: up
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

-- Embeddings of deleted episodes that a checkpoint has.
CREATE TABLE kept_embedding (
    episode_id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    embedding BLOB NOT NULL,
    deleted_at INTEGER NOT NULL
);
CREATE INDEX kept_embedding_project_idx ON kept_embedding (project_id, deleted_at);

-- Read from files; a project's deletion deletes them.
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

-- The column symbols of code_chunks: what each is called, its last part in lower case to find it by.
CREATE TABLE chunk_symbol (
    chunk_id TEXT NOT NULL,
    symbol TEXT NOT NULL,
    project_id TEXT NOT NULL,
    folded TEXT NOT NULL,
    PRIMARY KEY (chunk_id, symbol)
) WITHOUT ROWID;
CREATE INDEX chunk_symbol_folded_idx ON chunk_symbol (project_id, folded, chunk_id);

-- The embeddings of a collection of a project: how many numbers each has, and how often they changed.
CREATE TABLE vector_collection (
    project_id TEXT NOT NULL,
    collection TEXT NOT NULL CHECK (collection IN ('episodes', 'chunks')),
    dimension INTEGER NOT NULL CHECK (dimension BETWEEN 1 AND 8192),
    generation INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (project_id, collection)
) WITHOUT ROWID;

-- Which records changed with each generation, for a matrix that is behind.
CREATE TABLE vector_change (
    project_id TEXT NOT NULL,
    collection TEXT NOT NULL,
    generation INTEGER NOT NULL,
    record_id TEXT NOT NULL,
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (project_id, collection, generation, record_id)
) WITHOUT ROWID;

-- The search covers episodes and chunks.
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
-- New chunks have no trigger, as new messages have none: the program adds them to the index itself, which is faster.
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

-- migrate: down
-- Their triggers take them out of the index.
DELETE FROM code_chunks;
DELETE FROM episodes;
DROP VIEW search_named;
DROP VIEW search_row;
DELETE FROM tag WHERE kind = 'episode';
DROP TABLE vector_change;
DROP TABLE vector_collection;
DROP TABLE chunk_symbol;
DROP TABLE code_chunks;
DROP TABLE kept_embedding;
DROP TABLE episodes;
DROP TABLE continue_points;
DROP TABLE checkpoints;
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
