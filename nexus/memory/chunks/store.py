"""All SQL of chunks. What their files say is in them alone: they have no images, and an event has counts."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec

from nexus.journal.rows import derived
from nexus.memory.chunks.errors import ChunkAmbiguous
from nexus.memory.chunks.records import (
    Chunk,
    ChunkHash,
    ChunkMapRow,
    ChunkText,
    MovedChunk,
    NewChunk,
)
from nexus.memory.chunks.states import ChunkType
from nexus.memory.vectors import store as vectors
from nexus.records.lookup import find_row
from nexus.records.scope import Scope
from nexus.records.table import DOC, next_number
from nexus.store import Reader, Row, Transaction
from nexus.store.dialect import contains_text
from nexus.store.fulltext import index_named

__all__ = [
    "COLLECTION",
    "Position",
    "There",
    "chunk_at",
    "chunk_with_id",
    "chunks_with",
    "count_of_project",
    "create",
    "delete",
    "embed",
    "delete_of_project",
    "delete_some",
    "embedding_of",
    "folded",
    "gone_projects",
    "hashes",
    "ids_below",
    "map_rows",
    "move",
    "page",
    "sweep",
    "symbols_beginning",
    "symbols_with",
    "there",
    "unembedded",
]

derived("code_chunks", "the files of the project")
derived("chunk_symbol", "the column symbols of code_chunks")

COLLECTION = "chunks"

Position: TypeAlias = tuple[str, int, str]
"""The file, the line and the id of a chunk: the order of lists."""

_encode = msgspec.json.Encoder().encode
_symbols = msgspec.json.Decoder(list[str]).decode
_TYPES = {each.value: each for each in ChunkType}
_AFTER_SLASH = chr(ord("/") + 1)
_HIGHEST = "\U0010ffff"
_COLUMNS = (
    "code_chunks.id, code_chunks.file, code_chunks.project_id, "
    "(SELECT projects.name FROM projects WHERE projects.id = code_chunks.project_id), "
    "code_chunks.start_line, code_chunks.end_line, code_chunks.chunk_type, code_chunks.language, code_chunks.symbols, "
    "code_chunks.complexity, code_chunks.hash, "
    "CASE WHEN code_chunks.embedding IS NULL THEN 0 ELSE 1 END, code_chunks.indexed_at"
)


class There(NamedTuple):
    """What is known of a chunk that a request names."""

    project_id: str
    file: str
    start_line: int
    end_line: int
    hash: str
    embedded: bool


def folded(symbol: str) -> str:
    """What a symbol is found by: what follows its last dot, whatever the case; ``::`` is a dot."""
    return symbol.replace("::", ".").rpartition(".")[2].casefold()


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


# Writing


def there(reader: Reader, ids: Iterable[str]) -> dict[str, There]:
    """Those of some ids that chunks of any project have."""
    wanted = list(dict.fromkeys(ids))
    rows = reader.all(
        "SELECT id, project_id, file, start_line, end_line, hash, CASE WHEN embedding IS NULL THEN 0 ELSE 1 END "
        f"FROM code_chunks WHERE id IN ({_marks(wanted)})",
        wanted,
    )
    return {row[0]: There(row[1], row[2], row[3], row[4], row[5], bool(row[6])) for row in rows}


def create(tx: Transaction, project_id: str, chunks: Sequence[NewChunk]) -> list[str]:
    """Insert chunks, none of which is there; returns their ids."""
    if not chunks:
        return []
    first = next_number(tx, "", DOC, len(chunks))
    ids: list[str] = []
    texts: list[tuple[int, str, str]] = []
    for doc, chunk in enumerate(chunks, first):
        id_ = chunk.id or str(uuid.uuid4())
        symbols = _encode(chunk.symbols).decode()
        tx.execute(
            "INSERT INTO code_chunks (id, project_id, file, start_line, end_line, content, symbols, chunk_type, "
            "language, complexity, hash, indexed_at, doc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(id_, project_id, chunk.file, chunk.start_line, chunk.end_line, chunk.content, symbols),
                *(chunk.chunk_type.value, chunk.language, chunk.complexity, chunk.hash, tx.now, doc),
            ),
        )
        for symbol in dict.fromkeys(chunk.symbols):
            tx.execute(
                "INSERT INTO chunk_symbol (chunk_id, symbol, project_id, folded) VALUES (?, ?, ?, ?)",
                (id_, symbol, project_id, folded(symbol)),
            )
        ids.append(id_)
        texts.append((doc, chunk.file, f"{symbols}\n{chunk.content}"))
    index_named(tx, texts)
    return ids


def move(tx: Transaction, chunk: MovedChunk, present: There) -> bool:
    """Give a chunk its new place; returns whether it is another one."""
    place = (chunk.file, chunk.start_line, chunk.end_line)
    if place == (present.file, present.start_line, present.end_line):
        return False
    # The search has the name of the file: a statement that sets it has more to do.
    if chunk.file == present.file:
        return bool(
            tx.execute("UPDATE code_chunks SET start_line = ?, end_line = ? WHERE id = ?", (*place[1:], chunk.id))
        )
    return bool(
        tx.execute("UPDATE code_chunks SET file = ?, start_line = ?, end_line = ? WHERE id = ?", (*place, chunk.id))
    )


def embed(tx: Transaction, project_id: str, id_: str, embedding: bytes) -> None:
    """Set the embedding of a chunk.

    Raises:
        VectorDimensionMismatch, VectorInvalid: it is none of this collection.
    """
    vectors.write(tx, project_id, COLLECTION, id_, embedding)
    tx.execute("UPDATE code_chunks SET embedding = ? WHERE id = ?", (embedding, id_))


def delete(tx: Transaction, project_id: str, ids: Sequence[str], embedded: Sequence[str]) -> int:
    """Delete chunks of a project, of which those ``embedded`` have an embedding; returns how many there were."""
    deleted = _delete(tx, ids)
    if embedded:
        vectors.forget(tx, project_id, COLLECTION, embedded)
    return deleted


def _delete(tx: Transaction, ids: Sequence[str]) -> int:
    if not ids:
        return 0
    tx.execute(f"DELETE FROM chunk_symbol WHERE chunk_id IN ({_marks(ids)})", ids)
    return tx.execute(f"DELETE FROM code_chunks WHERE id IN ({_marks(ids)})", ids)


def delete_some(tx: Transaction, project_id: str, under: str | None, limit: int) -> int:
    """Delete the first chunks below a path, at most ``limit``; returns how many there were."""
    rows = ids_below(tx, project_id, under, limit)
    embedded = [id_ for id_, has_embedding in rows if has_embedding]
    return delete(tx, project_id, [id_ for id_, _ in rows], embedded)


def sweep(tx: Transaction, project_id: str, limit: int) -> int:
    """Delete chunks of a project that is there no more, with all that is known of its vectors."""
    if tx.one("SELECT 1 FROM projects WHERE id = ?", (project_id,)) is not None:
        return 0
    return _delete(tx, [id_ for id_, _ in ids_below(tx, project_id, None, limit)])


def delete_of_project(tx: Transaction, project_id: str, limit: int) -> None:
    """Delete at most ``limit`` chunks of a project that goes, which takes its vectors along."""
    _delete(tx, [id_ for id_, _ in ids_below(tx, project_id, None, limit)])


# Reading


def gone_projects(reader: Reader) -> list[str]:
    """The ids of projects that are there no more, and have chunks; it may take long."""
    rows = reader.all(
        "SELECT DISTINCT project_id FROM code_chunks "
        "WHERE NOT EXISTS (SELECT 1 FROM projects WHERE projects.id = code_chunks.project_id)"
    )
    return [row[0] for row in rows]


def count_of_project(reader: Reader, project_id: str) -> int:
    """How many chunks a project has."""
    row = reader.one("SELECT count(*) FROM code_chunks WHERE project_id = ?", (project_id,))
    return 0 if row is None else int(row[0])


def _rows(
    reader: Reader, columns: str, project_id: str, under: str | None, after: Position | None, count: int
) -> list[Row]:
    """The rows after a position, in its order: those of the file ``under``, then those below the folder so named."""
    order = "ORDER BY file, start_line, id LIMIT ?"
    select = f"SELECT {columns} FROM code_chunks WHERE project_id = ?"
    beyond = " AND (file, start_line, id) > (?, ?, ?)"
    if under is None:
        if after is None:
            return reader.all(f"{select} {order}", (project_id, count))
        return reader.all(f"{select}{beyond} {order}", (project_id, *after, count))
    found: list[Row] = []
    if after is None:
        found = reader.all(f"{select} AND file = ? {order}", (project_id, under, count))
    elif after[0] == under:
        found = reader.all(
            f"{select} AND file = ? AND (start_line, id) > (?, ?) {order}", (project_id, under, *after[1:], count)
        )
    if len(found) < count:
        # What begins with the folder and a slash; other names come between it and these.
        first = f"{under}/"
        place = after if after is not None and after[0] >= first else (first, 0, "")
        found += reader.all(
            f"{select}{beyond} AND file < ? {order}", (project_id, *place, under + _AFTER_SLASH, count - len(found))
        )
    return found


def ids_below(reader: Reader, project_id: str, under: str | None, limit: int) -> list[tuple[str, bool]]:
    """The ids of the first chunks below a path, and whether each has an embedding."""
    rows = _rows(reader, "id, CASE WHEN embedding IS NULL THEN 0 ELSE 1 END", project_id, under, None, limit)
    return [(id_, bool(has_embedding)) for id_, has_embedding in rows]


def hashes(reader: Reader, project_id: str, under: str | None, after: Position | None, count: int) -> list[ChunkHash]:
    """At most ``count`` chunks after a position, as an indexer compares them."""
    rows = _rows(reader, "id, file, hash, start_line, end_line", project_id, under, after, count)
    return [ChunkHash(*row) for row in rows]


def page(reader: Reader, project_id: str, under: str | None, after: Position | None, count: int) -> list[Chunk]:
    """At most ``count`` chunks after a position, without their contents."""
    return [_chunk(row) for row in _rows(reader, _COLUMNS, project_id, under, after, count)]


def unembedded(
    reader: Reader, project_id: str, under: str | None, after: Position | None, count: int
) -> list[ChunkText | ChunkHash]:
    """At most ``count`` chunks after a position: with their contents where they have no embedding."""
    columns = "id, file, hash, start_line, end_line, language, symbols, CASE WHEN embedding IS NULL THEN content END"
    found: list[ChunkText | ChunkHash] = []
    for id_, file, hash_, start, end, language, symbols, content in _rows(
        reader, columns, project_id, under, after, count
    ):
        if content is None:
            found.append(ChunkHash(id_, file, hash_, start, end))
        else:
            found.append(ChunkText(id_, file, start, language, _symbols(symbols), content))
    return found


def map_rows(
    reader: Reader, project_id: str, under: str | None, after: Position | None, count: int
) -> list[ChunkMapRow]:
    """At most ``count`` chunks after a position, as a map needs them."""
    rows = _rows(reader, "id, file, start_line, chunk_type, symbols", project_id, under, after, count)
    return [
        ChunkMapRow(
            id=id_, file=file, start_line=start, chunk_type=_TYPES[type_], symbol=next(iter(_symbols(text)), None)
        )
        for id_, file, start, type_, text in rows
    ]


def _chunk(row: Row, content: str | None = None) -> Chunk:
    id_, file, project_id, project, start, end, type_, language, symbols, complexity, hash_, embedded, at = row
    return Chunk(
        id=id_,
        project_id=project_id,
        project=project,
        file=file,
        start_line=start,
        end_line=end,
        chunk_type=_TYPES[type_],
        language=language,
        symbols=_symbols(symbols),
        complexity=complexity,
        hash=hash_,
        embedded=bool(embedded),
        indexed_at=at,
        content=content,
    )


def chunk_with_id(reader: Reader, reference: str, scope: Scope) -> Chunk | None:
    """The chunk with an id, of any project, or with the only one that begins so.

    Raises:
        ChunkAmbiguous: several begin so.
    """
    row = find_row(
        reader,
        f"SELECT {_COLUMNS}, code_chunks.content FROM code_chunks",
        reference,
        scope,
        word="chunk",
        ambiguous=ChunkAmbiguous,
        table="code_chunks.",
        named="id",
    )
    return None if row is None or row[3] is None else _chunk(row[:-1], row[-1])


def chunk_at(reader: Reader, project_id: str, file: str, line: int) -> Chunk | None:
    """The chunk of a project that has a line of a file."""
    row = reader.one(
        f"SELECT {_COLUMNS}, code_chunks.content FROM code_chunks WHERE code_chunks.project_id = ? "
        "AND code_chunks.file = ? AND code_chunks.start_line <= ? AND code_chunks.end_line >= ? "
        "ORDER BY code_chunks.start_line DESC, code_chunks.id LIMIT 1",
        (project_id, file, line, line),
    )
    return None if row is None else _chunk(row[:-1], row[-1])


def embedding_of(reader: Reader, id_: str) -> bytes | None:
    """The embedding of a chunk."""
    row = reader.one("SELECT embedding FROM code_chunks WHERE id = ?", (id_,))
    return None if row is None else row[0]


# Symbols


def symbols_beginning(reader: Reader, project_id: str, start: str, limit: int) -> list[tuple[str, str]]:
    """Symbols whose last part begins so, in their order, with the ids of the chunks: by an index."""
    rows = reader.all(
        "SELECT symbol, chunk_id FROM chunk_symbol WHERE project_id = ? AND folded >= ? AND folded < ? "
        "ORDER BY folded, chunk_id LIMIT ?",
        (project_id, start, start + _HIGHEST, limit),
    )
    return [(symbol, id_) for symbol, id_ in rows]


def symbols_with(reader: Reader, project_id: str, text: str, limit: int) -> list[tuple[str, str]]:
    """Symbols that have a text in them, given in lower case: it looks at all of the project's."""
    rows = reader.all(
        f"SELECT symbol, chunk_id FROM chunk_symbol WHERE project_id = ? AND {contains_text('lower(symbol)')} LIMIT ?",
        (project_id, text, limit),
    )
    return [(symbol, id_) for symbol, id_ in rows]


def chunks_with(reader: Reader, ids: Sequence[str]) -> dict[str, Chunk]:
    """Chunks by their ids, without their contents."""
    if not ids:
        return {}
    rows = reader.all(f"SELECT {_COLUMNS} FROM code_chunks WHERE code_chunks.id IN ({_marks(ids)})", ids)
    return {row[0]: _chunk(row) for row in rows}
