"""A record type that a stranger adds, in a hundred lines. Its commands are not left in the registry of all commands."""

from __future__ import annotations

import sys
from typing import Annotated, get_args, get_type_hints

from msgspec import Meta, field
from nexus_protocol import Command, Effect, Record, WireEnum, command

from nexus.cli.output import Column
from nexus.cli.records import Noun, record_group
from nexus.records.errors import RecordErrors
from nexus.records.fields import ClientId, Cursor, Name, PageLimit, Reference, Revision, StateRevision, Tag, Tags
from nexus.records.handlers import creates, deletes, gets, lists, updates
from nexus.records.table import Table


class NoteState(WireEnum):
    DRAFT = "draft"
    DONE = "done"


class Note(Record):
    id: str
    name: str
    state: NoteState
    created_at: int
    updated_at: int
    revision: int
    state_revision: int
    text: str = ""
    tags: list[str] = field(default_factory=list)


class NotePage(Record):
    notes: list[Note]
    next_cursor: str | None = None


ERRORS = RecordErrors(
    *(
        type(base.__name__.replace("Record", "Note"), (base,), {"type": f"note.{word}", "__doc__": base.__doc__})
        for word, base in get_type_hints(RecordErrors).items()
        for base in get_args(base)
    )
)
NoteReference = Annotated[Reference, Meta(extra={"completes": "note"})]


@command(0xE101, Effect.CHANGE, errors=(ERRORS.name_taken, ERRORS.id_taken))
class CreateNote(Command[Note]):
    """Create a note."""

    name: Name
    text: str = ""
    tags: Tags | None = None
    id: ClientId | None = None


@command(0xE102, Effect.READ, errors=(ERRORS.not_found, ERRORS.ambiguous))
class GetNote(Command[Note]):
    """Get a note."""

    note: NoteReference


@command(0xE103, Effect.READ, errors=(ERRORS.cursor_invalid,), large_reply=True)
class ListNotes(Command[NotePage]):
    """List notes, newest first."""

    state: NoteState | None = None
    tag: Tag | None = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0xE104, Effect.CHANGE, errors=(ERRORS.not_found, ERRORS.ambiguous, ERRORS.name_taken, ERRORS.changed))
class UpdateNote(Command[Note]):
    """Change a note."""

    note: NoteReference
    name: Name | None = None
    text: str | None = None
    tags: Tags | None = None
    if_revision: Revision | None = None


@command(0xE105, Effect.CHANGE, errors=(ERRORS.not_found, ERRORS.ambiguous, ERRORS.changed))
class DeleteNote(Command[Note]):
    """Delete a note."""

    note: NoteReference
    if_revision: Revision | None = None
    if_state_revision: StateRevision | None = None


SCHEMA = (
    "CREATE TABLE note (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, state TEXT NOT NULL, text TEXT NOT NULL, "
    "tags TEXT NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL, revision INTEGER NOT NULL, "
    "state_revision INTEGER NOT NULL)",
    "CREATE INDEX idx_note_created ON note (created_at, id)",
    "CREATE INDEX idx_note_state ON note (state, created_at, id)",
)
NOTES = Table(
    Note, "note", kind="note", word="note", look="note inspect", errors=ERRORS, observed=("state",),
    indexed=("state",), told=("text",),
)  # fmt: skip
create_note = creates(NOTES, CreateNote, lambda *_: {"state": NoteState.DRAFT})
get_note, list_notes = gets(NOTES, GetNote), lists(NOTES, ListNotes, "notes")
update_note, delete_note = updates(NOTES, UpdateNote), deletes(NOTES, DeleteNote)

_NOUN = Noun("note", "notes", "note", "notes")
_COLUMNS = (Column("NAME", lambda note: note["name"], 20), Column("STATE", lambda note: note["state"], 10))
VERBS = record_group(
    _NOUN, "Manage notes.", CreateNote, ListNotes, GetNote, UpdateNote, DeleteNote,
    columns=_COLUMNS, lines=lambda note: [*note.items()],
    helps=("Create a note.", "List notes.", "Show a note.", "Change a note.", "Delete a note."),
)  # fmt: skip

NOTE_COMMANDS = (CreateNote, GetNote, ListNotes, UpdateNote, DeleteNote)
for _note in NOTE_COMMANDS:
    sys.modules["nexus_protocol.command"].__dict__["_COMMANDS"].pop(_note.info.code)
