"""The domain errors of services; those of git are in ``nexus.git.errors``.

::

    NotFound            ServiceNotFound, ServiceDependencyNotFound, ServiceNoRepository
    Conflict            ServiceAmbiguous, ServiceChanged, ServiceNameTaken, ServiceIdTaken, ServiceDependencyExists,
                        ServiceTunnelNameTaken
    InvalidArgument     ServiceInvalid, ServiceCursorInvalid
    FailedPrecondition  ServiceRunning, ServiceNeeded, ServiceCycle, ServiceNoCommand, ServiceStartFailed,
                        ServicePortTaken, ServiceConfigFile, ServiceDependencyFailed, ServiceStopped
    Unavailable         ServiceUnknown
"""

from __future__ import annotations

from nexus_protocol.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound, Unavailable

from nexus.records.errors import (
    RecordAmbiguous,
    RecordChanged,
    RecordCursorInvalid,
    RecordIdTaken,
    RecordNameTaken,
    RecordNotFound,
)

__all__ = [
    "ServiceAmbiguous",
    "ServiceChanged",
    "ServiceConfigFile",
    "ServiceCursorInvalid",
    "ServiceCycle",
    "ServiceDependencyElsewhere",
    "ServiceDependencyExists",
    "ServiceDependencyFailed",
    "ServiceDependencyNotFound",
    "ServiceIdTaken",
    "ServiceInvalid",
    "ServiceNameTaken",
    "ServiceNeeded",
    "ServiceNoCommand",
    "ServiceNoRepository",
    "ServiceNotFound",
    "ServicePortTaken",
    "ServiceRunning",
    "ServiceStartFailed",
    "ServiceStopped",
    "ServiceTunnelNameTaken",
    "ServiceUnknown",
]


class ServiceNotFound(RecordNotFound):
    """No service has this id or name."""

    type = "service.not_found"


class ServiceDependencyNotFound(NotFound):
    """The service does not depend on the other one."""

    type = "service.dependency_not_found"


class ServiceNoRepository(NotFound):
    """The service declares no repository, or there is none at its path yet."""

    type = "service.no_repository"


class ServiceAmbiguous(RecordAmbiguous):
    """Several services have ids with this prefix; ``details.matches`` names some of them."""

    type = "service.ambiguous"


class ServiceNameTaken(RecordNameTaken):
    """Another service has this name."""

    type = "service.name_taken"


class ServiceIdTaken(RecordIdTaken):
    """A service with this id exists, and its fields differ from the requested ones."""

    type = "service.id_taken"


class ServiceChanged(RecordChanged):
    """The service has another revision than the request expects; ``details`` has the present ones."""

    type = "service.changed"


class ServiceDependencyElsewhere(FailedPrecondition):
    """The two services are in different projects; a dependency is within one."""

    type = "service.dependency_elsewhere"


class ServiceDependencyExists(Conflict):
    """The service already depends on the other one, with another condition, loss policy or tunnel."""

    type = "service.dependency_exists"


class ServiceTunnelNameTaken(Conflict):
    """Two tunnelled dependencies would set the same variables in their dependent's environment."""

    type = "service.tunnel_name_taken"


class ServiceInvalid(InvalidArgument):
    """The fields contradict each other, or one is invalid; ``details.path`` names it."""

    type = "service.invalid"


class ServiceCursorInvalid(RecordCursorInvalid):
    """The cursor comes from a request with other filters, or from output that has been deleted."""

    type = "service.cursor_invalid"


class ServiceRunning(FailedPrecondition):
    """The service is up, and the request needs it to be stopped or to have another environment."""

    type = "service.running"


class ServiceNeeded(FailedPrecondition):
    """Other services depend on this one; ``details.dependents`` names them."""

    type = "service.needed"


class ServiceCycle(FailedPrecondition):
    """The dependency would close a cycle; ``details.cycle`` lists the names along it."""

    type = "service.cycle"


class ServiceNoCommand(FailedPrecondition):
    """The service has no run command."""

    type = "service.no_command"


class ServiceStartFailed(FailedPrecondition):
    """The service did not come up; ``details`` has ``reason``, the exit, and the last lines of output as ``log``."""

    type = "service.start_failed"


class ServicePortTaken(FailedPrecondition):
    """Another process or service has the service's port; ``details`` names it."""

    type = "service.port_taken"


class ServiceConfigFile(FailedPrecondition):
    """The service's configuration file cannot be read."""

    type = "service.config_file"


class ServiceDependencyFailed(FailedPrecondition):
    """A dependency did not reach its condition; ``details.dependency`` names it."""

    type = "service.dependency_failed"


class ServiceStopped(FailedPrecondition):
    """The service was stopped while the request waited for it to come up."""

    type = "service.stopped"


class ServiceUnknown(Unavailable):
    """The daemon cannot look at the service's run, so it neither starts a second one nor says that it ended."""

    type = "service.unknown"
