"""``chunk index``: compares the files of a folder with the index, and sends the differences in bounded requests.

It reads the files of the person who calls; the daemon reads none. It can be interrupted after any request: the next
run sends what is missing.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from nexus.cli.output import Printer, hint, printable
from nexus.cli.progress import ProgressLine
from nexus.cli.result import made
from nexus.hints import command_line
from nexus.memory.chunking.files import GONE, Skipped, check_name, shown
from nexus.memory.chunking.listing import MAX_FILES, CannotList, Listing, list_files
from nexus.memory.chunking.planning import Create, Delete, Move, OldChunk, Operation, Planner, batches
from nexus.memory.chunking.reading import chunk_files
from nexus.memory.chunks.commands import IndexChunks, ListChunkHashes
from nexus.memory.chunks.records import MovedChunk, NewChunk
from nexus.memory.chunks.states import ChunkType

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["index"]

_PAGE = 10_000
_AT_ONCE = 200
"""Changes in one request: the writes of others wait for it."""
_TOLD = 20
"""Files that are named to a person."""


class _Place(NamedTuple):
    root: str
    under: str
    """The path below it; "" is all."""
    is_file: bool


class _Outcome(NamedTuple):
    """What an index did, or would do."""

    root: str
    files: int
    created: int
    moved: int
    deleted: int
    unchanged: int
    skipped: list[Skipped]
    replaced: list[tuple[str, int]]
    dry_run: bool


class _Indexing:
    """One run, and what was done so far."""

    def __init__(self, app: App, place: _Place, line: ProgressLine, *, dry_run: bool) -> None:
        self._app = app
        self._place = place
        self._line = line
        self._dry_run = dry_run
        self._is_begun = False
        self.files = self.created = self.moved = self.deleted = self.sent = 0
        self.skipped: list[Skipped] = []
        self.replaced: list[tuple[str, int]] = []

    def run(self, listing: Listing) -> _Outcome:
        self.skipped += listing.skipped
        planner = Planner(self._old())
        for batch in batches(self._operations(planner, listing.files), max_items=_AT_ONCE):
            self._send(batch)
        return _Outcome(
            *(self._place.root, self.files, self.created, self.moved, self.deleted, planner.kept),
            *(self.skipped, self.replaced, self._dry_run),
        )

    def _old(self) -> Iterator[OldChunk]:
        cursor: str | None = None
        while True:
            page = self._app.call(ListChunkHashes(self._place.under or None, _PAGE, cursor))
            for row in page.hashes:
                yield OldChunk(row.id, row.file, row.hash, row.start_line, row.end_line)
            cursor = page.next_cursor
            if cursor is None:
                return

    def _operations(self, planner: Planner, files: list[str]) -> Iterator[Operation]:
        for number, found in enumerate(chunk_files(self._place.root, files), 1):
            if found.skipped is None:
                self.files += 1
            elif found.skipped != GONE:
                self.skipped.append(Skipped(shown(found.file), found.skipped))
            if found.replaced:
                self.replaced.append((shown(found.file), found.replaced))
            yield from planner.add(found.file, found.chunks)
            self._line.show(f"{number} of {len(files)} files, {self.sent} changes  {printable(found.file)}")
        yield from planner.finish()

    def _send(self, batch: list[Operation]) -> None:
        create = [_new(each) for each in batch if isinstance(each, Create)]
        move = [MovedChunk(*each) for each in batch if isinstance(each, Move)]
        delete = [each.id for each in batch if isinstance(each, Delete)]
        if self._dry_run:
            self._count(len(create), len(move), len(delete))
            return
        if not self._is_begun:
            # The requests of a run are one operation, and a run that changes nothing is none.
            from nexus.cli.operations import begin_operation

            self._app.cause = begin_operation(
                self._app.call, "chunk.index", {"root": self._place.root[:1024], "under": self._place.under[:1024]}
            )
            self._is_begun = True
        reply = self._app.call(IndexChunks(create, move, delete))
        self._count(reply.created, reply.moved, reply.deleted)

    def _count(self, created: int, moved: int, deleted: int) -> None:
        self.created += created
        self.moved += moved
        self.deleted += deleted
        self.sent += created + moved + deleted


def _new(operation: Create) -> NewChunk:
    chunk = operation.chunk
    return NewChunk(
        id=str(uuid.uuid4()),
        file=chunk.file,
        start_line=chunk.start_line,
        end_line=chunk.end_line,
        content=chunk.content,
        symbols=list(chunk.symbols),
        chunk_type=ChunkType(chunk.chunk_type),
        language=chunk.language,
        complexity=chunk.complexity,
        hash=chunk.hash,
        like=operation.like,
    )


def index(app: App, out: Printer, given: str | None, root: str | None, *, dry_run: bool, git: bool) -> int:
    """Index the files of the project, or those of a path; returns the exit code."""
    place = _place(app, given, root)
    if place.is_file:
        listing = Listing([place.under], [], False, "walk")
    else:
        listing = list_files(place.root, place.under, git=git)
    if listing.truncated:
        raise CannotList(
            f"cannot index {shown(str(Path(place.root, place.under)))}: it has more than {MAX_FILES} files",
            "Index a folder below it: nexusctl chunk index FOLDER",
        )
    line = ProgressLine()
    indexing = _Indexing(app, place, line, dry_run=dry_run)
    try:
        outcome = indexing.run(listing)
    except KeyboardInterrupt as error:
        error.add_note(f"{indexing.sent} changes of the index were made. Run it again for the others.")
        raise
    except OSError as error:
        raise CannotList(
            f"cannot index {shown(place.root)}: {error.strerror}", "Give the path of a folder that can be read."
        ) from None
    finally:
        line.end()
    out.one(made(outcome, _plain(outcome)), name=lambda one: one.root, sentence=_tell)
    return 0


def _place(app: App, given: str | None, root: str | None) -> _Place:
    """The folder that paths are relative to, and the path below it that is indexed."""
    if root is None:
        root = _root_of_project(app)
    folder = Path(root).resolve()
    target = folder
    if given is not None:
        path = Path(given)
        # The last link is not followed: what it leads to is not in the index by this name.
        target = path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name
    under = "" if target == folder else os.path.relpath(target, folder)
    if under.split("/")[0] == "..":
        raise CannotList(
            f"cannot index {shown(str(given))}: it is not below {shown(str(folder))}",
            "Give a path below the folder of the project, or name another folder with --root.",
        )
    problem = check_name(under) if under else None
    if problem is None and not (target.exists() or target.is_symlink()):
        raise CannotList(
            f"cannot index {shown(str(given or root))}: there is no such file or folder",
            f"Delete what the index has of it: {command_line('nexusctl', 'chunk', 'delete', '--', under)}"
            if under
            else "Name the folder with --root.",
        )
    if problem is not None:
        raise CannotList(f"cannot index {shown(str(given))}: {problem}", "Rename it.")
    return _Place(str(folder), under, not target.is_dir() or target.is_symlink())


def _root_of_project(app: App) -> str:
    project = app.project_record()
    if project.root_path is None or app.host is not None:
        where = "has no folder" if project.root_path is None else "has its folder on another host"
        raise CannotList(
            f'cannot index: project "{project.name}" {where}',
            f"Name the folder that its paths start at: {command_line('nexusctl', 'chunk', 'index', '--root', '.')}",
        )
    return project.root_path


def _plain(outcome: _Outcome) -> dict[str, object]:
    return {
        **outcome._asdict(),
        "skipped": [{"file": each.file, "reason": each.reason} for each in outcome.skipped],
        "replaced": [{"file": file, "count": count} for file, count in outcome.replaced],
    }


def _tell(outcome: _Outcome) -> None:
    told = [f"  {each.file}: skipped, {each.reason}" for each in outcome.skipped]
    told += [f"  {file}: {count} characters that are not UTF-8 were replaced" for file, count in outcome.replaced]
    for text in told[:_TOLD]:
        click.echo(printable(text), err=True)
    if len(told) > _TOLD:
        hint(f"{len(told) - _TOLD} more files: -o json has all of them.")
    done = "Would index" if outcome.dry_run else "Indexed"
    skipped = f"; {len(outcome.skipped)} skipped" if outcome.skipped else ""
    click.echo(
        f"{done} {outcome.files} file{'s' * (outcome.files != 1)}: {outcome.created} chunks created, "
        f"{outcome.moved} moved, {outcome.deleted} deleted, {outcome.unchanged} unchanged{skipped}"
    )
