"""What has to be done so that the daemon has what a file says: pure functions from both to a list of steps."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from nexus.cli.project.keys import Edge, service_defaults, vm_defaults
from nexus.cli.project.manifest import Project, ProjectFileInvalid
from nexus.cli.project.world import Ledger, World, service_fields, vm_fields
from nexus.services.cli.status import AT_START, is_checked

__all__ = ["Change", "Plan", "Step", "differences", "find_cycle", "in_order", "make_plan", "not_ready"]


class Change(NamedTuple):
    """One field that becomes another; variables one by one, as ``environment.NAME`` and without their values."""

    field: str
    before: Any = None
    after: Any = None
    secret: str | None = None
    """For a variable: set, changed or removed."""


class Step(NamedTuple):
    """One thing to do."""

    action: str
    """create, update, remove, connect, disconnect, restart, start or (it is no part of a plan) wait."""
    kind: str
    """service or vm."""
    name: str
    id: str = ""
    changes: tuple[Change, ...] = ()
    other: str = ""
    """For connect and disconnect: the service that it depends on."""
    edge: Edge = Edge()


class Plan(NamedTuple):
    """The steps in an order in which they can be done, and what is remembered before and after them."""

    steps: tuple[Step, ...]
    before: Ledger
    """With everything that the steps are about to make."""
    after: Ledger
    """When all of them were done."""


def make_plan(
    project: Project,
    world: World,
    *,
    now_ms: int,
    prune: bool = False,
    start: bool = True,
    new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
) -> Plan:
    """What has to be done.

    Dependencies go first and come last, so that a graph that is turned round is never a circle on the way.

    Raises:
        ProjectFileInvalid: a dependency names nothing or has a tunnel to what has no port, the dependencies form a
            circle, or a name is another project's.
    """
    known = world.ledgers.get(project.name, Ledger())
    edges = _wanted_edges(project, world)
    _check_tunnels(project, world)
    gone = _pruned(project, world, known) if prune else []
    lost = {step.name for step in gone if step.kind == "service"}
    connects, disconnects = _edge_steps(edges, world, lost)
    records = [*_vm_steps(project, world, new_id), *_service_steps(project, world, new_id)]
    changed = _changed(records, connects + disconnects)
    stale = {name for name in changed if name in world.services and _runs(world.services[name])}
    pending = {**dict(known.restarts), **{world.services[name]["id"]: now_ms for name in stale}}
    by_id = {service["id"]: service for service in world.services.values()}
    # Whoever was started since has what it was changed to.
    pending = {
        one: at
        for one, at in pending.items()
        if one in by_id and _runs(by_id[one]) and (at == now_ms or by_id[one].get("started_at", 0) <= at)
    }
    stale = {by_id[one]["name"] for one in pending}
    runs = _run_steps(project, world, edges, stale, changed) if start else []
    steps = [*disconnects, *gone, *records, *connects, *runs]
    _check_owners(project, world, steps)
    return Plan(tuple(steps), *_ledgers(known, world, steps, pending))


def _check_owners(project: Project, world: World, steps: Iterable[Step]) -> None:
    """Refuse to touch what another file made; two files that agree on it may both name it."""
    owners = {one: name for name, ledger in world.ledgers.items() for one in (*ledger.services, *ledger.vms)}
    for step in steps:
        there = (world.services if step.kind == "service" else world.vms).get(step.name)
        owner = owners.get(there["id"]) if there is not None else None
        if owner not in (None, project.name):
            kind = "service" if step.kind == "service" else "VM"
            raise ProjectFileInvalid(
                f'cannot {step.action} {kind} "{step.name}": it was made from the file of project "{owner}"',
                hint=f"Give it another name, or let that project go: nexusctl settings unset apply.{owner}",
            )


def _wanted_edges(project: Project, world: World) -> dict[str, dict[str, Edge]]:
    """Every dependency as it is to be: those of the file's services from the file, the others as they are.

    Raises:
        ProjectFileInvalid: one names nothing, or they form a circle.
    """
    names = {*project.services, *world.services}
    for name, service in project.services.items():
        for other in service.needs:
            if other not in names:
                near = get_close_matches(other, names, 1)
                raise ProjectFileInvalid(
                    f'cannot use {project.path}: service "{name}" depends on "{other}", which is neither in the file'
                    " nor known to the daemon",
                    hint=f'Did you mean "{near[0]}"?' if near else f"Add it: [services.{other}]",
                )
    edges = {name: dict(needs) for name, needs in world.edges.items() if name not in project.services}
    edges |= {name: dict(service.needs) for name, service in project.services.items()}
    cycle = find_cycle(edges)
    if cycle:
        raise ProjectFileInvalid(
            f"cannot use {project.path}: the dependencies form a circle: {' → '.join(cycle)}",
            hint="Take one of them out of depends_on.",
        )
    return edges


def _check_tunnels(project: Project, world: World) -> None:
    """Refuse a tunnel that would lead nowhere; one that is there already is left to whoever made it."""
    for name, service in project.services.items():
        for other, edge in service.needs.items():
            wanted, there = project.services.get(other), world.services.get(other)
            port = wanted.fields["port"] if wanted is not None else (there or {}).get("port")
            as_before = there is not None and there.get("port") is None
            if not edge.tunnel or port is not None or (as_before and world.edges.get(name, {}).get(other) == edge):
                continue
            raise project.wrong(
                ("services", name, "depends_on", other, "tunnel"),
                f'"{other}" has no port for a tunnel to lead to',
                f"Give it one: port = 0 in [services.{other}] leases a free one."
                if wanted is not None
                else f"Give it one: nexusctl service update {other} --port 0",
            )


def find_cycle(edges: Mapping[str, Iterable[str]]) -> list[str] | None:
    """A circle in a graph, from a name back to itself; None where there is none."""
    done: set[str] = set()
    for root in edges:
        # The way from the root to where we are, in order, and what is still to be looked at from each.
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
    """The names, each after those that it depends on, also by way of others."""
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
    """The fields that differ; of the environment only names."""
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


def _vm_steps(project: Project, world: World, new_id: Callable[[], str]) -> list[Step]:
    steps = []
    for name, fields in project.vms.items():
        vm = world.vms.get(name)
        if vm is None:
            steps.append(Step("create", "vm", name, new_id(), differences(vm_defaults(), fields)))
        elif changes := differences(vm_fields(vm), fields):
            steps.append(Step("update", "vm", name, vm["id"], changes))
    return steps


def _service_steps(project: Project, world: World, new_id: Callable[[], str]) -> list[Step]:
    steps = []
    for name, wanted in project.services.items():
        service = world.services.get(name)
        if service is None:
            steps.append(Step("create", "service", name, new_id(), differences(service_defaults(), wanted.fields)))
            continue
        there = service_fields(service, world.environments.get(name, {}))
        if changes := differences(there, wanted.fields):
            steps.append(Step("update", "service", name, service["id"], changes))
    return steps


def _edge_steps(edges: Mapping[str, Mapping[str, Edge]], world: World, lost: set[str]) -> tuple[list[Step], list[Step]]:
    """What is to be connected and disconnected; one that changes is both."""
    connects, disconnects = [], []
    for name in sorted({*edges, *world.edges}):
        is_, to_be = world.edges.get(name, {}), edges.get(name, {}) if name not in lost else {}
        for other in sorted(is_):
            if to_be.get(other) != is_[other]:
                disconnects.append(Step("disconnect", "service", name, other=other, edge=is_[other]))
        for other in sorted(to_be):
            if is_.get(other) != to_be[other]:
                connects.append(Step("connect", "service", name, other=other, edge=to_be[other]))
    return connects, disconnects


def _pruned(project: Project, world: World, known: Ledger) -> list[Step]:
    """What was made from the file and is in it no more: dependents before what they depend on."""
    services = [
        name
        for name, service in world.services.items()
        if service["id"] in known.services and name not in project.services
    ]
    vms = [name for name, vm in world.vms.items() if vm["id"] in known.vms and name not in project.vms]
    return [
        *(
            Step("remove", "service", name, world.services[name]["id"])
            for name in reversed(in_order(services, world.edges))
        ),
        *(Step("remove", "vm", name, world.vms[name]["id"]) for name in vms),
    ]


def _runs(service: Mapping[str, Any]) -> bool:
    return service["state"] in ("starting", "running")


def _changed(records: Iterable[Step], edges: Iterable[Step]) -> set[str]:
    """Services that will not have what they are changed to before they are started anew."""
    changed = {
        step.name
        for step in records
        if step.action == "update"
        and step.kind == "service"
        and any(change.field.partition(".")[0] in AT_START for change in step.changes)
    }
    # A tunnel's address is in the environment.
    return changed | {step.name for step in edges if step.edge.tunnel}


def _run_steps(
    project: Project, world: World, edges: Mapping[str, Iterable[str]], stale: set[str], changed: set[str]
) -> list[Step]:
    """Restarts and starts, each after what it depends on."""
    steps = []
    for name in in_order(project.services, edges):
        wanted, service = project.services[name], world.services.get(name)
        if name in stale and service is not None:
            steps.append(Step("restart", "service", name, service["id"]))
        elif wanted.start and wanted.fields["run_command"] is not None:
            if service is not None and (
                _runs(service) or (_has_done_its_work(service, wanted.fields) and name not in changed)
            ):
                continue
            steps.append(Step("start", "service", name, service["id"] if service is not None else ""))
    return steps


def not_ready(project: Project, world: World, plan: Plan) -> list[Step]:
    """What the file wants up, and was started before but is not healthy or completed yet, as steps to wait for it."""
    begun = {step.name for step in plan.steps if step.action in ("restart", "start", "remove")}
    steps = []
    for name in in_order(project.services, {name: one.needs for name, one in project.services.items()}):
        wanted, service = project.services[name], world.services.get(name)
        if wanted.start and service is not None and name not in begun and _runs(service):
            well = service["health"] == "healthy" or not is_checked(service)
            if service["state"] == "starting" or service["type"] == "oneshot" or not well:
                steps.append(Step("wait", "service", name, service["id"]))
    return steps


def _has_done_its_work(service: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    return fields["type"] == "oneshot" and service["state"] == "stopped" and service.get("exit_code") == 0


def _ledgers(known: Ledger, world: World, steps: Iterable[Step], pending: Mapping[str, int]) -> tuple[Ledger, Ledger]:
    made = {kind: {s.id for s in steps if s.action == "create" and s.kind == kind} for kind in ("service", "vm")}
    removed = {step.id for step in steps if step.action == "remove"}
    restarted = {step.id for step in steps if step.action == "restart"}
    there = {service["id"] for service in world.services.values()}, {vm["id"] for vm in world.vms.values()}
    services = frozenset((known.services & there[0]) | made["service"])
    vms = frozenset((known.vms & there[1]) | made["vm"])
    before = Ledger(services, vms, tuple(pending.items()))
    left = tuple((one, at) for one, at in pending.items() if one not in restarted | removed)
    return before, Ledger(services - removed, vms - removed, left)
