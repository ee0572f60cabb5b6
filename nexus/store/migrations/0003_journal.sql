-- The journal: one row for each change, written in the change's own transaction.
-- AUTOINCREMENT, so that a number is never used twice; journal_seq keeps the counter while the table does not exist.

-- migrate: up
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
);

INSERT INTO sqlite_sequence (name, seq)
    SELECT 'journal', CAST(value AS INTEGER) FROM schema_meta WHERE key = 'journal_seq';
INSERT OR REPLACE INTO schema_meta (key, value)
    SELECT 'journal_pruned_seq', value FROM schema_meta WHERE key = 'journal_seq';
DELETE FROM schema_meta WHERE key = 'journal_seq';

-- migrate: down
INSERT OR REPLACE INTO schema_meta (key, value)
    SELECT 'journal_seq', CAST(seq AS TEXT) FROM sqlite_sequence WHERE name = 'journal';
DELETE FROM schema_meta WHERE key = 'journal_pruned_seq';
DROP TABLE journal;
