"""``nexusctl plugin``: list, reload and call."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from nexus_protocol import encode_record
from support.cli import Cli
from support.daemon import DaemonProcess
from support.plugins import PluginFolder
from support.raw import RawClient

from nexus.plugins.commands import Extra, ListPlugins, ReloadPlugins

ECHO = "NEXUS_EXTRAS = ['echo', 'exit']\n@hookimpl\ndef extra(name, body):\n    return body\n"


@pytest.fixture
def folder(root: Path) -> PluginFolder:
    """The directory where the daemon looks for plugins."""
    return PluginFolder(root / "config" / "nexus" / "plugins")


@pytest.fixture
def cli(folder: PluginFolder, make_daemon: Callable[..., DaemonProcess]) -> Cli:
    """nexusctl beside a daemon with a working plugin and a broken one."""
    folder.python("echo", ECHO)
    folder.add("broken.py", "x =")
    return Cli(make_daemon().start().environment)


def test_plugin_list_shows_state_and_reason(cli: Cli, folder: PluginFolder) -> None:
    done = cli.ok("plugin", "list")
    assert done.lines == [
        "NAME             KIND        STATE  HOOKS       PATH / REASON",
        "broken           python      failed -           is not Python: invalid syntax (line 1)",
        f"echo             python      loaded extra       {folder.path}/echo.py",
    ]
    assert done.err == ""
    assert cli.ok("plugin", "list", "-o", "name").lines == ["broken", "echo"]
    assert [plugin["extras"] for plugin in cli.ok("plugin", "list", "-o", "json").json] == [[], ["echo", "exit"]]
    assert "echo, exit" in cli.ok("plugin", "list", "-o", "wide").out


def test_plugin_reload_lists_the_current_plugins(cli: Cli, folder: PluginFolder) -> None:
    (folder.path / "broken.py").unlink()
    folder.python("another", "@hookimpl\ndef pre_command(command):\n    return Veto('closed')\n")
    assert cli.ok("plugin", "reload", "-o", "name").lines == ["another", "echo"]
    refused = cli("vm", "create", "web")
    assert (refused.code, refused.out) == (5, "")
    assert refused.err == (
        'Error: cannot carry out CreateVm: plugin "another" vetoed it: closed\n'
        "  Change the request as the reason says, or check the plugin: nexusctl plugin list\n"
    )


def test_plugin_call_takes_json_and_prints_json(cli: Cli) -> None:
    body = {"a": [1, "ä", None, 1.5]}
    assert cli.ok("plugin", "call", "echo", json.dumps(body)).json == body
    assert cli.ok("plugin", "call", "echo", "-o", "jsonl", '"text"').out == '"text"\n'
    assert cli.ok("plugin", "call", "echo").out == "null\n"
    for text in ("{", "text", "[" * 5000):
        wrong = cli("plugin", "call", "echo", text)
        assert (wrong.code, wrong.out) == (2, "")
        assert "is not JSON" in wrong.err
    deep = cli("plugin", "call", "echo", "[" * 40 + "]" * 40)
    assert deep.code == 2
    assert "nested deeper than 32 levels" in deep.err


def test_plugin_call_of_unclaimed_name_is_not_found(cli: Cli) -> None:
    done = cli("plugin", "call", "nobody")
    assert (done.code, done.out) == (4, "")
    assert done.err == (
        "Error: cannot carry out nobody: no plugin claims it\n  List the claimed names: nexusctl plugin list -o wide\n"
    )


def test_plugin_call_names_are_completed(cli: Cli) -> None:
    done = cli(_NEXUSCTL_COMPLETE="bash_complete", COMP_WORDS="nexusctl plugin call e", COMP_CWORD="3")
    assert done.out == "plain,echo\nplain,exit\n"


def test_empty_plugin_list_names_the_plugin_directory(shared: Cli) -> None:
    done = shared.ok("plugin", "list")
    assert done.out == ""
    assert done.err.startswith("No plugins found.\n\n  Plugin files belong in: /")
    assert shared.ok("plugin", "list", "-o", "json").out == "[]\n"


def test_plugin_verbs_say_that_plugins_are_disabled(root: Path, make_daemon: Callable[..., DaemonProcess]) -> None:
    cli = Cli(make_daemon("--no-plugins").start().environment)
    assert cli.ok("plugin", "list").err == "No plugins: this daemon was started without plugins.\n"
    refused = cli("plugin", "reload")
    assert refused.code == 5
    assert refused.err == (
        "Error: cannot reload plugins: they are disabled in this daemon\n"
        "  Start nexusd without --no-plugins and with [plugins] enabled = true in config.toml.\n"
    )


def test_unsafe_plugin_directory_is_a_warning(cli: Cli, folder: PluginFolder) -> None:
    folder.path.chmod(0o777)
    done = cli.ok("plugin", "reload")
    assert done.out == ""
    assert done.err == (
        f"No plugins found.\nWarning: cannot load plugins from {folder.path}: "
        "other users can write to it (mode 0777); remove their access: chmod go-w\n"
    )


def test_plugin_commands_work_over_the_protocol(cli: Cli, root: Path) -> None:
    with RawClient(root / "run" / "nexus" / "nexus.sock") as client:
        listed, reloaded = client.call(ListPlugins()), client.call(ReloadPlugins())
        assert listed.plugins == reloaded.plugins
        assert listed.pid != reloaded.pid
        assert encode_record(client.call(Extra("echo", {"a": b"\xff"})).body) == b"\x81\xa1a\xc4\x01\xff"
