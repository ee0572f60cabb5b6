"""A plugin written in Lua: its sandbox, and how values cross into it and back.

The sandbox has no files, no processes, no modules, no bytecode, no debug library, no coroutines and nothing of
Python's; it has limits of time and memory. It needs lupa, which is an extra, and is imported by the
plugins' process alone.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable
from typing import Any, NoReturn

from nexus.plugins.api import Veto, hookimpl
from nexus.plugins.messages import Load
from nexus.plugins.registry import HOOKS, Raised, Refused

__all__ = ["load_lua"]

_NEEDED = "it needs lupa: pip install 'nexusd[lua]'"
_VERSIONS = ("lua54", "lua55", "lua53")
"""In the order in which they are tried. LuaJIT has no limit of memory on 64 bits."""
_MAX_DEPTH = 32
_MAX_ELEMENTS = 100_000
_INSTRUCTIONS = 5000
"""How many the interpreter carries out between two looks at the time."""
_OVER = "took longer than it may"
_MEMORY = "not enough memory"
"""In the words of Lua."""

_SANDBOX = """
local say, clock, instructions, OVER = ...
local pcall, error, load, type, tostring, select = pcall, error, load, type, tostring, select
local ipairs, rawget, setmetatable, getmetatable = ipairs, rawget, setmetatable, getmetatable
local sethook, pack, unpack, concat = debug.sethook, table.pack, table.unpack, table.concat
local ends_at = 0
local VETO = {}

local function check()
  if clock() > ends_at then error(OVER, 0) end
end

-- Who swallows the error that ends a call meets it again outside of the pcall.
local function still(...)
  check()
  return ...
end

-- By its metatable every text reaches this table, so it is changed itself.
string.dump = nil

local sandbox = {
  assert = assert, error = error, ipairs = ipairs, next = next, pairs = pairs, rawequal = rawequal,
  rawget = rawget, rawlen = rawlen, rawset = rawset, select = select, tonumber = tonumber, tostring = tostring,
  type = type, getmetatable = getmetatable, _VERSION = _VERSION,
  math = math, string = string, table = table, utf8 = utf8,
}
sandbox._G = sandbox

function sandbox.pcall(...) return still(pcall(...)) end

-- Not Lua's own: that calls the handler where the error is, and inside of check() nobody looks at the time.
function sandbox.xpcall(f, handler, ...)
  local results = pack(still(pcall(f, ...)))
  if results[1] then return unpack(results, 1, results.n) end
  return false, select(2, still(pcall(handler, results[2])))
end

-- Finalizers run where the time is not looked at.
function sandbox.setmetatable(value, meta)
  if type(meta) == "table" and rawget(meta, "__gc") ~= nil then error("__gc is not part of the sandbox", 2) end
  return setmetatable(value, meta)
end

function sandbox.print(...)
  local words = pack(...)
  for index = 1, words.n do words[index] = tostring(words[index]) end
  say(concat(words, "\\t"))
end

sandbox.nexus = {
  log = sandbox.print,
  veto = function(reason) return setmetatable({reason = tostring(reason)}, VETO) end,
}

local function words(problem)
  if type(problem) == "string" then return problem end
  return "raised something of type " .. type(problem)
end

local function timed(seconds, run, ...)
  sethook()
  ends_at = clock() + seconds
  sethook(check, "", instructions)
  local done, value = pcall(run, ...)
  sethook()
  if not done then return "error", words(value) end
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
    """What the registry sees: the same as of a module in Python."""

    NEXUS_PLUGIN_API: Any
    NEXUS_EXTRAS: Any


def load_lua(path: str, source: bytes, load: Load) -> Any:
    """Run a Lua file in a sandbox of its own; gives an object with the hooks that it defines.

    Raises:
        Refused: lupa is not there, or the file does not run.
        MemoryError: it takes more than it may.
    """
    lupa = _lupa()
    try:
        sandbox = _Sandbox(lupa, path, load)
        sandbox.start(source, load.load_timeout_ms)
        plugin = _Plugin()
        plugin.NEXUS_PLUGIN_API = sandbox.said(b"api")
        extras = sandbox.said(b"extras")
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
    raise Refused(_NEEDED)


def _nothing(_object: object, _name: object, _setting: bool) -> NoReturn:
    raise AttributeError("nothing of Python's is part of the sandbox")


def _say(text: Any) -> None:
    try:
        print(text.decode("utf-8", "backslashreplace"))
    except Exception:
        pass  # an exception would be an object of Python's in the sandbox


class _Sandbox:
    """One Lua state with one plugin in it."""

    def __init__(self, lupa: Any, path: str, load: Load) -> None:
        self._lupa = lupa
        self._path = path
        self._timeout_ms = load.timeout_ms
        # Bytes on both sides: text that is not UTF-8 must not become an exception inside of it.
        self._lua = lupa.LuaRuntime(
            encoding=None,
            register_eval=False,
            register_builtins=False,
            unpack_returned_tuples=False,
            attribute_filter=_nothing,
            max_memory=load.lua_memory_mib * 1024 * 1024,
        )
        make = self._lua.eval(b"load")(_SANDBOX.encode(), b"=sandbox", b"t")
        self._start, self._timed, self._nexus = make(_say, time.monotonic, _INSTRUCTIONS, _OVER.encode())

    def start(self, source: bytes, timeout_ms: int) -> None:
        """Run the file."""
        name = self._path.rpartition("/")[2].encode("utf-8", "surrogateescape")
        self._outcome(self._start(self._seconds(timeout_ms), source, name), timeout_ms)

    def said(self, name: bytes) -> Any:
        """What the plugin has put into the table ``nexus`` under this name."""
        return self._to_python(self._nexus[name])

    def has(self, hook: str) -> bool:
        """Whether the plugin has put a function under this name.

        Raises:
            Refused: it is something else.
        """
        value = self._nexus[hook.encode()]
        if value is not None and self._lupa.lua_type(value) != "function":
            raise Refused(f"{hook} is not a function")
        return value is not None

    def call(self, hook: str, *arguments: Any) -> Any:
        """Call one of its functions.

        Raises:
            Refused: it failed.
            MemoryError: it takes more than it may.
        """
        try:
            values = [self._to_lua(argument) for argument in arguments]
            outcome = self._timed(self._seconds(self._timeout_ms), self._nexus[hook.encode()], *values)
            return self._outcome(outcome, self._timeout_ms)
        except self._lupa.LuaMemoryError:
            raise MemoryError from None

    @staticmethod
    def _seconds(timeout_ms: int) -> float:
        # A little less than the daemon waits: then the other plugins keep their process.
        return timeout_ms * 0.8 / 1000

    def _outcome(self, outcome: tuple[bytes, Any], timeout_ms: int) -> Any:
        kind, value = outcome
        if kind == b"error":
            text = value.decode("utf-8", "backslashreplace")
            if text == _MEMORY:
                raise MemoryError
            if text == _OVER:
                raise Refused(f"it took longer than {timeout_ms} ms")
            place = re.match(r"[^:]*:\d+", text)
            raise Raised(text, place[0] if place else self._path.rpartition("/")[2])
        if kind == b"veto":
            return Veto(value.decode("utf-8", "replace"))
        return self._to_python(value)

    def _to_lua(self, value: Any) -> Any:
        """Lists and maps become tables; None in them becomes nothing at all."""
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
    """From Lua, within bounds: a table may hold itself."""

    def __init__(self, lupa: Any) -> None:
        self._lupa = lupa
        self._left = _MAX_ELEMENTS

    def convert(self, value: Any, depth: int = 0) -> Any:
        self._left -= 1
        if depth > _MAX_DEPTH or self._left < 0:
            raise Refused(f"gave something nested deeper than {_MAX_DEPTH} levels, or of too many elements")
        if isinstance(value, bytes):
            try:
                return value.decode()
            except UnicodeDecodeError:
                return value
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if self._lupa.lua_type(value) != "table":
            raise Refused(f"gave a {self._lupa.lua_type(value) or 'thing of Python'}, which is not a value")
        items = {key: self.convert(inner, depth + 1) for key, inner in value.items()}
        if items and all(isinstance(key, int) for key in items) and sorted(items) == list(range(1, len(items) + 1)):
            return [items[index] for index in range(1, len(items) + 1)]
        return {self._key(key): inner for key, inner in items.items()}

    def _key(self, key: Any) -> str:
        if not isinstance(key, bytes):
            raise Refused("gave a table whose keys are neither text nor 1 to its length")
        return key.decode("utf-8", "replace")


def _pre_command(sandbox: _Sandbox) -> Callable[..., Any]:
    def pre_command(command: str, fields: dict[str, Any], origin: dict[str, Any]) -> Any:
        return sandbox.call("pre_command", command, fields, origin)

    return pre_command


def _pre_start_command(sandbox: _Sandbox) -> Callable[..., Any]:
    def pre_start_command(service: str, command: dict[str, Any], environment: dict[str, str]) -> Any:
        changes = sandbox.call("pre_start_command", service, command, environment)
        # A table cannot hold nil, so that false takes its place.
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
