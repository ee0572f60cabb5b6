"""A record type that is declared with the kit alone behaves as all others do: ``support.note``."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from nexus_protocol import NexusError
from support import note
from support.declared import declared as declared_events
from support.note import NOTES, CreateNote, DeleteNote, GetNote, ListNotes, NoteState, UpdateNote
from support.operations import an_operation
from support.stores import make_store

import nexus.journal.handlers
import nexus.system.handlers
from nexus import docs
from nexus.capability import collect_handlers
from nexus.cli.app import App
from nexus.client import BlockingClient
from nexus.config import Limits
from nexus.daemon.dispatch import Dispatch
from nexus.daemon.server import Server
from nexus.journal.commands import WatchEvents
from nexus.records.pages import encode_cursor
from nexus.records.scope import DEFAULT
from nexus.system.commands import GetSystemStatus


@pytest.fixture(scope="module", autouse=True)
def events() -> Iterator[None]:
    """The events of notes are declared."""
    with declared_events(note.declare_events):
        yield


class NoteServer:
    """The server, the store and the handlers of notes, in a loop of its own."""

    def __init__(self, root: Path) -> None:
        self.path = root / "notes.sock"
        self.store = make_store(root)
        self.store.init()
        for statement in note.SCHEMA:
            self.store._write_connection.execute(statement)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        self.server: Server = self.run(self._start())

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    async def _start(self) -> Server:
        self.store.start()
        modules = (note, nexus.system.handlers, nexus.journal.handlers)
        handlers = [handler for module in modules for handler in collect_handlers(module)]
        server = Server(self.store, Dispatch(handlers, {"notes": NOTES}), Limits(), lambda _reason: None, self.loop)
        server.listen(self._listener)
        return server

    def close(self) -> None:
        self.run(self.server.drain(0))
        self.run(self.store.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(30)
        self.loop.close()
        self._listener.close()


@pytest.fixture
def server(root: Path) -> Iterator[NoteServer]:
    """A server with notes."""
    server = NoteServer(root)
    yield server
    server.close()


@pytest.fixture
def nexus_(server: NoteServer) -> Iterator[BlockingClient]:
    """A client of the server."""
    with BlockingClient(server.path) as client:
        yield client


def listed(nexus_: BlockingClient, limit: int = 1000, **filters: Any) -> list[Any]:
    found, cursor = [], None
    while True:
        page = nexus_.call(ListNotes(limit=limit, cursor=cursor, **filters))
        found += page.notes
        cursor = page.next_cursor
        if cursor is None:
            return found


def refused(nexus_: BlockingClient, command: Any) -> NexusError:
    with pytest.raises(NexusError) as raised:
        nexus_.call(command)
    return raised.value


def test_note_is_created_read_changed_and_deleted_with_events(nexus_: BlockingClient) -> None:
    made = nexus_.call(CreateNote("a", text="x", tags=["one", "one", "two"]))
    assert (made.state, made.tags, made.revision, made.state_revision) == (NoteState.DRAFT, ["one", "two"], 1, 0)
    for reference in ("a", made.id, made.id.upper(), made.id[:8]):
        assert nexus_.call(GetNote(reference)) == made
    changed = nexus_.call(UpdateNote("a", text="y", tags=[], if_revision=1))
    assert (changed.text, changed.tags, changed.revision) == ("y", [], 2)
    assert nexus_.call(DeleteNote(made.id[:6], if_revision=2)) == changed
    with nexus_.stream(WatchEvents(kinds=["note.*"], follow=False)) as events:
        told = [(event.kind, event.subject_name, event.detail) for event in events]
    assert told == [
        ("note.created", "a", {"text": "x"}),
        ("note.updated", "a", {"text": {"from": "x", "to": "y"}, "tags": {"from": ["one", "two"], "to": []}}),
        ("note.deleted", "a", {}),
    ]


def test_errors_have_the_types_of_every_record(nexus_: BlockingClient) -> None:
    chosen = str(uuid.uuid4())
    made = nexus_.call(CreateNote("a", id=chosen))
    assert nexus_.call(CreateNote("a", id=chosen)) == made, "a repeated request is harmless"
    assert refused(nexus_, CreateNote("b", id=chosen)).type == "note.id_taken"
    tagged = CreateNote("tagged", tags=["one", "two", "one"], id=str(uuid.uuid4()))
    assert nexus_.call(tagged) == nexus_.call(tagged), "also where a tag is given twice"
    assert refused(nexus_, CreateNote("a", text="x", id=chosen)).type == "note.id_taken"
    assert refused(nexus_, CreateNote("a")).type == "note.name_taken"
    nexus_.call(CreateNote("b"))
    assert refused(nexus_, UpdateNote("b", name="a")).type == "note.name_taken"
    assert refused(nexus_, UpdateNote("b", text="x", if_revision=2)).type == "note.changed"
    assert refused(nexus_, DeleteNote("b", if_state_revision=1)).type == "note.changed"
    assert refused(nexus_, GetNote("c")).type == "note.not_found"
    assert refused(nexus_, UpdateNote("b")).message == 'cannot update note "b": no field to change was given'
    assert refused(nexus_, ListNotes(cursor="nonsense")).type == "note.cursor_invalid"
    cursor = nexus_.call(ListNotes(limit=1)).next_cursor
    assert refused(nexus_, ListNotes(tag="x", cursor=cursor)).type == "note.cursor_invalid"
    of_vms = encode_cursor(("vm", None, None), (made.created_at, made.id))  # of the same shape
    assert "belongs to another list" in refused(nexus_, ListNotes(cursor=of_vms)).message
    for number in range(20):
        nexus_.call(CreateNote(f"n{number}", id=f"abcd{number:04}-0000-4000-8000-000000000000"))
    error = refused(nexus_, GetNote("abcd"))
    assert error.type == "note.ambiguous"
    assert len(error.details["matches"]) == 6


def test_pages_miss_and_repeat_nothing_while_others_write(server: NoteServer, nexus_: BlockingClient) -> None:
    nexus_.batch([CreateNote(f"stays-{number}", tags=["kept"]) for number in range(300)])
    stop = threading.Event()

    def write() -> None:
        chance = random.Random(1)
        mine: list[str] = []
        with BlockingClient(server.path) as client:
            for number in range(10_000):
                if stop.is_set():
                    return
                if mine and chance.random() < 0.5:
                    client.call(DeleteNote(mine.pop()))
                else:
                    mine.append(client.call(CreateNote(f"goes-{number}")).id)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for limit in (1, 7, 100, 1000):
            names = [each.name for each in listed(nexus_, limit) if each.name.startswith("stays-")]
            assert sorted(names) == sorted(f"stays-{number}" for number in range(300))
            assert len(listed(nexus_, limit, tag="kept")) == 300
    finally:
        stop.set()
        writer.join(60)
    assert nexus_.call(GetSystemStatus()).counts == {"notes": {"draft": len(listed(nexus_))}}


@pytest.mark.parametrize(
    "metadata",
    [{}, {"a": 1, "b": [None, True, -1.5, "ü", {"c": []}]}, {"": {"": ""}}, {"x": "y" * 16_000}, {"n": 2**64 - 1}],
)
def test_metadata_comes_back_as_it_went_in(nexus_: BlockingClient, metadata: dict[str, Any]) -> None:
    assert nexus_.call(CreateNote("a", metadata=metadata)).metadata == metadata
    assert nexus_.call(GetNote("a")).metadata == metadata
    assert nexus_.call(UpdateNote("a", metadata={"other": 1})).metadata == {"other": 1}
    assert nexus_.call(UpdateNote("a", metadata=metadata)).metadata == metadata
    assert listed(nexus_)[0].metadata == metadata


def test_metadata_has_bounds(nexus_: BlockingClient) -> None:
    nexus_.call(CreateNote("a"))
    deep: Any = 1
    for _ in range(9):
        deep = {"a": deep}
    for metadata, problem in (({"x": "y" * 16_384}, "larger than 16 KiB"), (deep, "nested deeper than 8 levels")):
        for command in (CreateNote("b", metadata=metadata), UpdateNote("a", metadata=metadata)):
            error = refused(nexus_, command)
            assert (error.code, error.details) == ("invalid_argument", {"path": "metadata"})
            assert problem in error.message
    assert nexus_.call(CreateNote("b", metadata=deep["a"])).metadata == deep["a"]


def test_change_of_a_volatile_or_observed_field_leaves_the_revision(server: NoteServer, nexus_: BlockingClient) -> None:
    made = nexus_.call(CreateNote("a"))

    def change(**changes: Any) -> Any:
        return server.run(
            server.store.write(lambda tx: NOTES.update(tx, an_operation(), NOTES.resolve(tx, "a", DEFAULT), changes))
        )

    read = change(read_at=5)
    assert (read.revision, read.state_revision, read.updated_at) == (1, 0, made.updated_at)
    done = change(state=NoteState.DONE, read_at=6)
    assert (done.revision, done.state_revision, done.read_at) == (1, 1, 6)
    both = change(state=NoteState.DRAFT, text="x")
    assert (both.revision, both.state_revision) == (2, 2)
    with nexus_.stream(WatchEvents(kinds=["note.updated"], follow=False)) as events:
        assert [sorted(event.detail) for event in events] == [["state"], ["state", "text"]]
    assert nexus_.call(GetSystemStatus()).counts == {"notes": {"draft": 1}}


def test_filters_find_by_state_and_tag(nexus_: BlockingClient) -> None:
    nexus_.batch([CreateNote(f"n{number}", tags=["odd"] if number % 2 else None) for number in range(10)])
    assert {each.name for each in listed(nexus_, 2, tag="odd")} == {f"n{number}" for number in range(1, 10, 2)}
    assert len(listed(nexus_, 3, state=NoteState.DRAFT, tag="odd")) == 5
    assert listed(nexus_, state=NoteState.DONE) == []


def test_verbs_are_those_of_every_noun(server: NoteServer) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        app = App(str(server.path), None, None, False)
        try:
            done = CliRunner().invoke(note.VERBS, arguments, obj=app)
        finally:
            app.close()
        return done.exit_code, done.output

    assert run("create", "a", "--text", "x", "--tag", "one") == (
        0,
        'Created note "a"\n\n  Inspect it: nexusctl note inspect a\n',
    )
    assert run("create", "b", "-o", "name") == (0, "b\n")
    assert run("list", "-o", "name") == (0, "b\na\n")
    assert run("list", "--tag", "one")[1].split() == ["NAME", "STATE", "a", "draft"]
    assert '"text":"x"' in run("inspect", "a", "-o", "jsonl")[1]
    assert run("update", "a", "--text", "y", "--if-revision", "1") == (0, 'Updated note "a"\n')
    assert run("update", "a")[0] == 2
    assert "refusing to delete note without confirmation" in run("delete", "a", "b")[1]
    assert run("delete", "a", "b", "--yes") == (0, 'Deleted note "a"\nDeleted note "b"\n')
    assert run("list") == (0, "No notes found.\n")
    assert {*note.VERBS.list_commands(click.Context(note.VERBS))} == {"create", "list", "inspect", "update", "delete"}


def test_documents_are_made_from_the_declaration() -> None:
    for declared in note.NOTE_COMMANDS:
        text = "\n".join(docs._command(declared.info))
        assert f"effect `{declared.info.effect}`" in text
        assert declared.__doc__ in text
        assert all(f"`{field}`" in text for field in declared.__struct_fields__)
        assert all(f"`{error.type}`" in text for error in declared.info.errors)
