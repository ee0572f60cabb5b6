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
