-- Services, how each is configured and run, and what depends on what.
-- service_dependency.dependent_service_id is the service that is depended upon, as its first authors named it.

-- migrate: up
CREATE TABLE service_config (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    filename TEXT,
    format TEXT NOT NULL DEFAULT 'env' CHECK (format IN ('env', 'properties')),
    run_command TEXT  -- JSON: a string for the shell, or an array of words
);

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
CREATE INDEX idx_service_status ON service (status);
CREATE UNIQUE INDEX idx_service_active_port ON service (active_port) WHERE active_port IS NOT NULL;

CREATE TABLE service_dependency (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    service_id TEXT NOT NULL REFERENCES service (id) ON DELETE CASCADE,
    dependent_service_id TEXT NOT NULL REFERENCES service (id) ON DELETE RESTRICT,
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
CREATE UNIQUE INDEX idx_service_dependency_tunnel_port ON service_dependency (tunnel_port) WHERE tunnel_port IS NOT NULL;

-- migrate: down
DROP TABLE service_dependency;
DROP TABLE service;
DROP TABLE service_config;
