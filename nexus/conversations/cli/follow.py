"""The process that follows sources: ``python -m nexus.conversations.cli.follow DATABASE``.

Every second it compares the files of the sources that are followed with what they were, and imports those that changed.
The daemon starts it; it outlives the daemon, finds the next one by the database, and is told by SIGURG that the sources
have changed. It ends when nothing is followed, within seconds when the database is gone or is another file, and after
two minutes without a daemon. What it knows is a copy of what the daemon has: it may be killed at any moment, and the
next daemon starts another one.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from nexus_protocol.errors import InvalidArgument, NexusError, NotFound

from nexus.address import read_address
from nexus.client.blocking import BlockingClient
from nexus.client.errors import ConnectionFailure
from nexus.conversations.cli.importer import Importer, is_text
from nexus.conversations.import_commands import AddConversationSource, ListConversationSources
from nexus.conversations.import_records import ConversationSource
from nexus.conversations.importing.formats import files_in, format_of
from nexus.conversations.importing.reading import Identity, identity_of

__all__ = ["Follow", "main"]

_log = logging.getLogger("nexus.conversations.follow")

_LOOK_S = 1.0
_SHARE = 50
"""A look at all files is followed by a pause of so many times its length: 2 % of a core at most."""
_LONGEST_RETRY_S = 30.0
"""Between attempts to reach the daemon, or to read a file that could not be read."""
ALONE_S = 120.0
"""How long it waits for the next daemon: longer than a restart, or an upgrade, takes."""
_GLANCE_S = 2.0
"""How often it looks whether the database is there."""
_PAGE = 1000


class Follow:
    """The sources that are followed, and the state that each file had when it was read last."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self._file = _file_id(database)
        self._client: BlockingClient | None = None
        self._importer = Importer(self._call)
        self._project: str | None = None
        self._roots: list[ConversationSource] = []
        self._sources: dict[str, ConversationSource] = {}
        """The files, by path."""
        self._seen: dict[str, Identity] = {}
        self._failed: dict[str, _Failure] = {}
        """The files that could not be read the last time, by path."""
        self._stale = True

    def is_over(self) -> bool:
        """Whether the database is gone, or another file is in its place."""
        return self._file is None or _file_id(self.database) != self._file

    def changed(self) -> None:
        """Read the sources again before the next look."""
        self._stale = True

    def _call(self, command: Any, cause: int | None = None) -> Any:
        if self._client is None:
            address = read_address(self.database)
            if address is None:
                raise NoDaemon
            client = BlockingClient(address.socket, actor="conversation import", name="nexus-follow")
            client.connect()
            self._client = client
        project = self._project if not isinstance(command, ListConversationSources) else "*"
        return self._client.call(command, cause=cause, project=project)

    def disconnect(self) -> None:
        """Close the connection, and read the sources again once there is another."""
        if self._client is not None:
            self._client.close()
            self._client = None
        self._stale = True

    def _load(self) -> None:
        found: dict[str, ConversationSource] = {}
        cursor: str | None = None
        while True:
            page = self._call(ListConversationSources(limit=_PAGE, cursor=cursor))
            found |= {source.path: source for source in page.sources}
            cursor = page.next_cursor
            if cursor is None:
                break
        self._roots = [source for source in found.values() if source.watched]
        # What was read by another process meanwhile is not taken back: reading it again adds nothing.
        self._sources = found
        self._stale = False

    def look(self) -> bool:
        """Import what has changed; returns whether anything is followed.

        Raises:
            NexusError, ConnectionFailure, NoDaemon: the daemon cannot be reached, or refuses.
        """
        if self._stale:
            self._load()
            self._seen.clear()
        present: set[str] = set()
        for root in self._roots:
            files = [path for path in files_in(Path(root.path), root.format) if is_text(str(path))]
            present.update(map(str, files))
            for path in files:
                self._look_at(root, path)
            self._note(root, files)
        for gone in (self._seen.keys() | self._failed.keys()) - present:  # deleted: what was imported stays
            self._seen.pop(gone, None)
            self._failed.pop(gone, None)
        return bool(self._roots)

    def _note(self, root: ConversationSource, files: list[Path]) -> None:
        """Note why what is followed, or a file in it, cannot be read; or that it can be again."""
        error = _trouble(Path(root.path))
        failed = [str(path) for path in files if str(path) in self._failed]
        if error is None and failed:
            others = f" (and {len(failed) - 1} more files)" if len(failed) > 1 else ""
            where = "" if failed[0] == root.path else f"{failed[0]}: "
            error = f"{where}{self._failed[failed[0]].error}{others}"
        self._project = root.project_id
        try:
            self._sources[root.path] = self._importer.note(self._sources.get(root.path, root), error)
        except NotFound:  # it was removed meanwhile
            self._stale = True

    def _look_at(self, root: ConversationSource, path: Path) -> None:
        name = str(path)
        try:
            identity = identity_of(path)
        except OSError:
            return
        failed = self._failed.get(name)
        if self._seen.get(name) == identity and (failed is None or time.monotonic() < failed.again_at):
            return
        self._project = root.project_id
        source = self._sources.get(name)
        if source is None:
            try:
                format_ = format_of(path, root.format)
            except OSError as error:
                self._fail(name, error.strerror or str(error))
                return
            if format_ is None:
                # It may be known once more of it is written.
                self._seen[name] = identity
                return
            source = self._importer.source(
                AddConversationSource(name, format_, redact=root.redact, redact_secrets=root.redact_secrets)
            )
        try:
            outcome, source = self._importer.run(source, on_demand=False)
        except NotFound:  # it was removed meanwhile
            self._sources.pop(name, None)
            self._stale = True
            return
        except InvalidArgument as error:
            self._fail(name, error.message)
            self._seen[name] = identity
            return
        if source.id:
            self._sources[name] = source
        self._seen[name] = identity
        if outcome.error is not None:
            self._fail(name, outcome.error)
            return
        self._failed.pop(name, None)
        if outcome.added or outcome.changed:
            _log.info("imported %d messages of %s", outcome.added, path)

    def _fail(self, name: str, error: str) -> None:
        """Read a file again after a while, each time a longer one."""
        before = self._failed.get(name)
        if before is None or before.error != error:
            _log.warning("cannot import %s: %s", name, error)
        wait_s = _LOOK_S if before is None else min(2 * before.wait_s, _LONGEST_RETRY_S)
        self._failed[name] = _Failure(error, wait_s, time.monotonic() + wait_s)


class _Failure(NamedTuple):
    """Why a file could not be read, and when it is read again."""

    error: str
    wait_s: float
    again_at: float


def _trouble(path: Path) -> str | None:
    """Why a file or a folder cannot be looked at."""
    try:
        if path.is_dir():
            os.scandir(path).close()
        else:
            identity_of(path)
    except FileNotFoundError:
        return "it is not there any more"
    except OSError as error:
        return error.strerror or str(error)
    return None


def _file_id(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class NoDaemon(Exception):
    """No daemon runs with the database."""


def main(alone_s: float = ALONE_S) -> int:
    """Follow until nothing is followed any more, the database is gone, or no daemon comes back."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    os.umask(0o077)
    follow = Follow(Path(sys.argv[1]))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG})
    retry_s = _LOOK_S
    reached = time.monotonic()
    while not follow.is_over():
        begin = time.monotonic()
        pause_s = _LOOK_S
        try:
            if not follow.look():
                return 0
            pause_s = max(_LOOK_S, _SHARE * (time.monotonic() - begin)) if not _imported(begin) else _LOOK_S
            retry_s = _LOOK_S
            reached = time.monotonic()
        except (NexusError, ConnectionFailure, NoDaemon, OSError) as error:
            if isinstance(error, NexusError):
                reached = time.monotonic()
            if not isinstance(error, NoDaemon):
                _log.warning("cannot go on at present: %s", getattr(error, "message", error))
            follow.disconnect()
            if time.monotonic() - reached >= alone_s:
                _log.info("no daemon since %.0f s: the next one starts another process", alone_s)
                return 0
            pause_s, retry_s = retry_s, min(2 * retry_s, _LONGEST_RETRY_S)
        if _told_within(pause_s, follow):
            follow.changed()
            retry_s = _LOOK_S
    return 0


def _told_within(pause_s: float, follow: Follow) -> bool:
    """Wait; returns whether the daemon told of a change. It ends early where there is nothing to follow any more."""
    end = time.monotonic() + pause_s
    while (left_s := end - time.monotonic()) > 0 and not follow.is_over():
        if signal.sigtimedwait({signal.SIGURG}, min(left_s, _GLANCE_S)) is not None:
            return True
    return False


def _imported(begin: float) -> bool:
    return time.monotonic() - begin > _LOOK_S


if __name__ == "__main__":
    sys.exit(main())
