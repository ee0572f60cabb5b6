"""The public contract of the journal: the event, the command to watch events, and the errors of a cursor."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field
from nexus_protocol.command import Command, Effect, Record, StreamCommand, command
from nexus_protocol.errors import FailedPrecondition, InvalidArgument, NotFound
from nexus_protocol.events import cause, event

from nexus.records.fields import Cursor, PageLimit

__all__ = [
    "BeginOperation",
    "Change",
    "Event",
    "GetOperation",
    "JournalAhead",
    "JournalPruned",
    "ListOperations",
    "Operation",
    "OperationBegun",
    "OperationCursorInvalid",
    "OperationDetail",
    "OperationNotFound",
    "OperationPage",
    "WatchEvents",
    "WatchEventsResult",
]

event(
    "schema.migrated",
    "A program migrated the schema of the database. Images of older events do not tell what it did to the rows.",
    **{"from": "the version before", "to": "the version after"},
)
event("database.restored", "A backup was restored: the events that followed its last one are lost.")

cause("adopted", "The daemon started, and found what an earlier one had begun.")
cause("autostart", "The daemon started what is declared to start with it.")
cause("health.failed", "A health check failed.")
cause("process.exited", "A process ended by itself.")
cause("retention", "Events became older than the setting journal.keep_days.")
cause("start.failed", "A start failed, and is tried again.")


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
    operation: int | None = None
    """What it belongs to; absent in events of a database that is older than operations are."""
    why: str | None = None
    """Why the client made the request that led to it, in its words."""
    revision: int | None = None
    """The revision of the record after the change."""
    project_id: str | None = None
    """Of what it is about; absent in events from before projects, and of what is in none, such as a setting."""
    project: str | None = None
    """The present name of that project; absent once it is deleted."""


class WatchEventsResult(Record):
    """Where the stream ended: all matching events up to ``seq`` have been sent."""

    seq: int


@command(51, Effect.READ, errors=(JournalPruned, JournalAhead), all_projects=True)
class WatchEvents(StreamCommand[Event, WatchEventsResult]):
    """Stream past and new events: each committed change once, in commit order.

    Where the request names a project, only the events of that one; otherwise those of all.

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
            Meta(
                max_length=32,
                description="only these kinds; * and ? are wildcards; kinds that end with .written are given only if "
                "a pattern does as well",
                extra={"option": "--kind"},
            ),
        ]
        | None
    ) = None
    subject: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=255,
                description="only events of the record with this id or name, or PROJECT/NAME",
            ),
        ]
        | None
    ) = None
    follow: Annotated[bool, Meta(description="continue with new events")] = True


class OperationNotFound(NotFound):
    """There is no such operation, or it was pruned."""

    type = "operation.not_found"


class OperationCursorInvalid(InvalidArgument):
    """The cursor belongs to another list."""

    type = "operation.cursor_invalid"


class Operation(Record):
    """A request that had an effect or a key, or a cause of the daemon's own, with what it led to."""

    id: int
    """Grows, with gaps."""
    at: int
    command: str
    """The name of a command, a cause such as ``process.exited``, or what BeginOperation was given."""
    uid: int
    pid: int
    actor: str | None = None
    """The name that the client gave itself."""
    args: dict[str, Any] = field(default_factory=dict)
    """The fields of the request. Secrets are left out; what is large is replaced by ``{"size_bytes": …}``."""
    why: str | None = None
    key: str | None = None
    cause: int | None = None
    """The operation that led to this one."""
    subjects: list[str] = field(default_factory=list)
    """Names of the records that its first fifty events are about, ten at most; without events, those of its parts."""
    project_id: str | None = None
    """Of what it changed first, else the one that the request named."""
    project: str | None = None
    """The present name of that project; absent once it is deleted."""
    lease_id: str | None = None
    """The lease that the request was made under."""
    epoch: int | None = None
    """The epoch of that lease."""


class Change(Record):
    """An event of an operation, with what it changed."""

    seq: int
    at: int
    kind: str
    subject_kind: str
    subject_id: str
    subject_name: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    table: str | None = None
    """The table of the row that was written; absent where an event changed none, or has no image."""
    key: str | None = None
    """The key of the row."""
    revision: int | None = None
    before: dict[str, Any] | None = None
    """The changed columns as they were; of a row that was deleted all that were set. Absent for a new row."""
    after: dict[str, Any] | None = None
    secret: list[str] = field(default_factory=list)
    """Columns that hold secrets and changed; the images are without them."""


class OperationDetail(Record):
    """One operation, with what led to it and what it led to."""

    operation: Operation
    changes: list[Change]
    """Its events, oldest first."""
    cause: Operation | None = None
    caused: list[Operation] = field(default_factory=list)
    """The first hundred that it led to, oldest first."""
    next_cursor: str | None = None
    """Where its further events begin."""


class OperationPage(Record):
    """A page of operations, the newest first."""

    operations: list[Operation]
    next_cursor: str | None = None


@command(55, Effect.READ, errors=(OperationNotFound, OperationCursorInvalid))
class GetOperation(Command[OperationDetail]):
    """Get one operation: what it changed, column by column, what led to it and what it led to."""

    id: Annotated[int, Meta(ge=1, le=2**63 - 1, description="its number", extra={"metavar": "ID"})]
    limit: PageLimit = 100
    cursor: Cursor | None = None


@command(56, Effect.READ, errors=(OperationCursorInvalid,), large_reply=True, all_projects=True)
class ListOperations(Command[OperationPage]):
    """List operations, newest first; the filters are combined with "and".

    Where the request names a project, only the operations of that one; otherwise those of all.

    An operation that is a part of another, which BeginOperation began, is given only with ``parts``, or where
    ``command`` or ``subject`` select it. A page looks at no more than 5,000 operations: it may be empty and have a
    ``next_cursor``.
    """

    actor: Annotated[str, Meta(min_length=1, max_length=128, description="only those of this actor")] | None = None
    command: (
        Annotated[
            str, Meta(min_length=1, max_length=64, description="only this command or cause; * and ? are wildcards")
        ]
        | None
    ) = None
    subject: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=255,
                description="only those about the record with this id or name, or PROJECT/NAME",
            ),
        ]
        | None
    ) = None
    since_at: (
        Annotated[
            int,
            Meta(ge=0, le=2**53, description="only those begun at this time or later", extra={"option": "--since"}),
        ]
        | None
    ) = None
    parts: Annotated[bool, Meta(description="also those that are a part of another")] = False
    limit: PageLimit = 100
    cursor: Cursor | None = None


class OperationBegun(Record):
    """The number of the operation that was begun."""

    operation: int


@command(57, Effect.CHANGE, in_project=False)
class BeginOperation(Command[OperationBegun]):
    """Begin an operation that is made of several requests: those whose context has its number as ``cause``.

    It has no change of its own, and need not be ended. It is of the project of its first part that is of one.
    GetOperation gives its parts, the first hundred.
    """

    command: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=64,
            pattern=r"^[A-Za-z][A-Za-z0-9._-]*$(?!\n)",
            description="what is done, such as apply: 1 to 64 of A-Z a-z 0-9 . _ -, the first a letter; not the name "
            "of a command or of a cause",
        ),
    ]
    args: Annotated[
        dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=1024)] | int | bool],
        Meta(max_length=32, description="with what: text of 1024 characters at most, whole numbers and booleans"),
    ] = field(default_factory=dict)
