"""The commands of the search."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from nexus_protocol.command import Command, Effect, Repeat, command

from nexus.records.errors import QueryInvalid
from nexus.search.errors import SearchFilterNotFound, SearchTimedOut
from nexus.search.records import SearchIndexState, SearchResult
from nexus.search.states import SearchOrder

__all__ = ["RebuildSearchIndex", "Search"]


@command(
    0x0600,
    Effect.READ,
    errors=(QueryInvalid, SearchFilterNotFound, SearchTimedOut),
    large_reply=True,
    all_projects=True,
    max_payload=2 * 1024 * 1024,  # so that a query which is far too long is refused with its length
)
class Search(Command[SearchResult]):
    """Search messages, tool calls, jobs, features, tasks, requirements, episodes, code, services, VMs and titles.

    It looks in all projects. A query has words, all of which must be there. ``"a phrase"`` has its words side by
    side, ``foo*`` is the beginning of a word, ``-word`` must not be there, and ``a OR b`` needs one of the two.
    Filters are ``kind:``, ``role:``, ``after:``, ``before:``, ``project:``, ``conversation:`` and ``node:``; days and
    times are in UTC. Case and accents make no difference, and an identifier is also found by the words in it. What is
    in the project of the request comes first. A message that a client is appending to is found once it is complete,
    or was idle for two seconds.
    """

    query: Annotated[str, Meta(min_length=1, description="what to search for", extra={"metavar": "QUERY"})]
    literal: Annotated[
        bool, Meta(description="find the query as it stands, also within words, newest first; it has no filters")
    ] = False
    sort: Annotated[SearchOrder, Meta(description="the best first, or the newest")] = SearchOrder.RANK
    limit: Annotated[int, Meta(ge=1, le=1000, description="how many hits at most, 1 to 1000")] = 20


@command(0x0601, Effect.ACT, errors=(), repeat=Repeat.AGAIN, in_project=False)
class RebuildSearchIndex(Command[SearchIndexState]):
    """Make the search index again from all texts, in small steps beside other requests.

    Until the reply searches find a part of the texts only. A daemon that ends before goes on at its next start.
    """
