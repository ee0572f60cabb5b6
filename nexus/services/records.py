"""The records of services, and the annotated types that records and commands share."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta, field
from nexus_protocol.command import SECRET, UNRECORDED, Record

from nexus.records.fields import Reference
from nexus.records.processes import StopSignal
from nexus.services.states import (
    ConfigFormat,
    DependencyCondition,
    GitAuthType,
    RestartPolicy,
    ServiceHealth,
    ServiceReason,
    ServiceState,
    ServiceType,
    StdinMode,
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
    "RepoStatus",
    "Service",
    "ServiceConfig",
    "ServicePage",
    "ServiceStarted",
    "ServiceStatus",
    "ServicesStopped",
    "tunnel_prefix",
]

ServiceReference = Annotated[Reference, Meta(extra={"completes": "service"})]
Port = Annotated[int, Meta(ge=0, le=65_535)]
Token = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[\x21-\x7e]+$(?!\n)"), SECRET]
Branch = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^-\x00-\x20\x7f][^\x00-\x20\x7f]*$(?!\n)")]


class Service(Record, kw_only=True):
    """A service: its declared configuration, then its present state. Optional fields are absent when they are not set.

    Of its environment variables it has only the names; ``GetConfig`` shows the values. ``updated_at`` is when the
    declared configuration or a dependency was last changed.
    """

    id: str
    name: str
    project_id: str
    project: str
    """The name of its project."""
    state: ServiceState
    health: ServiceHealth
    created_at: int
    updated_at: int
    revision: int
    """Counts the changes of its declared configuration and its dependencies, from 1."""
    state_revision: int
    """Counts the changes of its present state, from 0."""
    state_at: int
    """When it entered its present state."""

    run_command: Annotated[str | list[str], UNRECORDED] | None = None
    """A string for ``/bin/sh -c``, or the words of a command that is run without a shell."""
    type: ServiceType
    directory: str | None = None
    """Working directory; absent: the repository, else the home directory."""
    port: int | None = None
    """The TCP port that it listens on; 0: a free one is leased at each start and passed as PORT."""
    environment_names: list[str] = field(default_factory=list)
    config_filename: str | list[str] | None = None
    """Read at each start, later files over earlier ones; relative to the repository, else to the directory. One with
    a leading ``?`` may be missing."""
    config_format: ConfigFormat
    repo_url: str | None = None
    repo_path: str | None = None
    git_branch: str | None = None
    git_auth_type: GitAuthType
    git_token_file: str | None = None
    restart: RestartPolicy
    restart_backoff_ms: int
    """Wait before the first restart; doubled for each further one."""
    restart_backoff_max_ms: int
    restart_limit: int
    """With more restarts than this within ``restart_window_ms`` the service becomes failed; 0: no limit."""
    restart_window_ms: int
    restart_unhealthy: bool
    """Whether its policy restarts it when it becomes unhealthy."""
    start_window_ms: int
    """An exit within this time is a failed start."""
    health_exec: Annotated[str | list[str], UNRECORDED] | None = None
    """Healthy when this command exits with 0."""
    health_tcp: int | None = None
    """Healthy when this port accepts connections on 127.0.0.1 or ::1; 0: the service's own port."""
    health_log: str | None = None
    """Healthy once a line of the run's output matches this regular expression."""
    health_interval_ms: int
    health_timeout_ms: int
    health_retries: int
    """Failures in a row that make it unhealthy."""
    health_start_period_ms: int
    """Failures within this time after the start do not count."""
    stop_signal: StopSignal
    stop_grace_ms: int
    """Time from the stop signal to SIGKILL."""
    autostart: bool
    tags: list[str] = field(default_factory=list)
    memory_limit_mib: int | None = None
    cpu_limit_percent: int | None = None
    """100 is one core."""
    tty: bool = False
    """Whether it has a terminal."""
    stdin: StdinMode = StdinMode.NONE
    umask: str | None = None
    """Octal digits; if it is not set, that of the session that started the daemon."""
    log_limit_mib: int
    managed_by: str | None = None
    """The file that apply made it from, as a path from the root of its project."""

    restart_pending_since: int | None = None
    """When a change came that takes effect with its next start; absent if its run has all of its configuration."""
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
    """Of the last run, if it exited."""
    exit_signal: int | None = None
    """Of the last run, if a signal killed it."""
    reason: str | None = None
    """Why it is in this state, as a sentence for people."""
    reason_code: ServiceReason | None = None
    """The same for programs; set whenever ``reason`` is set."""
    unknown_since: int | None = None
    """Since when the daemon cannot look at its run, as when descriptors are exhausted; the state is the last known."""
    health_message: str | None = None
    """The message of the last health check."""
    lost_dependencies: list[str] = field(default_factory=list)
    """Names of the dependencies that it has lost or waits for without starting them."""
    lease_id: str | None = None
    """The lease that it was started under, while it is up."""
    epoch: int | None = None
    """The epoch of that lease."""


class ServicePage(Record):
    """Some services, sorted by name; the cursor is set when more follow."""

    services: list[Service]
    next_cursor: str | None = None


class Dependency(Record):
    """The dependency of one service on another."""

    service: str
    """Name of the dependent."""
    dependency: str
    """Name of the service that it depends on."""
    service_id: str
    dependency_id: str
    project_id: str
    """Of both."""
    project: str
    """The name of their project."""
    condition: DependencyCondition
    tunnel_enabled: bool
    when_lost: WhenLost
    created_at: int
    state: ServiceState
    """Of the dependency."""
    health: ServiceHealth
    tunnel_host: str | None = None
    tunnel_port: int | None = None
    """The tunnel's address in the present run of the dependent; absent without a tunnel or a run."""


class DependencyList(Record):
    """Dependencies, sorted by the names of dependent and dependency."""

    dependencies: list[Dependency]


class ServiceStatus(Record):
    """A service with its dependencies, its dependents and the resources that its processes use."""

    service: Service
    dependencies: list[Dependency] = field(default_factory=list)
    """Its dependencies."""
    dependents: list[Dependency] = field(default_factory=list)
    """Its dependents."""
    memory_rss_bytes: int | None = None
    cpu_time_ms: int | None = None
    process_count: int | None = None


class ServiceStarted(Record):
    """The started service, and the names of the services that this request started, in order."""

    service: Service
    started: list[str] = field(default_factory=list)
    """Empty if the service was already up."""


class ServicesStopped(Record):
    """The stopped service, and the names of the services that this request stopped, in order."""

    service: Service
    stopped: list[str] = field(default_factory=list)


class ServiceConfig(Record):
    """The configuration files, run command and variables of a service."""

    service: str
    service_id: str
    format: ConfigFormat
    filename: str | list[str] | None = None
    """As it is declared: one file, or a list."""
    path: str | None = None
    """Absolute path of the file, if one is declared; of several, ``paths`` has them."""
    run_command: Annotated[str | list[str], UNRECORDED] | None = None
    variables: list[ConfigVariable] = field(default_factory=list)
    """Sorted by name: those of the record, or with ``resolved`` the whole environment of a start."""
    paths: list[str] = field(default_factory=list)
    """Absolute paths of the declared files, in the order in which they are read."""


class ConfigVariable(Record):
    """A variable of a service's environment."""

    name: str
    source: str
    """The source that its value comes from: inherited, file, service, start, port, tunnel or nexus."""
    value: Annotated[str, SECRET] | None = None
    """Absent if it is masked, or not known before the start."""


class RepoStatus(Record):
    """A service's repository."""

    path: str
    dirty: bool
    commit: str | None = None
    """Absent before the first commit."""
    branch: str | None = None
    """Absent when HEAD is detached."""
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
    uninitialized_submodules: list[str] = field(default_factory=list)
    """The paths of submodules that have no repository yet, 100 at most."""
    pulled_from: str | None = None
    """The commit before a pull that brought new commits."""
    pulled_commits: int | None = None


class GitProgress(Record):
    """The progress of a git command."""

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
    """Branches, sorted by name."""

    branches: list[GitBranch]


def tunnel_prefix(name: str) -> str:
    """The prefix of a tunnelled dependency's variables: ``NEXUS_DB_1_`` for ``db-1`` and for ``db.1``."""
    return f"NEXUS_{re.sub('[^A-Z0-9]', '_', name.upper())}_"
