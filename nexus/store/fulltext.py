"""The search index of this store's database, by SQLite's FTS5: expressions, statements, check and rebuild.

It is the part of ``nexus.store.dialect`` that is about texts. A store of another database has a module with the same
names. The schema of the index, its view and its triggers are in migration 11. Nothing here knows a table that the index
covers, but by the view ``search_row``.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from nexus.store.base import Reader, Row, Transaction
from nexus.store.splitting import BARRIER, SPLITTING, cjk_run, indexed, pairs, parts, words_of

__all__ = [
    "ALL",
    "IS_OF_INDEX",
    "OF_INDEX",
    "Term",
    "Words",
    "begin_rebuild",
    "check_index",
    "count_docs",
    "from_index",
    "has_index",
    "index_docs",
    "index_named",
    "index_text",
    "indexed_to",
    "is_searchable",
    "literal_words",
    "matching_docs",
    "names_expression",
    "ranked_docs",
    "rebuild_at_once",
    "rebuild_step",
    "remove_docs",
    "rewritten_at_once",
    "stale_reason",
    "words_expression",
]

OF_INDEX = "search_"
"""What the names of the index's own tables and views begin with."""
IS_OF_INDEX = "name LIKE 'search\\_%' ESCAPE '\\'"
"""The condition on a name of the schema that it is the index's own."""

ALL = 2**63 - 1
"""``indexed_to`` of an index that is complete."""

_SCORE = "bm25(search_index, 8.0, 1.0, 0.5)"
_STEP_DOCS = 500
_STEP_ROWS = 50
_ROWS_AT_ONCE = 500
_STEP_CHARACTERS = 64 * 1024
"""Characters after which a step of a rebuild ends: 10 to 20 ms."""

# The check is an INSERT that writes nothing. rank 1 compares the index with its content.
_CHECKS = (
    "INSERT INTO search_index (search_index, rank) VALUES ('integrity-check', 1)",
    "INSERT INTO search_name (search_name, rank) VALUES ('integrity-check', 1)",
)

_LETTER_KINDS = ("L", "N")
_TRIGRAM = 3


class Term(NamedTuple):
    """A word, a phrase or the beginning of a word."""

    text: str
    is_phrase: bool = False
    is_prefix: bool = False


class Words(NamedTuple):
    """What a text must have: of each of the ``all_of`` one term at least, and no term of ``none_of``."""

    all_of: tuple[tuple[Term, ...], ...]
    none_of: tuple[Term, ...] = ()


def is_searchable(text: str) -> bool:
    """Whether the index can find a text: whether it has a letter or a digit."""
    return any(_is_of_word(character) for character in text)


def _is_of_word(character: str) -> bool:
    return unicodedata.category(character)[0] in _LETTER_KINDS


# Expressions


def words_expression(words: Words) -> str:
    """The expression of FTS5 for words."""
    text = " AND ".join(_any_of([_term(term) for term in terms]) for terms in words.all_of)
    if words.none_of:
        text = f"({text}) NOT {_any_of([_term(term) for term in words.none_of])}"
    return text


def _any_of(expressions: Sequence[str]) -> str:
    return expressions[0] if len(expressions) == 1 else f"({' OR '.join(expressions)})"


def _quoted(text: str) -> str:
    # U+0000 ends a text for SQLite, and the barrier is no word of a person.
    text = text.replace("\x00", " ").replace(BARRIER, " ").replace('"', '""')
    return f'"{text}"'


def _term(term: Term) -> str:
    """One term. A CJK run is a phrase of pairs in the column that has these; the rest are words of any column."""
    pieces = [piece for piece in _pieces(term.text) if is_searchable(piece)]
    star = "*" if term.is_prefix else ""
    found = []
    for at, piece in enumerate(pieces):
        if cjk_run().match(piece):
            # A single character begins a pair, or is the last of its run.
            found.append(f"parts : {_quoted(pairs(piece)[:-2] if len(piece) > 1 else piece)}{'*' * (len(piece) == 1)}")
            continue
        last = star if at == len(pieces) - 1 else ""
        # The beginning of an identifier is found as it stands; that of its last word would be many words.
        split = piece if " " in piece or last else " ".join(words_of(piece))
        alone = f"{_quoted(piece)}{last}"
        found.append(alone if split == piece else f"({alone} OR {_quoted(split)})")
    return found[0] if len(found) == 1 else f"({' AND '.join(found)})"


def _pieces(text: str) -> list[str]:
    """A text, cut where CJK runs begin and end."""
    found = []
    at = 0
    for run in cjk_run().finditer(text):
        found += [text[at : run.start()], run[0]]
        at = run.end()
    return [*found, text[at:]]


def names_expression(words: Words) -> str | None:
    """The expression for names that have the words anywhere, also within a word; None where these cannot tell."""
    terms = [term for group in words.all_of for term in group]
    if words.none_of or any(len(term.text) < _TRIGRAM or not is_searchable(term.text) for term in terms):
        return None
    return " AND ".join(_any_of([_quoted(term.text) for term in group]) for group in words.all_of)


def literal_words(text: str) -> str | None:
    """The expression that finds candidates for an exact text: words that each row with this text has. None: no word.

    The first word may be the end of one, and the last the beginning. Only texts of Latin letters have candidates: for
    others the tokenizer's notion of a letter may be older than Python's.
    """
    if any(ord(character) >= 0x250 for character in text):
        return None
    words = re.findall(r"[^\W_]+", text)
    if text[:1] and _is_of_word(text[0]):
        words = words[1:]
    if not words:
        return None
    is_open = _is_of_word(text[-1])
    return f"{{name text}} : {_quoted(' '.join(words))}{'*' if is_open else ''}"


# Parts of statements


def matching_docs(column: str, words: Words) -> tuple[str, list[Any]]:
    """The condition that the row with the number ``column`` has the words, and its parameters."""
    condition = f"{column} IN (SELECT rowid FROM search_index WHERE search_index MATCH ?)"
    parameters: list[Any] = [words_expression(words)]
    if (names := names_expression(words)) is not None:
        condition = f"({condition} OR {column} IN (SELECT rowid FROM search_name WHERE search_name MATCH ?))"
        parameters.append(names)
    return condition, parameters


def from_index(table: str, *, names: bool = False) -> str:
    """The beginning of a FROM clause and its condition: the rows of a table, found by the index first.

    The text has one parameter, an expression; the rest of the joins and conditions follow it. With ``names`` they are
    found by the index of names.
    """
    index = "search_name" if names else "search_index"
    # CROSS JOIN keeps the order: the rows are looked up by what the index finds, and not the other way round.
    return f"{index} CROSS JOIN {table} ON {index} MATCH ? AND {table}.doc = {index}.rowid"


def ranked_docs(*, names: bool = False) -> str:
    """The query for the numbers of the best rows, each with its score, of which the lowest is the best.

    Its parameters are an expression and how many rows at most; -1 is all. A name counts more than a text, and that more
    than a part of a word. With ``names`` they are found by the index of names.
    """
    index, score = ("search_name", "bm25(search_name) * 4.0") if names else ("search_index", _SCORE)
    return f"SELECT rowid, {score} AS score FROM {index} WHERE {index} MATCH ? ORDER BY score, rowid DESC LIMIT ?"


# Keeping the index


def index_text(tx: Transaction, doc: int, name: str, text: str) -> None:
    """Add a row to the index that was just inserted in a table without a trigger for it."""
    if doc <= indexed_to(tx):
        # A plain INSERT: before each one that selects, or that a trigger makes, FTS5 writes what it has gathered.
        tx.execute(
            "INSERT INTO search_index (rowid, name, text, parts) VALUES (?, ?, ?, ?)",
            (doc, name, indexed(text), parts(f"{name}\n{text}" if name else text)),
        )


def index_named(tx: Transaction, rows: Sequence[tuple[int, str, str]]) -> None:
    """Add rows to the index that were just inserted in a table without a trigger: numbers, names and texts."""
    to = indexed_to(tx)
    rows = [row for row in rows if row[0] <= to]
    # One index after the other: FTS5 writes what it has gathered in one go.
    for doc, name, text in rows:
        tx.execute(
            "INSERT INTO search_index (rowid, name, text, parts) VALUES (?, ?, ?, ?)",
            (doc, name, indexed(text), parts(f"{name}\n{text}")),
        )
    for doc, name, _text in rows:
        tx.execute("INSERT INTO search_name (rowid, name) VALUES (?, ?)", (doc, name))


def index_docs(tx: Transaction, docs: Iterable[int]) -> None:
    """Add rows to the index that are not in it."""
    for doc in docs:
        tx.execute(
            "INSERT INTO search_index (rowid, name, text, parts) SELECT doc, name, text, parts FROM search_row "
            "WHERE doc = ?",
            (doc,),
        )
        tx.execute("INSERT INTO search_name (rowid, name) SELECT doc, name FROM search_named WHERE doc = ?", (doc,))


def remove_docs(tx: Transaction, docs: Iterable[int]) -> None:
    """Remove rows from the index, which still have the texts that it holds of them."""
    for doc in docs:
        tx.execute(
            "INSERT INTO search_index (search_index, rowid, name, text, parts) "
            "SELECT 'delete', doc, name, text, parts FROM search_row WHERE doc = ?",
            (doc,),
        )
        tx.execute(
            "INSERT INTO search_name (search_name, rowid, name) "
            "SELECT 'delete', doc, name FROM search_named WHERE doc = ?",
            (doc,),
        )


@contextlib.contextmanager
def rewritten_at_once(tx: Transaction, docs: Iterable[int]) -> Iterator[list[int]]:
    """Within the block, let many rows with these numbers be changed or deleted, and others be inserted.

    The numbers of what is inserted are put into the list. Triggers do nothing meanwhile: FTS5 gathers nothing of what
    they would write, and is many times slower then.
    """
    to = indexed_to(tx)
    every = list(docs)
    names, texts = _rows_of(tx, every, to)
    tx.execute_many("INSERT INTO search_name (search_name, rowid, name) VALUES ('delete', ?, ?)", names)
    tx.execute_many(
        "INSERT INTO search_index (search_index, rowid, name, text, parts) VALUES ('delete', ?, ?, ?, ?)", texts
    )
    tx.execute("UPDATE search_state SET indexed_to = 0")
    inserted: list[int] = []
    yield inserted
    tx.execute("UPDATE search_state SET indexed_to = ?", (to,))
    names, texts = _rows_of(tx, [*every, *inserted], to)
    tx.execute_many("INSERT INTO search_name (rowid, name) VALUES (?, ?)", names)
    tx.execute_many("INSERT INTO search_index (rowid, name, text, parts) VALUES (?, ?, ?, ?)", texts)


def _rows_of(reader: Reader, docs: list[int], to: int) -> tuple[list[Row], list[Row]]:
    """What the indexes have, or are to have, of those of the rows that are there: the names, and the texts."""
    names: list[Row] = []
    texts: list[Row] = []
    every = [doc for doc in docs if doc <= to]
    for start in range(0, len(every), _ROWS_AT_ONCE):
        some = every[start : start + _ROWS_AT_ONCE]
        marks = ", ".join("?" * len(some))
        names += reader.all(f"SELECT doc, name FROM search_named WHERE doc IN ({marks})", some)
        texts += reader.all(f"SELECT doc, name, text, parts FROM search_row WHERE doc IN ({marks})", some)
    return names, texts


def indexed_to(reader: Reader) -> int:
    """The highest number that the index holds; ``ALL`` of one that is complete."""
    row = reader.one("SELECT indexed_to FROM search_state")
    return int(row[0]) if row is not None else 0


def begin_rebuild(tx: Transaction) -> None:
    """Empty the index; ``rebuild_step`` fills it again. Until then triggers keep what is in it, and nothing else."""
    # The pages that are free then are not written over with zeros, which would take most of the time: the rebuild
    # fills them again.
    tx.execute("PRAGMA secure_delete = FAST")
    try:
        tx.execute("INSERT INTO search_index (search_index) VALUES ('delete-all')")
        tx.execute("INSERT INTO search_name (search_name) VALUES ('delete-all')")
    finally:
        tx.execute("PRAGMA secure_delete = ON")
    tx.execute("UPDATE search_state SET indexed_to = 0, splitting = ?", (SPLITTING,))


def rebuild_step(tx: Transaction) -> bool:
    """Add the next rows to an index that is being rebuilt; returns whether it is complete."""
    after = indexed_to(tx)
    if after == ALL:
        return True
    row = tx.one("SELECT last FROM record_number WHERE project_id = '' AND kind = 'doc'")
    last = 0 if row is None else int(row[0])
    left, to = _STEP_CHARACTERS, min(after + _STEP_DOCS, last)
    rows = tx.all(
        "SELECT doc, length(name) + length(text) FROM search_row WHERE doc > ? AND doc <= ? ORDER BY doc", (after, to)
    )
    for count, (doc, size) in enumerate(rows, 1):
        index_docs(tx, (doc,))
        left -= size
        if count == _STEP_ROWS or left <= 0:
            to = doc
            break
    done = to >= last
    tx.execute("UPDATE search_state SET indexed_to = ?", (ALL if done else to,))
    return done


def rebuild_at_once(connection: sqlite3.Connection) -> None:
    """Make the index again in the open transaction."""
    connection.execute("INSERT INTO search_index (search_index) VALUES ('rebuild')")
    connection.execute("INSERT INTO search_name (search_name) VALUES ('rebuild')")
    connection.execute("UPDATE search_state SET indexed_to = ?, splitting = ?", (ALL, SPLITTING))


def stale_reason(reader: Reader) -> str | None:
    """Why the index must be rebuilt, as a clause; None where it need not be."""
    row = reader.one("SELECT splitting, indexed_to FROM search_state")
    if row is None or row[1] != ALL:
        return "it was not rebuilt to its end"
    if row[0] != SPLITTING:
        return "another version of this program split words differently"
    return None


def count_docs(reader: Reader) -> int:
    """The number of texts in the index."""
    row = reader.one("SELECT count(*) FROM search_index_docsize")
    return 0 if row is None else int(row[0])


def has_index(connection: sqlite3.Connection) -> bool:
    """Whether the schema of a database has the index."""
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'search_state'").fetchone() is not None


def check_index(connection: sqlite3.Connection) -> str | None:
    """Compare the index with all texts: returns why it is behind, as a clause; None where it is not.

    Nothing is changed, but the connection must be one that can write.
    """
    for check in _CHECKS:
        try:
            connection.execute(check)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_CORRUPT:
                raise
            return "it does not hold what the tables hold"
    return None
