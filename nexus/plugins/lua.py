"""A plugin written in Lua: its sandbox, and the conversion of values between Python and Lua.

The sandbox has no files, no processes, no modules, no bytecode, no debug library, no coroutines and no access to
Python; it has limits of time and memory. It needs lupa, which is an optional dependency. Only the plugins' process
imports this module.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable
from typing import Any, NoReturn

from nexus.plugins.api import Veto, hookimpl
from nexus.plugins.hooks import HOOKS, InvalidPlugin, PluginRaised
from nexus.plugins.messages import Load

__all__ = ["load_lua"]

_LUPA_MISSING = "it needs lupa: pip install 'nexusd[lua]'"
_VERSIONS = ("lua54", "lua55", "lua53")
"""In the order in which they are tried. LuaJIT is not among them: it has no memory limit on 64-bit machines."""
_MAX_DEPTH = 32
_MAX_ELEMENTS = 100_000
_INSTRUCTIONS = 5000
"""The number of instructions between two checks of the time limit."""
_LUA_OUT_OF_MEMORY = "not enough memory"
"""LUA_ERRMEM as ``pcall`` returns it: Lua reports it by this fixed text alone (``MEMERRMSG`` in its lstring.h)."""

_SANDBOX = """
local log, clock, instructions = ...
local pcall, error, load, type, tostring, select = pcall, error, load, type, tostring, select
local ipairs, rawget, setmetatable, getmetatable = ipairs, rawget, setmetatable, getmetatable
local sethook, pack, unpack, concat = debug.sethook, table.pack, table.unpack, table.concat
local ends_at = 0
local VETO, TIMEOUT = {}, {}

local function check()
  if clock() > ends_at then error(TIMEOUT, 0) end
end

-- A plugin that catches the timeout with pcall gets it again as soon as the pcall returns.
local function checked(...)
  check()
  return ...
end

-- Every string reaches this table by its metatable, so the table itself is changed.
string.dump = nil

local sandbox = {
  assert = assert, error = error, ipairs = ipairs, next = next, pairs = pairs, rawequal = rawequal,
  rawget = rawget, rawlen = rawlen, rawset = rawset, select = select, tonumber = tonumber, tostring = tostring,
  type = type, getmetatable = getmetatable, _VERSION = _VERSION,
  math = math, string = string, table = table, utf8 = utf8,
}
sandbox._G = sandbox

function sandbox.pcall(...) return checked(pcall(...)) end

-- Not Lua's own xpcall: it calls the handler at the point of the error, and during check() the time hook does not run.
function sandbox.xpcall(f, handler, ...)
  local results = pack(checked(pcall(f, ...)))
  if results[1] then return unpack(results, 1, results.n) end
  return false, select(2, checked(pcall(handler, results[2])))
end

-- Finalizers run outside of the time limit.
function sandbox.setmetatable(value, meta)
  if type(meta) == "table" and rawget(meta, "__gc") ~= nil then error("__gc is not part of the sandbox", 2) end
  return setmetatable(value, meta)
end

function sandbox.print(...)
  local words = pack(...)
  for index = 1, words.n do words[index] = tostring(words[index]) end
  log(concat(words, "\\t"))
end

sandbox.nexus = {
  log = sandbox.print,
  veto = function(reason) return setmetatable({reason = tostring(reason)}, VETO) end,
}

local function error_text(problem)
  if type(problem) == "string" then return problem end
  return "raised a value of type " .. type(problem)
end

local function timed(seconds, run, ...)
  sethook()
  ends_at = clock() + seconds
  sethook(check, "", instructions)
  local done, value = pcall(run, ...)
  sethook()
  if not done and rawequal(value, TIMEOUT) then return "timeout", nil end
  if not done then return "error", error_text(value) end
  if getmetatable(value) == VETO then return "veto", rawget(value, "reason") end
  return "value", value
end

local function start(seconds, source, name)
  local chunk, problem = load(source, "=" .. name, "t", sandbox)
  if not chunk then return "error", problem end
  return timed(seconds, chunk)
end

return start, timed, sandbox.nexus
"""


class _Plugin:
    """The attributes that the registry reads, as of a Python module."""

    NEXUS_PLUGIN_API: Any
    NEXUS_EXTRAS: Any


def load_lua(path: str, source: bytes, load: Load) -> Any:
    """Run a Lua file in a sandbox of its own; returns an object with the hooks that it defines.

    Raises:
        InvalidPlugin: lupa is not installed, or the plugin takes too long or declares something invalid.
        PluginRaised: the file does not compile, or raises an error.
        MemoryError: it exceeds its memory limit.
    """
    lupa = _lupa()
    try:
        sandbox = _Sandbox(lupa, path, load)
        sandbox.start(source, load.load_timeout_ms)
        plugin = _Plugin()
        plugin.NEXUS_PLUGIN_API = sandbox.declared(b"api")
        extras = sandbox.declared(b"extras")
        plugin.NEXUS_EXTRAS = () if extras in (None, {}) else extras
        for hook, wrap in _WRAPPERS.items():
            if sandbox.has(hook):
                setattr(plugin, hook, hookimpl(wrap(sandbox)))
    except lupa.LuaMemoryError:
        raise MemoryError from None
    return plugin


def _lupa() -> Any:
    for version in _VERSIONS:
        try:
            return importlib.import_module(f"lupa.{version}")
        except ImportError:
            continue
    raise InvalidPlugin(_LUPA_MISSING)


def _deny_attribute(_object: object, _name: object, _setting: bool) -> NoReturn:
    raise AttributeError("Python objects have no attributes in the sandbox")


def _log(text: Any) -> None:
    try:
        print(text.decode("utf-8", "backslashreplace"))
    except Exception:
        pass  # an exception would bring a Python object into the sandbox


class _Sandbox:
    """One Lua state with one plugin in it."""

    def __init__(self, lupa: Any, path: str, load: Load) -> None:
        self._lupa = lupa
        self._path = path
        self._timeout_ms = load.timeout_ms
        # Bytes on both sides: text that is not UTF-8 must not raise an exception inside the sandbox.
        self._lua = lupa.LuaRuntime(
            encoding=None,
            register_eval=False,
            register_builtins=False,
            unpack_returned_tuples=False,
            attribute_filter=_deny_attribute,
            max_memory=load.lua_memory_mib * 1024 * 1024,
        )
        make = self._lua.eval(b"load")(_SANDBOX.encode(), b"=sandbox", b"t")
        self._start, self._timed, self._nexus = make(_log, time.monotonic, _INSTRUCTIONS)

    def start(self, source: bytes, timeout_ms: int) -> None:
        """Run the file."""
        name = self._path.rpartition("/")[2].encode("utf-8", "surrogateescape")
        self._outcome(self._start(self._seconds(timeout_ms), source, name), timeout_ms)

    def declared(self, name: bytes) -> Any:
        """The value that the plugin has set in the table ``nexus`` under this name."""
        return self._to_python(self._nexus[name])

    def has(self, hook: str) -> bool:
        """Whether the plugin has defined this hook.

        Raises:
            InvalidPlugin: the value is not a function.
        """
        value = self._nexus[hook.encode()]
        if value is not None and self._lupa.lua_type(value) != "function":
            raise InvalidPlugin(f"{hook} is not a function")
        return value is not None

    def call(self, hook: str, *arguments: Any) -> Any:
        """Call one of its hooks.

        Raises:
            InvalidPlugin: it took too long, or returned a value that is not allowed.
            PluginRaised: it raised an error.
            MemoryError: it exceeds its memory limit.
        """
        try:
            values = [self._to_lua(argument) for argument in arguments]
            outcome = self._timed(self._seconds(self._timeout_ms), self._nexus[hook.encode()], *values)
            return self._outcome(outcome, self._timeout_ms)
        except self._lupa.LuaMemoryError:
            raise MemoryError from None

    @staticmethod
    def _seconds(timeout_ms: int) -> float:
        # A little less than the daemon waits, so that the timeout does not cost the other plugins their process.
        return timeout_ms * 0.8 / 1000

    def _outcome(self, outcome: tuple[bytes, Any], timeout_ms: int) -> Any:
        kind, value = outcome
        if kind == b"timeout":
            raise InvalidPlugin(f"it took longer than {timeout_ms} ms")
        if kind == b"error":
            text = value.decode("utf-8", "backslashreplace")
            if text == _LUA_OUT_OF_MEMORY:
                raise MemoryError
            location = re.match(r"[^:]*:\d+", text)
            raise PluginRaised(text, location[0] if location else self._path.rpartition("/")[2])
        if kind == b"veto":
            return Veto(value.decode("utf-8", "replace"))
        return self._to_python(value)

    def _to_lua(self, value: Any) -> Any:
        """Lists and maps become tables; elements that are None are left out."""
        if isinstance(value, str):
            return value.encode("utf-8", "surrogateescape")
        if isinstance(value, dict):
            table = self._lua.table()
            for key, inner in value.items():
                if inner is not None:
                    table[self._to_lua(key)] = self._to_lua(inner)
            return table
        if isinstance(value, (list, tuple)):
            table = self._lua.table()
            for index, inner in enumerate(value, start=1):
                if inner is not None:
                    table[index] = self._to_lua(inner)
            return table
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return float(value)
        return value

    def _to_python(self, value: Any) -> Any:
        return _Converter(self._lupa).convert(value)


class _Converter:
    """Converts Lua values to Python, with a limit of depth and size: a table may contain itself."""

    def __init__(self, lupa: Any) -> None:
        self._lupa = lupa
        self._left = _MAX_ELEMENTS

    def convert(self, value: Any, depth: int = 0) -> Any:
        self._left -= 1
        if depth > _MAX_DEPTH or self._left < 0:
            raise InvalidPlugin(f"returned a value nested deeper than {_MAX_DEPTH} levels, or with too many elements")
        if isinstance(value, bytes):
            try:
                return value.decode()
            except UnicodeDecodeError:
                return value
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if self._lupa.lua_type(value) != "table":
            raise InvalidPlugin(
                f"returned a {self._lupa.lua_type(value) or 'Python object'}, which cannot be converted"
            )
        items = {key: self.convert(inner, depth + 1) for key, inner in value.items()}
        if items and all(isinstance(key, int) for key in items) and sorted(items) == list(range(1, len(items) + 1)):
            return [items[index] for index in range(1, len(items) + 1)]
        return {self._key(key): inner for key, inner in items.items()}

    def _key(self, key: Any) -> str:
        if not isinstance(key, bytes):
            raise InvalidPlugin("returned a table whose keys are neither text nor 1 to its length")
        return key.decode("utf-8", "replace")


def _pre_command(sandbox: _Sandbox) -> Callable[..., Any]:
    def pre_command(command: str, fields: dict[str, Any], origin: dict[str, Any]) -> Any:
        return sandbox.call("pre_command", command, fields, origin)

    return pre_command


def _pre_start_command(sandbox: _Sandbox) -> Callable[..., Any]:
    def pre_start_command(service: str, command: dict[str, Any], environment: dict[str, str]) -> Any:
        changes = sandbox.call("pre_start_command", service, command, environment)
        # A Lua table cannot hold nil, so false removes a variable.
        if isinstance(changes, dict):
            return {name: None if value is False else value for name, value in changes.items()}
        return changes

    return pre_start_command


def _extra(sandbox: _Sandbox) -> Callable[..., Any]:
    def extra(name: str, body: Any) -> Any:
        return sandbox.call("extra", name, body)

    return extra


_WRAPPERS: dict[str, Callable[[_Sandbox], Callable[..., Any]]] = dict(
    zip(HOOKS, (_pre_command, _pre_start_command, _extra), strict=True)
)
