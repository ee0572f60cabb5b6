"""Daemons for tests of the context of a request: one that records contexts, and one that is older and knows none."""

from __future__ import annotations

import json
import sys
from typing import Any

from support.daemon import DaemonProcess

__all__ = ["OlderDaemon", "RecordingDaemon"]

_RECORDING = """
import json, msgspec, sys
from nexus.daemon.client_session import SessionContext

file, plain = open(sys.argv.pop(1), "a"), SessionContext.decode_with_context

def recorded(self, entry, payload):
    context, command = plain(self, entry, payload)
    recorded = [entry.info.name, context.key, context.why, msgspec.to_builtins(context.project)]
    print(json.dumps(recorded), file=file, flush=True)
    return context, command

SessionContext.decode_with_context = recorded
from nexus.daemon.main import main
main()
"""

_OLDER = """
from nexus.daemon import dispatch
from nexus_protocol.frame import FrameDecoder
from nexus.system import handlers

load = dispatch.load_capabilities

def load_older():
    loaded = load()
    for name in ("GetOperation", "ListOperations"):
        loaded.entries = {code: entry for code, entry in loaded.entries.items() if entry.info.name != name}
    return loaded

dispatch.load_capabilities = load_older
FrameDecoder._limit_with_flags = lambda self, command, flags: -1
handlers._FEATURES.clear()
from nexus.daemon.main import main
main()
"""


class RecordingDaemon(DaemonProcess):
    """A daemon that writes down the context of each request that has one."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", _RECORDING, str(self._contexts), *self.arguments]

    @property
    def _contexts(self) -> Any:
        return self.root / "contexts"

    def take(self) -> list[tuple[str, str | None, str | None]]:
        """The command, the key and the why of the requests with a context since the last call."""
        return [(command, key, why) for command, key, why, _project in self.take_with_projects()]

    def take_with_projects(self) -> list[tuple[str, str | None, str | None, Any]]:
        """``take``, with the project as plain values."""
        lines = self._contexts.read_text().splitlines()
        self._contexts.write_text("")
        return [tuple(json.loads(line)) for line in lines]


class OlderDaemon(DaemonProcess):
    """Stands for a daemon of before: it closes the connection at a flag, lists no features, and knows no operations."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", _OLDER, *self.arguments]
