"""The public contract of services: the commands; their codes are those of Nexsock.

The records are in ``records``, the errors in ``errors`` and ``nexus.git.errors``. It is longer than 500 lines because
clients, the command line's options and the documentation are all derived from this one list.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from nexus_protocol.command import Command, Effect, Empty, Repeat, StreamCommand, command
from nexus_protocol.events import cause, event

from nexus.git.errors import (
    GIT_CHECKOUT_ERRORS,
    GIT_CLONE_ERRORS,
    GIT_LOG_ERRORS,
    GIT_PULL_ERRORS,
    GIT_READ_ERRORS,
)
from nexus.records.errors import QueryInvalid
from nexus.records.events import written_event
from nexus.records.fields import (
    NEXT_START,
    ClientId,
    Cursor,
    ManagedBy,
    Match,
    Name,
    PageLimit,
    Revision,
    StateRevision,
    Tags,
    clearable_fields,
    key,
)
from nexus.records.processes import (
    AttachmentLost,
    Columns,
    Environment,
    InputData,
    InputUnavailable,
    LogEnd,
    LogPiece,
    LogStream,
    Path,
    Rows,
    RunCommand,
    StopSignal,
    TerminalEnd,
    TerminalOutput,
    Text,
)
from nexus.services.errors import (
    ServiceAmbiguous,
    ServiceChanged,
    ServiceConfigFile,
    ServiceCursorInvalid,
    ServiceCycle,
    ServiceDependencyElsewhere,
    ServiceDependencyExists,
    ServiceDependencyFailed,
    ServiceDependencyNotFound,
    ServiceIdTaken,
    ServiceInvalid,
    ServiceNameTaken,
    ServiceNeeded,
    ServiceNoCommand,
    ServiceNoRepository,
    ServiceNotFound,
    ServicePortTaken,
    ServiceRunning,
    ServiceStartFailed,
    ServiceStopped,
    ServiceTunnelNameTaken,
    ServiceUnknown,
)
from nexus.services.records import (
    Branch,
    Dependency,
    DependencyList,
    GitBranchList,
    GitCommitList,
    GitProgress,
    Port,
    RepoStatus,
    Service,
    ServiceConfig,
    ServicePage,
    ServiceReference,
    ServicesStopped,
    ServiceStarted,
    ServiceStatus,
    Token,
)
from nexus.services.states import (
    ConfigFormat,
    DependencyCondition,
    GitAuthType,
    RestartPolicy,
    ServiceState,
    ServiceType,
    StdinMode,
    WhenLost,
)

__all__ = [
    "AddDependency",
    "AddService",
    "AttachService",
    "CheckoutBranch",
    "GetConfig",
    "GetRepoStatus",
    "GetServiceStatus",
    "GetServiceStdout",
    "GitCheckoutCommit",
    "GitClone",
    "GitListBranches",
    "GitLog",
    "GitPull",
    "ListDependencies",
    "ListServices",
    "RemoveDependency",
    "RemoveService",
    "RestartService",
    "SendServiceInput",
    "StartService",
    "StopService",
    "UpdateConfig",
    "UpdateService",
]

_MAX_PAYLOAD = 1024 * 1024
"""The largest payload of the commands that carry an environment, in bytes."""

_LOOKUP_ERRORS = (ServiceNotFound, ServiceAmbiguous)
_CHANGE_ERRORS = (*_LOOKUP_ERRORS, ServiceChanged)
_START_ERRORS = (
    *_CHANGE_ERRORS,
    ServiceNoCommand,
    ServiceStartFailed,
    ServicePortTaken,
    ServiceConfigFile,
    ServiceDependencyFailed,
    ServiceStopped,
    ServiceUnknown,
)

_REASON = {"reason": "a sentence for people"}
_EXIT = _REASON | {"exit_code": "how its process exited", "exit_signal": "the signal that ended it"}
_DEPENDENCY = {"dependency": "the name of the dependency"}
_EDGE = _DEPENDENCY | {"dependency_id": "its id"}
_CONDITION = {"condition": "what it must have reached"}

event(
    "service.added",
    "A service was added.",
    type="simple or oneshot",
    port="its declared port",
    restart="its restart policy",
    autostart="whether it starts with the daemon",
    directory="its working directory",
    repo_url="its repository",
    repo_path="the clone",
    tags="its tags",
)
event(
    "service.updated",
    "The configuration of a service was changed.",
    fields='its value before and after; of secrets only {"changed": …}',
)
event("service.removed", "A service was removed.")
event(
    "service.dependency_added",
    "A service was made to depend on another one.",
    **_EDGE,
    **_CONDITION,
    when_lost="what follows its loss",
    tunnel_enabled="whether it is reached through a tunnel",
)
event("service.dependency_removed", "A service no longer depends on another one.", **_EDGE)
event(
    "service.starting",
    "A service is about to get a process, or waits for its dependencies.",
    **_REASON,
    port="the port of this run",
    restarts="how many restarts there were",
)
event("service.started", "The process of a service is up.", pid="of its process", port="of this run")
event("service.stopping", "The processes of a service are being ended.", **_REASON)
event("service.stopped", "A service is down, as it was asked for or with its work done.", **_EXIT)
event("service.exited", "The process of a service ended by itself.", **_EXIT)
event("service.failed", "A service is down, and was meant to be up.", **_REASON)
event(
    "service.restarting",
    "The restart policy of a service begins another run.",
    **_REASON,
    wait_ms="until then",
    restarts="how many restarts there were",
)
event("service.healthy", "The health check of a service succeeded.", message="of the check")
event("service.unhealthy", "The health check of a service failed.", message="of the check")
event(
    "service.dependency_lost",
    "A dependency of a running service was lost.",
    **_DEPENDENCY,
    **_CONDITION,
    **_REASON,
    when_lost="what follows its loss",
)
event("service.dependency_back", "A lost dependency is there again.", **_DEPENDENCY, **_CONDITION)
event("service.cloned", "The repository of a service was cloned.", path="of the clone", commit="that is checked out")
event(
    "service.pulled",
    "The repository of a service was pulled.",
    **{"from": "the commit before", "to": "the commit after", "commits": "how many came"},
)
event(
    "service.checked_out",
    "A branch or a commit was checked out in the repository of a service.",
    branch="the branch, if it is one",
    commit="the commit",
)
written_event("service", "A service")
written_event("dependency", "The dependency of a service")

cause("dependency.lost", "A dependency of a running service was lost.")
cause("dependency.back", "A lost dependency was there again.")
cause("tunnel.exited", "The tunnel to a dependency ended by itself.")

Type = Annotated[
    ServiceType,
    Meta(description="simple: runs until it is stopped; oneshot: does its work and exits"),
    NEXT_START,
    key("oneshot"),
]
Directory = Annotated[
    Path,
    Meta(
        description="working directory, absolute (default: the repository, else the home directory)",
        extra={"option": "--dir", "path": True},
    ),
    NEXT_START,
    key("dir"),
]
DeclaredPort = Annotated[
    Port,
    Meta(description="the TCP port that it listens on; 0: lease a free one at each start and pass it as PORT"),
    NEXT_START,
    key("port"),
]
Variables = Annotated[
    Environment,
    Meta(description="environment variables", extra={"option": "--env", "metavar": "NAME=VALUE"}),
    NEXT_START,
    key("env"),
]
_ConfigFile = Annotated[Text, Meta(min_length=1)]
ConfigName = Annotated[
    _ConfigFile | Annotated[list[_ConfigFile], Meta(min_length=1, max_length=16)],
    Meta(
        description="configuration file, read at each start; relative to the repository or directory. Of a list, later "
        "files override earlier ones; one with a ? before its path may be missing",
        extra={"option": "--config-file", "metavar": "FILE", "repeatable": True},
    ),
    NEXT_START,
    key("config.file"),
]
ConfigFormatName = Annotated[
    ConfigFormat, Meta(description="format of the configuration files"), NEXT_START, key("config.format")
]
RunCommandText = Annotated[
    RunCommand,
    Meta(
        description="a string for /bin/sh -c, or a list of words that is run without a shell", extra={"option": "--run"}
    ),
    NEXT_START,
    key("run"),
]
RepoUrl = Annotated[Text, Meta(min_length=1, description="URL of the git repository to clone"), key("repo.url")]
RepoPath = Annotated[
    Path, Meta(description="path of its repository, absolute", extra={"path": True}), NEXT_START, key("repo.path")
]
GitBranchName = Annotated[Branch, Meta(description="branch to clone"), key("repo.branch")]
GitAuth = Annotated[GitAuthType, Meta(description="how git authenticates: none, ssh or token"), key("repo.auth")]
TokenFile = Annotated[
    Path,
    Meta(description="file with the git token, read at each use, absolute", extra={"path": True}),
    key("repo.token_file"),
]
Restart = Annotated[RestartPolicy, Meta(description="which exits are followed by a restart"), key("restart.policy")]
Backoff = Annotated[
    int,
    Meta(ge=10, le=86_400_000, description="wait before the first restart, doubled for each further one"),
    key("restart.backoff"),
]
BackoffMax = Annotated[
    int, Meta(ge=10, le=86_400_000, description="longest wait before a restart"), key("restart.backoff_max")
]
RestartLimit = Annotated[
    int,
    Meta(ge=0, le=10_000, description="restarts within the window after which the service becomes failed; 0: no limit"),
    key("restart.limit"),
]
RestartWindow = Annotated[
    int, Meta(ge=1000, le=86_400_000, description="time in which restarts are counted"), key("restart.window")
]
RestartUnhealthy = Annotated[bool, Meta(description="restart it when it becomes unhealthy"), key("restart.unhealthy")]
StartWindow = Annotated[
    int, Meta(ge=0, le=60_000, description="an exit within this time is a failed start"), key("start_window")
]
HealthExec = Annotated[
    RunCommand, Meta(description="health check: healthy when this command exits with 0"), key("health.exec")
]
HealthTcp = Annotated[
    Port,
    Meta(description="health check: healthy when this loopback port accepts connections; 0: its own port"),
    key("health.tcp"),
]
HealthLog = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=1024,
        description="health check: healthy once a line of output matches this regular expression",
    ),
    key("health.log"),
]
HealthInterval = Annotated[
    int, Meta(ge=100, le=86_400_000, description="time between two health checks"), key("health.interval")
]
HealthTimeout = Annotated[
    int, Meta(ge=10, le=86_400_000, description="time limit of one health check"), key("health.timeout")
]
HealthRetries = Annotated[
    int, Meta(ge=1, le=1000, description="failures in a row that make it unhealthy"), key("health.retries")
]
HealthStartPeriod = Annotated[
    int,
    Meta(ge=0, le=86_400_000, description="failures within this time after the start do not count"),
    key("health.start_period"),
]
Signal = Annotated[StopSignal, Meta(description="signal that is sent to stop it"), key("stop.signal")]
Grace = Annotated[int, Meta(ge=0, le=3_600_000, description="time from the stop signal to SIGKILL"), key("stop.grace")]
Autostart = Annotated[
    bool,
    Meta(description="start it when the daemon starts, unless it was stopped on demand since boot"),
    key("autostart"),
]
MemoryLimit = Annotated[
    int,
    Meta(ge=1, le=16_777_216, description="memory limit of all its processes, in MiB", extra={"option": "--memory"}),
    NEXT_START,
    key("limits.memory"),
]
CpuLimit = Annotated[
    int,
    Meta(
        ge=1,
        le=100_000,
        description="CPU limit of all its processes in percent, 100 is one core",
        extra={"option": "--cpu"},
    ),
    NEXT_START,
    key("limits.cpu"),
]
Umask = Annotated[
    str,
    Meta(pattern=r"^0?[0-7]{3}$(?!\n)", description="three octal digits, such as 027"),
    Meta(
        description="umask of its processes, health checks and git, in octal digits; by default that of the session "
        "which started the daemon"
    ),
    NEXT_START,
    key("umask"),
]
LogLimit = Annotated[
    int, Meta(ge=1, le=65_536, description="largest size of its kept output, in MiB"), NEXT_START, key("limits.log")
]
HasTerminal = Annotated[
    bool, Meta(description="give it a terminal, to which clients can be attached"), NEXT_START, key("tty")
]
Stdin = Annotated[
    StdinMode,
    Meta(description="open: clients may write to its standard input; none: it is empty"),
    NEXT_START,
    key("stdin"),
]
ServiceTags = Annotated[Tags, key("tags")]
Timeout = Annotated[int, Meta(ge=1, le=86_400_000, description="time limit of the request")]
GitToken = Annotated[Token, Meta(description="git token, used for this request and never stored")]


@command(1, Effect.ACT, errors=(*_START_ERRORS, ServiceRunning), max_payload=_MAX_PAYLOAD, repeat=Repeat.AGAIN)
class StartService(Command[ServiceStarted]):
    """Start a service, after the services that it depends on.

    Replies when it is up: it has outlived its start window, or with ``wait`` it is healthy (a oneshot service: it has
    exited with 0). A service that is already up is not changed. The environment is kept for its restarts.

    The reply is the outcome of the restart policy, not of the first attempt: the request waits while the service, or a
    dependency, is up and not healthy yet, or is retried by its policy; an unhealthy service may still become healthy.
    It fails with the reason once nothing tries again: without a policy or at the restart limit, after a stop, or when a
    dependency has failed or stopped. ``timeout_ms`` bounds the wait; without it, a policy without a limit is waited for
    as long as it tries. The error of a passed time limit says what is missing, and the start goes on.
    """

    service: ServiceReference
    environment: Annotated[Variables, Meta(description="variables for this run and its restarts")] | None = None
    wait: Annotated[bool, Meta(description="reply only when it is healthy, or completed")] = False
    timeout_ms: Timeout | None = None
    if_state_revision: StateRevision | None = None


@command(2, Effect.ACT, errors=(*_CHANGE_ERRORS, ServiceNeeded), repeat=Repeat.AGAIN)
class StopService(Command[ServicesStopped]):
    """Stop a service; replies when all of its processes have ended.

    Refused while services that depend on it are up; ``cascade`` stops those first, dependents before dependencies.
    """

    service: ServiceReference
    cascade: Annotated[bool, Meta(description="stop the services that depend on it first")] = False
    timeout_ms: Timeout | None = None
    if_state_revision: StateRevision | None = None


@command(3, Effect.ACT, errors=_START_ERRORS, max_payload=_MAX_PAYLOAD, repeat=Repeat.REFUSE)
class RestartService(Command[ServiceStarted]):
    """Stop a service if it is up, and start it with the environment of its last start, or with a new one.

    Waits and replies as StartService.
    """

    service: ServiceReference
    environment: Annotated[Variables, Meta(description="variables that replace those of its last start")] | None = None
    wait: Annotated[bool, Meta(description="reply only when it is healthy, or completed")] = False
    timeout_ms: Timeout | None = None
    if_state_revision: StateRevision | None = None


@command(4, Effect.READ, errors=_LOOKUP_ERRORS)
class GetServiceStatus(Command[ServiceStatus]):
    """Get a service with its dependencies, its dependents and the resources that its processes use."""

    service: ServiceReference


@command(5, Effect.CHANGE, errors=(ServiceNameTaken, ServiceIdTaken, ServiceInvalid), max_payload=_MAX_PAYLOAD)
class AddService(Command[Service]):
    """Add a service, in state stopped.

    With an ``id`` chosen by the client, a request that is repeated after a lost reply returns the same service.
    """

    name: Annotated[Name, Meta(extra={"metavar": "NAME"})]
    run_command: RunCommandText | None = None
    type: Type = ServiceType.SIMPLE
    directory: Directory | None = None
    umask: Umask | None = None
    port: DeclaredPort | None = None
    tags: ServiceTags | None = None
    autostart: Autostart = False
    start_window_ms: StartWindow = 1000
    environment: Variables | None = None
    config_filename: ConfigName | None = None
    config_format: ConfigFormatName = ConfigFormat.ENV
    restart: Restart = RestartPolicy.NO
    restart_backoff_ms: Backoff = 1000
    restart_backoff_max_ms: BackoffMax = 30_000
    restart_limit: RestartLimit = 5
    restart_window_ms: RestartWindow = 60_000
    restart_unhealthy: RestartUnhealthy = False
    health_exec: HealthExec | None = None
    health_tcp: HealthTcp | None = None
    health_log: HealthLog | None = None
    health_interval_ms: HealthInterval = 2000
    health_timeout_ms: HealthTimeout = 2000
    health_retries: HealthRetries = 3
    health_start_period_ms: HealthStartPeriod = 0
    stop_signal: Signal = StopSignal.SIGTERM
    stop_grace_ms: Grace = 10_000
    memory_limit_mib: MemoryLimit | None = None
    cpu_limit_percent: CpuLimit | None = None
    log_limit_mib: LogLimit = 16
    tty: HasTerminal = False
    stdin: Stdin = StdinMode.NONE
    repo_url: RepoUrl | None = None
    repo_path: RepoPath | None = None
    git_branch: GitBranchName | None = None
    git_auth_type: GitAuth = GitAuthType.NONE
    git_token_file: TokenFile | None = None
    managed_by: ManagedBy | None = None
    id: ClientId | None = None


@command(6, Effect.ACT, errors=(*_CHANGE_ERRORS, ServiceRunning, ServiceNeeded), repeat=Repeat.REFUSE)
class RemoveService(Command[Service]):
    """Remove a service that is not up, and its kept output; returns the removed service. Its repository stays.

    Refused while other services depend on it. With ``stop`` a service that is up is stopped first.
    """

    service: ServiceReference
    stop: Annotated[bool, Meta(description="stop it first if it is up")] = False
    if_revision: Revision | None = None
    if_state_revision: StateRevision | None = None


@command(7, Effect.READ, errors=(ServiceCursorInvalid, QueryInvalid), large_reply=True, all_projects=True)
class ListServices(Command[ServicePage]):
    """List services, sorted by name.

    A page ends at ``limit`` services or 1 MiB, whichever comes first; ``next_cursor`` is set when more follow.
    """

    state: Annotated[ServiceState, Meta(description="only services in this state")] | None = None
    tag: Annotated[Text, Meta(description="only services with this tag")] | None = None
    match: Match | None = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(8, Effect.READ, errors=(*_LOOKUP_ERRORS, ServiceCursorInvalid))
class GetServiceStdout(StreamCommand[LogPiece, LogEnd]):
    """Read the kept output of a service, byte for byte, of this run and of earlier ones.

    It ends at the end that the output had when it was asked for. With ``follow`` the stream continues with new output,
    across restarts of the service, until it is cancelled or the service is removed. To continue after an item, also
    after a restart of the daemon, pass its ``cursor``: no byte is repeated, and what was deleted meanwhile is counted.
    """

    service: ServiceReference
    lines: Annotated[int, Meta(ge=0, le=10_000_000, description="only this many last lines")] | None = None
    since_at: (
        Annotated[int, Meta(ge=0, description="only lines begun at this time or later, in ms since 1970")] | None
    ) = None
    stream: Annotated[LogStream, Meta(description="only standard output, or only standard error")] | None = None
    follow: Annotated[bool, Meta(description="follow new output")] = False
    cursor: Annotated[str, Meta(max_length=128, description="only output after the item with this cursor")] | None = (
        None
    )
    mark_start: Annotated[
        bool, Meta(description="begin with an item without data, whose cursor is where the output begins")
    ] = False


@command(10, Effect.CHANGE, errors=(*_CHANGE_ERRORS, ServiceInvalid))
class UpdateConfig(Command[ServiceConfig]):
    """Change a service's configuration files, their format or the run command, from the service's next start on.

    ``clear`` takes ``filename`` and ``run_command``.
    """

    service: ServiceReference
    filename: Annotated[ConfigName, Meta(extra={"option": "--file"})] | None = None
    format: ConfigFormatName | None = None
    run_command: RunCommandText | None = None
    clear: (
        Annotated[list[Text], Meta(max_length=4, description="fields to unset", extra={"option": "--clear"})] | None
    ) = None
    if_revision: Revision | None = None


@command(11, Effect.READ, errors=(*_LOOKUP_ERRORS, ServiceConfigFile), large_reply=True)
class GetConfig(Command[ServiceConfig]):
    """Get a service's configuration: the variables that its record declares, or the whole environment of a start.

    Each source overrides those before it: the daemon's own environment (inherited), the configuration files (file), the
    record (service), the start (start), the port (port), the tunnels (tunnel), and Nexus itself (nexus).
    """

    service: ServiceReference
    resolved: Annotated[
        bool, Meta(description="the whole environment of a start, with the source of each variable")
    ] = False
    reveal: Annotated[bool, Meta(description="show the values")] = False


@command(12, Effect.CHANGE, errors=(*_CHANGE_ERRORS, ServiceNameTaken, ServiceInvalid), max_payload=_MAX_PAYLOAD)
class UpdateService(Command[Service]):
    """Change a service; absent fields keep their values, and ``clear`` names optional fields to unset.

    A service that is up keeps running as it was started and has the new values at its next start; its restart policy,
    health check, tags and autostart take effect at once. ``environment`` replaces all of its variables;
    ``set_environment`` and ``unset_environment`` change single ones.
    """

    service: ServiceReference
    name: Annotated[Name, Meta(description="a new name")] | None = None
    run_command: RunCommandText | None = None
    type: Type | None = None
    directory: Directory | None = None
    port: DeclaredPort | None = None
    environment: (
        Annotated[
            Environment,
            Meta(description="environment variables that replace all present ones", extra={"option": "--environment"}),
        ]
        | None
    ) = None
    set_environment: Variables | None = None
    unset_environment: (
        Annotated[
            list[Text],
            Meta(max_length=500, description="variables to remove", extra={"option": "--unset-env", "metavar": "NAME"}),
        ]
        | None
    ) = None
    config_filename: ConfigName | None = None
    config_format: ConfigFormatName | None = None
    repo_url: RepoUrl | None = None
    repo_path: RepoPath | None = None
    git_branch: GitBranchName | None = None
    git_auth_type: GitAuth | None = None
    git_token_file: TokenFile | None = None
    restart: Restart | None = None
    restart_backoff_ms: Backoff | None = None
    restart_backoff_max_ms: BackoffMax | None = None
    restart_limit: RestartLimit | None = None
    restart_window_ms: RestartWindow | None = None
    restart_unhealthy: RestartUnhealthy | None = None
    start_window_ms: StartWindow | None = None
    health_exec: HealthExec | None = None
    health_tcp: HealthTcp | None = None
    health_log: HealthLog | None = None
    health_interval_ms: HealthInterval | None = None
    health_timeout_ms: HealthTimeout | None = None
    health_retries: HealthRetries | None = None
    health_start_period_ms: HealthStartPeriod | None = None
    stop_signal: Signal | None = None
    stop_grace_ms: Grace | None = None
    autostart: Autostart | None = None
    tags: ServiceTags | None = None
    memory_limit_mib: MemoryLimit | None = None
    cpu_limit_percent: CpuLimit | None = None
    umask: Umask | None = None
    log_limit_mib: LogLimit | None = None
    tty: HasTerminal | None = None
    stdin: Stdin | None = None
    managed_by: ManagedBy | None = None
    clear: (
        Annotated[
            list[Text],
            Meta(
                max_length=32,
                description=f"fields to unset, of {', '.join(clearable_fields(AddService))}",
                extra={"option": "--clear", "metavar": "FIELD"},
            ),
        ]
        | None
    ) = None
    if_revision: Revision | None = None


_ATTACH_ERRORS = (*_LOOKUP_ERRORS, InputUnavailable, AttachmentLost)


@command(13, Effect.ACT, errors=_ATTACH_ERRORS, takes_input=True, repeat=Repeat.REFUSE)
class AttachService(StreamCommand[TerminalOutput, TerminalEnd]):
    """Attach to the terminal, or the open standard input and output, of a service that is up; ends with its process.

    Input ``data`` is typed, ``eof`` ends the input, and the ``control`` ``{"rows": …, "columns": …}`` tells the present
    size of the client's terminal: the program gets the smallest one of all clients. With ``replay`` the last output
    comes first. A client that does not read misses output of a terminal and gets the last screenful when it reads
    again; of pipes it is dropped.
    """

    service: ServiceReference
    rows: Rows | None = None
    columns: Columns | None = None
    replay: Annotated[bool, Meta(description="begin with the last output")] = True


@command(14, Effect.ACT, errors=_ATTACH_ERRORS, max_payload=_MAX_PAYLOAD, repeat=Repeat.REFUSE)
class SendServiceInput(Command[Empty]):
    """Type input into the terminal, or the open standard input, of a service; replies when the program has room."""

    service: ServiceReference
    data: Annotated[InputData, Meta(extra={"option": None})] = b""
    eof: Annotated[bool, Meta(description="end the input")] = False


DependencyReference = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        description="the service that it depends on",
        extra={"metavar": "DEPENDENCY", "completes": "service"},
    ),
]


@command(
    20,
    Effect.CHANGE,
    errors=(
        *_LOOKUP_ERRORS,
        ServiceCycle,
        ServiceDependencyExists,
        ServiceDependencyElsewhere,
        ServiceTunnelNameTaken,
    ),
)
class AddDependency(Command[Dependency]):
    """Make a service depend on another one of its project.

    A repeated request changes nothing. With ``tunnel_enabled`` the dependent gets a stable loopback address of the
    dependency in ``NEXUS_<NAME>_HOST`` and ``NEXUS_<NAME>_PORT``: NAME is the name in upper case, with ``_`` for each
    character that is no letter or digit.
    """

    service: ServiceReference
    dependency: DependencyReference
    condition: Annotated[
        DependencyCondition, Meta(description="what the dependency must have reached before the service starts")
    ] = DependencyCondition.STARTED
    tunnel_enabled: Annotated[
        bool,
        Meta(description="give the service a stable loopback address of the dependency", extra={"option": "--tunnel"}),
    ] = False
    when_lost: Annotated[WhenLost, Meta(description="what the running service does when the dependency is lost")] = (
        WhenLost.IGNORE
    )


@command(21, Effect.ACT, errors=(*_LOOKUP_ERRORS, ServiceDependencyNotFound), repeat=Repeat.REFUSE)
class RemoveDependency(Command[Dependency]):
    """Remove a dependency, and return it."""

    service: ServiceReference
    dependency: DependencyReference


@command(22, Effect.READ, errors=_LOOKUP_ERRORS, large_reply=True, all_projects=True)
class ListDependencies(Command[DependencyList]):
    """List the dependencies of a service, or with ``reverse`` its dependents; without a service, every dependency."""

    service: ServiceReference | None = None
    reverse: Annotated[bool, Meta(description="list the dependents instead")] = False
    recursive: Annotated[bool, Meta(description="follow dependencies of dependencies, or dependents of dependents")] = (
        False
    )


@command(30, Effect.ACT, errors=(*_LOOKUP_ERRORS, ServiceNoRepository, *GIT_CHECKOUT_ERRORS), repeat=Repeat.REFUSE)
class CheckoutBranch(Command[RepoStatus]):
    """Check out a branch of a service's repository, or create it; refused if uncommitted work could be lost."""

    service: ServiceReference
    branch: Annotated[Branch, Meta(extra={"metavar": "BRANCH"})]
    create: Annotated[bool, Meta(description="create the branch at the present commit")] = False


@command(31, Effect.READ, errors=(*_LOOKUP_ERRORS, ServiceNoRepository, *GIT_READ_ERRORS))
class GetRepoStatus(Command[RepoStatus]):
    """Get the state of a service's repository: branch, commit, upstream, changed files, unfinished operations."""

    service: ServiceReference


@command(32, Effect.ACT, errors=(*_LOOKUP_ERRORS, ServiceNoRepository, *GIT_CHECKOUT_ERRORS), repeat=Repeat.AGAIN)
class GitCheckoutCommit(Command[RepoStatus]):
    """Check out a commit of a service's repository, detached; refused if uncommitted work could be lost."""

    service: ServiceReference
    commit: Annotated[Branch, Meta(extra={"metavar": "COMMIT"})]


@command(33, Effect.ACT, errors=(*_LOOKUP_ERRORS, ServiceNoRepository, *GIT_PULL_ERRORS), repeat=Repeat.REFUSE)
class GitPull(StreamCommand[GitProgress, RepoStatus]):
    """Pull into a service's repository, fast-forward only, and update its submodules.

    A token is sent only to the scheme, host and port of ``repo_url``, whatever the configuration of the clone says.
    """

    service: ServiceReference
    token: GitToken | None = None


@command(34, Effect.READ, errors=(*_LOOKUP_ERRORS, ServiceNoRepository, *GIT_LOG_ERRORS), large_reply=True)
class GitLog(Command[GitCommitList]):
    """List commits of a service's repository, newest first."""

    service: ServiceReference
    limit: Annotated[int, Meta(ge=1, le=10_000, description="number of commits, 1 to 10000")] = 20
    revision: Annotated[Branch, Meta(description="the newest commit to list (default: HEAD)")] | None = None


@command(35, Effect.READ, errors=(*_LOOKUP_ERRORS, ServiceNoRepository, *GIT_READ_ERRORS), large_reply=True)
class GitListBranches(Command[GitBranchList]):
    """List the branches of a service's repository."""

    service: ServiceReference
    remote: Annotated[bool, Meta(description="include the branches of its remotes")] = False


@command(36, Effect.ACT, errors=(*_LOOKUP_ERRORS, ServiceInvalid, *GIT_CLONE_ERRORS), repeat=Repeat.REFUSE)
class GitClone(StreamCommand[GitProgress, RepoStatus]):
    """Clone a service's repository to its ``repo_path``, which may be absent or an empty directory.

    A token is sent only to the scheme, host and port of ``repo_url``; also one for submodules.
    """

    service: ServiceReference
    token: GitToken | None = None
    submodules: Annotated[bool, Meta(description="initialise its submodules, and theirs (the default)")] = True
