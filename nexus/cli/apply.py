"""``nexusctl apply`` and ``nexusctl export``: services and VM records as a file."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus.cli.output import Printer, colour_wanted, confirm, hint, output_options, printable, printer

if TYPE_CHECKING:
    from nexus.cli.app import App
    from nexus.cli.project.converge import Outcome
    from nexus.cli.project.manifest import Project
    from nexus.cli.project.plan import Plan, Step
    from nexus.cli.project.world import World

__all__ = ["apply", "export"]


@click.command
@click.option("-f", "--file", default="nexus.toml", metavar="FILE", help="The file (default: nexus.toml).")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option("--exit-code", is_flag=True, help="With --dry-run: exit 1 when there is something to do.")
@click.option("--prune", is_flag=True, help="Remove what was made from this file and is in it no more.")
@click.option("--no-start", is_flag=True, help="Start and restart nothing.")
@click.option("--wait", is_flag=True, help="Wait until what is to be up is healthy.")
@click.option("-y", "--yes", is_flag=True, help="Skip confirmation.")
@output_options
@click.pass_obj
def apply(
    app: App,
    file: str,
    dry_run: bool,
    exit_code: bool,
    prune: bool,
    no_start: bool,
    wait: bool,
    yes: bool,
    output: str,
    no_header: bool,
) -> int:
    """Make services, dependencies and VM records what a file says.

    It shows the difference and asks, then creates, changes and connects what the file names, restarts what runs and
    was changed, and starts the rest in the order of the dependencies. Where nothing differs nothing is done. What the
    file does not name stays, unless --prune is given: then what an earlier apply of this file made goes, and nothing
    else.

    \b
        [services.db]
        run = "postgres -D data"
        port = 5432
        health = { tcp = true }
        restart = "on-failure"

    \b
        [services.api]
        run = ["./api", "--verbose"]
        env = { LOG = "debug" }
        depends_on = { db = { condition = "healthy", tunnel = true } }
    """
    from nexus.cli.project.manifest import read_project
    from nexus.cli.project.plan import make_plan, not_ready
    from nexus.cli.project.text import plan_lines, plan_summary, step_record
    from nexus.cli.project.world import look

    if exit_code and not dry_run:
        raise click.UsageError("--exit-code goes with --dry-run")
    out = printer(output, no_header)
    project = read_project(file)
    world = look(app, list(project.services))
    plan = make_plan(project, world, now_ms=int(time.time() * 1000), prune=prune, start=not no_start)
    left = [] if no_start else not_ready(project, world, plan)
    if not plan.steps:
        if out.for_person:
            click.echo(printable(f"Nothing to change: all is as {file} says"))
        if wait and left and not dry_run:
            return _carry_out(app, project, world, plan, left, wait, out)
        if not out.for_person:
            out.many([], (), key="name", nothing="Nothing to change.")
        _tell_not_ready(world, left, shlex.join(["nexusctl", "apply", "-f", file, "--wait"]))
        return 0
    if out.for_person:
        for line in plan_lines(plan, colour=colour_wanted()):
            click.echo(line)
        click.echo(f"Plan: {plan_summary(plan)}")
    if dry_run:
        if not out.for_person:
            out.many([step_record(step) for step in plan.steps], (), key="name", nothing="Nothing to change.")
        return int(exit_code)
    options = [word for word, given in (("--prune", prune), ("--no-start", no_start), ("--wait", wait)) if given]
    again = shlex.join(["nexusctl", "apply", "-f", file, *options, "--yes"])
    if not yes and not confirm("Apply this?", "refusing to apply without confirmation", again):
        return 1
    return _carry_out(app, project, world, plan, left if wait else [], wait, out)


def _tell_not_ready(world: World, left: Sequence[Step], command: str) -> None:
    from nexus.services.cli.status import summary

    for step in left:
        service = world.services[step.name]
        reason = f": {service['reason']}" if service["state"] == "starting" and service.get("reason") else ""
        click.echo(printable(f'Not ready yet: service "{step.name}" ({summary(service)}){reason}'), err=True)
    if left:
        hint(f"Wait for it: {printable(command)}")


def _carry_out(
    app: App, project: Project, world: World, plan: Plan, waits: Sequence[Step], wait: bool, out: Printer
) -> int:
    from nexus.cli.main import print_error
    from nexus.cli.project.converge import converge
    from nexus.cli.project.text import outcome_record, outcome_text

    def tell(outcome: Outcome) -> None:
        if outcome.error is not None:
            print_error(outcome.error)
            return
        text = outcome_text(outcome)
        if text is not None and (outcome.result == "skipped" or out.for_person):
            click.echo(printable(text), err=outcome.result == "skipped")

    try:
        outcomes = converge(app, project, world, plan, tell, wait=wait, waits=waits)
    except KeyboardInterrupt as error:
        error.add_note("What was begun goes on all the same; see how far it is: nexusctl service list")
        raise
    if not out.for_person:
        out.many([outcome_record(outcome) for outcome in outcomes], (), key="name", nothing="Nothing to change.")
    undone = sum(outcome.result != "done" for outcome in outcomes)
    if undone:
        total = len(outcomes)
        click.echo(f"{undone} of {total} steps not done\n  Once that is mended, run it again: it goes on.", err=True)
    return int(bool(undone))


@click.command
@click.option("-f", "--file", default="-", metavar="FILE", help="Where to write (default: -, standard output).")
@click.option("--project", metavar="NAME", help="Only what was made from the file of this project.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.pass_obj
def export(app: App, file: str, project: str | None, force: bool) -> None:
    """Write services, dependencies and VM records as a file that apply finds unchanged.

    The values of services' variables are in it: the file is for your eyes only (mode 0600).
    """
    from nexus.cli.project.manifest import write_project
    from nexus.cli.project.world import look

    world = look(app)
    text = write_project(project, *_tables(world, project))
    if file == "-":
        click.echo(text, nl=False)
        return
    _write_private(Path(file), text, force)
    click.echo(printable(f"Wrote {file}"))


def _tables(world: World, project: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables of the services and of the VM records, by name; of one project, or all.

    Raises:
        NotFound: there is no such project.
    """
    from nexus_protocol.errors import NotFound

    from nexus.cli.project.manifest import service_table, vm_table
    from nexus.cli.project.world import service_fields, vm_fields
    from nexus.services.cli.status import is_up

    services, vms = dict(world.services), dict(world.vms)
    if project is not None:
        ledger = world.ledgers.get(project)
        if ledger is None:
            known = ", ".join(sorted(world.ledgers))
            raise NotFound(
                f'project "{project}" not found', hint=f"There are: {known}" if known else "Nothing was applied yet."
            )
        services = {name: service for name, service in services.items() if service["id"] in ledger.services}
        vms = {name: vm for name, vm in vms.items() if vm["id"] in ledger.vms}
    tables = {}
    for name, service in services.items():
        fields = service_fields(service, world.environments.get(name, {}))
        done = fields["type"] == "oneshot" and service["state"] == "stopped" and service.get("exit_code") == 0
        wanted = is_up(service) or service["state"] == "failed"  # one that was stopped has not failed any more
        start = wanted or done or fields["run_command"] is None
        tables[name] = service_table(fields, world.edges.get(name, {}), start)
    return tables, {name: vm_table(vm_fields(vm)) for name, vm in vms.items()}


def _write_private(path: Path, text: str, force: bool) -> None:
    """Write a file that nobody else can read, whole or not at all.

    Raises:
        UsageError: it is there already, and is not to be replaced.
    """
    if not force and os.path.lexists(path):
        raise click.UsageError(f"cannot write {path}: it is there already (--force replaces it)")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
