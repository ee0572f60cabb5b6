"""The plan: pure functions from a project file and the observed state to the steps that make them equal."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from nexus.cli.project.keys import Edge, service_defaults, vm_defaults
from nexus.cli.project.manifest import ProjectFile, ProjectFileInvalid
from nexus.cli.project.target import Target
from nexus.cli.project.world import Observed, service_fields, vm_fields
from nexus.hints import command_line
from nexus.services.cli.status import fields_at_start, is_checked

__all__ = ["Change", "Plan", "Step", "differences", "find_cycle", "in_order", "make_plan", "not_ready"]


class Change(NamedTuple):
    """A field that changes. Each variable is a change of its own, ``environment.NAME``, without its values."""

    field: str
    before: Any = None
    after: Any = None
    secret: str | None = None
    """For a variable: set, changed or removed."""


class Step(NamedTuple):
    """One step of a plan."""

    action: str
    """create, update, remove, connect, disconnect, restart or start; also wait, which is not part of a plan."""
    kind: str
    """project, service or vm."""
    name: str
    id: str = ""
    changes: tuple[Change, ...] = ()
    other: str = ""
    """For connect and disconnect: the dependency."""
    edge: Edge = Edge()


class Plan(NamedTuple):
    """The steps, in an order that satisfies dependencies."""

    steps: tuple[Step, ...]
    renames: tuple[Step, ...] = ()
    """A part of the step about the project: the records whose ``managed_by`` changes with it."""


def make_plan(
    project: ProjectFile,
    target: Target,
    observed: Observed,
    *,
    prune: bool = False,
    start: bool = True,
    new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
) -> Plan:
    """Compute the plan.

    Dependencies are removed first and added last, so that reversing an edge never creates a cycle on the way.

    Raises:
        ProjectFileInvalid: a dependency names an unknown service or has a tunnel to a service without a port, the
            dependencies form a cycle, or a record was created from another file.
    """
    edges = _wanted_edges(project, observed)
    _check_tunnels(project, observed)
    gone = _prune_steps(project, target, observed) if prune else []
    lost = {step.name for step in gone if step.kind == "service"}
    connects, disconnects = _edge_steps(edges, observed, lost)
    records = [*_vm_steps(project, observed, new_id), *_service_steps(project, observed, new_id)]
    changed = _changed(records, connects + disconnects)
    stale = {
        name
        for name, service in observed.services.items()
        if _runs(service) and (name in changed or _is_restart_due(target, service))
    }
    again = _changed(records, [step for step in connects + disconnects if step.edge.tunnel])
    runs = _run_steps(project, observed, edges, stale, again) if start else []
    steps = [*disconnects, *gone, *records, *connects, *runs]
    _check_managers(project, target, observed, steps)
    renames = _renames(target, observed)
    return Plan((*_project_steps(target, renames), *steps), renames)


def _project_steps(target: Target, renames: Iterable[Step]) -> list[Step]:
    root = (Change("root_path", None, target.root),) if target.root is not None else ()
    if not target.id:
        return [Step("create", "project", target.name, changes=root)]
    changes = [*(root if target.binds else ()), *dict.fromkeys(change for step in renames for change in step.changes)]
    return [Step("update", "project", target.name, target.id, tuple(changes))] if changes else []


def _renames(target: Target, observed: Observed) -> tuple[Step, ...]:
    steps = []
    for kind, records in (("service", observed.services), ("vm", observed.vms)):
        renamed = target.renamed(records.values())
        for name, record in records.items():
            if record["id"] in renamed:
                change = Change("managed_by", record["managed_by"], renamed[record["id"]])
                steps.append(Step("update", kind, name, record["id"], (change,)))
    return tuple(steps)


def _check_managers(project: ProjectFile, target: Target, observed: Observed, steps: Iterable[Step]) -> None:
    """Refuse to change a record of another file; two files may both name a record if they agree on it."""
    for step in steps:
        there = (observed.services if step.kind == "service" else observed.vms).get(step.name)
        owner = target.manager(there) if there is not None else None
        if owner not in (None, target.file):
            kind = "service" if step.kind == "service" else "VM"
            raise ProjectFileInvalid(
                f'cannot {step.action} {kind} "{step.name}": it was created from {owner}',
                hint=_ways_out(project, kind, step.name, owner),
            )


def _ways_out(project: ProjectFile, kind: str, name: str, owner: str) -> str:
    """What to do about a record of another file. Neither way hands what that file has made to this one."""
    hint = f"Give the {kind} another name in {project.path}.\n"
    if owner[0] == "/" and not os.path.lexists(owner):
        return f"{hint}Or, if {project.path} is that file under a new name, give it the old one again: {owner}"
    return (
        f'{hint}Or take "{name}" out of {owner}, and apply that file, which removes it: '
        f"{command_line('nexusctl', 'apply', '-f', owner, '--prune')}"
    )


def _wanted_edges(project: ProjectFile, observed: Observed) -> dict[str, dict[str, Edge]]:
    """The desired dependencies: from the file for its services, unchanged for all others.

    Raises:
        ProjectFileInvalid: a dependency names an unknown service, or the dependencies form a cycle.
    """
    names = {*project.services, *observed.services}
    for name, service in project.services.items():
        for other in service.needs:
            if other not in names:
                near = get_close_matches(other, names, 1)
                raise ProjectFileInvalid(
                    f'cannot use {project.path}: service "{name}" depends on "{other}", which is neither in the file'
                    " nor in the project",
                    hint=f'Did you mean "{near[0]}"?' if near else f"Add it: [services.{other}]",
                )
    edges = {name: dict(needs) for name, needs in observed.edges.items() if name not in project.services}
    edges |= {name: dict(service.needs) for name, service in project.services.items()}
    cycle = find_cycle(edges)
    if cycle:
        raise ProjectFileInvalid(
            f"cannot use {project.path}: the dependencies form a cycle: {' → '.join(cycle)}",
            hint="Remove one of them from depends_on.",
        )
    return edges


def _check_tunnels(project: ProjectFile, observed: Observed) -> None:
    """Refuse a tunnel to a service without a port, unless the daemon already has this dependency."""
    for name, service in project.services.items():
        for other, edge in service.needs.items():
            wanted, there = project.services.get(other), observed.services.get(other)
            port = wanted.fields["port"] if wanted is not None else (there or {}).get("port")
            as_before = there is not None and there.get("port") is None
            if not edge.tunnel or port is not None or (as_before and observed.edges.get(name, {}).get(other) == edge):
                continue
            raise project.wrong(
                ("services", name, "depends_on", other, "tunnel"),
                f'"{other}" has no port for the tunnel',
                f"Give it a port: port = 0 in [services.{other}] leases a free one."
                if wanted is not None
                else f"Give it a port: {command_line('nexusctl', 'service', 'update', other, '--port', '0')}",
            )


def find_cycle(edges: Mapping[str, Iterable[str]]) -> list[str] | None:
    """Find a cycle in a graph: a path from a name back to itself; None if there is none."""
    done: set[str] = set()
    for root in edges:
        # Depth-first search without recursion: the nodes of the current path, each with its unvisited neighbours.
        path = {root: iter(edges[root])} if root not in done else {}
        while path:
            here = next(reversed(path))
            other = next(path[here], None)
            if other is None:
                path.popitem()
                done.add(here)
            elif other in path:
                names = list(path)
                return [*names[names.index(other) :], other]
            elif other not in done:
                path[other] = iter(edges.get(other, ()))
    return None


def in_order(names: Iterable[str], edges: Mapping[str, Iterable[str]]) -> list[str]:
    """Sort names topologically: each after its direct and transitive dependencies."""
    wanted, done, found = list(names), set(), []
    for root in wanted:
        pending = [(root, iter(sorted(edges.get(root, ()))))] if root not in done else []
        done.add(root)
        while pending:
            name, others = pending[-1]
            other = next(others, None)
            if other is None:
                pending.pop()
                found.append(name)
            elif other not in done:
                done.add(other)
                pending.append((other, iter(sorted(edges.get(other, ())))))
    chosen = set(wanted)
    return [name for name in found if name in chosen]


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Change, ...]:
    """The fields that differ; of variables only the names."""
    changes = []
    for field, value in after.items():
        if field == "environment":
            old, new = before[field] or {}, value or {}
            for name in sorted({*old, *new}):
                if old.get(name) != new.get(name):
                    secret = "set" if name not in old else "removed" if name not in new else "changed"
                    changes.append(Change(f"environment.{name}", secret=secret))
        elif before[field] != value:
            changes.append(Change(field, before[field], value))
    return tuple(changes)


def _vm_steps(project: ProjectFile, observed: Observed, new_id: Callable[[], str]) -> list[Step]:
    steps = []
    for name, fields in project.vms.items():
        vm = observed.vms.get(name)
        if vm is None:
            steps.append(Step("create", "vm", name, new_id(), differences(vm_defaults(), fields)))
        elif changes := differences(vm_fields(vm), fields):
            steps.append(Step("update", "vm", name, vm["id"], changes))
    return steps


def _service_steps(project: ProjectFile, observed: Observed, new_id: Callable[[], str]) -> list[Step]:
    steps = []
    for name, wanted in project.services.items():
        service = observed.services.get(name)
        if service is None:
            steps.append(Step("create", "service", name, new_id(), differences(service_defaults(), wanted.fields)))
            continue
        there = service_fields(service, observed.environments.get(name, {}))
        if changes := differences(there, wanted.fields):
            steps.append(Step("update", "service", name, service["id"], changes))
    return steps


def _edge_steps(
    edges: Mapping[str, Mapping[str, Edge]], observed: Observed, lost: set[str]
) -> tuple[list[Step], list[Step]]:
    """The edges to add and to remove; an edge that changes is removed and added."""
    connects, disconnects = [], []
    for name in sorted({*edges, *observed.edges}):
        is_, to_be = observed.edges.get(name, {}), edges.get(name, {}) if name not in lost else {}
        for other in sorted(is_):
            if to_be.get(other) != is_[other]:
                disconnects.append(Step("disconnect", "service", name, other=other, edge=is_[other]))
        for other in sorted(to_be):
            if is_.get(other) != to_be[other]:
                connects.append(Step("connect", "service", name, other=other, edge=to_be[other]))
    return connects, disconnects


def _prune_steps(project: ProjectFile, target: Target, observed: Observed) -> list[Step]:
    """Remove what the file has made and no longer names, dependents before their dependencies."""
    services = [
        name for name, service in observed.services.items() if target.manages(service) and name not in project.services
    ]
    vms = [name for name, vm in observed.vms.items() if target.manages(vm) and name not in project.vms]
    return [
        *(
            Step("remove", "service", name, observed.services[name]["id"])
            for name in reversed(in_order(services, observed.edges))
        ),
        *(Step("remove", "vm", name, observed.vms[name]["id"]) for name in vms),
    ]


def _runs(service: Mapping[str, Any]) -> bool:
    return service["state"] in ("starting", "running")


def _is_restart_due(target: Target, service: Mapping[str, Any]) -> bool:
    """Whether the service waits for a restart that is this file's matter."""
    return service.get("restart_pending_since") is not None and target.manager(service) in (None, target.file)


def _changed(records: Iterable[Step], edges: Iterable[Step]) -> set[str]:
    """The services whose changes take effect only at a restart."""
    changed = {
        step.name
        for step in records
        if step.action == "update"
        and step.kind == "service"
        and any(change.field.partition(".")[0] in fields_at_start() for change in step.changes)
    }
    return changed | {step.name for step in edges}


def _run_steps(
    project: ProjectFile, observed: Observed, edges: Mapping[str, Iterable[str]], stale: set[str], changed: set[str]
) -> list[Step]:
    """Restarts and starts, in the order of the dependencies."""
    steps = []
    for name in in_order(project.services, edges):
        wanted, service = project.services[name], observed.services.get(name)
        if name in stale and service is not None:
            steps.append(Step("restart", "service", name, service["id"]))
        elif wanted.start and wanted.fields["run_command"] is not None:
            if service is not None and (
                _runs(service) or (_is_completed_oneshot(service, wanted.fields) and name not in changed)
            ):
                continue
            steps.append(Step("start", "service", name, service["id"] if service is not None else ""))
    return steps


def not_ready(project: ProjectFile, observed: Observed, plan: Plan) -> list[Step]:
    """Steps to wait for the services that run already but are not healthy or completed yet."""
    begun = {step.name for step in plan.steps if step.action in ("restart", "start", "remove")}
    steps = []
    for name in in_order(project.services, {name: one.needs for name, one in project.services.items()}):
        wanted, service = project.services[name], observed.services.get(name)
        if wanted.start and service is not None and name not in begun and _runs(service):
            well = service["health"] == "healthy" or not is_checked(service)
            if service["state"] == "starting" or service["type"] == "oneshot" or not well:
                steps.append(Step("wait", "service", name, service["id"]))
    return steps


def _is_completed_oneshot(service: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    return fields["type"] == "oneshot" and service["state"] == "stopped" and service.get("exit_code") == 0
