"""The states of a service and their transition table, and the other enums of its record."""

from __future__ import annotations

from nexus_protocol.command import WireEnum

__all__ = [
    "TRANSITIONS",
    "ConfigFormat",
    "DependencyCondition",
    "GitAuthType",
    "RestartPolicy",
    "ServiceHealth",
    "ServiceReason",
    "ServiceState",
    "ServiceType",
    "StdinMode",
    "WhenLost",
]


class ServiceState(WireEnum):
    """The state of a service."""

    STARTING = "starting"
    """It waits for its dependencies, for a restart after its backoff, or for the end of its start window."""
    RUNNING = "running"
    STOPPING = "stopping"
    """Its processes are being stopped, or its main process has ended and its descendants are being stopped."""
    STOPPED = "stopped"
    """It was not started yet, was stopped on demand, ended with the machine, or exited with 0 without a restart."""
    FAILED = "failed"
    """Its run failed and is not restarted, it could not be started, or it reached its restart limit."""


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
"""The states that may follow each state. Every state can be left."""


class ServiceHealth(WireEnum):
    """The result of the health check. Unknown: there is no check, or it has no result in this run yet."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class ServiceReason(WireEnum):
    """Why a service is in its state, for programs; ``reason`` is the sentence for people."""

    REQUESTED = "requested"
    """A client asked for the stop or the restart."""
    WAITING = "waiting"
    """It waits for its dependencies."""
    START_FAILED = "start_failed"
    """It could not be started: a missing program, a plugin's veto, a port in use."""
    DEPENDENCY_FAILED = "dependency_failed"
    """A dependency failed."""
    EXITED = "exited"
    KILLED = "killed"
    """A signal ended it."""
    LOST = "lost"
    """Its end was not observed."""
    FILES_DELETED = "files_deleted"
    """The files of its run were deleted, so the run's remaining processes are ended."""
    HOST_RESTARTED = "host_restarted"
    """It ended with the machine."""
    UNHEALTHY = "unhealthy"
    RESTARTED = "restarted"
    """The present run follows another one; ``reason`` says how that one ended."""
    RESTART_LIMIT = "restart_limit"
    """It reached the restart limit of its policy."""
    DEPENDENCY_LOST = "dependency_lost"
    """A dependency of the running service was lost."""
    DEPENDENCY_BACK = "dependency_back"
    """The lost dependency is back."""
    SUPERVISOR_FAILED = "supervisor_failed"
    """A bug in the daemon ended its supervision."""


class ServiceType(WireEnum):
    """simple: the service runs until it is stopped; oneshot: it does its work and exits."""

    SIMPLE = "simple"
    ONESHOT = "oneshot"


class RestartPolicy(WireEnum):
    """Which exits are followed by a restart."""

    NO = "no"
    ON_FAILURE = "on-failure"
    """After an exit code other than 0 and after a signal."""
    ALWAYS = "always"
    """After any exit, until it is stopped on demand."""


class ConfigFormat(WireEnum):
    """The format of a service's configuration file."""

    ENV = "env"
    PROPERTIES = "properties"


class StdinMode(WireEnum):
    """The standard input of a service without a terminal."""

    NONE = "none"
    """It is empty."""
    OPEN = "open"
    """Clients may write to it."""


class GitAuthType(WireEnum):
    """How git authenticates to the remote of a service's repository."""

    NONE = "none"
    SSH = "ssh"
    """With the user's ssh agent and keys."""
    TOKEN = "token"
    """With a token, read from a file or given with the command, and never stored."""


class DependencyCondition(WireEnum):
    """What a dependency must have reached before its dependent is started."""

    STARTED = "started"
    HEALTHY = "healthy"
    COMPLETED = "completed"
    """It has exited with 0."""


class WhenLost(WireEnum):
    """What a running service does when a dependency is lost."""

    IGNORE = "ignore"
    """It keeps running, and its record names the lost dependency."""
    RESTART = "restart"
    """It is stopped, and started again once the dependency is back."""
    STOP = "stop"
