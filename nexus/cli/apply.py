"""``nexusctl apply`` and ``nexusctl export``: services and VM records from and to a file."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus.cli.groups import Verb
from nexus.cli.output import Printer, colour_wanted, confirm, hint, output_options, printable, printer, write_exact
from nexus.hints import command_line

if TYPE_CHECKING:
    from nexus.cli.app import App
    from nexus.cli.project.converge import Outcome
    from nexus.cli.project.manifest import Project
    from nexus.cli.project.plan import Plan, Step
    from nexus.cli.project.world import Observed

__all__ = ["apply", "export"]


class _Apply(Verb):
    key_refusal = "repeated, it only does what is still to be done"


@click.command(cls=_Apply)
@click.option("-f", "--file", default="nexus.toml", metavar="FILE", help="The file (default: nexus.toml).")
@click.option("--dry-run", is_flag=True, help="Show the plan without carrying it out.")
@click.option("--exit-code", is_flag=True, help="With --dry-run: exit 1 if there is something to do.")
@click.option("--prune", is_flag=True, help="Remove what this file created and no longer contains.")
@click.option("--no-start", is_flag=True, help="Do not start or restart services.")
@click.option("--wait", is_flag=True, help="Wait until the services are healthy.")
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
    """Create and change services, dependencies and VM records to match a file.

    It prints the difference and asks, then creates and updates what the file names, restarts running services that
    changed, and starts the others in the order of their dependencies. If nothing differs it does nothing. Objects that
    the file does not name are kept; with --prune, those that an earlier apply of this file created are removed.

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
    from nexus.cli.project.world import observe

    if exit_code and not dry_run:
        raise click.UsageError("--exit-code goes with --dry-run")
    out = printer(output, no_header)
    project = read_project(file)
    observed = observe(app, list(project.services))
    plan = make_plan(project, observed, now_ms=int(time.time() * 1000), prune=prune, start=not no_start)
    unready = [] if no_start else not_ready(project, observed, plan)
    if not plan.steps:
        if out.for_person:
            click.echo(printable(f"Nothing to change: everything matches {file}"))
        if wait and unready and not dry_run:
            return _carry_out(app, project, observed, plan, unready, wait, out)
        if not out.for_person:
            out.many([], (), key="name", nothing="Nothing to change.")
        _print_not_ready(observed, unready, command_line("nexusctl", "apply", "-f", file, "--wait"))
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
    again = command_line("nexusctl", "apply", "-f", file, *options, "--yes")
    if not yes and not confirm("Apply this?", "refusing to apply without confirmation", again):
        return 1
    return _carry_out(app, project, observed, plan, unready if wait else [], wait, out)


def _print_not_ready(observed: Observed, unready: Sequence[Step], line: str) -> None:
    from nexus.services.cli.status import summary

    for step in unready:
        service = observed.services[step.name]
        reason = f": {service['reason']}" if service["state"] == "starting" and service.get("reason") else ""
        click.echo(printable(f'Not ready yet: service "{step.name}" ({summary(service)}){reason}'), err=True)
    if unready:
        hint(f"Wait for it: {line}")


def _carry_out(
    app: App, project: Project, observed: Observed, plan: Plan, waits: Sequence[Step], wait: bool, out: Printer
) -> int:
    from nexus.cli.main import print_error
    from nexus.cli.project.converge import converge
    from nexus.cli.project.text import outcome_record, outcome_text

    def report(outcome: Outcome) -> None:
        if outcome.error is not None:
            print_error(outcome.error)
            return
        text = outcome_text(outcome)
        if text is not None and (outcome.result == "skipped" or out.for_person):
            click.echo(printable(text), err=outcome.result == "skipped")

    try:
        outcomes = converge(app, project, observed, plan, report, wait=wait, waits=waits)
    except KeyboardInterrupt as error:
        error.add_note("Operations in progress continue in the daemon; to see their state: nexusctl service list")
        raise
    if not out.for_person:
        out.many([outcome_record(outcome) for outcome in outcomes], (), key="name", nothing="Nothing to change.")
    undone = sum(outcome.result != "done" for outcome in outcomes)
    if undone:
        total = len(outcomes)
        click.echo(
            f"{undone} of {total} steps not done\n  Fix the problem and run it again: it continues from there.",
            err=True,
        )
    return int(bool(undone))


@click.command
@click.option("-f", "--file", default="-", metavar="FILE", help="The file to write (default: -, standard output).")
@click.option("--project", metavar="NAME", help="Only objects that were created from the file of this project.")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.pass_obj
def export(app: App, file: str, project: str | None, force: bool) -> None:
    """Write services, dependencies and VM records to a file for apply.

    Applying the file changes nothing. It contains the values of services' variables, so only you can read it (mode
    0600).
    """
    from nexus.cli.project.manifest import write_project
    from nexus.cli.project.world import observe

    observed = observe(app)
    text = write_project(project, *_tables(observed, project))
    if file == "-":
        write_exact(text)
        return
    _write_private(Path(file), text, force)
    click.echo(printable(f"Wrote {file}"))


def _tables(observed: Observed, project: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables of services and of VM records, by name; of one project, or of all.

    Raises:
        NotFound: no project has this name.
    """
    from nexus_protocol.errors import NotFound

    from nexus.cli.project.manifest import service_table, vm_table
    from nexus.cli.project.world import service_fields, vm_fields
    from nexus.services.cli.status import is_up

    services, vms = dict(observed.services), dict(observed.vms)
    if project is not None:
        owned = observed.ownership.get(project)
        if owned is None:
            known = ", ".join(sorted(observed.ownership))
            raise NotFound(
                f'project "{project}" not found',
                hint=f"Known projects: {known}" if known else "No file has been applied yet.",
            )
        services = {name: service for name, service in services.items() if service["id"] in owned.services}
        vms = {name: vm for name, vm in vms.items() if vm["id"] in owned.vms}
    tables = {}
    for name, service in services.items():
        fields = service_fields(service, observed.environments.get(name, {}))
        done = fields["type"] == "oneshot" and service["state"] == "stopped" and service.get("exit_code") == 0
        wanted = is_up(service) or service["state"] == "failed"  # failed: the user has not stopped it
        start = wanted or done or fields["run_command"] is None
        tables[name] = service_table(fields, observed.edges.get(name, {}), start)
    return tables, {name: vm_table(vm_fields(vm)) for name, vm in vms.items()}


def _write_private(path: Path, text: str, force: bool) -> None:
    """Write a file with mode 0600, atomically.

    Raises:
        UsageError: it exists, and ``force`` is not set.
    """
    if not force and os.path.lexists(path):
        raise click.UsageError(f"cannot write {path}: it already exists (--force replaces it)")
    # A name of its own length: that of the file may be as long as a name can be.
    temporary = path.with_name(f".nexus-export.{os.getpid()}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None
