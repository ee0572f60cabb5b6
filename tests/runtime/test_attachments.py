"""Attached clients: their input and output, those that do not read, programs that do not read, and hostile ones."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import resource
import select
import signal
import socket
from pathlib import Path

import pytest
from support.attachments import client_process, open_socket, read_all, read_until, wait_for_log
from support.raw import wait_until
from support.runtimes import collect, joined, python, shell

from nexus.runtime import (
    AttachFailed,
    Attachment,
    AttachmentLost,
    InputClosed,
    NotAttachable,
    Process,
    ProcessSpec,
    RunEnded,
    Runtime,
    TooManyAttached,
)

HELLO = b"H1\x03\0\0\0\0"
MAX_CLIENTS = 16
MAX_DESCRIPTORS = 40
"""More than a shim with as many clients as may be attached needs."""

ECHO = """
import os, sys
os.write(1, b"up;")
while data := os.read(0, 65536):
    os.write(1, b"<" + data + b">")
os.write(2, b"end")
"""

HASH = """
import hashlib, os, sys, termios, tty
if os.isatty(0):
    tty.setraw(0)
os.write(1, b"up;")
while not os.path.exists(sys.argv[1]):
    import time; time.sleep(0.01)
left, digest = int(sys.argv[2]), hashlib.sha256()
while left:
    data = os.read(0, min(left, 65536))
    left -= len(data)
    digest.update(data)
os.write(1, digest.hexdigest().encode() + b";")
"""
"""Reads its input only once a file exists, and writes its hash."""

KINDS = pytest.mark.parametrize("options", [{"terminal": True}, {"stdin": "open"}], ids=["terminal", "pipe"])


def open_input(source: str, *arguments: object, **options: object) -> ProcessSpec:
    """A spec of a Python program with an open standard input."""
    return python(source, *arguments, stdin="open", **options)


def run_folder(runtime: Runtime) -> Path:
    return runtime.directory / "service-1" / "run-1"


# Pipes


def test_input_of_several_clients_reaches_the_program_and_both_streams_come_back(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", open_input(ECHO))
        first = await runtime.attach("service-1", "run-1")
        assert not first.terminal
        second = await runtime.attach("service-1", "run-1")
        await first.send(b"one")
        await read_until(second, b"up;", b"<one>")
        await second.send(b"two")
        await read_until(first, b"<two>")
        second.send_eof()
        assert await first.receive() == (2, b"end")
        assert await first.receive() is None
        assert (await process.wait()).code == 0
        for attachment in (first, second):
            with pytest.raises((InputClosed, RunEnded)):
                await attachment.send(b"more")
            attachment.close()
        assert joined(await collect(runtime.log("service-1")), 1) == b"up;<one><two>"

    asyncio.run(scenario())


def test_end_of_file_comes_behind_all_input_before_it(runtime: Runtime, root: Path) -> None:
    data = random.Random(2).randbytes(3_000_000)

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", open_input(HASH, root / "go", len(data)))
        attachment = await runtime.attach("service-1", "run-1")
        await read_until(attachment, b"up;")
        (root / "go").touch()
        await attachment.send(data)
        attachment.send_eof()
        attachment.send_eof()
        with pytest.raises(InputClosed):
            await attachment.send(b"more")
        assert await read_all(attachment) == hashlib.sha256(data).hexdigest().encode() + b";"
        assert (await process.wait()).code == 0
        attachment.close()

    asyncio.run(scenario())


def test_clients_learn_that_the_program_has_closed_its_standard_input(runtime: Runtime) -> None:
    async def scenario() -> None:
        spec = shell("read line; echo got $line; exec sleep 1000 <&-", stdin="open")
        process = await runtime.start("service-1", "run-1", spec)
        attachment = await runtime.attach("service-1", "run-1")
        await attachment.send(b"line\n")
        await read_until(attachment, b"got line")
        with pytest.raises(InputClosed, match="its standard input is closed") as caught:
            await send_for_ever(attachment)
        assert caught.value.message.startswith("cannot send input to run run-1")
        late = await runtime.attach("service-1", "run-1")
        assert await read_until(late, b"got line") == b"got line\n"
        with pytest.raises(InputClosed):
            await late.send(b"more")
        late.send_eof()
        late.resize(10, 20)
        await process.stop()
        for each in (attachment, late):
            assert await each.receive() is None
            each.close()

    asyncio.run(scenario())


async def send_for_ever(attachment: Attachment) -> None:
    """Send, also while the socket is full."""
    while True:
        await attachment.send(b"more" * 2000)


def test_sender_needs_neither_output_nor_replay_and_may_leave_at_once(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", open_input(ECHO))
        for number in range(50):
            attachment = await runtime.attach("service-1", "run-1", output=False, replay=False)
            await attachment.send(b"%d;" % number)
            attachment.close()
        watcher = await runtime.attach("service-1", "run-1")
        await read_until(watcher, b"49;")
        sender = await runtime.attach("service-1", "run-1", output=False, replay=False)
        sender.send_eof()
        assert await sender.receive() is None
        assert b"end" in await read_all(watcher)
        await process.wait()
        text = joined(await collect(runtime.log("service-1")), 1).replace(b"><", b"")
        assert text == b"up;<" + b"".join(b"%d;" % number for number in range(50)) + b">"
        for each in (watcher, sender):
            each.close()

    asyncio.run(scenario())


# Programs that do not read


@KINDS
def test_input_for_a_program_that_does_not_read_waits_and_is_whole(
    runtime: Runtime, root: Path, options: dict[str, object]
) -> None:
    data = random.Random(3).randbytes(3_000_000)

    async def scenario() -> None:
        spec = python(HASH, root / "go", len(data) + 4, **options)
        process = await runtime.start("service-1", "run-1", spec)
        attachment = await runtime.attach("service-1", "run-1")
        await read_until(attachment, b"up;")
        sending = asyncio.ensure_future(attachment.send(data))
        # The shim serves other clients meanwhile, and takes the program's commands.
        for _ in range(5):
            other = await runtime.attach("service-1", "run-1", size=(30, 90))
            await read_until(other, b"up;")
            other.close()
        assert not sending.done()
        (root / "go").touch()
        await sending
        await attachment.send(b"tail")
        expected = hashlib.sha256(data + b"tail").hexdigest().encode() + b";"
        assert await read_all(attachment) == expected
        assert (await process.wait()).code == 0
        attachment.close()

    asyncio.run(scenario())


@KINDS
@pytest.mark.parametrize("output", [False, True], ids=["sender", "client that has not read"])
def test_input_of_clients_that_left_is_not_lost(
    runtime: Runtime, root: Path, options: dict[str, object], output: bool
) -> None:
    """The program has taken none of it: the messages are in the terminal, in the shim and in the clients' sockets."""
    parts = [random.Random(number).randbytes(10_000) for number in range(11)]
    data = b"".join(parts)

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", python(HASH, root / "go", len(data), **options))
        watcher = await runtime.attach("service-1", "run-1")
        await read_until(watcher, b"up;")
        sender = await runtime.attach("service-1", "run-1", output=output, replay=output)
        for part in parts:
            await sender.send(part)
        sender.close()
        (root / "go").touch()
        assert await read_all(watcher) == hashlib.sha256(data).hexdigest().encode() + b";"
        assert (await process.wait()).code == 0
        watcher.close()

    asyncio.run(scenario())


def test_many_clients_that_left_while_the_program_reads_nothing_do_not_keep_others_out(
    runtime: Runtime, root: Path
) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", open_input(HASH, root / "go", 10**9))
        filler = await runtime.attach("service-1", "run-1", output=False, replay=False)
        filling = asyncio.ensure_future(filler.send(bytes(10**6)))
        for _ in range(5 * MAX_CLIENTS):
            sender = await runtime.attach("service-1", "run-1", output=False, replay=False)
            await sender.send(b"text")
            sender.close()
        watcher = await runtime.attach("service-1", "run-1")
        await read_until(watcher, b"up;")
        assert not filling.done()
        await process.stop()
        assert await watcher.receive() is None
        with pytest.raises(AttachFailed):
            await filling
        for each in (filler, watcher):
            each.close()

    asyncio.run(scenario())


def test_whole_messages_of_several_clients_do_not_mix(runtime: Runtime, root: Path) -> None:
    source = """
import os, sys, time
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
data = b""
while more := os.read(0, 5000):
    data += more
blocks = [data[at:at + 10_000] for at in range(0, len(data), 10_000)]
os.write(1, b"mixed" if any(len(set(block)) != 1 for block in blocks) else b"%d blocks" % len(blocks))
"""

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", open_input(source, root / "go"))
        clients = [await runtime.attach("service-1", "run-1") for _ in range(4)]

        async def send(number: int) -> None:
            for _ in range(50):
                await clients[number].send(b"%d" % number * 10_000)

        sending = [asyncio.ensure_future(send(number)) for number in range(4)]
        (root / "go").touch()
        await asyncio.gather(*sending)
        clients[0].send_eof()
        # The end of file may overtake what other clients have in their sockets.
        text = await read_all(clients[0])
        assert text.endswith(b" blocks")
        assert int(text.split()[0]) >= 50
        assert (await process.wait()).code == 0
        for client in clients:
            client.close()

    asyncio.run(scenario())


def test_huge_paste_into_a_program_that_reads_lines_is_whole(runtime: Runtime) -> None:
    """The terminal holds the lines back, as long as none is longer than its buffer of 4 KiB."""
    lines = b"".join(b"line %d %s\n" % (number, b"x" * (number % 200)) for number in range(20_000))

    async def scenario() -> None:
        script = "stty -echo; echo up; head -n 20000 | sha256sum"
        process = await runtime.start("service-1", "run-1", shell(script, terminal=True))
        attachment = await runtime.attach("service-1", "run-1")
        await read_until(attachment, b"up\r\n")
        await attachment.send(lines)
        assert (await read_all(attachment)).startswith(hashlib.sha256(lines).hexdigest().encode())
        assert (await process.wait()).code == 0
        attachment.close()

    asyncio.run(scenario())


# Clients that do not read


FLOOD = """
import os, sys, tty
if os.isatty(0):
    tty.setraw(0)
os.write(1, b"up;")
for number in range(int(sys.argv[1])):
    os.read(0, 1)
    for _ in range(16):
        os.write(1, b"%015d\\n" % number * 256)
os.write(1, b"the end")
"""
"""Writes 64 KiB for each byte that it reads."""


@KINDS
def test_client_that_does_not_read_is_dropped_and_holds_up_neither_program_nor_others(
    runtime: Runtime, options: dict[str, object]
) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", python(FLOOD, 100, **options))
        idle = await runtime.attach("service-1", "run-1", size=(20, 60))
        busy = await runtime.attach("service-1", "run-1")
        received = hashlib.sha256(await read_until(busy, b"up;"))
        left = 0
        for _ in range(100):
            await busy.send(b".")
            left += 65_536
            while left > 0:
                piece = await busy.receive()
                assert piece is not None
                received.update(piece[1])
                left -= len(piece[1])
        received.update(await read_all(busy))
        assert (await process.wait()).code == 0
        expected = b"up;" + b"".join(b"%015d\n" % number * 4096 for number in range(100)) + b"the end"
        assert received.digest() == hashlib.sha256(expected).digest()
        with pytest.raises(AttachmentLost, match="its output was not read in time"):
            await read_all(idle)
        with pytest.raises(AttachmentLost):
            await idle.receive()
        with pytest.raises(AttachmentLost):
            await idle.send(b"more")
        for each in (idle, busy):
            each.close()

    asyncio.run(scenario())


def test_client_that_reads_late_gets_what_was_kept_for_it(runtime: Runtime) -> None:
    """More than its socket holds, and less than the bound."""

    async def scenario() -> None:
        script = "stty raw -echo; read go; head -c 900000 /dev/zero; printf end; read go"
        process = await runtime.start("service-1", "run-1", shell(script, terminal=True))
        attachment = await runtime.attach("service-1", "run-1", replay=False)
        await attachment.send(b"go\n")
        await wait_for_log(runtime.log("service-1"), b"end")
        data = await read_until(attachment, b"end")
        assert len(data) >= 900_000
        await attachment.send(b"go\n")
        assert await attachment.receive() is None
        assert (await process.wait()).code == 0
        attachment.close()

    asyncio.run(scenario())


def test_program_floods_while_a_client_is_suspended(runtime: Runtime) -> None:
    async def scenario() -> None:
        script = "read go; head -c 30000000 /dev/zero; echo end"
        process = await runtime.start("service-1", "run-1", shell(script, terminal=True))
        with client_process(runtime.directory, "service-1", "run-1", (20, 40)) as client:
            client.send_signal(signal.SIGSTOP)
            sender = await runtime.attach("service-1", "run-1", output=False)
            await sender.send(b"\n")
            assert (await process.wait()).code == 0
            client.send_signal(signal.SIGCONT)
            sender.close()
        assert runtime.log("service-1").end_of(1, 5) == b"end\r\n"

    asyncio.run(scenario())


def test_cancelled_receive_loses_nothing(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", open_input(ECHO))
        attachment = await runtime.attach("service-1", "run-1")
        await read_until(attachment, b"up;")
        data = b""
        for number in range(50):
            receiving = asyncio.ensure_future(attachment.receive())
            await attachment.send(b"%d" % number)
            for _ in range(number):
                await asyncio.sleep(0)
            receiving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                piece = await receiving
                assert piece is not None
                data += piece[1]
        attachment.send_eof()
        data += await read_all(attachment, 1)
        assert data.replace(b"><", b"") == b"<" + b"".join(b"%d" % number for number in range(50)) + b">"
        await process.wait()
        attachment.close()

    asyncio.run(scenario())


def test_closed_attachment_ends_what_waits_for_it(runtime: Runtime, root: Path) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", open_input(HASH, root / "go", 10**9))
        attachment = await runtime.attach("service-1", "run-1")
        await read_until(attachment, b"up;")
        receiving = asyncio.ensure_future(attachment.receive())
        sending = asyncio.ensure_future(attachment.send(bytes(10**7)))
        await asyncio.sleep(0)
        attachment.close()
        attachment.close()
        assert await receiving is None
        with pytest.raises(InputClosed):
            await sending
        assert await attachment.receive() is None
        with pytest.raises(InputClosed):
            await attachment.send(b"more")
        attachment.resize(1, 1)
        attachment.send_eof()
        await process.stop()

    asyncio.run(scenario())


# Who may attach, and to what


def test_runs_without_terminal_or_open_input_and_ended_ones_cannot_be_attached_to(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", shell("exec sleep 1000"))
        with pytest.raises(NotAttachable, match="without a terminal and without an open standard input") as caught:
            await runtime.attach("service-1", "run-1")
        assert caught.value.hint
        await process.stop()
        for run_id in ("run-1", "never"):
            with pytest.raises(RunEnded, match="it has ended") as ended:
                await runtime.attach("service-1", run_id)
            assert ended.value.hint
        process = await runtime.start("service-1", "run-2", shell("exec sleep 1000", terminal=True))
        await process.stop()
        with pytest.raises(RunEnded):
            await runtime.attach("service-1", "run-2")
        process = await runtime.start("service-1", "run-3", shell("exec sleep 1000", terminal=True))
        (run_folder(runtime).parent / "run-3" / "attach").unlink()
        with pytest.raises(NotAttachable, match="its socket is missing"):
            await runtime.attach("service-1", "run-3")
        await process.stop()
        with pytest.raises(ValueError, match="takes no descriptor"):
            await runtime.start("service-1", "run-4", shell("true", terminal=True), stdin=0)
        with pytest.raises(ValueError, match="stdin must be"):
            shell("true", stdin="closed")

    asyncio.run(scenario())


def test_as_many_clients_as_may_are_attached_and_one_that_leaves_makes_room(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", open_input(ECHO))
        clients = [await runtime.attach("service-1", "run-1") for _ in range(MAX_CLIENTS)]
        for _ in range(3):
            with pytest.raises(TooManyAttached, match="too many clients are attached") as caught:
                await runtime.attach("service-1", "run-1")
            assert caught.value.hint
        clients.pop().close()
        clients.append(await runtime.attach("service-1", "run-1"))
        await clients[0].send(b"text")
        for client in clients:
            await read_until(client, b"<text>")
            client.close()
        await process.stop()

    asyncio.run(scenario())


def test_run_with_a_long_path_can_be_attached_to(root: Path, shim: str) -> None:
    directory = root / ("x" * 200) / "processes"
    runtime = Runtime(directory, scopes=False)
    assert len(str(directory)) > 108

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", shell("echo up; exec cat", terminal=True))
        attachment = await runtime.attach("service-1", "run-1")
        await read_until(attachment, b"up")
        attachment.close()
        await process.stop()

    asyncio.run(scenario())


def test_suspended_shim_is_continued_for_a_client(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", open_input(ECHO))
        os.kill(process.shim_pid, signal.SIGSTOP)
        attachment = await runtime.attach("service-1", "run-1")
        await read_until(attachment, b"up;")
        attachment.close()
        await process.stop()

    asyncio.run(scenario())


def test_run_of_a_killed_daemon_is_attached_to(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", open_input(ECHO))
        process.close()
        later = Runtime(runtime.directory, scopes=False)
        attachment = await later.attach("service-1", "run-1")  # before it is adopted, too
        adopted = await later.adopt("service-1", "run-1")
        assert isinstance(adopted, Process)
        await attachment.send(b"text")
        await read_until(attachment, b"<text>")
        attachment.send_eof()
        assert (await adopted.wait()).code == 0
        attachment.close()

    asyncio.run(scenario())


# Hostile clients


GARBAGE = [
    b"",
    b"X",
    b"H",
    b"H1",
    b"H2\x03\0\0\0\0",
    b"I before the hello",
    b"S\0\x01\0\x01",
    b"E",
    bytes(5000),
    b"I" * 20_000,
    b"I" * 200_000,
]


@KINDS
def test_garbage_closes_the_connection_that_it_came_from_and_nothing_else(
    runtime: Runtime, options: dict[str, object]
) -> None:
    async def scenario() -> None:
        source = f"import os, tty\nif os.isatty(0): tty.setraw(0)\n{ECHO}"
        process = await runtime.start("service-1", "run-1", python(source, **options))
        attachment = await runtime.attach("service-1", "run-1")
        await read_until(attachment, b"up;")
        for garbage in GARBAGE:
            for greeting in ((), (HELLO,), (HELLO, b"S\0\x05\0\x05")):
                if greeting and garbage[:1] in (b"I", b"S", b"E") and len(garbage) < 16_385:
                    continue
                with open_socket(run_folder(runtime)) as connection:
                    for message in (*greeting, garbage):
                        connection.send(message)
                    assert await asyncio.to_thread(is_closed, connection), garbage[:10]
        await attachment.send(b"text")
        await read_until(attachment, b"<text>")
        attachment.close()
        await process.stop()

    asyncio.run(scenario())


def is_closed(connection: socket.socket) -> bool:
    """Read until the connection is closed."""
    while True:
        try:
            if not connection.recv(100_000):
                return True
        except ConnectionResetError:
            continue


def first_message(connection: socket.socket) -> bytes:
    """The first message that came over a connection, which may be closed by now."""
    try:
        return connection.recv(100)
    except ConnectionResetError:  # told once
        return connection.recv(100)


def test_random_messages_harm_nothing(runtime: Runtime) -> None:
    chance = random.Random(4)

    async def scenario() -> None:
        process = await runtime.start(
            "service-1", "run-1", shell("stty raw -echo; echo up; exec cat > /dev/null", terminal=True)
        )
        await wait_for_log(runtime.log("service-1"), b"up")
        for _ in range(300):
            with open_socket(run_folder(runtime)) as connection, contextlib.suppress(OSError):
                connection.setblocking(False)
                if chance.random() < 0.7:
                    connection.send(HELLO)
                for _ in range(chance.randrange(10)):
                    letter = chance.choice([b"H1", b"I", b"S", b"E", b"R", b""])
                    connection.send(letter + chance.randbytes(chance.randrange(30)))
        attachment = await runtime.attach("service-1", "run-1")
        assert process.exit is None
        attachment.close()
        await process.stop()

    asyncio.run(scenario())


def test_thousands_of_connections_are_refused_and_hold_up_nothing(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", open_input(ECHO))
        attachment = await runtime.attach("service-1", "run-1")
        await read_until(attachment, b"up;")
        refused, held = 0, []
        for _ in range(3000):
            connection = open_socket(run_folder(runtime))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused already
                connection.send(HELLO)
            if first_message(connection)[:1] == b"X":
                refused += 1
                connection.close()
            else:
                held.append(connection)
        assert len(held) == MAX_CLIENTS - 1
        assert refused == 3000 - len(held)
        assert len(descriptors_of(process.shim_pid)) < MAX_DESCRIPTORS
        await attachment.send(b"text")
        await read_until(attachment, b"<text>")
        for connection in held:
            connection.close()
        await process.stop()
        attachment.close()

    asyncio.run(scenario())


def test_connections_that_say_nothing_make_room_for_clients(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", open_input(ECHO))
        silent = [open_socket(run_folder(runtime)) for _ in range(MAX_CLIENTS)]
        clients = [await runtime.attach("service-1", "run-1") for _ in range(MAX_CLIENTS)]
        for client in clients:
            await read_until(client, b"up;")
            client.close()
        for connection in silent:
            assert is_closed(connection)
            connection.close()
        await process.stop()

    asyncio.run(scenario())


def test_shim_without_descriptors_accepts_again_when_it_has_some(runtime: Runtime, root: Path) -> None:
    """Clients that are gone have some of them, as long as the program does not take their input."""

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", open_input(HASH, root / "go", 10**9))
        soft, hard = resource.prlimit(process.shim_pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.shim_pid, resource.RLIMIT_NOFILE, (MAX_DESCRIPTORS, hard))
        filler = await runtime.attach("service-1", "run-1", output=False, replay=False)
        filling = asyncio.ensure_future(filler.send(bytes(10**6)))
        clients = [await runtime.attach("service-1", "run-1") for _ in range(5)]
        while not descriptors_of(process.shim_pid).issuperset(range(MAX_DESCRIPTORS)):
            sender = await runtime.attach("service-1", "run-1", output=False, replay=False)
            await sender.send(b"text")
            sender.close()
        attaching = asyncio.ensure_future(runtime.attach("service-1", "run-1"))
        await asyncio.to_thread(wait_until, lambda: is_idle(process.shim_pid), "the shim to wait, and not to spin")
        assert not attaching.done()
        for client in clients:
            await read_until(client, b"up;")
        resource.prlimit(process.shim_pid, resource.RLIMIT_NOFILE, (soft, hard))
        clients.append(await attaching)
        await read_until(clients[-1], b"up;")
        await process.stop()
        with pytest.raises(AttachFailed):
            await filling
        for client in (filler, *clients):
            client.close()

    asyncio.run(scenario())


def descriptors_of(pid: int) -> set[int]:
    """The descriptors that a process has open."""
    return {int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()}


def is_idle(pid: int) -> bool:
    """Whether a process sleeps, and has used no CPU for a moment."""

    def used() -> tuple[bool, bytes, bytes]:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return fields[0] == b"S", fields[11], fields[12]

    before = used()
    select.poll().poll(100)
    return before == used() and before[0]


def test_end_of_a_run_with_clients_leaves_no_file_and_no_process(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", shell("echo up; read x", terminal=True))
        clients = [await runtime.attach("service-1", "run-1") for _ in range(MAX_CLIENTS)]
        silent = None
        with contextlib.suppress(OSError):
            silent = open_socket(run_folder(runtime))
        for client in clients:
            await read_until(client, b"up\r\n")
        await clients[0].send(b"\n")
        assert (await process.wait()).code == 0
        for client in clients:
            assert await read_all(client) == b"\r\n"
            client.close()
        if silent is not None:
            assert is_closed(silent)
            silent.close()
        assert sorted(path.name for path in run_folder(runtime).iterdir()) == ["control", "lock", "status"]
        runtime.forget("service-1", "run-1")
        assert not run_folder(runtime).exists()

    asyncio.run(scenario())


def test_flood_of_output_and_a_huge_paste_leave_the_loop_its_turns(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", shell("exec cat > /dev/null", stdin="open"))
        attachment = await runtime.attach("service-1", "run-1")
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count())
        await attachment.send(bytes(3_000_000))
        assert turns > 100
        await process.stop()
        attachment.close()
        script = "read go; head -c 500000 /dev/zero; printf end; read go"
        process = await runtime.start("service-1", "run-2", shell(script, stdin="open"))
        attachment = await runtime.attach("service-1", "run-2")
        await attachment.send(b"go\n")
        await wait_for_log(runtime.log("service-1"), b"end")
        turns, received = 0, 0
        while received < 500_000:
            piece = await attachment.receive()
            assert piece is not None
            received += len(piece[1])
        assert turns > 0
        counting.cancel()
        await process.stop()
        attachment.close()

    asyncio.run(scenario())
