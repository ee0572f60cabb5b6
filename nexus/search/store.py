"""The SQL of the search: the tables that it covers, and how their rows are found and shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from nexus.records.errors import RecordAmbiguous
from nexus.records.lookup import find_row
from nexus.records.scope import Scope
from nexus.search.errors import SearchFilterNotFound
from nexus.search.states import SearchKind, SearchOrder
from nexus.store import Reader
from nexus.store.dialect import contains_text
from nexus.store.fulltext import from_index, ranked_docs
from nexus.store.splitting import INDEXED_CHARACTERS

__all__ = ["Candidate", "Conditions", "Found", "candidates", "conversation_id", "show"]


_FIRST_RANKED = 200
"""How many more of the best rows than are wanted are looked up first."""
_LOOKED_UP_AT_ONCE = 500


class Conditions(NamedTuple):
    """What rows must meet beside the words; None and empty ones ask nothing."""

    kinds: frozenset[SearchKind] = frozenset()
    roles: frozenset[str] = frozenset()
    after: int | None = None
    before: int | None = None
    project_id: str | None = None
    conversation_id: str | None = None
    node: str | None = None


class Candidate(NamedTuple):
    """A row that matches."""

    table: str
    doc: int
    is_elsewhere: int
    """1: it is not in the project of the request."""
    place: float
    """Lower is better."""


class Found(NamedTuple):
    """A row with what is shown of it."""

    kind: SearchKind
    id: str
    project_id: str
    project: str
    name: str
    title: str | None
    role: str | None
    created_at: int
    text: str


class _Table(NamedTuple):
    """A table that the search covers."""

    name: str
    kinds: dict[SearchKind, str]
    """Its kinds, each with the condition of its rows."""
    shown: str
    """Columns: name, title, role, text."""
    id: str
    project_id: str
    created_at: str
    joins: str = ""
    has_names: bool = False
    role: str | None = None
    conversation_id: str | None = None
    node: str | None = None
    texts: tuple[str, ...] = ()
    """The columns that ``--literal`` looks at."""
    long: str | None = None
    """The condition, which has an index, of rows whose text the search index has in part only."""


# Rows of a conversation that is hidden, because it is being deleted or copied, are in the index and are not found.
_VISIBLE = "JOIN conversations ON conversations.id = messages.conversation_id AND conversations.hidden IS NULL"
_MESSAGE_NAME = "conversations.number || ':' || messages.number"
_JOB_TEXTS = ("jobs.command", "jobs.label", "jobs.reason", "jobs.stdout", "jobs.stderr")

_TABLES = (
    _Table(
        "conversations",
        {SearchKind.CONVERSATION: "conversations.hidden IS NULL"},
        "CAST(conversations.number AS TEXT), conversations.title, NULL, conversations.title",
        "conversations.id",
        "conversations.project_id",
        "conversations.created_at",
        has_names=True,
        conversation_id="conversations.id",
        texts=("conversations.title",),
    ),
    _Table(
        "messages",
        {SearchKind.MESSAGE: "1 = 1"},
        f"{_MESSAGE_NAME}, conversations.title, messages.role, messages.content",
        "messages.id",
        "conversations.project_id",
        "messages.created_at",
        _VISIBLE,
        role="messages.role",
        conversation_id="messages.conversation_id",
        texts=("messages.content",),
        long=f"length(messages.content) > {INDEXED_CHARACTERS}",
    ),
    _Table(
        "message_parts",
        {
            SearchKind.MESSAGE: "message_parts.kind = 'text'",
            SearchKind.TOOL: "message_parts.kind IN ('tool_use', 'tool_result')",
            SearchKind.THINKING: "message_parts.kind = 'thinking'",
        },
        f"{_MESSAGE_NAME}, coalesce(message_parts.tool, conversations.title), messages.role, message_parts.body",
        "messages.id",
        "conversations.project_id",
        "messages.created_at",
        f"JOIN messages ON messages.id = message_parts.message_id {_VISIBLE}",
        role="messages.role",
        conversation_id="messages.conversation_id",
        texts=("message_parts.body",),
    ),
    _Table(
        "jobs",
        {SearchKind.JOB: "1 = 1"},
        "CAST(jobs.number AS TEXT), jobs.label, NULL, jobs.command || ' ' || coalesce(jobs.label, '') || ' ' || "
        "coalesce(jobs.reason, '') || ' ' || coalesce(jobs.stdout, '') || ' ' || coalesce(jobs.stderr, '')",
        "jobs.id",
        "jobs.project_id",
        "jobs.created_at",
        has_names=True,
        conversation_id="jobs.conversation_id",
        node="jobs.node_id",
        texts=_JOB_TEXTS,
    ),
    _Table(
        "service",
        {SearchKind.SERVICE: "1 = 1"},
        "service.name, NULL, NULL, service.name || ' ' || coalesce(service.reason, '')",
        "service.id",
        "service.project_id",
        "service.created_at",
        has_names=True,
        texts=("service.name", "service.reason"),
    ),
    _Table(
        "vms",
        {SearchKind.VM: "1 = 1"},
        "vms.name, NULL, NULL, vms.name",
        "vms.id",
        "vms.project_id",
        "vms.created_at",
        has_names=True,
        texts=("vms.name",),
    ),
    _Table(
        "features",
        {SearchKind.FEATURE: "1 = 1"},
        "CAST(features.number AS TEXT), features.name, NULL, "
        "features.name || ' ' || coalesce(features.description, '')",
        "features.id",
        "features.project_id",
        "features.created_at",
        has_names=True,
        texts=("features.name", "features.description"),
    ),
    _Table(
        "tasks",
        {SearchKind.TASK: "1 = 1"},
        "CAST(tasks.number AS TEXT), tasks.name, NULL, tasks.name || ' ' || coalesce(tasks.description, '')",
        "tasks.id",
        "tasks.project_id",
        "tasks.created_at",
        has_names=True,
        texts=("tasks.name", "tasks.description"),
    ),
    _Table(
        "requirements",
        {SearchKind.REQUIREMENT: "1 = 1"},
        "CAST(requirements.number AS TEXT), NULL, NULL, requirements.description || ' ' || "
        "coalesce(requirements.source, '') || ' ' || requirements.user_stories || ' ' || "
        "requirements.acceptance_criteria",
        "requirements.id",
        "requirements.project_id",
        "requirements.created_at",
        texts=(
            "requirements.description",
            "requirements.source",
            "requirements.user_stories",
            "requirements.acceptance_criteria",
        ),
    ),
    _Table(
        "episodes",
        {SearchKind.EPISODE: "1 = 1"},
        "CAST(episodes.number AS TEXT), episodes.summary, NULL, "
        "coalesce(episodes.summary, '') || ' ' || episodes.content",
        "episodes.id",
        "episodes.project_id",
        "episodes.created_at",
        texts=("episodes.summary", "episodes.content"),
    ),
    _Table(
        "code_chunks",
        # Those of a project that was deleted go in steps.
        {SearchKind.CHUNK: "EXISTS (SELECT 1 FROM projects WHERE projects.id = code_chunks.project_id)"},
        "code_chunks.file || ':' || CAST(code_chunks.start_line AS TEXT), NULL, NULL, code_chunks.content",
        "code_chunks.id",
        "code_chunks.project_id",
        "code_chunks.indexed_at",
        has_names=True,
        texts=("code_chunks.content", "code_chunks.file"),
    ),
)
_BY_NAME = {table.name: table for table in _TABLES}


def candidates(
    reader: Reader,
    conditions: Conditions,
    home: str | None,
    order: SearchOrder,
    limit: int,
    *,
    expression: str | None,
    names: str | None = None,
    literal: str | None = None,
) -> list[Candidate]:
    """The best or the newest rows, those of the project ``home`` first: at most ``limit``.

    ``expression`` finds rows by the index, and ``names`` more of them by their names; None looks at all rows.
    ``literal`` is a text that they have as it stands.
    """
    tables = [(table, where) for table in _TABLES if (where := _conditions(table, conditions)) is not None]
    if order is SearchOrder.RANK and expression is not None and literal is None:
        return _best(reader, tables, home, limit, expression, names)
    found: dict[tuple[str, int], Candidate] = {}
    for table, where in tables:
        for text, is_name in ((expression, False), (names, True)):
            if (text is None and (is_name or literal is None)) or (is_name and not table.has_names):
                continue
            for candidate in _newest(reader, table, where, home, limit, text, literal, is_name=is_name):
                found[candidate.table, candidate.doc] = candidate
        if literal is not None and expression is not None and table.long is not None:
            long = ([*where[0], table.long], where[1])
            for candidate in _newest(reader, table, long, home, limit, None, literal, is_name=False):
                found[candidate.table, candidate.doc] = candidate
    return sorted(found.values(), key=_by_place)[:limit]


def _by_place(one: Candidate) -> tuple[int, float, int]:
    return one.is_elsewhere, one.place, -one.doc


def _best(
    reader: Reader,
    tables: Sequence[tuple[_Table, tuple[list[str], list[Any]]]],
    home: str | None,
    limit: int,
    expression: str,
    names: str | None,
) -> list[Candidate]:
    """The best rows: those that the index ranks first are looked up, and all others only where they are needed."""
    for most in (_FIRST_RANKED + limit, -1):
        scores: dict[int, float] = dict(reader.all(ranked_docs(), (expression, most)))
        named: list[tuple[int, float]] = [] if names is None else reader.all(ranked_docs(names=True), (names, most))
        is_all = most < 0 or max([len(scores), len(named)]) < most
        for doc, place in named:
            scores[doc] = min([place, scores.get(doc, place)])
        ranked = sorted(scores, key=lambda doc: (scores[doc], -doc))
        found: list[Candidate] = []
        for at in range(0, len(ranked), _LOOKED_UP_AT_ONCE):
            docs = ranked[at : at + _LOOKED_UP_AT_ONCE]
            for table, where in tables:
                found += _looked_up(reader, table, where, home, docs, scores)
            # What follows is no better, unless it is of the project itself.
            if sum(not one.is_elsewhere for one in found) >= limit:
                return sorted(found, key=_by_place)[:limit]
        if is_all:
            break
    return sorted(found, key=_by_place)[:limit]


def _looked_up(
    reader: Reader,
    table: _Table,
    where: tuple[list[str], list[Any]],
    home: str | None,
    docs: Sequence[int],
    scores: dict[int, float],
) -> list[Candidate]:
    """Those of some rows that are in a table and meet the conditions."""
    conditions, parameters = where
    elsewhere, own = _elsewhere(table, home)
    rows = reader.all(
        f"SELECT {table.name}.doc, {elsewhere} FROM {table.name} {table.joins} "
        f"WHERE {table.name}.doc IN ({', '.join('?' * len(docs))}) AND {' AND '.join(conditions)}",
        (*own, *docs, *parameters),
    )
    return [Candidate(table.name, doc, is_elsewhere, scores[doc]) for doc, is_elsewhere in rows]


def _elsewhere(table: _Table, home: str | None) -> tuple[str, list[str]]:
    """The column that says whether a row is not in the project of the request, with its parameters."""
    return ("0", []) if home is None else (f"CASE WHEN {table.project_id} = ? THEN 0 ELSE 1 END", [home])


def _newest(
    reader: Reader,
    table: _Table,
    where: tuple[list[str], list[Any]],
    home: str | None,
    limit: int,
    expression: str | None,
    literal: str | None,
    *,
    is_name: bool,
) -> Iterable[Candidate]:
    conditions, parameters = [*where[0]], [*where[1]]
    source = table.name if expression is None else from_index(table.name, names=is_name)
    if literal is not None:
        conditions.append("(" + " OR ".join(contains_text(column) for column in table.texts) + ")")
        parameters += [literal] * len(table.texts)
    elsewhere, own = _elsewhere(table, home)
    rows = reader.all(
        f"SELECT {table.name}.doc, {elsewhere} AS elsewhere, -{table.created_at} AS place FROM {source} {table.joins} "
        f"WHERE {' AND '.join(conditions)} ORDER BY elsewhere, place, {table.name}.doc DESC LIMIT ?",
        (*own, *([] if expression is None else [expression]), *parameters, limit),
    )
    return [Candidate(table.name, *row) for row in rows]


def _conditions(table: _Table, wanted: Conditions) -> tuple[list[str], list[Any]] | None:
    """The conditions on the rows of a table, with their parameters; None where none can meet them."""
    kinds = [condition for kind, condition in table.kinds.items() if not wanted.kinds or kind in wanted.kinds]
    if not kinds:
        return None
    conditions = [f"({' OR '.join(kinds)})"]
    parameters: list[Any] = []
    for column, values in (
        (table.role, sorted(wanted.roles)),
        (table.project_id, [wanted.project_id]),
        (table.conversation_id, [wanted.conversation_id]),
        (table.node, [wanted.node]),
    ):
        given = [value for value in values if value is not None]
        if given and column is None:
            return None
        if given:
            conditions.append(f"{column} IN ({', '.join('?' * len(given))})")
            parameters += given
    if wanted.after is not None:
        conditions.append(f"{table.created_at} >= ?")
        parameters.append(wanted.after)
    if wanted.before is not None:
        conditions.append(f"{table.created_at} < ?")
        parameters.append(wanted.before)
    return conditions, parameters


def show(reader: Reader, candidate: Candidate) -> Found | None:
    """What is shown of a row."""
    table = _BY_NAME[candidate.table]
    kinds = " ".join(f"WHEN {condition} THEN '{kind.value}'" for kind, condition in table.kinds.items())
    row = reader.one(
        f"SELECT CASE {kinds} END, {table.id}, {table.project_id}, projects.name, {table.shown}, {table.created_at} "
        f"FROM {table.name} {table.joins} JOIN projects ON projects.id = {table.project_id} WHERE {table.name}.doc = ?",
        (candidate.doc,),
    )
    if row is None:
        return None
    kind, id_, project_id, project, name, title, role, text, created_at = row
    return Found(SearchKind(kind), id_, project_id, project, name, title, role, created_at, text)


def conversation_id(reader: Reader, reference: str, scope: Scope) -> str:
    """The id of the conversation that a filter names.

    Raises:
        SearchFilterNotFound: there is none.
        RecordAmbiguous: several ids begin so.
    """
    row = find_row(
        reader,
        "SELECT conversations.id, conversations.number FROM "
        "(SELECT * FROM conversations WHERE hidden IS NULL) AS conversations",
        reference,
        scope,
        word="conversation",
        ambiguous=RecordAmbiguous,
        table="conversations.",
        numbered=True,
    )
    if row is None:
        raise SearchFilterNotFound(
            f'cannot search: conversation "{reference}" not found', details={"conversation": reference}
        )
    return str(row[0])
