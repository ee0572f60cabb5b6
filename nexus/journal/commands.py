"""The public contract of the journal: the event, how to watch events, and the errors of a cursor."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta
from nexus_protocol.command import Record, StreamCommand, command
from nexus_protocol.errors import FailedPrecondition

__all__ = ["Event", "JournalAhead", "JournalPruned", "WatchEvents", "WatchEventsResult"]


class JournalPruned(FailedPrecondition):
    """The events after this number are no longer kept; ``details.oldest_seq`` is the oldest that is."""

    type = "journal.pruned"


class JournalAhead(FailedPrecondition):
    """No event has this number yet; ``details.newest_seq`` is the newest."""

    type = "journal.ahead"


class Event(Record):
    """One thing that happened. With ``seq`` alone it is progress: nothing up to there was of interest."""

    seq: int
    at: int | None = None
    kind: str | None = None
    """What happened, such as ``vm.created``."""
    subject_kind: str | None = None
    subject_id: str | None = None
    subject_name: str | None = None
    actor: str | None = None
    """The name that the client gave itself."""
    uid: int | None = None
    pid: int | None = None
    detail: dict[str, Any] | None = None


class WatchEventsResult(Record):
    """Where the stream ended: what was asked for up to ``seq`` has been sent."""

    seq: int


@command(51, errors=(JournalPruned, JournalAhead))
class WatchEvents(StreamCommand[Event, WatchEventsResult]):
    """Stream what happened and what happens, each committed change once and in commit order.

    Numbers only grow, but may skip. To resume, give the last ``seq`` that was received as ``after``. When the
    daemon stops, the stream ends with ``unavailable``, and ``details.resume_after`` says where to go on.
    """

    after: (
        Annotated[
            int, Meta(ge=0, le=2**63 - 1, description="only events after this number; by default from the oldest kept")
        ]
        | None
    ) = None
    kinds: (
        Annotated[
            list[Annotated[str, Meta(min_length=1, max_length=64)]],
            Meta(max_length=32, description="only these kinds; * and ? are wildcards", extra={"option": "--kind"}),
        ]
        | None
    ) = None
    subject: (
        Annotated[str, Meta(min_length=1, max_length=255, description="only of the thing with this id or name")] | None
    ) = None
    follow: Annotated[bool, Meta(description="go on with what happens from now on")] = True
