"""Facts about processes and the kernel that other layers read from ``/proc``.

It imports nothing of the project, and no asyncio: nexusctl uses it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "has_open",
    "has_socket",
    "overflow_uid",
    "process_exists",
    "resident_bytes",
    "socket_is_listening",
    "working_directories",
]

_SO_ACCEPTCON = 0x10000
"""Flag of a listening socket in /proc/net/unix (include/linux/net.h)."""
_DEFAULT_OVERFLOW_UID = 65534


def process_exists(pid: int) -> bool:
    """Whether there is a process, or a zombie, with this id."""
    return Path(f"/proc/{pid}").exists()


def resident_bytes() -> int:
    """The resident memory of this process."""
    resident = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(resident) * os.sysconf("SC_PAGE_SIZE")


def overflow_uid() -> int:
    """The uid that stands for every user without a mapping in this user namespace; it proves no identity."""
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return _DEFAULT_OVERFLOW_UID


def has_open(pid: int, status: os.stat_result) -> bool:
    """Whether a process has this file open; False where its descriptors cannot be read."""
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(descriptor.stat(), status):
                    return True
    return False


def has_socket(pid: int, path: Path) -> bool:
    """Whether a process has a socket that was bound to ``path``; the kernel lists it after its file is gone."""
    try:
        lines = Path(f"/proc/{pid}/net/unix").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        fields = [line.split(None, 7) for line in lines]
        bound = {f"socket:[{field[6]}]" for field in fields if len(field) == 8 and field[7] == str(path)}
        return any(str(entry.readlink()) in bound for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def socket_is_listening(path: Path) -> bool:
    """Whether a process of this network namespace listens on the Unix socket that was bound to ``path``."""
    name = os.fspath(path)
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as table:
            for line in table:
                fields = line.rstrip("\n").split(" ", 7)
                if len(fields) == 8 and fields[7] == name and int(fields[3], 16) & _SO_ACCEPTCON:
                    return True
    except (OSError, ValueError):
        pass
    return False


def working_directories(command: str) -> Iterator[Path]:
    """The working directories of all processes whose command name (``comm``, proc(5)) starts with ``command``."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if not (folder / "comm").read_bytes().startswith(command.encode()):
                continue
            directory = (folder / "cwd").readlink()
        except OSError:  # it has ended, or is another user's
            continue
        yield directory
