"""The public contract of the journal: the event, the command to watch events, and the errors of a cursor."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta
from nexus_protocol.command import Effect, Record, StreamCommand, command
from nexus_protocol.errors import FailedPrecondition

__all__ = ["Event", "JournalAhead", "JournalPruned", "WatchEvents", "WatchEventsResult"]


class JournalPruned(FailedPrecondition):
    """The events after this number were pruned; ``details.oldest_seq`` is the oldest event that is kept."""

    type = "journal.pruned"


class JournalAhead(FailedPrecondition):
    """No event has this number yet; ``details.newest_seq`` is the newest."""

    type = "journal.ahead"


class Event(Record):
    """One committed change. With ``seq`` alone it reports progress: no event up to this number matched."""

    seq: int
    at: int | None = None
    kind: str | None = None
    """The kind of change, such as ``vm.created``."""
    subject_kind: str | None = None
    subject_id: str | None = None
    subject_name: str | None = None
    actor: str | None = None
    """The name that the client gave itself."""
    uid: int | None = None
    pid: int | None = None
    detail: dict[str, Any] | None = None


class WatchEventsResult(Record):
    """Where the stream ended: all matching events up to ``seq`` have been sent."""

    seq: int


@command(51, Effect.READ, errors=(JournalPruned, JournalAhead))
class WatchEvents(StreamCommand[Event, WatchEventsResult]):
    """Stream past and new events: each committed change once, in commit order.

    The numbers increase, but may have gaps. To resume, pass the last ``seq`` received as ``after``. When the daemon
    stops, the stream ends with ``unavailable``, and ``details.resume_after`` is the number to resume after.
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
        Annotated[str, Meta(min_length=1, max_length=255, description="only events of the record with this id or name")]
        | None
    ) = None
    follow: Annotated[bool, Meta(description="continue with new events")] = True
