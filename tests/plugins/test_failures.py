"""Plugins that raise, hang, exit, exhaust memory, print or fork: their command fails and names them; others work."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from support.daemon import DaemonProcess
from support.plugins import PluginFolder, TestHost, alive, hosting, wait_for_end
from support.raw import RawClient, wait_until

from nexus.plugins.commands import Extra, ListPlugins, PluginFailed
from nexus.system.commands import Health, Hello, Ping
from nexus.vms.commands import GetVm

OTHER = """
    NEXUS_EXTRAS = ("other",)

    @hookimpl
    def extra(name, body):
        return body
"""


def run(folder: PluginFolder, scenario: Callable[[TestHost], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        async with hosting(folder, **options) as test:
            await scenario(test)

    asyncio.run(main())


async def failure(work: Coroutine[Any, Any, Any]) -> PluginFailed:
    with pytest.raises(PluginFailed) as failed:
        await work
    assert failed.value.message.startswith("cannot ")
    assert failed.value.hint
    return failed.value


FAILURES = {
    "raises": ("raise ValueError('no\\n such thing')", r"raised ValueError: no such thing \(line 9\)"),
    "sys.exit": ("sys.exit(3)", r"raised SystemExit: 3 \(line 9\)"),
    "recurses": ("pre_command('GetVm')", r"raised RecursionError: maximum recursion depth exceeded.*\(line \d+\)"),
    "hangs": ("time.sleep(600)", "it took longer than 700 ms"),
    "loops": ("sum(0 for _ in iter(int, 1))", "it took longer than 700 ms"),
    "exits 3": ("os._exit(3)", r"the process ended \(exit code 3\)"),
    "exits 0": ("os._exit(0)", r"the process ended \(exit code 0\)"),
    "killed": ("os.kill(os.getpid(), 9)", "the process was ended by SIGKILL"),
    "crashes": ("os.kill(os.getpid(), signal.SIGSEGV)", "the process was ended by SIGSEGV"),
    "out of memory": ("x = [bytes(1 << 20) for _ in range(1000000)]", "it ran out of memory"),
    "out of memory, kept": ("kept.extend(bytes(1 << 20) for _ in iter(int, 1))", "it ran out of memory"),
    "closes the socket": (
        "os.closerange(3, 4096); time.sleep(600)",
        "the process closed the daemon's socket|it took longer",
    ),
    "writes to the socket": (
        "[os.write(fd, bytes(64)) for fd in range(3, 4096) if is_socket(fd)]; time.sleep(600)",
        "the process wrote invalid data to the daemon's socket",
    ),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_failing_plugin_fails_its_command_and_the_next_command_works(folder: PluginFolder, kind: str) -> None:
    statement, reason = FAILURES[kind]
    folder.python(
        "bad",
        f"""
        import os, signal, stat, sys, time
        kept = []

        @hookimpl
        def pre_command(command):
            if command == "GetVm": {statement}

        def is_socket(fd):
            try:
                return stat.S_ISSOCK(os.fstat(fd).st_mode)
            except OSError:
                return False
        """,
    )
    folder.python("other", OTHER)

    async def scenario(test: TestHost) -> None:
        for _ in range(2):
            error = await failure(test.before(GetVm("x")))
            assert error.details["plugin"] == "bad"
            assert re.fullmatch(rf'cannot carry out GetVm: plugin "bad" failed: ({reason})', error.message), (
                error.message
            )
            await test.before(Ping())
            assert await test.extra("other", [1]) == [1]
        assert (await test.plugins())["bad"].hooks == ["pre_command"]

    # What ends by another limit than time has time enough, on a busy machine too.
    run(folder, scenario, timeout_ms=700 if "longer than" in reason else 20_000)


def test_pre_start_error_omits_text_that_may_hold_the_environment(
    folder: PluginFolder,
) -> None:
    folder.python("bad", "@hookimpl\ndef pre_start_command(environment):\n    raise KeyError(environment['TOKEN'])\n")

    async def scenario(test: TestHost) -> None:
        error = await failure(test.start({"TOKEN": "s3cret"}))
        assert error.message == 'cannot start service "web": plugin "bad" failed: raised KeyError (line 5)'
        assert "s3cret" not in repr(error.payload())

    run(folder, scenario)


def test_lua_pre_start_error_omits_text_that_may_hold_the_environment(folder: PluginFolder) -> None:
    folder.lua("bad", "function nexus.pre_start_command(s, c, e)\n  error(e.TOKEN)\nend\n")

    async def scenario(test: TestHost) -> None:
        error = await failure(test.start({"TOKEN": "s3cret"}))
        assert error.message == 'cannot start service "web": plugin "bad" failed: raised an error (bad.lua:3)'

    run(folder, scenario)


def test_pending_calls_are_made_to_the_new_process_after_a_failure(folder: PluginFolder) -> None:
    folder.python(
        "bad",
        """
        import os

        @hookimpl
        def pre_command(fields):
            if fields["vm"] == "bad":
                os._exit(1)
        """,
    )

    async def scenario(test: TestHost) -> None:
        names = ["good", "bad", *["good"] * 20]
        outcomes = await asyncio.gather(*(test.before(GetVm(name)) for name in names), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [type(None), PluginFailed, *[type(None)] * 20]

    run(folder, scenario)


def test_process_that_keeps_failing_is_restarted_with_a_delay(folder: PluginFolder) -> None:
    folder.python("bad", "import os\n@hookimpl\ndef pre_command():\n    os._exit(1)\n")

    async def scenario(test: TestHost) -> None:
        pids = set()
        for _ in range(30):
            error = await failure(test.before(GetVm("x")))
            if "plugin" not in error.details:
                break
            pids.add(error.message)
        assert error.message == (
            "cannot carry out GetVm: the plugins cannot be called: their process keeps failing: "
            'plugin "bad": the process ended (exit code 1)'
        )
        # A reload with a fixed plugin takes effect at once.
        folder.python("bad", "@hookimpl\ndef pre_command():\n    pass\n")
        await test.host.reload()
        await test.before(GetVm("x"))

    run(folder, scenario, timeout_ms=300)


def test_process_that_is_killed_between_calls_is_restarted(folder: PluginFolder) -> None:
    folder.python("other", OTHER)

    async def scenario(test: TestHost) -> None:
        pid = await test.pid()
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(wait_for_end, pid)
        for _ in range(6000):  # the daemon learns of the end from the shim, a moment later
            if (await test.host.listing()).pid != pid:
                break
            await asyncio.sleep(0.01)
        assert await test.extra("other", 1) == 1
        assert await test.pid() != pid

    run(folder, scenario)


def test_child_processes_of_a_plugin_are_killed_with_the_process(folder: PluginFolder) -> None:
    folder.python(
        "bad",
        """
        import os, subprocess, time
        NEXUS_EXTRAS = ("pid",)
        child = subprocess.Popen(["sleep", "600"])

        @hookimpl
        def extra():
            return child.pid

        @hookimpl
        def pre_command():
            os._exit(1)
        """,
    )

    async def scenario(test: TestHost) -> None:
        child = await test.extra("pid")
        assert alive(child)
        await failure(test.before(GetVm("x")))
        wait_for_end(child)

    run(folder, scenario)


def test_plugin_that_forks_sends_one_reply(folder: PluginFolder) -> None:
    folder.python(
        "forks",
        """
        import os
        NEXUS_EXTRAS = ("a",)

        @hookimpl
        def extra(body):
            os.fork()
            return body
        """,
    )

    async def scenario(test: TestHost) -> None:
        for n in range(5):
            assert await test.extra("a", n) == n

    run(folder, scenario)


def test_plugin_output_is_logged_up_to_a_limit(folder: PluginFolder, start: Callable[..., DaemonProcess]) -> None:
    folder.python(
        "loud",
        """
        import sys
        NEXUS_EXTRAS = ("say", "flood", "raw")

        @hookimpl
        def extra(name, body):
            if name == "say":
                print(body)
                print("and to stderr", file=sys.stderr)
            elif name == "raw":
                sys.stdout.buffer.write(b"\\xff\\x1b[31mred\\n")
                sys.stdout.flush()
            else:
                for _ in range(8):
                    print("x" * 1_000_000)
        """,
    )
    daemon = start()
    with RawClient(daemon.socket_path) as client:
        client.call(Extra("say", "a word\nand another"))
        for text in ("printed: a word\n", "printed: and another\n", "printed: and to stderr\n"):
            wait_until(lambda text=text: text in daemon.log(), text)  # type: ignore[misc]
        client.call(Extra("raw"))
        wait_until(lambda: "printed: \ufffd\ufffd[31mred\n" in daemon.log(), "what was printed")
        client.call(Extra("flood"))
        client.call(Extra("flood"))
    assert daemon.stop() == 0
    assert len(daemon.log()) < 64 * 1024
    assert re.search(r"plugins printed too much: 1\d{7} bytes were not logged", daemon.log())


def test_hanging_plugin_does_not_delay_commands_that_are_never_hooked(
    folder: PluginFolder, start: Callable[..., DaemonProcess]
) -> None:
    entered = folder.path / "entered"
    folder.python(
        "hangs",
        f"""
        import time

        @hookimpl
        def pre_command(fields):
            if fields.get("vm") == "hang":
                open({str(entered)!r}, "w").close()
                time.sleep(600)
        """,
    )
    daemon = start(timeout_ms=60_000)
    clients = [RawClient(daemon.socket_path) for _ in range(50)]
    try:
        hanging = [client.begin(GetVm("hang")) for client in clients]
        wait_until(entered.exists, "the hook")
        for client in clients:
            for command in (Ping(), Health(), Hello("test"), ListPlugins()):
                client.call(command)
        assert all(not client.last_sequences() for client in clients)
        for client, sequence in zip(clients, hanging, strict=True):
            client.cancel(sequence)
            assert client.error(sequence).code == "cancelled"
        with RawClient(daemon.socket_path) as other:
            pid = other.call(ListPlugins()).pid
            assert pid is not None
    finally:
        for client in clients:
            client.close()
    assert daemon.stop() == 0
    wait_for_end(pid)
