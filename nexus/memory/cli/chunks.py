"""``nexusctl chunk``: the index of a project's code, and how chunks are printed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nexus.cli.output import Column, Printer, confirm, format_time, hint, print_fields, printable
from nexus.cli.records import print_list
from nexus.cli.result import Result, Results
from nexus.cli.verbs import NounGroup, Number, Values, for_each, verb
from nexus.hints import command_line
from nexus.memory.chunks.commands import (
    DeleteChunks,
    FindSymbols,
    GetChunk,
    GetChunkMap,
    IndexChunks,
    ListChunks,
    ListUnembeddedChunks,
    SetChunkEmbeddings,
)
from nexus.memory.chunks.records import (
    Chunk,
    ChunkMapPage,
    ChunkMapRow,
    ChunkPage,
    ChunkText,
    ChunkTextPage,
    FoundSymbol,
    FoundSymbols,
)

if TYPE_CHECKING:
    from nexus_protocol.command import Command

    from nexus.cli.app import App

__all__ = ["chunk"]

T = TypeVar("T")

_PAGE = 10_000
_MAP_LINES = 200
_SYMBOLS = 60

_COLUMNS: tuple[Column[Chunk], ...] = (
    Column("PLACE", lambda one: f"{one.file}:{one.start_line}", 32),
    Column("LINES", lambda one: one.end_line - one.start_line + 1, 5),
    Column("TYPE", lambda one: one.chunk_type, 9),
    Column("LANGUAGE", lambda one: one.language, 10),
    Column("EMBEDDED", lambda one: "yes" if one.embedded else "no", 8),
    Column("SYMBOL", lambda one: one.symbols[0][:_SYMBOLS] if one.symbols else None),
    Column("COMPLEXITY", lambda one: one.complexity, wide=True),
    Column("ID", lambda one: one.id, wide=True),
)
_TEXT_COLUMNS: tuple[Column[ChunkText], ...] = (
    Column("PLACE", lambda one: f"{one.file}:{one.start_line}", 32),
    Column("LANGUAGE", lambda one: one.language, 10),
    Column("SYMBOL", lambda one: one.symbols[0][:_SYMBOLS] if one.symbols else None),
    Column("ID", lambda one: one.id, wide=True),
)
_SYMBOL_COLUMNS: tuple[Column[FoundSymbol], ...] = (
    Column("SYMBOL", lambda one: one.symbol, 32),
    Column("PLACE", lambda one: f"{one.file}:{one.start_line}", 32),
    Column("TYPE", lambda one: one.chunk_type, 9),
    Column("MATCH", lambda one: one.match),
    Column("ID", lambda one: one.id, wide=True),
)


def _under() -> click.Parameter:
    return click.Argument(["under"], metavar="[PATH]", required=False)


def _all(app: App, page_of: Callable[[int, str | None], Command[Any]], field: list[T], limit: int | None) -> Results[T]:
    """The rows of all pages, at most ``limit``."""
    pages: list[Results[T]] = []
    left, cursor = limit, None
    while left is None or left > 0:
        page = app.fetch(page_of(_PAGE if left is None else min(_PAGE, left), cursor))
        pages.append(page.rows(field))
        left = None if left is None else left - len(pages[-1])
        cursor = page.plain.get("next_cursor")
        if cursor is None:
            break
    return Results.joined(pages)


def _make_list() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        limit = values.number("limit")
        if values.flag("unembedded"):
            if values.text("language") or values.text("chunk_type"):
                raise click.UsageError("--unembedded takes neither --language nor --type")
            texts = _all(
                app,
                lambda count, cursor: values.build(ListUnembeddedChunks, limit=count, cursor=cursor),
                ChunkTextPage.chunks,
                limit,
            )
            print_list(
                app, texts, _TEXT_COLUMNS, out, name=lambda one: one.id, nothing="No chunks without embedding found."
            )
            return
        chunks = _all(
            app,
            lambda count, cursor: values.build(ListChunks, limit=count, cursor=cursor),
            ChunkPage.chunks,
            limit,
        )
        print_list(app, chunks, _COLUMNS, out, name=lambda one: one.id, nothing="No chunks found.")

    parameters = [
        _under(),
        click.Option(["--unembedded"], is_flag=True, help="Only those without an embedding, with their contents."),
        click.Option(["--limit"], type=Number(1), help="Maximum number of chunks (default: all)."),
    ]
    return verb(ListChunks, run, parameters=parameters, exclude=("under", "limit", "cursor"), help=_LIST_HELP)


_LIST_HELP = """List chunks by file and line: all, or those of a file or below a folder.

PATH is a path from the folder of the project. What a model needs to make embeddings is printed by

\b
    nexusctl chunk list --unembedded -o jsonl
"""


def _make_inspect() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> int:
        found: list[Result[Chunk]] = []
        names = values.every("chunk", str)
        code = for_each(names, lambda name: found.append(app.fetch(values.build(GetChunk, chunk=name))))
        if out.for_person:
            for index, result in enumerate(found):
                click.echo("\n" * (index > 0), nl=False)
                _print(result.record)
        elif len(names) > 1:
            out.many(Results.of(found), (), name=lambda one: one.id, nothing="No chunks found.")
        elif found:
            out.one(found[0], name=lambda one: one.id, sentence=lambda _one: None)
        return code

    flag = click.Option(["--embedding"], is_flag=True, help="With its embedding.")
    return verb(GetChunk, run, variadic=True, parameters=[flag], exclude=("embedding",), help=_INSPECT_HELP)


_INSPECT_HELP = """Show chunks with their contents.

CHUNK is an id, the first characters of an id, at least 4, or FILE:LINE.
"""


def _print(one: Chunk) -> None:
    embedding = "no" if not one.embedded else "yes"
    if one.embedding is not None:
        shown = ", ".join(f"{value:g}" for value in one.embedding[:8])
        embedding = f"{len(one.embedding)} values: {shown}{', …' if len(one.embedding) > 8 else ''}"
    print_fields(
        [
            ("Place", f"{one.file}:{one.start_line}-{one.end_line}"),
            ("ID", one.id),
            ("Project", one.project),
            ("Type", one.chunk_type),
            ("Language", one.language),
            ("Symbols", ", ".join(one.symbols) or None),
            ("Complexity", one.complexity),
            ("Embedding", embedding),
            ("Indexed", format_time(one.indexed_at)),
        ]
    )
    width = len(str(one.end_line))
    for number, line in enumerate((one.content or "").split("\n"), one.start_line):
        click.echo(f"{number:>{width}}  {printable(line.expandtabs(4))}".rstrip())


def _make_symbol() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        result = app.fetch(values.build(FindSymbols))
        found = result.rows(FoundSymbols.symbols)
        print_list(app, found, _SYMBOL_COLUMNS, out, name=lambda one: one.id, nothing="No symbols found.")
        if result.record.more:
            hint(f"There are more than these {len(found)}: --limit has more of them.")

    return verb(FindSymbols, run, help=_SYMBOL_HELP)


_SYMBOL_HELP = """Find symbols by their name or a part of it, whatever the case; the best come first.

\b
    nexusctl chunk symbol Daemon.start
    nexusctl chunk symbol start --limit 10
"""


def _make_map() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        rows = _all(
            app,
            lambda count, cursor: values.build(GetChunkMap, limit=count, cursor=cursor),
            ChunkMapPage.rows,
            None,
        )
        if not out.for_person or not rows:
            out.many(rows, (), name=lambda one: f"{one.file}:{one.start_line}", nothing="No chunks found.")
            if not rows:
                app.hint_missing_project()
            return
        from nexus.memory.chunking.drawing import draw_map

        width = shutil.get_terminal_size((100, 24)).columns
        click.echo(draw_map(map(_row, rows.records), width=width, max_lines=values.number("lines") or _MAP_LINES))

    lines = click.Option(
        ["--lines"], type=Number(1), default=_MAP_LINES, help=f"The most lines (default: {_MAP_LINES})."
    )
    return verb(GetChunkMap, run, parameters=[_under(), lines], exclude=("under", "limit", "cursor"), help=_MAP_HELP)


_MAP_HELP = """Draw the folders and files of the index as a tree, with the symbols of each file.

It has at most --lines lines: what is smaller is left out until it fits. PATH is a path from the folder of the project.
"""


def _row(row: ChunkMapRow) -> Any:
    from nexus.memory.chunking.drawing import MapRow

    return MapRow(row.file, () if row.symbol is None else (row.symbol,), row.start_line, row.chunk_type)


def _make_delete() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> int:
        from nexus.cli.result import made
        from nexus.memory.chunks.records import ChunksDeleted

        under, is_all = values.text("under"), values.flag("all_")
        if (under is None) != is_all:
            raise click.UsageError("give a PATH, or --all for the whole index")
        if not values.flag("yes"):
            what = "all chunks" if under is None else f"the chunks of {under}"
            words = ["--all"] if under is None else [under] if not under.startswith("-") else ["--", under]
            line = command_line("nexusctl", "chunk", "delete", "--yes", *words)
            if not confirm(f"Delete {what}, with their embeddings?", "refusing to delete chunks unasked", line):
                return 1
        deleted, more = 0, True
        while more:
            reply = app.call(DeleteChunks(under))
            deleted, more = deleted + reply.deleted, reply.more
        out.one(
            made(ChunksDeleted(deleted), {"deleted": deleted}),
            name=lambda one: one.deleted,
            sentence=lambda one: click.echo(f"Deleted {_chunks(one.deleted)}"),
        )
        return 0

    parameters = [
        _under(),
        click.Option(["--all", "all_"], is_flag=True, help="The whole index of the project."),
        click.Option(["-y", "--yes"], is_flag=True, help="Skip confirmation."),
    ]
    built = verb(DeleteChunks, run, parameters=parameters, exclude=("under", "limit"), help=_DELETE_HELP)
    built.key_refusal = "it makes many requests, which are safe to repeat"
    return built


_DELETE_HELP = """Delete chunks of the index: those of a file or below a folder.

PATH is a path from the folder of the project. No file is deleted, and the next "chunk index" makes them again.
"""


def _chunks(count: int) -> str:
    return f"{count} chunk{'s' * (count != 1)}"


def _make_index() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> int:
        from nexus.memory.cli.indexing import index

        return index(
            app, out, values.text("given"), values.text("root"), dry_run=values.flag("dry_run"), git=values.flag("git")
        )

    parameters = [
        click.Argument(["given"], metavar="[PATH]", required=False),
        click.Option(
            ["--root"],
            metavar="FOLDER",
            help="The folder that paths of the index are relative to (default: that of the project).",
        ),
        click.Option(["--dry-run"], is_flag=True, help="Only tell what would change."),
        click.Option(
            ["--git/--no-git"], default=True, help="Take the files that git lists (default), or all that a walk finds."
        ),
    ]
    built = verb(IndexChunks, run, parameters=parameters, exclude=("create", "move", "delete"), help=_INDEX_HELP)
    built.key_refusal = "it makes many requests, which are safe to repeat"
    return built


_INDEX_HELP = """Index the files of the project, or those of PATH alone: a file or a folder.

The files are those that git knows or does not ignore; outside of a repository, those that are not hidden. They are cut
into chunks of functions, classes and blocks. What was indexed before and is the same is not written again, and what was
renamed or moved keeps its embedding. It can be interrupted and run again at any time.
"""


def _make_embed() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> int:
        from nexus.memory.cli.embedding import embed

        return embed(app, out, values.text("given"))

    built = verb(
        SetChunkEmbeddings,
        run,
        parameters=[click.Argument(["given"], metavar="[FILE]", required=False)],
        exclude=("embeddings",),
        help=_EMBED_HELP,
    )
    built.key_refusal = "it makes many requests, which are safe to repeat"
    return built


_EMBED_HELP = """Set the embeddings of chunks, which a model made of their contents.

They come from FILE, or from standard input, one JSON object a line:

\b
    {"id": "0b9f4c1e-…", "embedding": [0.1, -0.2, …]}

What it needs for that is printed by

\b
    nexusctl chunk list --unembedded -o jsonl
"""

chunk = NounGroup(
    "chunk",
    "Index the code of a project, and find its parts.",
    {
        "index": ("Index files: write what is new, moved or gone.", _make_index),
        "list": ("List chunks.", _make_list),
        "inspect": ("Show chunks with their contents.", _make_inspect),
        "symbol": ("Find symbols by name.", _make_symbol),
        "map": ("Draw the files and their symbols.", _make_map),
        "embed": ("Set embeddings that a model made.", _make_embed),
        "delete": ("Delete chunks from the index.", _make_delete),
    },
    {
        **dict.fromkeys(("add", "create", "update", "reindex", "sync"), " (did you mean 'index'?)"),
        "ls": " (did you mean 'list'?)",
        **dict.fromkeys(("show", "get", "cat"), " (did you mean 'inspect'?)"),
        **dict.fromkeys(("find", "symbols", "def"), " (did you mean 'symbol'?)"),
        **dict.fromkeys(("tree", "outline"), " (did you mean 'map'?)"),
        **dict.fromkeys(("rm", "remove", "clear"), " (did you mean 'delete'?)"),
        "search": ": nexusctl search 'WORDS kind:chunk'",
    },
)
