"""Watching events: each event once and in order, across lost connections and restarts of the daemon."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from nexus_protocol import NexusError, Unavailable
from support.daemon import DaemonProcess
from support.raw import RawClient, connect, wait_until

from nexus.journal.commands import JournalAhead, JournalPruned, WatchEvents
from nexus.system.commands import Hello, SetSetting, Shutdown
from nexus.vms.commands import CreateVm, DeleteVm, UpdateVm

DAY_MS = 24 * 60 * 60 * 1000


def _events(client: RawClient, **wanted: Any) -> list[dict[str, Any]]:
    """All events up to now."""
    sequence = client.begin(WatchEvents(follow=False, **wanted))
    events = list(client.items(sequence))
    client.result(sequence)
    return events


class _Watcher(threading.Thread):
    """Follows the events, closes its connection at random, and resumes after the last event that it saw."""

    def __init__(self, daemon: DaemonProcess, seed: int, stop_after: Callable[[], int | None]) -> None:
        super().__init__()
        self.seen: list[tuple[int, str]] = []
        self.reconnects = 0
        self._daemon = daemon
        self._rng = random.Random(seed)
        self._stop_after = stop_after
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            after = 0
            while (end := self._stop_after()) is None or after < end:
                after = self._watch(after)
                self.reconnects += 1
        except BaseException as error:
            self.failure = error

    def _watch(self, after: int) -> int:
        budget = self._rng.randrange(1, 60)
        with connect(self._daemon) as client:
            client.sock.settimeout(0.5)
            with contextlib.suppress(OSError):
                for item in client.items(client.begin(WatchEvents(after=after))):
                    if "kind" in item:
                        self.seen.append((item["seq"], item["subject_name"]))
                    after = item["seq"]
                    budget -= 1
                    if not budget:
                        break
        return after


def _write(daemon: DaemonProcess, writer: int, acknowledged: list[str], stop: threading.Event) -> None:
    number = 0
    while not stop.is_set():
        with contextlib.suppress(OSError, EOFError, NexusError), connect(daemon) as client:
            while not stop.is_set():
                number += 1
                name = f"vm-{writer}-{number}"
                client.call(CreateVm(name=name))
                acknowledged.append(name)


@pytest.mark.slow
def test_watchers_see_each_event_once_in_order_across_lost_connections_restart_and_kill(
    daemon: DaemonProcess,
) -> None:
    acknowledged: list[list[str]] = [[] for _ in range(8)]
    stop = threading.Event()
    end: list[int] = []
    writers = [threading.Thread(target=_write, args=(daemon, n, acknowledged[n], stop)) for n in range(8)]
    watchers = [_Watcher(daemon, seed, lambda: end[0] if end else None) for seed in range(3)]
    for thread in [*writers, *watchers]:
        thread.start()

    def written() -> int:
        return sum(map(len, acknowledged))

    try:
        for act in (daemon.stop, daemon.kill, None):
            before = written()
            wait_until(lambda before=before: written() > before + 400, "more events")  # type: ignore[misc]
            if act is not None:
                act()
                daemon.start()
    finally:
        stop.set()
        for thread in writers:
            thread.join(60)
        with contextlib.closing(sqlite3.connect(daemon.database)) as connection:
            rows = connection.execute("SELECT seq, subject_name FROM journal ORDER BY seq").fetchall()
        end.append(rows[-1][0] if rows else 0)
        for watcher in watchers:
            watcher.join(60)
    assert {name for _, name in rows} >= {name for names in acknowledged for name in names}
    for watcher in watchers:
        assert watcher.failure is None
        assert watcher.reconnects > 5
        assert watcher.seen == rows


def test_event_has_kind_subject_detail_and_caller(daemon: DaemonProcess) -> None:
    with RawClient(daemon.socket_path) as client:
        client.call(Hello(client="test 1", actor="agent seven"))
        before = int(time.time() * 1000)
        vm = client.call(CreateVm(name="web", vcpu_count=2))
        client.call(UpdateVm("web", name="shop", vcpu_count=2, mem_size_mib=256))
        client.call(UpdateVm("shop", mem_size_mib=256))
        client.call(SetSetting("a.b", "secret"))
        client.call(SetSetting("a.b", "secret"))
        client.call(DeleteVm(vm.id))
        events = _events(client)
    assert [event["kind"] for event in events] == ["vm.created", "vm.updated", "setting.set", "vm.deleted"]
    created, updated, setting, _ = events
    assert created["detail"] == {"role": "work", "cid": 3, "vcpu_count": 2, "mem_size_mib": 128}
    assert updated["detail"] == {
        "name": {"from": "web", "to": "shop"},
        "mem_size_mib": {"from": 128, "to": 256},
    }
    assert "secret" not in str(setting)
    assert created["subject_kind"] == "vm"
    assert (created["subject_id"], created["subject_name"]) == (vm.id, "web")
    assert updated["subject_name"] == "shop"
    for event in events:
        assert (event["actor"], event["uid"], event["pid"]) == ("agent seven", os.geteuid(), os.getpid())
        assert before <= event["at"] <= int(time.time() * 1000)


@pytest.fixture
def varied(daemon: DaemonProcess) -> DaemonProcess:
    """A daemon with events of several kinds, some with kinds that no command writes."""
    assert daemon.stop() == 0
    with contextlib.closing(sqlite3.connect(daemon.database)) as connection:
        for kind, subject in [
            ("vm.created", "a"), ("vm.deleted", "a"), ("setting.set", "k"), ("vm[1].x", "b"), ("vm1.x", "b"),
            ("vm.Created", "c"), ("vmXcreated", "c"),
        ]:  # fmt: skip
            connection.execute(
                "INSERT INTO journal (at, kind, subject_kind, subject_id, subject_name, uid, pid) "
                "VALUES (?, ?, 'vm', ?, ?, 0, 1)",
                (int(time.time() * 1000), kind, f"id-{subject}", subject),
            )
        connection.commit()
    return daemon.start()


@pytest.mark.parametrize(
    ("kinds", "subject", "expected"),
    [
        (None, None, ["vm.created", "vm.deleted", "setting.set", "vm[1].x", "vm1.x", "vm.Created", "vmXcreated"]),
        (["vm.*"], None, ["vm.created", "vm.deleted", "vm.Created"]),
        (["vm.created"], None, ["vm.created"]),
        (["vm?created"], None, ["vm.created", "vmXcreated"]),
        (["vm[1].x"], None, ["vm[1].x"]),
        (["vm[1]*", "setting.*"], None, ["setting.set", "vm[1].x"]),
        (["*"], "a", ["vm.created", "vm.deleted"]),
        (None, "id-c", ["vm.Created", "vmXcreated"]),
        (["vm1*"], "a", []),
        (None, "nothing", []),
        ([], "k", ["setting.set"]),
    ],
)
def test_filters_are_globs_of_kinds_and_a_subject(
    varied: DaemonProcess, kinds: list[str] | None, subject: str | None, expected: list[str]
) -> None:
    with RawClient(varied.socket_path) as client:
        events = _events(client, kinds=kinds, subject=subject)
        assert [event["kind"] for event in events if "kind" in event] == expected


def test_watch_without_follow_ends_at_the_newest_event_and_returns_its_number(varied: DaemonProcess) -> None:
    with RawClient(varied.socket_path) as client:
        sequence = client.begin(WatchEvents(after=5, follow=False))
        assert [item["seq"] for item in client.items(sequence)] == [6, 7]
        assert client.result(sequence) == {"seq": 7}
        sequence = client.begin(WatchEvents(after=7, follow=False))
        assert list(client.items(sequence)) == []
        assert client.result(sequence) == {"seq": 7}


def test_watch_after_a_future_number_is_refused(varied: DaemonProcess) -> None:
    with RawClient(varied.socket_path) as client:
        for after in (8, 2**63 - 1):
            error = client.call_error(WatchEvents(after=after))
            assert isinstance(error, JournalAhead)
            assert error.details == {"newest_seq": 7}


def test_watch_with_follow_gets_new_events(varied: DaemonProcess) -> None:
    with RawClient(varied.socket_path) as watcher, RawClient(varied.socket_path) as writer:
        items = watcher.items(watcher.begin(WatchEvents(after=7, kinds=["vm.created"])))
        for number in range(20):
            writer.call(CreateVm(name=f"vm-{number}"))
            writer.call(DeleteVm(f"vm-{number}"))
            assert next(items)["subject_name"] == f"vm-{number}"


def _insert_events(daemon: DaemonProcess, count: int, at: int) -> None:
    with contextlib.closing(sqlite3.connect(daemon.database)) as connection:
        connection.executemany(
            "INSERT INTO journal (at, kind, subject_kind, subject_id, uid, pid) VALUES (?, 'x.old', 'x', 'x', 0, 1)",
            ((at,) for _ in range(count)),
        )
        connection.commit()


def test_old_events_are_pruned_and_a_cursor_into_them_gets_where_to_resume(
    daemon: DaemonProcess,
) -> None:
    with RawClient(daemon.socket_path) as client:
        client.call(SetSetting("journal.keep_days", 2))
    daemon.stop()
    now = int(time.time() * 1000)
    _insert_events(daemon, 5000, now - 3 * DAY_MS)
    _insert_events(daemon, 10, now - DAY_MS)
    # The first event is new. No later event is deleted before it, so that the kept numbers have no holes.
    daemon.start()
    with RawClient(daemon.socket_path) as client:
        assert len(_events(client)) == 5011
    daemon.stop()
    with contextlib.closing(sqlite3.connect(daemon.database)) as connection:
        connection.execute("UPDATE journal SET at = ? WHERE seq = 1", (now - 4 * DAY_MS,))
        connection.commit()
    daemon.start()
    with RawClient(daemon.socket_path) as client:
        wait_until(lambda: "deleted 5001 events" in daemon.log(), "the end of the pruning")
        for after in (0, 1, 5000):
            error = client.call_error(WatchEvents(after=after))
            assert isinstance(error, JournalPruned)
            assert error.details == {"oldest_seq": 5002, "resume_after": 5001}
            assert "5001" in str(error.hint)
        assert [event["seq"] for event in _events(client, after=5001)] == list(range(5002, 5012))
        assert [event["seq"] for event in _events(client)] == list(range(5002, 5012))


def test_changed_keep_days_prunes_at_once(daemon: DaemonProcess) -> None:
    daemon.stop()
    now = int(time.time() * 1000)
    _insert_events(daemon, 3, now - 20 * DAY_MS)
    _insert_events(daemon, 2, now - 3 * DAY_MS)
    daemon.start()
    with RawClient(daemon.socket_path) as client:
        assert len(_events(client)) == 5
        client.call(SetSetting("journal.keep_days", 10))
        wait_until(lambda: "deleted 3 events older than 10 days" in daemon.log(), "the first pruning")
        client.call(SetSetting("journal.keep_days", 1))
        wait_until(lambda: "deleted 2 events older than 1 days" in daemon.log(), "the second pruning")
        assert [event["kind"] for event in _events(client)] == ["setting.set", "setting.set"]


def test_event_numbers_continue_after_every_event_was_pruned(daemon: DaemonProcess) -> None:
    daemon.stop()
    _insert_events(daemon, 10, 1)
    daemon.start()
    wait_until(lambda: "deleted 10 events" in daemon.log(), "the end of the pruning")
    with RawClient(daemon.socket_path) as client:
        assert _events(client) == []
        client.call(CreateVm(name="next"))
        assert [event["seq"] for event in _events(client, after=10)] == [11]


def test_filtered_watch_gets_progress_items(daemon: DaemonProcess) -> None:
    daemon.stop()
    _insert_events(daemon, 12_000, int(time.time() * 1000))
    daemon.start()
    with RawClient(daemon.socket_path) as watcher:
        items = watcher.items(watcher.begin(WatchEvents(kinds=["none"])))
        progress = next(items)
        assert set(progress) == {"seq"}
        assert 5000 <= progress["seq"] <= 12_000


@pytest.mark.parametrize("how", ["SIGTERM", "Shutdown"])
def test_stop_ends_watches_with_where_to_resume(daemon: DaemonProcess, how: str) -> None:
    with RawClient(daemon.socket_path) as watcher, RawClient(daemon.socket_path) as client:
        sequence = watcher.begin(WatchEvents())
        for number in range(3):
            client.call(CreateVm(name=f"vm-{number}"))
        items = watcher.items(sequence)
        assert [next(items)["seq"] for _ in range(3)] == [1, 2, 3]
        if how == "Shutdown":
            client.call(Shutdown())
        else:
            assert daemon.process is not None
            daemon.process.terminate()
        error = watcher.error(sequence)
        assert isinstance(error, Unavailable)
        assert error.details == {"resume_after": 3}
        assert "3" in str(error.hint)
    assert daemon.stop() == 0
    daemon.start()
    with RawClient(daemon.socket_path) as client:
        client.call(CreateVm(name="later"))
        assert [event["subject_name"] for event in _events(client, after=3)] == ["later"]
