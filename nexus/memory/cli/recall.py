"""``nexusctl memory``: the search of what a project remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nexus.cli.output import Column, Printer, hint
from nexus.cli.records import print_list
from nexus.cli.verbs import NounGroup, Values, verb
from nexus.memory.cli.hits import hit_name
from nexus.memory.cli.reading import read_vectors, vector_option
from nexus.memory.recall.commands import SearchMemory
from nexus.memory.recall.records import MemoryHit, MemoryResult
from nexus.memory.vectors.states import Collection

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["memory"]


def _rank(rank: int | None) -> str:
    return "-" if rank is None else str(rank)


_COLUMNS: tuple[Column[MemoryHit], ...] = (
    Column("NAME", hit_name, 24),
    Column("TYPE", lambda hit: hit.type, 10),
    Column("BY TEXT", lambda hit: _rank(hit.text_rank), 7),
    Column("BY VECTOR", lambda hit: _rank(hit.vector_rank), 9),
    Column("TEXT", lambda hit: hit.text, 40),
    Column("SCORE", lambda hit: f"{hit.score:.6f}", wide=True),
    Column("COSINE", lambda hit: None if hit.cosine is None else f"{hit.cosine:.4f}", wide=True),
    Column("ID", lambda hit: hit.id, wide=True),
)

_SEARCH_HELP = """Search the episodes and chunks of the project by words, by vectors, or by both together.

A vector is a list of numbers in JSON, which your model makes of the text. What both find comes first.

\b
    nexusctl memory search 'connection reset'
    nexusctl memory search 'connection reset' --in episodes --vector query.json
"""


def _make_search() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        text = " ".join(values.every("text", str)) or None
        path = values.text("vector")
        if text is None and path is None:
            raise click.UsageError("give something to search for: words, --vector FILE, or both")
        given = {} if path is None else read_vectors(path, values.every("collections", str))
        found = app.fetch(
            values.build(
                SearchMemory, text=text, episode_vector=given.get("episodes"), chunk_vector=given.get("chunks")
            )
        )
        result = found.record
        print_list(app, found.rows(MemoryResult.hits), _COLUMNS, out, name=hit_name, nothing="Nothing found.")
        if result.more:
            hint(f"There is more than these {len(result.hits)}: --limit has more of it.")
        missing = [name for name in given if name not in {each.value for each in result.by_vectors}]
        if missing:
            hint(f"By text alone: {' and '.join(missing)} have no embeddings in this project.")
        elif not given:
            hint("By text alone: no --vector was given.")
        if result.behind is not None:
            hint(
                f"The search index does not have all texts at present: {result.behind}.\n"
                "Rebuild it: nexusctl db reindex"
            )

    text = click.Argument(["text"], nargs=-1, metavar="[TEXT]...")
    where = click.Option(
        ["--in", "collections"],
        type=click.Choice([each.value for each in Collection]),
        multiple=True,
        help="Where to look (default: both).",
    )
    vector = vector_option(required=False, text="A file with a vector in JSON; - is standard input.")
    return verb(
        SearchMemory,
        run,
        parameters=[text, where, vector],
        exclude=("text", "collections", "episode_vector", "chunk_vector"),
        help=_SEARCH_HELP,
    )


memory = NounGroup(
    "memory",
    "Search what a project remembers.",
    {"search": ("Search episodes and chunks by words, by vectors, or by both.", _make_search)},
    dict.fromkeys(("find", "query", "recall", "get"), " (did you mean 'search'?)"),
)
