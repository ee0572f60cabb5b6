"""One start, from its admission to the process: port, tunnels, environment, the durable row, then the process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import msgspec

from nexus.journal.operation import Operation
from nexus.runtime import ProcessSpec, RuntimeFailure, StartFailed
from nexus.runtime.start_errors import find_obstacle
from nexus.services.configuration.command import make_spec, refuse_without_command
from nexus.services.lifecycle.context import ServiceContext
from nexus.services.lifecycle.failures import start_failed
from nexus.services.lifecycle.ports import choose_port, leased_by_another
from nexus.services.store import StoredService
from nexus.store import StoreConflict

__all__ = ["check_start", "prepare_run"]

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


@contextlib.asynccontextmanager
async def prepare_run(
    context: ServiceContext, run_id: str, operation: Operation, environment: dict[str, str], write_run: WriteRun
) -> AsyncIterator[ProcessSpec]:
    """Make the spec of a run of the service, which ``operation`` led to; ``environment`` is that of the start.

    ``write_run`` is called with the run's id, its port, and the record that its configuration is from. It writes the
    row before the process exists. The process is started within the context.

    Raises:
        NexusError: it cannot be started; nothing of it is left.
        RequestPending: a request arrived before the row was written.
    """
    async with context.services.launches:
        with _as_nexus_errors(context):
            yield await _prepare(context, run_id, operation, environment, write_run)


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
    context: ServiceContext, run_id: str, operation: Operation, environment: dict[str, str], write_run: WriteRun
) -> ProcessSpec:
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
        return spec
