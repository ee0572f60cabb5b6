"""``nexusctl conversation import``, ``resume`` and ``source``: conversations of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus.cli.output import Column, Printer, format_time, hint
from nexus.cli.records import Noun, Removal, make_inspect, make_list, remove_each, where_found
from nexus.cli.verbs import FilePath, NounGroup, Values, verb
from nexus.conversations.commands import GetConversation
from nexus.conversations.import_commands import (
    AddConversationSource,
    GetConversationSource,
    ListConversationSources,
    RemoveConversationSource,
)
from nexus.conversations.import_records import ConversationSource, ConversationSourcePage
from nexus.conversations.records import Conversation
from nexus.conversations.states import SourceFormat
from nexus.hints import command_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nexus.cli.app import App
    from nexus.cli.result import Result
    from nexus.conversations.cli.importer import Importer, Outcome

__all__ = ["make_import", "make_resume", "source"]

_MAX_REASONS = 8
_SOURCE = Noun("conversation source", "conversation sources", "conversation source", ConversationSourcePage.sources)
_IMPORT_HELP = """Import conversations of other programs, or of an export.

PATH is a file or a folder; without one, the places are read where the program keeps its sessions. What was imported
before is not imported again, and a file that has grown goes on where it ended."""


def make_import() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> int:
        return _import(app, values, out)

    built = verb(
        AddConversationSource,
        run,
        parameters=[
            click.Argument(["paths"], metavar="[PATH]...", nargs=-1, type=FilePath()),
            click.Option(
                ["--from", "from_"],
                type=click.Choice([each.value for each in SourceFormat]),
                default="auto",
                help="What it is written in (default: auto, by its content).",
            ),
            click.Option(
                ["--redact"],
                type=FilePath(),
                metavar="FILE",
                help="Replace what matches a pattern of this file, one regular expression a line, and known forms of "
                "secrets.",
            ),
            click.Option(["--redact-secrets"], is_flag=True, help="Replace known forms of secrets: keys, tokens."),
            click.Option(["--watch"], is_flag=True, help="Follow it from now on: the daemon imports new messages."),
        ],
        exclude=("path", "format", "watched", "redact", "redact_secrets"),
        help=_IMPORT_HELP,
    )
    built.key_refusal = "it makes many requests, which are safe to repeat"
    return built


def _import(app: App, values: Values, out: Printer) -> int:
    from nexus.cli.progress import ProgressLine
    from nexus.cli.result import Results, made
    from nexus.conversations.cli.importer import Importer, cannot_redact, redactor_for
    from nexus.conversations.importing.formats import default_places
    from nexus.conversations.importing.redaction import PatternError

    format_ = SourceFormat(values.word("from_"))
    redact, redact_secrets = values.text("redact"), values.flag("redact_secrets")
    try:
        redactor_for(redact, built_in=redact_secrets)
    except (PatternError, OSError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise click.UsageError(cannot_redact(str(redact), reason)) from None
    paths = values.every("paths", str)
    for given in paths:
        _check_path(Path(given))
    places = [(Path(path), format_) for path in paths] or default_places(format_)
    roots = [(path.resolve(), each) for path, each in places]
    line = ProgressLine()

    def call(command: Any, cause: int | None = None) -> Any:
        return app.connect().call(command, timeout_s=app.timeout_s, cause=cause)

    importer = Importer(call, line.show)
    options = {"redact": redact, "redact_secrets": redact_secrets}
    outcomes: list[Outcome] = []
    empty: list[tuple[Path, SourceFormat]] = []
    code = 0
    try:
        seen: set[Path] = set()
        for root, each in roots:
            count = len(outcomes)
            for outcome in _outcomes(importer, root, each, options, seen):
                line.end()
                outcomes.append(outcome)
                if outcome.error is not None:
                    code = 1
                    click.echo(f"Error: cannot import {outcome.path}: {outcome.error}", err=True)
                elif out.for_person:
                    _tell(outcome)
            if len(outcomes) == count:
                empty.append((root, each))
    finally:
        line.end()
    watches = values.flag("watch")
    if paths and not watches:
        for root, each in empty:
            code = 1
            _tell_empty(root, each)
    elif not outcomes and not watches:
        click.echo("Error: cannot import: no sessions found where their programs keep them", err=True)
        click.echo("  Name a file or a folder: nexusctl conversation import PATH", err=True)
        return 1
    if out.for_person:
        _tell_sum(outcomes, is_told=code != 0)
    else:
        results = Results.of([made(outcome, _plain(outcome)) for outcome in outcomes])
        out.many(results, (), name=lambda one: one.path, nothing="Nothing to import.")
    refused = {outcome.path for outcome in outcomes if outcome.error is not None and not outcome.is_known}
    if watches:
        for path, each in roots:
            if path in refused:
                continue
            added = importer.follow(AddConversationSource(str(path), each, watched=True, **options))  # type: ignore[arg-type]
            if out.for_person:
                click.echo(f"Following {path} as conversation source {added.number}")
    return code


def _check_path(path: Path) -> None:
    if not path.exists():
        raise click.UsageError(f"{path}: no such file or folder")
    if not (path.is_file() or path.is_dir()):
        raise click.UsageError(f"{path}: neither a plain file nor a folder; save what it gives in a file first")


def _tell_empty(root: Path, format_: SourceFormat) -> None:
    kind = "conversation files" if format_ is SourceFormat.AUTO else f"files of the format {format_.value}"
    click.echo(f"Error: cannot import: no {kind} found in {root}", err=True)


def _outcomes(
    importer: Importer, root: Path, format_: SourceFormat, options: Any, seen: set[Path]
) -> Iterator[Outcome]:
    from nexus.conversations.cli.importer import Outcome, is_text
    from nexus.conversations.importing.formats import detect, files_in, format_of

    for path in files_in(root, format_):
        if path in seen:
            continue
        seen.add(path)
        if not is_text(str(path)):
            yield Outcome(path, format_, {}, error="its path is not UTF-8", is_known=False)
            continue
        try:
            found = format_of(path, format_)
        except OSError:
            found = format_  # its import says why it cannot be read
        if found is None and path != root:
            continue  # a folder has other files, too
        if found is None and format_ is not SourceFormat.AUTO:
            is_of = detect(path)
            error = f"it is of the format {is_of.value if is_of else '?'}, and not of {format_.value}"
            yield Outcome(path, format_, {}, error=error, is_known=False)
            continue
        source = importer.source(AddConversationSource(str(path), found or format_, **options))
        outcome = importer.run(source)[0]
        if path == root and outcome.error is None and not (outcome.is_known or outcome.waits):
            outcome = outcome._replace(error="it has no messages")
        yield outcome


def _tell(outcome: Outcome) -> None:
    for reply in outcome.conversations.values():
        name = str(reply.number) if reply.project == "default" else f"{reply.project}/{reply.number}"
        if reply.added or reply.changed or reply.created:
            changed = f", changed {reply.changed}" if reply.changed else ""
            new = "new " if reply.created else ""
            click.echo(f"Imported {_count(reply.added)}{changed} into {new}conversation {name} from {outcome.path}")


def _has_changed(outcome: Outcome) -> bool:
    created = any(reply.created for reply in outcome.conversations.values())
    return created or outcome.added > 0 or outcome.changed > 0


def _count(number: int) -> str:
    return "1 message" if number == 1 else f"{number} messages"


def _tell_sum(outcomes: list[Outcome], *, is_told: bool) -> None:
    from nexus.conversations.importing.reading import KEPT

    if not is_told and not any(map(_has_changed, outcomes)):
        click.echo("Nothing new to import.")
    reasons: dict[str, int] = {}
    for outcome in outcomes:
        for reason, count in (outcome.skipped or {}).items():
            reasons[reason] = reasons.get(reason, 0) + count
    shown = sorted(reasons.items(), key=lambda each: -each[1])
    for reason, count in shown:
        if reason in KEPT:
            click.echo(f"Imported, but not as it was: {reason} ({count})", err=True)
    shown = [each for each in shown if each[0] not in KEPT]
    for reason, count in shown[:_MAX_REASONS]:
        click.echo(f"Not imported: {reason} ({count})", err=True)
    if len(shown) > _MAX_REASONS:
        click.echo(f"Not imported: other reasons ({sum(count for _reason, count in shown[_MAX_REASONS:])})", err=True)
    waiting = sum(outcome.waits for outcome in outcomes)
    if waiting:
        files = "1 file ends" if waiting == 1 else f"{waiting} files end"
        click.echo(f"{files} within a line, which is imported once it is whole.", err=True)


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {
        "path": str(outcome.path),
        "format": outcome.format.value,
        "added": outcome.added,
        "changed": outcome.changed,
        "known": outcome.known,
        "skipped": outcome.skipped or {},
        "conversations": list(outcome.conversations),
        "error": outcome.error,
    }


# Going on in another program


def make_resume() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> int:
        from nexus.conversations.importing.formats import resume_command

        result = app.fetch(values.build(GetConversation))
        one = result.record
        words = None
        if one.source is not None and one.source_id is not None:
            words = resume_command(one.source, one.source_id)
        if not out.for_person:
            result.plain["resume"] = words
            result.plain["folder"] = one.folder
            out.one(result, name=lambda _one: "" if words is None else command_line(*words), sentence=lambda _one: None)
            return 0 if words is not None else 1
        if words is None:
            click.echo(f"Error: cannot resume conversation {one.number}: {_why_not(one)}", err=True)
            click.echo(f"  Read it: {command_line('nexusctl', 'conversation', 'show', '--all', one.name)}", err=True)
            return 1
        line = command_line(*words)
        if one.folder is not None:
            line = " && ".join([command_line("cd", one.folder), line])
            if not Path(one.folder).is_dir():
                hint(f"The folder {one.folder} is not there any more.")
        click.echo(line)
        return 0

    help = "Print the command line that goes on with a conversation in the program that it was held with."
    return verb(GetConversation, run, help=help)


def _why_not(one: Conversation) -> str:
    """Why a conversation has no command line that goes on with it."""
    if one.source not in (None, SourceFormat.NEXUS.value):
        return f"no command is known that goes on with a session of {one.source}"
    of = "" if one.tool is None else f" of {one.tool}"
    if one.source is not None:
        return f"it was imported from an export, which has no session{of}"
    return f"it was held here, and has no session{of}" if of else "it was held with no program"


# Sources


def _path_and_error(one: ConversationSource) -> str:
    return one.path if one.last_error is None else f"{one.path} ({one.last_error})"


def _followed(one: ConversationSource) -> str:
    return "yes" if one.watched else "with its folder" if one.followed else "no"


_COLUMNS: tuple[Column[ConversationSource], ...] = (
    Column("NUMBER", lambda one: one.number, 6),
    Column("FORMAT", lambda one: one.format, 11),
    Column("FOLLOWED", lambda one: "yes" if one.followed else "no", 8),
    Column("MESSAGES", lambda one: one.messages, 8),
    Column("PATH", _path_and_error),
    Column("READ", lambda one: format_time(one.read_at), wide=True),
    Column("ID", lambda one: one.id, wide=True),
)


def _lines(one: ConversationSource) -> list[tuple[str, object]]:
    return [
        ("Source", one.number),
        ("ID", one.id),
        ("Project", None if one.project == "default" else one.project),
        ("Path", one.path),
        ("Format", one.format),
        ("Followed", _followed(one)),
        ("Redacted", one.redact or ("known forms of secrets" if one.redact_secrets else None)),
        ("Read", None if one.read_at is None else f"{one.offset_bytes} of {one.size_bytes} bytes"),
        ("Messages", one.messages),
        ("Deleted", f"{one.deleted}, imported again on demand" if one.deleted else None),
        ("Skipped", ", ".join(f"{reason} ({count})" for reason, count in one.skipped.items()) or None),
        ("Error", one.last_error),
        ("Last read", format_time(one.read_at)),
    ]


def _make_remove() -> click.Command:
    def question(app: App, records: list[ConversationSource]) -> str:
        shown = ", ".join(f"{record.path}{where_found(app, record)}" for record in records)
        return f"Remove the conversation source of {shown}? What was imported stays."

    def remove(app: App, name: str) -> Result[ConversationSource]:
        result = app.fetch(RemoveConversationSource(name))
        if result.record.redact is not None or result.record.redact_secrets:
            path = result.record.path
            hint(f"Secrets were replaced: {path} is imported again with --redact FILE or --redact-secrets alone.")
        return result

    def run(app: App, values: Values, out: Printer) -> int:
        removal: Removal[ConversationSource] = Removal(
            "remove",
            "Removed",
            look=lambda app, name: app.call(GetConversationSource(name)),
            remove=remove,
            question=question,
        )
        return remove_each(app, values.every("source", str), True, _SOURCE, removal, out)

    return verb(RemoveConversationSource, run, variadic=True)


source = NounGroup(
    "source",
    "Manage the files and folders that conversations are imported from.",
    {
        "list": (
            "List sources: those that are followed, and all files that were read.",
            lambda: make_list(ListConversationSources, _SOURCE, _COLUMNS),
        ),
        "inspect": (
            "Show a source: how far it was read.",
            lambda: make_inspect(GetConversationSource, _SOURCE, _lines),
        ),
        "remove": ("Follow sources no more; what was imported from them stays.", _make_remove),
    },
    {
        **dict.fromkeys(("rm", "delete"), " (did you mean 'remove'?)"),
        **dict.fromkeys(("get", "show"), " (did you mean 'inspect'?)"),
        **dict.fromkeys(("add", "new"), " (did you mean 'nexusctl conversation import --watch'?)"),
        "ls": " (did you mean 'list'?)",
    },
)
