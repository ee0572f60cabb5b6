"""The daemon's side of plugins: it finds them, runs their one process and calls their hooks.

One task makes all calls, one at a time, so that a request that is cancelled or times out does not disturb the next
call. The process is killed and started again when it dies, hangs or runs out of memory. Without plugins there is no
process and no task.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple

import msgspec
from nexus_protocol import Command, CommandInfo
from nexus_protocol.command import secret_fields

from nexus.caller import Caller
from nexus.capability import PreCommand
from nexus.config import PluginSettings
from nexus.plugins.child import Child, ProcessFailed
from nexus.plugins.commands import (
    ExtraNotClaimed,
    Plugin,
    PluginFailed,
    PluginList,
    PluginsDisabled,
    PluginState,
    PluginVetoed,
)
from nexus.plugins.messages import Call, Failed, Load, Result, Vetoed, framed
from nexus.plugins.sources import Found, find

__all__ = ["PluginHost", "shown_fields"]

_log = logging.getLogger("nexus.plugins")

HIDDEN = "<hidden>"
"""What plugins are given instead of a secret."""

_LOAD_FACTOR = 10
"""How many times longer a plugin may take to load than to return from a hook."""
_LUA_SHARE = 4
"""A Lua plugin may use the process's memory divided by this."""
_FIRST_RESTART_DELAY_S = 0.1
_MAX_RESTART_DELAY_S = 5.0
_STABLE_AFTER_S = 60.0
"""A process that lived this long resets the restart delay."""


class _LoadedPlugins(NamedTuple):
    """The result of one load: the plugins and the process that holds them."""

    child: Child | None
    plugins: list[Plugin]
    problem: str | None

    def has(self, hook: str, extra: str | None = None) -> bool:
        """Whether a loaded plugin has this hook and, if ``extra`` is given, claims that name."""
        return any(
            hook in plugin.hooks and (extra is None or extra in plugin.extras)
            for plugin in self.plugins
            if plugin.state is PluginState.LOADED
        )


class _PendingCall(NamedTuple):
    """A call that waits for its turn."""

    hook: str
    extra: str | None
    message: bytes


_ReplyFuture = asyncio.Future[Result | Vetoed | Failed | None]


class PluginHost:
    """``nexus.capability.Manager`` of the plugins, and ``nexus.capability.Hooks``.

    ``set_pre_command`` is called with ``pre_command`` when a plugin has that hook, and with None when no plugin has it.
    """

    def __init__(
        self, settings: PluginSettings, directory: str, set_pre_command: Callable[[PreCommand | None], None]
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._set_pre_command = set_pre_command
        self._current = _LoadedPlugins(None, [], None)
        self._load_done = True
        """False until the first load has ended: until then every command waits for the plugins."""
        self._problem: str | None = None
        """Why the process could not be started."""
        self._found = Found([], None, False)
        self._ready = asyncio.Event()
        self._wake = asyncio.Event()
        self._loading = asyncio.Lock()
        self._pending: collections.OrderedDict[_ReplyFuture, _PendingCall] = collections.OrderedDict()
        """Calls by the future of their reply, the next one first; a cancelled request removes its call."""
        self._calling: Child | None = None
        """The process that carries out a call now."""
        self._ending: set[Child] = set()
        """Killed processes that may not have ended yet."""
        self._task: asyncio.Task[None] | None = None
        """Makes the calls and restarts the process."""
        self._failures = 0
        self._retry_at = 0.0
        self._last_failure = ""
        """Which plugin made the process fail last, and how."""

    # nexus.capability.Manager

    async def start(self) -> None:
        """Look for plugins; they are loaded in the background while the daemon already serves."""
        if self._settings.enabled:
            self._found = find(self._directory)
        if self._found.problem:
            _log.warning("%s", self._found.problem)
        if self._found.anything:
            self._load_done = False
            self._set_pre_command(self.pre_command)
            self._start_task()
        else:
            self._install(self._without_process())

    async def close(self) -> None:
        """Fail the pending calls and kill the process."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._fail_pending("the daemon is stopping")
        if self._current.child is not None:
            self._end(self._current.child)
        await asyncio.gather(*(child.wait_ended() for child in self._ending))

    def children(self) -> int:
        """Always 0: the plugins' process does not keep the daemon from exiting when it is idle."""
        return 0

    # nexus.capability.Hooks

    async def pre_command(self, info: CommandInfo, command: Command[Any], caller: Caller) -> None:
        """Call the plugins before a command.

        Raises:
            PluginVetoed: a plugin vetoed the command.
            PluginFailed: a plugin failed.
        """
        arguments = {"command": info.name, "fields": shown_fields(command), "origin": caller._asdict()}
        await self._call("pre_command", arguments, f"cannot carry out {info.name}")

    async def pre_start(self, service: str, fields: dict[str, Any], environment: dict[str, str]) -> dict[str, str]:
        """Call the plugins before a service starts; returns the environment to start it with.

        ``fields`` are the other settings of the start, without secrets. A variable that is not UTF-8 is not shown to
        plugins, and is kept.

        Raises:
            PluginVetoed: a plugin vetoed the start.
            PluginFailed: a plugin failed.
        """
        shown = {name: value for name, value in environment.items() if _is_utf8(name) and _is_utf8(value)}
        arguments = {"service": service, "command": fields, "environment": shown}
        result = await self._call("pre_start_command", arguments, f'cannot start service "{service}"')
        changed = dict(environment)
        changes = msgspec.msgpack.decode(result.value, type=dict[str, str | None]) if result is not None else {}
        for name, value in changes.items():
            if value is None:
                changed.pop(name, None)
            else:
                changed[name] = value
        return changed

    async def extra(self, name: str, body: Any) -> msgspec.Raw:
        """Call the plugin that claims ``name``; returns its value, encoded.

        Raises:
            ExtraNotClaimed: no plugin claims the name.
            PluginVetoed: a plugin vetoed.
            PluginFailed: a plugin failed.
        """
        result = await self._call("extra", {"name": name, "body": body}, f"cannot carry out {name}")
        if result is None:
            raise ExtraNotClaimed(
                f"cannot carry out {name}: no plugin claims it",
                hint="List the claimed names: nexusctl plugin list -o wide",
            )
        return result.value

    async def listing(self) -> PluginList:
        """Return the plugins of the last load; waits for the first one to end."""
        await self._ready.wait()
        child = self._current.child
        return PluginList(
            enabled=self._settings.enabled,
            directory=self._directory,
            plugins=self._current.plugins,
            problem=self._problem or self._current.problem,
            pid=child.pid if child is not None and not child.ended.is_set() else None,
        )

    async def reload(self) -> PluginList:
        """Load the plugins again in a new process; the old process is called until the new one has loaded.

        Raises:
            PluginsDisabled: plugins are disabled in this daemon.
            PluginFailed: no process could be started; the old one stays.
        """
        if not self._settings.enabled:
            raise PluginsDisabled(
                "cannot reload plugins: they are disabled in this daemon",
                hint="Start nexusd without --no-plugins and with [plugins] enabled = true in config.toml.",
            )
        async with self._loading:
            found = await asyncio.to_thread(find, self._directory)
            try:
                loaded_plugins = await self._load(found)
            except ProcessFailed as failure:
                raise self._plugin_failed("cannot reload plugins", failure.plugin, failure.reason) from None
            self._found = found
            self._failures = 0
            self._install(loaded_plugins)
        return await self.listing()

    # Calling

    async def _call(self, hook: str, arguments: dict[str, Any], cannot: str) -> Result | None:
        """Call a hook of all plugins; None when no plugin has it. ``cannot`` begins the sentence of an error."""
        loop = asyncio.get_running_loop()
        if not self._ready.is_set():
            await self._ready.wait()
        extra = arguments["name"] if hook == "extra" else None
        if self._load_done and not self._current.has(hook, extra):
            return None
        delay_s = self._retry_at - loop.time()
        if self._current.child is None and delay_s > self._settings.timeout_ms / 1000:
            raise self._plugin_failed(
                cannot, None, self._problem or f"their process keeps failing: {self._last_failure}"
            )
        if self._task is None or self._task.done():
            raise self._plugin_failed(cannot, None, "the daemon is stopping")
        future: _ReplyFuture = loop.create_future()
        self._pending[future] = _PendingCall(hook, extra, framed(Call(hook, arguments)))
        self._wake.set()
        try:
            reply = await future
        except ProcessFailed as failure:
            raise self._plugin_failed(cannot, failure.plugin, failure.reason) from None
        finally:
            self._pending.pop(future, None)
        if isinstance(reply, Vetoed):
            raise PluginVetoed(
                f'{cannot}: plugin "{reply.plugin}" vetoed it: {reply.reason}',
                hint="Change the request as the reason says, or check the plugin: nexusctl plugin list",
                details={"plugin": reply.plugin, "reason": reply.reason},
            )
        if isinstance(reply, Failed):
            raise self._plugin_failed(cannot, reply.plugin, reply.reason)
        return reply

    def _plugin_failed(self, cannot: str, name: str | None, reason: str) -> PluginFailed:
        if name is None:
            return PluginFailed(
                f"{cannot}: the plugins cannot be called: {reason}",
                hint="See the daemon's log. To run without plugins: nexusd --no-plugins",
                details={"reason": reason},
            )
        path = next((plugin.path for plugin in self._current.plugins if plugin.name == name), None)
        what = f"Fix or remove {path}" if path else "Fix or remove it"
        return PluginFailed(
            f'{cannot}: plugin "{name}" failed: {reason}',
            hint=f"{what}, then: nexusctl plugin reload",
            details={"plugin": name, "reason": reason},
        )

    def _start_task(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        """Keep the process running, and make the pending calls one at a time."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            child = self._current.child
            if child is not None and child.ended.is_set():
                self._process_failed(child, ProcessFailed(None, "the process ended between two calls"))
            elif child is None and self._process_needed():
                delay_s = self._retry_at - loop.time()
                if delay_s <= 0:
                    await self._restart()
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay_s):
                        await self._wake.wait()
            elif self._pending:
                future, call = self._pending.popitem(last=False)
                await self._make_call(call, future, child)
            else:
                await self._wake.wait()

    def _process_needed(self) -> bool:
        """Whether a process must run: a plugin is loaded, or the first load has not ended."""
        loaded = any(plugin.state is PluginState.LOADED for plugin in self._current.plugins)
        return loaded or not self._load_done

    async def _make_call(self, call: _PendingCall, future: _ReplyFuture, child: Child | None) -> None:
        if future.done():  # the request was cancelled
            return
        if child is None or not self._current.has(call.hook, call.extra):
            future.set_result(None)
            return
        self._calling = child
        try:
            reply = await child.call(call.message, self._settings.timeout_ms)
        except ProcessFailed as failure:
            self._process_failed(child, failure)
            if not future.done():  # the request may be cancelled
                future.set_exception(failure)
            return
        except BaseException:
            future.cancel()
            raise
        finally:
            self._calling = None
            if child is not self._current.child:  # a reload has replaced the process meanwhile
                self._end(child)
        if not future.done():
            future.set_result(reply)
        if isinstance(reply, Failed):
            _log.warning('plugin "%s" failed: %s', reply.plugin, reply.reason)
            if reply.unusable:
                self._process_failed(child, ProcessFailed(reply.plugin, reply.reason))

    def _fail_pending(self, reason: str) -> None:
        for future in self._pending:
            if not future.done():
                future.set_exception(ProcessFailed(None, reason))
        self._pending.clear()

    def _process_failed(self, child: Child, failure: ProcessFailed) -> None:
        """Kill a process that can no longer be used, and schedule the next one if it is the current one."""
        self._end(child)
        subject = f'plugin "{failure.plugin}"' if failure.plugin else "plugins"
        self._last_failure = f"{subject}: {failure.reason}"
        _log.warning("%s; restarting the plugins' process", self._last_failure)
        if child is not self._current.child:
            return
        loop = asyncio.get_running_loop()
        if loop.time() - child.started_at > _STABLE_AFTER_S:
            self._failures = 0
        self._current = self._current._replace(child=None)
        self._schedule_restart(loop.time())

    def _end(self, child: Child) -> None:
        child.kill()
        self._ending = {other for other in (*self._ending, child) if not other.ended.is_set()}

    def _schedule_restart(self, now: float) -> None:
        delay_s = (
            min(_MAX_RESTART_DELAY_S, _FIRST_RESTART_DELAY_S * 2 ** (self._failures - 1)) if self._failures else 0.0
        )
        self._retry_at = now + delay_s
        self._failures += 1

    # Loading

    async def _restart(self) -> None:
        async with self._loading:
            if self._current.child is not None:  # a reload has already replaced it
                return
            try:
                self._install(await self._load(self._found))
            except ProcessFailed as failure:
                self._problem = failure.reason
                _log.error("cannot start the plugins' process: %s", failure.reason)
                self._failures = max(self._failures, 1)
                self._schedule_restart(asyncio.get_running_loop().time())
                self._ready.set()
                self._fail_pending(failure.reason)

    async def _load(self, found: Found) -> _LoadedPlugins:
        """Start a process and load every plugin that can be loaded.

        When a plugin ends the process, a new one is started that does not load this plugin.

        Raises:
            ProcessFailed: the process does not start.
        """
        if not found.anything:
            return self._without_process(found)
        timeout_ms = self._settings.timeout_ms
        broken: dict[str, str] = {}
        while True:
            child = self._spawn()
            load = Load(
                found.files,
                found.entry_points,
                broken,
                timeout_ms,
                timeout_ms * _LOAD_FACTOR,
                self._settings.memory_mib // _LUA_SHARE,
            )
            try:
                loaded = await child.load(load)
            except ProcessFailed as error:
                self._end(child)
                if error.plugin is None or error.plugin in broken:
                    raise
                broken[error.plugin] = error.reason
                continue
            except BaseException:
                self._end(child)
                raise
            loaded_plugins = _LoadedPlugins(child, loaded.plugins, found.problem)
            if all(plugin.state is PluginState.FAILED for plugin in loaded.plugins):
                self._end(child)
                loaded_plugins = loaded_plugins._replace(child=None)
            return loaded_plugins

    def _spawn(self) -> Child:
        try:
            return Child(self._settings.memory_mib, self._wake.set)
        except OSError as error:
            raise ProcessFailed(None, error.strerror or str(error)) from None

    def _without_process(self, found: Found | None = None) -> _LoadedPlugins:
        found = found or self._found
        refused = [
            Plugin(source.name, source.kind, PluginState.FAILED, [], [], source.path, source.problem)
            for source in found.files
        ]
        return _LoadedPlugins(None, refused, found.problem)

    def _install(self, loaded_plugins: _LoadedPlugins) -> None:
        """Make these plugins the ones that are called, and kill the process of the previous ones."""
        old, self._current = self._current.child, loaded_plugins
        if old is not None and old is not self._calling:
            self._end(old)
        for plugin in loaded_plugins.plugins:
            if plugin.state is PluginState.FAILED:
                _log.error('plugin "%s" was not loaded: %s', plugin.name, plugin.reason)
        loaded = [plugin.name for plugin in loaded_plugins.plugins if plugin.state is PluginState.LOADED]
        if loaded:
            _log.info("plugins: %s", ", ".join(loaded))
            self._start_task()
        self._load_done = True
        self._problem = None
        self._set_pre_command(self.pre_command if loaded_plugins.has("pre_command") else None)
        self._ready.set()
        self._wake.set()


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown_fields(struct: msgspec.Struct) -> dict[str, Any]:
    """Return the fields of a command that are set, as plain values; of a secret field, at most the keys are shown."""
    secret = secret_fields(type(struct))
    fields = {}
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if value is not None:
            fields[name] = _hidden(value) if name in secret else _plain(value)
    return fields


def _hidden(value: Any) -> Any:
    if isinstance(value, dict):
        return dict.fromkeys(value, HIDDEN)
    return HIDDEN


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return shown_fields(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value.value if isinstance(value, Enum) else value
