"""``nexusctl episode``: the verbs of episodes, and how episodes are printed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from nexus.cli.output import Column, Printer, format_time, hint
from nexus.cli.records import Noun, make_delete, make_inspect, make_list, name_of, names_starting
from nexus.cli.verbs import NounGroup, Values, completers, verb
from nexus.memory.episodes.commands import (
    CreateEpisode,
    DeleteEpisode,
    GetEpisode,
    ListEpisodes,
    PruneEpisodes,
    UpdateEpisode,
)
from nexus.memory.episodes.records import Episode, EpisodePage, EpisodesPruned

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["episode"]

_EPISODE = Noun("episode", "episodes", "episode", EpisodePage.episodes)
_PAGE = 1000
_SHOWN = 80


def _text(one: Episode) -> str | None:
    text = one.summary or one.excerpt or one.content
    if text is None:
        return None
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


_COLUMNS: tuple[Column[Episode], ...] = (
    Column("NUMBER", lambda one: one.number, 6),
    Column("TYPE", lambda one: one.type, 15),
    Column("IMPORTANCE", lambda one: f"{one.importance:g}", 10),
    Column("USED", lambda one: one.access_count, 4),
    Column("TASK", lambda one: one.task_number, 4),
    Column("AGENT", lambda one: one.agent or one.agent_id, 10),
    Column("TEXT", _text, 20),
    Column("TAGS", lambda one: " ".join(one.tags) or None, wide=True),
    Column("DIMENSION", lambda one: one.dimension, wide=True),
    Column("LAST USED", lambda one: format_time(one.last_accessed_at), wide=True),
    Column("CREATED", lambda one: format_time(one.created_at), wide=True),
    Column("ID", lambda one: one.id, wide=True),
)


def _lines(one: Episode) -> list[tuple[str, object]]:
    return [
        ("Number", one.number),
        ("ID", one.id),
        ("Project", one.project),
        ("Type", one.type),
        ("Summary", None if one.summary is None else " ".join(one.summary.split())),
        ("Context", json.dumps(one.context, ensure_ascii=False, default=str) if one.context else None),
        ("Task", one.task_number or one.task_id),
        ("Agent", one.agent or one.agent_id),
        ("Importance", f"{one.importance:g}"),
        ("Tags", " ".join(one.tags) or None),
        ("Dimension", one.dimension),
        ("Embedding", None if one.embedding is None else " ".join(f"{value:.6g}" for value in one.embedding)),
        ("Used", one.access_count),
        ("Last used", format_time(one.last_accessed_at)),
        ("Created", format_time(one.created_at)),
    ]


def _read(path: str) -> str:
    """The text of a file, or of the input.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with click.open_file(path, encoding="utf-8") as file:
            return str(file.read())
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"cannot read {path}: it is no text in UTF-8") from None


def _embedding(values: Values) -> dict[str, Any]:
    """The embedding that a file has, if one is given.

    Raises:
        UsageError: it has none.
    """
    path = values.text("embedding_file")
    if path is None:
        return {}
    try:
        found = json.loads(_read(path))
    except ValueError as error:
        raise click.UsageError(f"the file of --embedding is no JSON: {error}") from None
    if not isinstance(found, list) or not all(type(each) in (int, float) for each in found):
        raise click.UsageError("the file of --embedding has no list of numbers")
    return {"embedding": [float(each) for each in found]}


def _file() -> click.Option:
    return click.Option(
        ["--embedding", "embedding_file"],
        metavar="FILE",
        help="A file with its embedding, a JSON list of numbers; - is the input.",
    )


def _make_create() -> click.Command:
    def sentence(one: Episode) -> None:
        click.echo(f'Created episode "{one.number}" ({one.type})')

    def run(app: App, values: Values, out: Printer) -> None:
        content = values.word("content")
        if content == "-":
            if values.text("embedding_file") == "-":
                raise click.UsageError("the input is either the text or the embedding")
            content = _read("-")
        result = app.fetch(values.build(CreateEpisode, content=content, **_embedding(values)))
        out.one(result, name=name_of, sentence=sentence)

    return verb(CreateEpisode, run, parameters=[_file()], help=_CREATE_HELP)


_CREATE_HELP = """Create an episode: something that was learned. TEXT may be -, for the input.

\b
    nexusctl episode create error_fix "The pool was exhausted: close the cursor." --tag pool
"""


def _make_update() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        if not values.any_given(lambda field: field not in ("episode", "if_revision")):
            raise click.UsageError(
                "nothing to change: give --summary, --context, --importance, --tag, --embedding or --clear"
            )
        result = app.fetch(values.build(UpdateEpisode, **_embedding(values)))
        out.one(result, name=name_of, sentence=lambda one: click.echo(f'Updated episode "{one.number}"'))

    return verb(UpdateEpisode, run, parameters=[_file()])


def _make_prune() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        result = app.fetch(values.build(PruneEpisodes))
        record = result.record
        if out.for_person and record.pruned:
            count = len(record.episodes)
            while record.more:  # in steps, so that other clients are answered meanwhile
                record = app.call(values.build(PruneEpisodes))
                count += len(record.episodes)
            click.echo(f"Pruned {count} {'episode' if count == 1 else 'episodes'}")
            return
        if not out.for_person:
            out.one(result, name=lambda pruned: len(pruned.episodes), sentence=lambda _pruned: None)
            return
        out.many(result.rows(EpisodesPruned.episodes), _COLUMNS, name=name_of, nothing="No episodes to prune.")
        if record.episodes:
            more = f"These and {record.matching - len(record.episodes)} more" if record.more else "These"
            hint(f"{more} would be pruned. Without --dry-run they are.")

    return verb(PruneEpisodes, run, exclude=("limit",), help=_PRUNE_HELP)


_PRUNE_HELP = """Delete the episodes that meet all conditions given: the least important first, then the oldest.

\b
    nexusctl episode prune --keep 1000 --unused 30 --dry-run
"""


def _complete(app: App, incomplete: str) -> list[str]:
    return names_starting(app, ListEpisodes(limit=_PAGE), _EPISODE, incomplete)


completers["episode"] = _complete

episode = NounGroup(
    "episode",
    "Keep and find what was learned.",
    {
        "create": ("Create an episode.", _make_create),
        "list": ("List episodes, newest first.", lambda: make_list(ListEpisodes, _EPISODE, _COLUMNS)),
        "inspect": ("Show episodes.", lambda: make_inspect(GetEpisode, _EPISODE, _lines, lambda one: one.content)),
        "update": ("Change an episode.", _make_update),
        "prune": ("Delete what is least important, oldest or least used.", _make_prune),
        "delete": ("Delete episodes.", lambda: make_delete(GetEpisode, DeleteEpisode, _EPISODE)),
    },
    {
        **dict.fromkeys(("add", "new"), " (did you mean 'create'?)"),
        **dict.fromkeys(("show", "get", "info"), " (did you mean 'inspect'?)"),
        **dict.fromkeys(("rm", "remove"), " (did you mean 'delete'?)"),
        **dict.fromkeys(("find", "search"), " (did you mean 'list --match'?)"),
        "ls": " (did you mean 'list'?)",
    },
)
