"""``nexusctl project sync``: the plan of a project and a file of its repository, merged field by field.

What both agreed on last is kept beside the database of this user, for each project and file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec
from nexus_protocol.command import Command
from nexus_protocol.errors import (
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NexusError,
    NotFound,
    PermissionDenied,
)

from nexus.cli.output import Printer, hint, printable
from nexus.cli.plan_files import file_problems, read_plan, write_file
from nexus.cli.result import made
from nexus.cli.verbs import Values, verb
from nexus.ledger.features.commands import (
    DeleteFeature,
    DeleteSubFeature,
    GetFeature,
    GetSubFeature,
    UpdateFeature,
    UpdateSubFeature,
)
from nexus.ledger.files.commands import ReadPlan
from nexus.ledger.importing.plan_file import Key, Lines, check_cycles, format_line, format_plan, parts_of, read_lines
from nexus.ledger.importing.plan_merge import FIELDS, Base, Change, Clash, Merged, merge, values_of
from nexus.ledger.requirements.commands import (
    DeleteRequirement,
    GetRequirement,
    LinkRequirement,
    UnlinkRequirement,
    UpdateRequirement,
    ValidateRequirement,
)
from nexus.ledger.tasks.commands import (
    BlockTask,
    CompleteTask,
    DeleteTask,
    FailTask,
    GetTask,
    QueueTask,
    ResetTask,
    UnblockTask,
    UnqueueTask,
    UpdateTask,
)
from nexus.paths import state_directory
from nexus.projects.commands import GetProject
from nexus.records.errors import RecordChanged

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["apply_changes", "make_sync"]

_REFUSALS = (InvalidArgument, NotFound, Conflict, FailedPrecondition, PermissionDenied)
_SHOWN = 50
_BACK = {"blocked": UnblockTask, "completed": ResetTask, "failed": ResetTask}
_ATTEMPTS = 5
_CLEARABLE = ("description", "source", "feature_id", "sub_feature_id")
_GETS: dict[str, Any] = {
    "tasks": GetTask,
    "requirements": GetRequirement,
    "sub_features": GetSubFeature,
    "features": GetFeature,
}
_DELETES: dict[str, Any] = {
    "tasks": DeleteTask,
    "requirements": DeleteRequirement,
    "sub_features": DeleteSubFeature,
    "features": DeleteFeature,
}
"""What deletes a record of each kind, in an order in which none is deleted that another needs."""


class _Refused(NamedTuple):
    key: Key
    error: NexusError


def make_sync() -> click.Command:
    """The verb ``project sync``."""

    def run(app: App, values: Values, out: Printer) -> int:
        path, is_dry = Path(os.path.realpath(values.word("file"))), values.flag("dry_run")
        prefer = values.text("prefer")
        project = app.call(GetProject())
        state = _State(project.id, path)
        with file_problems("cannot read"):
            lines = read_lines(path, lambda: _ancestor(path)) if path.exists() else Lines({}, {}, {}, None, False)
            base = state.read()
        figures = next((kind for kind, _id in (*lines.ours, *lines.theirs) if kind not in FIELDS), None)
        if figures is not None:
            raise FailedPrecondition(
                f"cannot sync with {path}: it is a file of 'project export', with {figures}, which sync would take out",
                hint="Give another file, which may be a new one: nexusctl project sync FILE",
            )
        for sides in (lines.ours, lines.theirs):
            check_cycles(path, {"tasks": [side.record for (kind, _), side in sides.items() if kind == "tasks"]})
        daemon = _planned(app)
        merged = merge(lines, daemon, base, prefer)
        refused: list[_Refused] = []
        is_written = False
        if not is_dry:
            refused, stale = apply_changes(app, merged, merged.changes)
            for _attempt in range(_ATTEMPTS):
                if not stale:
                    break
                # Another client has changed these since they were read.
                again = merge(lines, _planned(app), base, prefer)
                merged = merged._replace(clashes=again.clashes)
                more, stale = apply_changes(app, None, [each for each in again.changes if each.key in stale])
                refused += more
            refused += [_Refused(key, error) for key, error in stale.items()]
            if values.flag("prune"):
                refused += _delete(app, merged.deleted, daemon)
            for kind, records in merged.created.items():
                for record in records:
                    key = (kind, record.name if kind == "agents" else record.id)
                    base[key] = {merged.lines[key][1] - 1: values_of(kind, record)}
            if merged.created or merged.changes or merged.deleted:
                # What was changed may have changed other records, such as tasks that waited for one.
                daemon = _planned(app)
            final = merge(lines, daemon, base, prefer)
            header = lines.header or {"name": project.name}
            data = format_plan(
                header, {key: format_line(key[0], record, version) for key, (record, version) in final.lines.items()}
            )
            with file_problems("cannot write"):
                is_written = write_file(path, data)
                state.write(final.base)
        code = 1 if merged.clashes or refused else 0
        plain = _plain(merged, refused, is_written, is_dry)
        out.one(
            made(merged, plain),
            name=lambda _one: project.name,
            sentence=lambda _one: _print(merged, daemon, refused, path, is_written, is_dry),
        )
        if merged.clashes and out.for_person:
            hint("The ledger and the file keep their own values. Say which side wins: --prefer file, --prefer daemon")
        return code

    parameters: list[click.Parameter] = [
        click.Argument(["file"], metavar="FILE"),
        click.Option(
            ["--prefer"],
            type=click.Choice(["file", "daemon"]),
            help="Which side wins where both have changed the same (default: both keep their own).",
        ),
        click.Option(["--prune"], is_flag=True, help="Delete records that the file had and has no more."),
        click.Option(["--dry-run"], is_flag=True, help="Tell what would be done, and do nothing."),
    ]
    return verb(ReadPlan, run, parameters=parameters, exclude=("figures", "limit", "cursor"), help=_HELP)


_HELP = """Merge the plan of a project with a file that is kept in its repository, both ways.

The file has a record a line, sorted by id, so that git merges what two branches changed. Where git leaves a conflict,
both of its sides are read. Fields are merged one by one, by what file and ledger agreed on last; where both have
changed one, both keep their own, and the exit code is 1. A status is moved as its commands move it, and a lease
guards it; what is refused is told. Sessions, metrics and what is of one machine stay out of the file.
"""


def _ancestor(path: Path) -> bytes | None:
    """The ancestor of a file in conflict, as git's index has it; None where there is no git or no such entry."""
    top = path.parent
    while not os.path.lexists(top / ".git"):
        if top == top.parent:
            return None
        top = top.parent

    import asyncio

    from nexus.git.stages import read_ancestor

    try:
        return asyncio.run(read_ancestor(top, str(path.relative_to(top))))
    except NexusError as error:
        hint(f"Git does not tell what both sides had before: {error}")
        return None


def _planned(app: App) -> dict[Key, Any]:
    """The records of the plan that belong into the file."""
    found, _numbers = read_plan(app, figures=False)
    named = {record.agent for kind, record in found.values() if kind in ("notes", "comments")}
    return {
        key: record for key, (kind, record) in found.items() if kind in FIELDS and (kind != "agents" or key[1] in named)
    }


class _State:
    """What a project and a file agreed on."""

    def __init__(self, project_id: str, path: Path) -> None:
        name = hashlib.blake2b(f"{project_id}\n{path}".encode(errors="surrogateescape"), digest_size=16).hexdigest()
        self._path = Path(state_directory()) / "sync" / f"{name}.jsonl"

    def read(self) -> Base:
        """By record and version, what was agreed on; nothing where that is not known."""
        base: Base = {}
        try:
            data = self._path.read_bytes()
            for line in data.splitlines():
                kind, id_, versions = msgspec.json.decode(line, type=tuple[str, str, dict[int, dict[str, Any]]])
                base[kind, id_] = versions
        except FileNotFoundError:
            return {}
        except msgspec.DecodeError:
            return {}  # without it, what differs is a conflict
        return base

    def write(self, base: Base) -> None:
        """Keep it for the next time."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lines = (msgspec.json.encode((*key, versions)) + b"\n" for key, versions in sorted(base.items()))
        write_file(self._path, b"".join(lines))


# What the daemon gets


def apply_changes(
    app: App, new: Merged | None, changes: Sequence[Change]
) -> tuple[list[_Refused], dict[Key, NexusError]]:
    """Carry out what the daemon is to have; returns what it refuses, and the records that changed meanwhile."""
    refused: list[_Refused] = []
    stale: dict[Key, NexusError] = {}
    for part in parts_of({} if new is None else new.created):
        app.call(part)
    for change in changes:
        try:
            revision = _revision(app, change.key, change.present)
        except RecordChanged as error:
            stale[change.key] = error
            continue
        except _REFUSALS as error:
            refused.append(_Refused(change.key, error))
            continue
        for command in _commands(change):
            if isinstance(command, NexusError):
                refused.append(_Refused(change.key, command))
                break
            if "if_revision" in command.__struct_fields__:
                command = msgspec.structs.replace(command, if_revision=revision)
            try:
                reply = app.call(command)
            except RecordChanged as error:
                stale[change.key] = error
                break
            except _REFUSALS as error:
                refused.append(_Refused(change.key, error))
                break
            revision = reply.revision
    return refused, stale


def _revision(app: App, key: Key, present: Any) -> int:
    """The revision of a record that is still as it was merged.

    Raises:
        RecordChanged: it is not.
    """
    found = app.call(_GETS[key[0]](key[1]))
    if values_of(key[0], found) != values_of(key[0], present):
        raise RecordChanged("cannot change it: it is changed each time while it is merged", hint="Sync again.")
    revision: int = found.revision
    return revision


def _delete(app: App, keys: Sequence[Key], daemon: dict[Key, Any]) -> Iterator[_Refused]:
    """Delete records. One that another needs is tried again after that."""
    order = list(_DELETES)
    left = sorted((key for key in keys if key[0] in _DELETES), key=lambda key: order.index(key[0]))
    while left:
        refused: list[_Refused] = []
        for key in left:
            try:
                app.call(_DELETES[key[0]](key[1], if_revision=_revision(app, key, daemon[key])))
            except NotFound:
                continue
            except _REFUSALS as error:
                refused.append(_Refused(key, error))
        if len(refused) == len(left):
            yield from refused
            return
        left = [each.key for each in refused]


def _commands(change: Change) -> Iterator[Command[Any] | NexusError]:
    """The commands that give a record its fields, as any client would send them."""
    (kind, id_), fields = change.key, dict(change.fields)
    present = change.present
    status = fields.pop("status", None) if kind == "tasks" else None
    if kind == "requirements":
        if "validated" in fields:
            yield ValidateRequirement(id_, bool(fields.pop("validated")))
        wanted = fields.pop("linked_features", None)
        if wanted is not None:
            if new := [each for each in wanted if each not in present.linked_features]:
                yield LinkRequirement(id_, new)
            if old := [each for each in present.linked_features if each not in wanted]:
                yield UnlinkRequirement(id_, old)
    if kind == "tasks" and "depends_on" in fields:
        wanted = fields.pop("depends_on")
        fields["add_depends_on"] = [each for each in wanted if each not in present.depends_on]
        fields["remove_depends_on"] = [each for each in present.depends_on if each not in wanted]
    clear = [name for name in _CLEARABLE if name in fields and fields[name] is None]
    given: dict[str, Any] = {name: value for name, value in fields.items() if value is not None and value != []}
    given |= {name: [] for name in ("tags", "user_stories", "acceptance_criteria") if fields.get(name) == []}
    if clear:
        given["clear"] = clear
    if given:
        of, reference = {
            "features": (UpdateFeature, "feature"),
            "sub_features": (UpdateSubFeature, "sub_feature"),
            "tasks": (UpdateTask, "task"),
            "requirements": (UpdateRequirement, "requirement"),
        }[kind]
        update: Command[Any] = msgspec.convert({reference: id_, **given}, of)
        yield update
    if status is not None:
        yield from _moves(id_, str(present.status), str(status), change.record.reason)


def _moves(id_: str, before: str, to: str, reason: str | None) -> Iterator[Command[Any] | NexusError]:
    """The moves from one status to another."""
    if to in ("in_review", "in_progress"):
        yield FailedPrecondition(f"cannot make the task {to}: only the agent that works on it does that")
        return
    back = _BACK.get(before)
    if back is not None and not (to == "failed" and before == "blocked"):
        yield back(id_)
    match to:
        case "pending":
            if back is None:
                yield UnqueueTask(id_)
        case "queued":
            yield QueueTask(id_)
        case "completed":
            yield CompleteTask(id_)
        case "failed":
            yield FailTask(id_, reason)
        case _:
            yield BlockTask(id_, reason or "it is blocked in the file of the plan")


# What is told


def _plain(merged: Merged, refused: Sequence[_Refused], is_written: bool, is_dry: bool) -> dict[str, Any]:
    return {
        "created": {kind: len(records) for kind, records in merged.created.items()},
        "changed": [{"kind": each.key[0], "id": each.key[1], "fields": sorted(each.fields)} for each in merged.changes],
        "file_changed": [{"kind": key[0], "id": key[1], "fields": fields} for key, fields in merged.to_file],
        "conflicts": [
            {
                "kind": each.key[0],
                "id": each.key[1],
                "field": each.field,
                "file": msgspec.to_builtins(each.file),
                "daemon": msgspec.to_builtins(each.daemon),
                **({} if each.other is None else {"other": each.other}),
            }
            for each in merged.clashes
        ],
        "refused": [
            {"kind": each.key[0], "id": each.key[1], "type": each.error.type, "message": str(each.error)}
            for each in refused
        ],
        "missing": [{"kind": key[0], "id": key[1]} for key in merged.deleted],
        "written": is_written,
        "dry_run": is_dry,
    }


def _print(
    merged: Merged,
    daemon: dict[Key, Any],
    refused: Sequence[_Refused],
    path: Path,
    is_written: bool,
    is_dry: bool,
) -> None:
    def name(key: Key) -> str:
        record = daemon.get(key) or (merged.lines.get(key) or (None,))[0]
        word = key[0].removesuffix("s").replace("_", "-")
        number = getattr(record, "number", None)
        title = getattr(record, "name", None)
        shown = f"{word} {key[1] if number is None else number}"
        return shown if title is None or key[0] == "agents" else f'{shown} "{title}"'

    new = [f"ledger: new {name((kind, getattr(one, 'id', '') or one.name))}" for kind, all_ in merged.created.items()
           for one in all_]  # fmt: skip
    changed = [
        f"ledger: {name(each.key)}: "
        + ", ".join(
            f"{field} {_value(getattr(each.present, field))} → {_value(value)}" for field, value in each.fields.items()
        )
        for each in merged.changes
    ]
    filed = [f"file: {name(key)}{': ' if fields else ''}{', '.join(fields)}" for key, fields in merged.to_file]
    for lines in (new, changed, filed):
        for line in lines[:_SHOWN]:
            click.echo(printable(line))
        if len(lines) > _SHOWN:
            click.echo(f"{lines[0].partition(':')[0]}: {len(lines) - _SHOWN} more")
    for each in merged.clashes:
        click.echo(printable(f"conflict: {name(each.key)}{_clash(each)}"), err=True)
    for refusal in refused:
        click.echo(printable(f"refused: {name(refusal.key)}: {refusal.error}"), err=True)
    if merged.deleted:
        count = len(merged.deleted)
        words = "1 record is" if count == 1 else f"{count} records are"
        click.echo(f"{words} not in the file any more; --prune deletes them from the ledger", err=True)
    if not (new or changed or filed or merged.clashes or refused):
        click.echo("The file and the ledger agree.")
    if is_dry:
        click.echo("Nothing was changed.", err=True)
    elif is_written:
        click.echo(f"Wrote {printable(str(path))}", err=True)


def _value(value: Any) -> str:
    text = "-" if value in (None, "") else value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return text if len(text) <= 60 else f"{text[:59]}…"


def _clash(clash: Clash) -> str:
    if clash.field is None and clash.other is not None:
        return ": one side of git's conflict has deleted it, and the other has it: it stays"
    if clash.field is None:
        return ": changed in the ledger, and not in the file any more" if clash.file is None else (
            ": changed in the file, and deleted in the ledger"
        )  # fmt: skip
    other = "" if clash.other is None else f", and the other side of git's conflict {_value(clash.other)}"
    return f": {clash.field}: the file has {_value(clash.file)}, the ledger {_value(clash.daemon)}{other}"
