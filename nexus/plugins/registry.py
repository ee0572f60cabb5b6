"""The registry inside the plugins' process: loads the three kinds of plugins, checks them and calls them by pluggy.

It knows no socket and no daemon. Every failure of a plugin is raised as a ``PluginError`` that names the plugin.
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
from nexus.plugins.hooks import HOOKS, InvalidPlugin, PluginError, PluginRaised, PluginVeto
from nexus.plugins.lua import load_lua
from nexus.plugins.messages import MAX_VALUE_BYTES, Load
from nexus.plugins.sources import ENTRY_POINT_GROUP, Source, name_problem, read_trusted

__all__ = ["Registry"]

_MAX_DEPTH = 32
_MAX_REASON = 300
_MARK = f"{PROJECT}_impl"

hookspec = pluggy.HookspecMarker(PROJECT)


class _Hooks:
    """The hooks; their arguments are documented in this folder's README."""

    @hookspec
    def pre_command(self, command: str, fields: dict[str, Any], origin: dict[str, Any]) -> Veto | None: ...

    @hookspec
    def pre_start_command(
        self, service: str, command: dict[str, Any], environment: dict[str, str]
    ) -> dict[str, str | None] | Veto | None: ...

    @hookspec(firstresult=True)
    def extra(self, name: str, body: Any) -> Any: ...


class _Adapter:
    """The object that is registered with pluggy: a plugin's wrapped hooks as attributes."""

    def __init__(self, hooks: dict[str, Callable[..., Any]]) -> None:
        self.__dict__.update(hooks)


class Registry:
    """All plugins. ``on_enter`` is called with a plugin's name before any of its code runs."""

    def __init__(self, on_enter: Callable[[str], None]) -> None:
        self._on_enter = on_enter
        self._paths: dict[str, str] = {}
        self._claims: dict[str, str] = {}
        self._adapters: dict[str, _Adapter] = {}
        self._manager = _new_manager()
        self._environment: dict[str, str] = {}
        """The environment of the start in hand, with the changes of the plugins called so far."""

    # Loading

    def load(self, load: Load) -> list[Plugin]:
        """Load every plugin that can be loaded; returns one report for each plugin, sorted by name."""
        candidates: list[tuple[Source, Callable[[], Any]]] = [
            (source, functools.partial(_load_file, source, load)) for source in load.files
        ]
        if load.entry_points:
            for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
                source = Source(point.name, PluginKind.ENTRY_POINT, point.value, name_problem(point.name))
                candidates.append((source, point.load))
        candidates.sort(key=lambda candidate: (candidate[0].name, candidate[0].kind, candidate[0].path))
        reports = [self._load_one(source, import_plugin, load.broken) for source, import_plugin in candidates]
        # pluggy calls the plugin that was registered last first.
        for name, adapter in reversed(self._adapters.items()):
            self._manager.register(adapter, name)
        return reports

    def _load_one(self, source: Source, import_plugin: Callable[[], Any], broken: dict[str, str]) -> Plugin:
        name = source.name
        try:
            if source.problem:
                raise InvalidPlugin(source.problem)
            if name in self._paths:
                raise InvalidPlugin(f"another plugin has the same name: {self._paths[name]}")
            self._paths[name] = source.path
            if name in broken:
                raise InvalidPlugin(broken[name])
            self._on_enter(name)
            plugin = self._run_plugin(name, "load", import_plugin)
            extras = self._run_plugin(name, "load", lambda: self._register(name, plugin))
        except (InvalidPlugin, PluginError) as error:
            return Plugin(name, source.kind, PluginState.FAILED, [], [], source.path, str(error))
        hooks = [hook for hook in HOOKS if hasattr(self._adapters[name], hook)]
        return Plugin(name, source.kind, PluginState.LOADED, hooks, extras, source.path)

    def _register(self, name: str, plugin: Any) -> list[str]:
        """Check a plugin's declarations and keep its hooks; returns the names that it claims."""
        _check_version(getattr(plugin, "NEXUS_PLUGIN_API", None))
        hooks = {hook: getattr(plugin, hook) for hook in HOOKS if getattr(plugin, hook, None) is not None}
        for hook, function in hooks.items():
            _check_hook(hook, function)
        adapter = _Adapter({hook: self._wrap_hook(name, hook, function) for hook, function in hooks.items()})
        for other, value in inspect.getmembers_static(plugin):
            if other not in HOOKS and isinstance(getattr(value, "__dict__", {}).get(_MARK), dict):
                raise InvalidPlugin(f"{other} is marked as a hook, but the hooks are {', '.join(HOOKS)}")
        extras = self._check_claims(plugin, "extra" in hooks)
        try:
            _new_manager().register(adapter, name)
        except pluggy.PluginValidationError as error:
            raise InvalidPlugin(f"a hook has an unknown parameter: {str(error).splitlines()[-1].strip()}") from None
        self._adapters[name] = adapter
        self._claims |= dict.fromkeys(extras, name)
        return extras

    def _check_claims(self, plugin: Any, has_extra: bool) -> list[str]:
        claimed = getattr(plugin, "NEXUS_EXTRAS", ())
        if not isinstance(claimed, (list, tuple)) or not all(isinstance(extra, str) and extra for extra in claimed):
            raise InvalidPlugin("the names that it claims (NEXUS_EXTRAS) are not a list of strings")
        if claimed and not has_extra:
            raise InvalidPlugin("it claims names (NEXUS_EXTRAS), but does not define the hook extra")
        if has_extra and not claimed:
            raise InvalidPlugin("it defines the hook extra, but claims no names (NEXUS_EXTRAS)")
        for extra in claimed:
            if extra in self._claims:
                raise InvalidPlugin(f"it claims {extra}, which plugin {self._claims[extra]} already claims")
        return list(claimed)

    # Calling

    def call(self, hook: str, arguments: dict[str, Any]) -> bytes:
        """Call a hook of every plugin that has it; returns the encoded result.

        The result is the value that ``extra`` returned, or the changed variables of the environment.

        Raises:
            PluginVeto: a plugin vetoed.
            PluginError: a plugin raised, or returned a value that is not allowed.
        """
        if hook == "extra":
            return self._call_extra(**arguments)
        self._environment = arguments.get("environment", {})
        before = dict(self._environment)
        getattr(self._manager.hook, hook)(**arguments)
        after: dict[str, str | None] = {**dict.fromkeys(before.keys() - self._environment.keys()), **self._environment}
        return msgspec.msgpack.encode(
            {name: value for name, value in after.items() if value is None or before.get(name) != value}
        )

    def _call_extra(self, name: str, body: Any) -> bytes:
        owner = self._claims[name]
        others = [adapter for other, adapter in self._adapters.items() if other != owner]
        value = self._manager.subset_hook_caller("extra", others)(name=name, body=body)
        data: bytes = self._run_plugin(owner, "extra", lambda: _encode(value))
        return data

    def _wrap_hook(self, plugin: str, hook: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a hook for pluggy: report that the plugin runs, check the return value and translate its exceptions."""

        def checked(*arguments: Any) -> Any:
            # A copy, so that a plugin cannot change the arguments of the next one.
            value = function(*copy.deepcopy(arguments))
            if isinstance(value, Veto):
                raise PluginVeto(plugin, _short(str(value.reason) or "no reason given"))
            if hook == "pre_start_command" and value is not None:
                self._change_environment(value)
            elif hook == "pre_command" and value is not None:
                raise InvalidPlugin(f"returned {_type_of(value)} from pre_command; expected None or a Veto")
            return value

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            self._on_enter(plugin)
            return self._run_plugin(plugin, hook, lambda: checked(*arguments))

        return call

    def _change_environment(self, changes: Any) -> None:
        if not isinstance(changes, dict):
            raise InvalidPlugin(f"returned {_type_of(changes)} from pre_start_command; expected None, a Veto or a dict")
        for name, value in changes.items():
            if not isinstance(name, str) or not name or "=" in name or "\0" in name:
                raise InvalidPlugin("returned a name that no environment variable can have")
            if value is not None and (not isinstance(value, str) or "\0" in value):
                raise InvalidPlugin(
                    f"returned an invalid value for the variable {name}; expected text without NUL, or None"
                )
        for name, value in changes.items():
            if value is None:
                self._environment.pop(name, None)
            else:
                self._environment[name] = value

    def _run_plugin(self, plugin: str, action: str, run: Callable[[], Any]) -> Any:
        try:
            return run()
        except (PluginVeto, PluginError):
            raise
        except InvalidPlugin as error:
            raise PluginError(plugin, str(error)) from None
        except PluginRaised as error:
            text = str(error) if action != "pre_start_command" else f"raised an error ({error.location})"
            raise PluginError(plugin, _short(text)) from None
        except MemoryError:
            pass  # raised below, once the frames and the memory that they hold are released
        except BaseException as error:
            # SystemExit as well: a plugin does not decide when its process ends. The text of an error raised by
            # pre_start_command may hold values of the environment, so only the error's type and line are reported.
            self._raise_plugin_error(plugin, error, with_text=action != "pre_start_command")
        raise PluginError(plugin, "it ran out of memory", unusable=True)

    def _raise_plugin_error(self, plugin: str, error: BaseException, *, with_text: bool) -> NoReturn:
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
        raise InvalidPlugin(f"it cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InvalidPlugin(str(error)) from None
    if source.kind is PluginKind.LUA:
        return load_lua(source.path, content, load)
    # Compiled from the content that was checked, never from a bytecode file beside it.
    module = types.ModuleType(f"nexus_plugin_{source.name}")
    module.__file__ = source.path
    sys.modules[module.__name__] = module
    exec(compile(content, source.path, "exec", dont_inherit=True), module.__dict__)
    return module


def _check_version(version: Any) -> None:
    if version is None:
        raise InvalidPlugin(f"it does not declare its plugin API version: NEXUS_PLUGIN_API = {API_VERSION}")
    if type(version) is not int or version != API_VERSION:
        raise InvalidPlugin(f"it was written for plugin API {version!r}; this nexusd has {API_VERSION}")


def _check_hook(hook: str, function: Any) -> None:
    if not callable(function):
        raise InvalidPlugin(f"{hook} is not a function")
    mark = getattr(function, _MARK, None)
    if mark is None:
        raise InvalidPlugin(f"{hook} is not marked with @hookimpl (from nexus.plugins.api import hookimpl)")
    if mark.get("wrapper") or mark.get("hookwrapper") or mark.get("specname"):
        raise InvalidPlugin(f"{hook} is marked with options that are not part of this API")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise InvalidPlugin(f"{hook} is a coroutine or a generator; a hook must be a plain function")


def _encode(value: Any) -> bytes:
    """Encode the return value of ``extra``, within the limits of the wire."""
    _check_depth(value, 0)
    try:
        data = msgspec.msgpack.encode(value)
    except (TypeError, OverflowError, ValueError, RecursionError) as error:
        raise InvalidPlugin(f"returned a value that cannot be encoded: {_short(str(error))}") from None
    if len(data) > MAX_VALUE_BYTES:
        raise InvalidPlugin(f"returned {len(data)} bytes; the maximum is {MAX_VALUE_BYTES}")
    return data


def _check_depth(value: Any, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise InvalidPlugin(f"returned a value nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise InvalidPlugin("returned a map whose keys are not text")
        for inner in value.values():
            _check_depth(inner, depth + 1)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_depth(inner, depth + 1)
    elif not isinstance(value, (str, int, float, bytes, type(None))):
        raise InvalidPlugin(f"returned {_type_of(value)}, which cannot be encoded")


def _type_of(value: Any) -> str:
    return f"a value of type {type(value).__name__}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_REASON else text[: _MAX_REASON - 1] + "…"
