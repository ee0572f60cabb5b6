"""The SQL of the search of memory: what a text finds of a project, and what is shown of episodes and chunks."""

from __future__ import annotations

from collections.abc import Collection as Several
from collections.abc import Sequence

import msgspec

from nexus.memory.recall.records import Remembered
from nexus.memory.vectors.errors import VectorTaskAmbiguous
from nexus.memory.vectors.states import Collection
from nexus.records.lookup import find_row
from nexus.records.scope import Scope
from nexus.store import Reader
from nexus.store.fulltext import Words, names_expression, ranked_docs, words_expression

__all__ = ["ranked", "shown", "task_id"]

_TABLES = {Collection.EPISODES: "episodes", Collection.CHUNKS: "code_chunks"}
_FIRST_RANKED = 500
"""How many more of the best texts than are wanted are looked up first."""
_LOOKED_UP_AT_ONCE = 500
_READ_CHARACTERS = 400
_SHOWN_CHARACTERS = 160
_symbols = msgspec.json.Decoder(list[str]).decode

Key = tuple[Collection, str]
"""A collection and the id of a record in it."""


def ranked(reader: Reader, words: Words, project_id: str, collections: Several[Collection], limit: int) -> list[Key]:
    """The episodes and chunks of a project that have the words, the best first; it may take long."""
    expression, names = words_expression(words), names_expression(words)
    found: list[tuple[float, int, Key]] = []
    for most in (_FIRST_RANKED + limit, -1):
        scores: dict[int, float] = dict(reader.all(ranked_docs(), (expression, most)))
        named = [] if names is None else reader.all(ranked_docs(names=True), (names, most))
        is_all = most < 0 or max(len(scores), len(named)) < most
        for doc, score in named:
            scores[doc] = min(score, scores.get(doc, score))
        docs = sorted(scores, key=lambda doc: (scores[doc], -doc))
        found = []
        for at in range(0, len(docs), _LOOKED_UP_AT_ONCE):
            found += _looked_up(reader, docs[at : at + _LOOKED_UP_AT_ONCE], scores, project_id, collections)
            if len(found) >= limit:
                is_all = True  # what follows is no better
                break
        if is_all:
            break
    return [key for _score, _doc, key in sorted(found)[:limit]]


def _looked_up(
    reader: Reader,
    docs: Sequence[int],
    scores: dict[int, float],
    project_id: str,
    collections: Several[Collection],
) -> list[tuple[float, int, Key]]:
    """Those of some texts that are of the project, each with its score and what orders equal ones: the newest first."""
    marks = ", ".join("?" * len(docs))
    found: list[tuple[float, int, Key]] = []
    for collection in collections:
        rows = reader.all(
            f"SELECT doc, id FROM {_TABLES[collection]} WHERE doc IN ({marks}) AND project_id = ?", (*docs, project_id)
        )
        found += [(scores[doc], -doc, (collection, id_)) for doc, id_ in rows]
    return found


def shown(reader: Reader, collection: Collection, ids: Sequence[str]) -> dict[str, Remembered]:
    """What is shown of records, by id; those that are there no more are left out."""
    marks = ", ".join("?" * len(ids))
    if collection is Collection.EPISODES:
        rows = reader.all(
            "SELECT id, number, type, coalesce(summary, substr(content, 1, ?)), task_id, created_at FROM episodes "
            f"WHERE id IN ({marks})",
            (_READ_CHARACTERS, *ids),
        )
        return {
            id_: Remembered(
                collection=collection,
                id=id_,
                name=str(number),
                type=type_,
                text=_short(text),
                task_id=task,
                created_at=created_at,
            )
            for id_, number, type_, text, task, created_at in rows
        }
    rows = reader.all(
        "SELECT id, file, start_line, end_line, chunk_type, substr(content, 1, ?), symbols, language, indexed_at "
        f"FROM code_chunks WHERE id IN ({marks})",
        (_READ_CHARACTERS, *ids),
    )
    return {
        id_: Remembered(
            collection=collection,
            id=id_,
            name=f"{file}:{start}-{end}",
            type=type_,
            text=_short(text.strip().partition("\n")[0]),
            symbols=_symbols(symbols),
            language=language,
            created_at=indexed_at,
        )
        for id_, file, start, end, type_, text, symbols, language, indexed_at in rows
    }


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def task_id(reader: Reader, reference: str, scope: Scope) -> str | None:
    """The id of a task, by its id or its number; None if there is none.

    Raises:
        VectorTaskAmbiguous: several tasks are meant.
    """
    row = find_row(
        reader,
        "SELECT tasks.id, tasks.number, tasks.project_id FROM tasks",
        reference,
        scope,
        word="task",
        ambiguous=VectorTaskAmbiguous,
        table="tasks.",
        numbered=True,
    )
    return None if row is None else str(row[0])
