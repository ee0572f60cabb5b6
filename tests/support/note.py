"""A record type that a stranger adds, in a hundred lines. Its declarations are not left in the registries."""

from __future__ import annotations

import sys
from typing import Any, get_args, get_type_hints

from msgspec import field
from nexus_protocol import Command, Effect, Record, WireEnum, command

from nexus.cli.output import Column
from nexus.cli.records import Noun, record_group
from nexus.records import fields
from nexus.records.errors import RecordErrors
from nexus.records.events import record_events
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
    metadata: dict[str, Any] = field(default_factory=dict)
    read_at: int = 0


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


@command(0xE101, Effect.CHANGE, errors=(ERRORS.name_taken, ERRORS.id_taken))
class CreateNote(Command[Note]):
    """Create a note."""

    name: fields.Name
    text: str = ""
    tags: fields.Tags | None = None
    metadata: fields.Metadata | None = None
    id: fields.ClientId | None = None


@command(0xE102, Effect.READ, errors=(ERRORS.not_found, ERRORS.ambiguous))
class GetNote(Command[Note]):
    """Get a note."""

    note: fields.Reference


@command(0xE103, Effect.READ, errors=(ERRORS.cursor_invalid,), large_reply=True)
class ListNotes(Command[NotePage]):
    """List notes, newest first."""

    state: NoteState | None = None
    tag: fields.Tag | None = None
    limit: fields.PageLimit = 1000
    cursor: fields.Cursor | None = None


@command(0xE104, Effect.CHANGE, errors=(ERRORS.not_found, ERRORS.ambiguous, ERRORS.name_taken, ERRORS.changed))
class UpdateNote(Command[Note]):
    """Change a note."""

    note: fields.Reference
    name: fields.Name | None = None
    text: str | None = None
    tags: fields.Tags | None = None
    metadata: fields.Metadata | None = None
    if_revision: fields.Revision | None = None


@command(0xE105, Effect.CHANGE, errors=(ERRORS.not_found, ERRORS.ambiguous, ERRORS.changed))
class DeleteNote(Command[Note]):
    """Delete a note."""

    note: fields.Reference
    if_revision: fields.Revision | None = None
    if_state_revision: fields.StateRevision | None = None


SCHEMA = (
    "CREATE TABLE note (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, state TEXT, created_at INTEGER, updated_at "
    "INTEGER, revision INTEGER, state_revision INTEGER, text TEXT, tags TEXT, metadata TEXT, read_at INTEGER)",
    "CREATE INDEX idx_note_created ON note (created_at, id)",
    "CREATE INDEX idx_note_state ON note (state, created_at, id)",
)
NOTES = Table(
    Note, "note", kind="note", word="note", look="note inspect", errors=ERRORS, observed=("state",),
    volatile=("read_at",), indexed=("state",), told=("text",),
)  # fmt: skip
create_note = creates(NOTES, CreateNote, lambda *_: {"state": NoteState.DRAFT})
get_note, list_notes = gets(NOTES, GetNote), lists(NOTES, ListNotes, "notes")
update_note, delete_note = updates(NOTES, UpdateNote), deletes(NOTES, DeleteNote)

VERBS = record_group(
    Noun("note", "notes", "note", NotePage.notes), "Manage notes.",
    CreateNote, ListNotes, GetNote, UpdateNote, DeleteNote,
    columns=(Column("NAME", lambda note: note.name, 20), Column("STATE", lambda note: note.state, 10)),
    lines=lambda note: [("Name", note.name), ("Text", note.text)],
    helps=("Create a note.", "List notes.", "Show it.", "Change it.", "Delete it."),
)  # fmt: skip


def declare_events() -> None:
    record_events("note", "A note", created={"text": "its text"}, deleted={})


NOTE_COMMANDS = (CreateNote, GetNote, ListNotes, UpdateNote, DeleteNote)
for _note in NOTE_COMMANDS:
    sys.modules["nexus_protocol.command"].__dict__["_COMMANDS"].pop(_note.info.code)
sys.modules["nexus.journal.rows"].__dict__["_ROWS"].pop(NOTES.name)
