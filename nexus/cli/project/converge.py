"""Carries out a plan step by step; a failed step skips only the steps that need it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nexus_protocol.command import Command
from nexus_protocol.errors import NexusError

from nexus.cli.project.keys import Edge
from nexus.cli.project.manifest import ProjectFile
from nexus.cli.project.plan import Plan, Step
from nexus.cli.project.target import Target
from nexus.services.commands import (
    AddDependency,
    AddService,
    RemoveDependency,
    RemoveService,
    RestartService,
    StartService,
    UpdateService,
)
from nexus.vms.commands import CreateVm, DeleteVm, UpdateVm

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["Outcome", "converge", "rename_commands"]


class Outcome(NamedTuple):
    """The outcome of a step."""

    step: Step
    result: str
    """done, failed or skipped."""
    reply: dict[str, Any] | None = None
    error: NexusError | None = None
    because: str = ""
    """For a skipped step: the name of the object that failed."""


def converge(
    app: App,
    project: ProjectFile,
    target: Target,
    plan: Plan,
    report: Callable[[Outcome], None],
    *,
    wait: bool = False,
    waits: Sequence[Step] = (),
) -> list[Outcome]:
    """Carry out all steps but the one about the project, which exists; calls ``report`` with the outcome of each step.

    It returns all outcomes. With ``wait`` a start is done once the service is healthy or completed. ``waits`` are wait
    steps for services that run already.

    Raises:
        ConnectionLost: the daemon stopped; the next run continues from there.
    """
    outcomes: list[Outcome] = []

    def note(outcome: Outcome) -> None:
        outcomes.append(outcome)
        report(outcome)

    failed: dict[tuple[str, str], str] = {}
    records = [step for step in plan.steps if step.kind != "project" and step.action not in ("restart", "start")]
    for step in records:
        outcome = _run_record_step(app, project, target, step, failed)
        if outcome.result != "done":
            failed.setdefault((step.kind, step.name), outcome.because or step.name)
        note(outcome)
    broken = _with_dependents(project, {name: why for (kind, name), why in failed.items() if kind == "service"})
    runs = [step for step in plan.steps if step.action in ("restart", "start")]
    for step in runs:
        if step.name in broken:
            note(Outcome(step, "skipped", because=broken[step.name]))
    for batch in _batches([step for step in runs if step.name not in broken]):
        _run(app, batch, wait, note)
    _run(app, waits, True, note)
    return outcomes


def _run_record_step(
    app: App, project: ProjectFile, target: Target, step: Step, failed: Mapping[tuple[str, str], str]
) -> Outcome:
    """Carry out a step about a record; skip it if its object or its dependency has failed."""
    for name in (step.name, step.other):
        if name and (step.kind, name) in failed:
            return Outcome(step, "skipped", because=failed[step.kind, name])
    try:
        return Outcome(step, "done", app.call_raw(_command(project, target, step)))
    except NexusError as error:
        return Outcome(step, "failed", error=error)


def _with_dependents(project: ProjectFile, failed: Mapping[str, str]) -> dict[str, str]:
    """The failed services and their transitive dependents, each with the failed service it needs."""
    broken = dict(failed)
    before = -1
    while len(broken) != before:
        before = len(broken)
        for name, service in project.services.items():
            lost = next((other for other in service.needs if other in broken), None)
            if name not in broken and lost is not None:
                broken[name] = broken[lost]
    return broken


def _batches(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Group the steps: each restart alone, consecutive starts together, since the daemon orders starts itself."""
    batch: list[Step] = []
    for step in steps:
        if batch and (step.action == "restart" or batch[0].action == "restart"):
            yield batch
            batch = []
        batch.append(step)
    if batch:
        yield batch


def _run(app: App, batch: Sequence[Step], wait: bool, note: Callable[[Outcome], None]) -> None:
    commands: list[Command[Any]] = [
        (RestartService if step.action == "restart" else StartService)(step.name, wait=wait) for step in batch
    ]
    for index, reply in app.connect().calls(commands, timeout_s=app.timeout_s):
        if isinstance(reply, NexusError):
            note(Outcome(batch[index], "failed", error=reply))
        else:
            note(Outcome(batch[index], "done", reply))


def rename_commands(plan: Plan) -> list[Command[Any]]:
    """The commands that write the new ``managed_by`` of records."""
    return [
        UpdateService(step.id, managed_by=step.changes[0].after)
        if step.kind == "service"
        else UpdateVm(step.id, managed_by=step.changes[0].after)
        for step in plan.renames
    ]


def _command(project: ProjectFile, target: Target, step: Step) -> Command[Any]:
    """The command for a step about a record."""
    if step.action == "connect":
        return _convert(AddDependency, {"service": step.name, "dependency": step.other, **_edge(step.edge)})
    if step.action == "disconnect":
        return RemoveDependency(step.name, step.other)
    if step.action == "remove":
        return DeleteVm(step.id) if step.kind == "vm" else RemoveService(step.id, stop=True)
    if step.kind == "vm":
        fields = project.vms[step.name]
        if step.action == "create":
            return _convert(CreateVm, {"name": step.name, "id": step.id, "managed_by": target.managed_by, **fields})
        return _convert(UpdateVm, {"vm": step.id, **{change.field: change.after for change in step.changes}})
    fields = project.services[step.name].fields
    if step.action == "create":
        return _convert(AddService, {"name": step.name, "id": step.id, "managed_by": target.managed_by, **fields})
    return _update(step, fields)


def _edge(edge: Edge) -> dict[str, Any]:
    return {"condition": edge.condition, "tunnel_enabled": edge.tunnel, "when_lost": edge.when_lost}


def _update(step: Step, fields: Mapping[str, Any]) -> Command[Any]:
    """The update of a service: the fields to set, and the fields to clear."""
    changed = {change.field.partition(".")[0] for change in step.changes}
    empty: dict[str, Any] = {"environment": {}, "tags": []}
    values = {field: fields[field] if fields[field] is not None else empty.get(field) for field in changed}
    clear = sorted(field for field, value in values.items() if value is None)
    values = {field: value for field, value in values.items() if value is not None}
    return _convert(UpdateService, {"service": step.id, **values} | ({"clear": clear} if clear else {}))


def _convert(command: type[Command[Any]], fields: Mapping[str, Any]) -> Command[Any]:
    import msgspec

    made: Command[Any] = msgspec.convert({name: value for name, value in fields.items() if value is not None}, command)
    return made
