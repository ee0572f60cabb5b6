-- Why a change was made, what each row was before and after it, and which requests were carried out under a key.
-- No number of an operation is given twice: operation_pruned_id keeps the highest while the table does not exist.

-- migrate: up
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
);
CREATE INDEX idx_operation_cause ON operation (cause) WHERE cause IS NOT NULL;

ALTER TABLE journal ADD COLUMN operation_id INTEGER;
ALTER TABLE journal ADD COLUMN row_table TEXT;  -- the table of the row that was written, and its key
ALTER TABLE journal ADD COLUMN row_key TEXT;
ALTER TABLE journal ADD COLUMN revision INTEGER;  -- of the record, after the change
ALTER TABLE journal ADD COLUMN before BLOB;  -- MessagePack, a map from column to value: what changed
ALTER TABLE journal ADD COLUMN after BLOB;
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

ALTER TABLE service ADD COLUMN operation_id INTEGER;  -- of the last change of its state

-- migrate: down
ALTER TABLE service DROP COLUMN operation_id;
DROP TABLE request_key;
DROP TABLE secret_value;
DROP INDEX idx_journal_operation;
DELETE FROM journal WHERE kind LIKE '%.written' OR kind = 'schema.migrated';
ALTER TABLE journal DROP COLUMN after;
ALTER TABLE journal DROP COLUMN before;
ALTER TABLE journal DROP COLUMN revision;
ALTER TABLE journal DROP COLUMN row_key;
ALTER TABLE journal DROP COLUMN row_table;
ALTER TABLE journal DROP COLUMN operation_id;
INSERT OR REPLACE INTO schema_meta (key, value)
    SELECT 'operation_pruned_id', CAST(max(id) AS TEXT) FROM (
        SELECT id FROM operation
        UNION ALL SELECT CAST(value AS INTEGER) FROM schema_meta WHERE key = 'operation_pruned_id'
    ) HAVING max(id) IS NOT NULL;
DROP TABLE operation;
