"""``nexusctl checkpoint``: the verbs of checkpoints, and how checkpoints and what differs are printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from nexus.checkpoints.commands import (
    CreateCheckpoint,
    DeleteCheckpoint,
    DiffCheckpoints,
    GetCheckpoint,
    GetCheckpointState,
    ListCheckpoints,
    RestoreCheckpoint,
    UpdateCheckpoint,
)
from nexus.checkpoints.records import Checkpoint, CheckpointDiff, CheckpointPage, RestoredCheckpoint, RowChange
from nexus.cli.output import (
    Column,
    Printer,
    can_ask,
    confirm,
    format_size,
    format_time,
    hint,
    printable,
    reference,
)
from nexus.cli.records import (
    Noun,
    all_records,
    make_create,
    make_delete,
    make_inspect,
    make_list,
    make_update,
    name_of,
    names_starting,
    where_found,
)
from nexus.cli.result import made
from nexus.cli.verbs import NounGroup, Number, Values, completers, verb
from nexus.hints import command_line

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["checkpoint"]

_CHECKPOINT = Noun("checkpoint", "checkpoints", "checkpoint", CheckpointPage.checkpoints)
_SHORT_COMMIT = 12
_DONE = {"added": "+", "changed": "~", "removed": "-"}


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {_kind(kind, count)}" for kind, count in counts.items()) or "nothing"


def _kind(kind: str, count: int) -> str:
    word = kind.replace("_", " ")
    return word if count == 1 else f"{word}s"


def _commit(one: Checkpoint) -> str | None:
    return None if one.git_commit is None else one.git_commit[:_SHORT_COMMIT]


_COLUMNS: tuple[Column[Checkpoint], ...] = (
    Column("NUMBER", lambda one: one.number, 6),
    Column("CREATED", lambda one: format_time(one.created_at), 23),
    Column("MADE", lambda one: "automatic" if one.automatic else "by hand", 9),
    Column("TASKS", lambda one: one.counts.get("task", 0), 6),
    Column("SIZE", lambda one: format_size(one.size), 9),
    Column("COMMIT", _commit, 12),
    Column("NAME", lambda one: one.name),
    Column("REASON", lambda one: one.reason, wide=True),
    Column("ID", lambda one: one.id, wide=True),
)


def _lines(one: Checkpoint) -> list[tuple[str, object]]:
    return [
        ("Number", one.number),
        ("ID", one.id),
        ("Project", one.project),
        ("Name", one.name),
        ("Reason", one.reason),
        ("Made", "automatic" if one.automatic else "by hand"),
        ("Keeps", _counted(one.counts)),
        ("Size", format_size(one.size)),
        ("Commit", one.git_commit),
        ("Restored", one.restored_from and f"the checkpoint {one.restored_from} came after it"),
        ("Created", format_time(one.created_at)),
    ]


def _make_inspect() -> click.Command:
    plain = make_inspect(GetCheckpoint, _CHECKPOINT, _lines)
    inspect = plain.callback
    assert inspect is not None

    @click.pass_context
    def callback(ctx: click.Context, /, **values: Any) -> int | None:
        if not values.pop("state"):
            code: int | None = ctx.invoke(inspect, **values)
            return code
        app: App = ctx.obj
        out = Printer("jsonl")
        for name in values["checkpoint"]:
            _print_state(app, name, out)
        return 0

    plain.callback = callback
    plain.params.insert(
        1, click.Option(["--state"], is_flag=True, help="Print what it keeps instead, as JSON: a row in each line.")
    )
    return plain


def _print_state(app: App, name: str, out: Printer) -> None:
    start: int | None = 0
    while start is not None:
        part = app.fetch(GetCheckpointState(name, start=start)).plain
        for row in part.get("rows", ()):
            out.one(made(row, row), name=lambda _row: "", sentence=lambda _row: None)
        start = part.get("next")


def _make_timeline() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        records = all_records(
            app, _CHECKPOINT, lambda count, cursor: values.build(ListCheckpoints, limit=count, cursor=cursor)
        )
        if not out.for_person or not records:
            out.many(records, _COLUMNS, name=name_of, nothing=_CHECKPOINT.nothing(), projects=app.all_projects)
            return
        numbers = {one.id: one.number for one in records.records}
        for one in reversed(records.records):
            commit = f"  at {_commit(one)}" if one.git_commit else ""
            click.echo(f"{format_time(one.created_at)}  #{one.number}  {printable(one.name)}{commit}")
            click.echo(f"    {_counted(one.counts)}")
            if one.reason is not None:
                click.echo(f"    {printable(' '.join(one.reason.split()))}")
            if one.restored_from is not None:
                number = numbers.get(one.restored_from)
                click.echo(f"    then {'a deleted checkpoint' if number is None else f'#{number}'} was restored")

    return verb(ListCheckpoints, run, exclude=("cursor", "limit"))


def _revoked(leases: int) -> str:
    return f"; {leases} {'lease' if leases == 1 else 'leases'} revoked" if leases else ""


def _change_lines(changes: Sequence[RowChange]) -> None:
    for one in changes:
        number = "" if one.number is None else f" #{one.number}"
        named = "" if one.name is None else f" {printable(one.name)}"
        click.echo(f"{_DONE.get(one.change.value, '?')} {one.kind.replace('_', ' ')}{number}{named}")
        for field in one.fields:
            click.echo(f"    {field.field}: {_value(field.before)} → {_value(field.after)}")


def _value(value: object) -> str:
    return "none" if value is None else printable(" ".join(str(value).split()))


def _sums(counts: Mapping[str, Mapping[str, int]], words: Mapping[str, str]) -> str:
    found = []
    for way, word in words.items():
        each = {kind: ways[way] for kind, ways in counts.items() if ways.get(way)}
        if each:
            found.append(f"{word} {_counted(each)}")
    return "; ".join(found)


def _make_diff() -> click.Command:
    def sentence(diff: CheckpointDiff) -> None:
        _change_lines(diff.changes)
        if diff.more:
            click.echo(f"and {diff.more} more")
        sums = _sums(diff.counts, {"added": "added", "changed": "changed", "removed": "removed"})
        click.echo(f"{sums}." if sums else "No differences.")

    def run(app: App, values: Values, out: Printer) -> None:
        out.one(app.fetch(values.build(DiffCheckpoints)), name=lambda diff: diff.before.number, sentence=sentence)

    after = click.Argument(["after"], metavar="[CHECKPOINT]", required=False)
    return verb(DiffCheckpoints, run, parameters=[after], exclude=("after",), help=_DIFF_HELP)


_DIFF_HELP = """Show what differs between a checkpoint and a second one, or the present.

\b
    nexusctl checkpoint diff 3
    nexusctl checkpoint diff 3 5 --limit 1000
"""

_UNDO = {"removed": "brings back", "changed": "changes", "added": "deletes"}
"""What a restore does with what has come since."""
_DID = {"added": "brought back", "changed": "changed", "removed": "deleted"}


def _make_restore() -> click.Command:
    def told(restored: RestoredCheckpoint) -> None:
        number = restored.checkpoint.number
        sums = _sums(restored.counts, _DID)
        if restored.dry_run:
            _change_lines(restored.changes)
            if restored.more:
                click.echo(f"and {restored.more} more")
            would = f"Would restore checkpoint {number}: {sums or 'nothing changed'}"
            click.echo(would + _revoked(restored.leases))
            return
        if restored.before is None:
            click.echo(f"Nothing to restore: all is as in checkpoint {number}")
            return
        revoked = _revoked(restored.leases)
        click.echo(f"Restored checkpoint {number}: {sums or 'nothing changed'}{revoked}")
        undo = command_line("nexusctl", "checkpoint", "restore", reference(restored.before))
        hint(f"Undo it: {undo}")

    def run(app: App, values: Values, out: Printer) -> int:
        name = values.word("checkpoint")
        if not values.flag("dry_run") and not values.flag("yes"):
            question = ""
            if can_ask():
                diff = app.call(DiffCheckpoints(name, limit=0))
                one = diff.before
                sums = _sums(diff.counts, _UNDO)
                question = (
                    f'Restore checkpoint {one.number} "{one.name}"{where_found(app, one)} of '
                    f"{format_time(one.created_at)}? It {sums or 'changes no record'}, and takes all live leases."
                )
                name = one.id
            line = command_line("nexusctl", "checkpoint", "restore", values.word("checkpoint"), "--yes")
            if not confirm(question, "refusing to restore a checkpoint without confirmation", line):
                return 1
        result = app.fetch(values.build(RestoreCheckpoint, checkpoint=name))
        out.one(result, name=lambda each: each.checkpoint.number, sentence=told)
        return 0

    flags: list[click.Parameter] = [
        click.Option(["--dry-run"], is_flag=True, help="Only show what it would change."),
        click.Option(["-y", "--yes"], is_flag=True, help="Skip confirmation."),
        click.Option(["--limit"], type=Number(0, 1000), help="Changes that --dry-run shows (default: 20)."),
    ]
    return verb(RestoreCheckpoint, run, parameters=flags, exclude=("dry_run", "limit"), help=_RESTORE_HELP)


_RESTORE_HELP = """Make the project's plan what a checkpoint has, after a checkpoint of what is there.

Records that were made since are deleted, and deleted ones come back. Agents lose the leases on tasks of the project.

\b
    nexusctl checkpoint restore 3 --dry-run
"""


def _complete(app: App, incomplete: str) -> list[str]:
    return names_starting(app, ListCheckpoints(limit=10_000), _CHECKPOINT, incomplete)


completers["checkpoint"] = _complete

checkpoint = NounGroup(
    "checkpoint",
    "Keep what a project's plan is, and go back to it.",
    {
        "create": (
            "Keep the plan of the project as it is.",
            lambda: make_create(CreateCheckpoint, _CHECKPOINT, told=lambda one: _counted(one.counts)),
        ),
        "list": ("List checkpoints, newest first.", lambda: make_list(ListCheckpoints, _CHECKPOINT, _COLUMNS)),
        "timeline": ("Show checkpoints in their order, with what they keep.", _make_timeline),
        "inspect": ("Show checkpoints.", _make_inspect),
        "diff": ("Show what differs.", _make_diff),
        "restore": ("Go back to a checkpoint.", _make_restore),
        "update": ("Change the name or reason of a checkpoint.", lambda: make_update(UpdateCheckpoint, _CHECKPOINT)),
        "delete": (
            "Delete checkpoints.",
            lambda: make_delete(GetCheckpoint, DeleteCheckpoint, _CHECKPOINT),
        ),
    },
    {
        **dict.fromkeys(("rm", "remove"), " (did you mean 'delete'?)"),
        **dict.fromkeys(("show", "get", "info"), " (did you mean 'inspect'?)"),
        **dict.fromkeys(("add", "new", "save"), " (did you mean 'create'?)"),
        **dict.fromkeys(("undo", "rollback", "revert"), " (did you mean 'restore'?)"),
        "ls": " (did you mean 'list'?)",
        "compare": " (did you mean 'diff'?)",
    },
)
