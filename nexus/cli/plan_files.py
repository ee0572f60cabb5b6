"""``nexusctl project import`` and ``project export``: the plan of a project from and to files."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from nexus_protocol.errors import Conflict, NexusError

from nexus.cli.output import Printer, hint, printable, write_exact
from nexus.cli.result import made
from nexus.cli.verbs import Values, verb
from nexus.ledger.files.commands import ReadPlan, WritePlan
from nexus.ledger.files.records import PLAN_KINDS, PlanWritten
from nexus.ledger.importing.plan_file import (
    Key,
    Plan,
    check_cycles,
    format_line,
    format_plan,
    is_plan,
    key_of,
    parse_plan,
    parts_of,
)
from nexus.projects.commands import GetProject, Project, UpdateProject

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["counted", "file_problems", "make_export", "make_import", "project_header", "read_plan", "write_file"]

_FORMATS = ("auto", "beads", "backlog", "checklist", "github", "jsonl")
_ATTEMPTS = 5
_SHOWN = 10
_WORDS = {
    "agents": ("agent", "agents"),
    "features": ("feature", "features"),
    "sub_features": ("sub-feature", "sub-features"),
    "tasks": ("task", "tasks"),
    "notes": ("note", "notes"),
    "comments": ("comment", "comments"),
    "requirements": ("requirement", "requirements"),
    "sessions": ("session", "sessions"),
    "metrics": ("metric", "metrics"),
}
_OF_PROJECT = ("description", "mode", "repository_url", "settings")
_TEXTS = ("name", "description", "priority", "tags", "type", "kind", "depends_on", "text", "category", "data", "value")
"""The fields by which a record that is there already differs from one of a file."""


def counted(counts: Mapping[str, int]) -> str:
    """Counts by kind, in words."""
    parts = [f"{counts[kind]} {_WORDS[kind][counts[kind] != 1]}" for kind in PLAN_KINDS if counts.get(kind)]
    return ", ".join(parts) or "nothing"


def read_plan(app: App, *, figures: bool) -> tuple[dict[Key, tuple[str, Any]], dict[str, int]]:
    """All records of the plan of the project of this run, by kind and id, and the highest numbers that were given.

    Raises:
        Conflict: it is changed each time while it is read.
    """
    for _attempt in range(_ATTEMPTS):
        found: dict[Key, tuple[str, Any]] = {}
        page = app.call(ReadPlan(figures=figures))
        numbers, changed = page.numbers, False
        while True:
            for kind in PLAN_KINDS:
                found |= {key_of(kind, record): (kind, record) for record in getattr(page, kind)}
            if page.next_cursor is None or changed:
                break
            page = app.call(ReadPlan(figures=figures, cursor=page.next_cursor))
            changed = page.changed
        if not changed:
            return found, numbers
    raise Conflict(
        "cannot read the plan: it is changed each time while it is read",
        hint="Pause the project, and try again: nexusctl project pause PROJECT",
    )


@contextlib.contextmanager
def file_problems(cannot: str) -> Any:
    """Make one sentence of an error of the operating system."""
    try:
        yield
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        raise click.ClickException(f"{cannot}{where}: {error.strerror}") from None


def write_file(path: Path, data: bytes) -> bool:
    """Replace the content of a file at once, for readers too; returns False where it is the same already.

    A link stays, and so do the permissions.

    Raises:
        OSError: it cannot be written.
    """
    path = Path(os.path.realpath(path))
    mode = 0o644
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == data:
            return False
        mode = path.stat().st_mode & 0o777
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    return True


def project_header(project: Project, numbers: Mapping[str, int]) -> dict[str, Any]:
    """What the first line says of a project."""
    header: dict[str, Any] = {"name": project.name}
    for name in _OF_PROJECT:
        if value := getattr(project, name):
            header[name] = value
    return header | ({"numbers": dict(numbers)} if numbers else {})


# Export


def make_export() -> click.Command:
    """The verb ``project export``."""

    def run(app: App, values: Values, out: Printer) -> None:
        records, numbers = read_plan(app, figures=True)
        header = project_header(app.call(GetProject()), numbers)
        data = format_plan(header, {key: format_line(kind, record) for key, (kind, record) in records.items()})
        file = values.text("file")
        if file is None or file == "-":
            write_exact(data.decode())
            return
        with file_problems("cannot write"):
            is_new = write_file(Path(file), data)
        counts = _counts(records)
        plain = {"file": file, "records": counts, "written": is_new}
        sentence = f"Exported {counted(counts)} to {printable(file)}" if is_new else f"Unchanged: {printable(file)}"
        out.one(made(file, plain), name=lambda one: one, sentence=lambda _one: click.echo(sentence))

    file = click.Argument(["file"], metavar="[FILE]", required=False)
    return verb(ReadPlan, run, parameters=[file], exclude=("figures", "limit", "cursor"), help=_EXPORT_HELP)


_EXPORT_HELP = """Write the plan of a project to a file: JSON Lines, a record a line, sorted by kind and id.

It has features, sub-features, tasks, notes, comments, requirements, sessions and metrics with all that they are, and
the agents that these name. Leases and counters of the daemon are no part of it. Without FILE it is printed. An import
of the file into an empty project has the same export.
"""


def _counts(records: Mapping[Key, Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for kind, _id in records:
        counts[kind] = counts.get(kind, 0) + 1
    return {kind: counts[kind] for kind in PLAN_KINDS if kind in counts}


# Import


def make_import() -> click.Command:
    """The verb ``project import``."""

    def run(app: App, values: Values, out: Printer) -> None:
        path, is_dry = Path(values.word("path")), values.flag("dry_run")
        project = app.call(GetProject())
        with file_problems("cannot read"):
            plan, told = _read(path, values.word("source"), project.id)
        check_cycles(path, plan.records)
        present, _numbers = read_plan(app, figures=True)
        new = {
            kind: [one for one in records if key_of(kind, one) not in present] for kind, records in plan.records.items()
        }
        there = plan.total() - sum(map(len, new.values()))
        differing = sum(
            _differs(one, present[key_of(kind, one)][1])
            for kind, records in plan.records.items()
            for one in records
            if key_of(kind, one) in present
        )
        if is_dry:
            written = PlanWritten(created={kind: len(records) for kind, records in new.items() if records})
        else:
            written = _write(app, project, plan, new)
        if written.requeued:
            told["in progress without a lease here: queued"] = written.requeued
        if written.renumbered:
            told["number that another record has: given the next one"] = written.renumbered
        if differing:
            told["record that is there and differs: stays as it is"] = differing
        plain = {"created": written.created, "present": there, "told": told, "dry_run": is_dry}

        def sentence(_one: PlanWritten) -> None:
            click.echo(f"{'Would import' if is_dry else 'Imported'} {counted(written.created)}")
            if is_dry:
                for line in _first_lines(new):
                    click.echo(f"  {printable(line)}")
            if there:
                click.echo(f"Already there: {there}", err=True)
            for words, count in told.items():
                click.echo(f"{printable(words)}: {count}", err=True)

        out.one(made(written, plain), name=lambda _one: project.name, sentence=sentence)

    parameters: list[click.Parameter] = [
        click.Argument(["path"], metavar="PATH"),
        click.Option(
            ["--from", "source"],
            type=click.Choice(_FORMATS),
            default="auto",
            help="What the file is of (default: auto, found out by what is in it).",
        ),
        click.Option(["--dry-run"], is_flag=True, help="Tell what would be created, and create nothing."),
    ]
    return verb(WritePlan, run, parameters=parameters, exclude=WritePlan.__struct_fields__, help=_IMPORT_HELP)


_IMPORT_HELP = """Add the plan of a file to a project.

PATH is a file of 'project export', the folder or file of beads, the folder of Backlog.md, a Markdown file with items
to check off, or a JSON file of GitHub's issues. What is there already stays as it is, so that an import can be
repeated. What has no place in a plan is told.
"""


def _read(path: Path, source: str, project_id: str) -> tuple[Plan, dict[str, int]]:
    """The plan of a file, and what of it has no place there, with how often."""
    if source == "auto" and path.is_file():
        with path.open("rb") as file:
            source = "jsonl" if is_plan(file.read(64 * 1024)) else source
    if source == "jsonl":
        return parse_plan(path), {}
    from nexus.ledger.importing import outlines, reading
    from nexus.ledger.importing.parsed import TrackerFormat

    outline = reading.read(path, None if source == "auto" else TrackerFormat(source))
    found = outlines.converted(outline, project_id)
    return found.plan, found.told


def _differs(one: Any, present: Any) -> bool:
    return any(
        (getattr(one, name) or None) != (getattr(present, name) or None)
        for name in _TEXTS
        if name in one.__struct_fields__
    )


def _first_lines(new: Mapping[str, list[Any]]) -> list[str]:
    lines = [
        f"{_WORDS[kind][0]} {getattr(one, 'name', None) or getattr(one, 'title', None) or one.id}"
        for kind in ("features", "sub_features", "tasks", "requirements", "sessions")
        for one in new.get(kind, ())[:_SHOWN]
    ]
    return lines[:_SHOWN]


def _write(app: App, project: Project, plan: Plan, new: Mapping[str, list[Any]]) -> PlanWritten:
    """Write the new records in parts; a part is written or not."""
    created: dict[str, int] = {}
    requeued = renumbered = 0
    kinds = set(PLAN_KINDS)
    numbers = {kind: last for kind, last in plan.header.get("numbers", {}).items() if kind in kinds}
    try:
        for part in parts_of(new, numbers):
            written = app.call(part)
            for kind, count in written.created.items():
                created[kind] = created.get(kind, 0) + count
            requeued, renumbered = requeued + written.requeued, renumbered + written.renumbered
    except NexusError:
        if created:
            hint(f"{counted(created).capitalize()} were imported. The same command goes on from there.")
        raise
    _write_header(app, project, plan.header)
    return PlanWritten(
        created={kind: created[kind] for kind in PLAN_KINDS if kind in created},
        requeued=requeued,
        renumbered=renumbered,
    )


def _write_header(app: App, project: Project, header: Mapping[str, Any]) -> None:
    """Give a project what the file says of it and it does not have."""
    blank: dict[str, Any] = {"description": None, "mode": "genesis", "repository_url": None, "settings": {}}
    values = {
        name: header[name]
        for name in _OF_PROJECT
        if header.get(name) and getattr(project, name) == blank[name] and header[name] != blank[name]
    }
    if values:
        app.call(msgspec.convert({"project": project.id, **values}, UpdateProject))
