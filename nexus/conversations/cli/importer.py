"""Imports sources through a connection: reads each from where it was left, and sends its messages in batches.

``nexusctl conversation import`` and the process that follows sources use it. It may be killed at any moment: what was
sent is known, and what was not is read again.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from nexus_protocol.errors import InvalidArgument, NotFound

from nexus.cli.operations import begin_operation
from nexus.conversations.commands import PutBlob
from nexus.conversations.errors import BlobNotFound, ConversationRedacted, SourceBusy, SourceMoved
from nexus.conversations.import_commands import AddConversationSource, GetConversationSource, ImportMessages
from nexus.conversations.import_records import ConversationSource, Imported, ImportedMessage, SourceProgress
from nexus.conversations.importing.formats import detect
from nexus.conversations.importing.reading import (
    NO_FILE,
    MessageBatch,
    Start,
    Unreadable,
    identity_of,
    read_source,
    start_from,
)
from nexus.conversations.importing.redaction import PatternError, Redactor, parse_patterns
from nexus.conversations.states import SourceFormat

__all__ = ["Importer", "Outcome", "cannot_redact", "is_text", "redactor_for"]

_BUSY_S = 30.0
_MAX_PATTERNS_BYTES = 1024 * 1024
_KNOWN_BLOBS = 10_000


class Outcome(NamedTuple):
    """What was imported from one source."""

    path: Path
    format: SourceFormat
    conversations: dict[str, Imported]
    """By their ids, those that messages were imported into, with the sums."""
    added: int = 0
    changed: int = 0
    known: int = 0
    skipped: dict[str, int] | None = None
    """How many lines were not imported, or not as they are, by reason: of those that were read now."""
    waits: bool = False
    """Whether it ends within a line, which is read once it is whole."""
    error: str | None = None
    is_known: bool = True
    """Whether it is among the sources: a file of which nothing was ever read is not."""


def is_text(path: str) -> bool:
    """Whether a path is UTF-8, so that a request can name it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def cannot_redact(path: str, reason: str) -> str:
    """The sentence for patterns that cannot be used."""
    return f"cannot use the patterns of {path}: {reason}"


def redactor_for(patterns: str | None, *, built_in: bool) -> Redactor:
    """The redactor with the patterns of a file, and with known forms of secrets where there is a file, or ``built_in``.

    Raises:
        PatternError, OSError: the file cannot be read, or a pattern is wrong.
    """
    if patterns is None:
        return Redactor(built_in=built_in)
    if Path(patterns).exists() and not Path(patterns).is_file():
        raise PatternError(NO_FILE)
    with open(patterns, "rb") as file:
        data = file.read(_MAX_PATTERNS_BYTES + 1)
    if len(data) > _MAX_PATTERNS_BYTES:
        raise PatternError("larger than 1 MiB")
    return Redactor(parse_patterns(data.decode("utf-8", "replace")), built_in=True)


class Importer:
    """Imports through ``call``, which sends a command with its ``cause`` and returns the reply."""

    def __init__(self, call: Callable[..., Any], on_progress: Callable[[str], None] = lambda _text: None) -> None:
        self._call = call
        self._on_progress = on_progress
        self._operations: dict[str, int] = {}
        """By the path of a source, the operation of this process that imports it."""
        self._blobs: set[str] = set()
        self._unheld: Counter[str] = Counter()
        """What the daemon did not take of the present file as it was, by reason."""

    def source(self, command: AddConversationSource) -> ConversationSource:
        """Find the source of a file; one that is new is added by ``run``, once something of it was read."""
        try:
            found: ConversationSource = self._call(GetConversationSource(command.path))
        except NotFound:
            return _unknown(command)
        is_redacted = found.redact_secrets or not command.redact_secrets
        is_same = command.format in (SourceFormat.AUTO, found.format)
        if is_same and is_redacted and command.redact in (None, found.redact):
            return found
        return self._add(command)

    def follow(self, command: AddConversationSource) -> ConversationSource:
        """Add a file or folder that is followed from now on, which is an operation of its own."""
        added: ConversationSource = self._call(command)
        return added

    def _add(self, command: AddConversationSource) -> ConversationSource:
        """Add a file as a part of its import."""
        added: ConversationSource = self._call(command, cause=self._operation(Path(command.path), command.format))
        return added

    def run(self, source: ConversationSource, *, on_demand: bool = True) -> tuple[Outcome, ConversationSource]:
        """Import what a file has beyond what was read; returns the source as it is then, too.

        ``on_demand`` makes conversations again that were deleted: a file that has one is read from its beginning.
        What its content does is told in the outcome. Errors of the daemon and of the connection are raised.
        """
        reading = _Reading(Path(source.path), on_demand)
        while True:
            try:
                return self._run(source, reading)
            except SourceMoved:  # another importer has read it meanwhile, which can be so again
                source = self._call(GetConversationSource(source.id))

    def _run(self, source: ConversationSource, reading: _Reading) -> tuple[Outcome, ConversationSource]:
        path = reading.path
        error: str | None = None
        sent: SourceProgress | None = None
        self._unheld.clear()
        try:
            redactor = redactor_for(source.redact, built_in=source.redact_secrets)
        except (PatternError, OSError) as failure:
            reason = failure.strerror if isinstance(failure, OSError) else str(failure)
            error = cannot_redact(str(source.redact), str(reason))
            source = self.note(source, error)
            return reading.outcome(source, error), source
        try:
            present = identity_of(path)
            if source.format is SourceFormat.AUTO:
                detected = detect(path)
                if detected is None:
                    raise Unreadable("it is of no known format; name it with --from")
                source = msgspec.structs.replace(source, format=detected)
            is_anew = reading.on_demand and source.deleted > 0
            before = Start() if is_anew else Start(source.offset_bytes, source.state, source.skipped)
            head = None if is_anew else source.head
            start = start_from(path, source.inode, head, before)
            reading.begin(start)
            for batch in _with_end(read_source(path, source.format, redactor, start)):
                progress = SourceProgress(
                    source=source.id,
                    after_bytes=source.offset_bytes,
                    offset_bytes=batch.offset,
                    size_bytes=present.size_bytes,
                    inode=present.inode,
                    head=start.head,
                    state=batch.state,
                    skipped=batch.skipped,
                )
                reading.waits = batch.waits
                is_clean = not source.id or (source.last_error is None and head == start.head)
                if batch.conversation is None and is_clean and _is_same(progress, before):
                    source = _after(source, progress)
                    continue
                if not source.id:
                    source = self._add(_adding(source))
                    progress = msgspec.structs.replace(progress, source=source.id, after_bytes=source.offset_bytes)
                sending = ImportMessages(
                    batch.conversation,
                    batch.messages,
                    progress,
                    followed=not reading.on_demand,
                    redacted=redactor.active,
                )
                for reply in self._send(path, source.format, batch, sending):
                    reading.take(reply)
                source, sent = _after(source, progress), progress
                self._on_progress(f"{path.name}: {reading.sums['added']} messages")
        except Unreadable as failure:
            error = str(failure)
        except FileNotFoundError:
            error = "No such file or directory"  # what was imported stays, and nothing is noted
            return reading.outcome(source, error), source
        except OSError as failure:
            error = failure.strerror or str(failure)
        except ConversationRedacted as failure:
            error = (
                f"secrets were replaced in conversation {failure.details.get('conversation')}; "
                "import it with --redact FILE or --redact-secrets again"
            )
        if sent is not None:
            source = _after(source, self._with_unheld(sent))
        if error is not None:
            source = self.note(source, error)
        return reading.outcome(source, error), source

    def note(self, source: ConversationSource, error: str | None) -> ConversationSource:
        """Note why a source cannot be read, once; of one that is not there nothing is noted."""
        error = None if error is None else error[:1000]
        if not source.id or source.last_error == error:
            return source
        progress = SourceProgress(
            source=source.id,
            after_bytes=source.offset_bytes,
            offset_bytes=source.offset_bytes,
            size_bytes=source.size_bytes,
            inode=source.inode,
            head=source.head,
            state=source.state,
            skipped=source.skipped,
            last_error=error,
        )
        with contextlib.suppress(SourceMoved):  # it was read by another importer, which knows better
            self._call(ImportMessages(progress=progress))
        return _after(source, progress)

    # Sending

    def _operation(self, path: Path, format_: SourceFormat) -> int:
        """The operation that the import of a file is in the history."""
        key = str(path)
        if key not in self._operations:
            args = {"path": key[:1024], "format": format_.value}
            self._operations[key] = begin_operation(self._call, "conversation.import", args)
        return self._operations[key]

    def _send(
        self, path: Path, format_: SourceFormat, batch: MessageBatch, command: ImportMessages
    ) -> Iterator[Imported]:
        for blob in batch.blobs:
            self._put(blob)
        if batch.conversation is None:
            yield self._request(path, format_, command)
            return
        yield from self._divide(path, format_, command)

    def _put(self, blob: bytes) -> None:
        import hashlib

        hash_ = hashlib.sha256(blob).hexdigest()
        if hash_ not in self._blobs:
            self._call(PutBlob(blob))
            if len(self._blobs) < _KNOWN_BLOBS:
                self._blobs.add(hash_)

    def _divide(self, path: Path, format_: SourceFormat, command: ImportMessages) -> Iterator[Imported]:
        """Send messages; where one is refused, the others are sent without it."""
        try:
            yield self._request(path, format_, command)
        except BlobNotFound as error:
            missing = error.details.get("blob")
            changed = [_without_blob(message, missing) for message in command.messages]
            if changed == command.messages:
                raise
            self._unheld["content of an image or a file, which is not there"] += 1
            yield from self._divide(path, format_, msgspec.structs.replace(command, messages=changed))
        except InvalidArgument:
            if len(command.messages) > 1:
                half = len(command.messages) // 2
                first = msgspec.structs.replace(command, messages=command.messages[:half], progress=None)
                yield from self._divide(path, format_, first)
                yield from self._divide(
                    path, format_, msgspec.structs.replace(command, messages=command.messages[half:])
                )
                return
            what = "message" if command.messages else "conversation"
            self._unheld[f"{what} that the daemon refused"] += 1
            if command.progress is not None:
                yield self._request(path, format_, ImportMessages(progress=command.progress))

    def _with_unheld(self, progress: SourceProgress) -> SourceProgress:
        return msgspec.structs.replace(progress, skipped=dict(Counter(progress.skipped) + self._unheld))

    def _request(self, path: Path, format_: SourceFormat, command: ImportMessages) -> Imported:
        deadline = time.monotonic() + _BUSY_S
        if command.progress is not None:
            command = msgspec.structs.replace(command, progress=self._with_unheld(command.progress))
        while True:
            cause = None if command.conversation is None else self._operation(path, format_)
            try:
                reply: Imported = self._call(command, cause=cause)
                return reply
            except SourceBusy:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            except InvalidArgument as error:
                if error.details.get("path") != "context.cause":
                    raise
                self._operations.pop(str(path), None)  # it is older than what the history keeps


class _Reading:
    """What the import of one file has done, over all its attempts."""

    def __init__(self, path: Path, on_demand: bool) -> None:
        self.path = path
        self.on_demand = on_demand
        self.waits = False
        self.found: dict[str, Imported] = {}
        self.sums: Counter[str] = Counter()
        self._skipped: Counter[str] | None = None

    def begin(self, start: Start) -> None:
        """Take what was counted before, in earlier imports."""
        if self._skipped is None:
            self._skipped = Counter(start.skipped or {})

    def take(self, reply: Imported) -> None:
        """Count what a request did."""
        _add(self.found, reply)
        self.sums.update(added=reply.added, changed=reply.changed, known=len(reply.known) - reply.changed)

    def outcome(self, source: ConversationSource, error: str | None) -> Outcome:
        """What was imported."""
        sums = (self.sums["added"], self.sums["changed"], self.sums["known"])
        skipped = {} if self._skipped is None else dict(Counter(source.skipped) - self._skipped)
        return Outcome(self.path, source.format, self.found, *sums, skipped, self.waits, error, bool(source.id))


def _unknown(command: AddConversationSource) -> ConversationSource:
    """A source that is not there yet: it has no id."""
    return ConversationSource(
        id="",
        number=0,
        project_id="",
        project="",
        path=command.path,
        format=command.format,
        redact=command.redact,
        redact_secrets=command.redact_secrets,
        created_at=0,
        updated_at=0,
        revision=0,
        state_revision=0,
    )


def _adding(source: ConversationSource) -> AddConversationSource:
    return AddConversationSource(source.path, source.format, redact=source.redact, redact_secrets=source.redact_secrets)


def _with_end(batches: Iterator[MessageBatch]) -> Iterator[MessageBatch]:
    """The batches, with the generator's file closed whatever happens."""
    with contextlib.closing(batches):  # type: ignore[type-var]
        yield from batches


def _after(source: ConversationSource, progress: SourceProgress) -> ConversationSource:
    return msgspec.structs.replace(
        source,
        offset_bytes=progress.offset_bytes,
        size_bytes=progress.size_bytes,
        inode=progress.inode,
        head=progress.head,
        state=progress.state,
        skipped=progress.skipped,
        last_error=progress.last_error,
    )


def _is_same(progress: SourceProgress, before: Start) -> bool:
    """Whether a reading leaves the source where it was."""
    return (progress.offset_bytes, progress.state, progress.skipped) == (before.offset, before.state, before.skipped)


def _without_blob(message: ImportedMessage, blob: object) -> ImportedMessage:
    parts = [
        msgspec.structs.replace(part, blob=None, body=part.body or "(its content is missing)")
        if part.blob == blob
        else part
        for part in message.parts
    ]
    return msgspec.structs.replace(message, parts=parts)


def _add(found: dict[str, Imported], reply: Imported) -> None:
    id_ = reply.conversation_id
    if id_ is None:
        return
    before = found.get(id_)
    if before is not None:
        reply = msgspec.structs.replace(
            reply,
            created=before.created or reply.created,
            added=before.added + reply.added,
            changed=before.changed + reply.changed,
            known=[],
        )
    found[id_] = reply
