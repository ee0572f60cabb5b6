"""The public contract of the daemon itself: its records, commands and errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from msgspec import Meta, Raw, Struct, field
from nexus_protocol.codec import encode_command
from nexus_protocol.command import UNRECORDED, Command, Effect, Empty, FrozenStruct, Record, Repeat, command
from nexus_protocol.context import HeldLease, ProjectReference, ProjectRoot, Why
from nexus_protocol.errors import InvalidArgument, NotFound
from nexus_protocol.events import event
from nexus_protocol.frame import MAX_PAYLOAD

from nexus.records.events import written_event

__all__ = [
    "Backup",
    "BackupDatabase",
    "BackupFiles",
    "Batch",
    "BatchedCommand",
    "BatchResult",
    "Check",
    "CommandDescription",
    "Database",
    "DeleteSetting",
    "Describe",
    "Description",
    "GetSetting",
    "GetSystemStatus",
    "Health",
    "HealthReport",
    "Hello",
    "Ping",
    "Pong",
    "ListSettings",
    "Setting",
    "SettingInvalid",
    "SettingNotFound",
    "Settings",
    "SetSetting",
    "Shutdown",
    "SystemStatus",
    "Welcome",
]

event("setting.set", "A setting was given a value.", type="of the value: string, int, bool or json")
event("setting.deleted", "A setting was removed: it has its default again, if it has one.")
written_event("setting", "A setting")

SettingKey = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=128,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)",
        description="1 to 128 of A-Z a-z 0-9 . _ -, the first a letter or digit, such as journal.keep_days",
        extra={"metavar": "KEY", "completes": "setting"},
    ),
]


class SettingNotFound(NotFound):
    """The setting is not set and has no default."""

    type = "setting.not_found"


class SettingInvalid(InvalidArgument):
    """The value is not valid for this setting."""

    type = "setting.invalid"


class Pong(Record):
    """The bytes of the request."""

    payload: bytes = b""


@command(42, Effect.READ)
class Ping(Command[Pong]):
    """Return the same bytes."""

    payload: Annotated[bytes, Meta(max_length=65_000, description="any bytes, 65000 at most")] = b""


class Database(Record):
    """The current state of the database."""

    path: str
    table_count: int
    size_bytes: int
    schema_version: int
    journal_mode: str
    foreign_keys: bool
    tables: list[str]
    migrations: list[dict[str, Any]]
    """Each applied migration, oldest first: version, name and, if known, applied_at."""


class Check(Record):
    """The result of one check; ``status`` is ok, degraded or failing."""

    name: str
    status: str
    message: str


class HealthReport(Record):
    """The health of the daemon; ``status`` is the worst status of its checks."""

    status: str
    version: str
    checks: list[Check]
    database: Database | None = None
    """Absent when the store cannot be read; ``status`` is then failing."""


@command(43, Effect.READ)
class Health(Command[HealthReport]):
    """Check the health of the daemon and its database."""


class SystemStatus(Record):
    """The daemon's process and load."""

    pid: int
    version: str
    started_at: int
    uptime_ms: int
    memory_rss_bytes: int
    connections: int
    open_requests: int
    counts: dict[str, dict[str, int]]
    """For each capability whose records have states: the number of records in each state."""


@command(41, Effect.READ)
class GetSystemStatus(Command[SystemStatus]):
    """Report the daemon's process, its load and the number of its records."""


@command(40, Effect.ACT, repeat=Repeat.AGAIN, in_project=False)
class Shutdown(Command[Empty]):
    """Stop the daemon: it accepts no new requests, lets running requests finish, and exits with code 0."""


class CommandDescription(Record):
    """The description of one command, from its declaration."""

    code: int
    name: str
    doc: str
    request: dict[str, Any]
    """JSON Schema of the payload."""
    reply: dict[str, Any]
    """JSON Schema of the result."""
    streams: bool
    effect: Effect
    errors: list[str]
    """The types of the domain errors that it can return."""
    max_payload: int
    item: dict[str, Any] | None = None
    """JSON Schema of a stream's items."""
    repeat: Repeat | None = None
    """Of the effect ``act``: what a request does that repeats the key of one whose outcome is not known."""
    all_projects: bool = False
    """Whether the project in the context of a request may be ``*``."""


class Description(Record):
    """All commands, sorted by code."""

    commands: list[CommandDescription]


@command(44, Effect.READ)
class Describe(Command[Description]):
    """Describe every command: code, name, documentation, schemas and errors."""


class Welcome(Record):
    """The server's name and version, its protocol versions, limits and features."""

    server: str
    protocol_versions: list[int]
    limits: dict[str, int]
    features: list[str] = field(default_factory=list)
    """What a client may use only where it is listed: ``context``."""


@command(45, Effect.READ)
class Hello(Command[Welcome]):
    """Identify the client; the actor's name is recorded in every journal event that the connection causes.

    What it says holds until the next Hello of the connection.
    """

    client: Annotated[str, Meta(min_length=1, max_length=128, description="program and version")]
    actor: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=128,
                pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)",
                description="the name of the user or agent that the client acts for; no control characters",
            ),
        ]
        | None
    ) = None
    why: (
        Annotated[
            Why,
            Meta(
                description="why the requests of the connection are made, where their context says nothing; "
                "1 to 500 bytes in UTF-8, no control characters"
            ),
        ]
        | None
    ) = None
    project: (
        Annotated[
            ProjectReference | ProjectRoot,
            Meta(
                description="the project of the requests of the connection, where their context says nothing: an id, a "
                "name, or a map with the root of one"
            ),
        ]
        | None
    ) = None
    lease: (
        Annotated[
            HeldLease,
            Meta(description="the lease of the requests of the connection, where their context names no other"),
        ]
        | None
    ) = None


class Setting(Record):
    """One setting."""

    key: str
    value: Annotated[Any, UNRECORDED]
    type: str
    """string, int, bool or json."""
    is_set: bool
    """False when ``value`` is the default of a known setting."""
    default: Any = None
    """Present for a known setting only."""
    doc: str | None = None


class Settings(Record):
    """One page of settings, sorted by key, and the cursor of the next page."""

    settings: list[Setting]
    next_cursor: str | None = None


@command(46, Effect.READ, errors=(SettingNotFound,))
class GetSetting(Command[Setting]):
    """Get one setting; a known setting that is not set has its default."""

    key: SettingKey


@command(47, Effect.CHANGE, errors=(SettingInvalid,), max_payload=16 * 1024, in_project=False)
class SetSetting(Command[Setting]):
    """Set a setting. Text, integers and booleans keep their type; other values are stored as JSON."""

    key: SettingKey
    value: Annotated[Any, Meta(description="the value", extra={"metavar": "VALUE"}), UNRECORDED]


@command(48, Effect.READ, large_reply=True)
class ListSettings(Command[Settings]):
    """List all settings that are set or known, with defaults, sorted by key. A page ends at 1 MiB."""

    cursor: Annotated[str, Meta(max_length=128, description="next_cursor of the previous page")] | None = None


@command(49, Effect.CHANGE, errors=(SettingNotFound,), in_project=False)
class DeleteSetting(Command[Setting]):
    """Remove a setting and return it; a known setting has its default again."""

    key: SettingKey


class BackupFiles(Record):
    """The files of one kind that rows of the database refer to."""

    name: str
    """blobs, job-logs or service-logs."""
    count: int
    """How many blobs or logs are there."""
    size_bytes: int
    missing: int
    """How many are not there."""
    damaged: int
    """How many are there with another content, which is told where the backup has files."""


class Backup(Record):
    """A finished, verified backup of the database."""

    path: str
    size_bytes: int
    schema_version: int
    pruned: int
    """The number of older backups that were deleted."""
    with_files: bool = False
    """Whether the files are in the backup."""
    files: list[BackupFiles] = field(default_factory=list)
    """What is beside the database, in the backup or left out."""


@command(50, Effect.ACT, repeat=Repeat.REFUSE, in_project=False)
class BackupDatabase(Command[Backup]):
    """Back up the database while it is in use, and verify the backup.

    Without a path the backup goes to the backups folder of the state directory, and older backups made this way are
    deleted after ``keep_days``. The newest three of each kind, those with a time in the future, and the backups made
    before a migration are never deleted. A clock that is set forward makes no backup older while the machine runs.

    A backup with files is a compressed tar that also holds the blobs of messages and the output of jobs and services
    that the records refer to; a backup without them is a database, and its reply tells what it leaves out.
    """

    path: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=4096,
                pattern=r"^/[^\x00]*$",
                description="an absolute path that does not exist yet",
                extra={"metavar": "PATH"},
            ),
        ]
        | None
    ) = None
    keep_days: (
        Annotated[
            int,
            Meta(ge=1, le=36_500, description="how many days backups are kept (default: backup.keep_days)"),
        ]
        | None
    ) = None
    with_files: Annotated[
        bool, Meta(description="add the blobs of messages and the output of jobs and services, in one archive")
    ] = False


class BatchedCommand(Struct, metaclass=FrozenStruct, forbid_unknown_fields=True):
    """One command of a batch."""

    code: int
    """The command's code. Its effect is ``change``."""
    payload: Raw
    """The command's payload: a map."""


class BatchResult(Record):
    """What a batch has done."""

    results: list[Any]
    """The reply of each command, in their order."""


@command(54, Effect.CHANGE, max_payload=MAX_PAYLOAD)
class Batch(Command[BatchResult]):
    """Carry out several changes in one transaction: all of them, or none.

    Each command sees what the ones before it have changed. The first that fails ends the batch with its error, whose
    ``details.index`` is its place from 0. Each payload is within its own command's limit, and the replies together must
    fit into a frame (16 MiB); a batch whose replies do not changes nothing.
    """

    commands: Annotated[
        list[BatchedCommand], Meta(min_length=1, max_length=1000, description="commands with the effect change")
    ]

    @classmethod
    def of(cls, commands: Iterable[Command[Any]]) -> Batch:
        """Make a batch of these commands.

        Raises:
            InvalidArgument: a value cannot be encoded.
        """
        return cls([BatchedCommand(each.info.code, Raw(encode_command(each) or b"\x80")) for each in commands])
