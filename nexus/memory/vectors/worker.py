"""The process that searches: reads the daemon's requests one after the other, and keeps matrices open between them.

Its shim (``nexus.runtime.command``) ends it with the daemon. The daemon does not import this module, and so never loads
numpy. A lock of the folder lets one such process at a time write there.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from nexus_protocol.errors import NexusError

from nexus.memory.vectors import reading_store as store
from nexus.memory.vectors.engine_choice import make_engine
from nexus.memory.vectors.matrix import Damaged, Matrix, State, build, open_matrix, paths_of
from nexus.memory.vectors.messages import (
    PREFIX_BYTES,
    Behind,
    Failed,
    FindNearest,
    Found,
    GaveUp,
    Reply,
    Synced,
    SyncMatrix,
    Working,
    decode_request,
    framed,
)
from nexus.memory.vectors.states import TABLES
from nexus.memory.vectors.validation import dimension_of, unit, values
from nexus.store.outside import OutsideReader

__all__ = ["main"]

_BEAT_S = 0.5
_NICENESS = 5
"""The daemon and the programs of people come first."""
_OPEN_MATRICES = 16
_FEW_CHANGES = 1000
"""So many changes are always made in place; more only if they are a small part of the rows."""
_CHANGED_PART = 8


class _Abandoned(Exception):
    """The request's time is over, or the daemon has sent the next one."""


def main() -> None:
    """Serve the daemon until it closes the socket. Arguments: the socket's descriptor, database, folder, engine."""
    descriptor, database, directory, engine = sys.argv[1:5]
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    os.nice(_NICENESS)
    channel = socket.socket(fileno=int(descriptor))
    channel.set_inheritable(False)
    with contextlib.suppress(ConnectionError):  # the daemon has ended
        _Worker(channel, Path(database), Path(directory), engine).serve()
    os._exit(0)


class _Worker:
    def __init__(self, channel: socket.socket, database: Path, directory: Path, engine: str) -> None:
        self._channel = channel
        self._database = database
        self._directory = directory
        self._engine = make_engine(engine)
        self._reader: OutsideReader | None = None
        self._lock = -1
        self._matrices: collections.OrderedDict[tuple[str, str], Matrix] = collections.OrderedDict()
        self._beat_at = 0.0

    def serve(self) -> None:
        """Carry out requests until the daemon closes the socket."""
        while (size := self._receive(PREFIX_BYTES)) and (
            data := self._receive(int.from_bytes(size, "big"))
        ) is not None:
            request = decode_request(data)
            try:
                reply = self._nearest(request) if isinstance(request, FindNearest) else self._sync(request)
            except _Abandoned:
                reply = GaveUp(request.number)
            except NexusError as error:
                self._forget(request)
                reply = Failed(request.number, "unavailable", error.message)
            except OSError as error:
                self._forget(request)
                reply = Failed(
                    request.number, "unavailable", f"cannot use the files of the matrix: {error.strerror or error}"
                )
            self._send(reply)

    def _receive(self, size: int) -> bytes | None:
        """Read exactly ``size`` bytes; None when the daemon has closed the socket."""
        parts = []
        while size:
            data = self._channel.recv(size)
            if not data:
                return None
            parts.append(data)
            size -= len(data)
        return b"".join(parts)

    def _send(self, reply: Reply) -> None:
        self._channel.sendall(framed(reply))

    def _forget(self, request: FindNearest | SyncMatrix) -> None:
        self._matrices.pop((request.collection, request.project_id), None)

    def _beat(self, request: FindNearest | SyncMatrix) -> Callable[[], None]:
        """What tells the daemon twice a second that the process works; it is called every few ms."""
        self._beat_at = time.monotonic() + _BEAT_S

        def beat() -> None:
            if time.monotonic() < self._beat_at:
                return
            self._beat_at = time.monotonic() + _BEAT_S
            self._send(Working(request.number))

        return beat

    # Nearest

    def _nearest(self, request: FindNearest) -> Reply:
        ends_at = time.monotonic() + request.timeout_ms / 1000
        key = (request.collection, request.project_id)
        matrix = self._matrices.get(key)
        if matrix is None or matrix.state.generation != request.generation or not matrix.is_untouched():
            return Behind(request.number)
        self._matrices.move_to_end(key)
        if dimension_of(request.query) != matrix.state.dimension:
            return Failed(request.number, "dimension", "", matrix.state.dimension)
        query = unit(values(request.query))
        if query is None:
            return Failed(request.number, "unavailable", "cannot search vectors: the query has no direction")
        beat = self._beat(request)

        def look() -> None:
            if time.monotonic() > ends_at or select.select([self._channel], [], [], 0)[0]:
                raise _Abandoned

        places = None
        known = matrix.places if request.filters or request.candidates is not None else {}
        if request.candidates is not None:
            places = {known[name] for name in request.candidates if name in known}
        if request.filters:
            assert self._reader is not None
            found: set[int] = set()
            for batch in store.matching(self._reader, *key, request.filters):
                look()
                beat()
                found.update(known[name] for (name,) in batch if name in known)
            places = found if places is None else places & found

        empty = not matrix.ids or (places is not None and not places)
        chosen = None if places is None else sorted(places)
        hits = [] if empty else self._engine.nearest(matrix.rows, matrix.ids, query, request.limit, chosen, look)
        return Found(request.number, hits, self._engine.name)

    # Sync

    def _sync(self, request: SyncMatrix) -> Reply:
        beat = self._beat(request)
        self._take_lock()
        if self._reader is None:
            self._reader = OutsideReader(self._database)
            self._sweep(self._reader)
        key = (request.collection, request.project_id)
        path, ids_path = paths_of(self._directory, *key)
        reason = ""
        matrix = self._matrices.pop(key, None)
        if matrix is None or not matrix.is_untouched():
            matrix = None  # its memory is free before the next one is read
            try:
                matrix = open_matrix(path, beat)
            except Damaged as error:
                reason = str(error) if path.exists() else ""
        rebuilt, skipped = False, 0
        with contextlib.ExitStack() as snapshot:
            snapshot.enter_context(self._reader.snapshot())
            wanted = store.read_collection(self._reader, *key)
            if wanted is None:
                matrix = None
                for each in (path, ids_path):
                    each.unlink(missing_ok=True)
                return Synced(request.number, self._engine.name, 0, 0, 0, 0, False, reason)
            state = State(*wanted)
            if matrix is not None and matrix.state != state:
                changes = self._changes(matrix, state, key)
                if changes is None:
                    matrix = None
                else:
                    snapshot.close()
                    matrix.change(changes, state, beat)
            if matrix is None:
                rebuilt = True
                batches = store.embeddings(self._reader, *key)
                matrix, skipped = build(path, state, batches, snapshot.close, self._engine, beat)
        self._matrices[key] = matrix
        while len(self._matrices) > _OPEN_MATRICES:
            self._matrices.popitem(last=False)
        return Synced(
            request.number,
            self._engine.name,
            state.dimension,
            state.generation,
            len(matrix.ids),
            skipped,
            rebuilt,
            reason,
        )

    def _changes(self, matrix: Matrix, state: State, key: tuple[str, str]) -> dict[str, bytes | None] | None:
        """What is to be changed in the matrix, as vectors of length 1; None if it is to be rebuilt."""
        has = matrix.state
        assert self._reader is not None
        if has.dimension != state.dimension or has.generation >= state.generation:
            return None
        if not store.is_known(self._reader, *key, has.generation, has.changed_at):
            return None
        most = max(_FEW_CHANGES, len(matrix.ids) // _CHANGED_PART)
        names = store.changed_since(self._reader, *key, has.generation, most)
        if names is None:
            return None
        changes: dict[str, bytes | None] = {}
        size = state.dimension
        for name in names:
            data = store.embedding_of(self._reader, *key, name)
            good = isinstance(data, bytes) and len(data) == size * 4 and "\n" not in name
            row = bytearray(data) if good and data is not None else None
            changes[name] = None if row is None or self._engine.normalise(row, size) else bytes(row)
        return changes

    def _sweep(self, reader: OutsideReader) -> None:
        """Remove what a killed process left unfinished, and the files of collections that are gone."""
        for collection in TABLES:
            for path in (self._directory / collection).glob("*"):
                project_id = path.name.partition(".")[0]
                if path.suffix == ".new" or store.read_collection(reader, collection, project_id) is None:
                    path.unlink(missing_ok=True)

    def _take_lock(self) -> None:
        """Wait until the process of an earlier daemon, which is being killed, has ended."""
        if self._lock >= 0:
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        self._lock = lock


if __name__ == "__main__":
    main()
