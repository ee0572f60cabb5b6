"""Operations: the requests and the causes of the daemon's own that every change is attributed to."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple

import msgspec
from nexus_protocol.command import unrecorded_fields
from nexus_protocol.context import HeldLease, ProjectRoot
from nexus_protocol.errors import InvalidArgument

from nexus.caller import Caller
from nexus.records.errors import ProjectNotFound
from nexus.records.leases import accepted, check_lease
from nexus.records.scope import scope_of
from nexus.store import Reader, Transaction

__all__ = [
    "ARGS_BYTES",
    "KEY_KEPT_MS",
    "Operation",
    "RequestKey",
    "args_of",
    "encode_args",
    "require_operation",
    "resumed",
]

ARGS_BYTES = 4096
"""Of the arguments of one operation; above it the largest are replaced by their size."""
KEY_KEPT_MS = 7 * 24 * 60 * 60 * 1000
"""How long the key of a request is remembered."""

_encode = msgspec.msgpack.Encoder().encode


class RequestKey(NamedTuple):
    """The key that a client gave its request."""

    text: str
    content: Callable[[Reader], bytes]
    """The canonical encoding of the request, which an equal request has as well, with the id of its project."""
    found: bytes | None = None
    """The content as it was before the request changed anything: it may rename or delete the project that it names."""

    def encoded(self, reader: Reader) -> bytes:
        """The content that the request began with."""
        return self.content(reader) if self.found is None else self.found


class Operation:
    """A request, or a cause of the daemon's own, that changes something.

    It has no row until its first change, so that a request which is refused or changes nothing has none. The number is
    its own from the moment that a transaction needs it, whatever becomes of that transaction. ``command`` is the name
    of a command or of a declared cause; ``args`` are its fields, or a function that gives them. ``project`` is what the
    request names; without it the operation is of the project of what it changes first. ``cause`` is another operation,
    or the number of one that is written. ``lease`` is what the request presents: its first change is refused where that
    is not live.
    """

    __slots__ = ("args", "caller", "cause", "command", "id", "key", "lease", "needs_lease", "project", "why", "written")

    def __init__(
        self,
        caller: Caller,
        command: str,
        args: Callable[[], Mapping[str, Any]] | Mapping[str, Any] | None = None,
        *,
        why: str | None = None,
        key: RequestKey | None = None,
        project: str | ProjectRoot | None = None,
        cause: Operation | int | None = None,
        lease: HeldLease | None = None,
    ) -> None:
        self.caller = caller
        self.command = command
        self.args = args
        self.why = why
        self.key = key
        self.project = project
        self.cause = cause
        self.lease = lease
        self.needs_lease = True
        """Whether its first change is refused where the lease is not live; not of what has happened already."""
        self.id: int | None = None
        self.written = False
        """Whether its row is durable."""

    def enter(self, tx: Transaction, project_id: str | None = None) -> int:
        """Make sure that its row is in the database once ``tx`` is committed; returns its id.

        ``project_id`` is the project of what the operation changes.

        Raises:
            LeaseStale: it is the first change, and the lease of the request is not live.
        """
        if self.id is not None and (self.written or tx.operation == self.id):
            return self.id
        if self.id is None:
            self.id = tx.operation_number()
        args = self.args() if callable(self.args) else self.args
        if project_id is None and self.project is not None:
            with contextlib.suppress(ProjectNotFound):  # it was deleted since the request began
                project_id = scope_of(tx, self.project).project_id
        cause = self.cause
        if isinstance(cause, Operation):
            cause = cause.id if cause.written else None
        elif cause is not None and project_id is not None:
            # What is made of parts is of the project of the first of them that is of one.
            tx.execute("UPDATE operation SET project_id = ? WHERE id = ? AND project_id IS NULL", (project_id, cause))
        inserted = tx.execute(
            "INSERT INTO operation (id, at, command, args, project_id, why, key, cause, actor, uid, pid, "
            "lease_id, epoch) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
            (
                self.id,
                tx.now,
                self.command,
                encode_args(args) if args else None,
                project_id,
                self.why,
                None if self.key is None else self.key.text,
                cause,
                self.caller.actor,
                self.caller.uid,
                self.caller.pid,
                None if self.lease is None else self.lease.id,
                None if self.lease is None else self.lease.epoch,
            ),
        )
        is_under_lease = inserted and self.lease is not None and self.needs_lease
        if is_under_lease and self.lease is not None:
            check_lease(tx, self.lease)
        if inserted and self.key is not None:
            tx.execute(
                "INSERT INTO request_key (key, digest, operation_id, state, expires_at) "
                "VALUES (?, ?, ?, 'open', ?) ON CONFLICT (key) DO NOTHING",
                (self.key.text, tx.digest(self.key.encoded(tx)), self.id, tx.now + KEY_KEPT_MS),
            )
        # Also where the row is there: an earlier write whose outcome was unknown may have been kept.
        tx.on_commit(self._note_written)
        tx.operation = self.id
        if is_under_lease and self.lease is not None:
            accepted(tx, self, self.lease)
        return self.id

    def _note_written(self) -> None:
        self.written = True


def require_operation(reader: Reader, id_: int) -> None:
    """Refuse the number of an operation in the context of a request if there is none.

    Raises:
        InvalidArgument: there is no such operation, or it was pruned.
    """
    if reader.one("SELECT 1 FROM operation WHERE id = ?", (id_,)) is None:
        raise InvalidArgument(
            f"cannot accept context.cause: operation {id_} not found", details={"path": "context.cause"}
        )


def resumed(reader: Reader, caller: Caller, id_: int | None, cause: str) -> Operation:
    """The operation with this id, which an earlier daemon began, with the client of that time.

    Where there is none, because the database is older than operations are, a new one of the daemon's own: ``cause``.
    """
    row = None
    if id_ is not None:
        row = reader.one("SELECT command, why, actor, uid, pid FROM operation WHERE id = ?", (id_,))
    if row is None:
        return Operation(caller, cause)
    operation = Operation(Caller(row[3], row[4], row[2]), row[0], why=row[1])
    operation.id, operation.written = id_, True
    return operation


def args_of(command: msgspec.Struct) -> dict[str, Any]:
    """The fields of a command that are given and hold no secret."""
    found: dict[str, Any] = {}
    for name, default in _recorded_fields(type(command)):
        value = getattr(command, name)
        if value is not None and value != default:
            found[name] = value.value if isinstance(value, Enum) else value
    return found


@functools.cache
def _recorded_fields(command: type[msgspec.Struct]) -> list[tuple[str, Any]]:
    """The fields of a command that hold no secret, with their defaults."""
    hidden = unrecorded_fields(command)
    return [(field.name, field.default) for field in msgspec.structs.fields(command) if field.name not in hidden]


def encode_args(args: Mapping[str, Any]) -> bytes:
    """Encode arguments as MessagePack, in at most ``ARGS_BYTES``.

    Above that the largest are replaced, one after the other, by maps with their size: ``{"size_bytes": 70000}``.
    """
    encoded = _encode(args)
    if len(encoded) <= ARGS_BYTES:
        return encoded
    shown = dict(args)
    for name, size in sorted(((name, len(_encode(value))) for name, value in args.items()), key=lambda each: -each[1]):
        shown[name] = {"size_bytes": size}
        encoded = _encode(shown)
        if len(encoded) <= ARGS_BYTES:
            break
    return encoded
