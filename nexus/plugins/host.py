"""The daemon's side of plugins: whether there are any, the one process that they run in, and what they are asked.

Questions are put one after the other, by a task of its own: who asks may be cancelled or run out of time without any
harm to the next. The process is ended and started again when it dies, hangs or eats its memory. Without plugins there
is no process and no task.
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

from nexus.capability import Caller, PreCommand
from nexus.config import PluginSettings
from nexus.plugins.child import Broken, Child
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
"""What plugins see of a secret."""

_LOAD_FACTOR = 10
"""How much longer a plugin may take to load than to answer."""
_LUA_SHARE = 4
"""Of the memory a Lua plugin may take this part."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_CALM_S = 60.0
"""After so long the process counts as one that works: the next one follows at once again."""


class _Generation(NamedTuple):
    """What one look at the plugins has given."""

    child: Child | None
    plugins: list[Plugin]
    problem: str | None

    def has(self, hook: str, extra: str | None = None) -> bool:
        """Whether any plugin has this hook, and claims this name, where there is one."""
        return any(
            hook in plugin.hooks and (extra is None or extra in plugin.extras)
            for plugin in self.plugins
            if plugin.state is PluginState.LOADED
        )


class _Waiting(NamedTuple):
    """A question that waits for its turn."""

    hook: str
    extra: str | None
    message: bytes


_Answer = asyncio.Future[Result | Vetoed | Failed | None]


class PluginHost:
    """``nexus.capability.Manager`` of the plugins, and ``nexus.capability.Hooks``.

    ``gate`` is called with ``pre_command`` when there are plugins to be asked before commands, and with None when not.
    """

    def __init__(self, settings: PluginSettings, directory: str, gate: Callable[[PreCommand | None], None]) -> None:
        self._settings = settings
        self._directory = directory
        self._gate = gate
        self._generation = _Generation(None, [], None)
        self._known = True
        """Whether the generation is what a load has given; while not, nothing passes unasked."""
        self._problem: str | None = None
        """Why the process does not start."""
        self._found = Found([], None, False)
        self._ready = asyncio.Event()
        self._wake = asyncio.Event()
        self._loading = asyncio.Lock()
        self._calls: collections.OrderedDict[_Answer, _Waiting] = collections.OrderedDict()
        """By their answers, the next one first; one that nobody waits for any more is taken out."""
        self._busy: Child | None = None
        self._ending: set[Child] = set()
        """What was killed, and may still be there."""
        self._worker: asyncio.Task[None] | None = None
        self._failures = 0
        self._retry_at = 0.0
        self._last = ""
        """Who ended the process last, and how."""

    # nexus.capability.Manager

    async def start(self) -> None:
        """Look for plugins; what there is is loaded while the daemon serves already."""
        if self._settings.enabled:
            self._found = find(self._directory)
        if self._found.problem:
            _log.warning("%s", self._found.problem)
        if self._found.anything:
            self._known = False
            self._gate(self.pre_command)
            self._work()
        else:
            self._adopt(self._without_process())

    async def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        self._give_up("the daemon is stopping")
        if self._generation.child is not None:
            self._end(self._generation.child)
        await asyncio.gather(*(child.gone() for child in self._ending))

    def children(self) -> int:
        """None that would keep a daemon from being idle."""
        return 0

    # What the daemon asks

    async def pre_command(self, info: CommandInfo, command: Command[Any], caller: Caller) -> None:
        """Call whether a command may be carried out.

        Raises:
            PluginVetoed: it may not.
            PluginFailed: one of the plugins failed.
        """
        arguments = {"command": info.name, "fields": shown_fields(command), "origin": caller._asdict()}
        await self._ask("pre_command", arguments, f"cannot carry out {info.name}")

    async def pre_start(self, service: str, fields: dict[str, Any], environment: dict[str, str]) -> dict[str, str]:
        """The environment that a service is to be started with.

        ``fields`` is what it is started with beside that, without what is secret. A variable that is not UTF-8 is not
        shown to plugins, and stays.

        Raises:
            PluginVetoed: it may not be started.
            PluginFailed: one of the plugins failed.
        """
        shown = {name: value for name, value in environment.items() if _is_utf8(name) and _is_utf8(value)}
        arguments = {"service": service, "command": fields, "environment": shown}
        given = await self._ask("pre_start_command", arguments, f'cannot start service "{service}"')
        changed = dict(environment)
        changes = msgspec.msgpack.decode(given.value, type=dict[str, str | None]) if given is not None else {}
        for name, value in changes.items():
            if value is None:
                changed.pop(name, None)
            else:
                changed[name] = value
        return changed

    async def extra(self, name: str, body: Any) -> msgspec.Raw:
        """What the plugin that claims ``name`` answers, encoded.

        Raises:
            ExtraNotClaimed: there is none.
            PluginVetoed: it does not want to.
            PluginFailed: it failed.
        """
        given = await self._ask("extra", {"name": name, "body": body}, f"cannot carry out {name}")
        if given is None:
            raise ExtraNotClaimed(
                f"cannot carry out {name}: no plugin claims it",
                hint="See what there is: nexusctl plugin list -o wide",
            )
        return given.value

    async def listing(self) -> PluginList:
        """The plugins as they were loaded last; waits for the first load."""
        await self._ready.wait()
        child = self._generation.child
        return PluginList(
            enabled=self._settings.enabled,
            directory=self._directory,
            plugins=self._generation.plugins,
            problem=self._problem or self._generation.problem,
            pid=child.pid if child is not None and not child.ended.is_set() else None,
        )

    async def reload(self) -> PluginList:
        """Load the plugins again; the process so far is asked until the new one has loaded.

        Raises:
            PluginsDisabled: this daemon does without.
            PluginFailed: no process could be started; the one so far stays.
        """
        if not self._settings.enabled:
            raise PluginsDisabled(
                "cannot reload plugins: this daemon was started without them",
                hint="Start it without --no-plugins, and with [plugins] enabled = true in config.toml.",
            )
        async with self._loading:
            found = await asyncio.to_thread(find, self._directory)
            try:
                generation = await self._load(found)
            except Broken as broken:
                raise self._failed("cannot reload plugins", broken.plugin, broken.reason) from None
            self._found = found
            self._failures = 0
            self._adopt(generation)
        return await self.listing()

    # Asking

    async def _ask(self, hook: str, arguments: dict[str, Any], cannot: str) -> Result | None:
        """The plugins' answer; None where none of them has to be asked."""
        loop = asyncio.get_running_loop()
        if not self._ready.is_set():
            await self._ready.wait()
        extra = arguments["name"] if hook == "extra" else None
        if self._known and not self._generation.has(hook, extra):
            return None
        pause_s = self._retry_at - loop.time()
        if self._generation.child is None and pause_s > self._settings.timeout_ms / 1000:
            raise self._failed(cannot, None, self._problem or f"their process has to be restarted often: {self._last}")
        if self._worker is None or self._worker.done():
            raise self._failed(cannot, None, "the daemon is stopping")
        waiting: _Answer = loop.create_future()
        self._calls[waiting] = _Waiting(hook, extra, framed(Call(hook, arguments)))
        self._wake.set()
        try:
            answer = await waiting
        except Broken as broken:
            raise self._failed(cannot, broken.plugin, broken.reason) from None
        finally:
            self._calls.pop(waiting, None)
        if isinstance(answer, Vetoed):
            raise PluginVetoed(
                f'{cannot}: plugin "{answer.plugin}" vetoed it: {answer.reason}',
                hint="Do as it says, or see whose it is: nexusctl plugin list",
                details={"plugin": answer.plugin, "reason": answer.reason},
            )
        if isinstance(answer, Failed):
            raise self._failed(cannot, answer.plugin, answer.reason)
        return answer

    def _failed(self, cannot: str, name: str | None, reason: str) -> PluginFailed:
        if name is None:
            return PluginFailed(
                f"{cannot}: the plugins cannot be asked: {reason}",
                hint="Look at the daemon's log. To do without plugins: nexusd --no-plugins",
                details={"reason": reason},
            )
        path = next((plugin.path for plugin in self._generation.plugins if plugin.name == name), None)
        what = f"Mend or remove {path}" if path else "Mend or remove it"
        return PluginFailed(
            f'{cannot}: plugin "{name}" failed: {reason}',
            hint=f"{what}, then: nexusctl plugin reload",
            details={"plugin": name, "reason": reason},
        )

    def _work(self) -> None:
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        """Keep the process running, and put the questions to it."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            child = self._generation.child
            if child is not None and child.ended.is_set():
                self._break(child, Broken(None, "the process ended while nobody asked it anything"))
            elif child is None and self._wanted():
                pause_s = self._retry_at - loop.time()
                if pause_s <= 0:
                    await self._restart()
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._wake.wait()
            elif self._calls:
                answer, call = self._calls.popitem(last=False)
                await self._carry_out(call, answer, child)
            else:
                await self._wake.wait()

    def _wanted(self) -> bool:
        """Whether there should be a process."""
        loaded = any(plugin.state is PluginState.LOADED for plugin in self._generation.plugins)
        return loaded or not self._known

    async def _carry_out(self, call: _Waiting, waiting: _Answer, child: Child | None) -> None:
        if waiting.done():  # whoever asked has just gone
            return
        if child is None or not self._generation.has(call.hook, call.extra):
            waiting.set_result(None)
            return
        self._busy = child
        try:
            answer = await child.ask(call.message, self._settings.timeout_ms)
        except Broken as broken:
            self._break(child, broken)
            if not waiting.done():  # whoever asked may be gone
                waiting.set_exception(broken)
            return
        except BaseException:
            waiting.cancel()
            raise
        finally:
            self._busy = None
            if child is not self._generation.child:  # others have taken over meanwhile
                self._end(child)
        if not waiting.done():
            waiting.set_result(answer)
        if isinstance(answer, Failed):
            _log.warning('plugin "%s" failed: %s', answer.plugin, answer.reason)
            if answer.unusable:
                self._break(child, Broken(answer.plugin, answer.reason))

    def _give_up(self, reason: str) -> None:
        for waiting in self._calls:
            if not waiting.done():
                waiting.set_exception(Broken(None, reason))
        self._calls.clear()

    def _break(self, child: Child, broken: Broken) -> None:
        """A process is of no use any more."""
        self._end(child)
        who = f'plugin "{broken.plugin}"' if broken.plugin else "plugins"
        self._last = f"{who}: {broken.reason}"
        _log.warning("%s; the plugins' process is started again", self._last)
        if child is not self._generation.child:
            return
        loop = asyncio.get_running_loop()
        if loop.time() - child.started_at > _CALM_S:
            self._failures = 0
        self._generation = self._generation._replace(child=None)
        self._pause(loop.time())

    def _end(self, child: Child) -> None:
        child.kill()
        self._ending = {other for other in (*self._ending, child) if not other.ended.is_set()}

    def _pause(self, now: float) -> None:
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self._failures - 1)) if self._failures else 0.0
        self._retry_at = now + pause_s
        self._failures += 1

    # Loading

    async def _restart(self) -> None:
        async with self._loading:
            if self._generation.child is not None:  # a reload was quicker
                return
            try:
                self._adopt(await self._load(self._found))
            except Broken as broken:
                self._problem = broken.reason
                _log.error("the plugins' process cannot be started: %s", broken.reason)
                self._failures = max(self._failures, 1)
                self._pause(asyncio.get_running_loop().time())
                self._ready.set()
                self._give_up(broken.reason)

    async def _load(self, found: Found) -> _Generation:
        """Start a process with everything that can be loaded.

        Raises:
            Broken: it does not even start.
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
            except Broken as error:
                self._end(child)
                if error.plugin is None or error.plugin in broken:
                    raise
                broken[error.plugin] = error.reason
                continue
            except BaseException:
                self._end(child)
                raise
            generation = _Generation(child, loaded.plugins, found.problem)
            if all(plugin.state is PluginState.FAILED for plugin in loaded.plugins):
                self._end(child)
                generation = generation._replace(child=None)
            return generation

    def _spawn(self) -> Child:
        try:
            return Child(self._settings.memory_mib, self._wake.set)
        except OSError as error:
            raise Broken(None, error.strerror or str(error)) from None

    def _without_process(self, found: Found | None = None) -> _Generation:
        found = found or self._found
        refused = [
            Plugin(source.name, source.kind, PluginState.FAILED, [], [], source.path, source.problem)
            for source in found.files
        ]
        return _Generation(None, refused, found.problem)

    def _adopt(self, generation: _Generation) -> None:
        """From now on it is these plugins that are asked."""
        old, self._generation = self._generation.child, generation
        if old is not None and old is not self._busy:
            self._end(old)
        for plugin in generation.plugins:
            if plugin.state is PluginState.FAILED:
                _log.error('plugin "%s" was not loaded: %s', plugin.name, plugin.reason)
        loaded = [plugin.name for plugin in generation.plugins if plugin.state is PluginState.LOADED]
        if loaded:
            _log.info("plugins: %s", ", ".join(loaded))
            self._work()
        self._known = True
        self._problem = None
        self._gate(self.pre_command if generation.has("pre_command") else None)
        self._ready.set()
        self._wake.set()


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown_fields(struct: msgspec.Struct) -> dict[str, Any]:
    """The fields of a command that are set, as plain values; of what is secret, names and lengths at most."""
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
