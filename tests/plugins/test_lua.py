"""The sandbox of Lua plugins: the conversion of values, what the sandbox withholds, its limits."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from support.daemon import DaemonProcess
from support.plugins import PluginFolder, TestHost, hosting
from support.raw import RawClient

from nexus.plugins.commands import Extra, ListPlugins, PluginFailed, PluginState
from nexus.plugins.messages import Load

pytest.importorskip("lupa", reason="Lua plugins need the extra lua")

RUN = """
nexus.extras = {"run"}
function nexus.extra(name, body)
%s
end
"""


def load(text: str, *, timeout_ms: int = 60_000, memory_mib: int = 16) -> Any:
    """Load a plugin from Lua text, in the test's own process."""
    from nexus.plugins.lua import load_lua

    source = ("nexus.api = 1\n" + text).encode()
    return load_lua("/x/test.lua", source, Load([], False, {}, timeout_ms, timeout_ms, memory_mib))


def call(body: str, value: Any = None, **limits: int) -> Any:
    """Return what a Lua function with this body returns when it is given ``value``."""
    return load(RUN % body, **limits).extra("run", value)


def fails(body: str, **limits: int) -> str:
    """Return the text of the error that a Lua function with this body fails with."""
    with pytest.raises(Exception) as failed:  # noqa: PT011
        call(body, **limits)
    return str(failed.value) or type(failed.value).__name__


VALUES: list[Any] = [
    None, True, False, 0, -1, 2**63 - 1, -(2**63), 1.5, "", "text ä\U0001f600", "a\0b", b"\xff\xfe", [1, "two", [3]],
    {"a": 1, "b": {"c": [True]}}, {"1": "text"},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_value_survives_the_round_trip_through_lua(value: Any) -> None:
    assert call("return body", value) == value


@pytest.mark.parametrize(
    ("value", "result"), [([], {}), ([1, None, 3], {1: 1, 3: 3}), ({"a": None}, {}), (2**64 - 1, float(2**64 - 1))]
)
def test_values_that_a_lua_table_cannot_represent(value: Any, result: Any) -> None:
    if result == {1: 1, 3: 3}:
        assert "whose keys are neither text nor 1 to its length" in fails("return {[1] = 1, [3] = 3}")
    else:
        assert call("return body", value) == result


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("print", "returned a function, which cannot be converted"),
        ("{x = print}", "returned a function, which cannot be converted"),
        ("{[1.5] = 1}", "returned a table whose keys are neither text nor 1 to its length"),
        ("(function() local t = {}; t.t = t; return t end)()", "returned a value nested deeper than 32 levels"),
        ("(function() local t = {}; for i = 1, 200000 do t[i] = i end; return t end)()", "or with too many elements"),
    ],
)
def test_lua_value_that_cannot_be_converted_is_refused(expression: str, sentence: str) -> None:
    assert sentence in fails(f"return {expression}")


@pytest.mark.parametrize(
    "name",
    [
        *("os", "io", "require", "package", "debug", "load", "loadstring", "loadfile", "dofile", "collectgarbage"),
        *("coroutine", "python", "string.dump", "module", "newproxy", "getfenv", "setfenv", "jit", "ffi", "warn"),
    ],
)
def test_unsafe_global_is_not_in_the_sandbox(name: str) -> None:
    assert call(f"return type({name})") == "nil"


@pytest.mark.parametrize(
    "path",
    [
        "_G.os",
        "_G._G.io",
        "getmetatable('').__index.dump",
        "('').dump",
        "getmetatable(nexus)",
        "getmetatable(_G)",
        "getmetatable(print)",
        "rawget(_G, 'load')",
    ],
)
def test_unsafe_value_is_not_reachable_by_an_indirect_path(path: str) -> None:
    assert call(f"return {path}") is None


ESCAPES = {
    "bytecode": "return string.dump(function() end)",
    "bytecode of a text": "return ('x').dump(print)",
    "python's eval": "return python.eval('1')",
    "python's builtins": "return python.builtins.open('/etc/passwd')",
    "an attribute of the log": "return nexus.log.__self__",
    "an attribute of print": "return print.__globals__",
    "an index of a function": "return nexus.veto['__class__']",
    "a finalizer": "setmetatable({}, {__gc = function() end})",
    "an environment": "local _ENV = {}; return os.getenv('HOME')",
    "package.loaded": "return package.loaded.os",
    "debug.getregistry": "return debug.getregistry()",
}


@pytest.mark.parametrize("body", ESCAPES.values(), ids=ESCAPES)
def test_escape_attempt_raises_an_error(body: str) -> None:
    assert re.match(r"test\.lua:\d+: (attempt to (index|call) a (nil|function) value|__gc is not part)", fails(body)), (
        fails(body)
    )


def test_bytecode_is_refused_as_a_plugin() -> None:
    import lupa.lua54

    code = lupa.lua54.LuaRuntime(encoding=None).eval(b"string.dump(function() return 1 end)")
    from nexus.plugins.hooks import PluginRaised
    from nexus.plugins.lua import load_lua

    with pytest.raises(PluginRaised, match="attempt to load a binary chunk"):
        load_lua("/x/test.lua", code, Load([], False, {}, 1000, 1000, 16))


@pytest.mark.parametrize("value", [b"\xff", "\udcff", 2**64 - 1, -(2**63), 1e400])
def test_unusual_python_value_arrives_as_a_lua_value(value: Any) -> None:
    assert call("return type(body)", value) in ("string", "number")


def test_print_never_raises_a_python_exception(capfd: pytest.CaptureFixture[str]) -> None:
    done = "local ok, problem = pcall(print, '\\xff', {}, nil, 1); return {ok, type(problem)}"
    assert call(done) == [True, "nil"]
    assert re.fullmatch(r"\\xff\ttable: \S+\tnil\t1\n", capfd.readouterr().out)


LOOPS = {
    "a loop": "while true do end",
    "a pcall in a loop": "while true do pcall(function() while true do end end) end",
    "an xpcall in a loop": "while true do xpcall(function() while true do end end, function(e) return e end) end",
    "a handler that loops": "xpcall(error, function() while true do end end)",
    "pcalls within pcalls": "local function f() pcall(f); while true do end end; f()",
    "a metamethod": "return setmetatable({}, {__index = function(t, k) return t[k .. 'x'] or t[1] end}).x",
    "a pcall of pcall": "while true do pcall(pcall, pcall, error) end",
    "an error that is a table": "while true do pcall(error, setmetatable({}, {__tostring = error})) end",
}


@pytest.mark.parametrize("body", LOOPS.values(), ids=LOOPS)
def test_endless_loop_is_stopped_even_when_the_error_is_caught(body: str) -> None:
    error = fails(body, timeout_ms=200)
    assert error == "it took longer than 200 ms" or "stack overflow" in error, error


BOMBS = {
    "a text": "return ('x'):rep(1 << 30)",
    "a text that doubles": "local s = 'x'; while true do s = s .. s end",
    "a table": "local t = {}; while true do t[#t + 1] = {} end",
    "a long separator": "return ('x'):rep(1 << 16, ('y'):rep(1 << 16))",
    "a format": "local t = {}; for i = 1, 1 << 22 do t[i] = ('%99d'):format(i) end",
    "table.concat": "local t = {}; for i = 1, 1 << 16 do t[i] = ('x'):rep(1 << 10) end; return table.concat(t)",
    "gsub": "return (('x'):rep(1 << 20):gsub('x', ('y'):rep(1 << 10)))",
    "unpack": "return string.char(table.unpack(setmetatable({}, {__len = function() return 1 << 30 end})))",
}


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS)
def test_excessive_allocation_hits_the_memory_limit(body: str) -> None:
    before = int(Path("/proc/self/statm").read_text().split()[0])
    error = fails(body)
    assert error == "MemoryError" or re.search("too many results to unpack|resulting string too large", error), error
    after = int(Path("/proc/self/statm").read_text().split()[0])
    assert (after - before) * os.sysconf("SC_PAGE_SIZE") < 128 * 1024 * 1024


def test_error_value_that_is_not_text_is_reported() -> None:
    assert fails("error({})") == "raised a value of type table"
    assert fails("error()") == "raised a value of type nil"
    assert fails("error('\\xff')").startswith("test.lua:5: ")


def run(folder: PluginFolder, scenario: Callable[[TestHost], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        async with hosting(folder, **options) as test:
            await scenario(test)

    asyncio.run(main())


def test_daemon_kills_the_process_when_the_sandbox_cannot_stop_a_call(folder: PluginFolder) -> None:
    """A C function of Lua's library does not run the time hook."""
    folder.lua("slow", RUN % "return body and ('a'):rep(1 << 12):find(('.-'):rep(50) .. 'b')")

    async def scenario(test: TestHost) -> None:
        with pytest.raises(PluginFailed) as failed:
            await test.extra("run", True)
        assert failed.value.message == 'cannot carry out run: plugin "slow" failed: it took longer than 500 ms'
        assert await test.extra("run", False) is False

    run(folder, scenario, timeout_ms=500)


def test_lua_plugin_beyond_its_memory_limit_fails_alone(folder: PluginFolder) -> None:
    folder.lua("good", RUN % "return body")
    folder.lua("big", "nexus.extras = {'big'}\nfunction nexus.extra() return ('x'):rep(1 << 30) end")
    keeping = "kept = {}\nfunction nexus.extra() while true do kept[#kept + 1] = {} end end"
    folder.lua("keeps", f"nexus.extras = {{'keeps'}}\n{keeping}")

    async def scenario(test: TestHost) -> None:
        for name in ("big", "keeps"):
            with pytest.raises(PluginFailed, match=f'plugin "{name}" failed: it ran out of memory'):
                await test.extra(name)
        assert await test.extra("run", False) is False

    run(folder, scenario, timeout_ms=20_000)


def test_lua_timeout_keeps_the_process(folder: PluginFolder) -> None:
    folder.lua("loop", RUN % "while body do end")

    async def scenario(test: TestHost) -> None:
        pid = await test.pid()
        with pytest.raises(PluginFailed, match='plugin "loop" failed: it took longer than 3000 ms'):
            await test.extra("run", True)
        assert await test.extra("run", False) is None
        assert await test.pid() == pid

    run(folder, scenario, timeout_ms=3000)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = = 1", "bad.lua:1: unexpected symbol near '='"),
        ("error('not today')", "bad.lua:1: not today"),
        ("x = 1", "it does not declare its plugin API version: NEXUS_PLUGIN_API = 1"),
        ("nexus.api = 2", "it was written for plugin API 2; this nexusd has 1"),
        ("nexus.api = 1; nexus.pre_command = 1", "pre_command is not a function"),
        ("nexus.api = 1; nexus.extras = 'a'", "the names that it claims (NEXUS_EXTRAS) are not a list of strings"),
        ("while true do end", "it took longer than 2000 ms"),
    ],
)
def test_plugin_that_cannot_be_loaded_is_listed_with_the_reason(folder: PluginFolder, text: str, reason: str) -> None:
    folder.add("bad.lua", text)

    async def scenario(test: TestHost) -> None:
        plugin = (await test.plugins())["bad"]
        assert (plugin.state, plugin.reason) == (PluginState.FAILED, reason)

    run(folder, scenario, timeout_ms=200)


def test_lua_pre_start_changes_the_environment(folder: PluginFolder) -> None:
    changes = "{A = s, B = c.dir, C = false, D = e.D .. '!'}"
    folder.lua("a", f"function nexus.pre_start_command(s, c, e) return {changes} end")

    async def scenario(test: TestHost) -> None:
        assert await test.start({"C": "1", "D": "d", "E": "e"}, dir="/srv") == {
            "A": "web",
            "B": "/srv",
            "D": "d!",
            "E": "e",
        }

    run(folder, scenario)


def test_without_lupa_lua_plugin_is_listed_as_failed_with_the_install_command(
    root: Path, folder: PluginFolder, start: Callable[..., DaemonProcess]
) -> None:
    folder.lua("a", RUN % "return 1")
    folder.python("b", "NEXUS_EXTRAS = ['b']\n@hookimpl\ndef extra():\n    return 2\n")
    # Stands for a missing lupa: a package of this name without a Lua module.
    (root / "lupa").mkdir()
    (root / "lupa" / "__init__.py").write_text("")
    with RawClient(start(PYTHONPATH=str(root)).socket_path) as client:
        a, b = client.call(ListPlugins()).plugins
        assert (a.state, a.reason) == (PluginState.FAILED, "it needs lupa: pip install 'nexusd[lua]'")
        assert b.state is PluginState.LOADED
        assert client.call(Extra("b")).body == 2
