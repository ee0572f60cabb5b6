"""Baselines: the least code that does comparable work on the same machine in the same run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from nexus.store.connection import connect
from nexus.store.migrate import migrate, target_version

__all__ = ["SqliteInserts", "forked", "ping_pong", "select_dicts"]

_MESSAGE = bytes(400)

_COLUMNS = (
    "id, name, role, state, cid, vcpu_count, mem_size_mib, created_at, updated_at, revision, state_revision, "
    "started_at, stopped_at, pid, socket_path, uds_path, console_log_path, config_json"
)


@contextlib.contextmanager
def forked(work: Callable[[], None]) -> Iterator[int]:
    """Run ``work`` in a child process, which is killed at the end of the block; yields its pid."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@contextlib.contextmanager
def ping_pong() -> Iterator[Callable[[], None]]:
    """Exchange 400 bytes with an echo process; both ends use blocking sockets."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

    def echo() -> None:
        ours.close()
        while data := theirs.recv(65536):
            theirs.sendall(data)

    with ours, forked(echo):
        theirs.close()

        def exchange() -> None:
            ours.sendall(_MESSAGE)
            assert len(ours.recv(65536)) == len(_MESSAGE)

        yield exchange


class SqliteInserts:
    """Inserts the rows of a new VM in one transaction, in this process, on the schema of Nexus.

    They are the VM, its operation and its event with its image; all indexes are there.
    """

    def __init__(self, path: Path) -> None:
        self._connection = connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        migrate(self._connection, 0, target_version())
        self._cid = 2

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def __call__(self) -> None:
        execute = self._connection.execute
        self._cid += 1
        id_, name, now = str(uuid.uuid4()), f"vm-{self._cid}", int(time.time() * 1000)
        detail = json.dumps({"role": "work", "cid": self._cid, "vcpu_count": 1, "mem_size_mib": 128})
        execute("BEGIN IMMEDIATE")
        execute(
            "INSERT INTO vms (id, name, role, state, cid, vcpu_count, mem_size_mib, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (id_, name, "work", "created", self._cid, 1, 128, now, now),
        )
        execute(
            "INSERT INTO operation (id, at, command, args, uid, pid) VALUES (?, ?, ?, ?, ?, ?)",
            (self._cid, now, "CreateVm", msgspec.msgpack.encode({"name": name}), os.getuid(), os.getpid()),
        )
        image = {"id": id_, "name": name, "role": "work", "state": "created", "cid": self._cid, "vcpu_count": 1}
        image |= {"mem_size_mib": 128, "created_at": now, "updated_at": now, "revision": 1, "state_revision": 0}
        execute(
            "INSERT INTO journal (at, kind, subject_kind, subject_id, subject_name, actor, uid, pid, detail, "
            "operation_id, row_table, row_key, revision, after) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(now, "vm.created", "vm", id_, name, None, os.getuid(), os.getpid(), detail),
                *(self._cid, "vms", id_, 1, msgspec.msgpack.encode(image)),
            ),
        )
        execute("COMMIT")


def select_dicts(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """All VM records as dicts, in the order of ListVms."""
    cursor = connection.execute(f"SELECT {_COLUMNS} FROM vms ORDER BY created_at DESC, id DESC")
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]
