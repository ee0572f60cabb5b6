"""The keys of requests: a request that is repeated under its key has one effect.

A ``change`` writes its key with its effect, in one transaction, so that a repetition finds the reply. An ``act`` has
its key ``open`` until it has succeeded, from its first durable write, or from before it acts where its command is not
to be carried out twice: a repetition waits for it while it is at work, and after a restart of the daemon is carried out
again or refused, as its command declares. Errors are not remembered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import msgspec
from nexus_protocol import Conflict, FailedPrecondition, Unavailable, encode_record
from nexus_protocol.command import CommandInfo, Repeat, unrecorded_fields
from nexus_protocol.context import ProjectRoot

from nexus.hints import command_line
from nexus.journal.operation import KEY_KEPT_MS, Operation, RequestKey
from nexus.journal.rows import unheld_operation
from nexus.records.scope import scope_of
from nexus.store import Reader, StateStore, StoreError, Transaction

__all__ = [
    "OpenRequests",
    "RequestKeyReused",
    "RequestOutcomeUnknown",
    "RequestReplyGone",
    "canonical",
    "has_secrets",
    "prune",
    "request_key",
    "under_key",
]

T = TypeVar("T")

REPLY_BYTES = 1024 * 1024
"""Of the reply that is kept for a key."""

canonical = msgspec.msgpack.Encoder(order="deterministic").encode
"""Encodes equal values to equal bytes."""


class RequestKeyReused(Conflict):
    """Another request has this key; ``details.operation`` is what it did."""

    type = "request.key_reused"


class RequestReplyGone(FailedPrecondition):
    """The request was carried out, but its reply was not kept: it is large or has secrets."""

    type = "request.reply_gone"


class RequestOutcomeUnknown(Unavailable):
    """The request began and may not have ended; it is not of a kind that is carried out twice."""

    type = "request.outcome_unknown"


def request_key(text: str, info: CommandInfo, command: Any, project: str | ProjectRoot | None) -> RequestKey:
    """The key of a request; equal commands are equal in every field, however they were encoded."""

    def content(reader: Reader) -> bytes:
        return canonical([info.code, scope_of(reader, project).project_id if info.in_project else None, command])

    return RequestKey(text, content)


# In one transaction


def under_key(
    tx: Transaction,
    operation: Operation,
    change: Callable[[], T],
    is_secret: Callable[[Any], bool] | None = None,
) -> tuple[T | msgspec.Raw, bool]:
    """Carry out the change of a request under its key, if it has one and was not carried out before.

    Returns the reply, and whether it is that of an earlier request, encoded. A reply that ``is_secret`` is not kept;
    by default one that ``has_secrets``.

    Raises:
        RequestKeyReused, RequestReplyGone, RequestOutcomeUnknown: as they say.
    """
    key = operation.key
    if key is None:
        return change(), False
    # Of this transaction alone: where it is made once more, a project may have been renamed before it.
    content = key.content(tx)
    operation.key = key._replace(found=content)
    kept = _kept(tx, key, tx.digest(content))
    if kept is not None:
        return kept, True
    reply = change()
    finish(tx, operation, reply, secret=(is_secret or has_secrets)(reply))
    return reply, False


def finish(tx: Transaction, operation: Operation, reply: Any, *, secret: bool) -> None:
    """Write that the request under this operation's key has succeeded, with its reply as far as that is kept."""
    assert operation.key is not None
    id_ = operation.enter(tx)
    encoded: bytes | None = None
    if not secret:
        encoded = encode_record(reply)
        if len(encoded) > REPLY_BYTES:
            encoded = None
    tx.execute(
        "INSERT INTO request_key (key, digest, operation_id, state, reply, expires_at) VALUES (?, ?, ?, 'done', ?, ?) "
        "ON CONFLICT (key) DO UPDATE SET state = excluded.state, reply = excluded.reply, "
        "operation_id = excluded.operation_id, expires_at = excluded.expires_at "
        "WHERE request_key.digest = excluded.digest",
        (operation.key.text, tx.digest(operation.key.encoded(tx)), id_, encoded, tx.now + KEY_KEPT_MS),
    )


def _kept(reader: Reader, key: RequestKey, digest: bytes, *, repeat: Repeat | None = None) -> msgspec.Raw | None:
    """The reply of an equal request; None where it is to be carried out."""
    row = reader.one("SELECT digest, operation_id, state, reply FROM request_key WHERE key = ?", (key.text,))
    if row is None:
        return None
    known, operation, state, reply = row
    details = {"key": key.text, "operation": operation}
    look = f"See what it did: {command_line('nexusctl', 'op', 'show', operation)}"
    if known != digest:
        raise RequestKeyReused(
            f'cannot carry out the request: another request had the key "{key.text}"',
            hint=f"Give this one a key of its own.\n{look}",
            details=details,
        )
    if state == "open":
        if repeat is Repeat.AGAIN:
            return None
        raise RequestOutcomeUnknown(
            f'cannot tell how the request with the key "{key.text}" ended: it was cancelled, or the daemon ended first',
            hint=f"{look}\nThen give the request another key, if it is still to be carried out.",
            details=details,
        )
    if reply is None:
        raise RequestReplyGone(
            f'the request with the key "{key.text}" was carried out before; its reply was not kept',
            hint=look,
            details=details,
        )
    return msgspec.Raw(reply)


def has_secrets(value: Any) -> bool:
    """Whether a reply has a value in a field that stays out of the history."""
    if isinstance(value, msgspec.Struct):
        hidden = unrecorded_fields(type(value))
        return any(
            getattr(value, name) not in (None, [], {}) if name in hidden else has_secrets(getattr(value, name))
            for name in value.__struct_fields__
        )
    if isinstance(value, list):
        return any(map(has_secrets, value))
    return isinstance(value, msgspec.Raw)


def prune(tx: Transaction, now_ms: int, limit: int) -> int:
    """Delete at most ``limit`` keys that are no longer remembered; returns how many."""
    rows = tx.all("SELECT key FROM request_key WHERE expires_at < ? ORDER BY expires_at LIMIT ?", (now_ms, limit))
    for row in rows:
        tx.execute("DELETE FROM request_key WHERE key = ?", row)
    return len(rows)


# Requests at work


class OpenRequests:
    """The requests with keys that a daemon is carrying out."""

    def __init__(self) -> None:
        self._acts: dict[str, tuple[bytes, asyncio.Future[Any]]] = {}
        """By key: the digest of the request, and its reply; None where it failed."""
        self._changes: Counter[str] = Counter()
        """How many changes of each key there are. Equal ones are told apart by their transactions."""

    @contextlib.contextmanager
    def change(self, key: RequestKey | None) -> Iterator[None]:
        """Hold a key for as long as a change under it is carried out, so that no act takes it meanwhile.

        Raises:
            RequestKeyReused: an act with this key is at work.
        """
        if key is None:
            yield
            return
        if key.text in self._acts:
            raise _at_work(key)
        self._changes[key.text] += 1
        try:
            yield
        finally:
            self._changes[key.text] -= 1
            if not self._changes[key.text]:
                del self._changes[key.text]

    async def act(
        self, store: StateStore, operation: Operation, repeat: Repeat, act: Callable[[], Awaitable[Any]]
    ) -> Any:
        """Carry out a request under its key, after an equal one that is at work; returns its reply or the kept one.

        Raises:
            RequestKeyReused, RequestReplyGone, RequestOutcomeUnknown: as they say.
        """
        key = operation.key
        assert key is not None
        content = await store.fetch(key.content)
        # The project that was named is the one of this moment, also when it ends after a project was renamed.
        operation.key = key = key._replace(found=content)
        digest = store.digest(content)
        while (other := self._acts.get(key.text)) is not None:
            if other[0] != digest:
                raise _at_work(key)
            reply = await asyncio.shield(other[1])
            if reply is not None:
                return reply
        if key.text in self._changes:
            raise _at_work(key)
        ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._acts[key.text] = (digest, ended)
        reply = None
        try:
            if repeat is Repeat.REFUSE:
                reply = await store.write(lambda tx: _begin(tx, operation, digest))
            else:
                reply = await store.fetch(lambda reader: _kept(reader, key, digest, repeat=repeat))
            if reply is None:
                reply = await self._act(store, operation, act)
            return reply
        finally:
            del self._acts[key.text]
            ended.set_result(reply)

    @staticmethod
    async def _act(store: StateStore, operation: Operation, act: Callable[[], Awaitable[Any]]) -> Any:
        key = operation.key
        assert key is not None
        try:
            reply = await act()
        except Exception:
            # A cancelled request keeps its key: what it began goes on, or is not known.
            with contextlib.suppress(StoreError):
                await store.write(lambda tx: _forget(tx, operation, key))
            raise
        await store.write(lambda tx: finish(tx, operation, reply, secret=has_secrets(reply)))
        return reply


def _at_work(key: RequestKey) -> RequestKeyReused:
    return RequestKeyReused(
        f'cannot carry out the request: another request with the key "{key.text}" is at work',
        hint="Give this one a key of its own.",
        details={"key": key.text},
    )


def _begin(tx: Transaction, operation: Operation, digest: bytes) -> msgspec.Raw | None:
    """Write that a request begins which is not to be carried out twice; returns the reply of an equal one."""
    assert operation.key is not None
    kept = _kept(tx, operation.key, digest)
    if kept is None:
        operation.enter(tx)
    return kept


def _forget(tx: Transaction, operation: Operation, key: RequestKey) -> None:
    """Delete the key of a request that failed, and its operation if it had no effect."""
    tx.execute("DELETE FROM request_key WHERE key = ? AND state = 'open'", (key.text,))
    # What it began may go on and write as this operation: then it gets its row, but its key is not open again. Not only
    # after the commit, since that may be the next write of this group.
    operation.written, operation.key = False, None
    tx.execute(
        f"DELETE FROM operation WHERE id = ? AND {unheld_operation()} AND NOT EXISTS "
        "(SELECT 1 FROM operation AS other WHERE other.cause = operation.id)",
        (operation.id,),
    )
