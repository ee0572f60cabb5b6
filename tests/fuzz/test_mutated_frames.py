"""100,000 mutated frames against a real daemon: it serves other clients, its memory stays flat, and it loses no change
that it acknowledged. ``make soak`` sends 400,000."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import threading
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nexus_protocol import (
    CONTEXT,
    ClientConnection,
    Command,
    ErrorReceived,
    SuccessReceived,
    decode_map,
    encode_command,
    encode_frame,
)
from nexus_protocol.context import encode_context
from nexus_protocol.frame import CANCEL, HEADER_SIZE, INPUT
from support.daemon import DaemonProcess, short_directory
from support.raw import RawClient, pack
from support.soak import SOAK

from nexus.journal.commands import WatchEvents
from nexus.system.commands import (
    BackupDatabase,
    DeleteSetting,
    Describe,
    GetSetting,
    GetSystemStatus,
    Health,
    Hello,
    ListSettings,
    Ping,
    SetSetting,
)
from nexus.vms.commands import CreateVm, DeleteVm, GetVm, ListVms, UpdateVm
from nexus.vms.states import VmRole

FRAMES = 100_000
THREADS = 4
FRAMES_A_CONNECTION = 100
SEED = 20_240_229
MIB = 1024 * 1024
SHUTDOWN = 40


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[DaemonProcess]:
    """A daemon for all tests of this module. At the end its log must be empty."""
    root = short_directory()
    daemon = DaemonProcess(root, config='[daemon]\nlog_level = "error"\n')
    try:
        daemon.start()
        yield daemon
        assert daemon.stop() == 0
        assert daemon.log() == ""
    finally:
        daemon.close()
        shutil.rmtree(root)


def _valid_command(rng: random.Random) -> Command[object]:
    name = f"fuzz-{rng.randrange(300)}"
    vm = rng.choice((name, str(uuid.UUID(int=rng.getrandbits(128))), f"{rng.getrandbits(16):04x}"))
    key = f"fuzz.{rng.randrange(50)}"
    pick = rng.randrange(100)
    if pick < 30:
        id_ = str(uuid.UUID(int=rng.getrandbits(128))) if rng.random() < 0.3 else None
        return CreateVm(name, rng.choice(list(VmRole)), rng.randint(1, 32), rng.randint(16, 4096), id_)
    if pick < 42:
        return DeleteVm(vm)
    if pick < 52:
        return UpdateVm(vm, name=f"fuzz-{rng.randrange(300)}", mem_size_mib=rng.randint(16, 4096))
    if pick < 60:
        return GetVm(vm)
    if pick < 66:
        cursor = rng.choice((None, "lMDAz___________oXg", "k8DAzgABhqCkYWFhYQ"))
        return ListVms(role=rng.choice((None, VmRole.WORK)), limit=rng.randint(1, 50), cursor=cursor)
    if pick < 70:
        follow = rng.random() < 0.2
        return WatchEvents(after=rng.choice((None, 0, 5, 2**62)), kinds=["vm.*", "[*?"], subject=name, follow=follow)
    if pick < 78:
        value = rng.choice((1, True, "text", [1, {"a": None}], {"k": [2.5]}, 2**63, -(2**63), ""))
        return SetSetting(rng.choice((key, "journal.keep_days")), value)
    if pick < 82:
        return DeleteSetting(key)
    if pick < 86:
        return GetSetting(key)
    if pick < 87:
        return ListSettings()
    if pick < 93:
        return Ping(rng.randbytes(rng.randrange(200)))
    if pick < 96:
        return Hello(client="fuzz", actor=rng.choice((None, "agent")), why=rng.choice((None, "fuzz")))
    if pick < 97:
        return Health()
    if pick < 98:
        return GetSystemStatus()
    if pick < 99:
        return Describe()
    return BackupDatabase("/proc/nowhere/to/be/written") if rng.random() < 0.9 else BackupDatabase()


VALUES = [
    b"\xc0", b"\xc1", b"\xc2", b"\xc3", b"\x80", b"\x90", b"\xa0", b"\x7f", b"\xff", b"\xcf" + b"\xff" * 8,
    b"\xd3\x80" + bytes(7), b"\xcb\x7f\xf8" + bytes(6), b"\xcb\x7f\xf0" + bytes(6), b"\xca\x7f\xc0\0\0",
    b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff",
    b"\xd4\x01\x00", b"\xd6\xff" + bytes(4), b"\xc7\x0c\xff" + bytes(12), b"\xa2\xff\xfe", b"\xa3\xed\xa0\x80",
    b"\x91" * 2000 + b"\xc0", b"\x81\xa1k" * 1000 + b"\xc0", b"\xdc\x40\x00" + b"\x80" * 0x4000,
    b"\xa1\x00", b"\xc4\x01\x00",
]  # fmt: skip


def _mutate_payload(rng: random.Random, payload: bytes, other: bytes) -> bytes:
    data = bytearray(payload)
    kind = rng.randrange(8)
    at = rng.randrange(len(data) + 1)
    if kind == 0 and data:
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = rng.choice(VALUES)
    elif kind == 3:
        data[at : at + rng.randrange(1, 9)] = rng.choice(VALUES)
    elif kind == 4:
        data[at:] = other[rng.randrange(len(other) + 1) :]
    elif kind == 5 and data and data[0] & 0xF0 == 0x80:
        # A map with every field twice: the last one counts.
        data = bytearray([0x80 | min(15, (data[0] & 15) * 2)]) + data[1:] + data[1:]
    elif kind == 6:
        data += rng.randbytes(rng.randrange(1, 40))
    elif kind == 7 and data:
        # Replace one byte, often a whole value of the map.
        at = rng.randrange(len(data))
        data[at : at + 1] = rng.choice(VALUES)
    return bytes(data)


def _context(rng: random.Random, previous: bytes) -> bytes:
    """The bytes of a context: often valid, else mutated."""
    key = f"fuzz-{rng.getrandbits(40)}" if rng.random() < 0.3 else None
    context = encode_context(key=key, why=rng.choice((None, "fuzz", "é" * 250))) or b"\x80"
    return _mutate_payload(rng, context, previous) if rng.random() < 0.4 else context


def _mutate_frame(rng: random.Random, frame: bytes) -> bytes:
    data = bytearray(frame)
    kind = rng.randrange(5)
    if kind == 0:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[rng.randrange(len(data)) :]
    elif kind == 2:
        data[8:12] = rng.choice((0, 1, len(data), 65_536, 65_537, 2**24, 2**32 - 1)).to_bytes(4, "big")
    elif kind == 3:
        data[rng.randrange(HEADER_SIZE)] = rng.randrange(256)
    else:
        data += rng.randbytes(rng.randrange(1, 30))
    return bytes(data)


class _Outcome:
    """The results of one thread's requests."""

    def __init__(self) -> None:
        self.acknowledged: list[tuple[int, dict[str, object]]] = []
        """(command, reply) of every Success of a command that changes a VM."""
        self.frames = 0
        self.answers = 0


def _one_connection(daemon: DaemonProcess, rng: random.Random, outcome: _Outcome) -> None:
    sent: dict[int, int] = {}
    parts: list[bytes] = []
    previous = b"\x80"
    for _ in range(FRAMES_A_CONNECTION):
        command = _valid_command(rng)
        code, payload = command.info.code, encode_command(command)
        roll = rng.random()
        if code == BackupDatabase.info.code:
            roll = 1.0  # a mutated path would write a file at an arbitrary place
        if roll < 0.75:
            mutated = _mutate_payload(rng, payload, previous)
            previous, payload = payload or b"\x80", mutated
        if 0.75 <= roll < 0.80:
            code = rng.choice((0x0101, 0x0107, 0x0199, 1, 0xEFFF, 47, 51))
        flags = 0
        if rng.random() < 0.3:
            flags = CONTEXT
            payload = _context(rng, previous) + (payload or b"\x80")
        sequence = len(sent) + 1
        sent[sequence] = code
        data = encode_frame(code, sequence, payload, flags)
        if 0.80 <= roll < 0.803:
            data = _mutate_frame(rng, data)
            if data[6:8] == SHUTDOWN.to_bytes(2, "big"):
                continue
        if roll < 0.03:
            data += encode_frame(CANCEL, rng.randrange(1, sequence + 1))
        elif roll < 0.05:
            data += encode_frame(INPUT, rng.randrange(1, sequence + 1), pack({"data": b"x"}))
        parts.append(data)
        outcome.frames += 1
    with RawClient(daemon.socket_path) as client:
        engine = ClientConnection()
        engine._open.update(sent)
        client.engine = engine
        whole = b"".join(parts)
        try:
            client.send_bytes(whole)
            # Watches with follow would stay open for ever.
            client.send_bytes(b"".join(encode_frame(CANCEL, s) for s, code in sent.items() if code == 51))
            if rng.random() < 0.8:
                client.half_close()
                client.read_to_end()
        except (BrokenPipeError, ConnectionResetError):
            with contextlib.suppress(ConnectionResetError):
                client.read_to_end()
        for sequence in client.last_sequences():
            last = client._last[sequence]
            outcome.answers += 1
            if isinstance(last, SuccessReceived) and sent[sequence] in (0x0100, 0x0103, 0x0107):
                outcome.acknowledged.append((sent[sequence], decode_map(last.payload)))
            assert not isinstance(last, ErrorReceived) or decode_map(last.payload)["code"] != "internal", last


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("repetition", range(max(SOAK // 5, 1)))
def test_mutated_frames_do_not_harm_other_clients_memory_or_data(fuzzed: DaemonProcess, repetition: int) -> None:
    with RawClient(fuzzed.socket_path) as canary:
        canary.call(Ping())
        before = fuzzed.rss_bytes()
        outcomes = [_Outcome() for _ in range(THREADS)]
        failures: list[BaseException] = []

        def work(number: int) -> None:
            rng = random.Random(SEED + THREADS * repetition + number)
            try:
                while outcomes[number].frames < FRAMES // THREADS:
                    _one_connection(fuzzed, rng, outcomes[number])
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert canary.call(Ping(b"canary")).payload == b"canary"
            next((thread for thread in threads if thread.is_alive()), threads[0]).join(0.05)
        assert not failures, failures
        assert sum(outcome.frames for outcome in outcomes) >= FRAMES
        assert sum(outcome.answers for outcome in outcomes) > FRAMES // 2, "most frames were answered"
        assert sum(len(outcome.acknowledged) for outcome in outcomes) > 1000
        assert fuzzed.rss_bytes() - before < 40 * MIB
        _check_store(fuzzed, canary, outcomes)


def _check_store(daemon: DaemonProcess, canary: RawClient, outcomes: list[_Outcome]) -> None:
    """Check that the journal has every acknowledged change, and that replaying it gives the records in the table."""
    stream = canary.begin(WatchEvents(after=0, follow=False))
    vms: dict[str, dict[str, object]] = {}
    events: set[tuple[str, str]] = set()
    for event in canary.items(stream):
        id_, detail = event.get("subject_id"), event.get("detail")
        events.add((event.get("kind"), id_))
        if event.get("kind") == "vm.created":
            vms[id_] = {"name": event["subject_name"], **detail}
        elif event.get("kind") == "vm.updated":
            vms[id_].update({field: change["to"] for field, change in detail.items()})
        elif event.get("kind") == "vm.deleted":
            del vms[id_]
    for code, vm in (entry for outcome in outcomes for entry in outcome.acknowledged):
        kind = {0x0100: "vm.created", 0x0103: "vm.deleted"}.get(code)
        assert kind is None or (kind, vm["id"]) in events, f"an acknowledged change is not in the journal: {vm}"
    there: dict[str, dict[str, object]] = {}
    cursor = None
    while True:
        page = canary.call(ListVms(cursor=cursor))
        for vm in page.vms:
            there[vm.id] = {
                "name": vm.name,
                "role": vm.role,
                "cid": vm.cid,
                "vcpu_count": vm.vcpu_count,
                "mem_size_mib": vm.mem_size_mib,
            }
        cursor = page.next_cursor
        if cursor is None:
            break
    assert there == vms
    with contextlib.closing(sqlite3.connect(f"{daemon.database.as_uri()}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@settings(
    max_examples=150 * SOAK, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(chunks=st.lists(st.binary(max_size=200), max_size=6))
def test_random_bytes_in_random_chunks_affect_only_their_connection(fuzzed: DaemonProcess, chunks: list[bytes]) -> None:
    with RawClient(fuzzed.socket_path) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for chunk in chunks:
                client.sock.sendall(chunk)
            client.half_close()
        client.read_to_end()


_HEADERS = st.builds(
    lambda code, sequence, payload, flags: b"" if code == SHUTDOWN else encode_frame(code, sequence, payload, flags),
    st.one_of(st.sampled_from((42, 44, 46, 48, 51, 0x0101, 0x0102, INPUT, CANCEL)), st.integers(1, 0xEFFF)),
    st.integers(1, 5),
    st.one_of(
        st.just(b""),
        st.binary(max_size=60),
        st.dictionaries(st.text(max_size=8), st.none()).map(pack),
        st.lists(st.dictionaries(st.sampled_from(("key", "why", "x")), st.text(max_size=8)), max_size=3).map(
            lambda maps: b"".join(map(pack, maps))
        ),
    ),
    st.sampled_from((0, 0, 0, CONTEXT, CONTEXT, CONTEXT, 2)),
)


@settings(
    max_examples=150 * SOAK, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(frames=st.lists(_HEADERS, max_size=12), cut=st.integers(1, 64))
def test_random_frames_in_random_chunks_are_answered_or_refused(
    fuzzed: DaemonProcess, frames: list[bytes], cut: int
) -> None:
    data = b"".join(frames)
    with RawClient(fuzzed.socket_path) as client:
        client.engine._open.update(range(1, 6))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for start in range(0, len(data), cut):
                client.sock.sendall(data[start : start + cut])
            client.half_close()
        client.read_to_end()
    with RawClient(fuzzed.socket_path) as other:
        assert other.call(Ping(b"alive")).payload == b"alive"
