"""What is written of an index: nothing twice, and rows that keep their embedding wherever their text goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.memory.chunking.chunks import chunk_text
from nexus.memory.chunking.listing import list_files
from nexus.memory.chunking.outline import Chunk
from nexus.memory.chunking.planning import Create, Delete, Move, OldChunk, Operation, Planner, batches, plan
from nexus.memory.chunking.reading import chunk_files

ROOT = Path(__file__).resolve().parents[2]
TEXT = "import os\n\n\ndef one():\n    return 1\n\n\ndef two():\n    return 2\n\n\nclass A:\n    def m(self): ...\n"


class Index:
    """The rows of an index, as operations change them."""

    def __init__(self) -> None:
        self.rows: dict[str, OldChunk] = {}
        self.made = 0

    def old(self) -> list[OldChunk]:
        return list(self.rows.values())

    def apply(self, operations: Iterable[Operation]) -> None:
        for operation in operations:
            if isinstance(operation, Create):
                self.made += 1
                chunk = operation.chunk
                row = OldChunk(f"c{self.made}", chunk.file, chunk.hash, chunk.start_line, chunk.end_line)
                self.rows[row.id] = row
            elif isinstance(operation, Delete):
                del self.rows[operation.id]
            else:
                row = self.rows[operation.id]
                assert (row.file, row.start_line, row.end_line) != operation[1:]
                self.rows[operation.id] = OldChunk(
                    row.id, operation.file, row.hash, operation.start_line, operation.end_line
                )

    def places(self) -> Counter[tuple[str, str, int, int]]:
        return Counter(row[1:] for row in self.rows.values())


def places(chunks: Iterable[Chunk]) -> Counter[tuple[str, str, int, int]]:
    return Counter((chunk.file, chunk.hash, chunk.start_line, chunk.end_line) for chunk in chunks)


def indexed(files: dict[str, str]) -> Index:
    index = Index()
    index.apply(plan([], chunks_of(files)).operations)
    return index


def chunks_of(files: dict[str, str]) -> list[Chunk]:
    return [chunk for file, text in files.items() for chunk in chunk_text(file, text)]


def kinds(operations: Iterable[Operation]) -> list[str]:
    return sorted(type(operation).__name__ for operation in operations)


def test_the_second_index_of_this_repository_writes_nothing() -> None:
    listing = list_files(str(ROOT))
    assert len(listing.files) > 700
    files = listing.files[::12]
    index = Index()
    first = Planner([])
    for found in chunk_files(str(ROOT), files):
        index.apply(first.add(found.file, found.chunks))
    index.apply(first.finish())
    assert len(index.rows) > 500
    second = Planner(index.old())
    operations = [one for found in chunk_files(str(ROOT), files) for one in second.add(found.file, found.chunks)]
    assert operations + second.finish() == []
    assert second.kept == len(index.rows)


def test_a_renamed_file_keeps_its_rows() -> None:
    index = indexed({"a.py": TEXT, "b.py": "x = 1\n"})
    before = set(index.rows)
    found = plan(index.old(), chunks_of({"new/a.py": TEXT, "b.py": "x = 1\n"}))
    assert kinds(found.operations) == ["Move"] * 5
    assert {(move.file, move.start_line) for move in found.move} == {("new/a.py", line) for line in (1, 4, 8, 12, 13)}
    index.apply(found.operations)
    assert set(index.rows) == before


def test_an_edit_changes_the_touched_chunk_and_the_lines_of_later_ones() -> None:
    index = indexed({"a.py": TEXT})
    edited = TEXT.replace("return 1", "value = 1\n    return value")
    found = plan(index.old(), chunks_of({"a.py": edited}))
    assert [create.chunk.symbols for create in found.create] == [("one",)]
    assert found.create[0].like is None
    assert [(move.file, move.start_line, move.end_line) for move in found.move] == [
        ("a.py", 9, 10),
        ("a.py", 13, 13),
        ("a.py", 14, 14),
    ]
    assert (len(found.delete), found.kept) == (1, 1)
    assert index.rows[found.delete[0].id].start_line == 4


def test_a_function_that_goes_to_another_file_keeps_its_row() -> None:
    index = indexed({"a.py": TEXT, "z.py": "y = 1\n"})
    moved = "def two():\n    return 2\n"
    found = plan(index.old(), chunks_of({"a.py": TEXT.replace(moved, ""), "z.py": "y = 1\n\n" + moved}))
    assert (found.create, found.delete) == ([], [])
    assert ("z.py", 3, 4) in [move[1:] for move in found.move]


def test_a_copy_is_new_and_names_the_row_whose_embedding_it_shares() -> None:
    index = indexed({"a.py": "def f(): pass\n"})
    (row,) = index.old()
    found = plan(index.old(), chunks_of({"a.py": "def f(): pass\n", "b.py": "def f(): pass\n"}))
    assert [(create.chunk.file, create.like) for create in found.create] == [("b.py", row.id)]
    assert (found.move, found.delete, found.kept) == ([], [], 1)
    twice = plan(index.old(), chunks_of({"a.py": "def f(): pass\ndef f(): pass\n"}))
    assert [(create.chunk.start_line, create.like) for create in twice.create] == [(2, row.id)]


def test_one_of_several_equal_chunks_that_goes_is_deleted_and_the_others_move_at_most() -> None:
    index = indexed({"a.py": "def f(): pass\ndef g(): pass\ndef f(): pass\n"})
    found = plan(index.old(), chunks_of({"a.py": "def g(): pass\ndef f(): pass\n"}))
    assert kinds(found.operations) == ["Delete", "Move", "Move"]


def test_equal_chunks_move_in_their_order_whatever_the_order_of_the_rows() -> None:
    old = [OldChunk(str(line), "a.py", "h", line, line) for line in (3, 1, 2)]
    new = [chunk_text("a.py", "x = 1\n")[0]._replace(hash="h", start_line=line, end_line=line) for line in (13, 12, 11)]
    assert set(plan(old, new).move) == {Move(str(line), "a.py", line + 10, line + 10) for line in (1, 2, 3)}


def test_what_is_gone_is_deleted_unless_not_all_was_looked_at() -> None:
    index = indexed({"a.py": TEXT, "b.py": "x = 1\n"})
    gone = plan(index.old(), chunks_of({"b.py": "x = 1\n"}))
    assert (kinds(gone.operations), gone.kept) == (["Delete"] * 5, 1)
    assert plan(index.old(), chunks_of({"b.py": "x = 1\n"}), complete=False).operations == []
    planner = Planner(index.old())
    assert planner.add("a.py", []) == []  # it may have moved
    assert kinds(planner.finish(complete=False)) == ["Delete"] * 5


def test_a_new_chunk_is_given_at_once_and_one_that_may_have_moved_at_the_end() -> None:
    index = indexed({"b.py": "def f(): pass\n"})
    planner = Planner(index.old())
    assert kinds(planner.add("a.py", chunk_text("a.py", "def f(): pass\ndef new(): pass\n"))) == ["Create"]
    assert planner.add("b.py", []) == []
    assert planner.finish() == [Move("c1", "a.py", 1, 1)]


HASHES = st.integers(0, 4).map(lambda number: chunk_text("x.py", f"x{number} = 1\n")[0])
FILES = st.dictionaries(st.sampled_from("abcd"), st.lists(st.tuples(HASHES, st.integers(0, 2)), max_size=6))


def build(files: dict[str, list[tuple[Chunk, int]]]) -> dict[str, list[Chunk]]:
    made: dict[str, list[Chunk]] = {}
    for file, parts in files.items():
        line = 1
        made[file] = []
        for chunk, gap in parts:
            line += gap
            # A gap of 0 puts two at one line, as slices of a huge line are.
            made[file].append(chunk._replace(file=file, start_line=line, end_line=line))
    return made


@given(FILES, FILES)
def test_a_plan_makes_the_index_that_of_the_files_with_the_fewest_new_rows(
    before: dict[str, list[tuple[Chunk, int]]], after: dict[str, list[tuple[Chunk, int]]]
) -> None:
    index = Index()
    index.apply(plan([], [chunk for chunks in build(before).values() for chunk in chunks]).operations)
    wanted = [chunk for chunks in build(after).values() for chunk in chunks]
    found = plan(index.old(), wanted)
    old_hashes, new_hashes = Counter(row.hash for row in index.old()), Counter(chunk.hash for chunk in wanted)
    assert len(found.create) == (new_hashes - old_hashes).total()
    assert len(found.delete) == (old_hashes - new_hashes).total()
    assert found.kept >= (index.places() & places(wanted)).total()
    by_hash = {row.id: row.hash for row in index.old()}
    deleted = {delete.id for delete in found.delete}
    for create in found.create:
        assert (create.like is None) == (create.chunk.hash not in old_hashes)
        assert create.like is None or (create.like not in deleted and by_hash[create.like] == create.chunk.hash)
    index.apply(found.operations)
    assert index.places() == places(wanted)
    assert plan(index.old(), wanted).operations == []


@pytest.mark.parametrize(("items", "size"), [(1, 10**9), (3, 10**9), (1000, 1), (1000, 1500)])
def test_batches_are_bounded_and_in_order(items: int, size: int) -> None:
    operations: list[Operation] = [*plan([], chunks_of({"a.py": TEXT})).operations, Delete("1"), Move("2", "a", 1, 2)]
    made = list(batches(operations, max_items=items, max_bytes=size))
    assert [one for batch in made for one in batch] == operations
    assert all(0 < len(batch) <= items for batch in made)
    assert len(made) > 1
    assert list(batches([])) == []
