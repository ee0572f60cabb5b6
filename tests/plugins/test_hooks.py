"""What hooks are given, in which order, and what becomes of what they give."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import msgspec
import pytest
from nexus_protocol import Command, CommandInfo, Empty
from nexus_protocol.command import SECRET
from support.daemon import DaemonProcess
from support.plugins import PluginFolder, TestHost, hosting
from support.raw import RawClient, wait_until

from nexus.capability import Caller
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


def test_a_hook_sees_the_command_its_fields_and_who_asks(folder: PluginFolder) -> None:
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
    """Has secrets everywhere."""

    environment: Annotated[dict[str, str], SECRET]
    inner: list[Inner]
    token: Annotated[str, SECRET] | None = None
    other: str | None = None


def test_a_hook_sees_no_secret(folder: PluginFolder) -> None:
    folder.python("recorder", RECORDING)
    command = Secretive({"PASSWORD": "s3cret"}, [Inner("i", "s3cret")], "s3cret")
    fields = shown_fields(command)
    assert fields == {
        "environment": {"PASSWORD": "<hidden>"},
        "inner": [{"name": "i", "token": "<hidden>"}],
        "token": "<hidden>",
    }

    async def scenario(test: TestHost) -> None:
        info = CommandInfo(1, "Secretive", Secretive, Empty, None, (), 0, False, False)
        await test.host.pre_command(info, command, Caller(0, 1, None))
        ((_, seen, _),) = await test.extra("seen")
        assert seen == fields

    run(folder, scenario)


def test_plugins_are_asked_by_name_until_one_vetoes(folder: PluginFolder) -> None:
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
        # What one plugin does to the fields is not what the next one sees.
        assert [await test.extra(name) for name in "abc"] == [[{"vm": "x"}], [{"vm": "x"}], []]
        assert await test.start({"ORDER": ""}) == {"ORDER": "abc"}

    run(folder, scenario)


@pytest.mark.parametrize(
    ("gives", "sentence"),
    [
        ("'no'", "gave something of type str from pre_command, where None or a Veto belongs"),
        ("False", "gave something of type bool from pre_command, where None or a Veto belongs"),
    ],
)
def test_an_answer_that_means_nothing_is_no_yes(folder: PluginFolder, gives: str, sentence: str) -> None:
    folder.python("odd", f"@hookimpl\ndef pre_command():\n    return {gives}\n")

    async def scenario(test: TestHost) -> None:
        with pytest.raises(PluginFailed) as failed:
            await test.before(GetVm("x"))
        assert failed.value.message == f'cannot carry out GetVm: plugin "odd" failed: {sentence}'
        assert failed.value.hint == f"Mend or remove {folder.path}/odd.py, then: nexusctl plugin reload"

    run(folder, scenario)


@pytest.mark.parametrize(
    "changes", ["[]", "{'A': 1}", "{1: 'A'}", "{'': 'x'}", "{'A=B': 'x'}", "{'A': 'x\\0'}", "{'A\\0': 'x'}", "'A=1'"]
)
def test_an_environment_that_no_process_can_have_is_refused(folder: PluginFolder, changes: str) -> None:
    folder.python("odd", f"@hookimpl\ndef pre_start_command():\n    return {changes!s}\n")

    async def scenario(test: TestHost) -> None:
        with pytest.raises(PluginFailed, match=r'cannot start service "web": plugin "odd" failed: gave '):
            await test.start({"B": "1"})

    run(folder, scenario)


def test_a_variable_that_is_not_utf8_stays_and_is_not_shown(folder: PluginFolder) -> None:
    folder.python("recorder", RECORDING)

    async def scenario(test: TestHost) -> None:
        given = {"RAW": "\udcff", "A": "ä"}
        assert await test.start(given) == given
        assert (await test.extra("seen"))[0][2] == {"A": "ä"}

    run(folder, scenario)


@pytest.mark.parametrize(
    ("gives", "sentence"),
    [
        ("object()", "gave something of type object, which no message can hold"),
        ("{1: 2}", "gave a map whose keys are not text"),
        ("2 ** 70", "gave what no message can hold"),
        ("b'x' * (1 << 20)", "gave 1048581 bytes, and 1048576 are the most"),
        ("deep()", "gave something nested deeper than 32 levels"),
        ("'\\ud800'", "gave what no message can hold"),
    ],
)
def test_an_answer_to_extra_that_no_message_can_hold_is_refused(
    folder: PluginFolder, gives: str, sentence: str
) -> None:
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
            return {gives}
        """,
    )

    async def scenario(test: TestHost) -> None:
        with pytest.raises(PluginFailed, match=sentence):
            await test.host.extra("odd", None)

    run(folder, scenario)


def test_only_what_a_plugin_has_is_asked(folder: PluginFolder) -> None:
    folder.python("starts", "@hookimpl\ndef pre_start_command():\n    return {'A': '1'}\n")

    async def scenario(test: TestHost) -> None:
        await test.host.listing()
        assert test.gate is None
        assert await test.start() == {"A": "1"}

    run(folder, scenario)


def test_what_a_client_needs_to_see_and_end_a_daemon_is_never_hooked(
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


def test_pipelined_requests_are_all_asked_about_and_answered(
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


def test_a_request_is_cancelled_while_a_hook_runs(folder: PluginFolder, start: Callable[..., DaemonProcess]) -> None:
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
        # The hook goes on to its end, and the next question waits for that.
        assert client.call_error(GetVm("other")).code == "not_found"
