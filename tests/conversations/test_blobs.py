"""Blobs: one that no message names is deleted after its grace time, and never one that is stored or named meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from nexus_protocol import NexusError
from support.conversations import Conversations
from support.daemon import DaemonProcess
from support.raw import RawClient
from support.stores import look_at, make_store
from support.stores import running as store_running

from nexus.capabilities import file_sets
from nexus.conversations import blobs_store
from nexus.conversations.blobs import BlobFolder
from nexus.conversations.commands import (
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    GetBlob,
    GetMessageRevisions,
    PutBlob,
    SweepBlobs,
)
from nexus.conversations.errors import BlobNotFound
from nexus.conversations.garbage import BlobSweeper
from nexus.conversations.records import Blob, Message, MessagePart
from nexus.conversations.states import PartKind, Role
from nexus.store.files import Swept
from nexus.store.maintenance import check_database

NOW = SweepBlobs(grace_ms=0)


def image(blob: Blob) -> list[MessagePart]:
    return [MessagePart(PartKind.IMAGE, blob=blob.hash)]


def message(own: Conversations, blob: Blob) -> Message:
    conversation = own.client.call(CreateConversation())
    return own.client.call(CreateMessage(conversation.id, role=Role.USER, content="see", parts=image(blob)))


def put(own: Conversations, data: bytes) -> Blob:
    return own.client.call(PutBlob(data))


def is_there(own: Conversations, blob: Blob) -> bool:
    try:
        own.client.call(GetBlob(blob.hash))
    except BlobNotFound:
        assert not list(own.daemon.state.rglob(blob.hash))
        return False
    return True


def settle() -> None:
    """Let a millisecond pass: a sweep deletes what is older than its time, in ms."""
    time.sleep(0.005)


def test_sweep_deletes_what_no_message_names_after_the_grace_time(own: Conversations) -> None:
    named, unnamed = put(own, b"named"), put(own, b"unnamed")
    message(own, named)
    settle()
    assert own.client.call(SweepBlobs()).count == 0
    dry = own.client.call(SweepBlobs(grace_ms=0, dry_run=True))
    assert (dry.count, dry.size_bytes, dry.temporary) == (1, len(b"unnamed"), 0)
    assert is_there(own, unnamed)
    assert own.client.call(NOW) == dry
    assert not is_there(own, unnamed)
    assert is_there(own, named)
    assert own.client.call(NOW).count == 0
    assert is_there(own, put(own, b"unnamed"))


def test_blob_that_a_revision_names_stays_as_long_as_its_conversation(own: Conversations) -> None:
    edited, deleted = put(own, b"edited"), put(own, b"deleted")
    first, second = message(own, edited), message(own, deleted)
    own.client.call(EditMessage(first.id, content="text alone", parts=[MessagePart(PartKind.TEXT, "text alone")]))
    own.client.call(DeleteMessage(second.id))
    settle()
    assert own.client.call(NOW).count == 0
    (revision,) = own.client.call(GetMessageRevisions(first.id)).revisions
    assert is_there(own, Blob(str(revision.parts[0].blob), 6))
    for each in (first, second):
        own.client.call(DeleteConversation(each.conversation_id))

    def gone() -> bool:
        with look_at(own.daemon.database) as database:
            return database.execute("SELECT count(*) FROM conversations").fetchone() == (0,)

    while not gone():
        time.sleep(0.02)
    assert own.client.call(NOW).count == 2
    assert not is_there(own, edited)


def test_files_without_rows_and_unfinished_ones_are_swept(own: Conversations) -> None:
    folder = BlobFolder(own.daemon.state / "nexus.db-blobs")
    orphan = folder.put(b"a daemon was killed before its row")
    kept = put(own, b"kept")
    message(own, kept)
    unfinished = folder.path(orphan).with_name(f".{orphan}.{'0' * 8}")
    unfinished.write_bytes(b"half")
    stranger = folder.root / "notes.txt"
    stranger.write_text("of a person")
    links = own.daemon.state / "nexus.db.set-aside-20260101T000000.000Z-blobs"
    links.mkdir()
    assert own.client.call(SweepBlobs()).count == 0
    settle()
    swept = own.client.call(NOW)
    assert (swept.count, swept.temporary) == (3, 3)
    assert not folder.path(orphan).exists()
    assert not unfinished.exists()
    assert not links.exists()
    assert stranger.exists()
    assert is_there(own, kept)


def test_links_of_a_database_that_is_set_aside_stay(own: Conversations) -> None:
    aside = own.daemon.state / "nexus.db.set-aside-20260101T000000.000Z"
    aside.touch()
    aside.with_name(f"{aside.name}-blobs").mkdir()
    settle()
    assert own.client.call(NOW).count == 0
    assert aside.with_name(f"{aside.name}-blobs").exists()


def test_blob_that_a_message_names_again_has_its_grace_time_again(own: Conversations) -> None:
    blob = put(own, b"again")
    first = message(own, blob)
    with look_at(own.daemon.database) as database:
        (before,) = database.execute("SELECT created_at FROM blobs").fetchone()
    settle()
    message(own, blob)
    with look_at(own.daemon.database) as database:
        (after,) = database.execute("SELECT created_at FROM blobs").fetchone()
    assert after > before
    own.client.call(DeleteMessage(first.id))
    assert own.client.call(NOW).count == 0


def test_storing_and_naming_among_sweeps_never_loses_a_blob(own: Conversations) -> None:
    """Clients store and name the same blobs while they are swept without any grace time."""
    stop = threading.Event()
    problems: list[str] = []
    named: set[str] = set()

    def store(number: int) -> None:
        chance = random.Random(number)
        with RawClient(own.daemon.socket_path) as client:
            conversation = client.call(CreateConversation())
            while not stop.is_set():
                blob = client.call(PutBlob(bytes([chance.randrange(40)]) * 100))
                try:
                    made = client.call(CreateMessage(conversation.id, role=Role.USER, content="x", parts=image(blob)))
                except BlobNotFound:
                    continue  # it was swept first, and the client is told
                except NexusError as error:
                    problems.append(error.message)
                    return
                if client.call(GetBlob(blob.hash)).data[:1] != bytes([client.call(GetBlob(blob.hash)).data[0]]):
                    problems.append(blob.hash)
                named.add(made.id)
                client.call(DeleteMessage(made.id))
                client.call(DeleteConversation(conversation.id))
                conversation = client.call(CreateConversation())

    threads = [threading.Thread(target=store, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    swept = 0
    ends_at = time.monotonic() + 5
    while time.monotonic() < ends_at:
        swept += own.client.call(NOW).count
    stop.set()
    for thread in threads:
        thread.join(60)
    assert problems == []
    assert swept > 5
    assert len(named) > 20
    assert check_database(own.daemon.database, file_sets(), deep=True).file_problems == []
    own.clear()
    assert own.problems() == []


def test_put_waits_for_the_deletion_of_the_same_blob(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with store_running(make_store(root)) as store:
            sweeper = BlobSweeper(store, BlobFolder(root / "blobs"))
            blob = await sweeper.put(b"data")
            deleting, may_go_on = threading.Event(), threading.Event()
            unlink = Path.unlink

            def slow(path: Path, missing_ok: bool = False) -> None:
                if path.name == blob.hash:
                    deleting.set()
                    assert may_go_on.wait(30)
                unlink(path, missing_ok)

            monkeypatch.setattr(Path, "unlink", slow)
            sweep = asyncio.create_task(sweeper.sweep(2**62))
            assert await asyncio.to_thread(deleting.wait, 30)
            again = asyncio.create_task(sweeper.put(b"data"))
            other = await sweeper.put(b"other data")
            assert not again.done()
            may_go_on.set()
            assert (await sweep).files == 1
            assert await again == blob
            assert sweeper.folder.get(blob.hash) == b"data"
            assert sweeper.folder.get(other.hash) == b"other data"

    asyncio.run(scenario())


def test_blob_that_is_being_stored_is_not_swept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with store_running(make_store(root)) as store:
            sweeper = BlobSweeper(store, BlobFolder(root / "blobs"))
            stored, may_go_on = threading.Event(), threading.Event()
            put = BlobFolder.put

            def slow(folder: BlobFolder, data: bytes) -> str:
                hash_ = put(folder, data)
                stored.set()
                assert may_go_on.wait(30)
                return hash_

            monkeypatch.setattr(BlobFolder, "put", slow)
            putting = asyncio.create_task(sweeper.put(b"data"))
            assert await asyncio.to_thread(stored.wait, 30)
            assert await sweeper.sweep(2**62) == Swept(0, 0, 0)
            may_go_on.set()
            blob = await putting
            assert sweeper.folder.get(blob.hash) == b"data"

    asyncio.run(scenario())


def test_blob_that_is_named_and_forgotten_while_a_sweep_looks_stays(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the list of what no message names and the deletion, a message may name a blob and be edited."""

    async def scenario() -> None:
        async with store_running(make_store(root)) as store:
            sweeper = BlobSweeper(store, BlobFolder(root / "blobs"))
            blob = await sweeper.put(b"data")
            before_at = int(time.time() * 1000) + 1
            drop = blobs_store.drop_blob

            def late(tx: object, hash_: str, at: int) -> bool:
                # What naming it does, with a part that is gone again.
                tx.execute("UPDATE blobs SET created_at = ?", (before_at + 1,))  # type: ignore[attr-defined]
                return drop(tx, hash_, at)  # type: ignore[arg-type]

            monkeypatch.setattr(blobs_store, "drop_blob", late)
            assert await sweeper.sweep(before_at) == Swept(0, 0, 0)
            assert sweeper.folder.get(blob.hash) == b"data"

    asyncio.run(scenario())


_KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from nexus.conversations import garbage
from nexus.store.sqlite import SqliteStore

garbage._unlink = lambda paths: os.kill(os.getpid(), signal.SIGKILL)
database = Path(sys.argv[1])

async def sweep():
    store = SqliteStore(database, database.parent)
    store.init()
    store.start()
    await garbage.BlobSweeper(store, garbage.BlobFolder(database.with_name("nexus.db-blobs"))).sweep(2**62)

asyncio.run(sweep())
"""


def test_killed_sweep_leaves_files_without_rows_which_the_next_one_deletes(
    make_daemon: Callable[..., DaemonProcess],
) -> None:
    daemon = make_daemon().start()
    with RawClient(daemon.socket_path) as client:
        blob = client.call(PutBlob(b"data"))
    daemon.stop()
    command = [sys.executable, "-c", _KILLED, daemon.database]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert check_database(daemon.database, file_sets()).file_problems == []
    assert list(daemon.state.rglob(blob.hash))
    daemon.start()
    with RawClient(daemon.socket_path) as client:
        assert client.call(NOW).temporary == 1
        assert client.call(PutBlob(b"data")) == blob
    assert os.path.getsize(next(iter(daemon.state.rglob(blob.hash)))) == 4  # noqa: PTH202
