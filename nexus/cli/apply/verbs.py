"""``nexusctl apply`` and ``nexusctl export``: records from and to a file."""

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
    from nexus_protocol.command import Command
    from nexus_protocol.errors import NexusError

    from nexus.cli.app import App
    from nexus.cli.apply.plan import Plan
    from nexus.cli.apply.reader import ProjectFile
    from nexus.cli.apply.sections import AnySection, Planning
    from nexus.cli.apply.steps import Outcome, Step
    from nexus.cli.apply.target import InProject, Target
    from nexus.cli.result import Result

__all__ = ["Apply", "Options", "apply", "export"]

_ATTEMPTS = 5
"""How often apply chooses the project again, after another client made or changed it meanwhile."""


class _ApplyVerb(Verb):
    key_refusal = "repeated, it only does what is still to be done"


@click.command(cls=_ApplyVerb)
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
    """Create and change services, dependencies, VM records, schedules and job groups to match a file.

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
    from nexus.cli.apply.document import read_project
    from nexus.cli.apply.sections import load_sections

    if exit_code and not dry_run:
        raise click.UsageError("--exit-code goes with --dry-run")
    options = Options(file, dry_run, exit_code, prune, no_start, wait, yes, printer(output, no_header))
    sections = load_sections()
    run = Apply(app, sections, read_project(file, sections), options)
    for _ in range(_ATTEMPTS - 1):
        code = run.once(again=True)
        if code is not None:
            return code
    code = run.once(again=False)
    assert code is not None
    return code


class Options(NamedTuple):
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


class Apply:
    """One run of ``apply``."""

    def __init__(self, app: App, sections: Sequence[AnySection], file: ProjectFile, options: Options) -> None:
        from nexus.cli.apply.text import ApplyText

        self.app, self.sections, self.file, self.options = app, sections, file, options
        self.text = ApplyText(sections)

    def once(self, *, again: bool) -> int | None:
        """Apply the file to the project that is chosen now; the exit code.

        None, if ``again`` is set and another client made or changed the project between the choice and the first
        change.
        """
        from nexus.cli.apply.plan import make_plan, not_ready
        from nexus.cli.apply.target import DEFAULT, OUTRUN, enter_target, find_target
        from nexus.cli.apply.text import plan_summary, step_record
        from nexus.cli.result import made

        app, options, out = self.app, self.options, self.options.out
        target = find_target(app, self.file)
        planning = self._observed(target)
        plan = make_plan(self.sections, planning)
        unready = [] if options.no_start else not_ready(self.sections, planning, plan)
        if out.for_person and target.id and target.name != DEFAULT:
            click.echo(printable(f"Project: {target.name}"))
        if not plan.steps:
            if out.for_person:
                click.echo(printable(f"Nothing to change: everything matches {options.file}"))
            self._print_notes(planning)
            if options.wait and unready and not options.dry_run:
                self._begin_operation()
                return self._carry_out(planning, plan, unready)
            if not out.for_person:
                self._print_steps([])
            self._print_not_ready(unready)
            return 0
        if out.for_person:
            for line in self.text.plan_lines(plan, colour=colour_wanted()):
                click.echo(line)
            click.echo(f"Plan: {plan_summary(plan)}")
        self._print_notes(planning)
        if options.dry_run:
            if not out.for_person:
                self._print_steps([made(step, step_record(step)) for step in plan.steps])
            return int(options.exit_code)
        if not options.yes and not confirm(
            self._question(target, plan), "refusing to apply without confirmation", options.line("--yes")
        ):
            return 1
        self._begin_operation()
        if not target.id or plan.steps[0].kind == "project":
            try:
                target = enter_target(app, target, [step.command for step in plan.renames if step.command is not None])
            except OUTRUN:
                if not again:
                    raise
                hint("Another client changed the project at the same time.")
                return None
        return self._carry_out(planning._replace(target=target), plan, unready if options.wait else [])

    def _print_steps(self, steps: Sequence[Result[Step]]) -> None:
        """Print steps for a program."""
        from nexus.cli.result import Results

        self.options.out.many(Results.of(steps), (), name=lambda step: step.name, nothing="Nothing to change.")

    def _begin_operation(self) -> None:
        """Begin the operation of the whole, which the further requests are parts of; once in a run."""
        from nexus_protocol.errors import UnknownCommand

        from nexus.journal.commands import BeginOperation

        if self.app.cause is not None:
            return
        options = self.options
        args: dict[str, str | int | bool] = {"file": self.file.path[-1024:]}
        args |= {name: True for name in ("prune", "no_start", "wait") if getattr(options, name)}
        try:
            self.app.cause = self.app.call(BeginOperation("apply", args)).operation
        except UnknownCommand:
            return  # an older daemon: each request is an operation of its own

    def _observed(self, target: Target) -> Planning:
        """What the plan is made from; further requests go to the project, if there is one."""
        import uuid

        from nexus.cli.apply.sections import Planning

        if target.id:
            self.app.enter(target.id)
        observed = {
            section.table: section.observe(self.app, self.file.wanted[section.table])
            if target.id or section.of_daemon
            else section.nothing()
            for section in self.sections
        }
        options = self.options
        return Planning(
            self.file,
            target,
            observed,
            lambda: str(uuid.uuid4()),
            options.prune,
            start=not options.no_start,
            wait=options.wait,
        )

    def _question(self, target: Target, plan: Plan) -> str:
        """The question, which names the project if something of it is removed and the line does not name it."""
        from nexus.cli.apply.target import DEFAULT

        removes = any(step.action == "remove" for step in plan.steps)
        named = self.app.project_option is not None or target.name == DEFAULT
        return f'Apply this to the project "{target.name}"?' if removes and not named else "Apply this?"

    def _print_notes(self, planning: Planning) -> None:
        """Say what a person should know of the project, and which records of the file's names stayed in ``default``."""
        from nexus.cli.apply.target import DEFAULT

        target = planning.target
        if target.note is not None:
            hint(target.note)
        if not target.shared or target.name == DEFAULT:
            return
        for section, record in self._shared_records(target):
            name = record.name
            if record.project != DEFAULT or name not in planning.wanted(section.table):
                continue
            word = section.noun.word
            there = name in section.records(planning.observed[section.table])
            hint(
                f'{word[:1].upper()}{word[1:]} "{name}" stays in the project {DEFAULT}: several files had made it, or '
                "what it is connected to. "
                f'This file\'s own one is {"" if there else "created "}in the project "{target.name}".\n'
                f"Remove the old one: {section.removal(f'{DEFAULT}/{name}')}"
            )

    def _shared_records(self, target: Target) -> list[tuple[AnySection, InProject]]:
        """The records that several files had made, each with its section."""
        from nexus_protocol.errors import NexusError, NotFound

        asked: list[tuple[AnySection, Command[Any]]] = []
        for one in target.shared:
            mark, _, id_ = one.partition(":")
            for section in self.sections if id_ else ():
                command = section.lookup(mark, id_)
                if command is not None:
                    asked.append((section, command))
        found: dict[int, tuple[AnySection, InProject]] = {}
        commands = [command for _section, command in asked]
        for index, reply in self.app.fetch_all(commands):
            if isinstance(reply, NotFound):
                continue
            if isinstance(reply, NexusError):
                raise reply
            section = asked[index][0]
            found[index] = section, section.looked_up(reply.record)
        return [found[index] for index in sorted(found)]

    def _print_not_ready(self, unready: Sequence[Step]) -> None:
        for step in unready:
            click.echo(printable(self.text.not_ready(step)), err=True)
        if unready:
            hint(f"Wait for it: {command_line('nexusctl', 'apply', '-f', self.options.file, '--wait')}")

    def _carry_out(self, planning: Planning, plan: Plan, waits: Sequence[Step]) -> int:
        from nexus.cli.apply.converge import converge
        from nexus.cli.apply.plan import needs_of
        from nexus.cli.apply.steps import Outcome, Phase
        from nexus.cli.apply.text import outcome_record
        from nexus.cli.main import print_error
        from nexus.cli.records import where_found
        from nexus.cli.result import made

        app, out, target = self.app, self.options.out, planning.target
        printed: NexusError | None = None

        def report(outcome: Outcome) -> None:
            nonlocal printed
            if outcome.error is not None:
                if outcome.error is not printed:  # that of several steps in one transaction
                    print_error(outcome.error)
                printed = outcome.error
                return
            text = self.text.outcome(outcome, lambda record: where_found(app, record))
            if text is not None and (outcome.result == "skipped" or out.for_person):
                click.echo(printable(text), err=outcome.result == "skipped")

        # The project was made before: without it there is nothing to report.
        outcomes = [Outcome(step, "done", made(step, {})) for step in plan.steps if step.kind == "project"]
        for outcome in outcomes:
            report(outcome)
        steps = [step for step in plan.steps if step.kind != "project"]
        try:
            outcomes += converge(app, steps, needs_of(self.sections, planning), report, waits)
        except KeyboardInterrupt as error:
            inside = () if app.project_option is not None or _is_inside(app, target) else ("-p", target.name)
            running = {step.kind for step in (*steps, *waits) if step.phase is Phase.RUN}
            section = next((one for one in self.sections if one.kind in running), self.sections[0])
            look = command_line("nexusctl", *inside, *section.noun.verbs.split(), "list")
            error.add_note(f"Operations in progress continue in the daemon; to see their state: {look}")
            raise
        if not out.for_person:
            self._print_steps([made(outcome.step, outcome_record(outcome)) for outcome in outcomes])
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
    """Write the services, dependencies, VM records and schedules of a project to a file for apply.

    The job groups and nodes that its schedules name are in it, too.

    Applying the file to the project changes nothing. It contains the values of variables, so only you can
    read it (mode 0600).
    """
    from nexus.cli.apply.document import write_project
    from nexus.cli.apply.sections import exported, load_sections
    from nexus.cli.apply.target import DEFAULT, present_project

    project = present_project(app)
    app.enter(project.id)
    name = None if project.name == DEFAULT else project.name
    sections = load_sections()
    text = write_project(name, sections, exported(app, sections))
    if file == "-":
        write_exact(text)
        return
    _write_private(Path(file), text, force)
    click.echo(printable(f"Wrote {file}"))


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
