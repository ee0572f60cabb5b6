"""The index of code in the daemon: what is written, what is refused, what is found, and what goes with a project."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from nexus_protocol.errors import InvalidArgument
from support.daemon import DaemonProcess
from support.projects import Speaker, events_of, project
from support.raw import wait_until
from support.replay import check
from support.stores import look_at

from nexus.client import BlockingClient
from nexus.memory.chunking import chunks as chunking
from nexus.memory.chunks import records
from nexus.memory.chunks.commands import (
    MAX_OPERATIONS,
    DeleteChunks,
    FindSymbols,
    GetChunk,
    GetChunkMap,
    IndexChunks,
    ListChunkHashes,
    ListChunks,
    ListUnembeddedChunks,
    SetChunkEmbeddings,
)
from nexus.memory.chunks.records import ChunkEmbedding, MovedChunk, NewChunk
from nexus.memory.chunks.states import ChunkType
from nexus.projects.commands import DeleteProject, GetProjectHoldings
from nexus.search.commands import Search
from nexus.store.connection import connect
from nexus.system.commands import Ping


def chunk(number: int, file: str = "src/a.py", **fields: Any) -> NewChunk:
    """A chunk of ten lines that is the only one with its text."""
    given = {
        "file": file,
        "start_line": 10 * number + 1,
        "end_line": 10 * number + 10,
        "content": f"def f{number}():\n    return walrus{number}",
        "symbols": [f"A.f{number}"],
        "chunk_type": ChunkType.METHOD,
        "language": "python",
        "hash": f"{number:064x}",
    }
    return NewChunk(**(given | fields))


@pytest.fixture
def nexus(shared: DaemonProcess) -> Iterator[Speaker]:
    """A client in a project of its own."""
    speaker = Speaker(shared)
    there = project(speaker, "shop")
    try:
        yield there
    finally:
        speaker.call(DeleteProject("shop", cascade=True))
        speaker.client.close()


def rows(nexus: Speaker, under: str | None = None) -> list[tuple[str, int]]:
    return [(each.file, each.start_line) for each in nexus.call(ListChunkHashes(under)).hashes]


def ids(nexus: Speaker) -> dict[int, str]:
    """The ids of chunks by the numbers of their texts."""
    return {int(each.hash, 16): each.id for each in nexus.call(ListChunkHashes()).hashes}


def test_index_creates_moves_and_deletes_and_keeps_embeddings(nexus: Speaker, shared: DaemonProcess) -> None:
    done = nexus.call(IndexChunks([chunk(0), chunk(1), chunk(2)]))
    assert (done.created, done.moved, done.deleted, done.gone) == (3, 0, 0, 0)
    known = ids(nexus)
    nexus.call(SetChunkEmbeddings([ChunkEmbedding(known[each], [1.0, float(each)]) for each in (0, 1)]))
    done = nexus.call(
        IndexChunks(
            [chunk(0, "src/copy.py", like=known[0]), chunk(5, like=known[1]), chunk(2, "src/two.py", like=known[2])],
            [MovedChunk(known[0], "src/new.py", 1, 4), MovedChunk(known[1], "src/a.py", 51, 60)],
            [known[2]],
        )
    )
    # The texts of 5 and 1 differ, and 2 has no embedding that could be copied.
    assert (done.created, done.moved, done.deleted, done.embedded) == (3, 2, 1, 1)
    assert rows(nexus) == [
        ("src/a.py", 51),
        ("src/a.py", 51),
        ("src/copy.py", 1),
        ("src/new.py", 1),
        ("src/two.py", 21),
    ]
    moved = nexus.call(GetChunk(known[0], embedding=True))
    assert (moved.file, moved.end_line, moved.embedding, moved.content) == ("src/new.py", 4, [1, 0], chunk(0).content)
    assert nexus.call(GetChunk("src/copy.py:3", embedding=True)).embedding == [1.0, 0.0]
    assert nexus.call(GetChunk(known[1])).embedding is None
    assert nexus.call(GetChunk(known[1], embedding=True)).embedding == [1.0, 1.0]
    assert [each.embedded for each in nexus.call(ListChunks("src/two.py")).chunks] == [False]
    assert all(each.content is None and each.embedding is None for each in nexus.call(ListChunks()).chunks)
    with look_at(shared.database) as database:
        assert check(database) == []


def test_a_repeated_request_changes_nothing(nexus: Speaker) -> None:
    made = "00000000-0000-4000-8000-00000000abcd"
    request = IndexChunks([chunk(0, id=made)], [MovedChunk(made, "src/a.py", 1, 10)])
    assert nexus.call(request).created == 1
    newest = events_of(nexus)[-1]
    again = nexus.call(request)
    assert (again.created, again.moved, again.gone) == (0, 0, 0)
    gone = nexus.call(IndexChunks(move=[MovedChunk(made[:-1] + "0", "x", 1, 1)], delete=[made[:-1] + "1"]))
    assert (gone.moved, gone.deleted, gone.gone) == (0, 0, 2)
    assert events_of(nexus)[-1] == newest
    assert (newest.kind, newest.detail) == ("chunk.indexed", {"created": 1})
    assert nexus.error(IndexChunks([chunk(1, id=made)])).type == "chunk.id_taken"


@pytest.mark.parametrize(
    "file",
    ["../a", "/etc/passwd", "a/../b", "a//b", "./a", "a/", "", "a\nb", "a\x00b", "ä" * 513, "a\u202eb"],
    ids=ascii,
)
def test_files_that_are_not_below_the_folder_are_refused(nexus: Speaker, file: str) -> None:
    made = nexus.call(IndexChunks([chunk(0)])) and ids(nexus)[0]
    for request in (IndexChunks([chunk(1, file)]), IndexChunks(move=[MovedChunk(made, file, 1, 1)])):
        error = nexus.error(request)
        assert isinstance(error, InvalidArgument)
        assert "file" in error.details["path"]
    assert rows(nexus) == [("src/a.py", 1)]
    if not file.endswith("/"):
        assert isinstance(nexus.error(ListChunks(file)), InvalidArgument)


@pytest.mark.parametrize(
    "request_",
    [
        IndexChunks([chunk(0, content="ä" * 8193)]),
        IndexChunks([chunk(0, symbols=["x"] * 65)]),
        IndexChunks([chunk(0, symbols=["x" * 257])]),
        IndexChunks([chunk(0, start_line=0)]),
        IndexChunks([chunk(0, start_line=5, end_line=4)]),
        IndexChunks([chunk(0, end_line=2**31)]),
        IndexChunks([chunk(0, hash="A" * 64)]),
        IndexChunks([chunk(0, language="Python 3")]),
        IndexChunks([chunk(0, id="x")]),
        IndexChunks([chunk(0, id="0" * 8 + "-0000-4000-8000-" + "0" * 12)] * 2),
        IndexChunks(delete=["00000000-0000-4000-8000-000000000000"] * (MAX_OPERATIONS + 1)),
        IndexChunks([chunk(0)], delete=["00000000-0000-4000-8000-000000000000"] * MAX_OPERATIONS),
        SetChunkEmbeddings([]),
        SetChunkEmbeddings([ChunkEmbedding("00000000-0000-4000-8000-000000000000", [float("nan")])]),
        SetChunkEmbeddings([ChunkEmbedding("00000000-0000-4000-8000-000000000000", b"abc")]),
        SetChunkEmbeddings([ChunkEmbedding("00000000-0000-4000-8000-000000000000", [])]),
        SetChunkEmbeddings([ChunkEmbedding("00000000-0000-4000-8000-000000000000", [1.0])] * 257),
        ListChunks(cursor="x"),
    ],
    ids=lambda request: str(request)[:60],
)
def test_what_is_too_large_or_malformed_is_refused_whole(nexus: Speaker, request_: Any) -> None:
    assert isinstance(nexus.error(request_), InvalidArgument)
    assert rows(nexus) == []


def test_chunks_of_another_project_are_not_touched(nexus: Speaker) -> None:
    nexus.call(IndexChunks([chunk(0)]))
    theirs = ids(nexus)[0]
    nexus.call(SetChunkEmbeddings([ChunkEmbedding(theirs, [1.0, 2.0])]))
    other = nexus.at("default")
    for request in (
        IndexChunks(delete=[theirs]),
        IndexChunks(move=[MovedChunk(theirs, "b.py", 1, 1)]),
        IndexChunks([chunk(0, like=theirs)]),
        SetChunkEmbeddings([ChunkEmbedding(theirs, [5.0, 5.0])]),
    ):
        error = other.error(request)
        assert (error.type, error.details) == ("chunk.elsewhere", {"id": theirs})
    assert other.error(IndexChunks([chunk(0, id=theirs)])).type == "chunk.id_taken"
    assert (other.call(DeleteChunks()).deleted, rows(other)) == (0, [])
    assert other.error(GetChunk("src/a.py:1")).type == "chunk.not_found"
    # An id is found in any project.
    assert other.call(GetChunk(theirs, embedding=True)).embedding == [1.0, 2.0]


def test_lists_are_paged_in_the_order_of_files_and_lines(nexus: Speaker) -> None:
    files = ["a", "a-b/x", "a.py", "a/b.py", "a/c/d.py", "a0", "b"]
    nexus.call(IndexChunks([chunk(number, file) for number in (1, 0) for file in files]))
    everything = [(file, line) for file in sorted(files) for line in (1, 11)]
    assert rows(nexus) == everything
    for under, wanted in {
        None: everything,
        "a": [row for row in everything if row[0] in ("a", "a/b.py", "a/c/d.py")],
        "a/": [row for row in everything if row[0] in ("a", "a/b.py", "a/c/d.py")],
        "a/c": [("a/c/d.py", 1), ("a/c/d.py", 11)],
        "a.py": [("a.py", 1), ("a.py", 11)],
        "c": [],
    }.items():
        for list_, field in ((ListChunkHashes, "hashes"), (ListChunks, "chunks"), (GetChunkMap, "rows")):
            found, cursor = [], None
            while True:
                page = nexus.call(list_(under, limit=3, cursor=cursor))
                found += [(each.file, each.start_line) for each in getattr(page, field)]
                assert len(getattr(page, field)) <= 3
                cursor = page.next_cursor
                if cursor is None:
                    break
            assert found == wanted, (list_, under)
    cursor = nexus.call(ListChunks(limit=1)).next_cursor
    assert nexus.error(ListChunks("a", cursor=cursor)).type == "chunk.cursor_invalid"
    assert nexus.error(ListChunkHashes(cursor=cursor)).type == "chunk.cursor_invalid"


def test_lists_by_language_and_type(nexus: Speaker) -> None:
    nexus.call(
        IndexChunks([chunk(0), chunk(1, language="go"), chunk(2, chunk_type=ChunkType.CLASS, content="x", symbols=[])])
    )

    def found(**fields: Any) -> list[int]:
        return [int(each.hash, 16) for each in nexus.call(ListChunks(**fields)).chunks]

    assert found(language="python") == [0, 2]
    assert found(chunk_type=ChunkType.METHOD) == [0, 1]
    assert found(language="go", chunk_type=ChunkType.CLASS) == []
    assert [(row.symbol, row.chunk_type) for row in nexus.call(GetChunkMap()).rows] == [
        ("A.f0", "method"),
        ("A.f1", "method"),
        (None, "class"),
    ]


def test_a_model_fills_what_has_no_embedding(nexus: Speaker) -> None:
    nexus.call(IndexChunks([chunk(number) for number in range(5)]))
    seen = []
    while texts := nexus.call(ListUnembeddedChunks(limit=2)).chunks:
        seen += [each.content for each in texts]
        done = nexus.call(
            SetChunkEmbeddings([ChunkEmbedding(each.id, [1.0, float(each.start_line)]) for each in texts])
        )
        assert done.embedded == len(texts)
    assert seen == [chunk(number).content for number in range(5)]
    known = ids(nexus)
    mismatch = nexus.error(SetChunkEmbeddings([ChunkEmbedding(known[0], [1.0])]))
    assert mismatch.type == "vectors.dimension_mismatch"
    done = nexus.call(
        SetChunkEmbeddings(
            [
                ChunkEmbedding(known[1], b"\0\0\x80?\0\0\0\xbf"),
                ChunkEmbedding("00000000-0000-4000-8000-00000000ffff", [1.0, 1.0]),
            ]
        )
    )
    assert (done.embedded, done.gone) == (1, 1)
    assert nexus.call(GetChunk(known[1], embedding=True)).embedding == [1.0, -0.5]
    newest = events_of(nexus)[-1]
    assert (newest.kind, newest.detail) == ("chunk.embedded", {"embedded": 1})


def test_symbols_are_found_by_name_and_part(nexus: Speaker) -> None:
    symbols = ["Daemon", "Daemon.start", "start", "restart", "Starter", "a::start", "Übung.Maß", "JobDaemon.stop"]
    nexus.call(
        IndexChunks([chunk(number, symbols=[symbol, "other"]) for number, symbol in enumerate(symbols)] + [chunk(90)])
    )
    nexus.call(IndexChunks([chunk(91, symbols=["user", "Daemon.start"])]))

    def found(query: str, limit: int = 50) -> list[tuple[str, str]]:
        return [(each.symbol, each.match) for each in nexus.call(FindSymbols(query, limit)).symbols]

    assert found("start") == [
        ("start", "exact"),
        ("a::start", "suffix"),
        ("Daemon.start", "suffix"),
        ("Daemon.start", "suffix"),
        ("Starter", "prefix"),
        ("restart", "substring"),
    ]
    assert found("START", 2) == [("start", "exact"), ("a::start", "suffix")]
    assert nexus.call(FindSymbols("start", 2)).more
    assert found("Daemon.st") == [("Daemon.start", "prefix")] * 2 + [("JobDaemon.stop", "substring")]
    assert found("daemon")[:3] == [("Daemon", "exact"), ("Daemon.start", "prefix"), ("Daemon.start", "prefix")]
    assert found("Daemon.")[0] == ("Daemon.start", "prefix")
    assert found("a.start") == found("A::Start") == [("a::start", "exact")]
    assert found("maß") == [("Übung.Maß", "suffix")]
    assert found("Übung") == [("Übung.Maß", "prefix")]
    assert found("nothing") == found("..") == []
    # What a symbol is the name of comes before what mentions it.
    first, second = nexus.call(FindSymbols("Daemon.start")).symbols[:2]
    assert (first.start_line, second.start_line) == (11, 911)


def test_search_finds_chunks_by_words_names_and_symbols(nexus: Speaker) -> None:
    nexus.call(
        IndexChunks([chunk(3, content="def f():\n    a = 1\n    return getWalrusTooth(a)", symbols=["readTusks"])])
    )

    def found(query: str, *, literal: bool = False) -> list[str]:
        return [hit.name for hit in nexus.call(Search(query, literal=literal)).hits if hit.kind == "chunk"]

    # The name has the line of the match.
    for query in ("walrus tooth", "getWalrusTooth kind:chunk", "getWal*"):
        assert found(query) == ["src/a.py:33"], query
    assert found("alrusToo", literal=True) == ["src/a.py:33"]
    assert found("tusks kind:chunk") == found("src a.py kind:chunk") == ["src/a.py:31"]
    (hit,) = nexus.call(Search("tooth")).hits
    assert hit.open == f"nexusctl chunk inspect {hit.id}"
    nexus.call(IndexChunks(move=[MovedChunk(hit.id, "lib/zebra.py", 41, 43)]))
    assert found("zebra") == ["lib/zebra.py:41"]
    assert found("tooth") == ["lib/zebra.py:43"]
    nexus.call(IndexChunks(delete=[hit.id]))
    assert found("tooth") == found("zebra") == []


def test_chunks_are_deleted_below_a_path_in_steps(nexus: Speaker) -> None:
    nexus.call(IndexChunks([chunk(number, file) for number in range(3) for file in ("a/x", "a/y", "b")]))
    first = nexus.call(DeleteChunks("a", limit=4))
    assert (first.deleted, first.more) == (4, True)
    second = nexus.call(DeleteChunks("a", limit=4))
    assert (second.deleted, second.more) == (2, False)
    assert rows(nexus) == [("b", 1), ("b", 11), ("b", 21)]
    newest = events_of(nexus)[-1]
    assert (newest.kind, newest.detail) == ("chunk.deleted", {"deleted": 2, "under": "a"})
    assert nexus.call(DeleteChunks()).deleted == 3
    assert nexus.call(DeleteChunks()).deleted == 0


def test_a_project_is_deleted_with_all_its_chunks(daemon: DaemonProcess) -> None:
    speaker = Speaker(daemon)
    shop = project(speaker, "shop")
    count = 1500
    for at in range(0, count, 500):
        shop.call(IndexChunks([chunk(number) for number in range(at, at + 500)]))
    assert speaker.call(GetProjectHoldings("shop")).counts == {"chunk": {"there": 1}}
    refused = speaker.error(DeleteProject("shop"))
    assert (refused.type, refused.details["records"]) == ("project.not_empty", {"chunk": 1})
    assert "it has 1 code index" in refused.message
    speaker.call(DeleteProject("shop", cascade=True))
    assert speaker.call(Search("walrus1499")).hits == []

    def left() -> int:
        with look_at(daemon.database) as database:
            ((chunks, symbols),) = database.execute(
                "SELECT (SELECT count(*) FROM code_chunks), (SELECT count(*) FROM chunk_symbol)"
            )
            return int(chunks + symbols)

    wait_until(lambda: not left(), "the chunks are gone")
    with look_at(daemon.database) as database:
        assert check(database) == []
    speaker.client.close()


def test_a_daemon_goes_on_with_the_chunks_of_a_deleted_project(daemon: DaemonProcess) -> None:
    with BlockingClient(daemon.socket_path) as client:
        client.call(IndexChunks([chunk(0), chunk(1)]))
    daemon.stop()
    with contextlib.closing(connect(daemon.database, isolation_level=None)) as database:
        database.execute("UPDATE code_chunks SET project_id = 'gone' WHERE file = 'src/a.py' AND start_line = 1")
    daemon.start()

    def left() -> int:
        with look_at(daemon.database) as database:
            return int(database.execute("SELECT count(*) FROM code_chunks").fetchone()[0])

    wait_until(lambda: left() == 1, "the chunk is gone")


def test_others_are_answered_while_an_index_is_written(nexus: Speaker, shared: DaemonProcess) -> None:
    """Every Ping between two requests of the index is answered, in whatever time."""
    done = threading.Event()

    def write() -> None:
        with BlockingClient(shared.socket_path) as client:
            for at in range(0, 2000, 200):
                new = [
                    chunk(number, content=f"walrus{number} = [\n" + "  1,\n" * 200) for number in range(at, at + 200)
                ]
                client.call(IndexChunks(new), project="shop")
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    pings = 0
    while not done.is_set():
        nexus.call(Ping())
        pings += 1
    writer.join()
    assert pings > 50
    assert len(rows(nexus)) == 2000


def test_bounds_are_those_of_the_chunker() -> None:
    assert records.MAX_CONTENT_BYTES == chunking.MAX_CHUNK_BYTES
    assert records.MAX_SYMBOLS == chunking.MAX_SYMBOLS
