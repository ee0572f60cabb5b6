"""Loading of plugins: what is loaded, what is refused and why, reload, settings."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from support.daemon import DaemonProcess
from support.plugins import PluginFolder, TestHost, alive, hosting, wait_for_end
from support.raw import RawClient, wait_until

from nexus.plugins.commands import Extra, ListPlugins, PluginsDisabled, PluginState, ReloadPlugins
from nexus.plugins.sources import find
from nexus.vms.commands import CreateVm, GetVm

VETO = "@hookimpl\ndef pre_command():\n    return Veto('{}')\n"
EXTRA = "NEXUS_EXTRAS = ['{}']\n@hookimpl\ndef extra(body):\n    return body\n"


def run(folder: PluginFolder, scenario: Callable[[TestHost], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        async with hosting(folder, **options) as test:
            await scenario(test)

    asyncio.run(main())


def reason(folder: PluginFolder, name: str, **options: Any) -> str:
    """Return why a plugin was refused."""
    reasons = []

    async def scenario(test: TestHost) -> None:
        plugin = (await test.plugins())[name]
        assert (plugin.state, plugin.hooks, plugin.extras) == (PluginState.FAILED, [], [])
        reasons.append(plugin.reason)

    run(folder, scenario, **options)
    (found,) = reasons
    assert found is not None
    return found


NO_VERSION = "it does not declare its plugin API version: NEXUS_PLUGIN_API = 1"
IMPORT = "from nexus.plugins.api import Veto, hookimpl\nimport pluggy\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1", NO_VERSION),
        ("NEXUS_PLUGIN_API = 2", "it was written for plugin API 2; this nexusd has 1"),
        ("NEXUS_PLUGIN_API = '1'", "it was written for plugin API '1'; this nexusd has 1"),
        ("NEXUS_PLUGIN_API = True", "it was written for plugin API True; this nexusd has 1"),
        ("x =", "is not Python: invalid syntax (line 1)"),
        ("\n1 / 0", "raised ZeroDivisionError: division by zero (line 2)"),
        ("import nothing_of_this_name", "raised ModuleNotFoundError: No module named 'nothing_of_this_name' (line 1)"),
        ("raise SystemExit(0)", "raised SystemExit: 0 (line 1)"),
        ("import os; os._exit(7)", "the process ended (exit code 7)"),
        ("while True: pass", "it took longer than 1000 ms"),
        ("x = bytearray(1 << 34)", "it ran out of memory"),
        (
            "NEXUS_PLUGIN_API = 1\ndef pre_command(): pass",
            "pre_command is not marked with @hookimpl (from nexus.plugins.api import hookimpl)",
        ),
        ("NEXUS_PLUGIN_API = 1\npre_command = 1", "pre_command is not a function"),
        (
            IMPORT + "NEXUS_PLUGIN_API = 1\n@hookimpl\ndef pre_commnd(): pass",
            "pre_commnd is marked as a hook, but the hooks are pre_command, pre_start_command, extra",
        ),
        (
            IMPORT + "NEXUS_PLUGIN_API = 1\n@hookimpl\ndef pre_command(comand): pass",
            "a hook has an unknown parameter: ",
        ),
        (
            IMPORT + "NEXUS_PLUGIN_API = 1\n@hookimpl\nasync def pre_command(): pass",
            "pre_command is a coroutine or a generator; a hook must be a plain function",
        ),
        (
            IMPORT + "NEXUS_PLUGIN_API = 1\n@hookimpl(wrapper=True)\ndef pre_command(): yield",
            "pre_command is marked with options that are not part of this API",
        ),
        (
            IMPORT + "NEXUS_PLUGIN_API = 1\nNEXUS_EXTRAS = ['a']",
            "it claims names (NEXUS_EXTRAS), but does not define the hook extra",
        ),
        (
            IMPORT + "NEXUS_PLUGIN_API = 1\n@hookimpl\ndef extra(): pass",
            "it defines the hook extra, but claims no names (NEXUS_EXTRAS)",
        ),
        (
            IMPORT + "NEXUS_PLUGIN_API = 1\nNEXUS_EXTRAS = 'a'\n@hookimpl\ndef extra(): pass",
            "the names that it claims (NEXUS_EXTRAS) are not a list of strings",
        ),
    ],
)
def test_plugin_that_cannot_be_loaded_is_listed_with_the_reason(folder: PluginFolder, text: str, sentence: str) -> None:
    folder.add("bad.py", text)
    assert reason(folder, "bad", timeout_ms=100).startswith(sentence)


def test_other_plugins_are_loaded_when_one_cannot_be(folder: PluginFolder) -> None:
    for name, text in {"a": "import os; os._exit(1)", "c": "1 / 0", "e": "while True: pass", "g": "x ="}.items():
        folder.add(f"{name}.py", text)
    for name in "bdfh":
        folder.python(name, EXTRA.format(name))

    async def scenario(test: TestHost) -> None:
        states = {name: plugin.state.value for name, plugin in (await test.plugins()).items()}
        assert states == {name: "loaded" if name in "bdfh" else "failed" for name in "abcdefgh"}
        for name in "bdfh":
            assert await test.extra(name, 5) == 5

    run(folder, scenario, timeout_ms=100)


def test_second_plugin_that_claims_a_name_is_refused(folder: PluginFolder) -> None:
    folder.python("b", EXTRA.format("greet"))
    folder.python("a", EXTRA.format("greet"))

    async def scenario(test: TestHost) -> None:
        plugins = await test.plugins()
        assert plugins["a"].extras == ["greet"]
        assert (plugins["b"].state, plugins["b"].reason) == (
            PluginState.FAILED,
            "it claims greet, which plugin a already claims",
        )

    run(folder, scenario)


def test_second_plugin_of_the_same_name_is_refused(folder: PluginFolder) -> None:
    folder.lua("same", "")
    folder.python("same", "")

    async def scenario(test: TestHost) -> None:
        lua, python = (await test.host.listing()).plugins
        assert (lua.kind, python.kind) == ("lua", "python")
        assert python.reason == f"another plugin has the same name: {folder.path}/same.lua"

    run(folder, scenario)


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_folder_writable_by_others_is_refused(folder: PluginFolder, mode: int) -> None:
    folder.python("a", VETO.format("a"))
    folder.path.chmod(mode)

    async def scenario(test: TestHost) -> None:
        listing = await test.host.listing()
        assert (listing.plugins, listing.pid) == ([], None)
        assert listing.problem == (
            f"cannot load plugins from {folder.path}: "
            f"other users can write to it (mode {mode:04o}); remove their access: chmod go-w"
        )
        assert test.pre_command_hook is None

    run(folder, scenario)


def test_file_writable_by_others_is_refused_without_starting_a_process(folder: PluginFolder) -> None:
    folder.python("a", VETO.format("a")).chmod(0o622)

    async def scenario(test: TestHost) -> None:
        listing = await test.host.listing()
        assert [(p.name, p.reason) for p in listing.plugins] == [
            ("a", "other users can write to it (mode 0622); remove their access: chmod go-w")
        ]
        assert listing.pid is None

    run(folder, scenario)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_file_or_folder_of_another_user_is_refused(folder: PluginFolder) -> None:
    path = folder.python("a", VETO.format("a"))
    os.chown(path, 4242, 4242)
    assert find(str(folder.path)).files[0].problem == "it belongs to user 4242, not to you (0)"
    os.chown(path, 0, 0)
    os.chown(folder.path, 4242, 4242)
    assert (find(str(folder.path)).problem or "").endswith("it belongs to user 4242, not to you (0)")


def test_other_files_are_ignored_and_invalid_ones_are_refused(folder: PluginFolder) -> None:
    for name in ("_helper.py", ".hidden.py", "notes.txt", "a.pyc"):
        folder.add(name, "1 / 0")
    (folder.path / "folder.py").mkdir()
    folder.add("a b.py", "")
    (folder.path / "gone.lua").symlink_to("/nowhere")
    os.mkfifo(folder.path / "pipe.py")
    problems = {source.name: source.problem for source in find(str(folder.path)).files}
    assert problems == {
        "a b": "its name is not 1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit",
        "folder": "it is not a file",
        "gone": "it cannot be read: No such file or directory",
        "pipe": "it is not a file",
    }


def test_loading_a_plugin_writes_no_bytecode(folder: PluginFolder) -> None:
    folder.python("a", EXTRA.format("a"))

    async def scenario(test: TestHost) -> None:
        assert await test.extra("a", 1) == 1

    run(folder, scenario)
    assert [path.name for path in folder.path.iterdir()] == ["a.py"]


def test_reload_loads_the_current_files_and_ends_the_old_process(folder: PluginFolder) -> None:
    folder.python("a", VETO.format("first"))

    async def scenario(test: TestHost) -> None:
        old = await test.pid()
        folder.python("a", VETO.format("second"))
        folder.add("broken.py", "x =")
        with pytest.raises(Exception, match="first"):
            await test.before(GetVm("x"))
        listing = await test.host.reload()
        assert [(p.name, p.state.value) for p in listing.plugins] == [("a", "loaded"), ("broken", "failed")]
        assert listing.pid not in (old, None)
        with pytest.raises(Exception, match="second"):
            await test.before(GetVm("x"))
        wait_for_end(old)
        for file in folder.path.iterdir():
            file.unlink()
        listing = await test.host.reload()
        assert (listing.plugins, listing.pid) == ([], None)
        assert test.pre_command_hook is None
        await test.before(GetVm("x"))
        folder.python("b", VETO.format("third"))
        await test.host.reload()
        assert test.pre_command_hook is not None
        with pytest.raises(Exception, match="third"):
            await test.before(GetVm("x"))

    run(folder, scenario)


def test_calls_are_answered_during_a_reload(folder: PluginFolder) -> None:
    """The old plugins are called until the new ones are loaded."""
    folder.python("a", EXTRA.format("a"))
    go = folder.path / "go"

    async def scenario(test: TestHost) -> None:
        await test.pid()
        folder.python(
            "b",
            f"""
            import os, time
            while not os.path.exists({str(go)!r}):
                time.sleep(0.01)
            """
            + EXTRA.format("b").replace("\n", "\n            "),
        )
        reload = asyncio.create_task(test.host.reload())
        for n in range(20):
            assert await test.extra("a", n) == n
            await asyncio.sleep(0.01)
        assert not reload.done()
        go.touch()
        assert [plugin.name for plugin in (await reload).plugins] == ["a", "b"]
        assert await test.extra("b", 1) == 1

    run(folder, scenario)


def test_call_in_progress_is_finished_by_the_old_process_after_a_reload(folder: PluginFolder) -> None:
    entered, go = folder.path / "entered", folder.path / "go"
    folder.python(
        "a",
        f"""
        import os, time
        NEXUS_EXTRAS = ["a"]

        @hookimpl
        def extra():
            open({str(entered)!r}, "w").close()
            while not os.path.exists({str(go)!r}):
                time.sleep(0.01)
            return os.getpid()
        """,
    )

    async def scenario(test: TestHost) -> None:
        old = await test.pid()
        call = asyncio.create_task(test.extra("a"))
        await asyncio.to_thread(wait_until, entered.exists, "the hook")
        listing = await test.host.reload()
        assert listing.pid != old
        assert alive(old)
        go.touch()
        assert await call == old
        wait_for_end(old)

    run(folder, scenario, timeout_ms=20_000)


def test_without_plugins_no_process_is_started_and_nothing_imported(folder: PluginFolder) -> None:
    script = """
import asyncio, sys, os
from nexus.config import PluginSettings
import nexus.daemon.main
from nexus.plugins.host import PluginHost
async def main():
    hooks = []
    host = PluginHost(PluginSettings(), sys.argv[1], hooks.append)
    await host.start()
    listing = await host.listing()
    assert (listing.plugins, listing.pid, hooks) == ([], None, [None])
    assert len(asyncio.all_tasks()) == 1
    await host.close()
    print(*sorted({"pluggy", "lupa", "importlib.metadata", "nexus.plugins.api"} & set(sys.modules)))
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder.path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("how", ["option", "config"])
def test_plugins_can_be_disabled(folder: PluginFolder, make_daemon: Callable[..., DaemonProcess], how: str) -> None:
    folder.python("a", VETO.format("never"))
    if how == "option":
        daemon = make_daemon("--no-plugins").start()
    else:
        daemon = make_daemon(config="[plugins]\nenabled = false\n").start()
    with RawClient(daemon.socket_path) as client:
        client.call(CreateVm(name="x"))
        listing = client.call(ListPlugins())
        assert (listing.enabled, listing.plugins, listing.pid) == (False, [], None)
        error = client.call_error(ReloadPlugins())
        assert (type(error), error.code) == (PluginsDisabled, "failed_precondition")
        assert client.call_error(Extra("x")).type == "plugin.not_claimed"
        assert children(daemon.pid) == []


def test_plugin_directory_is_configurable(root: Path, make_daemon: Callable[..., DaemonProcess]) -> None:
    for name in ("one", "two"):
        PluginFolder(root / name).python(name, EXTRA.format(name))
    daemon = make_daemon(config=f'[plugins]\ndirectory = "{root}/one"\n').start()
    with RawClient(daemon.socket_path) as client:
        assert [plugin.name for plugin in client.call(ListPlugins()).plugins] == ["one"]
    daemon.stop()
    daemon.environment["NEXUS_PLUGINS_DIR"] = str(root / "two")
    daemon.start()
    with RawClient(daemon.socket_path) as client:
        listing = client.call(ListPlugins())
        assert ([plugin.name for plugin in listing.plugins], listing.directory) == (["two"], f"{root}/two")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("enabled = 1", "plugins.enabled must be true or false"),
        ("timeout_ms = 5", "plugins.timeout_ms must be 10 to 600000"),
        ("memory_mib = true", "plugins.memory_mib must be a whole number"),
        ("nothing = 1", "unknown key plugins.nothing"),
    ],
)
def test_invalid_plugin_setting_stops_the_daemon_at_startup(
    make_daemon: Callable[..., DaemonProcess], line: str, sentence: str
) -> None:
    code, output = make_daemon(config=f"[plugins]\n{line}\n").run_to_failure()
    assert code == 78
    assert f"line 2: {sentence}" in output


def test_process_inherits_no_descriptors_and_ends_with_the_daemon(
    folder: PluginFolder, start: Callable[..., DaemonProcess]
) -> None:
    folder.python(
        "look",
        """
        import os, time
        NEXUS_EXTRAS = ("look", "hang")

        def target(link):
            try:
                return os.readlink(link).split(":")[0]
            except OSError:  # the descriptor that listed the folder
                return ""

        @hookimpl
        def extra(name):
            if name == "hang":
                open(os.environ["ENTERED"], "w").close()
                time.sleep(600)
            return {
                "environment": sorted(os.environ),
                "files": [target(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")],
                "session": os.getsid(0) == os.getpid(),
                "directory": os.getcwd(),
            }
        """,
    )
    entered = folder.path / "entered"
    daemon = start(INVOCATION_ID="1", KEPT="1", ENTERED=str(entered))
    with RawClient(daemon.socket_path) as client:
        seen = client.call(Extra("look")).body
        assert "KEPT" in seen["environment"]
        assert not {"NOTIFY_SOCKET", "INVOCATION_ID"} & set(seen["environment"])
        assert sorted(file for file in seen["files"] if file) == ["/dev/null", "pipe", "pipe", "socket"]
        assert seen["session"]
        assert seen["directory"] == "/"
        pid = client.call(ListPlugins()).pid
        assert pid is not None
        (shim,) = children(daemon.pid)
        assert children(shim) == [pid]
        client.begin(Extra("hang"))
        wait_until(entered.exists, "the hook")
        daemon.kill()
    wait_for_end(pid)


def test_sighup_does_not_reload_plugins(folder: PluginFolder, start: Callable[..., DaemonProcess]) -> None:
    folder.python("a", EXTRA.format("a"))
    daemon = start()
    with RawClient(daemon.socket_path) as client:
        pid = client.call(ListPlugins()).pid
        folder.python("b", EXTRA.format("b"))
        daemon.write_config("[plugins]\ntimeout_ms = 77\n")
        daemon.signal(signal.SIGHUP)
        wait_until(lambda: "configuration reloaded" in daemon.log(), "the reload")
        assert "the section plugins changed: it takes effect after a restart" in daemon.log()
        listing = client.call(ListPlugins())
        assert (listing.pid, [plugin.name for plugin in listing.plugins]) == (pid, ["a"])
        assert [plugin.name for plugin in client.call(ReloadPlugins()).plugins] == ["a", "b"]
