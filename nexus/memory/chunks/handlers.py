"""The handlers of the commands on chunks."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import msgspec

from nexus.capability import Context, handles
from nexus.hints import command_line
from nexus.journal.operation import Operation
from nexus.journal.rows import Subject, record
from nexus.memory.chunking.files import check_name, shown
from nexus.memory.chunking.symbols import Rank, match_symbol
from nexus.memory.chunks import store
from nexus.memory.chunks.commands import (
    MAX_OPERATIONS,
    DeleteChunks,
    FindSymbols,
    GetChunk,
    GetChunkMap,
    IndexChunks,
    ListChunkHashes,
    ListChunks,
    ListUnembeddedChunks,
    SetChunkEmbeddings,
)
from nexus.memory.chunks.errors import ChunkCursorInvalid, ChunkElsewhere, ChunkIdTaken, ChunkInvalid, ChunkNotFound
from nexus.memory.chunks.records import (
    MAX_CONTENT_BYTES,
    Chunk,
    ChunkHash,
    ChunkHashPage,
    ChunkMapPage,
    ChunkMapRow,
    ChunkPage,
    ChunksDeleted,
    ChunksEmbedded,
    ChunksIndexed,
    ChunkText,
    ChunkTextPage,
    FoundSymbol,
    FoundSymbols,
    MovedChunk,
    NewChunk,
)
from nexus.memory.chunks.states import SymbolMatch
from nexus.memory.manager import MemoryManager
from nexus.memory.vectors.validation import embedding, values
from nexus.records.contents import Contents, Held, contents
from nexus.records.pages import decode_cursor, encode_cursor, read_page
from nexus.records.scope import Scope
from nexus.store import Reader, Transaction

__all__ = [
    "delete_chunks",
    "find_symbols",
    "get_chunk",
    "get_chunk_map",
    "index_chunks",
    "list_chunk_hashes",
    "list_chunks",
    "list_unembedded_chunks",
    "set_chunk_embeddings",
]

T = TypeVar("T")

_CANNOT_INDEX = "cannot change the index"
_SYMBOLS_S = 5.0
"""How long the search for a symbol may take."""
_CANDIDATES = 5000
"""How many symbols are compared for one search."""
_AT_ONCE = 1000
"""Chunks of a project that are deleted with it in one transaction; the others follow in steps."""
_ID_OF = re.compile(r"[0-9a-fA-F-]{4,36}")
_PLACE = re.compile(r"(.+):([0-9]{1,9})", re.DOTALL)
_MATCHES = {
    Rank.EXACT: SymbolMatch.EXACT,
    Rank.SUFFIX: SymbolMatch.SUFFIX,
    Rank.PREFIX: SymbolMatch.PREFIX,
    Rank.SUBSTRING: SymbolMatch.SUBSTRING,
}


# What projects hold


def _held(reader: Reader, project_id: str, after: str = "", limit: int = -1) -> list[Held]:
    """The chunks of a project as one: there may be very many, and none has a name."""
    count = 0 if after or limit == 0 else store.count_of_project(reader, project_id)
    return [Held("chunk", project_id, "index", "there", runs=False)] if count else []


def _delete(tx: Transaction, operation: Operation, project_id: str, _held: list[Held]) -> None:
    count = store.count_of_project(tx, project_id)
    store.delete_of_project(tx, project_id, _AT_ONCE)
    record(tx, operation, "chunk.deleted", _subject(project_id), {"deleted": count})


def _deleted(ctx: Context, _ids: list[str]) -> None:
    ctx.daemon.manager(MemoryManager).sweeper.wake()


contents(Contents("chunk", "code index", _held, _delete, after=_deleted))


def _subject(project_id: str) -> Subject:
    return Subject("chunk", project_id, None, project_id)


# Writing


def _size_of(command: IndexChunks) -> int:
    return 256 + sum(3 * len(chunk.content) for chunk in command.create) + 200 * len(command.move)


@handles(IndexChunks, size_bytes=_size_of)
def index_chunks(tx: Transaction, ctx: Context, command: IndexChunks) -> ChunksIndexed:
    project_id = ctx.scope(tx).home(_CANNOT_INDEX)
    _check(command)
    named = [*command.delete, *(chunk.id for chunk in command.move)]
    made = [chunk.id for chunk in command.create if chunk.id is not None]
    likes = [chunk.like for chunk in command.create if chunk.like is not None]
    there = store.there(tx, [*named, *made, *likes])
    _refuse_elsewhere(there, [*named, *likes], project_id, _CANNOT_INDEX)
    new = [chunk for chunk in command.create if not _is_there(chunk, there, project_id)]

    going = [id_ for id_ in dict.fromkeys(command.delete) if id_ in there]
    deleted = store.delete(tx, project_id, going, [id_ for id_ in going if there[id_].embedded])
    gone = len(command.delete) - deleted
    moved = 0
    for chunk in command.move:
        if chunk.id not in there or chunk.id in going:
            gone += 1
        elif store.move(tx, chunk, there[chunk.id]):
            moved += 1
    ids = store.create(tx, project_id, new)
    embedded = _copy_embeddings(tx, project_id, zip(ids, new, strict=True), there)
    detail = {"created": len(new), "moved": moved, "deleted": deleted, "embedded": embedded}
    if any(detail.values()):
        record(tx, ctx.operation, "chunk.indexed", _subject(project_id), {k: v for k, v in detail.items() if v})
    return ChunksIndexed(**detail, gone=gone)


def _copy_embeddings(
    tx: Transaction, project_id: str, made: Iterable[tuple[str, NewChunk]], there: dict[str, store.There]
) -> int:
    """Give each new chunk the embedding of the one that it is like, if that has the same text and is still there."""
    copied = 0
    for id_, chunk in made:
        like = None if chunk.like is None else there.get(chunk.like)
        if chunk.like is None or like is None or not like.embedded or like.hash != chunk.hash:
            continue
        embedding = store.embedding_of(tx, chunk.like)
        if embedding is not None:
            store.embed(tx, project_id, id_, embedding)
            copied += 1
    return copied


def _check(command: IndexChunks) -> None:
    count = len(command.create) + len(command.move) + len(command.delete)
    if count > MAX_OPERATIONS:
        raise ChunkInvalid(
            f"{_CANNOT_INDEX}: {count} changes are too many, {MAX_OPERATIONS} at most are allowed",
            hint="Divide them between several requests.",
            details={"path": "create"},
        )
    placed: list[tuple[str, int, NewChunk | MovedChunk]] = [
        *(("create", at, chunk) for at, chunk in enumerate(command.create)),
        *(("move", at, chunk) for at, chunk in enumerate(command.move)),
    ]
    for field, at, chunk in placed:
        problem = check_name(chunk.file)
        if problem is not None:
            raise ChunkInvalid(
                f"{_CANNOT_INDEX}: {shown(chunk.file)} cannot be a file of it: {problem}",
                hint="Give a path below the folder of the project, without . and ..",
                details={"path": f"{field}[{at}].file"},
            )
        if chunk.end_line < chunk.start_line:
            raise ChunkInvalid(
                f"{_CANNOT_INDEX}: a chunk of {shown(chunk.file)} ends before it begins",
                details={"path": f"{field}[{at}].end_line"},
            )
    ids = [chunk.id for chunk in command.create if chunk.id is not None]
    if len(set(ids)) != len(ids):
        raise ChunkInvalid(f"{_CANNOT_INDEX}: two new chunks have one id", details={"path": "create"})
    for at, new in enumerate(command.create):
        size = len(new.content.encode())
        if size > MAX_CONTENT_BYTES:
            raise ChunkInvalid(
                f"{_CANNOT_INDEX}: a chunk of {shown(new.file)} has {size} bytes, and {MAX_CONTENT_BYTES} at most "
                "are allowed",
                details={"path": f"create[{at}].content"},
            )


def _is_there(chunk: NewChunk, there: dict[str, store.There], project_id: str) -> bool:
    """Whether an earlier request has made it."""
    present = None if chunk.id is None else there.get(chunk.id)
    if present is None:
        return False
    if present.project_id != project_id or present.hash != chunk.hash:
        raise ChunkIdTaken(
            f"{_CANNOT_INDEX}: another chunk has the id {chunk.id}",
            hint="Give each new chunk an id of its own.",
            details={"id": chunk.id},
        )
    return True


def _refuse_elsewhere(there: dict[str, store.There], ids: Iterable[str], project_id: str, cannot: str) -> None:
    for id_ in ids:
        if id_ in there and there[id_].project_id != project_id:
            raise ChunkElsewhere(
                f"{cannot}: chunk {id_} is of another project",
                hint="Send it in the project that the chunk is of.",
                details={"id": id_},
            )


def _embedding_bytes(command: SetChunkEmbeddings) -> int:
    return 256 + 8 * sum(len(each.embedding) for each in command.embeddings)


@handles(SetChunkEmbeddings, size_bytes=_embedding_bytes)
def set_chunk_embeddings(tx: Transaction, ctx: Context, command: SetChunkEmbeddings) -> ChunksEmbedded:
    cannot = "cannot set the embeddings"
    project_id = ctx.scope(tx).home(cannot)
    there = store.there(tx, [each.id for each in command.embeddings])
    _refuse_elsewhere(there, there, project_id, cannot)
    embedded = 0
    for each in command.embeddings:
        data = embedding(each.embedding)
        if each.id in there:
            store.embed(tx, project_id, each.id, data)
            embedded += 1
    if embedded:
        record(tx, ctx.operation, "chunk.embedded", _subject(project_id), {"embedded": embedded})
    return ChunksEmbedded(embedded, len(command.embeddings) - embedded)


@handles(DeleteChunks)
def delete_chunks(tx: Transaction, ctx: Context, command: DeleteChunks) -> ChunksDeleted:
    cannot = "cannot delete the chunks"
    project_id = ctx.scope(tx).home(cannot)
    under = _below(command.under, cannot)
    deleted = store.delete_some(tx, project_id, under, command.limit)
    if deleted:
        detail: dict[str, Any] = {"deleted": deleted} | ({} if under is None else {"under": under})
        record(tx, ctx.operation, "chunk.deleted", _subject(project_id), detail)
    return ChunksDeleted(deleted, bool(store.ids_below(tx, project_id, under, 1)))


# Reading


def _below(under: str | None, cannot: str) -> str | None:
    """The path below which chunks are meant; None for all."""
    if under is None:
        return None
    path = under.rstrip("/")
    problem = check_name(path) if path else "its path leads elsewhere"
    if problem is not None:
        raise ChunkInvalid(
            f"{cannot}: {shown(under)} is no path of the index: {problem}",
            hint="Give a path below the folder of the project, without . and ..",
            details={"path": "under"},
        )
    return path


async def _page(
    ctx: Context,
    command: ListChunkHashes | ListChunks | ListUnembeddedChunks | GetChunkMap,
    project_id: str,
    filters: tuple[Any, ...],
    read: Callable[[Reader, str, str | None, store.Position | None, int], list[T]],
    position: Callable[[T], store.Position],
    fits: Callable[[T], bool] | None,
) -> tuple[Any, str | None]:
    """One page of chunks of a project, encoded, and the cursor of the next one."""
    under = _below(command.under, "cannot list the chunks")
    bound = (type(command).__name__, project_id, under, *filters)
    after: store.Position | None = None
    if command.cursor is not None:
        hint = "Give the same filters as for the first page, or list from the start."
        after = decode_cursor(command.cursor, bound, tuple[str, int, str], ChunkCursorInvalid, hint)

    def fetch(after: store.Position | None, count: int) -> Awaitable[list[T]]:
        return ctx.store.fetch(lambda reader: read(reader, project_id, under, after, count))

    found, last = await read_page(fetch, position, fits, after, command.limit)
    return found, None if last is None else encode_cursor(bound, last)


def _place(chunk: Chunk | ChunkHash | ChunkText) -> store.Position:
    return chunk.file, chunk.start_line, chunk.id


@handles(ListChunkHashes)
async def list_chunk_hashes(ctx: Context, command: ListChunkHashes) -> ChunkHashPage:
    project_id = (await ctx.store.fetch(ctx.scope)).project_id
    if project_id is None:
        return ChunkHashPage([])
    return ChunkHashPage(*await _page(ctx, command, project_id, (), store.hashes, _place, None))


@handles(ListChunks)
async def list_chunks(ctx: Context, command: ListChunks) -> ChunkPage:
    project_id = (await ctx.store.fetch(ctx.scope)).project_id
    if project_id is None:
        return ChunkPage([])
    wanted = (command.language, command.chunk_type)

    def fits(chunk: Chunk) -> bool:
        return command.language in (None, chunk.language) and command.chunk_type in (None, chunk.chunk_type)

    return ChunkPage(*await _page(ctx, command, project_id, wanted, store.page, _place, fits if any(wanted) else None))


@handles(ListUnembeddedChunks)
async def list_unembedded_chunks(ctx: Context, command: ListUnembeddedChunks) -> ChunkTextPage:
    project_id = (await ctx.store.fetch(ctx.scope)).project_id
    if project_id is None:
        return ChunkTextPage([])
    return ChunkTextPage(
        *await _page(ctx, command, project_id, (), store.unembedded, _place, lambda chunk: isinstance(chunk, ChunkText))
    )


@handles(GetChunkMap)
async def get_chunk_map(ctx: Context, command: GetChunkMap) -> ChunkMapPage:
    project_id = (await ctx.store.fetch(ctx.scope)).home("cannot draw the map")
    return ChunkMapPage(*await _page(ctx, command, project_id, (), store.map_rows, _map_place, None))


def _map_place(row: ChunkMapRow) -> store.Position:
    return row.file, row.start_line, row.id


def _named(reader: Reader, scope: Scope, reference: str) -> Chunk | None:
    if _ID_OF.fullmatch(reference):
        return store.chunk_with_id(reader, reference, scope)
    place = _PLACE.fullmatch(reference)
    if place is None or scope.project_id is None:
        return None
    return store.chunk_at(reader, scope.project_id, place[1], int(place[2]))


@handles(GetChunk)
def get_chunk(ctx: Context, command: GetChunk) -> Chunk:
    def read(reader: Reader) -> Chunk:
        scope = ctx.scope(reader)
        found = _named(reader, scope, command.chunk)
        if found is None:
            cannot = f'chunk "{shown(command.chunk)}" not found'
            hint = scope.hint() if scope.is_nowhere else f"List chunks: {command_line('nexusctl', 'chunk', 'list')}"
            raise ChunkNotFound(cannot, hint=hint, details={"chunk": command.chunk})
        if not command.embedding or (data := store.embedding_of(reader, found.id)) is None:
            return found
        return msgspec.structs.replace(found, embedding=list(values(data)))

    return ctx.store.read(read, snapshot=True)


# Symbols


@handles(FindSymbols)
async def find_symbols(ctx: Context, command: FindSymbols) -> FoundSymbols:
    project_id = (await ctx.store.fetch(ctx.scope)).home("cannot find the symbol")
    return await ctx.store.scan(
        lambda reader: _symbols(reader, project_id, command.symbol.strip(), command.limit), limit_s=_SYMBOLS_S
    )


def _symbols(reader: Reader, project_id: str, query: str, limit: int) -> FoundSymbols:
    """The best symbols. An index has the last part of each; only where it finds too few, all are looked at."""
    words = [word for word in query.replace("::", ".").split(".") if word]
    if not words:
        return FoundSymbols([])
    found: set[tuple[str, str]] = set()
    if last := store.folded(query):
        found |= set(store.symbols_beginning(reader, project_id, last, _CANDIDATES))
    ranked = _ranked(query, found)
    if len(ranked) <= limit:
        # The database folds the letters of ASCII alone, so that a longest word of others is found as it is written.
        word = max(words, key=len)
        folded = word.lower() if word.isascii() else word
        ranked = _ranked(query, found | set(store.symbols_with(reader, project_id, folded, _CANDIDATES)))
    chunks = store.chunks_with(reader, list(dict.fromkeys(id_ for *_, id_ in ranked[: 2 * limit + 1])))
    symbols = [
        FoundSymbol(
            symbol=symbol,
            match=_MATCHES[rank],
            id=id_,
            file=chunk.file,
            start_line=chunk.start_line,
            end_line=chunk.end_line,
            chunk_type=chunk.chunk_type,
            language=chunk.language,
        )
        for rank, _, _, symbol, id_ in ranked
        if (chunk := chunks.get(id_)) is not None
    ]
    # What a symbol is the name of comes before what only has it.
    symbols.sort(
        key=lambda each: (
            *(Rank[each.match.name], query not in each.symbol, len(each.symbol), each.symbol),
            *(chunks[each.id].symbols[:1] != [each.symbol], each.file, each.start_line),
        )
    )
    return FoundSymbols(symbols[:limit], len(ranked) > limit)


def _ranked(query: str, symbols: Iterable[tuple[str, str]]) -> list[tuple[Rank, bool, int, str, str]]:
    return sorted(
        (rank, query not in symbol, len(symbol), symbol, id_)
        for symbol, id_ in symbols
        if (rank := match_symbol(query, symbol)) is not None
    )
