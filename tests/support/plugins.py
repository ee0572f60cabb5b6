"""Folders of plugins, and a ``PluginHost`` without a daemon."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from nexus_protocol import Command

from nexus.caller import Caller
from nexus.capability import PreCommand
from nexus.config import PluginSettings
from nexus.plugins.commands import Plugin
from nexus.plugins.host import PluginHost
from support.raw import wait_until

__all__ = ["EXAMPLES", "PluginFolder", "TestHost", "alive", "hosting", "wait_for_end"]

EXAMPLES = Path(__file__).resolve().parents[1] / "plugins" / "examples"

_HEAD = "from nexus.plugins.api import Veto, hookimpl\nNEXUS_PLUGIN_API = 1\n"


class PluginFolder:
    """A folder of plugins that only its owner can write to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, mode=0o700, exist_ok=True)

    def add(self, file: str, text: str) -> Path:
        """Write a file with this content."""
        path = self.path / file
        path.write_text(text)
        path.chmod(0o600)
        return path

    def example(self, file: str) -> Path:
        """Copy one of the examples."""
        return self.add(file, (EXAMPLES / file).read_text())

    def python(self, name: str, body: str) -> Path:
        """Write a plugin in Python; the imports and the API version are added."""
        return self.add(f"{name}.py", _HEAD + textwrap.dedent(body))

    def lua(self, name: str, body: str) -> Path:
        """Write a plugin in Lua; the API version is added."""
        return self.add(f"{name}.lua", "nexus.api = 1\n" + textwrap.dedent(body))


class TestHost:
    """A ``PluginHost`` with shorthands for tests."""

    __test__ = False

    def __init__(self, host: PluginHost) -> None:
        self.host = host
        self.pre_command_hook: PreCommand | None = None

    async def plugins(self) -> dict[str, Plugin]:
        """Return the plugins by name."""
        return {plugin.name: plugin for plugin in (await self.host.listing()).plugins}

    async def pid(self) -> int:
        """Return the pid of the plugins' process."""
        pid = (await self.host.listing()).pid
        assert pid is not None
        return pid

    async def before(self, command: Command[Any], actor: str | None = None) -> None:
        """Call the plugins before a command."""
        await self.host.pre_command(command.info, command, Caller(1000, 77, actor))

    async def extra(self, name: str, body: Any = None) -> Any:
        """Call the plugin that claims ``name``; returns its decoded value."""
        return msgspec.msgpack.decode(await self.host.extra(name, body))

    async def start(self, environment: dict[str, str] | None = None, **fields: Any) -> dict[str, str]:
        """Call the plugins before a start of the service web."""
        return await self.host.pre_start("web", fields, environment or {})


@contextlib.asynccontextmanager
async def hosting(
    folder: PluginFolder | Path, *, timeout_ms: int = 5000, memory_mib: int = 256, enabled: bool = True
) -> AsyncIterator[TestHost]:
    """Run a host for the plugins in a folder; it is closed at the end."""
    settings = PluginSettings(enabled, None, timeout_ms, memory_mib)
    directory = folder.path if isinstance(folder, PluginFolder) else folder
    host = PluginHost(settings, str(directory), lambda hook: setattr(test, "pre_command_hook", hook))
    test = TestHost(host)
    await host.start()
    try:
        yield test
    finally:
        await host.close()


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not count."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


def wait_for_end(pid: int) -> None:
    """Wait until a process has ended."""
    wait_until(lambda: not alive(pid), f"the end of process {pid}")
