"""One plugin of each kind, as in the documentation, with a real daemon."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.daemon import DaemonProcess
from support.plugins import EXAMPLES, PluginFolder, hosting
from support.raw import RawClient

import nexus.plugins
from nexus.plugins.commands import (
    Extra,
    ListPlugins,
    PluginKind,
    PluginState,
    PluginVetoed,
)
from nexus.vms.commands import CreateVm, DeleteVm, GetVm, ListVms

README = Path(nexus.plugins.__file__).parent / "README.md"
PACKAGE = str(EXAMPLES / "package")


def test_readme_contains_the_examples() -> None:
    shown = re.findall(r"```(?:python|lua|toml)\n(.*?)```", README.read_text(), re.DOTALL)
    for path in (EXAMPLES / "guard.py", EXAMPLES / "limits.lua", EXAMPLES / "package" / "nexus_example.py"):
        assert path.read_text() in shown, path.name
    assert (EXAMPLES / "statistics.toml").read_text() in shown


@pytest.fixture
def client(folder: PluginFolder, start: Callable[..., DaemonProcess]) -> RawClient:
    """A client of a daemon that has loaded the three examples."""
    folder.example("guard.py")
    folder.example("limits.lua")
    return RawClient(start(PYTHONPATH=PACKAGE).socket_path)


def test_list_plugins_reports_each_kind_sorted_by_name(client: RawClient) -> None:
    with client:
        listing = client.call(ListPlugins())
    assert [(p.name, p.kind, p.state, p.hooks, p.extras) for p in listing.plugins] == [
        ("guard", PluginKind.PYTHON, PluginState.LOADED, ["pre_command", "pre_start_command"], []),
        ("limits", PluginKind.LUA, PluginState.LOADED, ["pre_command", "pre_start_command", "extra"], ["greet"]),
        ("statistics", PluginKind.ENTRY_POINT, PluginState.LOADED, ["pre_command", "extra"], ["statistics"]),
    ]
    assert listing.enabled
    assert listing.problem is None
    assert listing.pid is not None


def test_vetoed_command_returns_the_reason_and_changes_nothing(client: RawClient) -> None:
    with client:
        vm = client.call(CreateVm(name="prod-db"))
        error = client.call_error(DeleteVm("prod-db"))
        assert type(error) is PluginVetoed
        assert error.code == "failed_precondition"
        assert 'plugin "guard" vetoed it: prod-db is in production' in error.message
        assert error.message.startswith("cannot carry out DeleteVm: ")
        assert error.details["plugin"] == "guard"
        assert client.call(GetVm("prod-db")) == vm
        error = client.call_error(CreateVm(name="big", mem_size_mib=8192))
        assert (error.type, error.details) == (
            "plugin.vetoed",
            {"plugin": "limits", "reason": "a VM has 4096 MiB at most"},
        )
        assert [vm.name for vm in client.call(ListVms()).vms] == ["prod-db"]


def test_extra_calls_only_the_plugin_that_claims_the_name(client: RawClient) -> None:
    with client:
        assert client.call(Extra("greet", {"who": "you"})).body == {"text": "Hello, you!", "plugin": "limits"}
        client.call(CreateVm(name="a"))
        client.call(CreateVm(name="b"))
        # pre_command runs before Extra as before any command.
        assert client.call(Extra("statistics")).body == {"Extra": 2, "CreateVm": 2}
        error = client.call_error(Extra("nobody"))
    assert (error.code, error.type) == ("not_found", "plugin.not_claimed")
    assert error.message == "cannot carry out nobody: no plugin claims it"


def test_pre_start_plugins_change_the_environment_in_turn(folder: PluginFolder) -> None:
    folder.example("guard.py")
    folder.example("limits.lua")

    async def scenario() -> None:
        async with hosting(folder) as test:
            given = {"DATABASE_URL": "db", "PYTHONHOME": "/x", "DEBUG": "1", "KEPT": "as it is"}
            changed = await test.start(given)
            assert changed == {
                "DATABASE_URL": "db",
                "KEPT": "as it is",
                "APP_NAME": "web",
                "LOG_LEVEL": "warning",
            }
            with pytest.raises(PluginVetoed) as vetoed:
                await test.start({})
            assert vetoed.value.message == (
                'cannot start service "web": plugin "guard" vetoed it: DATABASE_URL is not set'
            )

    asyncio.run(scenario())
