"""The one place that decides what the loopback is: the address of ours, and those on which a program may listen."""

from __future__ import annotations

__all__ = ["HOST", "HOSTS"]

HOST = "127.0.0.1"
"""Where tunnels listen, and the address in their target files, where it stands for all of ``HOSTS``."""
HOSTS = (HOST, "::1")
"""Where a program that listens "on localhost" may be reached; the first that answers counts."""
