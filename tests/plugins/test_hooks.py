"""The arguments of hooks, the order of plugins, and the handling of return values."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import msgspec
import pytest
from nexus_protocol import Command, CommandInfo, Effect, Empty
from nexus_protocol.command import SECRET
from support.daemon import DaemonProcess
from support.plugins import PluginFolder, TestHost, hosting
from support.raw import RawClient, wait_until

from nexus.caller import Caller
from nexus.plugins.commands import Extra, ListPlugins, PluginFailed, PluginVetoed, ReloadPlugins
from nexus.plugins.host import shown_fields
from nexus.system.commands import Describe, GetSetting, Health, Hello, Ping, SetSetting, Shutdown
from nexus.vms.commands import GetVm

RECORDING = """
    seen = []
    NEXUS_EXTRAS = ("seen",)

    @hookimpl
    def pre_command(command, fields, origin):
        if command != "Extra":
            seen.append([command, fields, origin])

    @hookimpl
    def pre_start_command(service, command, environment):
        seen.append([service, command, environment])

    @hookimpl
    def extra(name, body):
        return seen
"""


def run(folder: PluginFolder, scenario: Callable[[TestHost], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        async with hosting(folder, **options) as test:
            await scenario(test)

    asyncio.run(main())


def test_hook_receives_command_fields_and_origin(folder: PluginFolder) -> None:
    folder.python("recorder", RECORDING)

    async def scenario(test: TestHost) -> None:
        await test.before(SetSetting("a.b", {"x": [1, None, True]}), "me")
        await test.start({"A": "1"}, directory="/srv")
        assert await test.extra("seen") == [
            [
                "SetSetting",
                {"key": "a.b", "value": {"x": [1, None, True]}},
                {"uid": 1000, "pid": 77, "actor": "me"},
            ],
            ["web", {"directory": "/srv"}, {"A": "1"}],
        ]

    run(folder, scenario)


class Inner(msgspec.Struct):
    """A part of a command."""

    name: str
    token: Annotated[str, SECRET]


class Secretive(Command[Empty]):
    """A command with secrets at every level."""

    environment: Annotated[dict[str, str], SECRET]
    inner: list[Inner]
    token: Annotated[str, SECRET] | None = None
    other: str | None = None


def test_hook_receives_no_secrets(folder: PluginFolder) -> None:
    folder.python("recorder", RECORDING)
    command = Secretive({"PASSWORD": "s3cret"}, [Inner("i", "s3cret")], "s3cret")
    fields = shown_fields(command)
    assert fields == {
        "environment": {"PASSWORD": "<hidden>"},
        "inner": [{"name": "i", "token": "<hidden>"}],
        "token": "<hidden>",
    }

    async def scenario(test: TestHost) -> None:
        info = CommandInfo(1, "Secretive", Effect.ACT, Secretive, Empty, None, (), 0, False, False, None)
        await test.host.pre_command(info, command, Caller(0, 1, None))
        ((_, seen, _),) = await test.extra("seen")
        assert seen == fields

    run(folder, scenario)


def test_plugins_are_called_in_name_order_until_one_vetoes(folder: PluginFolder) -> None:
    for name in ("b", "c", "a"):
        folder.python(
            name,
            f"""
            seen = []
            NEXUS_EXTRAS = ("{name}",)

            @hookimpl
            def pre_command(command, fields):
                seen.append(dict(fields))
                fields["added by {name}"] = 1
                return Veto("I am b") if command == "GetVm" and "{name}" == "b" else None

            @hookimpl
            def pre_start_command(environment):
                return {{"ORDER": environment.get("ORDER", "") + "{name}"}}

            @hookimpl
            def extra():
                return seen
            """,
        )

    async def scenario(test: TestHost) -> None:
        with pytest.raises(PluginVetoed, match="I am b"):
            await test.before(GetVm("x"))
        # A plugin's change of the fields is not visible to the next plugin.
        assert [await test.extra(name) for name in "abc"] == [[{"vm": "x"}], [{"vm": "x"}], []]
        assert await test.start({"ORDER": ""}) == {"ORDER": "abc"}

    run(folder, scenario)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("'no'", "returned a value of type str from pre_command; expected None or a Veto"),
        ("False", "returned a value of type bool from pre_command; expected None or a Veto"),
    ],
)
def test_pre_command_with_an_invalid_return_value_fails_the_command(
    folder: PluginFolder, value: str, sentence: str
) -> None:
    folder.python("odd", f"@hookimpl\ndef pre_command():\n    return {value}\n")

    async def scenario(test: TestHost) -> None:
        with pytest.raises(PluginFailed) as failed:
            await test.before(GetVm("x"))
        assert failed.value.message == f'cannot carry out GetVm: plugin "odd" failed: {sentence}'
        assert failed.value.hint == f"Fix or remove {folder.path}/odd.py, then: nexusctl plugin reload"

    run(folder, scenario)


@pytest.mark.parametrize(
    "changes", ["[]", "{'A': 1}", "{1: 'A'}", "{'': 'x'}", "{'A=B': 'x'}", "{'A': 'x\\0'}", "{'A\\0': 'x'}", "'A=1'"]
)
def test_pre_start_with_an_invalid_environment_fails_the_start(folder: PluginFolder, changes: str) -> None:
    folder.python("odd", f"@hookimpl\ndef pre_start_command():\n    return {changes!s}\n")

    async def scenario(test: TestHost) -> None:
        with pytest.raises(PluginFailed, match=r'cannot start service "web": plugin "odd" failed: returned '):
            await test.start({"B": "1"})

    run(folder, scenario)


def test_variable_that_is_not_utf8_is_kept_and_not_shown_to_plugins(folder: PluginFolder) -> None:
    folder.python("recorder", RECORDING)

    async def scenario(test: TestHost) -> None:
        given = {"RAW": "\udcff", "A": "ä"}
        assert await test.start(given) == given
        assert (await test.extra("seen"))[0][2] == {"A": "ä"}

    run(folder, scenario)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("object()", "returned a value of type object, which cannot be encoded"),
        ("{1: 2}", "returned a map whose keys are not text"),
        ("2 ** 70", "returned a value that cannot be encoded"),
        ("b'x' * (1 << 20)", "returned 1048581 bytes; the maximum is 1048576"),
        ("deep()", "returned a value nested deeper than 32 levels"),
        ("'\\ud800'", "returned a value that cannot be encoded"),
    ],
)
def test_extra_return_value_that_cannot_be_encoded_fails(folder: PluginFolder, value: str, sentence: str) -> None:
    folder.python(
        "odd",
        f"""
        NEXUS_EXTRAS = ["odd"]

        def deep():
            value = []
            value.append(value)
            return value

        @hookimpl
        def extra():
            return {value}
        """,
    )

    async def scenario(test: TestHost) -> None:
        with pytest.raises(PluginFailed, match=sentence):
            await test.host.extra("odd", None)

    run(folder, scenario)


def test_hook_that_no_plugin_has_is_not_called(folder: PluginFolder) -> None:
    folder.python("starts", "@hookimpl\ndef pre_start_command():\n    return {'A': '1'}\n")

    async def scenario(test: TestHost) -> None:
        await test.host.listing()
        assert test.pre_command_hook is None
        assert await test.start() == {"A": "1"}

    run(folder, scenario)


def test_commands_that_inspect_or_stop_the_daemon_are_never_hooked(
    folder: PluginFolder, start: Callable[..., DaemonProcess]
) -> None:
    folder.python("never", "@hookimpl\ndef pre_command(command):\n    return Veto('never: ' + command)\n")
    daemon = start()
    with RawClient(daemon.socket_path) as client:
        for command in (Hello("test"), Ping(), Health(), Describe(), ListPlugins(), ReloadPlugins()):
            client.call(command)
        for command in (GetVm("x"), GetSetting("journal.keep_days"), Extra("x")):
            error = client.call_error(command)
            assert error.type == "plugin.vetoed"
            assert f"never: {command.info.name}" in error.message
        client.call(Shutdown())
    assert daemon.process is not None
    assert daemon.process.wait(30) == 0


def test_pipelined_requests_are_all_hooked_and_answered(
    folder: PluginFolder, start: Callable[..., DaemonProcess]
) -> None:
    folder.python(
        "odds",
        """
        @hookimpl
        def pre_command(command, fields):
            return Veto("odd") if command == "SetSetting" and fields["value"] % 2 else None
        """,
    )
    with RawClient(start().socket_path) as client:
        sequences = client.begin_many(SetSetting("a.b", value) for value in range(300))
        outcomes = [client.result(s)["value"] if not n % 2 else client.error(s).type for n, s in enumerate(sequences)]
        assert outcomes == [n if not n % 2 else "plugin.vetoed" for n in range(300)]
        assert client.call(GetSetting("a.b")).value == 298


def test_request_can_be_cancelled_while_a_hook_runs(folder: PluginFolder, start: Callable[..., DaemonProcess]) -> None:
    fifo = folder.path / "entered"
    folder.python(
        "slow",
        f"""
        import time

        @hookimpl
        def pre_command(command, fields):
            if command == "GetVm" and fields["vm"] == "slow":
                open({str(fifo)!r}, "w").close()
                time.sleep(60)
        """,
    )
    with RawClient(start(timeout_ms=2000).socket_path) as client:
        client.call(GetSetting("journal.keep_days"))
        running, waiting = client.begin_many([GetVm("slow"), GetVm("other")])
        wait_until(fifo.exists, "the hook")
        client.cancel(waiting)
        assert client.error(waiting).code == "cancelled"
        client.cancel(running)
        assert client.error(running).code == "cancelled"
        assert not client.last_sequences()
        # The hook runs to its end, and the next call waits for it.
        assert client.call_error(GetVm("other")).code == "not_found"
