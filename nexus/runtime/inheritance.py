"""What children inherit from the session that the daemon was started in: umask, limit of open files, environment.

It is noted when this module is imported, before the daemon changes its own. It knows no kind of child.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping

__all__ = ["DESCRIPTORS", "UMASK", "inherited_environment"]

_SERVICE_MANAGER = frozenset(
    {
        "CACHE_DIRECTORY",
        "CONFIGURATION_DIRECTORY",
        "CREDENTIALS_DIRECTORY",
        "FDSTORE",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "LOGS_DIRECTORY",
        "MAINPID",
        "NOTIFY_SOCKET",
        "RUNTIME_DIRECTORY",
        "STATE_DIRECTORY",
        "SYSTEMD_EXEC_PID",
    }
)
_SHELL = frozenset({"OLDPWD", "PWD", "SHLVL", "_"})
_PREFIXES = ("LISTEN_", "MANAGERPID", "MEMORY_PRESSURE_", "WATCHDOG_")
"""Variables by which the service manager or a shell describes the daemon itself."""
_NEXUS = frozenset({"NEXUS_CONFIG_DIR", "NEXUS_SOCKET"})
"""With these, nexusctl inside a child finds this daemon. Other NEXUS_ variables are not inherited: one may be a token,
and those that an outer Nexus set for this daemon would be taken for variables of the child."""


def _umask() -> int:
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("Umask:"):
                    return int(line.split()[1], 8)
    except (OSError, ValueError):
        pass
    umask = os.umask(0o077)  # a kernel before 4.7: the umask can only be read by setting another one
    os.umask(umask)
    return umask


UMASK = _umask()
"""The umask that this process was started with."""
DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
"""The soft limit of open files that this process was started with; the daemon raises its own later."""


def inherited_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The part of the daemon's own environment that children inherit."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _SERVICE_MANAGER
        and name not in _SHELL
        and not name.startswith(_PREFIXES)
        and (not name.startswith("NEXUS_") or name in _NEXUS)
    }
