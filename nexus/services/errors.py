"""What can be refused about a service: the domain errors of this capability, those of git apart.

::

    NotFound            ServiceNotFound, ServiceDependencyNotFound, ServiceNoRepository
    Conflict            ServiceAmbiguous, ServiceNameTaken, ServiceIdTaken, ServiceDependencyExists,
                        ServiceTunnelNameTaken
    InvalidArgument     ServiceInvalid, ServiceCursorInvalid
    FailedPrecondition  ServiceRunning, ServiceNeeded, ServiceCycle, ServiceNoCommand, ServiceStartFailed,
                        ServicePortTaken, ServiceConfigFile, ServiceDependencyFailed, ServiceStopped
"""

from __future__ import annotations

from nexus_protocol.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound

__all__ = [
    "ServiceAmbiguous",
    "ServiceConfigFile",
    "ServiceCursorInvalid",
    "ServiceCycle",
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
]


class ServiceNotFound(NotFound):
    """No service has this id or name."""

    type = "service.not_found"


class ServiceDependencyNotFound(NotFound):
    """The service does not depend on that one."""

    type = "service.dependency_not_found"


class ServiceNoRepository(NotFound):
    """The service has no repository, or none is at its path yet."""

    type = "service.no_repository"


class ServiceAmbiguous(Conflict):
    """Several ids begin like this; ``details.matches`` names some of them."""

    type = "service.ambiguous"


class ServiceNameTaken(Conflict):
    """Another service has this name."""

    type = "service.name_taken"


class ServiceIdTaken(Conflict):
    """A service with this id exists and differs from what was asked for."""

    type = "service.id_taken"


class ServiceDependencyExists(Conflict):
    """The service depends on that one already, in another way."""

    type = "service.dependency_exists"


class ServiceTunnelNameTaken(Conflict):
    """Two tunnelled dependencies would have the same variables in their dependent's environment."""

    type = "service.tunnel_name_taken"


class ServiceInvalid(InvalidArgument):
    """The fields do not fit together; ``details.path`` names one."""

    type = "service.invalid"


class ServiceCursorInvalid(InvalidArgument):
    """The cursor is not one that ListServices gave for these filters."""

    type = "service.cursor_invalid"


class ServiceRunning(FailedPrecondition):
    """The service runs, and this needs one that does not."""

    type = "service.running"


class ServiceNeeded(FailedPrecondition):
    """Other services need this one; ``details.dependents`` names them."""

    type = "service.needed"


class ServiceCycle(FailedPrecondition):
    """The dependency would close a cycle; ``details.cycle`` spells it out."""

    type = "service.cycle"


class ServiceNoCommand(FailedPrecondition):
    """The service has no run command."""

    type = "service.no_command"


class ServiceStartFailed(FailedPrecondition):
    """The service did not come up; ``details`` has ``reason``, how it ended, and its last lines as ``log``."""

    type = "service.start_failed"


class ServicePortTaken(FailedPrecondition):
    """Somebody else has the service's port; ``details`` says who."""

    type = "service.port_taken"


class ServiceConfigFile(FailedPrecondition):
    """The service's configuration file cannot be read."""

    type = "service.config_file"


class ServiceDependencyFailed(FailedPrecondition):
    """A dependency did not reach its condition; ``details.dependency`` names it."""

    type = "service.dependency_failed"


class ServiceStopped(FailedPrecondition):
    """The service was stopped while somebody waited for it to come up."""

    type = "service.stopped"
