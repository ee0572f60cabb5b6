"""``nexusctl apply`` and ``nexusctl export``: services and VM records from and to a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from nexus.cli.groups import Verb
from nexus.cli.output import Printer, colour_wanted, confirm, hint, output_options, printable, printer, write_exact
from nexus.hints import command_line

if TYPE_CHECKING:
    from nexus.cli.app import App
    from nexus.cli.project.manifest import ProjectFile
    from nexus.cli.project.plan import Plan, Step
    from nexus.cli.project.target import Target
    from nexus.cli.project.world import Observed

__all__ = ["apply", "export"]

_ATTEMPTS = 5
"""How often apply chooses the project again, after another client made or changed it meanwhile."""


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

    All of it is in one project: that of -p, else that of the file's folder. If there is none, apply creates it, with
    the name of the file's key 'project', else of the folder.

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

    if exit_code and not dry_run:
        raise click.UsageError("--exit-code goes with --dry-run")
    options = _Options(file, dry_run, exit_code, prune, no_start, wait, yes, printer(output, no_header))
    project = read_project(file)
    for _ in range(_ATTEMPTS - 1):
        code = _apply_once(app, project, options, again=True)
        if code is not None:
            return code
    code = _apply_once(app, project, options, again=False)
    assert code is not None
    return code


class _Options(NamedTuple):
    """The options of ``apply``."""

    file: str
    dry_run: bool
    exit_code: bool
    prune: bool
    no_start: bool
    wait: bool
    yes: bool
    out: Printer

    def line(self, *more: str) -> str:
        """The command line with these options."""
        given = (("--prune", self.prune), ("--no-start", self.no_start), ("--wait", self.wait))
        return command_line("nexusctl", "apply", "-f", self.file, *(word for word, on in given if on), *more)


def _apply_once(app: App, project: ProjectFile, options: _Options, *, again: bool) -> int | None:
    """Apply the file to the project that is chosen now; the exit code.

    None, if ``again`` is set and another client made or changed the project between the choice and the first change.
    """
    from nexus.cli.project.converge import rename_commands
    from nexus.cli.project.plan import make_plan, not_ready
    from nexus.cli.project.target import DEFAULT, OUTRUN, enter_target, find_target
    from nexus.cli.project.text import plan_lines, plan_summary, step_record
    from nexus.cli.project.world import Observed, observe

    out = options.out
    target = find_target(app, project)
    if target.id:
        app.enter(target.id)
    observed = observe(app, list(project.services)) if target.id else Observed()
    plan = make_plan(project, target, observed, prune=options.prune, start=not options.no_start)
    unready = [] if options.no_start else not_ready(project, observed, plan)
    if out.for_person and target.id and target.name != DEFAULT:
        click.echo(printable(f"Project: {target.name}"))
    if not plan.steps:
        if out.for_person:
            click.echo(printable(f"Nothing to change: everything matches {options.file}"))
        _print_notes(app, project, target, observed)
        if options.wait and unready and not options.dry_run:
            return _carry_out(app, project, target, plan, unready, options)
        if not out.for_person:
            out.many([], (), key="name", nothing="Nothing to change.")
        _print_not_ready(observed, unready, command_line("nexusctl", "apply", "-f", options.file, "--wait"))
        return 0
    if out.for_person:
        for line in plan_lines(plan, colour=colour_wanted()):
            click.echo(line)
        click.echo(f"Plan: {plan_summary(plan)}")
    _print_notes(app, project, target, observed)
    if options.dry_run:
        if not out.for_person:
            out.many([step_record(step) for step in plan.steps], (), key="name", nothing="Nothing to change.")
        return int(options.exit_code)
    if not options.yes and not confirm(
        _question(app, target, plan), "refusing to apply without confirmation", options.line("--yes")
    ):
        return 1
    if not target.id or plan.steps[0].kind == "project":
        try:
            target = enter_target(app, target, rename_commands(plan))
        except OUTRUN:
            if not again:
                raise
            hint("Another client changed the project at the same time.")
            return None
    return _carry_out(app, project, target, plan, unready if options.wait else [], options)


def _question(app: App, target: Target, plan: Plan) -> str:
    """The question, which names the project if something of it is removed and the line does not name it."""
    from nexus.cli.project.target import DEFAULT

    removes = any(step.action == "remove" for step in plan.steps)
    named = app.project_option is not None or target.name == DEFAULT
    return f'Apply this to the project "{target.name}"?' if removes and not named else "Apply this?"


def _print_notes(app: App, project: ProjectFile, target: Target, observed: Observed) -> None:
    """Say what a person should know of the project, and which records of the file's names stayed in ``default``."""
    from nexus.cli.project.target import DEFAULT
    from nexus.cli.project.world import shared_records

    if target.note is not None:
        hint(target.note)
    if not target.shared or target.name == DEFAULT:
        return
    for kind, record in shared_records(app, target.shared, DEFAULT):
        name = record["name"]
        named, there = (project.services, observed.services) if kind == "service" else (project.vms, observed.vms)
        if name not in named:
            continue
        word = "Service" if kind == "service" else "VM"
        verb = ("service", "remove") if kind == "service" else ("vm", "delete")
        force = ["--force"] if kind == "service" else []
        hint(
            f'{word} "{name}" stays in the project default: several files had made it, or what it is connected to. '
            f'This file\'s own one is {"" if name in there else "created "}in the project "{target.name}".\n'
            f"Remove the old one: {command_line('nexusctl', *verb, f'default/{name}', *force)}"
        )


def _print_not_ready(observed: Observed, unready: Sequence[Step], line: str) -> None:
    from nexus.services.cli.status import summary

    for step in unready:
        service = observed.services[step.name]
        reason = f": {service['reason']}" if service["state"] == "starting" and service.get("reason") else ""
        click.echo(printable(f'Not ready yet: service "{step.name}" ({summary(service)}){reason}'), err=True)
    if unready:
        hint(f"Wait for it: {line}")


def _carry_out(
    app: App, project: ProjectFile, target: Target, plan: Plan, waits: Sequence[Step], options: _Options
) -> int:
    from nexus.cli.main import print_error
    from nexus.cli.project.converge import Outcome, converge
    from nexus.cli.project.text import outcome_record, outcome_text
    from nexus.cli.records import where_found

    out = options.out

    def report(outcome: Outcome) -> None:
        if outcome.error is not None:
            print_error(outcome.error)
            return
        text = outcome_text(outcome, lambda record: where_found(app, record))
        if text is not None and (outcome.result == "skipped" or out.for_person):
            click.echo(printable(text), err=outcome.result == "skipped")

    # The project was made before: without it there is nothing to report.
    outcomes = [Outcome(step, "done", {}) for step in plan.steps if step.kind == "project"]
    for outcome in outcomes:
        report(outcome)
    try:
        outcomes += converge(app, project, target, plan, report, wait=options.wait, waits=waits)
    except KeyboardInterrupt as error:
        inside = () if app.project_option is not None or _is_inside(app, target) else ("-p", target.name)
        look = command_line("nexusctl", *inside, "service", "list")
        error.add_note(f"Operations in progress continue in the daemon; to see their state: {look}")
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


def _is_inside(app: App, target: Target) -> bool:
    """Whether the working directory speaks in the project."""
    with contextlib.suppress(OSError, click.UsageError):
        return app.root() == target.root
    return False


@click.command
@click.option("-f", "--file", default="-", metavar="FILE", help="The file to write (default: -, standard output).")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.pass_obj
def export(app: App, file: str, force: bool) -> None:
    """Write the services, dependencies and VM records of a project to a file for apply.

    Applying the file to the project changes nothing. It contains the values of services' variables, so only you can
    read it (mode 0600).
    """
    from nexus.cli.project.manifest import write_project
    from nexus.cli.project.target import DEFAULT, present_project
    from nexus.cli.project.world import observe

    project = present_project(app)
    app.enter(project["id"])
    name = None if project["name"] == DEFAULT else project["name"]
    text = write_project(name, *_tables(observe(app)))
    if file == "-":
        write_exact(text)
        return
    _write_private(Path(file), text, force)
    click.echo(printable(f"Wrote {file}"))


def _tables(observed: Observed) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables of services and of VM records, by name."""
    from nexus.cli.project.manifest import service_table, vm_table
    from nexus.cli.project.world import service_fields, vm_fields
    from nexus.services.cli.status import is_up

    tables = {}
    for name, service in observed.services.items():
        fields = service_fields(service, observed.environments.get(name, {}))
        done = fields["type"] == "oneshot" and service["state"] == "stopped" and service.get("exit_code") == 0
        wanted = is_up(service) or service["state"] == "failed"  # failed: the user has not stopped it
        start = wanted or done or fields["run_command"] is None
        tables[name] = service_table(fields, observed.edges.get(name, {}), start)
    return tables, {name: vm_table(vm_fields(vm)) for name, vm in observed.vms.items()}


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
