"""The plugins as their own process holds them: loaded from their three kinds, checked, and called through pluggy.

It knows no socket and no daemon. Whatever a plugin does wrong comes out as a ``PluginError`` that names it.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import types
from collections.abc import Callable
from importlib import metadata
from typing import Any, NoReturn

import msgspec
import pluggy

from nexus.plugins.api import API_VERSION, PROJECT, Veto
from nexus.plugins.commands import Plugin, PluginKind, PluginState
from nexus.plugins.messages import MAX_VALUE_BYTES, Load
from nexus.plugins.sources import ENTRY_POINT_GROUP, Source, name_problem, read_trusted

__all__ = ["HOOKS", "PluginError", "PluginVeto", "Raised", "Refused", "Registry"]

_MAX_DEPTH = 32
_MAX_REASON = 300
_MARK = f"{PROJECT}_impl"

hookspec = pluggy.HookspecMarker(PROJECT)


class _Hooks:
    """The hooks; what they are given is documented in this folder's README."""

    @hookspec
    def pre_command(self, command: str, fields: dict[str, Any], origin: dict[str, Any]) -> Veto | None: ...

    @hookspec
    def pre_start_command(
        self, service: str, command: dict[str, Any], environment: dict[str, str]
    ) -> dict[str, str | None] | Veto | None: ...

    @hookspec(firstresult=True)
    def extra(self, name: str, body: Any) -> Any: ...


HOOKS = ("pre_command", "pre_start_command", "extra")


class Refused(Exception):
    """A plugin cannot be loaded; the message says why."""


class Raised(Exception):
    """A plugin's error in its own words, and where it is."""

    def __init__(self, text: str, place: str) -> None:
        super().__init__(text)
        self.place = place


class PluginError(Exception):
    """A plugin did what it may not."""

    def __init__(self, plugin: str, reason: str, *, unusable: bool = False) -> None:
        super().__init__(reason)
        self.plugin = plugin
        self.reason = reason
        self.unusable = unusable
        """Whether the process is of no use any more."""


class PluginVeto(Exception):
    """A plugin does not want it."""

    def __init__(self, plugin: str, reason: str) -> None:
        super().__init__(reason)
        self.plugin = plugin
        self.reason = reason


class _Adapter:
    """A plugin's hooks as pluggy gets them."""

    def __init__(self, hooks: dict[str, Callable[..., Any]]) -> None:
        self.__dict__.update(hooks)


class Registry:
    """All plugins. ``entered`` is called with a plugin's name before anything of it runs."""

    def __init__(self, entered: Callable[[str], None]) -> None:
        self._entered = entered
        self._paths: dict[str, str] = {}
        self._claims: dict[str, str] = {}
        self._adapters: dict[str, _Adapter] = {}
        self._manager = _new_manager()
        self._environment: dict[str, str] = {}
        """Of the start that is being asked about, with what the plugins so far have changed."""

    # Loading

    def load(self, load: Load) -> list[Plugin]:
        """Load everything that can be loaded; gives one report for each, by name."""
        candidates: list[tuple[Source, Callable[[], Any]]] = [
            (source, functools.partial(_load_file, source, load)) for source in load.files
        ]
        if load.entry_points:
            for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
                source = Source(point.name, PluginKind.ENTRY_POINT, point.value, name_problem(point.name))
                candidates.append((source, point.load))
        candidates.sort(key=lambda candidate: (candidate[0].name, candidate[0].kind, candidate[0].path))
        reports = [self._load_one(source, get, load.broken) for source, get in candidates]
        # The one that was registered last is called first.
        for name, adapter in reversed(self._adapters.items()):
            self._manager.register(adapter, name)
        return reports

    def _load_one(self, source: Source, get: Callable[[], Any], broken: dict[str, str]) -> Plugin:
        name = source.name
        try:
            if source.problem:
                raise Refused(source.problem)
            if name in self._paths:
                raise Refused(f"another plugin is called {name}, too: {self._paths[name]}")
            self._paths[name] = source.path
            if name in broken:
                raise Refused(broken[name])
            self._entered(name)
            plugin = self._guarded(name, "load", get)
            extras = self._guarded(name, "load", lambda: self._admit(name, plugin))
        except (Refused, PluginError) as refusal:
            return Plugin(name, source.kind, PluginState.FAILED, [], [], source.path, str(refusal))
        hooks = [hook for hook in HOOKS if hasattr(self._adapters[name], hook)]
        return Plugin(name, source.kind, PluginState.LOADED, hooks, extras, source.path)

    def _admit(self, name: str, plugin: Any) -> list[str]:
        """Check what a plugin says of itself, and keep it; gives the names that it claims."""
        _check_version(getattr(plugin, "NEXUS_PLUGIN_API", None))
        hooks = {hook: getattr(plugin, hook) for hook in HOOKS if getattr(plugin, hook, None) is not None}
        for hook, function in hooks.items():
            _check_hook(hook, function)
        adapter = _Adapter({hook: self._reporting(name, hook, function) for hook, function in hooks.items()})
        for other, value in inspect.getmembers_static(plugin):
            if other not in HOOKS and isinstance(getattr(value, "__dict__", {}).get(_MARK), dict):
                raise Refused(f"{other} is marked as a hook, and there is none of this name; there are {_list(HOOKS)}")
        extras = self._check_claims(plugin, "extra" in hooks)
        try:
            _new_manager().register(adapter, name)
        except pluggy.PluginValidationError as error:
            raise Refused(f"a hook takes what it is not given: {str(error).splitlines()[-1].strip()}") from None
        self._adapters[name] = adapter
        self._claims |= dict.fromkeys(extras, name)
        return extras

    def _check_claims(self, plugin: Any, has_extra: bool) -> list[str]:
        claimed = getattr(plugin, "NEXUS_EXTRAS", ())
        if not isinstance(claimed, (list, tuple)) or not all(isinstance(extra, str) and extra for extra in claimed):
            raise Refused("the names that it claims (NEXUS_EXTRAS) are not a list of texts")
        if bool(claimed) != has_extra:
            missing = "the hook extra" if claimed else "names that it claims (NEXUS_EXTRAS)"
            raise Refused(f"it is without {missing}: the one needs the other")
        for extra in claimed:
            if extra in self._claims:
                raise Refused(f"it claims {extra}, which {self._claims[extra]} claims already")
        return list(claimed)

    # Calling

    def ask(self, hook: str, arguments: dict[str, Any]) -> bytes:
        """Call a hook of every plugin that has it; gives what they gave, encoded.

        Raises:
            PluginVeto: one does not want it.
            PluginError: one raised, or gave what does not belong there.
        """
        if hook == "extra":
            return self._ask_extra(**arguments)
        self._environment = arguments.get("environment", {})
        before = dict(self._environment)
        getattr(self._manager.hook, hook)(**arguments)
        after: dict[str, str | None] = {**dict.fromkeys(before.keys() - self._environment.keys()), **self._environment}
        return msgspec.msgpack.encode(
            {name: value for name, value in after.items() if value is None or before.get(name) != value}
        )

    def _ask_extra(self, name: str, body: Any) -> bytes:
        owner = self._claims[name]
        others = [adapter for other, adapter in self._adapters.items() if other != owner]
        value = self._manager.subset_hook_caller("extra", others)(name=name, body=body)
        data: bytes = self._guarded(owner, "extra", lambda: _encoded(value))
        return data

    def _reporting(self, plugin: str, hook: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The hook as pluggy calls it: it says who runs, and lets nothing out that does not belong there."""

        def checked(*arguments: Any) -> Any:
            # A copy: what one of them changes is not what the next one sees.
            value = function(*copy.deepcopy(arguments))
            if isinstance(value, Veto):
                raise PluginVeto(plugin, _short(str(value.reason) or "no reason given"))
            if hook == "pre_start_command" and value is not None:
                self._change_environment(value)
            elif hook == "pre_command" and value is not None:
                raise Refused(f"gave {_kind(value)} from pre_command, where None or a Veto belongs")
            return value

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            self._entered(plugin)
            return self._guarded(plugin, hook, lambda: checked(*arguments))

        return call

    def _change_environment(self, changes: Any) -> None:
        if not isinstance(changes, dict):
            raise Refused(f"gave {_kind(changes)} from pre_start_command, where None, a Veto or a dict belongs")
        for name, value in changes.items():
            if not isinstance(name, str) or not name or "=" in name or "\0" in name:
                raise Refused("gave a change of the environment whose name no variable can have")
            if value is not None and (not isinstance(value, str) or "\0" in value):
                raise Refused(f"gave {_kind(value)} for the variable {name}, where text or None belongs")
        for name, value in changes.items():
            if value is None:
                self._environment.pop(name, None)
            else:
                self._environment[name] = value

    def _guarded(self, plugin: str, doing: str, run: Callable[[], Any]) -> Any:
        try:
            return run()
        except (PluginVeto, PluginError):
            raise
        except Refused as error:
            raise PluginError(plugin, str(error)) from None
        except Raised as error:
            text = str(error) if doing != "pre_start_command" else f"raised an error ({error.place})"
            raise PluginError(plugin, _short(text)) from None
        except MemoryError:
            pass  # what is said of it is said once the frames, and what they hold, are gone
        except BaseException as error:
            # Also SystemExit: a plugin does not decide when its process ends. In what a start's hook raises there may
            # be values of the environment, so that only its place is told.
            self._told(plugin, error, with_text=doing != "pre_start_command")
        raise PluginError(plugin, "it ran out of memory", unusable=True)

    def _told(self, plugin: str, error: BaseException, *, with_text: bool) -> NoReturn:
        text = f"raised {type(error).__name__}"
        path = self._paths.get(plugin, "")
        if isinstance(error, SyntaxError) and error.filename == path:
            text, line = f"is not Python: {error.msg}", error.lineno
        else:
            line = None
            if with_text and str(error):
                text += f": {error}"
            trace = error.__traceback__
            while trace is not None:
                if trace.tb_frame.f_code.co_filename == path:
                    line = trace.tb_lineno
                trace = trace.tb_next
        raise PluginError(plugin, _short(text) + (f" (line {line})" if line else "")) from None


def _new_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(_Hooks)
    return manager


def _load_file(source: Source, load: Load) -> Any:
    try:
        content = read_trusted(source.path)
    except OSError as error:
        raise Refused(f"it cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise Refused(str(error)) from None
    if source.kind is PluginKind.LUA:
        from nexus.plugins.lua import load_lua

        return load_lua(source.path, content, load)
    # Compiled from what was looked at, never from a file of bytecode that lies beside it.
    module = types.ModuleType(f"nexus_plugin_{source.name}")
    module.__file__ = source.path
    sys.modules[module.__name__] = module
    exec(compile(content, source.path, "exec", dont_inherit=True), module.__dict__)
    return module


def _check_version(version: Any) -> None:
    if version is None:
        raise Refused(f"it does not say which plugin API it was written for: NEXUS_PLUGIN_API = {API_VERSION}")
    if type(version) is not int or version != API_VERSION:
        raise Refused(f"it was written for plugin API {version!r}, and this nexusd has {API_VERSION}")


def _check_hook(hook: str, function: Any) -> None:
    if not callable(function):
        raise Refused(f"{hook} is not a function")
    mark = getattr(function, _MARK, None)
    if mark is None:
        raise Refused(f"{hook} is not marked with @hookimpl (from nexus.plugins.api import hookimpl)")
    if mark.get("wrapper") or mark.get("hookwrapper") or mark.get("specname"):
        raise Refused(f"{hook} is marked with options that are not part of this API")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise Refused(f"{hook} is a coroutine or a generator, and a hook is a plain function")


def _encoded(value: Any) -> bytes:
    """A plugin's answer to Extra, within what may cross the wire."""
    _check_depth(value, 0)
    try:
        data = msgspec.msgpack.encode(value)
    except (TypeError, OverflowError, ValueError, RecursionError) as error:
        raise Refused(f"gave what no message can hold: {_short(str(error))}") from None
    if len(data) > MAX_VALUE_BYTES:
        raise Refused(f"gave {len(data)} bytes, and {MAX_VALUE_BYTES} are the most")
    return data


def _check_depth(value: Any, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise Refused(f"gave something nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise Refused("gave a map whose keys are not text")
        for inner in value.values():
            _check_depth(inner, depth + 1)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_depth(inner, depth + 1)
    elif not isinstance(value, (str, int, float, bytes, type(None))):
        raise Refused(f"gave {_kind(value)}, which no message can hold")


def _kind(value: Any) -> str:
    return f"something of type {type(value).__name__}"


def _list(words: tuple[str, ...]) -> str:
    return ", ".join(words)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 1] + "…"
