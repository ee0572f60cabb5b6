"""Whether this user's systemd manager runs the daemon, and which command starts the daemon here."""

from __future__ import annotations

import os

__all__ = ["start_hint", "unit_directory", "unit_installed", "user_manager_runs"]


def user_manager_runs() -> bool:
    """Whether this user has a running systemd manager (sd_booted(3) tests for the system manager the same way)."""
    directory = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return os.path.exists(f"{directory}/systemd/private")


def unit_directory() -> str:
    """The directory of this user's own units."""
    config = os.environ.get("XDG_CONFIG_HOME", "")
    return (config if config.startswith("/") else os.path.expanduser("~/.config")) + "/systemd/user"


def unit_installed() -> bool:
    """Whether ``nexus.service`` is in a directory where the user manager looks for units."""
    directories = (unit_directory(), "/etc/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user")
    return any(os.path.exists(f"{directory}/nexus.service") for directory in directories)


def start_hint() -> str:
    """The command that starts the daemon on this machine."""
    if user_manager_runs() and unit_installed():
        return "systemctl --user start nexus.service"
    return "nexusctl daemon start"
