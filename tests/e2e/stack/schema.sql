CREATE TABLE IF NOT EXISTS visit (at timestamptz NOT NULL DEFAULT now());
