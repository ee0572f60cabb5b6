"""The states of a service and of its health, the words its record chooses from, and what may follow what."""

from __future__ import annotations

from nexus_protocol.command import WireEnum

__all__ = [
    "TRANSITIONS",
    "ConfigFormat",
    "DependencyCondition",
    "GitAuthType",
    "LogStream",
    "RestartPolicy",
    "ServiceHealth",
    "ServiceReason",
    "ServiceState",
    "ServiceType",
    "StopSignal",
    "WhenLost",
]


class ServiceState(WireEnum):
    """Where a service is in its life."""

    STARTING = "starting"
    """It waits for its dependencies, for its next try after an exit, or for its start window to pass."""
    RUNNING = "running"
    STOPPING = "stopping"
    """It was told to stop, or its main process has ended and what it left behind is being ended."""
    STOPPED = "stopped"
    """Not started yet, stopped on demand, or ended as its restart policy accepts."""
    FAILED = "failed"
    """It ended as its restart policy does not accept, could not be started, or restarted too often."""


TRANSITIONS: dict[ServiceState, frozenset[ServiceState]] = {
    ServiceState.STOPPED: frozenset({ServiceState.STARTING, ServiceState.FAILED}),
    ServiceState.STARTING: frozenset(
        {ServiceState.RUNNING, ServiceState.STOPPING, ServiceState.STOPPED, ServiceState.FAILED}
    ),
    ServiceState.RUNNING: frozenset(
        {ServiceState.STARTING, ServiceState.STOPPING, ServiceState.STOPPED, ServiceState.FAILED}
    ),
    ServiceState.STOPPING: frozenset({ServiceState.STARTING, ServiceState.STOPPED, ServiceState.FAILED}),
    ServiceState.FAILED: frozenset({ServiceState.STARTING, ServiceState.STOPPED}),
}
"""From each state, those that may follow it. No state is a dead end."""


class ServiceHealth(WireEnum):
    """What the health check says. Unknown: there is no check, or it has not come to a result in this run."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class ServiceReason(WireEnum):
    """Why a service is in its state, for programs; ``reason`` says it to people."""

    REQUESTED = "requested"
    """A client asked for the stop or the restart."""
    WAITING = "waiting"
    """It waits for its dependencies."""
    START_FAILED = "start_failed"
    """It could not be started: no such program, a plugin's veto, a port in use."""
    DEPENDENCY_FAILED = "dependency_failed"
    """A dependency that it needs failed."""
    EXITED = "exited"
    KILLED = "killed"
    """A signal ended it."""
    LOST = "lost"
    """Its end was not observed."""
    FILES_DELETED = "files_deleted"
    """The files of its run were deleted, so what is left of the run is ended."""
    HOST_RESTARTED = "host_restarted"
    """It ended with the machine."""
    UNHEALTHY = "unhealthy"
    RESTARTED = "restarted"
    """The present run follows another one; ``reason`` says how that ended."""
    RESTART_LIMIT = "restart_limit"
    """It was restarted as often as its policy allows."""
    DEPENDENCY_LOST = "dependency_lost"
    """A dependency of the running service is lost."""
    DEPENDENCY_BACK = "dependency_back"
    """The lost dependency is back."""
    SUPERVISOR_FAILED = "supervisor_failed"
    """A bug in the daemon ended its supervision."""


class ServiceType(WireEnum):
    """Whether a service is to go on, or to do its work and end."""

    SIMPLE = "simple"
    ONESHOT = "oneshot"


class RestartPolicy(WireEnum):
    """After which exits a service is started again."""

    NO = "no"
    ON_FAILURE = "on-failure"
    """After an exit code other than 0 and after a signal."""
    ALWAYS = "always"
    """After any exit, until it is stopped on demand."""


class ConfigFormat(WireEnum):
    """How a service's configuration file is written."""

    ENV = "env"
    PROPERTIES = "properties"


class GitAuthType(WireEnum):
    """How git proves who asks for a service's repository."""

    NONE = "none"
    SSH = "ssh"
    """By the user's ssh agent and keys."""
    TOKEN = "token"
    """By a token, read from a file or given with the command, and never stored."""


class DependencyCondition(WireEnum):
    """What a dependency must have reached before its dependent is started."""

    STARTED = "started"
    HEALTHY = "healthy"
    COMPLETED = "completed"
    """It has ended with exit code 0."""


class WhenLost(WireEnum):
    """What happens to a running service when a dependency of it dies."""

    IGNORE = "ignore"
    """It goes on, and its record names what it lost."""
    RESTART = "restart"
    """It is stopped, and started again once the dependency is back."""
    STOP = "stop"


class LogStream(WireEnum):
    """Where a piece of output was written."""

    STDOUT = "stdout"
    STDERR = "stderr"


class StopSignal(WireEnum):
    """The signals that a service may be stopped with."""

    SIGTERM = "SIGTERM"
    SIGINT = "SIGINT"
    SIGQUIT = "SIGQUIT"
    SIGHUP = "SIGHUP"
    SIGUSR1 = "SIGUSR1"
    SIGUSR2 = "SIGUSR2"
    SIGWINCH = "SIGWINCH"
    SIGKILL = "SIGKILL"
