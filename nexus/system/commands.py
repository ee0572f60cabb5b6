"""The public contract of the daemon itself."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta
from nexus_protocol.command import Command, Empty, Record, command
from nexus_protocol.errors import InvalidArgument, NotFound

__all__ = [
    "Backup",
    "BackupDatabase",
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
    """Nothing is set under this key, and no default is known."""

    type = "setting.not_found"


class SettingInvalid(InvalidArgument):
    """A known setting does not take this value."""

    type = "setting.invalid"


class Pong(Record):
    """What was sent."""

    payload: bytes = b""


@command(42)
class Ping(Command[Pong]):
    """Answer with the same bytes."""

    payload: Annotated[bytes, Meta(max_length=65_000, description="any bytes, 65000 at most")] = b""


class Database(Record):
    """The database as it is now."""

    path: str
    table_count: int
    size_bytes: int
    schema_version: int
    journal_mode: str
    foreign_keys: bool
    tables: list[str]
    migrations: list[dict[str, Any]]
    """version, name and, where known, applied_at of each migration, oldest first."""


class Check(Record):
    """One thing that was looked at: status ok, degraded or failing."""

    name: str
    status: str
    message: str


class HealthReport(Record):
    """How the daemon is: the worst of its checks."""

    status: str
    version: str
    checks: list[Check]
    database: Database | None = None
    """Absent when the store cannot be read; the status is then failing."""


@command(43)
class Health(Command[HealthReport]):
    """Tell whether the daemon and its database are well."""


class SystemStatus(Record):
    """What the daemon is doing."""

    pid: int
    version: str
    started_at: int
    uptime_ms: int
    memory_rss_bytes: int
    connections: int
    open_requests: int
    counts: dict[str, dict[str, int]]
    """For every capability that has things with states: how many are in each."""


@command(41)
class GetSystemStatus(Command[SystemStatus]):
    """Tell what the daemon is doing: its process, its load, and how many things it keeps."""


@command(40)
class Shutdown(Command[Empty]):
    """Stop the daemon: it takes no new work, lets requests finish, and exits 0."""


class CommandDescription(Record):
    """One command, described from its declaration."""

    code: int
    name: str
    doc: str
    request: dict[str, Any]
    """JSON Schema of the payload."""
    reply: dict[str, Any]
    """JSON Schema of the result."""
    streams: bool
    errors: list[str]
    """Types of the domain errors that it can answer with."""
    max_payload: int
    item: dict[str, Any] | None = None
    """JSON Schema of a stream's elements."""


class Description(Record):
    """All commands, by code."""

    commands: list[CommandDescription]


@command(44)
class Describe(Command[Description]):
    """Describe every command: code, name, documentation, schemas and errors."""


class Welcome(Record):
    """Who answers, and within which limits."""

    server: str
    protocol_versions: list[int]
    limits: dict[str, int]


@command(45)
class Hello(Command[Welcome]):
    """Say who is calling; the actor's name stands on every journal entry that the connection causes."""

    client: Annotated[str, Meta(min_length=1, max_length=128, description="program and version")]
    actor: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=128,
                pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)",
                description="on whose behalf, such as an agent's name; no control characters",
            ),
        ]
        | None
    ) = None


class Setting(Record):
    """One setting."""

    key: str
    value: Any
    type: str
    """string, int, bool or json."""
    is_set: bool
    """False for the default of a known setting that was never set."""
    default: Any = None
    """Only for a known setting."""
    doc: str | None = None


class Settings(Record):
    """Settings, by key, and the cursor for those that follow."""

    settings: list[Setting]
    next_cursor: str | None = None


@command(46, errors=(SettingNotFound,))
class GetSetting(Command[Setting]):
    """Get one setting; a known one that was never set has its default."""

    key: SettingKey


@command(47, errors=(SettingInvalid,), max_payload=16 * 1024)
class SetSetting(Command[Setting]):
    """Set a setting. Text, whole numbers and booleans keep their type; anything else is kept as JSON."""

    key: SettingKey
    value: Annotated[Any, Meta(description="the value", extra={"metavar": "VALUE"})]


@command(48, large_reply=True)
class ListSettings(Command[Settings]):
    """List what is set and every known setting with its default, by key. A page ends at 1 MiB."""

    cursor: Annotated[str, Meta(max_length=128, description="where the page before this one ended")] | None = None


@command(49, errors=(SettingNotFound,))
class DeleteSetting(Command[Setting]):
    """Remove a setting, so that a known one has its default again; gives what was removed."""

    key: SettingKey


class Backup(Record):
    """A finished, verified copy of the database."""

    path: str
    size_bytes: int
    schema_version: int
    pruned: int
    """How many older copies were deleted."""


@command(50)
class BackupDatabase(Command[Backup]):
    """Copy the database while it is in use, and verify the copy.

    Without a path the copy goes to the backups folder of the state directory, where copies of that kind that are
    older than ``keep_days`` are deleted, though never the newest and never what a migration kept.
    """

    path: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=4096,
                pattern=r"^/[^\x00]*$",
                description="an absolute path that is not there yet",
                extra={"metavar": "PATH"},
            ),
        ]
        | None
    ) = None
    keep_days: Annotated[int, Meta(ge=1, le=36_500, description="how many days copies are kept")] = 30
