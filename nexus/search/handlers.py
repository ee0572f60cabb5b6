"""The handlers of the search."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple, NoReturn

from nexus.capability import Context, handles
from nexus.hints import command_line
from nexus.records.errors import QueryInvalid
from nexus.records.fields import QUERY_CHARACTERS
from nexus.records.matching import Filter, Query, parse
from nexus.records.scope import qualified, scope_of
from nexus.search.commands import RebuildSearchIndex, Search
from nexus.search.errors import SearchTimedOut
from nexus.search.index import INDEX
from nexus.search.manager import SearchManager
from nexus.search.records import Hit, SearchIndexState, SearchResult
from nexus.search.snippets import Snippet, literal_snippet, snippet
from nexus.search.states import SearchKind, SearchOrder
from nexus.search.store import Conditions, Found, conversation_id, show
from nexus.store import Reader, ReadTimedOut
from nexus.store.fulltext import Words

__all__ = ["rebuild_search_index", "search"]

LIMIT_S = 2.0
"""How long a search may take. It is in a thread of its own, and holds up no other request than searches."""

_FILTERS: dict[str, Sequence[str]] = {
    "kind": [kind.value for kind in SearchKind],
    "role": ("user", "assistant", "system", "tool"),
    **dict.fromkeys(("after", "before", "project", "conversation", "node"), ()),
}
_OPEN = {
    SearchKind.CONVERSATION: ("conversation", "show"),
    SearchKind.MESSAGE: ("message", "show"),
    SearchKind.TOOL: ("message", "show"),
    SearchKind.THINKING: ("message", "show"),
    SearchKind.JOB: ("job", "inspect"),
    SearchKind.SERVICE: ("service", "status"),
    SearchKind.VM: ("vm", "inspect"),
    SearchKind.FEATURE: ("feature", "inspect"),
    SearchKind.TASK: ("task", "inspect"),
    SearchKind.REQUIREMENT: ("requirement", "inspect"),
    SearchKind.EPISODE: ("episode", "inspect"),
    SearchKind.CHUNK: ("chunk", "inspect"),
}


@handles(Search)
async def search(ctx: Context, command: Search) -> SearchResult:
    wanted: Words | str
    if command.literal:
        if len(command.query) > QUERY_CHARACTERS:
            raise QueryInvalid(
                f"cannot search: the text has {len(command.query)} characters, and {QUERY_CHARACTERS} at most are "
                "allowed",
                details={"path": "query"},
            )
        query = Query(Words(()), [])
        wanted = command.query
    else:
        query = parse(command.query, _FILTERS)
        wanted = query.words
    order = SearchOrder.TIME if command.literal else command.sort

    def read(reader: Reader) -> SearchResult:
        scope = ctx.scope(reader)
        home = None if scope.is_nowhere else scope.project_id
        conditions = _conditions(reader, ctx, query.filters)
        found = INDEX.query(reader, wanted, conditions, home=home, order=order, limit=command.limit + 1)
        shown = [each for one in found[: command.limit] if (each := show(reader, one)) is not None]
        hits = [_hit(each, wanted) for each in shown]
        return SearchResult(hits, len(found) > command.limit, INDEX.check(reader))

    try:
        return await ctx.store.scan(read, limit_s=LIMIT_S)
    except ReadTimedOut:
        raise SearchTimedOut(
            f"cannot search: it took longer than {LIMIT_S:g} s",
            hint="Give more words, or a filter such as kind:message or after:2026-01-01."
            if not command.literal
            else "Give a longer text with a whole word in it.",
        ) from None


def _hit(found: Found, wanted: Words | str) -> Hit:
    cut: Snippet
    if isinstance(wanted, str):
        cut = literal_snippet(found.text, wanted)
    else:
        cut = snippet(found.text, [term for group in wanted.all_of for term in group])
    name, reference = found.name, qualified(found.project, found.name)
    if found.kind is SearchKind.CHUNK:
        # A path has slashes as a reference has. The name is the line of the match.
        file, _, start = name.rpartition(":")
        line = int(start) + found.text.count("\n", 0, cut.at)
        name, reference = f"{file}:{line}", found.id
    return Hit(
        kind=found.kind,
        id=found.id,
        project_id=found.project_id,
        project=found.project,
        name=name,
        title=found.title,
        role=found.role,
        created_at=found.created_at,
        snippet=cut.text,
        highlights=[[start, end] for start, end in cut.highlights],
        open=command_line("nexusctl", *_OPEN[found.kind], reference),
    )


# Filters


class _Given(NamedTuple):
    """The one value of a filter, and where it is."""

    value: str
    at: int


def _conditions(reader: Reader, ctx: Context, filters: list[Filter]) -> Conditions:
    """Read the values of filters.

    Raises:
        QueryInvalid: one is malformed, or is given twice.
        ProjectNotFound, SearchFilterNotFound: one names what does not exist.
    """
    kinds = frozenset(SearchKind(each.value) for each in filters if each.key == "kind")
    roles = frozenset(each.value for each in filters if each.key == "role")
    single: dict[str, _Given] = {}
    for each in filters:
        if each.key in ("kind", "role"):
            continue
        if each.key in single:
            _refuse(each, f"the filter {each.key}: is given twice")
        single[each.key] = _Given(each.value, each.at)
    times = {key: _time(Filter(key, *single[key])) for key in ("after", "before") if key in single}
    project = single.get("project")
    scope = ctx.scope(reader) if project is None else scope_of(reader, project.value)
    conversation = single.get("conversation")
    node = single.get("node")
    return Conditions(
        kinds,
        roles,
        times.get("after"),
        times.get("before"),
        None if project is None else scope.project_id,
        None if conversation is None else conversation_id(reader, conversation.value, scope),
        None if node is None else node.value,
    )


def _time(each: Filter) -> int:
    """The milliseconds of a time, or of the beginning of a day; without a zone it is in UTC."""
    try:
        moment = datetime.fromisoformat(each.value)
    except ValueError:
        _refuse(each, f'"{each.value}" is no day and no time, such as 2026-01-31 or 2026-01-31T09:30')
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def _refuse(each: Filter, problem: str) -> NoReturn:
    raise QueryInvalid(f"cannot search: {problem} (character {each.at})", details={"path": "query", "at": each.at})


# The index


@handles(RebuildSearchIndex)
async def rebuild_search_index(ctx: Context, _command: RebuildSearchIndex) -> SearchIndexState:
    return SearchIndexState(await ctx.daemon.manager(SearchManager).rebuild())
