"""Lists of operations and of events over numbers with wide gaps, as a replaced damaged database leaves them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nexus_protocol import Command
from support.daemon import DaemonProcess
from support.stores import make_store

from nexus.client import BlockingClient
from nexus.journal.commands import (
    GetOperation,
    ListOperations,
    OperationCursorInvalid,
    OperationNotFound,
    WatchEvents,
)
from nexus.journal.operations import Wanted, list_operations
from nexus.records.pages import encode_cursor
from nexus.vms.commands import CreateVm

FAR = 1_700_000_000_000


@pytest.fixture
def nexus(make_daemon: Callable[..., DaemonProcess]) -> Iterator[BlockingClient]:
    """A client of a daemon with operations and events of low numbers, and of very high ones."""
    daemon = make_daemon().start()
    with BlockingClient(daemon.socket_path) as client:
        for number in range(5):
            client.call(CreateVm(f"low-{number}"))
    assert daemon.stop() == 0
    with contextlib.closing(sqlite3.connect(daemon.database)) as connection, connection:
        connection.execute("INSERT INTO schema_meta (key, value) VALUES ('operation_pruned_id', ?)", (str(FAR),))
        connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'journal'", (FAR,))
    daemon.start()
    with BlockingClient(daemon.socket_path) as client:
        for number in range(5):
            client.call(CreateVm(f"high-{number}"))
        yield client


def test_operations_below_a_gap_are_listed(nexus: BlockingClient) -> None:
    names = [f"{side}-{number}" for side in ("high", "low") for number in range(4, -1, -1)]
    whole = nexus.call(ListOperations())
    assert [operation.subjects for operation in whole.operations] == [[name] for name in names]
    assert whole.next_cursor is None
    assert [operation.id > FAR for operation in whole.operations] == [True] * 5 + [False] * 5
    (found,) = nexus.call(ListOperations(subject="low-2")).operations
    assert nexus.call(GetOperation(found.id)).operation == found
    with pytest.raises(OperationNotFound):
        nexus.call(GetOperation(FAR - 1))
    listed, cursor = [], None
    for _ in range(20):
        page = nexus.call(ListOperations(limit=2, cursor=cursor))
        listed += page.operations
        cursor = page.next_cursor
        if cursor is None:
            break
    assert listed == whole.operations


@pytest.mark.parametrize("kinds", [None, ["vm.*"], ["service.*"]])
def test_events_beyond_a_gap_are_given(nexus: BlockingClient, kinds: list[str] | None) -> None:
    with nexus.stream(WatchEvents(after=0, kinds=kinds, follow=False)) as stream:
        found = [event.subject_name for event in stream if event.kind is not None]
    names = [f"{side}-{number}" for side in ("low", "high") for number in range(5)]
    assert found == ([] if kinds == ["service.*"] else names)


def test_cursor_with_a_number_that_no_column_has_is_invalid(nexus: BlockingClient) -> None:
    operation = nexus.call(ListOperations()).operations[0].id
    for number in (2**63, 2**64 - 1, -(2**63)):
        cursors = (
            encode_cursor(("operations", *Wanted(parts=False)), (number,)),
            encode_cursor(("operation", operation), (number,)),
        )
        commands: list[Command[Any]] = [ListOperations(cursor=cursors[0]), GetOperation(operation, cursor=cursors[1])]
        for command in commands:
            if number < 0:
                nexus.call(command)
                continue
            with pytest.raises(OperationCursorInvalid):
                nexus.call(command)


def test_step_of_a_search_is_short_where_operations_have_many_events(root: Path) -> None:
    """Every operation is found, be its events more than a step reads."""
    store = make_store(root)
    store.init()
    with contextlib.closing(sqlite3.connect(store.path)) as connection, connection:
        for id_ in range(1, 6):
            connection.execute("INSERT INTO operation (id, at, command, uid, pid) VALUES (?, 1, 'Test', 1, 1)", (id_,))
            connection.executemany(
                "INSERT INTO journal (at, kind, subject_kind, subject_id, uid, pid, detail, operation_id) "
                "VALUES (1, 'test.event', 'test', ?, 1, 1, '{}', ?)",
                ((f"subject-{number}", id_) for number in range(3000)),
            )
    below, found, steps = 6, [], 0
    while below > 1:
        part, below = store.read(
            lambda reader, below=below: list_operations(reader, below, Wanted(subject="subject-2999"), 50)
        )
        found += part
        steps += 1
    assert [operation.id for operation in found] == [5, 4, 3, 2, 1]
    assert steps > 2
    assert found[0].subjects == [f"subject-{number}" for number in range(10)]
