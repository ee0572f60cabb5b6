"""The handlers of the commands on services; those of git are in ``git.handlers``.

They change records and notify the manager, which alone acts on processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from nexus_protocol import Empty
from nexus_protocol.command import unrecorded_fields

from nexus.attaching import Run, attach, send_input
from nexus.capability import Context, Stream, encode_each, handles
from nexus.hints import command_line
from nexus.journal.operation import Operation
from nexus.records.contents import Contents, Held, contents
from nexus.records.handlers import lists
from nexus.records.processes import InputUnavailable, LogEnd, LogPiece, TerminalEnd, TerminalOutput
from nexus.records.scope import reference_of
from nexus.services import store, validation
from nexus.services.commands import (
    AddDependency,
    AddService,
    AttachService,
    GetConfig,
    GetServiceStatus,
    GetServiceStdout,
    ListDependencies,
    ListServices,
    RemoveDependency,
    RemoveService,
    RestartService,
    SendServiceInput,
    StartService,
    StopService,
    UpdateConfig,
    UpdateService,
)
from nexus.services.configuration import environment
from nexus.services.configuration.config_file import config_files
from nexus.services.dependencies import edges as dependencies
from nexus.services.dependencies import store as dependency_store
from nexus.services.errors import ServiceDependencyNotFound
from nexus.services.git.handlers import (
    checkout_branch,
    get_repo_status,
    git_checkout_commit,
    git_clone,
    git_list_branches,
    git_log,
    git_pull,
)
from nexus.services.manager import ServiceManager
from nexus.services.records import (
    ConfigVariable,
    Dependency,
    DependencyList,
    Service,
    ServiceConfig,
    ServicesStopped,
    ServiceStarted,
    ServiceStatus,
)
from nexus.services.states import StdinMode
from nexus.services.store import SERVICES as COUNTED
from nexus.services.store import StoredService
from nexus.store import Reader, Transaction
from nexus.streams import Following, daemon_stopping
from nexus.tasks import uninterrupted

__all__ = [
    "COUNTED",
    "add_dependency",
    "add_service",
    "checkout_branch",
    "get_config",
    "get_repo_status",
    "get_service_status",
    "get_service_stdout",
    "attach_service",
    "git_checkout_commit",
    "send_service_input",
    "git_clone",
    "git_list_branches",
    "git_log",
    "git_pull",
    "list_dependencies",
    "list_services",
    "remove_dependency",
    "remove_service",
    "restart_service",
    "start_service",
    "stop_service",
    "update_config",
    "update_service",
]

_MAX_NAMES_PER_EVENT = 50
_UNRECORDED = unrecorded_fields(Service)
_EDGES_PER_READ = 200


def _resolve(ctx: Context, reference: str) -> Service:
    return ctx.store.read(lambda reader: store.resolve(reader, reference, ctx.scope(reader)))


def _size_bytes(*environments: Mapping[str, str] | None) -> int:
    return 2048 + sum(len(name) + len(value) for each in environments for name, value in (each or {}).items())


# Records


def _updated(ctx: Context, service: Service) -> None:
    ctx.daemon.manager(ServiceManager).updated(service.id)


@handles(AddService, after=_updated, size_bytes=lambda command: _size_bytes(command.environment))
def add_service(tx: Transaction, ctx: Context, command: AddService) -> Service:
    validation.check(f'cannot add service "{command.name}"', {name: getattr(command, name) for name in store.DECLARED})
    return store.insert(tx, ctx.operation, command, ctx.scope(tx))


@handles(
    UpdateService,
    after=_updated,
    size_bytes=lambda command: _size_bytes(command.environment, command.set_environment),
)
def update_service(tx: Transaction, ctx: Context, command: UpdateService) -> Service:
    return _update(tx, ctx, command)[0]


def _config_updated(ctx: Context, config: ServiceConfig) -> None:
    ctx.daemon.manager(ServiceManager).updated(config.service_id)


@handles(UpdateConfig, after=_config_updated, size_bytes=lambda _command: _size_bytes())
def update_config(tx: Transaction, ctx: Context, command: UpdateConfig) -> ServiceConfig:
    service, variables = _update(tx, ctx, command)
    return _config(service, [ConfigVariable(name, "service") for name in sorted(variables)])


def _update(tx: Transaction, ctx: Context, command: UpdateService | UpdateConfig) -> tuple[Service, Mapping[str, str]]:
    """Change a service; gives it with its environment."""
    stored = store.stored(tx, command.service, ctx.scope(tx))
    before = store.declared(stored)
    cannot = f'cannot update service "{stored.service.name}"'
    store.SERVICES.expect(stored.service, cannot, command.if_revision)
    given = validation.changed_fields(cannot, command, stored.environment)
    changes = {name: value for name, value in given.items() if value != before[name]}
    if not changes:
        return stored.service, stored.environment
    validation.check(cannot, before | changes)
    if "name" in changes:
        dependencies.refuse_tunnel_names_of(tx, stored.service, changes["name"])
    service = store.update(tx, ctx.operation, stored.service, changes, _change_detail(before, changes))
    return service, changes.get("environment", stored.environment)


def _change_detail(before: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The event detail of changed fields: old and new value; of fields that may hold secrets only that they changed."""
    detail: dict[str, Any] = {}
    for name, value in changes.items():
        if name == "environment":
            old = before[name]
            names = sorted(key for key in old.keys() | value.keys() if old.get(key) != value.get(key))
            detail[name] = {"changed": names[:_MAX_NAMES_PER_EVENT]}
        elif name in _UNRECORDED:
            detail[name] = {"changed": True}
        else:
            detail[name] = {"from": before[name], "to": value}
    return detail


def _held(reader: Reader, project_id: str, after: str = "", limit: int = -1) -> list[Held]:
    rows = store.names_and_states(reader, project_id, after, limit)
    return [Held("service", *row, runs=row[2] in store.UP) for row in rows]


def _delete_all(tx: Transaction, operation: Operation, project_id: str, _held: list[Held]) -> None:
    store.delete_all(tx, operation, project_id)


def _all_deleted(ctx: Context, ids: list[str]) -> None:
    ctx.daemon.manager(ServiceManager).deleted(ids)


contents(Contents("service", "service", _held, _delete_all, _all_deleted))


@handles(RemoveService)
async def remove_service(ctx: Context, command: RemoveService) -> Service:
    return await ctx.daemon.manager(ServiceManager).remove_service(ctx, command)


list_services = lists(store.SERVICES, ListServices, "services")


# Configuration


@handles(GetConfig)
async def get_config(ctx: Context, command: GetConfig) -> ServiceConfig:
    stored = ctx.store.read(lambda reader: store.stored(reader, command.service, ctx.scope(reader)), snapshot=True)
    if command.resolved:
        variables = [_to_config_variable(variable, command.reveal) for variable in await _resolved(stored)]
    else:
        variables = [
            ConfigVariable(name, "service", value if command.reveal else None)
            for name, value in sorted(stored.environment.items())
        ]
    return _config(stored.service, variables)


async def _resolved(stored: StoredService) -> list[environment.Variable]:
    """The environment of its present run, or when it is not up of its next start."""
    service = stored.service
    return await environment.resolve(
        stored,
        port=service.active_port,
        tunnels={edge.dependency: edge.tunnel_port for edge in stored.dependencies if edge.tunnel_port is not None},
        run_id=stored.run_id if service.state in store.UP else None,
    )


def _to_config_variable(variable: environment.Variable, reveal: bool) -> ConfigVariable:
    unmasked = reveal or variable.source in ("port", "tunnel", "nexus")  # these sources hold no secrets
    return ConfigVariable(variable.name, variable.source, variable.value if unmasked else None)


def _config(service: Service, variables: list[ConfigVariable]) -> ServiceConfig:
    paths = [file.path for file in config_files(service)]
    return ServiceConfig(
        service=service.name,
        service_id=service.id,
        format=service.config_format,
        filename=service.config_filename,
        path=paths[0] if len(paths) == 1 else None,
        run_command=service.run_command,
        variables=variables,
        paths=paths,
    )


# Dependencies


def _dependency_changed(ctx: Context, dependency: Dependency) -> None:
    ctx.daemon.manager(ServiceManager).updated(dependency.service_id)


def _both(tx: Transaction, ctx: Context, command: AddDependency | RemoveDependency) -> tuple[Service, Service]:
    """The dependent and the dependency, whose name is looked up beside the dependent."""
    scope = ctx.scope(tx)
    service = store.resolve(tx, command.service, scope)
    return service, store.resolve(tx, command.dependency, scope._replace(project_id=service.project_id, root=None))


@handles(AddDependency, after=_dependency_changed)
def add_dependency(tx: Transaction, ctx: Context, command: AddDependency) -> Dependency:
    service, dependency = _both(tx, ctx, command)
    if dependencies.add(tx, ctx.operation, service, dependency, command):
        store.count_change(tx, ctx.operation, service)
    return dependency_store.listed(tx, service_id=service.id, dependency_id=dependency.id)[0]


@handles(RemoveDependency)
async def remove_dependency(ctx: Context, command: RemoveDependency) -> Dependency:
    edges: list[int] = []

    def change(tx: Transaction) -> Dependency:
        service, dependency = _both(tx, ctx, command)
        edge = dependency_store.edge(tx, service.id, dependency.id)
        if edge is None:
            raise ServiceDependencyNotFound(
                f'cannot remove the dependency of "{service.name}" on "{dependency.name}": there is none',
                hint="List its dependencies: "
                + command_line("nexusctl", "service", "dependency", "list", reference_of(service)),
                details={"service": service.name, "dependency": dependency.name},
            )
        removed = dependency_store.listed(tx, service_id=service.id, dependency_id=dependency.id)[0]
        dependency_store.remove(tx, ctx.operation, edge)
        store.count_change(tx, ctx.operation, service)
        edges[:] = [edge.id]
        return removed

    removed = await ctx.store.write(change)
    await uninterrupted(ctx.daemon.manager(ServiceManager).dependency_removed(removed.service_id, *edges))
    return removed


@handles(ListDependencies)
async def list_dependencies(ctx: Context, command: ListDependencies) -> DependencyList:
    if command.service is None:
        return DependencyList(await encode_each(await _all_dependencies(ctx)))
    pending = [_resolve(ctx, command.service).id]
    seen, found = set(pending), []
    while pending:
        # One service per turn of the loop, so that a large graph does not delay other clients.
        of = {"dependency_id" if command.reverse else "service_id": pending.pop()}
        for dependency in ctx.store.read(lambda reader, of=of: dependency_store.listed(reader, **of)):  # type: ignore[misc]
            found.append(dependency)
            other = dependency.service_id if command.reverse else dependency.dependency_id
            if command.recursive and other not in seen:
                seen.add(other)
                pending.append(other)
        await asyncio.sleep(0)
    found.sort(key=lambda dependency: (dependency.service, dependency.dependency))
    return DependencyList(await encode_each(found))


async def _all_dependencies(ctx: Context) -> list[Dependency]:
    found: list[Dependency] = []
    after = ("", "", "")

    def read(reader: Reader) -> list[Dependency]:
        scope = ctx.scope(reader)
        if scope.is_nowhere:
            return []
        return dependency_store.listed(reader, project_id=scope.project_id, after=after, limit=_EDGES_PER_READ)

    while True:
        part = ctx.store.read(read, snapshot=True)
        found += part
        if len(part) < _EDGES_PER_READ:
            return found
        after = (part[-1].service, part[-1].dependency, part[-1].service_id)
        await asyncio.sleep(0)


# Processes


@handles(StartService)
async def start_service(ctx: Context, command: StartService) -> ServiceStarted:
    return await ctx.daemon.manager(ServiceManager).start_service(ctx, command)


@handles(StopService)
async def stop_service(ctx: Context, command: StopService) -> ServicesStopped:
    return await ctx.daemon.manager(ServiceManager).stop_service(ctx, command)


@handles(RestartService)
async def restart_service(ctx: Context, command: RestartService) -> ServiceStarted:
    return await ctx.daemon.manager(ServiceManager).restart_service(ctx, command)


@handles(GetServiceStatus)
async def get_service_status(ctx: Context, command: GetServiceStatus) -> ServiceStatus:
    return await ctx.daemon.manager(ServiceManager).status(_resolve(ctx, command.service).id)


def _attachable(ctx: Context, reference: str, cannot: str) -> tuple[Run, str]:
    """The present run of a service, and how sentences name that; ``cannot`` begins the sentence of an error.

    Raises:
        InputUnavailable: it is not up.
    """
    service = _resolve(ctx, reference)
    name = reference_of(service)
    run = ctx.daemon.manager(ServiceManager).run_of(service.id)
    if run is None:
        raise InputUnavailable(
            f'{cannot} service "{service.name}": it is {service.state}',
            hint=f"Start it: {command_line('nexusctl', 'service', 'start', name)}",
            details={"id": service.id, "name": service.name},
        )
    has_input = service.tty or service.stdin is StdinMode.OPEN
    change = (
        "" if has_input else f"Give it a terminal: {command_line('nexusctl', 'service', 'update', name, '--tty')}\n"
    )
    hint = f"{change}Restart it: {command_line('nexusctl', 'service', 'restart', name)}"
    return run._replace(hint=hint), f'service "{service.name}"'


@handles(AttachService)
async def attach_service(ctx: Context, command: AttachService, stream: Stream[TerminalOutput]) -> TerminalEnd:
    run, what = _attachable(ctx, command.service, "cannot attach to")
    return await attach(run, command, stream, what)


@handles(SendServiceInput)
async def send_service_input(ctx: Context, command: SendServiceInput) -> Empty:
    run, what = _attachable(ctx, command.service, "cannot send input to")
    await send_input(run, command.data, command.eof, what)
    return Empty()


@handles(GetServiceStdout)
async def get_service_stdout(ctx: Context, command: GetServiceStdout, stream: Stream[LogPiece]) -> LogEnd:
    following = Following(
        stream,
        lambda: daemon_stopping(
            "The service keeps running; once the daemon runs again, continue with the cursor of the last item."
        ),
    )
    await following.send_all(ctx.daemon.manager(ServiceManager).output(_resolve(ctx, command.service).id, command))
    return LogEnd()
