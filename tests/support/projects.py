"""Projects of a real daemon for tests: clients that speak in one, and what is left of one that was deleted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from nexus_protocol import Command, NexusError
from nexus_protocol.context import ProjectRoot

from nexus.client import BlockingClient
from nexus.jobs.commands import CancelJob, DeleteJob, ListJobs
from nexus.jobs.schedules.commands import DeleteSchedule, ListSchedules
from nexus.journal.commands import Event, WatchEvents
from nexus.projects.commands import CreateProject, DeleteProject, ListProjects
from nexus.records.scope import DEFAULT_ID
from nexus.services.commands import (
    AddService,
    GetServiceStatus,
    ListDependencies,
    ListServices,
    RemoveDependency,
    RemoveService,
    StopService,
)
from nexus.services.records import Service
from nexus.vms.commands import DeleteVm, ListVms
from support.daemon import DaemonProcess
from support.raw import wait_until

__all__ = ["Speaker", "clear", "events_of", "kept_by", "project"]

Named = str | ProjectRoot | None


class Speaker:
    """Sends requests in one project."""

    def __init__(self, daemon: DaemonProcess, named: Named = None) -> None:
        self.client = BlockingClient(daemon.socket_path)
        self.client.connect()
        self.named = named

    def at(self, named: Named) -> Speaker:
        """The same connection, in another project."""
        other = object.__new__(Speaker)
        other.client, other.named = self.client, named
        return other

    def call(self, command: Command[Any], *, key: str | None = None) -> Any:
        """The reply of a command."""
        return self.client.call(command, project=self.named, key=key)

    def error(self, command: Command[Any], *, key: str | None = None) -> NexusError:
        """The error of a command, which is expected."""
        try:
            reply = self.call(command, key=key)
        except NexusError as error:
            return error
        raise AssertionError(f"{command} succeeded with {reply}")

    def outcome(self, command: Command[Any]) -> tuple[str, str]:
        """The type or code of the error, else ``ok``, and everything that was told as text; a stream is read whole."""
        try:
            if command.info.item is None:
                told: Any = self.client.call_raw(command, project=self.named)
            else:
                with self.client.stream(command, project=self.named) as stream:
                    told = [msgspec.to_builtins(item) for item in stream]
        except NexusError as error:
            return error.type or error.code, f"{error.message} {error.hint} {error.details}"
        return "ok", repr(told)

    def service(self, name: str = "web", run: Any = "exec sleep 1000", **fields: Any) -> Service:
        """Add a service, with a short start window by default."""
        fields.setdefault("start_window_ms", 20)
        service: Service = self.call(AddService(name, run_command=run, **fields))
        return service

    def get(self, service: str = "web") -> Service:
        """The record of a service."""
        found: Service = self.call(GetServiceStatus(service)).service
        return found

    def wait(self, service: str, **wanted: Any) -> Service:
        """Wait until a service's record has these values; return the record."""

        def look() -> Service | None:
            found = self.get(service)
            return found if all(getattr(found, name) == value for name, value in wanted.items()) else None

        return wait_until(look, f"{service} with {wanted}")

    def names(self) -> list[str]:
        """The names of its services."""
        return [service.name for service in self.call(ListServices()).services]

    def close(self) -> None:
        """Close the connection."""
        self.client.close()


def project(speaker: Speaker, name: str, **fields: Any) -> Speaker:
    """Create a project; speaks in it, by its id."""
    return speaker.at(speaker.call(CreateProject(name, **fields)).id)


def events_of(speaker: Speaker, **fields: Any) -> list[Event]:
    """The events of the project that is spoken in."""
    with speaker.client.stream(WatchEvents(follow=False, **fields), project=speaker.named) as stream:
        return [event for event in stream if event.kind is not None]


def kept_by(daemon: DaemonProcess) -> list[str]:
    """The folders and files that the daemon keeps of services and tunnels."""
    folders = [path for path in (daemon.state / "processes").glob("*") if path.is_dir()]
    return sorted(path.name for path in [*folders, *(daemon.state / "tunnels").glob("*")])


def _everything(speaker: Speaker, list_: Any, field: str) -> Iterator[Any]:
    yield from getattr(speaker.call(list_(limit=10_000)), field)


def clear(speaker: Speaker) -> None:
    """Stop and delete everything that the daemon has."""
    everywhere = speaker.at("*")
    for edge in everywhere.call(ListDependencies()).dependencies:
        speaker.call(RemoveDependency(edge.service_id, edge.dependency_id))
    for service in _everything(everywhere, ListServices, "services"):
        speaker.call(StopService(service.id))
        speaker.call(RemoveService(service.id))
    for vm in _everything(everywhere, ListVms, "vms"):
        speaker.call(DeleteVm(vm.id))
    for schedule in _everything(everywhere, ListSchedules, "schedules"):
        speaker.call(DeleteSchedule(schedule.id))
    for job in _everything(everywhere, ListJobs, "jobs"):
        speaker.call(CancelJob(job.id, now=True))
        speaker.call(DeleteJob(job.id))
    for each in _everything(speaker, ListProjects, "projects"):
        if each.id != DEFAULT_ID:
            speaker.call(DeleteProject(each.id))
