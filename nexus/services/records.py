"""The records of services, and the annotated types that records and commands share."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field
from nexus_protocol.command import SECRET, Record

from nexus.services.states import (
    ConfigFormat,
    DependencyCondition,
    GitAuthType,
    LogStream,
    RestartPolicy,
    ServiceHealth,
    ServiceReason,
    ServiceState,
    ServiceType,
    StopSignal,
    WhenLost,
)

__all__ = [
    "ConfigVariable",
    "Dependency",
    "DependencyList",
    "GitBranch",
    "GitBranchList",
    "GitCommit",
    "GitCommitList",
    "GitProgress",
    "LogEnd",
    "LogPiece",
    "RepoStatus",
    "Service",
    "ServiceConfig",
    "ServicePage",
    "ServiceStarted",
    "ServiceStatus",
    "ServicesStopped",
]

# "$" also matches before a final newline, hence the lookahead.
_NAME_PATTERN = (
    r"^(?![0-9A-Fa-f]{8}-?[0-9A-Fa-f]{4}-?[0-9A-Fa-f]{4}-?[0-9A-Fa-f]{4}-?[0-9A-Fa-f]{12}$)"
    r"[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)"
)
_NO_NUL = r"^[^\x00]*$"
_ABSOLUTE = r"^/[^\x00]*$"

ServiceName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=_NAME_PATTERN,
        description="1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit, and not shaped like a UUID",
    ),
]
ServiceReference = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        description="the id, else the name, else a unique prefix of the id of 4 or more characters",
        extra={"metavar": "NAME", "completes": "service"},
    ),
]
Text = Annotated[str, Meta(max_length=4096, pattern=_NO_NUL)]
Path = Annotated[str, Meta(min_length=1, max_length=4096, pattern=_ABSOLUTE)]
Shell = Annotated[str, Meta(min_length=1, max_length=16_384, pattern=_NO_NUL)]
Argv = Annotated[list[Annotated[str, Meta(max_length=16_384, pattern=_NO_NUL)]], Meta(min_length=1, max_length=256)]
RunCommand = Shell | Argv
"""A string for ``/bin/sh -c``, or the words of a command that no shell sees."""
VariableName = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$(?!\n)")]
Environment = Annotated[
    dict[VariableName, Annotated[str, Meta(max_length=32_768, pattern=_NO_NUL)]],
    Meta(max_length=500),
    SECRET,
]
Tag = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$(?!\n)")]
Tags = Annotated[list[Tag], Meta(max_length=64)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
Token = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[\x21-\x7e]+$(?!\n)"), SECRET]
Branch = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^-\x00-\x20\x7f][^\x00-\x20\x7f]*$(?!\n)")]


class Service(Record, kw_only=True):
    """A service: what it is told to be, then what it is. Optional fields are there only where they are set.

    The values of its environment are left out, only their names are here; ``GetConfig`` shows them. ``updated_at`` is
    when what it is told to be was last changed.
    """

    id: str
    name: str
    state: ServiceState
    health: ServiceHealth
    created_at: int
    updated_at: int
    state_at: int
    """Since when it is in this state."""

    run_command: str | list[str] | None = None
    """A string for ``/bin/sh -c``, or the words of a command that no shell sees."""
    type: ServiceType
    directory: str | None = None
    """Where it runs; else in its repository, else in the home directory."""
    port: int | None = None
    """The TCP port that it listens on; 0: a free one is leased at each start and passed as PORT."""
    environment_names: list[str] = field(default_factory=list)
    config_filename: str | None = None
    """Read at each start; relative to the repository, else to the directory."""
    config_format: ConfigFormat
    repo_url: str | None = None
    repo_path: str | None = None
    git_branch: str | None = None
    git_auth_type: GitAuthType
    git_token_file: str | None = None
    restart: RestartPolicy
    restart_backoff_ms: int
    """Before the first restart; twice as long before each further one."""
    restart_backoff_max_ms: int
    restart_limit: int
    """More restarts than this within ``restart_window_ms``, and it is failed; 0: without limit."""
    restart_window_ms: int
    restart_unhealthy: bool
    """Whether a service that runs and becomes unhealthy is restarted, by its policy."""
    start_window_ms: int
    """An exit within this time is a failed start."""
    health_exec: str | list[str] | None = None
    """Healthy when this ends with 0."""
    health_tcp: int | None = None
    """Healthy when this port of 127.0.0.1 or ::1 accepts; 0: the service's own port."""
    health_log: str | None = None
    """Healthy once a line of the run's output matches this regular expression."""
    health_interval_ms: int
    health_timeout_ms: int
    health_retries: int
    """So many failures in a row make it unhealthy."""
    health_start_period_ms: int
    """Failures this soon after the start do not count."""
    stop_signal: StopSignal
    stop_grace_ms: int
    """From the stop signal to SIGKILL."""
    autostart: bool
    tags: list[str] = field(default_factory=list)
    memory_limit_mib: int | None = None
    cpu_limit_percent: int | None = None
    """100 is one core."""
    log_limit_mib: int

    pid: int | None = None
    active_port: int | None = None
    """The port of this run: the declared one, or the leased one."""
    started_at: int | None = None
    """When the last run began."""
    stopped_at: int | None = None
    """When the last run ended."""
    restarts: int
    """Restarts by its policy since it was last started on demand."""
    next_restart_at: int | None = None
    exit_code: int | None = None
    """Of the last run, when it ended with one."""
    exit_signal: int | None = None
    """Of the last run, when a signal ended it."""
    reason: str | None = None
    """Why it is in this state, in words."""
    reason_code: ServiceReason | None = None
    """The same for programs; there whenever ``reason`` is."""
    health_message: str | None = None
    """What the last health check said."""
    lost_dependencies: list[str] = field(default_factory=list)
    """Names of dependencies that are not up while it is."""


class ServicePage(Record):
    """Some services by name, and the cursor for those that follow."""

    services: list[Service]
    next_cursor: str | None = None


class Dependency(Record):
    """That one service depends on another."""

    service: str
    """Name of the dependent."""
    dependency: str
    """Name of the one that it depends on."""
    service_id: str
    dependency_id: str
    condition: DependencyCondition
    tunnel_enabled: bool
    when_lost: WhenLost
    created_at: int
    state: ServiceState
    """Of the one that is depended on."""
    health: ServiceHealth
    tunnel_host: str | None = None
    tunnel_port: int | None = None
    """Where the dependent reaches the dependency, in this run of the dependent."""


class DependencyList(Record):
    """Dependencies, by dependent and dependency."""

    dependencies: list[Dependency]


class ServiceStatus(Record):
    """A service with what it stands between and what it uses."""

    service: Service
    dependencies: list[Dependency] = field(default_factory=list)
    """What it depends on."""
    dependents: list[Dependency] = field(default_factory=list)
    """What depends on it."""
    memory_rss_bytes: int | None = None
    cpu_time_ms: int | None = None
    process_count: int | None = None


class ServiceStarted(Record):
    """The service as it came up, and the names of all that this request started, in order."""

    service: Service
    started: list[str] = field(default_factory=list)
    """Empty when it was up already."""


class ServicesStopped(Record):
    """The service as it ended, and the names of all that this request stopped, in order."""

    service: Service
    stopped: list[str] = field(default_factory=list)


class LogPiece(Record):
    """Some output of one stream: whole lines where they are not longer than 64 KiB."""

    at: int
    """When its first byte came."""
    stream: LogStream
    data: bytes


class LogEnd(Record):
    """The end of the output that was asked for."""


class ServiceConfig(Record):
    """How a service is configured."""

    service: str
    format: ConfigFormat
    filename: str | None = None
    path: str | None = None
    """Where the file is, once it is known."""
    run_command: str | list[str] | None = None
    variables: list[ConfigVariable] = field(default_factory=list)
    """By name: what is declared, or with ``resolved`` the whole environment of a start."""


class ConfigVariable(Record):
    """A variable of a service's environment."""

    name: str
    source: str
    """inherited, file, service, start, port, tunnel or nexus: who has the last word on it."""
    value: Annotated[str, SECRET] | None = None
    """Absent where it is masked."""


class RepoStatus(Record):
    """A service's repository."""

    path: str
    dirty: bool
    commit: str | None = None
    """Absent before the first commit."""
    branch: str | None = None
    """Absent where HEAD is detached."""
    upstream: str | None = None
    ahead: int | None = None
    behind: int | None = None
    staged: int = 0
    changed: int = 0
    untracked: int = 0
    conflicted: int = 0
    remote_url: str | None = None
    in_progress: str | None = None
    """An unfinished merge, rebase, cherry-pick, revert or bisect."""
    pulled_from: str | None = None
    """The commit before a pull that brought something."""
    pulled_commits: int | None = None


class GitProgress(Record):
    """How far git is."""

    phase: str
    percent: int | None = None
    done: int | None = None
    total: int | None = None


class GitCommit(Record):
    """A commit."""

    id: str
    author_name: str
    author_email: str
    at: int
    subject: str
    refs: list[str] = field(default_factory=list)


class GitCommitList(Record):
    """Commits, newest first."""

    commits: list[GitCommit]


class GitBranch(Record):
    """A branch."""

    name: str
    commit: str
    current: bool = False
    remote: bool = False
    upstream: str | None = None
    ahead: int | None = None
    behind: int | None = None
    at: int | None = None


class GitBranchList(Record):
    """Branches, by name."""

    branches: list[GitBranch]
