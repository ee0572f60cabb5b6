"""Ways to break the folder of a run from outside. Each takes the folder; none of them touches a process."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

__all__ = ["BREAKAGES", "break_run", "run_folders"]


def run_folders(processes: Path) -> list[Path]:
    """The folders of all runs below a runtime's directory, those of tunnels included, in a stable order."""
    return sorted(path.parent for path in processes.glob("*/*/control"))


def _clear(path: Path) -> None:
    """Remove whatever is at ``path``."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: _clear(folder / name)


def _fill_with(name: str, content: bytes) -> Callable[[Path], None]:
    """Overwrite a file in place: the shim, which has it open, goes on writing into the same file."""

    def overwrite(folder: Path) -> None:
        flags = os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK
        with open(os.open(folder / name, flags), "wb", buffering=0) as file:
            file.write(content)

    return overwrite


def _replace(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        _clear(folder / name)
        make(folder / name)

    return replace


def _take_status_of_another(folder: Path) -> None:
    """Give it the status of another run."""
    for other in run_folders(folder.parent.parent):
        if other != folder and stat.S_ISREG((other / "status").lstat().st_mode):
            _clear(folder / "status")
            (folder / "status").write_bytes((other / "status").read_bytes())
            return


def _become_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


def _cut(folder: Path) -> None:
    os.truncate(folder / "status", 100)


BREAKAGES: dict[str, Callable[[Path], None]] = {
    "status removed": _remove("status"),
    "status empty": _fill_with("status", b""),
    "status cut": _cut,
    "status of zeros": _fill_with("status", b"\0" * 512),
    "status garbled": _fill_with("status", b"run 2 " + b"x" * 506),
    "status without numbers": _fill_with("status", b"run 1 garbage".ljust(512)),
    "status of another run": _take_status_of_another,
    "status a directory": _replace("status", Path.mkdir),
    "status a FIFO": _replace("status", os.mkfifo),
    "status a link to itself": _replace("status", lambda path: path.symlink_to(path)),
    "status without an end": _replace("status", lambda path: path.symlink_to("/dev/zero")),
    "lock removed": _remove("lock"),
    "lock a directory": _replace("lock", Path.mkdir),
    "lock a FIFO": _replace("lock", os.mkfifo),
    "lock a link to itself": _replace("lock", lambda path: path.symlink_to(path)),
    "control removed": _remove("control"),
    "control a file": _replace("control", Path.touch),
    "control a directory": _replace("control", Path.mkdir),
    "control a link": _replace("control", lambda path: path.symlink_to("/dev/null")),
    "cgroup garbled": _replace("cgroup", lambda path: path.write_bytes(b"\xff\0" * 100)),
    "folder removed": shutil.rmtree,
    "folder a file": _become_a_file,
    "log removed": lambda folder: shutil.rmtree(folder.parent / "log", ignore_errors=True),
}
"""What can be broken, by its name."""


def break_run(folder: Path, name: str) -> None:
    """Break a run's folder; does nothing where another breakage, or the run's end, has removed what it changes."""
    with contextlib.suppress(OSError):
        BREAKAGES[name](folder)
