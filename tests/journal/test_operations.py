"""Lists of operations and of events over numbers with wide gaps, as a replaced damaged database leaves them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator

import pytest
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.journal.commands import GetOperation, ListOperations, OperationNotFound, WatchEvents
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
