"""``nexusctl vectors``: the embeddings of a project, their reset, and the search for the nearest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nexus.cli.output import Column, Printer, confirm, hint
from nexus.cli.records import print_list
from nexus.cli.verbs import NounGroup, Values, verb
from nexus.hints import command_line
from nexus.memory.cli.hits import hit_name
from nexus.memory.cli.reading import read_vector, vector_option
from nexus.memory.vectors.commands import ListVectorCollections, ResetVectors, SearchVectors
from nexus.memory.vectors.records import VectorCollection, VectorCollections, VectorHit, VectorResult, VectorsReset

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["vectors"]

_COLUMNS: tuple[Column[VectorCollection], ...] = (
    Column("COLLECTION", lambda each: each.collection, 10),
    Column("DIMENSION", lambda each: "-" if each.dimension is None else each.dimension, 9),
    Column("EMBEDDED", lambda each: each.embedded, 8),
    Column("WITHOUT", lambda each: each.without, 8),
    Column("MATRIX", lambda each: each.matrix, 8),
    Column("GENERATION", lambda each: each.generation, wide=True),
)


_HITS: tuple[Column[VectorHit], ...] = (
    Column("SCORE", lambda hit: f"{hit.score:.4f}", 7),
    Column("NAME", hit_name, 24),
    Column("TYPE", lambda hit: hit.type, 10),
    Column("TEXT", lambda hit: hit.text, 40),
    Column("ID", lambda hit: hit.id, wide=True),
)


def _make_list() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        found = app.fetch(values.build(ListVectorCollections))
        print_list(
            app,
            found.rows(VectorCollections.collections),
            _COLUMNS,
            out,
            name=lambda each: each.collection,
            nothing="No episodes and no chunks found.",
        )
        if out.for_person and found.record.collections and found.record.engine == "python":
            hint("Searches are a hundred times faster with numpy: install the extra vectors of nexusd.")

    return verb(ListVectorCollections, run)


def _make_reset() -> click.Command:
    def sentence(done: VectorsReset) -> None:
        click.echo(f"Removed {done.removed} embeddings of {done.collection}")

    def run(app: App, values: Values, out: Printer) -> int | None:
        collection = values.word("collection")
        if not values.flag("yes") and not confirm(
            f"Remove all embeddings of the {collection} of the project? They must be made again.",
            "refusing to remove embeddings without confirmation",
            command_line("nexusctl", "vectors", "reset", collection, "--yes"),
        ):
            return 1
        out.one(app.fetch(values.build(ResetVectors)), name=lambda done: done.collection, sentence=sentence)
        return None

    yes = click.Option(["-y", "--yes"], is_flag=True, help="Skip confirmation.")
    return verb(ResetVectors, run, parameters=[yes], help=_RESET_HELP)


_RESET_HELP = """Remove all embeddings of a collection of the project, for another model. Episodes and chunks stay.

COLLECTION is episodes or chunks. The first embedding after it fixes the dimension of the others.
"""


def _make_search() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        query = read_vector(values.word("vector"))
        found = app.fetch(values.build(SearchVectors, query=query))
        print_list(app, found.rows(VectorResult.hits), _HITS, out, name=hit_name, nothing="Nothing found.")
        if found.record.engine is None:
            hint("The collection has no embeddings.")

    vector = vector_option(required=True, text="A file with a list of numbers in JSON; - is standard input.")
    return verb(SearchVectors, run, parameters=[vector], exclude=("query",), help=_SEARCH_HELP)


_SEARCH_HELP = """Find what is nearest to a vector among the episodes or the chunks of the project.

\b
    nexusctl vectors search chunks --vector query.json --language python --limit 5
"""

vectors = NounGroup(
    "vectors",
    "Search embeddings, and see which there are.",
    {
        "list": ("List the collections and their embeddings.", _make_list),
        "reset": ("Remove all embeddings of a collection.", _make_reset),
        "search": ("Find what is nearest to a vector.", _make_search),
    },
    {
        **dict.fromkeys(("ls", "status", "show"), " (did you mean 'list'?)"),
        **dict.fromkeys(("delete", "rm", "clear"), " (did you mean 'reset'?)"),
        **dict.fromkeys(("find", "query", "nearest"), " (did you mean 'search'?)"),
    },
)
