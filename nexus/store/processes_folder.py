"""Which folder of processes belongs to which database: a daemon ends every process there that no record knows.

The folder holds the id of its database. A copy has it as well, so that a restored backup finds its processes. It also
holds the number of the last event before its last start of a process: a database that has fewer events has lost some,
and with them records. It knows names of folders, and nothing of what is in them.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from nexus.hints import command_line, joined
from nexus.paths import PathError, default_database_path
from nexus.store.backup import fsync_directory, timestamp
from nexus.store.base import InitError
from nexus.store.sqlite import SqliteStore, database_file
from nexus.trust import make_trusted, require_trusted

__all__ = ["ForeignProcesses", "ProcessesFolder", "note_event", "noted_event"]

_log = logging.getLogger("nexus.store")

_ID = "database-id"
_EVENT = "database-event"
_EVENT_BYTES = 20


def note_event(directory: Path, seq: int) -> None:
    """Note in a folder of processes that event ``seq`` is durable; to be called before a process is started.

    A write of a few bytes at a fixed place, without a sync: after a crash of the machine no process lives.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(directory / _EVENT, flags, 0o600)
        try:
            os.pwrite(descriptor, str(seq).rjust(_EVENT_BYTES - 1).encode() + b"\n", 0)
        finally:
            os.close(descriptor)
    except OSError as error:  # a full disk must not keep a service from starting
        _log.warning("cannot write %s: %s", directory / _EVENT, error.strerror)


def noted_event(directory: Path) -> int:
    """The number that ``note_event`` noted last; 0 without one."""
    try:
        return int((directory / _EVENT).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _folder_of(database: Path) -> Path:
    plain = database.name == "nexus.db"
    return (database.parent if plain else database.with_name(f"{database.name}.d")) / "processes"


class ForeignProcesses(InitError):
    """The processes beside a database are not those of its records. Nothing was changed."""


class ProcessesFolder:
    """The folder of the processes that the records of ``database`` describe.

    Each database has its own. With ``fresh`` a folder that belongs to another database is set aside, not refused.
    """

    def __init__(self, database: Path, *, fresh: bool = False) -> None:
        self._database = database_file(database)
        self._fresh = fresh
        self.path = _folder_of(self._database)
        at_link = _folder_of(database.absolute())
        if at_link.exists() and not self.path.exists():
            # The database was moved, with a link in its place; its processes were not.
            self.path = at_link
        self.aside: Path | None = None
        """Where a folder that belongs to another database was set aside."""

    def open_store(self, store: SqliteStore) -> None:
        """Open the store of this database; the processes in the folder are then those of its records.

        Raises:
            ForeignProcesses: they are not: the database is new, or another one.
            Untrusted: the folder is not trusted.
            InitError: the store cannot be opened.
        """
        require_trusted(os.fspath(self.path), "the folder of processes")
        require_trusted(os.fspath(self.path.with_name("tunnels")), "the folder of tunnels")
        store.init(before_new=self._before_new)
        try:
            self._link(store)
        except BaseException:
            store.close_now()
            raise

    def _set_aside(self) -> None:
        """Rename the folder, and that of its tunnels' targets, to dated names, unless it holds nothing.

        Its processes go on. A tunnel has the folder as its working directory, and finds its target there.
        """
        if not self._owners():
            return
        suffix = f".set-aside-{timestamp()}"
        # The tunnels first: without them the folder of processes is found again by the next attempt.
        for folder in (self.path.with_name("tunnels"), self.path):
            aside = folder.with_name(folder.name + suffix)
            try:
                with contextlib.suppress(FileNotFoundError):
                    folder.rename(aside)
                fsync_directory(aside.parent)
            except OSError as error:
                raise InitError(
                    f"cannot set {folder} aside: {error.strerror}",
                    hint=f"Rename it yourself: {command_line('mv', folder, aside)}",
                ) from error
        _log.warning(
            "the processes that are not those of %s go on, and their folder was set aside: %s", self._database, aside
        )
        self.aside = aside

    def _owners(self) -> list[str]:
        """The folders in it, each with the output and the processes of one object."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(entry.name for entry in os.scandir(self.path) if entry.is_dir(follow_symlinks=False))
        return []

    def _before_new(self) -> None:
        """Before a new, empty database is made: it knows none of the processes."""
        if self._fresh:
            self._set_aside()
        elif self._owners():
            raise self._foreign(
                f"cannot start with a new database: {self._database} is missing or empty, but the processes and the "
                f"output of the one before are in {self.path}"
            )

    def _link(self, store: SqliteStore) -> None:
        id_ = store.id()
        noted = self._noted()
        if noted not in (None, id_) and self._owners():
            if not self._fresh:
                raise self._foreign(
                    f"cannot use database {self._database}: the processes in {self.path} belong to another database"
                )
            self._set_aside()
        seq, noted_seq = store.last_event(), noted_event(self.path)
        if seq < noted_seq and self._owners():
            if not self._fresh:
                raise self._foreign(
                    f"cannot use database {self._database}: it ends with event {seq}, but the processes in {self.path} "
                    f"are of event {noted_seq}, so that it is an old copy or has lost its newest records"
                )
            self._set_aside()
        if id_ is not None and self._noted() != id_:
            self._note(id_)

    def _noted(self) -> str | None:
        try:
            return (self.path / _ID).read_text(encoding="ascii", errors="replace").strip() or None
        except OSError:
            return None

    def _note(self, id_: str) -> None:
        try:
            make_trusted(os.fspath(self.path), "the folder of processes")
            new = self.path / f".{_ID}.new"
            with open(new, "w", encoding="ascii") as file:
                file.write(f"{id_}\n")
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path / _ID)
            fsync_directory(self.path)
        except OSError as error:  # a full disk must not keep the daemon from starting
            _log.warning("cannot write %s: %s", self.path / _ID, error.strerror)

    def _foreign(self, message: str) -> ForeignProcesses:
        try:
            usual = os.fspath(self._database) == os.path.realpath(default_database_path())
        except PathError:
            usual = False
        option = () if usual else ("--db", self._database)
        return ForeignProcesses(
            message,
            hint=joined(
                f"Put the database back: {command_line('nexusctl', 'db', 'restore', 'BACKUP', *option)}",
                "Or rename the folder of these processes, which ends and deletes nothing, and start: "
                + command_line("nexusd", "--fresh", *option),
                "The same as a detached process or a unit: nexusctl daemon start --fresh" if usual else None,
            ),
        )
