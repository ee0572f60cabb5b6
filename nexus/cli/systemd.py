"""Whether this user's systemd manager runs the daemon, and which command starts the daemon here."""

from __future__ import annotations

import os

from nexus.cli.output import address_given
from nexus.paths import PathError, runtime_directory, usual_runtime_directory

__all__ = [
    "manager_directory",
    "manager_environment",
    "start_hint",
    "unit_directory",
    "unit_installed",
    "user_manager_runs",
]


def manager_directory() -> str:
    """The runtime directory of this user's manager: ``XDG_RUNTIME_DIR`` if this user can use it, else the usual one.

    su, cron and an old terminal multiplexer leave the variable out, or leave that of another user or session.
    """
    try:
        return runtime_directory().path if os.environ.get("XDG_RUNTIME_DIR") else usual_runtime_directory()
    except PathError:
        return usual_runtime_directory()


def manager_environment() -> dict[str, str]:
    """The environment with which systemctl and journalctl reach the manager; without the variable they refuse."""
    return {**os.environ, "XDG_RUNTIME_DIR": manager_directory()}


def user_manager_runs() -> bool:
    """Whether this user has a running systemd manager (sd_booted(3) tests for the system manager the same way)."""
    return os.path.exists(f"{manager_directory()}/systemd/private")


def unit_directory() -> str:
    """The directory of this user's own units."""
    config = os.environ.get("XDG_CONFIG_HOME", "")
    return (config if config.startswith("/") else os.path.expanduser("~/.config")) + "/systemd/user"


def unit_installed() -> bool:
    """Whether ``nexus.service`` is in a directory where the user manager looks for units."""
    directories = (unit_directory(), "/etc/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user")
    return any(os.path.exists(f"{directory}/nexus.service") for directory in directories)


def start_hint() -> str:
    """The command that starts the daemon on this machine, at the address that this run has looked at."""
    reachable = os.environ.get("XDG_RUNTIME_DIR") == manager_directory()  # else a systemctl typed there would refuse
    socket = os.environ.get("NEXUS_SOCKET") or f"{manager_directory()}/nexus/nexus.sock"
    usual = not address_given() and socket == f"{manager_directory()}/nexus/nexus.sock"
    if reachable and usual and user_manager_runs() and unit_installed():
        return "systemctl --user start nexus.service"
    return "nexusctl daemon start"
