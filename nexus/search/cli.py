"""``nexusctl search``: prints hits with their snippets, and the command line that shows each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nexus.cli.output import Printer, colour_wanted, format_time, hint, painted, printable
from nexus.cli.verbs import Values, verb
from nexus.search.commands import Search
from nexus.search.records import Hit, SearchResult

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["search"]

_COLOUR = "yellow"
_TITLE = 60

_HELP = """Search messages, tool calls, jobs, tasks, episodes, code and the rest, in all projects.

All words must be there; "a phrase" has its words side by side, foo* is the beginning of a word, -word must not be
there, and a OR b needs one of the two. Quote the query for the shell:

\b
    nexusctl search 'deploy "out of memory" -staging'
    nexusctl search 'getUser* role:user after:2026-01-01'

Filters: kind: (conversation, message, tool, thinking, job, service, vm, feature, task, requirement, episode, chunk),
role:, after:, before:, project:, conversation:, node:. Days and times are in UTC. Case and accents make no difference.
Hits of this project come first; with -A all projects count alike.
"""


def _run(app: App, values: Values, out: Printer) -> None:
    query = " ".join(values.every("query", str))
    if not query:
        raise click.UsageError("give something to search for")
    result = app.fetch(values.build(Search, query=query))
    hits = result.rows(SearchResult.hits)
    if out.for_person and hits:
        for index, hit in enumerate(hits.records):
            click.echo("\n" * (index > 0), nl=False)
            _print(hit)
    else:
        out.many(hits, (), name=_reference, nothing="No hits found.")
    if result.record.more:
        hint(f"There are more than these {len(hits)}: --limit has more of them.")
    if result.record.behind is not None:
        hint(
            f"The search index does not have all texts at present: {result.record.behind}.\n"
            "Rebuild it: nexusctl db reindex"
        )


def _reference(hit: Hit) -> str:
    return f"{hit.project}/{hit.name}"


def _print(hit: Hit) -> None:
    title = printable(hit.title or "")
    title = title if len(title) <= _TITLE else title[: _TITLE - 1] + "…"
    name = hit.name if hit.project == "default" else _reference(hit)
    words = [hit.kind, name, hit.role, format_time(hit.created_at), title]
    click.echo(printable("  ".join(word for word in words if word)))
    click.echo(f"    {_highlighted(hit)}")
    click.echo(f"    {printable(hit.open)}")


def _highlighted(hit: Hit) -> str:
    """The snippet, with its matches in a colour where colours are wanted."""
    if not colour_wanted():
        return printable(hit.snippet)
    pieces: list[str] = []
    at = 0
    for start, end in hit.highlights:
        pieces += [printable(hit.snippet[at:start]), painted(hit.snippet[start:end], _COLOUR)]
        at = end
    return "".join(pieces) + printable(hit.snippet[at:])


def _make() -> click.Command:
    query = click.Argument(["query"], nargs=-1, metavar="QUERY")
    built = verb(Search, _run, parameters=[query], exclude=("query",), help=_HELP)
    built.name = "search"
    return built


search = _make()
