"""One start, from its admission to the process: port, tunnels, environment, the durable row, then the process."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Iterator

import msgspec

from nexus.journal.operation import Operation
from nexus.journal.store import bounds
from nexus.runtime import Process, ProcessSpec, RuntimeFailure, StartFailed
from nexus.runtime.start_errors import find_obstacle
from nexus.services.configuration.command import make_spec, refuse_without_command
from nexus.services.lifecycle.context import ServiceContext
from nexus.services.lifecycle.failures import start_failed
from nexus.services.lifecycle.ports import choose_port, leased_by_another
from nexus.services.store import StoredService
from nexus.store import StoreConflict
from nexus.store.processes_folder import note_event

__all__ = ["check_start", "start_process"]

WriteRun = Callable[[str, int | None, StoredService], Awaitable[None]]


async def check_start(context: ServiceContext, environment: dict[str, str]) -> None:
    """Return if the service could be started as its record and the plugins are now; nothing is started or written.

    A port is looked at only if the present run does not have it.

    Raises:
        NexusError: it could not.
    """
    stored = msgspec.structs.replace(context.state.read(), start_environment=environment)
    service = stored.service
    refuse_without_command(service)
    tunnels = {edge.dependency: edge.tunnel_port for edge in stored.dependencies if edge.tunnel_port is not None}
    run_id = stored.run_id or ""
    if service.port and service.port != service.active_port:
        await choose_port(context, stored, set())
    with _as_nexus_errors(context):
        variables = await context.services.environment(stored, run_id, service.active_port, tunnels)
        spec = await make_spec(service, variables, context.manager.hooks)
        context.manager.runtime.check(spec)
        obstacle = await asyncio.to_thread(find_obstacle, spec)
        if obstacle is not None:
            raise obstacle


async def start_process(
    context: ServiceContext, operation: Operation, environment: dict[str, str], write_run: WriteRun
) -> Process:
    """Start a run of the service, which ``operation`` led to; ``environment`` is that of the start.

    ``write_run`` is called with the new run's id, its port, and the record that its configuration is from. It writes
    the row before the process exists.

    Raises:
        NexusError: it cannot be started; nothing of it is left.
        RequestPending: a request arrived before the row was written.
    """
    async with context.services.launches:
        with _as_nexus_errors(context):
            spec, run_id = await _prepare(context, operation, environment, write_run)
            manager = context.manager
            note_event(manager.directory, manager.store.read(bounds)[1])
            return await context.manager.runtime.start(context.owner, run_id, spec)


@contextlib.contextmanager
def _as_nexus_errors(context: ServiceContext) -> Iterator[None]:
    try:
        yield
    except StartFailed as error:
        # A missing directory is reported without the program, since the service declares it.
        words = error.reason if error.step == "chdir" else f"{error.program}: {error.reason}"
        raise start_failed(context, words, words, None, error.hint) from error
    except RuntimeFailure as error:
        raise start_failed(context, error.message, error.message, None, error.hint) from error
    except ValueError as error:  # of ProcessSpec
        raise start_failed(context, str(error), str(error), None) from error


async def _prepare(
    context: ServiceContext, operation: Operation, environment: dict[str, str], write_run: WriteRun
) -> tuple[ProcessSpec, str]:
    """Everything that the process needs, with the row that precedes it."""
    requests, services = context.requests, context.services
    avoid: set[int] = set()
    while True:
        requests.check()
        stored = msgspec.structs.replace(context.state.read(), start_environment=environment)
        service = stored.service
        refuse_without_command(service)
        choice = await requests.interruptible(choose_port(context, stored, avoid))
        tunnels = await requests.interruptible(services.tunnels.open(stored, operation))
        run_id = uuid.uuid4().hex
        variables = await requests.interruptible(services.environment(stored, run_id, choice.port, tunnels))
        spec = await requests.interruptible(make_spec(service, variables, context.manager.hooks))
        context.manager.runtime.check(spec)
        try:
            await write_run(run_id, choice.port, stored)
        except StoreConflict:
            assert choice.port is not None
            if not choice.leased:
                raise leased_by_another(context, service, choice.port) from None
            avoid.add(choice.port)
            continue
        return spec, run_id
